//! Settings that are valid and probably not meant.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::Problem;
use super::listen::{Admin, Listen};
use super::routes::{Route, StreamMode};
use super::upstreams::Upstream;
use super::values::{self, Network};
use crate::wire::proxy_protocol::ProxyProtocol;

/// Heartbeats at this interval or more do not prevent the idle timeouts of common load balancers (30 s and 60 s).
const LONG_HEARTBEAT: Duration = Duration::from_secs(30);

/// Of `listen`, `admin` and `trusted_proxies`.
pub(super) fn of_listeners(listeners: &[Listen], admin: Option<&Admin>, trusted: Option<&[Network]>) -> Vec<Problem> {
    let mut warnings = Vec::new();
    let addresses: Vec<&str> = listeners.iter().map(|listen| listen.address.as_str()).collect();
    for (at, address) in addresses.iter().enumerate() {
        // Each port 0 is another port.
        let earlier = addresses.iter().take(at).position(|earlier| earlier == address && !address.ends_with(":0"));
        if let Some(earlier) = earlier {
            let what = format!("is `{address}`, as listen[{earlier}].address is");
            warnings.push(Problem::new(&["listen", &at.to_string(), "address"], what, "remove one of the two"));
        }
    }
    let open = listeners.iter().position(|listen| listen.tls.is_none() && !values::is_loopback(&listen.address));
    if let (Some(at), None) = (open, trusted) {
        let what = format!(
            "is `{}`, which is open to other hosts without TLS, and trusted_proxies is not set: X-Forwarded-For, -Proto \
             and the like are replaced unless they come from this host",
            addresses[at]
        );
        let remedy = "name the proxies in front, or write `trusted_proxies: []` if there are none";
        warnings.push(Problem::new(&["listen", &at.to_string(), "address"], what, remedy));
    }
    let expects_header = |listen: &Listen| {
        listen.proxy_protocol != ProxyProtocol::Off && listen.tls.is_some() && !values::is_loopback(&listen.address)
    };
    if let (Some(at), None) = (listeners.iter().position(expects_header), trusted) {
        let what =
            "expects the PROXY protocol from other hosts, and trusted_proxies is not set: only this host may send it";
        let key = ["listen", &at.to_string(), "proxy_protocol"];
        warnings.push(Problem::new(&key, what, "name the proxies in front in trusted_proxies"));
    }
    if let Some(admin) = admin {
        if addresses.contains(&admin.address.as_str()) && !admin.address.ends_with(":0") {
            let what = format!("is `{}`, which is a listener's address, too", admin.address);
            warnings.push(Problem::new(&["admin", "address"], what, "give it a port of its own"));
        }
        if values::is_unspecified(&admin.address) {
            let what = format!("is `{}`: whoever reaches this machine reads the metrics", admin.address);
            let remedy =
                "write 127.0.0.1 or the address of a private network, unless a container or a firewall limits it";
            warnings.push(Problem::new(&["admin", "address"], what, remedy));
        }
    }
    let everybody = trusted.unwrap_or_default().iter().position(|network| network.0.prefix_len() == 0);
    if let Some(at) = everybody {
        let what = "trusts every peer: each client can forge its address, host and scheme";
        let remedy = "name the networks of the proxies in front, or write `trusted_proxies: []` if there are none";
        warnings.push(Problem::new(&["trusted_proxies", &at.to_string()], what, remedy));
    }
    warnings
}

/// Of `upstreams`.
pub(super) fn of_upstreams(upstreams: &BTreeMap<String, Upstream>) -> Vec<Problem> {
    let mut warnings = Vec::new();
    for (name, upstream) in upstreams {
        for (at, server) in upstream.servers.iter().enumerate() {
            let earlier = upstream.servers.iter().take(at).position(|earlier| earlier == server);
            if let Some(earlier) = earlier {
                let what = format!(
                    "is `{}:{}`, as servers[{earlier}] is: it gets two turns, and two tries when it fails",
                    server.host, server.port
                );
                let key = ["upstreams", name, "servers", &at.to_string()];
                warnings.push(Problem::new(&key, what, "remove one of the two"));
            }
        }
    }
    warnings
}

/// Of `routes`.
pub(super) fn of_routes(routes: &[Route]) -> Vec<Problem> {
    let mut warnings = Vec::new();
    for (at, route) in routes.iter().enumerate() {
        let mut found = of_match(route, &routes[..at]);
        found.extend(of_policy(route));
        found.extend(route.limits.warnings(route.stream != StreamMode::Never));
        let at = at.to_string();
        warnings.extend(found.into_iter().map(|problem| problem.under(&["routes", &at])));
    }
    warnings
}

fn of_match(route: &Route, earlier: &[Route]) -> Vec<Problem> {
    let mut warnings = Vec::new();
    let (key, path) = route.matches.path_key();
    if let Some(at) = earlier.iter().position(|earlier| earlier.matches.covers(&route.matches)) {
        let hider = &earlier[at].matches;
        let remedy = if route.matches.covers(hider) {
            "remove one of the two, or change what it matches".to_owned()
        } else {
            format!("move it before routes[{at}]")
        };
        warnings.push(match route.matches.is_prefix_only() && hider.is_prefix_only() {
            true => {
                let taken = &hider.path_prefix;
                let what = format!(
                    "is `{path}` and never reached: routes[{at}] comes first and takes all paths that begin with `{taken}`"
                );
                Problem::new(&["match", "path_prefix"], what, remedy)
            }
            false => {
                let what = format!("is never reached: routes[{at}] comes first and takes all of its requests");
                Problem::new(&["match"], what, remedy)
            }
        });
    }
    if let Some((before, _)) = path.split_once('*') {
        let what = format!("is `{path}`, and a `*` matches nothing but itself");
        let remedy = match (key, before.trim_end_matches('/')) {
            ("path_prefix", _) | (_, "") => format!("write `{before}`, which matches every path that begins with it"),
            (_, above) => format!("write `path_segment_prefix: {above}`, which matches all paths below it"),
        };
        warnings.push(Problem::new(&["match", key], what, remedy));
    }
    warnings
}

fn of_policy(route: &Route) -> Vec<Problem> {
    let mut warnings = Vec::new();
    let timeouts = &route.timeouts;
    let all = [timeouts.connect, timeouts.first_byte, timeouts.idle, timeouts.read, timeouts.write, timeouts.lifetime];
    if all.iter().all(|limit| limit.get().is_none()) {
        let what = "are all 0: a server or a client that hangs holds its connections for ever";
        warnings.push(Problem::new(
            &["timeouts"],
            what,
            "remove those that need not be 0, at least `idle` and `write`",
        ));
    } else if timeouts.write.get().is_none() {
        let what = "is 0, so a client that stops reading holds its stream until timeouts.idle";
        warnings.push(Problem::new(&["timeouts", "write"], what, "write a duration such as 30s"));
    }
    let Some(interval) = route.heartbeat.interval.get().filter(|_| route.stream != StreamMode::Never) else {
        return warnings;
    };
    let interval_key = ["heartbeat", "interval"];
    let shown = values::show(interval);
    if interval >= LONG_HEARTBEAT {
        let what = format!("is {shown}, and load balancers cut connections that are silent for 30 s or 60 s");
        warnings.push(Problem::new(&interval_key, what, "write 15s, or less than the shortest limit in front"));
    }
    if let Some(idle) = timeouts.idle.get().filter(|idle| *idle <= interval) {
        let what = format!(
            "is {shown}, and timeouts.idle is {}: a silent stream ends before its first heartbeat",
            values::show(idle)
        );
        warnings.push(Problem::new(&interval_key, what, "write less than timeouts.idle"));
    }
    if let Some(lifetime) = timeouts.lifetime.get().filter(|lifetime| *lifetime <= interval) {
        let what = format!(
            "is {}, and heartbeat.interval is {shown}: a silent stream ends before its first heartbeat",
            values::show(lifetime)
        );
        warnings.push(Problem::new(&["timeouts", "lifetime"], what, "write more than heartbeat.interval"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;

    /// Each setting with the key that is warned about and a part of the text; no key: no warning.
    #[test]
    fn settings_that_are_probably_not_meant_cause_a_warning() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("", &[]),
            ("listen: [{address: '127.0.0.1:8080'}, {address: '[::1]:8080'}, {address: 'localhost:8080'}]", &[]),
            ("listen: [{address: '127.0.0.1:0'}, {address: '127.0.0.1:0'}]", &[]),
            ("listen: [{address: '0.0.0.0:8080'}]", &[("listen[0].address", "trusted_proxies: []")]),
            ("listen: [{address: '[::]:8080'}]", &[("listen[0].address", "name the proxies in front")]),
            ("listen: [{address: '0.0.0.0:8443', tls: {cert: a, key: b}}]", &[]),
            ("listen: [{address: '0.0.0.0:8080'}]\ntrusted_proxies: []", &[]),
            (
                "listen: [{address: '0.0.0.0:1', tls: {cert: a, key: b}, proxy_protocol: required}]",
                &[("listen[0].proxy_protocol", "name the proxies in front")],
            ),
            ("listen: [{address: '127.0.0.1:1', tls: {cert: a, key: b}, proxy_protocol: optional}]", &[]),
            ("listen: [{address: '0.0.0.0:8080'}]\ntrusted_proxies: [10.0.0.0/8]", &[]),
            (
                "listen: [{address: '127.0.0.1:1'}, {address: '127.0.0.1:1'}]",
                &[("listen[1].address", "as listen[0].address")],
            ),
            (
                "listen: [{address: '127.0.0.1:1'}]\nadmin: {address: '127.0.0.1:1'}",
                &[("admin.address", "port of its own")],
            ),
            ("admin: {address: '0.0.0.0:9090'}", &[("admin.address", "127.0.0.1")]),
            ("admin: {address: '[::]:9090'}", &[("admin.address", "127.0.0.1")]),
            ("admin: {address: '10.0.0.1:9090'}", &[]),
            ("trusted_proxies: [10.0.0.0/8, 0.0.0.0/0]", &[("trusted_proxies[1]", "forge")]),
            ("trusted_proxies: ['::/0']", &[("trusted_proxies[0]", "forge")]),
            ("upstreams: {a: {servers: ['x:1', 'y:1', 'x:1']}}", &[("upstreams.a.servers[2]", "as servers[0]")]),
            ("upstreams: {a: {servers: ['x:1', 'https://x:1', 'x:2']}}", &[]),
            (
                "routes: [{stream: always}, {match: {path_prefix: /x}}]",
                &[("routes[1].match.path_prefix", "before routes[0]")],
            ),
            ("routes: [{match: {path_prefix: /x/y}}, {match: {path_prefix: /x}}, {}]", &[]),
            (
                "routes: [{match: {path_prefix: /x}}, {match: {path_prefix: /x/y}}]",
                &[("routes[1].match.path_prefix", "never reached")],
            ),
            (
                "routes: [{match: {path_prefix: /x}, name: a}, {match: {path_prefix: /x}, name: b}]",
                &[("routes[1].match.path_prefix", "remove one of the two, or change what it matches")],
            ),
            ("routes: [{match: {path_prefix: '/x/*'}}]", &[("routes[0].match.path_prefix", "write `/x/`")]),
            ("routes: [{match: {path: '/x/*'}}]", &[("routes[0].match.path", "write `path_segment_prefix: /x`")]),
            (
                "routes: [{match: {path_segment_prefix: '/x/*'}}]",
                &[("routes[0].match.path_segment_prefix", "write `path_segment_prefix: /x`")],
            ),
            (
                "routes: [{match: {path_segment_prefix: /x}}, {match: {path: /x/y, method: GET}}]",
                &[("routes[1].match", "routes[0] comes first and takes all of its requests; move it before routes[0]")],
            ),
            (
                "routes: [{match: {host: a.example}}, {match: {host: [A.example]}, name: b}]",
                &[("routes[1].match", "remove one of the two")],
            ),
            ("routes: [{match: {host: a.example}}, {match: {host: b.example}, name: b}, {name: c}]", &[]),
            (
                "routes: [{timeouts: {connect: 0, first_byte: 0, idle: 0, read: 0, write: 0}}]",
                &[("routes[0].timeouts", "all 0")],
            ),
            ("routes: [{timeouts: {write: 0}}]", &[("routes[0].timeouts.write", "30s")]),
            ("routes: [{heartbeat: {interval: 45s}}]", &[("routes[0].heartbeat.interval", "15s")]),
            ("routes: [{stream: never, heartbeat: {interval: 45s}}]", &[]),
            ("routes: [{timeouts: {idle: 10s}}]", &[("routes[0].heartbeat.interval", "less than timeouts.idle")]),
            ("routes: [{heartbeat: {interval: 0}, timeouts: {idle: 10s}}]", &[]),
            ("routes: [{limits: {streams: 9, streams_per_client: 3, client: {query: a}}}]", &[]),
            (
                "routes: [{limits: {streams: 9, streams_per_client: 9}}]",
                &[("routes[0].limits.streams_per_client", "less than limits.streams")],
            ),
            (
                "routes: [{limits: {streams: 9, client: {query: a}}}]",
                &[("routes[0].limits.client", "add streams_per_client")],
            ),
            ("routes: [{stream: never, limits: {streams: 9}}]", &[("routes[0].limits", "stream: never")]),
            (
                "routes: [{timeouts: {lifetime: 15s}}]",
                &[("routes[0].timeouts.lifetime", "more than heartbeat.interval")],
            ),
        ];
        for (text, wanted) in cases {
            let upstreams =
                if text.contains("upstreams") { "" } else { "\nupstreams: {app: {servers: [127.0.0.1:3000]}}" };
            let config = Config::parse(Path::new("test.yaml"), &format!("{text}{upstreams}")).expect("valid");
            let found: Vec<String> = config.warnings().iter().map(ToString::to_string).collect();
            assert_eq!(found.len(), wanted.len(), "{text}: {found:?}");
            for ((key, part), found) in wanted.iter().zip(&found) {
                assert!(found.starts_with(&format!("{key} ")) && found.contains(part), "{text}: {found}");
            }
        }
        let config = Config::for_upstream("127.0.0.1:3000", "0.0.0.0:8080", None).expect("valid");
        assert!(config.warnings().is_empty(), "no file to put trusted_proxies into");
    }
}
