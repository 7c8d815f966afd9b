//! What a turn of a comparison measures: programs that it has started, or services that run already.

use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;

use super::error::TargetError;
use super::gauge::{self, Reading};
use super::origins::{OriginSetup, Origins};
use super::probe;
use super::process::Running;
use super::stack::{Stack, StackConfig, Target, UnknownTarget};
use crate::client::tls::Trust;
use crate::url::{Url, UrlError};

/// A service that runs already, as `NAME=URL[,GAUGE_URL...]` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Which target it is.
    pub target: Target,
    /// Where clients connect to.
    pub url: Url,
    /// The gauges of the programs that streams pass through.
    pub gauges: Vec<Url>,
}

/// What is measured, ready for connections.
#[derive(Debug)]
pub struct Subject {
    /// Where clients connect to, with the `Host` to ask for.
    pub entry: Vec<(SocketAddr, String)>,
    /// Which certificates clients trust there.
    pub trust: Trust,
    /// Where the gates of the origins are, one for each.
    pub gates: Vec<SocketAddr>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Started { origins: Vec<Running>, stack: Stack },
    Attached { gauges: Vec<SocketAddr> },
}

impl FromStr for Service {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let refuse = |why: String| TargetError::Service { text: text.to_owned(), why };
        let (name, urls) = text.split_once('=').ok_or_else(|| refuse("expected NAME=URL[,GAUGE_URL...]".to_owned()))?;
        let target = name.parse().map_err(|error: UnknownTarget| refuse(error.to_string()))?;
        let urls = urls.split(',').map(str::parse).collect::<Result<Vec<Url>, UrlError>>();
        let mut urls = urls.map_err(|error| refuse(error.to_string()))?.into_iter();
        let url = urls.next().ok_or_else(|| refuse("expected a URL".to_owned()))?;
        let plain = |url: Url| url.plain().map_err(|error| refuse(error.to_string()));
        Ok(Self { target, url: plain(url)?, gauges: urls.map(plain).collect::<Result<_, _>>()? })
    }
}

impl Subject {
    /// Starts origins and a target in front of them.
    ///
    /// # Errors
    /// When one of them does not become ready.
    pub async fn start(
        target: Target,
        config: &StackConfig,
        origins: OriginSetup,
        directory: &Path,
    ) -> Result<Self, TargetError> {
        let origins = Origins::start(origins, directory).await?;
        let stack = Stack::start(target, config, &origins.addresses, directory).await?;
        let entry = stack.entry.iter().map(|address| (*address, stack.authority(*address))).collect();
        let trust = stack.trust();
        Ok(Self { entry, trust, gates: origins.gates, kind: Kind::Started { origins: origins.processes, stack } })
    }

    /// Finds a service that runs, and the origin behind it.
    ///
    /// # Errors
    /// When a name does not resolve.
    pub async fn attach(service: &Service, origin: &Url) -> Result<Self, UrlError> {
        let mut gauges = Vec::new();
        for gauge in &service.gauges {
            gauges.push(probe::accepting(&gauge.resolve()?).await);
        }
        let entry = vec![(probe::accepting(&service.url.resolve()?).await, service.url.authority.clone())];
        let gates = vec![probe::accepting(&origin.resolve()?).await];
        Ok(Self { entry, trust: Trust::System, gates, kind: Kind::Attached { gauges } })
    }

    /// Memory and CPU time of the target's programs; all `None` when there are none, or no gauge.
    ///
    /// # Errors
    /// When programs that were started here have ended or cannot be read, or a gauge does not answer.
    pub async fn read(&mut self) -> Result<Reading, TargetError> {
        match &mut self.kind {
            Kind::Started { stack, .. } => {
                // What has ended cannot be read either, but its log says more.
                stack.check()?;
                Ok(Reading { pss_bytes: stack.pss_bytes()?, cpu_us: stack.cpu_us()?, ..Reading::default() })
            }
            Kind::Attached { gauges } => {
                let mut total: Option<Reading> = None;
                for address in gauges {
                    let reading = gauge::ask(*address).await?;
                    total = Some(match total {
                        Some(total) => total.plus(reading),
                        None => reading,
                    });
                }
                Ok(total.unwrap_or_default())
            }
        }
    }

    /// Whether this process started it: then the machine's kernel memory says something about it.
    #[must_use]
    pub fn is_started_here(&self) -> bool {
        matches!(self.kind, Kind::Started { .. })
    }

    /// Whether what was started is still there.
    ///
    /// # Errors
    /// The program that is not.
    pub fn check(&mut self) -> Result<(), TargetError> {
        match &mut self.kind {
            Kind::Started { origins, stack } => {
                stack.check()?;
                origins.iter_mut().try_for_each(Running::check)
            }
            Kind::Attached { .. } => Ok(()),
        }
    }

    /// Ends what was started.
    pub async fn stop(self) {
        if let Kind::Started { origins, stack } = self.kind {
            stack.stop().await;
            for origin in origins {
                origin.stop().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_a_name_a_url_and_gauges() {
        let service: Service = "nginx+sse-proxy=http://front:8080,http://a:1,http://b:2".parse().expect("valid");
        assert_eq!((service.target, service.gauges.len()), (Target::NginxSseProxy, 2));
        assert_eq!(service.url.authority, "front:8080");
        for (text, expected) in [
            ("nginx", "NAME=URL"),
            ("apache=http://x", "targets are direct"),
            ("nginx=x:1", "expected http://"),
            ("nginx=http://x,y", "expected http://"),
        ] {
            let error = text.parse::<Service>().expect_err(text).to_string();
            assert!(error.contains(text) && error.contains(expected), "{error}");
        }
    }
}
