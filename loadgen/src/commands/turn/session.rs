//! A running target with its clients: opens streams, waits, lets events flow, closes.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use super::load::{GATE_LEAD, Load, Source, Turn};
use crate::clock::unix_us;
use crate::commands::request::RequestTemplate;
use crate::commands::run::busiest_share;
use crate::error::CommandError;
use crate::fleet::{Fleet, FleetError, Placement};
use crate::protocol::ClientProtocol;
use crate::record::Record;
use crate::report::figures::PssSample;
use crate::report::opening::OpeningFigures;
use crate::report::progress::Progress;
use crate::target::gauge::Reading;
use crate::target::{Subject, get, tree};
use crate::url::Url;
use crate::worker::{Command, Destination, Job, Snapshot};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const IN_FLIGHT: usize = 256;
/// The slowest opening that is waited for, beside patience.
const SLOWEST_OPENING: Duration = Duration::from_millis(2);
/// Number of memory readings while events flow, evenly spread.
const SAMPLES: u32 = 10;

/// A target that runs, and the clients before it.
pub(super) struct Session<'a> {
    pub(super) subject: Subject,
    fleet: Fleet,
    load: &'a Load,
    label: &'a str,
    gate: String,
    /// Logs and configurations; removed with the session.
    _directory: TempDir,
}

/// What the traffic phase has shown.
pub(super) struct Traffic {
    /// At four fifths of the time.
    pub(super) reading: Reading,
    pub(super) samples: Vec<PssSample>,
    pub(super) cpu_us: Option<u64>,
    pub(super) machine_share: f64,
    pub(super) worker_share: Option<f64>,
    /// From the first event due to the last that came.
    pub(super) seconds: f64,
}

impl<'a> Session<'a> {
    /// Starts or finds the target; no stream is opened yet. Dropping it ends everything it has started.
    pub(super) async fn start(
        turn: Turn<'a>,
        label: &'a str,
        progress: &mut Progress<'_>,
    ) -> Result<Self, CommandError> {
        progress.update(|| format!("{label}: starting"));
        let directory = tempfile::Builder::new().prefix("sse-loadgen-").tempdir()?;
        let subject = subject(turn, directory.path()).await?;
        // An origin that runs on knows the gates of earlier turns.
        let gate = format!("traffic-{}", unix_us());
        let job = job(&subject, turn.load.client_protocol, &turn.load.path(&gate));
        let fleet = Fleet::start(&job, &placement(turn.load)?)?;
        Ok(Self { subject, fleet, load: turn.load, label, gate, _directory: directory })
    }

    /// Opens streams `from..to` and waits until all of them are open or have failed, or patience ends.
    pub(super) async fn open(
        &mut self,
        from: u64,
        to: u64,
        progress: &mut Progress<'_>,
    ) -> Result<OpeningFigures, CommandError> {
        let before = self.subject.read().await?;
        let us = open(&mut self.fleet, self.load, (from, to), self.label, progress).await?;
        let after = self.subject.read().await?;
        Ok(OpeningFigures {
            streams: to - from,
            us: (self.load.ramp_per_second == 0).then_some(us),
            cpu_us: spent(&before, &after),
        })
    }

    /// Lets time pass without letting reports pile up.
    pub(super) async fn watch(&mut self, time: Duration) -> Result<(), FleetError> {
        let deadline = Instant::now() + time;
        loop {
            tokio::select! {
                report = self.fleet.progress() => report?,
                () = tokio::time::sleep_until(deadline) => return Ok(()),
            }
        }
    }

    /// Opens the gates, and watches from the first event that is due to the last that arrives.
    pub(super) async fn traffic(&mut self, progress: &mut Progress<'_>) -> Result<Traffic, CommandError> {
        let (load, label) = (self.load, self.label);
        let at_us = unix_us() + GATE_LEAD.as_micros() as u64;
        for gate in &self.subject.gates {
            let status = get(*gate, "POST", &format!("/gate?name={}&at={at_us}", self.gate)).await?;
            if status != 200 {
                return Err(CommandError::Io(std::io::Error::other("the origin did not open its gate")));
            }
        }
        self.watch(GATE_LEAD - Duration::from_millis(50)).await?;
        let (before, machine_before) = (self.subject.read().await?, tree::machine_ticks()?);
        let start = Instant::now();
        let workers_before: Vec<Snapshot> = self.fleet.snapshots().to_vec();
        let flow = load.interval * u32::try_from(load.events).unwrap_or(u32::MAX);
        let expected = self.fleet.counts().open * load.events;
        let mut samples = Vec::new();
        let mut reading = None;
        let mut next = 1;
        while self.fleet.counts().stamped < expected && start.elapsed() < flow + load.interval + load.patience {
            self.fleet.progress().await?;
            progress.update(|| format!("{label}: {} of {expected} events", self.fleet.counts().stamped));
            if next < SAMPLES && start.elapsed() > flow * next / SAMPLES {
                next = (start.elapsed().as_secs_f64() / flow.as_secs_f64() * f64::from(SAMPLES)) as u32 + 1;
                let now = self.subject.read().await?;
                samples.extend(now.pss_bytes.map(|bytes| PssSample { seconds: start.elapsed().as_secs_f64(), bytes }));
                if reading.is_none() && start.elapsed() > flow.mul_f64(0.8) {
                    reading = Some(now);
                }
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let machine_after = tree::machine_ticks()?;
        let after = self.subject.read().await?;
        samples.extend(after.pss_bytes.map(|bytes| PssSample { seconds, bytes }));
        let total = machine_after.1.saturating_sub(machine_before.1).max(1);
        Ok(Traffic {
            cpu_us: spent(&before, &after),
            reading: reading.unwrap_or(after),
            samples,
            machine_share: machine_after.0.saturating_sub(machine_before.0) as f64 / total as f64,
            worker_share: busiest_share(&workers_before, self.fleet.snapshots()),
            seconds,
        })
    }

    /// Closes all streams; returns what the clients saw and what is left: the target without clients.
    pub(super) async fn close(self, expected: Option<u64>) -> Result<(Record, Closed<'a>), CommandError> {
        let record = self.fleet.finish(expected).await?;
        let Self { subject, load, label, _directory, .. } = self;
        Ok((record, Closed { subject, load, label, _directory }))
    }
}

/// A target that still runs after its clients have closed.
pub(super) struct Closed<'a> {
    pub(super) subject: Subject,
    load: &'a Load,
    label: &'a str,
    _directory: TempDir,
}

impl Closed<'_> {
    /// Opens `streams` silent streams at once with clients of their own, and closes them; returns how many were opened.
    pub(super) async fn burst(&mut self, streams: u64, progress: &mut Progress<'_>) -> Result<u64, CommandError> {
        let load = Load { ramp_per_second: 0, ..self.load.clone() };
        let job = job(&self.subject, load.client_protocol, &load.silent_path());
        let mut fleet = Fleet::start(&job, &placement(&load)?)?;
        open(&mut fleet, &load, (0, streams), self.label, progress).await?;
        Ok(fleet.finish(None).await?.counts.streams)
    }

    /// Ends the target.
    pub(super) async fn stop(self) {
        self.subject.stop().await;
    }
}

/// Has streams opened, and waits for it; returns how long that took by the clients' clocks, µs.
async fn open(
    fleet: &mut Fleet,
    load: &Load,
    (from, to): (u64, u64),
    label: &str,
    progress: &mut Progress<'_>,
) -> Result<u64, CommandError> {
    let ramp = load.ramp();
    let start_us = unix_us();
    fleet.send(Command::Open { from, to, ramp });
    let slowest = SLOWEST_OPENING * u32::try_from(to - from).unwrap_or(u32::MAX);
    let deadline = Instant::now() + ramp.length(to - from).max(slowest) + load.patience;
    let is_open = |fleet: &Fleet| {
        fleet.counts().open + fleet.ended() >= to
            && fleet.snapshots().iter().all(|snapshot| snapshot.opened_us >= start_us)
    };
    while !is_open(fleet) && Instant::now() < deadline {
        fleet.progress().await?;
        progress.update(|| format!("{label}: {} of {to} streams open, {} ended", fleet.counts().open, fleet.ended()));
    }
    let end_us = fleet.snapshots().iter().map(|snapshot| snapshot.opened_us).max().filter(|end_us| *end_us > start_us);
    Ok(end_us.unwrap_or_else(unix_us) - start_us)
}

async fn subject(turn: Turn<'_>, directory: &Path) -> Result<Subject, CommandError> {
    match turn.source {
        Source::Start(stack) => Ok(Subject::start(turn.target, stack, turn.load.origins, directory).await?),
        Source::Attach { services, origin } => {
            let service = services.iter().find(|service| service.target == turn.target);
            let service = service.ok_or_else(|| CommandError::Usage(format!("no service for {}", turn.target)))?;
            Ok(Subject::attach(service, origin).await?)
        }
    }
}

fn job(subject: &Subject, client_protocol: ClientProtocol, path: &str) -> Job {
    let ClientProtocol { protocol, streams_per_connection } = client_protocol;
    let template = RequestTemplate::get();
    let destination = |(address, authority): &(SocketAddr, String)| {
        let url = Url { scheme: protocol.scheme(), authority: authority.clone(), path: path.to_owned() };
        Destination { addresses: vec![*address], server_name: url.host().to_owned(), request: template.request(&url) }
    };
    Job {
        destinations: subject.entry.iter().map(destination).collect(),
        sources: Vec::new(),
        protocol,
        streams_per_connection,
        trust: subject.trust.clone(),
        connect_timeout: CONNECT_TIMEOUT,
        head_timeout: HEAD_TIMEOUT,
        in_flight: IN_FLIGHT,
        already: 0,
        worker: 0,
        workers: 1,
    }
}

fn placement(load: &Load) -> Result<Placement, CommandError> {
    Ok(Placement::Processes { program: std::env::current_exe()?, count: load.processes })
}

fn spent(before: &Reading, after: &Reading) -> Option<u64> {
    after.cpu_us.zip(before.cpu_us).map(|(after, before)| after.saturating_sub(before))
}
