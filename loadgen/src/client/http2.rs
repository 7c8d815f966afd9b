//! Streams over HTTP/2: a connection that several of them share, and one of its streams.

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::{Error, RecvStream};
use http::{HeaderName, StatusCode, header};
use thiserror::Error as ThisError;
use tokio::sync::OnceCell;

use super::connect::Route;
use super::end::EndReason;
use super::io::Io;
use super::shared::Shared;
use crate::clock::unix_us;
use crate::sse::parser::Parser;
use crate::wire::head::{content_coding, names_event_stream};
use crate::wire::request::Request as PlainRequest;

/// What Chrome announces, for a stream and for all of a connection's. What has come is read at once, so that neither is ever
/// used up, and window updates are few.
const STREAM_WINDOW_BYTES: u32 = 6 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 15 << 20;
/// A response head may be this long, as HTTP/2 counts it (RFC 9113 §6.5.2).
const MAX_HEAD_BYTES: usize = 256 << 10;
/// What the library accepts: more, so that a head over the limit can be told from a broken one.
const MAX_HEADER_LIST_BYTES: u32 = 1 << 20;

/// Fields about a connection, which HTTP/2 has no place for (RFC 9113 §8.2.2), and those that become pseudo-fields.
const NOT_SENT: [&str; 6] = ["connection", "host", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// A request that HTTP/2 cannot carry.
#[derive(Debug, ThisError)]
#[error("cannot send the request over HTTP/2")]
pub struct RequestError(#[from] http::Error);

/// A request in the form of HTTP/2.
#[derive(Debug, Clone)]
pub struct Request {
    head: http::Request<()>,
    body: Bytes,
}

/// A connection, opened by the first stream that needs it.
#[derive(Debug, Default)]
pub struct Connection {
    opened: OnceCell<Result<Opened, EndReason>>,
}

#[derive(Debug)]
struct Opened {
    send: SendRequest<Bytes>,
    /// How many streams the server allows at once.
    allowed: usize,
}

/// A response whose head has come.
pub(super) struct Response {
    body: RecvStream,
    parser: Parser,
    /// Knows why the connection was lost, which the stream does not.
    connection: SendRequest<Bytes>,
    /// When the request had been handed on, Unix µs.
    pub(super) request_sent_us: u64,
}

impl Request {
    /// Puts `asked` into the form of HTTP/2; `scheme` is that of the URL.
    ///
    /// # Errors
    /// When a field or the URL has a form that HTTP/2 does not allow.
    pub fn new(asked: &PlainRequest, scheme: &str) -> Result<Self, RequestError> {
        let authority = asked.header("host").unwrap_or_default();
        let uri = http::Uri::builder().scheme(scheme).authority(authority).path_and_query(asked.path.as_str());
        let mut head = http::Request::builder().method(asked.method.as_str()).uri(uri.build()?);
        for (name, value) in &asked.headers {
            let name: HeaderName = name.parse().map_err(http::Error::from)?;
            if !NOT_SENT.contains(&name.as_str()) {
                head = head.header(name, value);
            }
        }
        Ok(Self { head: head.body(())?, body: Bytes::copy_from_slice(&asked.body) })
    }
}

impl Connection {
    /// Opens it unless that has been done, and begins its stream number `position` (from 0).
    pub(super) async fn begin(
        &self,
        position: u64,
        route: &Route<'_>,
        shared: &RefCell<Shared>,
    ) -> Result<SendRequest<Bytes>, EndReason> {
        let opened = self.opened.get_or_init(|| route.establish(shared, Opened::run)).await;
        let Opened { send, allowed } = opened.as_ref().map_err(|reason| *reason)?;
        // One more would wait inside the library until another stream ends, and be taken for a slow server.
        if position >= *allowed as u64 {
            return Err(EndReason::StreamLimit(*allowed));
        }
        Ok(send.clone())
    }
}

impl Opened {
    /// Leaves the connection to a task of its own, which ends with the last of the streams.
    async fn run(io: Io) -> Result<Self, EndReason> {
        let (send, connection) = shake_hands(io).await?;
        let allowed = connection.max_concurrent_send_streams();
        // Its streams see how it ends.
        tokio::task::spawn_local(connection);
        Ok(Self { send, allowed })
    }
}

/// Exchanges settings with the server.
async fn shake_hands(io: Io) -> Result<(SendRequest<Bytes>, client::Connection<Io, Bytes>), EndReason> {
    let is_chosen = matches!(io, Io::Tls(_));
    let before_settings = |error: &Error| before_settings(error, is_chosen);
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        // None until the server's settings arrive: that is how their arrival shows.
        .initial_max_send_streams(0);
    let (send, mut connection) = builder.handshake(io).await.map_err(|error| before_settings(&error))?;
    poll_fn(|context| match Pin::new(&mut connection).poll(context) {
        Poll::Ready(Ok(())) => Poll::Ready(Err(EndReason::NoHttp2)),
        Poll::Ready(Err(error)) => Poll::Ready(Err(before_settings(&error))),
        Poll::Pending if connection.max_concurrent_send_streams() > 0 => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await?;
    Ok((send, connection))
}

/// The status of the answer to a single request.
///
/// # Errors
/// Why there is no answer.
pub async fn status(io: Io, request: &Request) -> Result<u16, EndReason> {
    let (mut send, mut connection) = shake_hands(io).await?;
    let begun = send.send_request(request.head.clone(), true);
    let (response, _) = begun.map_err(|error| reason_of(&error, &mut send))?;
    tokio::select! {
        response = response => match response {
            Ok(response) => Ok(response.status().as_u16()),
            Err(error) => Err(reason_of(&error, &mut send)),
        },
        _ = &mut connection => Err(EndReason::Truncated),
    }
}

/// Sends the request of a stream that was due at `due_us`, and waits for the final head.
pub(super) async fn exchange(
    mut connection: SendRequest<Bytes>,
    request: &Request,
    due_us: u64,
    shared: &RefCell<Shared>,
) -> Result<Response, EndReason> {
    let has_body = !request.body.is_empty();
    let request_sent_us = unix_us();
    let begun = connection.send_request(request.head.clone(), !has_body);
    let (response, mut upload) = begun.map_err(|error| reason_of(&error, &mut connection))?;
    if has_body {
        // Fails when the server wants no more of it: then the response, or the end of the connection, is the reason.
        let _ = upload.send_data(request.body.clone(), true);
    }
    let response = response.await.map_err(|error| reason_of(&error, &mut connection))?;
    shared.borrow_mut().record.first_byte(due_us, Some(request_sent_us), unix_us());
    let head_bytes: usize = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    if head_bytes > MAX_HEAD_BYTES {
        return Err(EndReason::HeadTooLong(MAX_HEAD_BYTES));
    }
    if response.status() != StatusCode::OK {
        return Err(EndReason::Status(response.status().as_u16()));
    }
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !content_type.is_some_and(names_event_stream) {
        return Err(EndReason::NotEventStream);
    }
    let codings = response.headers().get_all(header::CONTENT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    if let Some(coding) = content_coding(codings) {
        return Err(EndReason::ContentCoding(coding));
    }
    Ok(Response { body: response.into_body(), parser: Parser::default(), connection, request_sent_us })
}

impl Response {
    pub(super) async fn read_to_end(&mut self, slot: usize, shared: &RefCell<Shared>) -> EndReason {
        while let Some(read) = poll_fn(|context| self.body.poll_data(context)).await {
            let content = match read {
                Ok(content) => content,
                Err(error) => return reason_of(&error, &mut self.connection),
            };
            shared.borrow_mut().take(slot, &mut self.parser, &content);
            // Fails when the stream is over, which the next read reports.
            let _ = self.body.flow_control().release_capacity(content.len());
        }
        if self.parser.in_record() { EndReason::EndInsideRecord } else { EndReason::CleanEnd }
    }
}

/// Why a connection failed before the server had shown that it speaks HTTP/2; `is_chosen` when it has said so by ALPN.
fn before_settings(error: &Error, is_chosen: bool) -> EndReason {
    match error.get_io().map(EndReason::from_read) {
        // What speaks HTTP/1.1 only answers 400 and closes, or resets, since it has not read all of what was sent.
        Some(EndReason::Reset | EndReason::Truncated) if !is_chosen => EndReason::NoHttp2,
        Some(reason) => reason,
        // What came was no frame, or nothing came.
        _ if !error.is_remote() => EndReason::NoHttp2,
        _ => error.reason().map_or(EndReason::NoHttp2, EndReason::GoAway),
    }
}

/// Why a stream failed. A stream that ends with its connection does not know the connection's reason.
fn reason_of(error: &Error, connection: &mut SendRequest<Bytes>) -> EndReason {
    match (error.reason(), error.get_io()) {
        (Some(code), _) if error.is_remote() && error.is_reset() => EndReason::RstStream(code),
        (Some(code), _) if error.is_remote() => EndReason::GoAway(code),
        (_, Some(cause)) if cause.kind() == io::ErrorKind::BrokenPipe => {
            goaway_before(connection).unwrap_or(EndReason::Truncated)
        }
        (_, Some(cause)) => EndReason::from_read(cause),
        // The library found that the server breaks the rules.
        _ => EndReason::Malformed,
    }
}

/// Whether the server had announced that it would close the connection.
fn goaway_before(connection: &mut SendRequest<Bytes>) -> Option<EndReason> {
    let Poll::Ready(Err(error)) = connection.poll_ready(&mut Context::from_waker(Waker::noop())) else { return None };
    error.reason().filter(|_| error.is_remote() && error.is_go_away()).map(EndReason::GoAway)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(headers: &[(&str, &str)]) -> PlainRequest {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        PlainRequest { method: "POST".to_owned(), path: "/chat?x=1".to_owned(), headers, body: b"{}".to_vec() }
    }

    #[test]
    fn host_becomes_the_authority_and_what_is_about_the_connection_is_left_out() {
        let asked = asked(&[("Host", "h:1"), ("Connection", "close"), ("X-Key", "v"), ("Content-Length", "2")]);
        let request = Request::new(&asked, "https").expect("valid");
        assert_eq!(request.head.uri(), "https://h:1/chat?x=1");
        let names: Vec<&str> = request.head.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-key", "content-length"]);
        assert_eq!((request.head.method().as_str(), &request.body[..]), ("POST", &b"{}"[..]));
    }

    #[test]
    fn what_http2_cannot_carry_is_refused() {
        for headers in [&[("Host", "a b")][..], &[("Host", "h"), ("X", "a\nb")]] {
            assert!(Request::new(&asked(headers), "http").is_err(), "{headers:?}");
        }
    }
}
