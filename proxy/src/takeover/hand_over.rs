//! Hands an event stream over to a driver: writes its head to the client and takes both connections out of their
//! sessions.

use std::sync::Arc;

use pingora::http::{ResponseHeader, Version};
use pingora::prelude::{Error, Result};
use pingora::protocols::http::ServerSession;
use pingora::proxy::Session;
use pingora::{ErrorType, OrErr};
use tokio::time::timeout;

use super::client_connection::ClientConnection;
use super::exchange::Answer;
use super::hooks::Hooks;
use super::stand_in::stand_in;
use crate::driver::{Drivers, Route, Start, StreamInfo, Transport};
use crate::failure::Failure;
use crate::headers;
use crate::stream::{Framing, Opening};
use crate::wire::body::Body;

/// Afterwards the request has ended for HttpProxy, and the stream runs on its own. Returns a failure if the client does
/// not read the head in time.
///
/// # Errors
/// When the client cannot be written to, or a descriptor cannot be duplicated.
pub(super) async fn hand_over(
    session: &mut Session,
    stream: Answer,
    route: Arc<Route>,
    drivers: &Drivers,
    info: StreamInfo,
    hooks: &dyn Hooks,
) -> Result<Option<Failure>> {
    let framing = match session.req_header().version {
        Version::HTTP_11 => Framing::Chunked,
        Version::HTTP_2 => Framing::Http2,
        _ => Framing::Plain,
    };
    let opening = opening(&route, framing, stream.body_start.body, &stream.head);
    let mut response = stream.head;
    hooks.stream_response(session, &mut response)?;
    headers::stream_response(&mut response, framing == Framing::Chunked)?;
    session.set_keepalive(None);
    let write = session.write_response_header(response.clone(), false);
    match route.policy.timeouts.write {
        Some(limit) => match timeout(limit, write).await {
            Ok(written) => written?,
            Err(_) => return Ok(Some(Failure::WriteTimeout { limit })),
        },
        None => write.await?,
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

/// The stream's parameters from its two heads.
pub(super) fn opening(route: &Route, framing: Framing, body: Body, head: &ResponseHeader) -> Opening {
    Opening {
        policy: route.policy.clone(),
        body,
        framing,
        identity: headers::is_identity(head),
        random: fastrand::f64(),
    }
}
