//! The worker's loop: opens streams at their intended times, watches its own timers, reports, and stops on request.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, interval, sleep_until};

use super::job::{Command, Job, Report, Snapshot};
use super::prepared::{Message, Prepared};
use crate::client::connect::Route;
use crate::client::end::EndReason;
use crate::client::meter::StreamMeter;
use crate::client::stream::{self, Exchange, Request};
use crate::client::{Shared, http2};
use crate::clock::{thread_cpu_us, unix_us};
use crate::plan::{self, Ramp};
use crate::record::Record;

const REPORT_INTERVAL: Duration = Duration::from_millis(200);
/// Often enough to notice a loop that is held up, rarely enough to cost nothing.
const TIMER_CHECK: Duration = Duration::from_millis(10);
const SCRATCH_BYTES: usize = 64 * 1024;

struct Worker {
    job: Job,
    prepared: Prepared,
    shared: RefCell<Shared>,
    connecting: Arc<Semaphore>,
    /// Of each destination's addresses, the one that has accepted last.
    preferred: Vec<Cell<usize>>,
    /// When the last stream of a range had opened or failed, Unix µs.
    opened_us: Cell<u64>,
    /// The connection that takes the next streams, with its number.
    filling: RefCell<(u64, Rc<http2::Connection>)>,
}

/// Runs until `Finish` arrives or the command channel closes; the last report is the record. `prepared` belongs to this job.
pub async fn run(
    job: Job,
    prepared: Prepared,
    mut commands: mpsc::UnboundedReceiver<Command>,
    reports: mpsc::UnboundedSender<Report>,
) {
    let shared = RefCell::new(Shared::new(SCRATCH_BYTES));
    let connecting = Arc::new(Semaphore::new(job.in_flight.max(1)));
    let filling = RefCell::new((u64::MAX, Rc::default()));
    let preferred = job.destinations.iter().map(|_| Cell::new(0)).collect();
    let worker = Rc::new(Worker { job, prepared, shared, connecting, preferred, opened_us: Cell::new(0), filling });
    let serve = async {
        let mut tasks = JoinSet::new();
        tasks.spawn_local(watch_timers(Rc::clone(&worker)));
        let mut tick = interval(REPORT_INTERVAL);
        let expected = loop {
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(Command::Open { from, to, ramp }) => {
                        tasks.spawn_local(open(Rc::clone(&worker), from, to, ramp));
                    }
                    Some(Command::Finish { expected }) => break expected,
                    None => break None,
                },
                _ = tick.tick() => {
                    let _ = reports.send(Report::Progress(worker.snapshot()));
                }
            }
        };
        let record = worker.close(expected);
        let _ = reports.send(Report::Progress(worker.snapshot()));
        let _ = reports.send(Report::Finished(Box::new(record)));
    };
    LocalSet::new().run_until(serve).await;
}

impl Worker {
    fn snapshot(&self) -> Snapshot {
        let record = &self.shared.borrow().record;
        Snapshot {
            at_us: unix_us(),
            cpu_us: thread_cpu_us(),
            counts: record.counts,
            ended: record.ends.values().sum(),
            opened_us: self.opened_us.get(),
        }
    }

    fn close(&self, expected: Option<u64>) -> Record {
        let now_us = unix_us();
        let shared = &mut *self.shared.borrow_mut();
        for meter in &shared.meters {
            meter.close(now_us, expected, &mut shared.record);
        }
        shared.record.clone()
    }

    /// Runs stream `number` to its end; the tracks have a place for it at `slot`.
    async fn stream(&self, number: u64, slot: usize, due_us: u64, permit: OwnedSemaphorePermit) -> EndReason {
        let job = &self.job;
        let (connection, position) = plan::share(number, job.workers, job.streams_per_connection);
        let (source, destination) = plan::pair(connection, job.sources.len(), job.destinations.len());
        let to = &job.destinations[destination];
        let route = Route {
            source: source.map(|source| job.sources[source]),
            destinations: &to.addresses,
            preferred: &self.preferred[destination],
            tls: self.prepared.tls.as_ref().map(|tls| (tls, to.server_name.as_str())),
            timeout: job.connect_timeout,
            due_us,
        };
        let head_timeout = job.head_timeout;
        match &self.prepared.requests[destination] {
            Message::Http1(request) => {
                let exchange = Exchange::Http1 { request };
                stream::run(slot, Request { route, exchange, head_timeout }, permit, &self.shared).await
            }
            Message::Http2(request) => {
                let connection = self.connection(connection);
                let exchange = Exchange::Http2 { request, connection: &connection, position };
                stream::run(slot, Request { route, exchange, head_timeout }, permit, &self.shared).await
            }
        }
    }

    /// Connection `number`, new unless the stream before went there too.
    fn connection(&self, number: u64) -> Rc<http2::Connection> {
        let mut filling = self.filling.borrow_mut();
        if filling.0 != number {
            *filling = (number, Rc::default());
        }
        Rc::clone(&filling.1)
    }
}

/// Opens this worker's share of streams `from..to`, each at its intended time or as soon after as the limit on streams in the
/// making allows.
async fn open(worker: Rc<Worker>, from: u64, to: u64, ramp: Ramp) {
    let (start, start_us) = (Instant::now(), unix_us());
    let mut streams = JoinSet::new();
    let Job { worker: own, workers, .. } = worker.job;
    for number in (from..to).filter(|number| number % workers == own) {
        let offset = ramp.offset(number - from, to - from);
        // What it waits for its turn counts: a ramp that the target cannot keep up with would otherwise hide that.
        let due_us = start_us + offset.as_micros() as u64;
        sleep_until(start + offset).await;
        let Ok(permit) = Arc::clone(&worker.connecting).acquire_owned().await else { return };
        let worker = Rc::clone(&worker);
        let slot = {
            let meters = &mut worker.shared.borrow_mut().meters;
            meters.push(StreamMeter::after(worker.job.already, due_us));
            meters.len() - 1
        };
        streams.spawn_local(async move {
            let reason = worker.stream(number, slot, due_us, permit).await;
            *worker.shared.borrow_mut().record.ends.entry(reason.to_string()).or_default() += 1;
        });
        while streams.try_join_next().is_some() {}
    }
    // All permits are back when no stream is opening any more.
    let all = u32::try_from(worker.job.in_flight.max(1)).unwrap_or(u32::MAX);
    drop(worker.connecting.acquire_many(all).await);
    worker.opened_us.set(unix_us());
    while streams.join_next().await.is_some() {}
}

async fn watch_timers(worker: Rc<Worker>) {
    let mut due = Instant::now() + TIMER_CHECK;
    loop {
        sleep_until(due).await;
        let now = Instant::now();
        worker.shared.borrow_mut().record.timer_late_us.record(now.saturating_duration_since(due).as_micros() as u64);
        // Not from `now`: a loop that was held up for long is late for every check it missed, not only for one.
        due += TIMER_CHECK;
    }
}
