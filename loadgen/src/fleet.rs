//! All workers of a run, threads or processes: sends them commands and adds up their reports.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command as Process};
use tokio::sync::mpsc;

use crate::record::{Counts, Record};
use crate::worker::{self, Command, Job, PrepareError, Prepared, Report, Snapshot};

/// Records of full histograms are small, but a machine under load may be slow to hand them over.
const FINISH_DEADLINE: Duration = Duration::from_secs(60);

/// Where the workers run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// One thread of this process.
    Thread,
    /// So many processes of this program.
    Processes {
        /// The program: this one.
        program: PathBuf,
        /// How many.
        count: u64,
    },
}

/// Why there is no result.
#[derive(Debug, Error)]
pub enum FleetError {
    /// A worker could not be started.
    #[error("cannot start a worker")]
    Start(#[source] std::io::Error),
    /// A worker cannot do its job.
    #[error("cannot start a worker")]
    Prepare(#[from] PrepareError),
    /// A worker has ended.
    #[error("worker {0} ended without a report")]
    Lost(usize),
    /// The workers did not report in time.
    #[error("the workers did not report within {}s", FINISH_DEADLINE.as_secs())]
    Silent,
}

/// Running workers. They end when this is dropped.
#[derive(Debug)]
pub struct Fleet {
    workers: Vec<mpsc::UnboundedSender<Command>>,
    reports: mpsc::UnboundedReceiver<(usize, Option<Report>)>,
    latest: Vec<Snapshot>,
    children: Vec<Child>,
}

impl Fleet {
    /// Starts the workers; nothing is opened yet.
    ///
    /// # Errors
    /// When a thread or process cannot be started.
    pub fn start(job: &Job, placement: &Placement) -> Result<Self, FleetError> {
        let (report_sender, reports) = mpsc::unbounded_channel();
        let mut fleet = Self { workers: Vec::new(), reports, latest: Vec::new(), children: Vec::new() };
        match placement {
            Placement::Thread => fleet.start_thread(job.for_worker(0, 1), report_sender)?,
            Placement::Processes { program, count } => {
                for worker in 0..*count {
                    fleet.start_process(&job.for_worker(worker, *count), program, report_sender.clone())?;
                }
            }
        }
        fleet.latest = vec![Snapshot::default(); fleet.workers.len()];
        Ok(fleet)
    }

    /// Sends a command to all workers.
    pub fn send(&self, command: Command) {
        for worker in &self.workers {
            // A worker that has ended is noticed by its missing report.
            let _ = worker.send(command);
        }
    }

    /// Waits for the next report of any worker. Cancel-safe.
    ///
    /// # Errors
    /// When a worker has ended.
    pub async fn progress(&mut self) -> Result<(), FleetError> {
        match self.reports.recv().await {
            Some((worker, Some(Report::Progress(snapshot)))) => {
                self.latest[worker] = snapshot;
                Ok(())
            }
            Some((worker, _)) => Err(FleetError::Lost(worker)),
            None => Err(FleetError::Lost(0)),
        }
    }

    /// The latest counters of all workers together.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for snapshot in &self.latest {
            counts.merge(snapshot.counts);
        }
        counts
    }

    /// How many streams failed or ended so far.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.latest.iter().map(|snapshot| snapshot.ended).sum()
    }

    /// The latest snapshot of each worker.
    #[must_use]
    pub fn snapshots(&self) -> &[Snapshot] {
        &self.latest
    }

    /// Stops all workers and merges their records.
    ///
    /// # Errors
    /// When one of them does not report.
    pub async fn finish(mut self, expected: Option<u64>) -> Result<Record, FleetError> {
        self.send(Command::Finish { expected });
        let collect = async {
            let mut record = Record::default();
            let mut has_reported = vec![false; self.workers.len()];
            while has_reported.contains(&false) {
                match self.reports.recv().await {
                    Some((worker, Some(Report::Finished(part)))) => {
                        record.merge(&part);
                        has_reported[worker] = true;
                    }
                    Some((_, Some(Report::Progress(_)))) => {}
                    Some((worker, None)) if has_reported[worker] => {}
                    Some((worker, None)) => return Err(FleetError::Lost(worker)),
                    None => return Err(FleetError::Lost(0)),
                }
            }
            Ok(record)
        };
        let record = tokio::time::timeout(FINISH_DEADLINE, collect).await.map_err(|_| FleetError::Silent)??;
        for mut child in self.children.drain(..) {
            let _ = child.start_kill();
            let _ = child.wait().await;
        }
        Ok(record)
    }

    fn start_thread(
        &mut self,
        job: Job,
        reports: mpsc::UnboundedSender<(usize, Option<Report>)>,
    ) -> Result<(), FleetError> {
        let (sender, commands) = mpsc::unbounded_channel();
        let (own_reports, forwarded) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(FleetError::Start)?;
        let prepared = Prepared::new(&job)?;
        let body = move || runtime.block_on(worker::run(job, prepared, commands, own_reports));
        std::thread::Builder::new().name("worker".to_owned()).spawn(body).map_err(FleetError::Start)?;
        tokio::spawn(forward(self.workers.len(), forwarded, reports));
        self.workers.push(sender);
        Ok(())
    }

    fn start_process(
        &mut self,
        job: &Job,
        program: &PathBuf,
        reports: mpsc::UnboundedSender<(usize, Option<Report>)>,
    ) -> Result<(), FleetError> {
        let mut process = Process::new(program);
        process.arg("worker").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = process.spawn().map_err(FleetError::Start)?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(FleetError::Start(std::io::ErrorKind::BrokenPipe.into()));
        };
        let (sender, mut commands) = mpsc::unbounded_channel();
        let first = to_line(job);
        tokio::spawn(async move {
            if stdin.write_all(&first).await.is_err() {
                return;
            }
            while let Some(command) = commands.recv().await {
                if stdin.write_all(&to_line(&command)).await.is_err() {
                    return;
                }
            }
        });
        let number = self.workers.len();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(report) = serde_json::from_str(&line) else { break };
                if reports.send((number, Some(report))).is_err() {
                    return;
                }
            }
            let _ = reports.send((number, None));
        });
        self.workers.push(sender);
        self.children.push(child);
        Ok(())
    }
}

async fn forward(
    number: usize,
    mut from: mpsc::UnboundedReceiver<Report>,
    to: mpsc::UnboundedSender<(usize, Option<Report>)>,
) {
    while let Some(report) = from.recv().await {
        let _ = to.send((number, Some(report)));
    }
    let _ = to.send((number, None));
}

fn to_line(value: &impl serde::Serialize) -> Vec<u8> {
    // Jobs and commands are plain data: there is nothing in them that JSON cannot hold.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}
