//! The admin listener's pages: liveness, readiness, metrics, and the reload.

mod guard;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use http::{Method, Response, StatusCode};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;

use crate::metrics::Metrics;

/// Reloads the configuration, and returns the status and the text of the response. May block.
pub type Reload = Arc<dyn Fn() -> (StatusCode, String) + Send + Sync>;

/// The pages of the admin listener.
pub struct Admin {
    metrics: Arc<Metrics>,
    draining: Arc<AtomicBool>,
    reload: Reload,
}

impl Admin {
    /// Pages over `metrics`; `draining` turns `/readyz` to 503.
    pub fn new(metrics: Arc<Metrics>, draining: Arc<AtomicBool>, reload: Reload) -> Self {
        Self { metrics, draining, reload }
    }

    async fn reload(&self) -> Response<Vec<u8>> {
        let reload = self.reload.clone();
        match tokio::task::spawn_blocking(move || reload()).await {
            Ok((status, text)) => page(status, TEXT, text),
            Err(_) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the reload panicked; the log says where\n"),
        }
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        match request.uri.path() {
            "/healthz" => page(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" if self.draining.load(Ordering::Acquire) => {
                page(StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n")
            }
            "/readyz" => page(StatusCode::OK, TEXT, "ready\n"),
            "/metrics" => page(StatusCode::OK, OPEN_METRICS, self.metrics.render()),
            "/reload" if request.method != Method::POST => {
                let mut response = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "405: use POST\n");
                response.headers_mut().insert(http::header::ALLOW, http::HeaderValue::from_static("POST"));
                response
            }
            "/reload" => match guard::check(&request.headers) {
                Ok(()) => self.reload().await,
                Err(reason) => page(StatusCode::FORBIDDEN, TEXT, format!("403: {reason}\n")),
            },
            _ => page(StatusCode::NOT_FOUND, TEXT, "404: there are /healthz, /readyz, /metrics and POST /reload\n"),
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

fn page(status: StatusCode, content_type: &'static str, body: impl Into<Vec<u8>>) -> Response<Vec<u8>> {
    let body = body.into();
    let mut response = Response::new(Vec::new());
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response.headers_mut().insert(http::header::CONTENT_LENGTH, http::HeaderValue::from(body.len()));
    *response.body_mut() = body;
    response
}
