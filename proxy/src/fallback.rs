//! Serves with Pingora what the reactors have accepted and have no use for.

use std::sync::Arc;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::proxy::HttpProxy;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use pingora_runtime::current_handle;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::connections::Connections;
use crate::gateway::Gateway;
use crate::takeover::Declined;

/// A service without listeners: its connections come out of a queue.
pub struct Fallback {
    application: Arc<Connections<HttpProxy<Gateway>>>,
    declined: UnboundedReceiver<Declined>,
}

impl Fallback {
    /// Serves `declined` with `application`.
    pub(crate) fn new(application: Connections<HttpProxy<Gateway>>, declined: UnboundedReceiver<Declined>) -> Self {
        Self { application: Arc::new(application), declined }
    }
}

#[async_trait]
impl Service for Fallback {
    async fn start_service(&mut self, _: Option<ListenFds>, shutdown: ShutdownWatch, _: usize) {
        // Also while the process drains: a request that waits for its answer may still turn out to be Pingora's.
        while let Some(declined) = self.declined.recv().await {
            let (application, shutdown) = (self.application.clone(), shutdown.clone());
            // On any of the service's threads.
            current_handle().spawn(async move {
                match declined.into_stream() {
                    // It serves every request on the connection, and gives none back.
                    Ok(stream) => drop(application.process_new(stream, &shutdown).await),
                    Err(error) => log::error!("side=internal: a connection is dropped, it cannot be served: {error}"),
                }
            });
        }
    }

    fn name(&self) -> &str {
        "fallback"
    }
}
