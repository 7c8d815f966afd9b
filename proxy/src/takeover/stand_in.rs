//! A session in memory that replaces the client's once its connection has been detached.
//!
//! HttpProxy still reads the request and the response from the session, for `logging` and to decide whether it has to
//! respond. A session over memory has both.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use pingora::ErrorType;
use pingora::http::{ResponseHeader, Version};
use pingora::prelude::{Error, Result};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v1::client::http_req_header_to_wire;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A session that has read the same request and written the same response head.
pub(super) async fn stand_in(session: &ServerSession, response: Box<ResponseHeader>) -> Result<ServerSession> {
    let mut request = session.req_header().clone();
    request.set_version(Version::HTTP_11);
    let request = http_req_header_to_wire(&request)
        .ok_or_else(|| Error::explain(ErrorType::InternalError, "the request cannot be written again"))?;
    let digest = session.digest().and_then(|digest| digest.socket_digest.clone());
    let replay = Replay { request: request.freeze(), digest };
    let mut stand_in = ServerSession::new_http1(Box::new(replay));
    stand_in.read_request().await?;
    stand_in.set_keepalive(None);
    stand_in.write_response_header(response).await?;
    Ok(stand_in)
}

/// A connection from which these bytes are read, and to which writes are discarded.
#[derive(Debug)]
pub(super) struct Replay {
    request: Bytes,
    digest: Option<Arc<SocketDigest>>,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Replay {
    pub(super) fn of(request: Bytes) -> Self {
        Self { request, digest: None }
    }
}

impl AsyncRead for Replay {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let take = buffer.remaining().min(self.request.len());
        buffer.put_slice(&self.request.split_to(take));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replay {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait]
impl Shutdown for Replay {
    async fn shutdown(&mut self) {}
}

impl UniqueID for Replay {
    fn id(&self) -> UniqueIDType {
        -1
    }
}

impl Ssl for Replay {}

impl Peek for Replay {}

impl GetTimingDigest for Replay {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Replay {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Replay {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.digest.clone()
    }
}
