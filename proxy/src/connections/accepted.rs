//! Connections that a task has accepted: what they begin with, a header of the PROXY protocol and a TLS handshake, as their
//! listener has them.

use std::net::SocketAddr;
use std::sync::Arc;

use pingora::apps::HttpServerApp;
use pingora::listeners::tls::Acceptor;
use pingora::server::ShutdownWatch;
use tokio::net::TcpStream;

use super::application::Connections;
use crate::takeover::{ClientConnection, read_proxy_header};
use crate::wire::proxy_protocol::ProxyProtocol;

/// What the connections of a listener begin with.
#[derive(Clone)]
pub(crate) struct Preamble {
    /// A header of the PROXY protocol.
    pub(crate) proxy_protocol: ProxyProtocol,
    /// Then a TLS handshake, if there is an acceptor.
    pub(crate) acceptor: Option<Arc<Acceptor>>,
    /// Otherwise perhaps HTTP/2.
    pub(crate) h2c: bool,
}

impl<A: HttpServerApp + Send + Sync + 'static> Connections<A> {
    /// Serves a connection of `peer`.
    pub(crate) async fn accepted(
        &self,
        mut socket: TcpStream,
        peer: SocketAddr,
        preamble: &Preamble,
        shutdown: &ShutdownWatch,
    ) {
        let (mut client, mut received) = (peer, Vec::new());
        if preamble.proxy_protocol != ProxyProtocol::Off {
            let is_trusted = self.rules().trusted_proxies.contains(peer.ip());
            let header = read_proxy_header(&mut socket, preamble.proxy_protocol, is_trusted);
            // On the heap, and freed before the connection is served.
            match Box::pin(self.limited(header)).await {
                Ok((source, rest)) => (client, received) = (source.unwrap_or(peer), rest),
                Err(error) => return self.report_no_header(&error, peer),
            }
        }
        match &preamble.acceptor {
            Some(acceptor) => self.serve_tls(received, socket, client, acceptor, shutdown).await,
            None => {
                let client = ClientConnection::tcp(received, socket, client, None);
                self.serve(client, preamble.h2c, shutdown).await;
            }
        }
    }
}
