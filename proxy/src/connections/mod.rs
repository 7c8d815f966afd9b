//! Client connections, from the transport to the application's sessions: TLS, protocol detection, and the limits before
//! and between requests.
//!
//! Pingora's service spawns one future that is large enough for every kind of connection, TLS handshakes and HTTP/1
//! sessions included. An HTTP/2 connection would keep its 12 KiB to the end. Here it moves to its own task once the
//! protocol is known. All requests go to the application.

mod accepted;
mod application;
mod http1;
mod http2;
mod http2_transport;
mod limits;
mod rules;
mod tls;

use std::io;
use std::net::SocketAddr;

use pingora::apps::HttpServerApp;
use pingora::protocols::{ALPN, Ssl};
use pingora::server::ShutdownWatch;

use crate::takeover::{ClientConnection, report_violation};
use crate::wire::frames::PREFACE;
use crate::wire::proxy_protocol::Violation;

pub(crate) use accepted::Preamble;
pub use application::Connections;
pub use rules::{ConnectionRules, SharedRules};

impl<A: HttpServerApp + Send + Sync + 'static> Connections<A> {
    /// Serves a connection to its end, or until it has moved to its own task. `h2c` enables HTTP/2 on a connection without
    /// TLS.
    pub(crate) async fn serve(&self, mut client: ClientConnection, h2c: bool, shutdown: &ShutdownWatch) {
        match self.limited(speaks_http2(&mut client, h2c)).await {
            // On the heap, so that HTTP/1 connections do not pay for the size of this future.
            Ok(true) => Box::pin(self.serve_http2(client, shutdown)).await,
            Ok(false) => self.serve_http1(client, shutdown).await,
            Err(error) => log_unbegun(&error),
        }
    }

    /// Counts and reports a connection that is closed because of its PROXY protocol header.
    fn report_no_header(&self, error: &io::Error, peer: SocketAddr) {
        let violation = match error.get_ref().and_then(|cause| cause.downcast_ref::<Violation>()) {
            Some(violation) => *violation,
            None if error.kind() == io::ErrorKind::TimedOut => Violation::Unfinished,
            None => return log_unbegun(error),
        };
        self.metrics.closed_connection(violation.as_str());
        report_violation(violation, peer);
    }
}

fn log_unbegun(error: &io::Error) {
    log::debug!("connection closed: side=downstream: before its first request: {error}");
}

async fn speaks_http2(client: &mut ClientConnection, h2c: bool) -> io::Result<bool> {
    if let Some(transport) = client.transport().filter(|transport| transport.get_ssl_digest().is_some()) {
        return Ok(transport.selected_alpn_proto() == Some(ALPN::H2));
    }
    // The first bytes of the preface differ from every HTTP/1 request; a request may be shorter than the preface.
    while h2c && PREFACE.starts_with(client.received()) {
        if client.receive().await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(h2c && client.received().starts_with(PREFACE))
}
