//! Client connections, from the transport to the application's sessions: TLS, protocol detection, and the limits before
//! and between requests.
//!
//! Pingora's service spawns one future that is large enough for every kind of connection, TLS handshakes and HTTP/1
//! sessions included. An HTTP/2 connection would keep its 12 KiB to the end. Here it moves to its own task once the
//! protocol is known. All requests go to the application.

mod application;
mod http1;
mod http2;
mod http2_transport;
mod limits;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, ServerApp};
use pingora::protocols::{ALPN, Ssl, Stream};
use pingora::server::ShutdownWatch;

use crate::driver::canonical;
use crate::metrics::TLS_SLOW;
use crate::takeover::{ClientConnection, report_violation};
use crate::wire::frames::PREFACE;
use crate::wire::proxy_protocol::Violation;

pub use application::Connections;
pub use tls::TlsListeners;

impl<A: HttpServerApp + Send + Sync + 'static> Connections<A> {
    /// Serves a connection to its end, or until it has moved to its own task.
    pub(crate) async fn serve(&self, mut client: ClientConnection, shutdown: &ShutdownWatch) {
        match self.limited(self.speaks_http2(&mut client)).await {
            // On the heap, so that HTTP/1 connections do not pay for the size of this future.
            Ok(true) => Box::pin(self.serve_http2(client, shutdown)).await,
            Ok(false) => self.serve_http1(client, shutdown).await,
            Err(error) => log::debug!("connection closed: side=downstream: before its first request: {error}"),
        }
    }

    /// Counts and reports a connection that is closed because of its PROXY protocol header.
    fn report_no_header(&self, error: &io::Error, peer: Option<SocketAddr>) {
        let violation = match error.get_ref().and_then(|cause| cause.downcast_ref::<Violation>()) {
            Some(violation) => *violation,
            None if error.kind() == io::ErrorKind::TimedOut => Violation::Unfinished,
            None => return log::debug!("connection closed: side=downstream: before its first request: {error}"),
        };
        self.metrics.closed_connection(violation.as_str());
        report_violation(violation, peer);
    }

    async fn speaks_http2(&self, client: &mut ClientConnection) -> io::Result<bool> {
        if let Some(transport) = client.transport().filter(|transport| transport.get_ssl_digest().is_some()) {
            return Ok(transport.selected_alpn_proto() == Some(ALPN::H2));
        }
        // The first bytes of the preface differ from every HTTP/1 request; a request may be shorter than the preface.
        while self.h2c && PREFACE.starts_with(client.received()) {
            if client.receive().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.h2c && client.received().starts_with(PREFACE))
    }
}

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> ServerApp for Connections<A> {
    async fn process_new(self: &Arc<Self>, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        set_canonical_address(&mut stream);
        let peer = peer_address(&stream);
        let stream = match Box::pin(self.limited(self.tls.proxied(stream, peer, &self.trusted_proxies))).await {
            Ok(stream) => stream,
            Err(error) => {
                self.report_no_header(&error, peer);
                return None;
            }
        };
        let client = peer_address(&stream);
        // On the heap, and freed before the connection is served.
        match Box::pin(self.limited(self.tls.handshake(stream))).await {
            Ok(stream) => self.serve(ClientConnection::over(stream), shutdown).await,
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
                let client = client.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
                log::warn!("TLS handshake failed: side=downstream reason={reason}: client {client}: {text}{remedy}");
            }
        }
        None
    }

    async fn cleanup(&self) {
        self.app.http_cleanup().await;
    }
}

/// Whether a handshake failed because the client does not speak TLS: what rustls says about other first bytes.
fn is_plain_http(error: &str) -> bool {
    error.ends_with("corrupt message of type InvalidContentType")
}

fn peer_address(stream: &Stream) -> Option<SocketAddr> {
    stream.get_socket_digest()?.peer_addr()?.as_inet().copied()
}

/// Replaces the IPv6 form of an IPv4 client's address, as a listener on `[::]` reports it.
fn set_canonical_address(stream: &mut Stream) {
    let Some(address) = peer_address(stream) else { return };
    if canonical(address) != address {
        tls::set_peer_address(stream, canonical(address));
    }
}
