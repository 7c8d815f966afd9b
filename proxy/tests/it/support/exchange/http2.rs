//! A request and its response over HTTP/2, on a connection that is open.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::Owned;
use super::{Answer, End, Request, Shared};

pub(super) async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    owned: &Owned,
    connection: S,
    request: Request,
    seen: &Shared,
) -> io::Result<End> {
    let mut builder = h2::client::Builder::new();
    if owned.stalled {
        builder.initial_window_size(1024);
    }
    let (mut client, connection) = builder.handshake::<_, Bytes>(connection).await.map_err(io::Error::other)?;
    let scheme = if owned.protocol.is_tls() { "https" } else { "http" };
    let mut head = http::Request::builder().method(request.method);
    head = head.uri(format!("{scheme}://{}{}", request.host, request.path));
    for (name, value) in &request.fields {
        head = head.header(name, value);
    }
    if let Some(body) = &request.body {
        head = head.header("content-length", body.len());
    }
    let head = head.body(()).expect("a request");
    let exchange = async {
        let sent = client.send_request(head, request.body.is_none());
        let (mut response, mut upload) = sent.map_err(io::Error::other)?;
        let uploading = async {
            if let Some(body) = request.body {
                send_body(&mut upload, body.into()).await;
            }
            std::future::pending::<()>().await
        };
        let reading = async {
            let read = read(&mut response, owned.stalled, seen).await;
            // With `PROTOCOL_ERROR` and the like, what the server says is the error's text.
            Ok(read.unwrap_or_else(|error| End::Broken(error.to_string())))
        };
        tokio::select! {
            () = uploading => unreachable!("it waits for the answer"),
            end = reading => end,
        }
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        end = &mut exchange => end,
        // What has come before the connection ended is still there to be read.
        _ = connection => exchange.await,
    }
}

async fn send_body(upload: &mut h2::SendStream<Bytes>, mut body: Bytes) {
    while !body.is_empty() {
        upload.reserve_capacity(body.len());
        let Some(Ok(room)) = std::future::poll_fn(|context| upload.poll_capacity(context)).await else { return };
        let part = body.split_to(room.min(body.len()));
        if upload.send_data(part, false).is_err() {
            return;
        }
    }
    let _ = upload.send_data(Bytes::new(), true);
}

fn fields_of(map: &http::HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    map.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

async fn read(response: &mut h2::client::ResponseFuture, stalled: bool, seen: &Shared) -> Result<End, h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    seen.update(|seen| seen.head = Some(Answer { status: head.status.as_u16(), fields: fields_of(&head.headers) }));
    if stalled {
        std::future::pending::<()>().await;
    }
    while let Some(data) = body.data().await {
        let data = data?;
        let _ = body.flow_control().release_capacity(data.len());
        seen.update(|seen| seen.body.extend_from_slice(&data));
    }
    if let Some(trailers) = body.trailers().await? {
        seen.update(|seen| seen.trailers = fields_of(&trailers));
    }
    Ok(End::Clean)
}
