//! One stream from the client's side: opens it and reads it to its end.

use std::cell::RefCell;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::connect::Route;
use super::end::EndReason;
use super::shared::Shared;
use super::{http1, http2};

/// A request, and the route it takes.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The route to the server.
    pub route: Route<'a>,
    /// What is requested there.
    pub exchange: Exchange<'a>,
    /// Timeout of the response head.
    pub head_timeout: Duration,
}

/// A request in the form of its protocol.
#[derive(Debug, Clone, Copy)]
pub enum Exchange<'a> {
    /// On a connection of its own.
    Http1 {
        /// The request as it is sent.
        request: &'a [u8],
    },
    /// On a connection that it shares.
    Http2 {
        /// The request.
        request: &'a http2::Request,
        /// The connection.
        connection: &'a http2::Connection,
        /// How many streams have been put there before.
        position: u64,
    },
}

enum Opened {
    Http1(http1::Response),
    Http2(http2::Response),
}

/// Runs stream number `slot` to its end; `opening` is given back once the head has come. Dropping the future closes the
/// connection, or cancels the stream where others share it.
pub async fn run(
    slot: usize,
    request: Request<'_>,
    opening: OwnedSemaphorePermit,
    shared: &RefCell<Shared>,
) -> EndReason {
    // On the heap: what opening needs would otherwise be kept in the future as long as the stream lives.
    let mut opened = match Box::pin(open(&request, shared)).await {
        Ok(opened) => opened,
        Err(reason) => return reason,
    };
    drop(opening);
    let request_sent_us = match &opened {
        Opened::Http1(response) => response.request_sent_us,
        Opened::Http2(response) => response.request_sent_us,
    };
    {
        let shared = &mut *shared.borrow_mut();
        shared.record.counts.streams += 1;
        shared.record.counts.open += 1;
        shared.meters[slot].opened(request_sent_us);
    }
    let reason = match &mut opened {
        Opened::Http1(response) => response.read_to_end(slot, shared).await,
        Opened::Http2(response) => response.read_to_end(slot, shared).await,
    };
    let shared = &mut *shared.borrow_mut();
    shared.record.counts.open -= 1;
    shared.meters[slot].ended();
    reason
}

async fn open(request: &Request<'_>, shared: &RefCell<Shared>) -> Result<Opened, EndReason> {
    shared.borrow_mut().record.counts.attempted += 1;
    match request.exchange {
        Exchange::Http1 { request: asked } => {
            let io = request.route.establish(shared, async |io| Ok(io)).await?;
            let response = timeout(request.head_timeout, http1::exchange(io, asked, request.route.due_us, shared));
            response.await.map_err(|_| EndReason::HeadTimeout)?.map(Opened::Http1)
        }
        Exchange::Http2 { request: asked, connection, position } => {
            let connection = connection.begin(position, &request.route, shared).await?;
            let response =
                timeout(request.head_timeout, http2::exchange(connection, asked, request.route.due_us, shared));
            response.await.map_err(|_| EndReason::HeadTimeout)?.map(Opened::Http2)
        }
    }
}
