//! A request and its response over HTTP/1, on a connection that is open.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::connection::Owned;
use super::{Answer, End, Protocol, Request, Shared};
use crate::support::dechunk;

pub(super) async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    owned: &Owned,
    connection: S,
    request: Request,
    seen: &Shared,
) -> io::Result<End> {
    let version = if owned.protocol == Protocol::Http10 { "1.0" } else { "1.1" };
    let mut wire = format!("{} {} HTTP/{version}\r\nHost: {}\r\n", request.method, request.path, request.host);
    for (name, value) in &request.fields {
        wire += &format!("{name}: {value}\r\n");
    }
    if let Some(body) = &request.body {
        wire += &format!("Content-Length: {}\r\n", body.len());
    }
    let wire = [wire.as_bytes(), b"\r\n", request.body.as_deref().unwrap_or_default()].concat();
    let (mut reader, mut writer) = tokio::io::split(connection);
    let sending = async {
        // An answer may come before all of it is sent, and the server need not take the rest then.
        let _ = writer.write_all(&wire).await;
        let _ = writer.flush().await;
        std::future::pending::<()>().await
    };
    let reading = async {
        if owned.stalled {
            std::future::pending::<()>().await;
        }
        read(&mut reader, request.method == "HEAD", seen).await
    };
    tokio::select! {
        () = sending => unreachable!("it waits for the answer"),
        end = reading => end,
    }
}

/// What delimits a body.
enum Delimited {
    Length(usize),
    Chunked,
    UntilClose,
}

async fn read(connection: &mut (impl AsyncRead + Unpin), head_only: bool, seen: &Shared) -> io::Result<End> {
    let mut bytes = Vec::new();
    let delimited = loop {
        let Some(at) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else {
            if connection.read_buf(&mut bytes).await? == 0 {
                return Ok(End::Broken(format!("closed within the head: {:?}", String::from_utf8_lossy(&bytes))));
            }
            continue;
        };
        let rest = bytes.split_off(at + 4);
        let answer = parse_head(&String::from_utf8_lossy(&std::mem::replace(&mut bytes, rest)));
        if (100..200).contains(&answer.status) {
            seen.update(|seen| seen.interim.push_back(answer));
            continue;
        }
        let delimited = match (answer.field("transfer-encoding"), answer.field("content-length")) {
            _ if head_only || matches!(answer.status, 204 | 304) => Delimited::Length(0),
            (Some(_), _) => Delimited::Chunked,
            (None, Some(length)) => Delimited::Length(length.parse().expect("a length")),
            (None, None) => Delimited::UntilClose,
        };
        seen.update(|seen| seen.head = Some(answer));
        break delimited;
    };
    loop {
        let (body, end) = match delimited {
            Delimited::UntilClose => (bytes.clone(), None),
            Delimited::Length(length) => {
                (bytes[..bytes.len().min(length)].to_vec(), (bytes.len() >= length).then(Vec::new))
            }
            Delimited::Chunked => {
                let (body, end) = dechunk(&bytes);
                (body, end.filter(|end| end.starts_with(b"\r\n") || end.windows(4).any(|end| end == b"\r\n\r\n")))
            }
        };
        seen.update(|seen| seen.body = body);
        if let Some(trailers) = end {
            let trailers = String::from_utf8_lossy(&trailers).into_owned();
            seen.update(|seen| seen.trailers = fields(trailers.lines()));
            return Ok(End::Clean);
        }
        if connection.read_buf(&mut bytes).await? == 0 {
            return Ok(match delimited {
                Delimited::UntilClose => End::Clean,
                _ => End::Broken("closed within the body".into()),
            });
        }
    }
}

fn parse_head(text: &str) -> Answer {
    let mut lines = text.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    Answer { status: status.unwrap_or_else(|| panic!("no status in {text:?}")), fields: fields(lines) }
}

fn fields<'t>(lines: impl Iterator<Item = &'t str>) -> Vec<(String, String)> {
    let pairs = lines.filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect()
}
