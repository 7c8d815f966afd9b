//! One target's turn: started anew, loaded step by step, read from outside at every step, and ended.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::clock::unix_us;
use crate::commands::request::RequestTemplate;
use crate::commands::run::busiest_share;
use crate::error::CommandError;
use crate::fleet::{Fleet, FleetError, Placement};
use crate::plan::Ramp;
use crate::report::figures::{Kernel, RoundFigures, User};
use crate::report::progress::Progress;
use crate::target::{Stack, StackConfig, Target, get, kernel, start_origin, tree};
use crate::url::Url;
use crate::worker::{Command, Destination, Job, Snapshot};

const GATE: &str = "traffic";
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
    pub(super) ramp_per_second: u64,
    pub(super) hold: Duration,
    pub(super) interval: Duration,
    pub(super) events: u64,
    pub(super) size: u64,
    pub(super) schedule: String,
    pub(super) processes: u64,
    pub(super) origin_threads: u16,
}

/// One target, about to be measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn<'a> {
    pub(super) target: Target,
    pub(super) stack: &'a StackConfig,
    pub(super) load: &'a Load,
}

/// What the traffic phase has shown.
struct Traffic {
    pss: Option<u64>,
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

    fn path(&self) -> String {
        let Self { interval, size, events, schedule, .. } = self;
        let us = interval.as_micros();
        format!("/events?gate={GATE}&interval={us}us&size={size}&count={events}&then=hold&schedule={schedule}")
    }
}

impl Turn<'_> {
    /// Takes the turn. Dropping the future ends everything it has started.
    pub(super) async fn take(self, progress: &mut Progress<'_>, label: &str) -> Result<RoundFigures, CommandError> {
        let load = self.load;
        let directory = tempfile::Builder::new().prefix("sse-loadgen-").tempdir()?;
        progress.update(|| format!("{label}: starting"));
        let (origin, origin_addresses) = start_origin(load.streams, load.origin_threads, directory.path()).await?;
        let mut stack = Stack::start(self.target, self.stack, &origin_addresses, directory.path()).await?;
        let mut fleet = Fleet::start(&self.job(&stack.entry), &self.placement()?)?;

        sleep(SETTLE).await;
        let idle = stack.pss_bytes()?;
        self.open(&mut fleet, 0, load.low, progress, label).await?;
        watch(&mut fleet, SETTLE).await?;
        let (low_pss, low_kernel) = (stack.pss_bytes()?, kernel::read()?);

        self.open(&mut fleet, load.low, load.streams, progress, label).await?;
        progress.update(|| {
            format!("{label}: {} streams silent for {}", load.streams, humantime::format_duration(load.hold))
        });
        watch(&mut fleet, load.hold).await?;
        stack.check()?;
        let (full_pss, full_kernel) = (stack.pss_bytes()?, kernel::read()?);

        let traffic = self.traffic(&mut fleet, &stack, &origin_addresses, progress, label).await?;
        stack.check()?;
        let record = fleet.finish(Some(load.events)).await?;
        stack.stop().await;
        origin.stop().await;
        let user = match (idle, low_pss, full_pss, traffic.pss) {
            (Some(idle), Some(low), Some(full), Some(traffic)) => Some(User { idle, low, full, traffic }),
            _ => None,
        };
        Ok(RoundFigures {
            low: load.low,
            streams: load.streams,
            expected_events: load.streams * load.events,
            user,
            kernel: Kernel { low: low_kernel, full: full_kernel },
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
        stack: &Stack,
        origin: &[SocketAddr],
        progress: &mut Progress<'_>,
        label: &str,
    ) -> Result<Traffic, CommandError> {
        let load = self.load;
        let at_us = unix_us() + GATE_LEAD.as_micros() as u64;
        let status = get(origin[0], "POST", &format!("/gate?name={GATE}&at={at_us}")).await?;
        if status != 200 {
            return Err(CommandError::Io(std::io::Error::other("the origin did not open its gate")));
        }
        watch(fleet, GATE_LEAD - Duration::from_millis(50)).await?;
        let (start, cpu_before, machine_before) = (Instant::now(), stack.cpu_us()?, tree::machine_ticks()?);
        let workers_before: Vec<Snapshot> = fleet.snapshots().to_vec();
        let flow = load.interval * u32::try_from(load.events).unwrap_or(u32::MAX);
        let expected = fleet.counts().open * load.events;
        let mut pss = None;
        while fleet.counts().stamped < expected && start.elapsed() < flow + load.interval + PATIENCE {
            fleet.progress().await?;
            progress.update(|| format!("{label}: {} of {expected} events", fleet.counts().stamped));
            if pss.is_none() && start.elapsed() > flow.mul_f64(0.8) {
                pss = Some(stack.pss_bytes()?);
            }
        }
        let machine_after = tree::machine_ticks()?;
        let cpu_us = stack.cpu_us()?.zip(cpu_before).map(|(after, before)| after.saturating_sub(before));
        let total = machine_after.1.saturating_sub(machine_before.1).max(1);
        Ok(Traffic {
            pss: match pss {
                Some(pss) => pss,
                None => stack.pss_bytes()?,
            },
            cpu_us,
            machine_share: machine_after.0.saturating_sub(machine_before.0) as f64 / total as f64,
            worker_share: busiest_share(&workers_before, fleet.snapshots()),
        })
    }

    fn job(&self, entry: &[SocketAddr]) -> Job {
        let template = RequestTemplate::get();
        let path = self.load.path();
        let destination = |address: &SocketAddr| {
            let url = Url { authority: address.to_string(), path: path.clone() };
            Destination { address: *address, request: template.bytes(&url) }
        };
        Job {
            destinations: entry.iter().map(destination).collect(),
            sources: Vec::new(),
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
