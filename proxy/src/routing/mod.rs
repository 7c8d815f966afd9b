//! Decides what happens to a request before it is sent: refused, or served by a plan that names its route, the endpoints
//! to try, and what it occupies meanwhile.
//!
//! Both request paths ask here, with the same rules. A reactor cannot wait, so it may get the answer that the request is
//! left to Pingora, which can.

mod answered;
mod matcher;
mod table;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;
use pingora::http::RequestHeader;

use crate::takeover::{Carriage, ClientRules, Decision, InFlight, Permits, Plan, RefuseReason};

pub use answered::{Answered, RequestObserver};
pub use matcher::Matcher;
pub use table::{RouteEntry, RouteTable};

/// The table in force, and what is counted over all requests.
#[derive(Debug)]
pub struct Router {
    table: ArcSwap<RouteTable>,
    in_flight: Arc<AtomicUsize>,
}

impl Router {
    /// Decides by `table`.
    pub fn new(table: RouteTable) -> Self {
        Self { table: ArcSwap::from_pointee(table), in_flight: Arc::default() }
    }

    /// The table in force.
    pub fn table(&self) -> Arc<RouteTable> {
        self.table.load_full()
    }

    /// Decides by `table` from now on. Requests keep the plans that they have.
    pub fn replace(&self, table: RouteTable) {
        self.table.store(Arc::new(table));
    }

    /// The rules for clients in force.
    pub fn client_rules(&self) -> Arc<ClientRules> {
        self.table.load().rules().clone()
    }

    /// The number of requests whose responses have neither ended nor become streams.
    pub fn in_flight(&self) -> &Arc<AtomicUsize> {
        &self.in_flight
    }

    /// Counts a request about which nothing is decided yet.
    pub fn enter(&self) -> InFlight {
        InFlight::enter(&self.in_flight)
    }

    /// Decides for a reactor, without waiting. It serves only what may become a stream and goes to plain servers whose
    /// addresses are known.
    pub fn decide(&self, request: &RequestHeader) -> Decision {
        match self.table.load().select(request) {
            Err(reason) => Decision::Refuse(reason),
            Ok((_, Carriage::Page | Carriage::Upgrade)) => Decision::Leave,
            Ok((route, carriage)) => match route.upstream.plain_candidates() {
                None => Decision::Leave,
                Some(endpoints) => {
                    let permits = Permits { in_flight: self.enter() };
                    Decision::Serve(Plan { route: route.streams.clone(), carriage, endpoints, permits })
                }
            },
        }
    }

    /// Decides for Pingora, which serves everything. Waits for names that have never been resolved.
    ///
    /// # Errors
    /// The reason to refuse the request.
    pub async fn plan(&self, request: &RequestHeader) -> Result<Plan, RefuseReason> {
        let (route, carriage) = {
            let table = self.table.load();
            let (route, carriage) = table.select(request)?;
            (route.clone(), carriage)
        };
        let permits = Permits { in_flight: self.enter() };
        let endpoints = route.upstream.candidates().await;
        Ok(Plan { route: route.streams.clone(), carriage, endpoints, permits })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use pingora::http::Version;

    use super::*;
    use crate::config::StreamMode;
    use crate::driver;
    use crate::headers;
    use crate::stream::Policy;
    use crate::upstream::Upstream;

    /// Each route is named for its path, and each upstream for its route.
    fn router(routes: &[(&str, StreamMode, &[&str])]) -> Router {
        let route = |(path, stream, servers): &(&str, StreamMode, &[&str])| RouteEntry {
            matcher: Matcher::of_prefix(path),
            stream: *stream,
            upstream: Arc::new(Upstream::new(
                path,
                servers.iter().map(|server| server.parse().expect("server")).collect(),
            )),
            streams: driver::Route::new(*path, Policy::default(), Arc::new(())),
        };
        Router::new(RouteTable::new(routes.iter().map(route).collect()))
    }

    fn request(method: &str, target: &str, fields: &[(&'static str, &'static str)]) -> RequestHeader {
        let mut request = RequestHeader::build(method, target.as_bytes(), None).expect("request");
        for (name, value) in fields {
            request.append_header(*name, *value).expect("field");
        }
        request
    }

    /// A plan as the tables below name it: the route, how the response is carried, and the first endpoint.
    fn of_plan(plan: &Plan) -> String {
        let first = plan.endpoints.first().map(|endpoint| endpoint.address.to_string());
        format!("{} {:?} {}", plan.route.name, plan.carriage, first.as_deref().unwrap_or("nowhere"))
    }

    #[tokio::test]
    async fn both_paths_get_the_same_decision_or_a_reactor_leaves_it() {
        let server: &[&str] = &["127.0.0.1:1"];
        let router = router(&[
            ("/always", StreamMode::Always, server),
            ("/accept", StreamMode::Accept, server),
            ("/never", StreamMode::Never, server),
            ("/tls", StreamMode::Always, &["127.0.0.1:1", "https://127.0.0.1:2"]),
            ("/name", StreamMode::Always, &["localhost:1"]),
            ("/alway", StreamMode::Never, server),
        ]);
        let accept = ("Accept", "text/html, text/event-stream");
        let upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket")];
        let (leave, no_route) = ("leave", "refuse NoRoute");
        let cases = [
            // What is requested, what a reactor does with it, and Pingora where that is something else.
            (request("GET", "/always", &[]), "/always Stream 127.0.0.1:1", None),
            (request("POST", "/always/a?b", &[]), "/always Stream 127.0.0.1:1", None),
            (request("HEAD", "/always", &[]), leave, Some("/always Page 127.0.0.1:1")),
            (request("GET", "/always", &upgrade), leave, Some("/always Upgrade 127.0.0.1:1")),
            (request("GET", "/accept", &[accept]), "/accept Stream 127.0.0.1:1", None),
            (request("GET", "/accept", &[]), leave, Some("/accept Page 127.0.0.1:1")),
            (request("GET", "/never", &[accept]), leave, Some("/never Page 127.0.0.1:1")),
            (request("GET", "/never", &upgrade), leave, Some("/never Upgrade 127.0.0.1:1")),
            (request("GET", "/alway", &[]), leave, Some("/alway Page 127.0.0.1:1")),
            (request("GET", "/tls", &[]), leave, Some("/tls Stream 127.0.0.1:1")),
            (request("GET", "/name", &[]), leave, Some("/name Stream")),
            // The name is known by now.
            (request("GET", "/name", &[]), "/name Stream", None),
            (request("GET", "/", &[accept]), no_route, None),
            (request("OPTIONS", "*", &[]), no_route, None),
            (request("GET", "/Always", &upgrade), no_route, None),
        ];
        for (request, reactor, pingora) in cases {
            let what = format!("{} {}", request.method, String::from_utf8_lossy(request.raw_path()));
            let decided = match router.decide(&request) {
                Decision::Serve(plan) => of_plan(&plan),
                Decision::Refuse(reason) => format!("refuse {reason:?}"),
                Decision::Leave => leave.to_owned(),
            };
            assert!(decided.starts_with(reactor), "a reactor, {what}: {decided}");
            let decided = match router.plan(&request).await {
                Ok(plan) => of_plan(&plan),
                Err(reason) => format!("refuse {reason:?}"),
            };
            let pingora = pingora.unwrap_or(reactor);
            assert!(decided.starts_with(pingora), "Pingora, {what}: {decided}");
        }
        assert_eq!(router.in_flight().load(Ordering::Relaxed), 0, "every plan has been dropped");
    }

    #[tokio::test]
    async fn a_loop_is_refused_before_a_route_is_looked_for() {
        let router = router(&[("/events", StreamMode::Always, &["127.0.0.1:1"])]);
        for target in ["/events", "/nowhere"] {
            let mut request = request("GET", target, &[]);
            headers::add_via(&mut request, Version::HTTP_11).expect("field");
            assert!(matches!(router.decide(&request), Decision::Refuse(RefuseReason::Loop)), "{target}");
            assert!(matches!(router.plan(&request).await, Err(RefuseReason::Loop)), "{target}");
        }
    }

    #[tokio::test]
    async fn a_request_keeps_its_plan_when_the_table_is_replaced() {
        let router = router(&[("/", StreamMode::Always, &["127.0.0.1:1"])]);
        let Decision::Serve(plan) = router.decide(&request("GET", "/", &[])) else { panic!("not served") };
        assert_eq!(router.in_flight().load(Ordering::Relaxed), 1);
        let held = Arc::downgrade(&plan.route);
        router.replace(RouteTable::new(Vec::new()));
        assert_eq!(of_plan(&plan), "/ Stream 127.0.0.1:1");
        assert!(matches!(router.decide(&request("GET", "/", &[])), Decision::Refuse(RefuseReason::NoRoute)));
        assert!(matches!(router.plan(&request("GET", "/", &[])).await, Err(RefuseReason::NoRoute)));
        drop(plan);
        assert_eq!((router.in_flight().load(Ordering::Relaxed), held.strong_count()), (0, 0), "nothing is left");
    }
}
