//! Connections that begin with a TLS handshake, within the limit on a request head.

use std::io;
use std::net::SocketAddr;

use pingora::apps::HttpServerApp;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use tokio::net::TcpStream;

use super::application::Connections;
use crate::metrics::TLS_SLOW;
use crate::takeover::{ClientConnection, ClientTransport};

impl<A: HttpServerApp + Send + Sync + 'static> Connections<A> {
    /// Completes the handshake of a connection from `client`, of which `received` has been read already, and serves it.
    pub(super) async fn serve_tls(
        &self,
        received: Vec<u8>,
        socket: TcpStream,
        client: SocketAddr,
        acceptor: &Acceptor,
        shutdown: &ShutdownWatch,
    ) {
        let transport = ClientTransport::tcp(socket, client).with_received(received);
        // On the heap, and freed before the connection is served.
        match Box::pin(self.limited(handshake(transport, acceptor))).await {
            Ok(stream) => self.serve(ClientConnection::over(stream), false, shutdown).await,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                self.metrics.closed_connection(TLS_SLOW);
                log::debug!("connection closed: side=downstream reason={TLS_SLOW}");
            }
            Err(error) => {
                let text = error.to_string();
                let (reason, remedy) = match is_plain_http(&text) {
                    true => ("plain_on_tls_port", "; use https:// there, or add a listener without tls"),
                    false => ("tls_handshake", ""),
                };
                // Behind the fields, so that all clients share one limit on lines.
                log::warn!("TLS handshake failed: side=downstream reason={reason}: client {client}: {text}{remedy}");
            }
        }
    }
}

async fn handshake(transport: ClientTransport, acceptor: &Acceptor) -> io::Result<Stream> {
    let secure = acceptor.tls_handshake(transport).await.map_err(io::Error::other)?;
    Ok(Box::new(secure))
}

/// Whether a handshake failed because the client does not speak TLS: what rustls says about other first bytes.
fn is_plain_http(error: &str) -> bool {
    error.ends_with("corrupt message of type InvalidContentType")
}
