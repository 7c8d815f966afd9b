//! Reads requests from a connection: the head with `httparse`, the body by its framing.

use std::io;

use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::wire::body::Body;
use crate::wire::head::Framing;

const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;
const MAX_FIELDS: usize = 100;
const READ_BYTES: usize = 16 * 1024;

/// What a request asks for.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) is_http10: bool,
    pub(super) keep_alive: bool,
    pub(super) last_event_id: Option<u64>,
    pub(super) body: Vec<u8>,
}

/// Why there is no further request.
#[derive(Debug, Error)]
pub(super) enum RequestError {
    #[error("malformed request")]
    Malformed,
    #[error("request head with more than {MAX_FIELDS} fields")]
    TooManyFields,
    #[error("request head longer than {MAX_HEAD_BYTES} bytes")]
    HeadTooLong,
    #[error("request body longer than {MAX_BODY_BYTES} bytes")]
    BodyTooLong,
    #[error("connection lost")]
    Io(#[from] io::Error),
}

struct Head {
    request: Request,
    framing: Framing,
    expects_continue: bool,
    bytes: usize,
}

/// Reads the next request; `None` when the peer has closed between two. Bytes beyond it stay in `buffer`.
pub(super) async fn read(io: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<Request>, RequestError> {
    let head = loop {
        if let Some(head) = parse(buffer)? {
            break head;
        }
        if buffer.len() >= MAX_HEAD_BYTES {
            return Err(RequestError::HeadTooLong);
        }
        buffer.reserve(READ_BYTES);
        if io.read_buf(buffer).await? == 0 {
            return if buffer.is_empty() { Ok(None) } else { Err(RequestError::Malformed) };
        }
    };
    buffer.drain(..head.bytes);
    if head.expects_continue {
        io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let mut request = head.request;
    let mut body = Body::new(head.framing);
    loop {
        let used =
            body.feed(buffer, |bytes| request.body.extend_from_slice(bytes)).map_err(|_| RequestError::Malformed)?;
        buffer.drain(..used);
        if body.is_done() {
            return Ok(Some(request));
        }
        if request.body.len() > MAX_BODY_BYTES {
            return Err(RequestError::BodyTooLong);
        }
        buffer.reserve(READ_BYTES);
        if io.read_buf(buffer).await? == 0 {
            return Err(RequestError::Malformed);
        }
    }
}

impl RequestError {
    /// The status to answer with; none when the connection is lost.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Malformed => Some(400),
            Self::TooManyFields | Self::HeadTooLong => Some(431),
            Self::BodyTooLong => Some(413),
            Self::Io(_) => None,
        }
    }
}

fn read_error(error: httparse::Error) -> RequestError {
    match error {
        httparse::Error::TooManyHeaders => RequestError::TooManyFields,
        _ => RequestError::Malformed,
    }
}

/// Of a target in origin form, or in absolute form, which a server must accept as well (RFC 9112 §3.2).
fn path_and_query(target: &str) -> (&str, &str) {
    let authority = ["http://", "https://"].iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    });
    let relative =
        authority.map_or(target, |authority| &authority[authority.find(['/', '?']).unwrap_or(authority.len())..]);
    let (path, query) = relative.split_once('?').unwrap_or((relative, ""));
    (if path.is_empty() { "/" } else { path }, query)
}

fn parse(buffer: &[u8]) -> Result<Option<Head>, RequestError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(bytes) = parsed.parse(buffer).map_err(read_error)? else {
        return Ok(None);
    };
    let is_http10 = parsed.version == Some(0);
    let target = parsed.path.ok_or(RequestError::Malformed)?;
    let (path, query) = path_and_query(target);
    let value = |name: &str| {
        let header = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok().map(str::trim)
    };
    let connection = value("connection").unwrap_or_default().to_ascii_lowercase();
    let framing = match (value("transfer-encoding"), value("content-length")) {
        (Some(coding), _) if coding.eq_ignore_ascii_case("chunked") => Framing::Chunked,
        (Some(_), _) => return Err(RequestError::Malformed),
        (None, Some(length)) => Framing::Length(length.parse().map_err(|_| RequestError::Malformed)?),
        (None, None) => Framing::Length(0),
    };
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        is_http10,
        keep_alive: if is_http10 { connection.contains("keep-alive") } else { !connection.contains("close") },
        last_event_id: value("last-event-id").and_then(|id| id.parse().ok()),
        body: Vec::new(),
    };
    let expects_continue = value("expect").is_some_and(|expect| expect.eq_ignore_ascii_case("100-continue"));
    Ok(Some(Head { request, framing, expects_continue, bytes }))
}
