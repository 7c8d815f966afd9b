//! Hands an event stream over to a driver: writes its head to the client and takes both connections out of their
//! sessions.

use std::sync::Arc;

use pingora::prelude::{Error, Result};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::date::get_cached_date;
use pingora::proxy::Session;
use pingora::{ErrorType, OrErr};
use tokio::time::timeout;

use super::client_connection::ClientConnection;
use super::exchange::Answer;
use super::hooks::Hooks;
use super::stand_in::stand_in;
use crate::driver::{Drivers, Route, Start, StreamInfo, Transport};
use crate::exchange::{finish_stream_head, opening, stream_framing};
use crate::failure::Failure;

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
    let opening = opening(&route.policy, framing, stream.body_start.body, &stream.head, fastrand::f64());
    let mut response = stream.head;
    hooks.stream_response(session, &mut response)?;
    finish_stream_head(&mut response, framing, get_cached_date)?;
    session.set_keepalive(None);
    session.downstream_modules_ctx.response_header_filter(&mut response, false).await?;
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
    let upstream = stream.connection.into_transport();
    let upstream = upstream.or_err(ErrorType::InternalError, "detaching the upstream's connection")?;
    let start = Start { opening, unsent: Vec::new(), leftover: stream.body_start.leftover, route, info };
    drivers.start(start, client, upstream).or_err(ErrorType::InternalError, "starting the stream")?;
    Ok(None)
}
