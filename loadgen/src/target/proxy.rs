//! Starts sse-proxy with a configuration written for the occasion.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::entrance::Entrance;
use super::{Running, TargetError, address, probe};
use crate::protocol::Protocol;

/// An sse-proxy to start.
#[derive(Debug, Clone, Copy)]
pub(super) struct SseProxy<'a> {
    pub(super) program: &'a Path,
    pub(super) heartbeat: Duration,
    pub(super) entrance: &'a Entrance,
    /// Last byte of its loopback addresses.
    pub(super) host: u8,
}

impl SseProxy<'_> {
    /// Starts it in front of `upstreams`; returns it with its addresses when it is ready and passes requests on.
    pub(super) async fn start(
        &self,
        upstreams: &[SocketAddr],
        directory: &Path,
    ) -> Result<(Running, Vec<SocketAddr>), TargetError> {
        let name = "sse-proxy";
        let refuse = |source| TargetError::Start { program: name.to_owned(), source };
        let count = u8::try_from(upstreams.len()).unwrap_or(u8::MAX);
        let listen = address::free(self.host, count).map_err(refuse)?;
        let admin = address::free(self.host + 100, 1).map_err(refuse)?[0];
        let config = directory.join("sse-proxy.yaml");
        std::fs::write(&config, text(&listen, self.entrance, admin, upstreams, self.heartbeat)).map_err(refuse)?;
        let mut running = Running::start(name, self.program, &["--config".into(), config.into()], directory, false)?;
        let entry = listen[0];
        let is_ready = async |_: &Running| {
            matches!(probe::get(admin, "GET", "/readyz").await, Ok(200)) && probe::is_open(entry, self.entrance).await
        };
        running.ready(is_ready).await?;
        Ok((running, listen))
    }
}

fn text(
    listen: &[SocketAddr],
    entrance: &Entrance,
    admin: SocketAddr,
    upstreams: &[SocketAddr],
    heartbeat: Duration,
) -> String {
    let speaks = match &entrance.certificate {
        Some(certificate) => format!(", tls: {{cert: {:?}, key: {:?}}}", certificate.cert, certificate.key),
        None if entrance.protocol == Protocol::H2c => ", h2c: true".to_owned(),
        None => String::new(),
    };
    let list = |addresses: &[SocketAddr], each: &dyn Fn(&SocketAddr) -> String| {
        addresses.iter().map(each).collect::<Vec<_>>().join(", ")
    };
    format!(
        "listen: [{}]\nadmin: {{address: {admin}}}\nupstreams: {{origin: {{servers: [{}]}}}}\nroutes:\n  - match: {{path_prefix: /}}\n    \
         upstream: origin\n    stream: accept\n    heartbeat: {{interval: {}}}\n    timeouts: {{idle: 1h}}\n",
        list(listen, &|address| format!("{{address: {address}{speaks}}}")),
        list(upstreams, &ToString::to_string),
        humantime::format_duration(heartbeat),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_every_address() {
        let address = |text: &str| text.parse::<SocketAddr>().expect(text);
        let text = text(
            &[address("127.0.0.13:1"), address("127.0.1.13:2")],
            &Entrance::default(),
            address("127.0.0.113:3"),
            &[address("127.0.0.11:4"), address("127.0.1.11:5")],
            Duration::from_millis(2500),
        );
        assert_eq!(
            text,
            "listen: [{address: 127.0.0.13:1}, {address: 127.0.1.13:2}]\n\
             admin: {address: 127.0.0.113:3}\n\
             upstreams: {origin: {servers: [127.0.0.11:4, 127.0.1.11:5]}}\n\
             routes:\n  - match: {path_prefix: /}\n    upstream: origin\n    stream: accept\n    heartbeat: {interval: 2s 500ms}\n    \
             timeouts: {idle: 1h}\n"
        );
    }

    #[test]
    fn the_listener_speaks_what_the_clients_do() {
        let address: SocketAddr = "127.0.0.13:1".parse().expect("valid");
        let text = |entrance: &Entrance| text(&[address], entrance, address, &[address], Duration::from_secs(5));
        let h2c = Entrance { protocol: Protocol::H2c, certificate: None };
        assert!(text(&h2c).starts_with("listen: [{address: 127.0.0.13:1, h2c: true}]\n"));
        let directory = tempfile::tempdir().expect("a temporary directory");
        for protocol in [Protocol::Tls, Protocol::H2] {
            let entrance = Entrance::prepare(protocol, directory.path()).expect("writable");
            let expected = format!(
                "listen: [{{address: 127.0.0.13:1, tls: {{cert: \"{0}/certificate.pem\", key: \"{0}/key.pem\"}}}}]\n",
                directory.path().display()
            );
            assert!(text(&entrance).starts_with(&expected), "{}", text(&entrance));
        }
    }
}
