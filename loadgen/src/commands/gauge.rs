//! `sse-loadgen gauge`: reports memory and CPU time of the program beside it until it is interrupted.

use std::io::Write;

use tokio::net::TcpListener;

use super::signals::Interrupt;
use crate::cli::GaugeArgs;
use crate::error::{CommandError, Outcome};
use crate::origin::OriginError;
use crate::target::gauge::{Gauge, serve};

/// Prints `listening on ADDRESS`, and serves.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn run(args: &GaugeArgs, out: &mut (dyn Write + Send)) -> Result<Outcome, CommandError> {
    let mut interrupt = Interrupt::catch()?;
    let refuse = |source| OriginError::Listen { address: args.listen, source };
    let listener = TcpListener::bind(args.listen).await.map_err(refuse)?;
    writeln!(out, "listening on {}", listener.local_addr()?)?;
    out.flush()?;
    let gauge = Gauge { pid: args.pid, cgroup_root: args.cgroup_root.clone() };
    tokio::select! {
        served = serve(listener, gauge) => served?,
        () = interrupt.wait() => {}
    }
    Ok(Outcome::Good)
}
