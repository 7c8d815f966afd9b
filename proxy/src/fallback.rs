//! Serves with Pingora the connections that the reactors hand off.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::proxy::HttpProxy;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use pingora_runtime::current_handle;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::connections::Connections;
use crate::gateway::Gateway;
use crate::takeover::{HandedOff, Handoff, InFlight};
use crate::threads::Essential;

/// A service without listeners, whose connections come from a queue.
pub struct Fallback {
    application: Arc<Connections<HttpProxy<Gateway>>>,
    queue: UnboundedReceiver<Handoff>,
}

impl Fallback {
    /// Serves handed-off connections with `application`.
    pub(crate) fn new(application: Connections<HttpProxy<Gateway>>, queue: UnboundedReceiver<Handoff>) -> Self {
        Self { application: Arc::new(application), queue }
    }

    fn serve(&self, handed_off: HandedOff, in_flight: Option<InFlight>, shutdown: ShutdownWatch) {
        let application = self.application.clone();
        // On any of the service's threads.
        current_handle().spawn(async move {
            let client = match handed_off.into_connection() {
                Ok(client) => client,
                Err(error) => {
                    log::error!("connection dropped: side=internal: it cannot be registered with the runtime: {error}");
                    return;
                }
            };
            let mut serving = Box::pin(application.serve(client, &shutdown));
            // After the first poll, HttpProxy has the request and counts it.
            let looked_at = poll_fn(|context| Poll::Ready(serving.as_mut().poll(context))).await;
            drop(in_flight);
            if looked_at.is_pending() {
                serving.await;
            }
        });
    }
}

#[async_trait]
impl Service for Fallback {
    async fn start_service(&mut self, _: Option<ListenFds>, shutdown: ShutdownWatch, _: usize) {
        let _essential = Essential::new("fallback");
        while let Some(handoff) = self.queue.recv().await {
            match handoff {
                Handoff::Client(handed_off, in_flight) => self.serve(handed_off, in_flight, shutdown.clone()),
                // Closes idle connections. More connections may follow: a request that waits for its response may still
                // be handed off.
                Handoff::Closed => self.application.cleanup().await,
            }
        }
    }

    fn name(&self) -> &str {
        "fallback"
    }
}
