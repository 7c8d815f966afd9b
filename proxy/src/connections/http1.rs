//! HTTP/1 connections: one request after the other, each with a complete and checked head.
//!
//! Only the transport is kept while a connection waits for a request: the session is created for each request.

use std::io;

use pingora::apps::HttpServerApp;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use tokio::time::timeout;

use super::application::{Connections, FOREVER};
use crate::takeover::{ClientConnection, NextHead};
use crate::wire::refusal::Refusal;

impl<A: HttpServerApp + Send + Sync + 'static> Connections<A> {
    pub(super) async fn serve_http1(&self, client: ClientConnection, shutdown: &ShutdownWatch) {
        let mut client = Box::new(client);
        let (mut limit, mut settings) = (self.rules().policy.header, None);
        loop {
            match self.next_request(&mut client, limit.unwrap_or(FOREVER), shutdown).await {
                Ok(NextHead::Ready { dropped_fields }) => self.metrics.dropped_fields(dropped_fields),
                Ok(NextHead::Refused(refusal)) => {
                    self.count_refusal(refusal);
                    log::debug!("request refused: side=downstream reason={}: {refusal}", refusal.as_str());
                    return Box::pin(client.refuse(refusal)).await;
                }
                Ok(NextHead::Closed) => return Box::pin(client.close()).await,
                Err(error) => return log::debug!("connection failed: side=downstream: between requests: {error}"),
            }
            let mut session = ServerSession::new_http1(client);
            if let Some(settings) = settings {
                pingora::apps::HttpPersistentSettings::apply_to_session(settings, &mut session);
            }
            let Some(reused) = self.app.process_new_http(session, shutdown).await else { return };
            let stream: Stream;
            (stream, settings) = reused.consume();
            let Ok(same) = stream.into_any().downcast::<ClientConnection>() else { return };
            (client, limit) = (same, self.rules().policy.keepalive);
        }
    }

    /// Waits until the next request's head is complete, and at most `idle` until it begins. An idle connection is
    /// closed when the process shuts down.
    async fn next_request(
        &self,
        client: &mut ClientConnection,
        idle: std::time::Duration,
        shutdown: &ShutdownWatch,
    ) -> io::Result<NextHead> {
        let policy = self.rules().policy;
        if !client.has_begun() {
            let mut shutdown = shutdown.clone();
            let begun = async {
                while !client.has_begun() && client.received().len() < policy.head.head_bytes {
                    if client.receive().await? == 0 {
                        return Ok(false);
                    }
                }
                io::Result::Ok(true)
            };
            tokio::select! {
                biased;
                begun = timeout(idle, begun) => match begun {
                    Ok(Ok(true)) => {}
                    Ok(Err(error)) => return Err(error),
                    Ok(Ok(false)) | Err(_) => return Ok(NextHead::Closed),
                },
                _ = shutdown.wait_for(|stopping| *stopping) => return Ok(NextHead::Closed),
            }
        }
        // A connection may have been idle across a reload.
        let policy = self.rules().policy;
        let head = timeout(policy.header.unwrap_or(FOREVER), client.next_head(&policy.head));
        head.await.unwrap_or(Ok(NextHead::Refused(Refusal::HeadTimeout)))
    }
}
