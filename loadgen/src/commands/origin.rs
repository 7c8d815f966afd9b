//! `sse-loadgen origin`: serves until it is interrupted.

use std::io::Write;

use super::signals::Interrupt;
use crate::cli::OriginArgs;
use crate::error::{CommandError, Outcome};
use crate::limits;
use crate::origin::{Origin, OriginConfig};

/// Prints `listening on ADDRESS` for each address once it accepts connections, then waits for SIGINT or SIGTERM.
///
/// # Errors
/// When an address cannot be listened on.
pub async fn run(args: &OriginArgs, out: &mut (dyn Write + Send)) -> Result<Outcome, CommandError> {
    let _ = limits::raise_descriptor_limit();
    let mut interrupt = Interrupt::catch()?;
    let origin = Origin::start(&OriginConfig { listen: args.listen.clone(), threads: args.threads.into() })?;
    for address in origin.addresses() {
        writeln!(out, "listening on {address}")?;
    }
    out.flush()?;
    interrupt.wait().await;
    Ok(Outcome::Good)
}
