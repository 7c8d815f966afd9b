//! The admin listener's pages: liveness, readiness, metrics, the running streams, and the reload.

mod access;
mod query;
mod streams;
mod unix;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;

use crate::config::{self, Problem};
use crate::logging::Mask;
use crate::metrics::Metrics;
use crate::takeover::Takeover;
use access::{Caller, Denied};
use query::Query;

pub use unix::{OnUnixSocket, bind as bind_unix};

/// Reloads the configuration, and returns the status and the text of the response. May block.
pub type Reload = Arc<dyn Fn() -> (StatusCode, String) + Send + Sync>;

/// What is hidden in the targets of streams, by the configuration in force.
pub type SharedMask = Arc<dyn Fn() -> Arc<Mask> + Send + Sync>;

/// The pages of the admin listener.
pub struct Admin {
    metrics: Arc<Metrics>,
    draining: Arc<AtomicBool>,
    operator: Option<Operator>,
}

/// What only an operator may see and do.
struct Operator {
    takeover: Arc<Takeover>,
    mask: SharedMask,
    reload: Reload,
    is_unix: bool,
    /// The host in `admin.address`.
    host: String,
    token_file: Option<PathBuf>,
}

impl Admin {
    /// Pages over `metrics`; `draining` turns `/readyz` to 503.
    pub fn new(metrics: Arc<Metrics>, draining: Arc<AtomicBool>) -> Self {
        Self { metrics, draining, operator: None }
    }

    /// Also shows the streams that `takeover` runs, ends them, and reloads, as the configuration allows.
    #[must_use]
    pub fn for_operators(
        self,
        config: &config::Admin,
        takeover: Arc<Takeover>,
        mask: SharedMask,
        reload: Reload,
    ) -> Self {
        let host = access::host_of(&config.address).to_owned();
        let (is_unix, token_file) = (config.unix_path().is_some(), config.token_file.clone());
        Self { operator: Some(Operator { takeover, mask, reload, is_unix, host, token_file }), ..self }
    }

    /// Checks the file with the token.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn check(config: Option<&config::Admin>) -> Result<(), Problem> {
        let Some(path) = config.and_then(|admin| admin.token_file.as_deref()) else { return Ok(()) };
        access::read_token(path).map(drop).map_err(|what| {
            let remedy =
                "write one line into it, such as `openssl rand -hex 32` prints, and let the proxy's user read it";
            Problem::new(&["admin", "token_file"], format!("is `{}`, {what}", path.display()), remedy)
        })
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        match (session.req_header().uri.path(), &self.operator) {
            ("/healthz", _) => page(StatusCode::OK, TEXT, "ok\n"),
            ("/readyz", _) if self.draining.load(Ordering::Acquire) => {
                page(StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n")
            }
            ("/readyz", _) => page(StatusCode::OK, TEXT, "ready\n"),
            ("/metrics", _) => page(StatusCode::OK, OPEN_METRICS, self.metrics.render()),
            ("/streams" | "/reload", Some(operator)) => operator.response(session).await,
            _ => {
                page(StatusCode::NOT_FOUND, TEXT, "404: there are /healthz, /readyz, /metrics, /streams and /reload\n")
            }
        }
    }
}

impl Operator {
    async fn response(&self, session: &ServerSession) -> Response<Vec<u8>> {
        if let Err(refusal) = self.check(session) {
            return *refusal;
        }
        let request = session.req_header();
        if request.uri.path() == "/reload" {
            return self.reload(&request.method).await;
        }
        let bad = |what: String| page(StatusCode::BAD_REQUEST, TEXT, format!("refused: {what}\n"));
        let query = match Query::parse(request.uri.query().unwrap_or_default()) {
            Ok(query) => query,
            Err(what) => return bad(what),
        };
        match request.method {
            Method::GET => page(StatusCode::OK, JSON, streams::list(&self.takeover, query, &(self.mask)()).await),
            Method::DELETE => match query.check_for_ending() {
                Ok(()) => {
                    log::info!("streams ended by an operator: {}", request.uri.query().unwrap_or_default());
                    page(StatusCode::OK, JSON, streams::end(&self.takeover, query).await)
                }
                Err(what) => bad(what),
            },
            _ => {
                let refusal = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "refused: use GET or DELETE\n");
                with(refusal, header::ALLOW, "GET, DELETE")
            }
        }
    }

    async fn reload(&self, method: &Method) -> Response<Vec<u8>> {
        if method != Method::POST {
            let refusal = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "refused: use POST\n");
            return with(refusal, header::ALLOW, "POST");
        }
        let reload = self.reload.clone();
        match tokio::task::spawn_blocking(move || reload()).await {
            Ok((status, text)) => page(status, TEXT, text),
            Err(_) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the reload panicked; the log says where\n"),
        }
    }

    /// Whether the request may see and change what runs.
    fn check(&self, session: &ServerSession) -> Result<(), Box<Response<Vec<u8>>>> {
        let token = self.token_file.as_deref().map(access::read_token).transpose().map_err(|what| {
            log::error!("admin request refused: side=internal: admin.token_file names a file {what}");
            page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "refused: admin.token_file cannot be used; see the log\n")
        })?;
        let headers = &session.req_header().headers;
        let field = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let address = session.client_addr().and_then(|address| address.as_inet());
        let caller = Caller {
            is_local: self.is_unix || address.is_some_and(|address| address.ip().to_canonical().is_loopback()),
            host: field("host"),
            origin: field("origin"),
            fetch_site: field("sec-fetch-site"),
            authorization: field("authorization"),
        };
        access::check(caller, token.as_deref(), &self.host).map_err(|denied| {
            let status = StatusCode::from_u16(denied.status()).unwrap_or(StatusCode::FORBIDDEN);
            let refusal = page(status, TEXT, denied.text());
            let refusal =
                if denied == Denied::Token { with(refusal, header::WWW_AUTHENTICATE, "Bearer") } else { refusal };
            Box::new(refusal)
        })
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
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

fn with(mut response: Response<Vec<u8>>, name: HeaderName, value: &'static str) -> Response<Vec<u8>> {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}
