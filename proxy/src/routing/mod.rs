//! Decides what happens to a request before it is sent: refused, or served by a plan that names its route, the endpoints
//! to try, and what it occupies meanwhile.
//!
//! Both request paths ask here, with the same rules. A reactor cannot wait, so it may get the answer that the request is
//! left to Pingora, which can.

mod answered;
mod limits;
mod matcher;
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use pingora::http::RequestHeader;

use crate::driver::{StreamPermit, StreamRegistry};
use crate::headers::Client;
use crate::stream::Millis;
use crate::takeover::{Carriage, ClientRules, Decision, InFlight, Permits, Plan, RefuseReason};

pub use answered::{Answered, RequestObserver};
pub use limits::{ClientKey, StreamLimits};
pub use matcher::Matcher;
pub use table::{RouteEntry, RouteTable};

/// The table in force, and what is counted over all requests.
#[derive(Debug)]
pub struct Router {
    table: ArcSwap<RouteTable>,
    in_flight: Arc<AtomicUsize>,
    streams: Arc<StreamRegistry>,
}

impl Router {
    /// Decides by `table`.
    pub fn new(table: RouteTable) -> Self {
        Self { table: ArcSwap::from_pointee(table), in_flight: Arc::default(), streams: Arc::default() }
    }

    /// The same, with the streams of `registry` as those that are limited.
    #[must_use]
    pub fn counting(self, registry: Arc<StreamRegistry>) -> Self {
        Self { streams: registry, ..self }
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
    pub fn decide(&self, request: &RequestHeader, client: &Client, now: Millis) -> Decision {
        let table = self.table.load();
        match table.select(request) {
            Err(reason) => Decision::Refuse(reason),
            Ok((_, Carriage::Page | Carriage::Upgrade)) => Decision::Leave,
            Ok((route, carriage)) => match route.upstream.plain_candidates() {
                None => Decision::Leave,
                Some(endpoints) => match self.admit(&table, (route, request, client), now) {
                    Ok(stream) => {
                        let permits = Permits { in_flight: self.enter(), stream };
                        Decision::Serve(Plan { route: route.streams.clone(), carriage, endpoints, permits })
                    }
                    Err(reason) => Decision::Refuse(reason),
                },
            },
        }
    }

    /// Decides for Pingora, which serves everything. Waits for names that have never been resolved.
    ///
    /// # Errors
    /// The reason to refuse the request.
    pub async fn plan(&self, request: &RequestHeader, client: &Client, now: Millis) -> Result<Plan, RefuseReason> {
        let (route, carriage, stream) = {
            let table = self.table.load();
            let (route, carriage) = table.select(request)?;
            let stream = match carriage {
                Carriage::Stream => self.admit(&table, (route, request, client), now)?,
                Carriage::Page | Carriage::Upgrade => None,
            };
            (route.clone(), carriage, stream)
        };
        let permits = Permits { in_flight: self.enter(), stream };
        let endpoints = route.upstream.candidates().await;
        Ok(Plan { route: route.streams.clone(), carriage, endpoints, permits })
    }

    /// Decides whether a request may become a stream within the limits, and counts it.
    ///
    /// # Errors
    /// The reason to refuse it, counted and logged.
    fn admit(
        &self,
        table: &RouteTable,
        (route, request, client): (&RouteEntry, &RequestHeader, &Client),
        now: Millis,
    ) -> Result<Option<StreamPermit>, RefuseReason> {
        let (limits, request) = (&route.limits, (&*route.streams, request, client));
        let process = (&self.streams, table.most_streams(), self.in_flight.load(Ordering::Relaxed));
        limits.admit(request, process, now).map_err(|limit| limits.refuse(limit, request))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pingora::http::Version;

    use super::*;
    use crate::config::StreamMode;
    use crate::driver;
    use crate::headers;
    use crate::limits::{ClientLimits, Limit, Rate};
    use crate::stream::Policy;
    use crate::upstream::Upstream;

    fn route((path, stream, servers): &(&str, StreamMode, &[&str])) -> RouteEntry {
        let servers = servers.iter().map(|server| server.parse().expect("server")).collect();
        RouteEntry {
            matcher: Matcher::of_prefix(path),
            stream: *stream,
            upstream: Arc::new(Upstream::new(path, servers)),
            streams: driver::Route::new(*path, Policy::default(), Arc::new(())),
            limits: StreamLimits::default(),
        }
    }

    /// Each route is named for its path, and each upstream for its route.
    fn router(routes: &[(&str, StreamMode, &[&str])]) -> Router {
        Router::new(RouteTable::new(routes.iter().map(route).collect()))
    }

    const CLIENT: Client = Client { address: None, via_trusted_proxy: false };

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
            let decided = match router.decide(&request, &CLIENT, Millis(0)) {
                Decision::Serve(plan) => of_plan(&plan),
                Decision::Refuse(reason) => format!("refuse {reason:?}"),
                Decision::Leave => leave.to_owned(),
            };
            assert!(decided.starts_with(reactor), "a reactor, {what}: {decided}");
            let decided = match router.plan(&request, &CLIENT, Millis(0)).await {
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
            assert!(
                matches!(router.decide(&request, &CLIENT, Millis(0)), Decision::Refuse(RefuseReason::Loop)),
                "{target}"
            );
            assert!(matches!(router.plan(&request, &CLIENT, Millis(0)).await, Err(RefuseReason::Loop)), "{target}");
        }
    }

    #[tokio::test]
    async fn a_request_keeps_its_plan_when_the_table_is_replaced() {
        let router = router(&[("/", StreamMode::Always, &["127.0.0.1:1"])]);
        let Decision::Serve(plan) = router.decide(&request("GET", "/", &[]), &CLIENT, Millis(0)) else {
            panic!("not served")
        };
        assert_eq!(router.in_flight().load(Ordering::Relaxed), 1);
        let held = Arc::downgrade(&plan.route);
        router.replace(RouteTable::new(Vec::new()));
        assert_eq!(of_plan(&plan), "/ Stream 127.0.0.1:1");
        assert!(matches!(
            router.decide(&request("GET", "/", &[]), &CLIENT, Millis(0)),
            Decision::Refuse(RefuseReason::NoRoute)
        ));
        assert!(matches!(router.plan(&request("GET", "/", &[]), &CLIENT, Millis(0)).await, Err(RefuseReason::NoRoute)));
        drop(plan);
        assert_eq!((router.in_flight().load(Ordering::Relaxed), held.strong_count()), (0, 0), "nothing is left");
    }

    /// What a request for `/` gets from a reactor, and from Pingora, at `now`: a plan, or the limit that refuses it.
    async fn decide(router: &Router, client: &str, now: u64, by_reactor: bool) -> Result<Plan, Limit> {
        let (request, now) = (request("GET", "/", &[]), Millis(now));
        let client = Client { address: client.parse().ok(), via_trusted_proxy: false };
        let decided = match by_reactor {
            true => match router.decide(&request, &client, now) {
                Decision::Serve(plan) => Ok(plan),
                Decision::Refuse(reason) => Err(reason),
                Decision::Leave => panic!("left to Pingora"),
            },
            false => router.plan(&request, &client, now).await,
        };
        decided.map_err(|reason| match reason {
            RefuseReason::Limited(limit, _) => limit,
            other => panic!("{other:?}"),
        })
    }

    #[tokio::test]
    async fn each_limit_holds_on_both_paths_and_a_request_that_ends_gives_back_what_it_took() {
        let minute = Duration::from_secs(60);
        let none = StreamLimits::default;
        let clients = |streams, rate| ClientLimits { streams, rate };
        let cases = [
            (Some(2), none(), Limit::All),
            (None, StreamLimits { streams: Some(2), ..none() }, Limit::Streams),
            (None, StreamLimits { client: clients(Some(2), None), ..none() }, Limit::StreamsPerClient),
            (None, StreamLimits { rate: Some(Rate::new(2, minute)), ..none() }, Limit::OpeningRate),
            (
                None,
                StreamLimits { client: clients(None, Some(Rate::new(2, minute))), ..none() },
                Limit::OpeningRatePerClient,
            ),
        ];
        for (all, limits, limit) in cases {
            let mut route = route(&("/", StreamMode::Always, &["127.0.0.1:1"]));
            route.limits = limits;
            let totals = route.streams.totals.clone();
            let router = Router::new(RouteTable::new(vec![route]).with_most_streams(all));
            let is_rate = matches!(limit, Limit::OpeningRate | Limit::OpeningRatePerClient);
            let of_client = matches!(limit, Limit::StreamsPerClient | Limit::OpeningRatePerClient);
            let one = decide(&router, "192.0.2.1:1", 0, true).await.expect("the first");
            let two = decide(&router, "192.0.2.1:2", 0, false).await.expect("the second");
            for by_reactor in [true, false] {
                let refused = decide(&router, "192.0.2.1:3", 0, by_reactor).await;
                assert_eq!(refused.expect_err("the third"), limit);
                let other = decide(&router, "192.0.2.2:1", 0, by_reactor).await;
                assert_eq!(other.err(), (!of_client).then_some(limit), "another client, {limit:?}");
            }
            drop((one, two));
            let again = decide(&router, "192.0.2.1:3", 1, true).await;
            assert_eq!(again.err(), is_rate.then_some(limit), "once the others have ended, {limit:?}");
            assert!(decide(&router, "192.0.2.1:3", 60_000, false).await.is_ok(), "a minute later, {limit:?}");
            let counted = if of_client { 2 } else { 4 } + u64::from(is_rate);
            assert_eq!(totals.limits().refused(limit), counted, "{limit:?}");
            assert_eq!(router.in_flight().load(Ordering::Relaxed), 0);
        }
    }
}
