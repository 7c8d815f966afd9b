//! Takes a turn: opens streams in steps and reads the target's memory and CPU time at each step.

use std::time::Duration;

use tokio::time::sleep;

use super::load::{Load, Turn};
use super::session::{Closed, Session};
use super::stalled;
use crate::error::CommandError;
use crate::report::figures::{CgroupReadings, Churn, KernelReadings, PssReadings, RoundFigures, Stalled};
use crate::report::knee::StepFigures;
use crate::report::progress::Progress;
use crate::target::gauge::Reading;
use crate::target::kernel::KernelMemory;
use crate::target::{Subject, kernel};

/// How many streams of a churn are open at once, at most: a tenth of the whole, so that memory is read ten times.
const CHURN_BATCH: u64 = 1000;
const CHURN_PARTS: u64 = 10;
/// Clients that do not read: until what lies between them and the origin is full, and well before anyone gives up on them.
const STALL_HOLD: Duration = Duration::from_secs(5);
/// A target that has just been started, before it is tried at a rate.
const STEP_SETTLE: Duration = Duration::from_millis(300);

impl Turn<'_> {
    /// Takes the turn. Dropping the future ends everything it has started.
    pub(in crate::commands) async fn take(
        self,
        progress: &mut Progress<'_>,
        label: &str,
    ) -> Result<RoundFigures, CommandError> {
        let load = self.load;
        let mut session = Session::start(self, label, progress).await?;
        // What ran already has the turn before to give back, and less than a core to do it with.
        let settle = if session.subject.is_started_here() { load.settle } else { load.settle * 3 };
        session.watch(settle).await?;
        let idle = session.subject.read().await?;
        session.open(0, load.low, progress).await?;
        session.watch(settle).await?;
        let (low, low_kernel) = (session.subject.read().await?, machine_kernel(&session.subject)?);

        let opening = session.open(load.low, load.streams, progress).await?;
        let opened = session.subject.read().await?;
        progress.update(|| {
            format!("{label}: {} streams silent for {}", load.streams, humantime::format_duration(load.hold))
        });
        session.watch(load.hold).await?;
        session.subject.check()?;
        let (full, full_kernel) = (session.subject.read().await?, machine_kernel(&session.subject)?);

        let traffic = session.traffic(progress).await?;
        session.subject.check()?;
        let (record, mut target) = session.close(Some(load.events)).await?;
        progress.update(|| format!("{label}: all streams closed"));
        sleep(load.closed_settle()).await;
        let closed = target.subject.read().await?;
        let churn = if load.churn > 0 { Some(churn(&mut target, load, progress).await?) } else { None };
        let stalled =
            if load.stalled > 0 { Some(stall(&mut target, load.stalled, progress, label).await?) } else { None };
        target.stop().await;
        Ok(RoundFigures {
            low: load.low,
            streams: load.streams,
            streams_per_connection: load.client_protocol.streams_per_connection,
            expected_events: load.streams * load.events,
            user: user([&idle, &low, &full, &traffic.reading], &opened, &closed),
            samples: traffic.samples,
            kernel: low_kernel.zip(full_kernel).map(|(low, full)| KernelReadings { low, full }),
            charged: charged([&idle, &low, &full, &traffic.reading]),
            unread: traffic.reading.unread,
            opening,
            churn,
            stalled,
            expects_heartbeats: load.expects_heartbeats,
            cpu_us: traffic.cpu_us,
            machine_share: traffic.machine_share,
            worker_share: traffic.worker_share,
            record,
        })
    }

    /// Only what shows whether the target carries the events: no memory, no silence. Dropping the future ends everything.
    pub(in crate::commands) async fn step(
        self,
        progress: &mut Progress<'_>,
        label: &str,
    ) -> Result<StepFigures, CommandError> {
        let load = self.load;
        let mut session = Session::start(self, label, progress).await?;
        session.watch(STEP_SETTLE).await?;
        session.open(0, load.streams, progress).await?;
        let traffic = session.traffic(progress).await?;
        session.subject.check()?;
        let (record, target) = session.close(Some(load.events)).await?;
        target.stop().await;
        Ok(StepFigures {
            streams: load.streams,
            expected_events: load.streams * load.events,
            seconds: traffic.seconds,
            cpu_us: traffic.cpu_us,
            machine_share: traffic.machine_share,
            worker_share: traffic.worker_share,
            record,
        })
    }
}

/// Opens and closes `streams` in batches, and reads memory, if there is any to read, after each tenth of them.
async fn churn(target: &mut Closed<'_>, load: &Load, progress: &mut Progress<'_>) -> Result<Churn, CommandError> {
    let streams = load.churn;
    let batch = CHURN_BATCH.min(streams.div_ceil(CHURN_PARTS));
    let (mut asked, mut opened, mut user_bytes) = (0, 0, Vec::new());
    user_bytes.extend(target.subject.read().await?.pss_bytes);
    for part in 1..=CHURN_PARTS {
        while asked < streams * part / CHURN_PARTS {
            let now = batch.min(streams - asked);
            opened += target.burst(now, progress).await?;
            asked += now;
        }
        sleep(load.settle / 2).await;
        target.subject.check()?;
        user_bytes.extend(target.subject.read().await?.pss_bytes);
    }
    Ok(Churn { streams, opened, batch, user_bytes })
}

/// Opens `streams` that are flooded and never read, and reads memory when nothing moves any more.
async fn stall(
    target: &mut Closed<'_>,
    streams: u64,
    progress: &mut Progress<'_>,
    label: &str,
) -> Result<Stalled, CommandError> {
    let (before, kernel_before) = (target.subject.read().await?, machine_kernel(&target.subject)?);
    let clients = stalled::open(&target.subject.entry, streams).await;
    progress.update(|| format!("{label}: {} clients do not read", clients.len()));
    sleep(STALL_HOLD).await;
    let (after, kernel_after) = (target.subject.read().await?, machine_kernel(&target.subject)?);
    let opened = clients.len() as u64;
    drop(clients);
    let kernel = kernel_before.zip(kernel_after).map(|(before, after)| (before.bytes, after.bytes));
    Ok(Stalled::between(streams, opened, before.pss_bytes.zip(after.pss_bytes), kernel))
}

/// The machine's kernel memory, where what is measured runs on it.
fn machine_kernel(subject: &Subject) -> Result<Option<KernelMemory>, CommandError> {
    Ok(if subject.is_started_here() { Some(kernel::read()?) } else { None })
}

fn user([idle, low, full, traffic]: [&Reading; 4], opened: &Reading, closed: &Reading) -> Option<PssReadings> {
    let (idle, low) = (idle.pss_bytes?, low.pss_bytes?);
    let (full, traffic) = (full.pss_bytes?, traffic.pss_bytes?);
    Some(PssReadings { idle, low, full, traffic, opened: opened.pss_bytes, closed: closed.pss_bytes })
}

fn charged([idle, low, full, traffic]: [&Reading; 4]) -> Option<CgroupReadings> {
    let (idle, low) = (idle.cgroup?, low.cgroup?);
    Some(CgroupReadings { idle, low, full: full.cgroup?, traffic: traffic.cgroup? })
}
