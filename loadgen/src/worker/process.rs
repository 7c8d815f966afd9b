//! A worker in its own process: reads commands from stdin and writes reports to stdout, as lines of JSON.

use std::io::{BufRead, Write};

use thiserror::Error;
use tokio::sync::mpsc;

use super::drive;
use super::job::{Command, Job, Report};
use super::prepared::{PrepareError, Prepared};

/// Why a worker process stopped.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The first line is not a job.
    #[error("cannot read the job from stdin: `worker` is started by `run` and `compare`")]
    Job(#[source] serde_json::Error),
    /// The job cannot be done here.
    #[error("worker process failed")]
    Prepare(#[from] PrepareError),
    /// The standard streams or the runtime failed.
    #[error("worker process failed")]
    Io(#[from] std::io::Error),
}

/// Serves one job. The end of the input is the end of the worker: it never outlives who started it.
///
/// # Errors
/// See [`ServeError`].
pub fn serve(mut input: impl BufRead + Send + 'static, mut output: impl Write) -> Result<(), ServeError> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    let job: Job = serde_json::from_str(&line).map_err(ServeError::Job)?;
    let prepared = Prepared::new(&job)?;
    let (command_sender, commands) = mpsc::unbounded_channel();
    std::thread::Builder::new().name("commands".to_owned()).spawn(move || {
        for line in input.lines().map_while(Result::ok) {
            let Ok(command) = serde_json::from_str::<Command>(&line) else { return };
            if command_sender.send(command).is_err() {
                return;
            }
        }
    })?;
    let (report_sender, mut reports) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let forward = async {
            while let Some(report) = reports.recv().await {
                write_line(&mut output, &report)?;
            }
            Ok::<(), std::io::Error>(())
        };
        let work = async {
            drive::run(job, prepared, commands, report_sender).await;
            Ok(())
        };
        tokio::try_join!(work, forward).map(|_| ())
    })?;
    // Sockets by the ten thousand are closed faster by the system than one by one.
    Ok(())
}

fn write_line(output: &mut impl Write, report: &Report) -> std::io::Result<()> {
    serde_json::to_writer(&mut *output, report)?;
    output.write_all(b"\n")?;
    output.flush()
}
