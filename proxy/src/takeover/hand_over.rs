//! Hands an event stream over to a driver: writes its head to the client and takes both connections out of their
//! sessions.

use std::sync::Arc;

use pingora::http::ResponseHeader;
use pingora::modules::http::compression::ResponseCompression;
use pingora::prelude::{Error, Result};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::date::get_cached_date;
use pingora::proxy::Session;
use pingora::{ErrorType, OrErr};
use tokio::time::timeout;

use super::client_connection::ClientConnection;
use super::control::opening;
use super::exchange::Answer;
use super::hooks::Hooks;
use super::stand_in::stand_in;
use crate::driver::{Drivers, Route, Start, StreamInfo, Transport};
use crate::exchange::{finish_stream_head, stream_framing};
use crate::failure::Failure;
use crate::headers::HeadRules;
use crate::stream::Framing;

/// Afterwards the request has ended for HttpProxy, and the stream runs on its own. Returns a failure if the client does
/// not read the head in time, or has closed the connection.
///
/// # Errors
/// When a hook or a downstream module fails, or a descriptor cannot be duplicated.
pub(super) async fn hand_over(
    session: &mut Session,
    stream: Answer,
    route: Arc<Route>,
    drivers: &Drivers,
    info: StreamInfo,
    hooks: &dyn Hooks,
) -> Result<Option<Failure>> {
    let framing = stream_framing(session.req_header().version);
    let (opening, info) = opening(&route, framing, stream.body_start.body, &stream.head, info);
    let mut response = stream.head;
    finish_head(session, &mut response, framing, hooks, route.policy.heads.as_deref()).await?;
    let write = session.downstream_session.write_response_header(response.clone());
    let written = match route.policy.timeouts.write {
        Some(limit) => match timeout(limit, write).await {
            Ok(written) => written,
            Err(_) => return Ok(Some(Failure::WriteTimeout { limit })),
        },
        None => write.await,
    };
    if let Err(source) = written {
        return Ok(Some(Failure::ClientGone { source }));
    }

    let upstream = stream.connection.into_transport();
    let upstream = upstream.or_err(ErrorType::InternalError, "detaching the upstream's connection")?;
    let stand_in = stand_in(&session.downstream_session, response).await?;
    let client = match std::mem::replace(&mut *session.downstream_session, stand_in) {
        ServerSession::H1(client) => ClientConnection::detach(client.into_inner())
            .or_err(ErrorType::InternalError, "detaching the client's connection")?,
        ServerSession::H2(mut client) => match client.take_response_body_writer() {
            Some(body) => Transport::H2(body),
            None => return Error::e_explain(ErrorType::InternalError, "the HTTP/2 stream has no body to write to"),
        },
        _ => return Error::e_explain(ErrorType::InternalError, "only HTTP/1 and HTTP/2 sessions can be taken over"),
    };
    let start = Start { opening, unsent: Vec::new(), leftover: stream.body_start.leftover, route, info };
    drivers.start(start, client, upstream).or_err(ErrorType::InternalError, "starting the stream")?;
    Ok(None)
}

/// Completes the head of a stream: hooks, the stream's own fields, the rules of its route, downstream modules.
///
/// # Errors
/// When a hook or a downstream module fails.
pub(super) async fn finish_head(
    session: &mut Session,
    head: &mut ResponseHeader,
    framing: Framing,
    hooks: &dyn Hooks,
    rules: Option<&HeadRules>,
) -> Result<()> {
    hooks.stream_response(session, head)?;
    finish_stream_head(head, framing, get_cached_date, rules)?;
    session.set_keepalive(None);
    // The body does not go through the modules: it would be announced with a coding that it does not have.
    let compression = session.downstream_modules_ctx.get_mut::<ResponseCompression>();
    if let Some(compression) = compression.filter(|compression| compression.is_header_phase()) {
        compression.adjust_level(0);
        compression.adjust_decompression(false);
    }
    session.downstream_modules_ctx.response_header_filter(head, false).await
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::super::connection::UpstreamConnection;
    use super::super::upload::Upload;
    use super::*;
    use crate::exchange::BodyStart;
    use crate::stream::Policy;
    use crate::wire::body::Body;

    /// Invariant: every failure is counted once. Mechanism: the error of writing a stream's head was passed on to Pingora,
    /// which counts no reason. Symptom: requests in no metric.
    #[tokio::test]
    async fn a_client_that_closes_before_its_head_is_written_is_a_failure() {
        let (mut client, session) = tokio::io::duplex(1024);
        client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.expect("a write");
        let mut session = Session::new_h1(Box::new(session));
        assert!(session.downstream_session.read_request().await.expect("a request"));
        drop(client);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let upstream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        let body_start = BodyStart { is_stream: true, body: Body::UntilClose, has_body: true, leftover: Vec::new() };
        let answer = Answer {
            head: Box::new(ResponseHeader::build(200, None).expect("a head")),
            body_start,
            connection: UpstreamConnection::Tcp(upstream),
            upload: Upload::done(),
            server: None,
            key: None,
        };
        let route = Route::new("/", Policy::default(), Arc::new(()));
        let info = StreamInfo::new(None, None, "GET", "/", std::time::Duration::ZERO);
        let drivers = Drivers::default();
        let failed = hand_over(&mut session, answer, route, &drivers, info, &()).await.expect("a failure to report");
        assert!(matches!(failed, Some(Failure::ClientGone { .. })), "{failed:?}");
        assert_eq!(drivers.registry().active(), 0);
    }
}
