//! What clients speak in a comparison, and which targets that leaves.

use crate::cli::CompareArgs;
use crate::error::CommandError;
use crate::protocol::Protocol;
use crate::target::Target;

/// Protocol and streams per connection.
pub(super) fn spoken(args: &CompareArgs) -> Result<(Protocol, u64), CommandError> {
    let protocol = args.protocol;
    if !protocol.is_http2() && args.streams_per_connection.is_some() {
        return usage(
            "--streams-per-connection is for --protocol h2 and h2c: a stream of HTTP/1.1 has its own connection",
        );
    }
    if protocol != Protocol::H1 && !args.services.is_empty() {
        return usage(
            "--protocol is for programs that are started here: what a --service speaks was decided where it was started",
        );
    }
    Ok((protocol, protocol.streams_per_connection(args.streams_per_connection)))
}

/// What to compare: what was asked for, or all that speaks the protocol.
pub(super) fn targets(args: &CompareArgs) -> Result<Vec<Target>, CommandError> {
    let speaks = |target: &Target| args.protocol == Protocol::H1 || *target != Target::Direct;
    if args.targets.is_empty() {
        return Ok(Target::ALL.into_iter().filter(speaks).collect());
    }
    let targets = args.targets.iter().map(|name| name.parse()).collect::<Result<Vec<Target>, _>>()?;
    if targets.iter().all(speaks) {
        return Ok(targets);
    }
    usage(&format!("--targets direct: the origin speaks h1 only, not {}; leave it out", args.protocol))
}

fn usage<T>(text: &str) -> Result<T, CommandError> {
    Err(CommandError::Usage(text.to_owned()))
}
