//! One target's turn: started anew, loaded step by step, read from outside at every step, and ended.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::clock::unix_us;
use crate::commands::request::RequestTemplate;
use crate::commands::run::busiest_share;
use crate::error::CommandError;
use crate::fleet::{Fleet, FleetError, Placement};
use crate::plan::Ramp;
use crate::protocol::Protocol;
use crate::report::figures::{Charged, Kernel, RoundFigures, User};
use crate::report::progress::Progress;
use crate::target::gauge::Reading;
use crate::target::kernel::KernelMemory;
use crate::target::{Service, StackConfig, Subject, Target, get, kernel, tree};
use crate::url::{Scheme, Url};
use crate::worker::{Command, Destination, Job, Snapshot};

/// How long memory is left alone before it is read.
const SETTLE: Duration = Duration::from_secs(1);
/// Between opening the gate and the first event: time for every stream to be told.
const GATE_LEAD: Duration = Duration::from_secs(1);
/// How long beyond its plan a ramp may take, and events may be on their way.
const PATIENCE: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const IN_FLIGHT: usize = 256;

/// The load, the same for every target.
#[derive(Debug, Clone)]
pub(super) struct Load {
    pub(super) low: u64,
    pub(super) streams: u64,
    pub(super) protocol: Protocol,
    pub(super) streams_per_connection: u64,
    pub(super) ramp_per_second: u64,
    pub(super) hold: Duration,
    pub(super) interval: Duration,
    pub(super) events: u64,
    pub(super) size: u64,
    pub(super) schedule: String,
    pub(super) processes: u64,
    pub(super) origin_threads: u16,
}

/// Where targets come from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// They are started for each turn.
    Start(StackConfig),
    /// They run already, with this origin behind them.
    Attach { services: Vec<Service>, origin: Url },
}

/// One target, about to be measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn<'a> {
    pub(super) target: Target,
    pub(super) source: &'a Source,
    pub(super) load: &'a Load,
}

/// What the traffic phase has shown.
struct Traffic {
    reading: Reading,
    cpu_us: Option<u64>,
    machine_share: f64,
    worker_share: Option<f64>,
}

impl Load {
    /// How long a turn takes, roughly.
    pub(super) fn length(&self) -> Duration {
        let ramp = Duration::from_secs(self.streams / self.ramp_per_second);
        ramp + SETTLE * 3
            + self.hold
            + GATE_LEAD
            + self.interval * u32::try_from(self.events + 1).unwrap_or(u32::MAX)
            + SETTLE
    }

    fn path(&self, gate: &str) -> String {
        let Self { interval, size, events, schedule, .. } = self;
        let us = interval.as_micros();
        // Over TLS and HTTP/2 nginx keeps a response head back until data follows it (seen with 1.22.1): streams that are
        // silent from the start would not open.
        let first = if self.protocol == Protocol::H2 { "&retry=3s" } else { "" };
        format!("/events?gate={gate}&interval={us}us&size={size}&count={events}&then=hold&schedule={schedule}{first}")
    }
}

impl Turn<'_> {
    /// Takes the turn. Dropping the future ends everything it has started.
    pub(super) async fn take(self, progress: &mut Progress<'_>, label: &str) -> Result<RoundFigures, CommandError> {
        let load = self.load;
        let directory = tempfile::Builder::new().prefix("sse-loadgen-").tempdir()?;
        progress.update(|| format!("{label}: starting"));
        let mut subject = self.subject(directory.path()).await?;
        // An origin that runs on knows the gates of earlier turns.
        let gate = format!("traffic-{}", unix_us());
        let mut fleet = Fleet::start(&self.job(&subject, &gate), &self.placement()?)?;

        // What ran already has the turn before to give back, and less than a core to do it with.
        let settle = if subject.is_started_here() { SETTLE } else { SETTLE * 3 };
        sleep(settle).await;
        let idle = subject.read().await?;
        self.open(&mut fleet, 0, load.low, progress, label).await?;
        watch(&mut fleet, settle).await?;
        let (low, low_kernel) = (subject.read().await?, machine_kernel(&subject)?);

        self.open(&mut fleet, load.low, load.streams, progress, label).await?;
        progress.update(|| {
            format!("{label}: {} streams silent for {}", load.streams, humantime::format_duration(load.hold))
        });
        watch(&mut fleet, load.hold).await?;
        subject.check()?;
        let (full, full_kernel) = (subject.read().await?, machine_kernel(&subject)?);

        let traffic = self.traffic(&mut fleet, &subject, &gate, progress, label).await?;
        subject.check()?;
        let record = fleet.finish(Some(load.events)).await?;
        subject.stop().await;
        Ok(RoundFigures {
            low: load.low,
            streams: load.streams,
            streams_per_connection: load.streams_per_connection,
            expected_events: load.streams * load.events,
            user: user([&idle, &low, &full, &traffic.reading]),
            kernel: low_kernel.zip(full_kernel).map(|(low, full)| Kernel { low, full }),
            charged: charged([&idle, &low, &full, &traffic.reading]),
            unread: traffic.reading.unread,
            cpu_us: traffic.cpu_us,
            machine_share: traffic.machine_share,
            worker_share: traffic.worker_share,
            record,
        })
    }

    /// Opens streams `from..to` and waits until all of them are open or have failed, or patience ends.
    async fn open(
        &self,
        fleet: &mut Fleet,
        from: u64,
        to: u64,
        progress: &mut Progress<'_>,
        label: &str,
    ) -> Result<(), CommandError> {
        let ramp = Ramp::PerSecond(self.load.ramp_per_second as f64);
        fleet.tell(Command::Open { from, to, ramp });
        let deadline = Instant::now() + ramp.length(to - from) + PATIENCE;
        while fleet.counts().open + fleet.ended() < to && Instant::now() < deadline {
            fleet.progress().await?;
            progress
                .update(|| format!("{label}: {} of {to} streams open, {} ended", fleet.counts().open, fleet.ended()));
        }
        Ok(())
    }

    /// Opens the gate, and watches from the first event that is due to the last that arrives.
    async fn traffic(
        &self,
        fleet: &mut Fleet,
        subject: &Subject,
        gate: &str,
        progress: &mut Progress<'_>,
        label: &str,
    ) -> Result<Traffic, CommandError> {
        let load = self.load;
        let at_us = unix_us() + GATE_LEAD.as_micros() as u64;
        let status = get(subject.origin, "POST", &format!("/gate?name={gate}&at={at_us}")).await?;
        if status != 200 {
            return Err(CommandError::Io(std::io::Error::other("the origin did not open its gate")));
        }
        watch(fleet, GATE_LEAD - Duration::from_millis(50)).await?;
        let (before, machine_before) = (subject.read().await?, tree::machine_ticks()?);
        let start = Instant::now();
        let workers_before: Vec<Snapshot> = fleet.snapshots().to_vec();
        let flow = load.interval * u32::try_from(load.events).unwrap_or(u32::MAX);
        let expected = fleet.counts().open * load.events;
        let mut reading = None;
        while fleet.counts().stamped < expected && start.elapsed() < flow + load.interval + PATIENCE {
            fleet.progress().await?;
            progress.update(|| format!("{label}: {} of {expected} events", fleet.counts().stamped));
            if reading.is_none() && start.elapsed() > flow.mul_f64(0.8) {
                reading = Some(subject.read().await?);
            }
        }
        let machine_after = tree::machine_ticks()?;
        let after = subject.read().await?;
        let cpu_us = after.cpu_us.zip(before.cpu_us).map(|(after, before)| after.saturating_sub(before));
        let total = machine_after.1.saturating_sub(machine_before.1).max(1);
        Ok(Traffic {
            reading: reading.unwrap_or(after),
            cpu_us,
            machine_share: machine_after.0.saturating_sub(machine_before.0) as f64 / total as f64,
            worker_share: busiest_share(&workers_before, fleet.snapshots()),
        })
    }

    async fn subject(&self, directory: &Path) -> Result<Subject, CommandError> {
        match self.source {
            Source::Start(stack) => {
                let Load { streams, origin_threads, .. } = *self.load;
                Ok(Subject::start(self.target, stack, streams, origin_threads, directory).await?)
            }
            Source::Attach { services, origin } => {
                let service = services.iter().find(|service| service.target == self.target);
                let service = service.ok_or_else(|| CommandError::Usage(format!("no service for {}", self.target)))?;
                Ok(Subject::attach(service, origin)?)
            }
        }
    }

    fn job(&self, subject: &Subject, gate: &str) -> Job {
        let template = RequestTemplate::get();
        let path = self.load.path(gate);
        let Load { protocol, streams_per_connection, .. } = *self.load;
        let scheme = if protocol.has_tls() { Scheme::Https } else { Scheme::Http };
        let destination = |(address, authority): &(SocketAddr, String)| {
            let url = Url { scheme, authority: authority.clone(), path: path.clone() };
            Destination { address: *address, server_name: url.host().to_owned(), request: template.request(&url) }
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

    fn placement(&self) -> Result<Placement, CommandError> {
        Ok(Placement::Processes { program: std::env::current_exe()?, count: self.load.processes })
    }
}

/// The machine's kernel memory, where what is measured runs on it.
fn machine_kernel(subject: &Subject) -> Result<Option<KernelMemory>, CommandError> {
    Ok(if subject.is_started_here() { Some(kernel::read()?) } else { None })
}

fn user([idle, low, full, traffic]: [&Reading; 4]) -> Option<User> {
    let (idle, low) = (idle.pss_bytes?, low.pss_bytes?);
    Some(User { idle, low, full: full.pss_bytes?, traffic: traffic.pss_bytes? })
}

fn charged([idle, low, full, traffic]: [&Reading; 4]) -> Option<Charged> {
    let (idle, low) = (idle.cgroup?, low.cgroup?);
    Some(Charged { idle, low, full: full.cgroup?, traffic: traffic.cgroup? })
}

/// Lets time pass without letting reports pile up.
async fn watch(fleet: &mut Fleet, time: Duration) -> Result<(), FleetError> {
    let deadline = Instant::now() + time;
    loop {
        tokio::select! {
            report = fleet.progress() => report?,
            () = tokio::time::sleep_until(deadline) => return Ok(()),
        }
    }
}
