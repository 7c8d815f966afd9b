//! Starts sse-proxy with a generated configuration.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::error::TargetError;
use super::listener_spec::ListenerSpec;
use super::process::Running;
use super::{address, probe};
use crate::protocol::Protocol;

/// An sse-proxy to start.
#[derive(Debug, Clone, Copy)]
pub(super) struct SseProxy<'a> {
    pub(super) program: &'a Path,
    pub(super) heartbeat: Duration,
    pub(super) listener_spec: &'a ListenerSpec,
    /// So many processes share the addresses; `None` for one that has the machine to itself.
    pub(super) workers: Option<u64>,
    /// Last byte of its loopback addresses.
    pub(super) host: u8,
}

/// What is written into a configuration.
struct Setup<'a> {
    listen: &'a [SocketAddr],
    listener_spec: &'a ListenerSpec,
    admin: SocketAddr,
    upstreams: &'a [SocketAddr],
    heartbeat: Duration,
    /// Threads of a process that shares its addresses with others.
    shared_threads: Option<u64>,
}

impl SseProxy<'_> {
    /// Starts it in front of `upstreams`; returns its processes with their addresses when all are ready and pass requests on.
    pub(super) async fn start(
        &self,
        upstreams: &[SocketAddr],
        directory: &Path,
    ) -> Result<(Vec<Running>, Vec<SocketAddr>), TargetError> {
        let refuse = |source| TargetError::Start { program: "sse-proxy".to_owned(), source };
        let count = u8::try_from(upstreams.len()).unwrap_or(u8::MAX);
        let processes = u8::try_from(self.workers.unwrap_or(1)).unwrap_or(u8::MAX);
        let listen = address::free(self.host, count).map_err(refuse)?;
        let admins = address::free(self.host + 100, processes).map_err(refuse)?;
        // Together they use the machine's cores, as one process would.
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        let shared_threads = self.workers.map(|workers| (cores / workers).max(1));
        let mut all = Vec::new();
        for (number, admin) in admins.into_iter().enumerate() {
            let name = format!("sse-proxy-{}", number + 1);
            let config = directory.join(format!("{name}.yaml"));
            let Self { listener_spec, heartbeat, .. } = *self;
            let setup = Setup { listen: &listen, listener_spec, admin, upstreams, heartbeat, shared_threads };
            std::fs::write(&config, setup.text()).map_err(refuse)?;
            let mut running =
                Running::start(&name, self.program, &["--config".into(), config.into()], directory, false)?;
            let entry = listen[0];
            let is_ready = async |_: &Running| {
                matches!(probe::get(admin, "GET", "/readyz").await, Ok(200))
                    && probe::is_open(entry, listener_spec).await
            };
            running.ready(is_ready).await?;
            all.push(running);
        }
        Ok((all, listen))
    }
}

impl Setup<'_> {
    fn text(&self) -> String {
        let Self { admin, heartbeat, .. } = self;
        let list = |addresses: &[SocketAddr], each: &dyn Fn(&SocketAddr) -> String| {
            addresses.iter().map(each).collect::<Vec<_>>().join(", ")
        };
        let speaks = match &self.listener_spec.certificate {
            Some(certificate) => format!(", tls: {{cert: {:?}, key: {:?}}}", certificate.cert, certificate.key),
            None if self.listener_spec.client_protocol.protocol == Protocol::H2c => ", h2c: true".to_owned(),
            None => String::new(),
        };
        let reuse_port = if self.shared_threads.is_some() { ", reuse_port: true" } else { "" };
        let threads = self.shared_threads.map(|threads| format!("threads: {threads}\n")).unwrap_or_default();
        format!(
            "listen: [{}]\nadmin: {{address: {admin}}}\n{threads}upstreams: {{origin: {{servers: [{}]}}}}\nroutes:\n  - match: \
             {{path_prefix: /}}\n    upstream: origin\n    stream: accept\n    heartbeat: {{interval: {}}}\n    timeouts: \
             {{idle: 1h}}\n",
            list(self.listen, &|address| format!("{{address: {address}{speaks}{reuse_port}}}")),
            list(self.upstreams, &ToString::to_string),
            humantime::format_duration(*heartbeat),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ClientProtocol;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect(text)
    }

    #[test]
    fn the_configuration_names_every_address() {
        let (listen, upstreams) =
            ([address("127.0.0.13:1"), address("127.0.1.13:2")], [address("127.0.0.11:4"), address("127.0.1.11:5")]);
        let mut setup = Setup {
            listen: &listen,
            listener_spec: &ListenerSpec::default(),
            admin: address("127.0.0.113:3"),
            upstreams: &upstreams,
            heartbeat: Duration::from_millis(2500),
            shared_threads: None,
        };
        assert_eq!(
            setup.text(),
            "listen: [{address: 127.0.0.13:1}, {address: 127.0.1.13:2}]\n\
             admin: {address: 127.0.0.113:3}\n\
             upstreams: {origin: {servers: [127.0.0.11:4, 127.0.1.11:5]}}\n\
             routes:\n  - match: {path_prefix: /}\n    upstream: origin\n    stream: accept\n    heartbeat: {interval: 2s 500ms}\n    \
             timeouts: {idle: 1h}\n"
        );
        setup.shared_threads = Some(1);
        let text = setup.text();
        assert_eq!(text.matches("reuse_port: true").count(), 2, "{text}");
        assert!(text.contains("\nthreads: 1\n"), "{text}");
    }

    #[test]
    fn the_listener_speaks_what_the_clients_do() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let address = address("127.0.0.13:1");
        let text = |protocol| {
            let listener_spec =
                ListenerSpec::prepare(ClientProtocol::new(protocol, None), directory.path()).expect("writable");
            let (heartbeat, shared_threads) = (Duration::from_secs(5), None);
            let (listener_spec, listen) = (&listener_spec, &[address][..]);
            Setup { listen, listener_spec, admin: address, upstreams: listen, heartbeat, shared_threads }.text()
        };
        let expected = |speaks: &str| format!("listen: [{{address: 127.0.0.13:1{speaks}}}]\n");
        assert!(text(Protocol::H2c).starts_with(&expected(", h2c: true")));
        let path = directory.path().display();
        let tls = expected(&format!(", tls: {{cert: \"{path}/certificate.pem\", key: \"{path}/key.pem\"}}"));
        assert!(text(Protocol::Tls).starts_with(&tls) && text(Protocol::H2).starts_with(&tls), "{tls}");
    }
}
