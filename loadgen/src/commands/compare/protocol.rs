//! What clients speak in a comparison, and which targets that leaves.

use crate::cli::CompareArgs;
use crate::commands::turn::find_targets;
use crate::error::CommandError;
use crate::protocol::{ClientProtocol, Protocol};
use crate::target::Target;

/// What is compared unless it is said otherwise, as far as it speaks the protocol.
const USUAL: [Target; 4] = [Target::Direct, Target::Nginx, Target::SseProxy, Target::NginxSseProxy];

/// Protocol and streams per connection.
pub(super) fn client_protocol(args: &CompareArgs) -> Result<ClientProtocol, CommandError> {
    let protocol = args.protocol;
    if !protocol.is_http2() && args.streams_per_connection.is_some() {
        return usage(
            "--streams-per-connection is for --protocol h2 and h2c: a stream of HTTP/1.1 has a connection of its own",
        );
    }
    if protocol != Protocol::H1 && !args.services.is_empty() {
        return usage(
            "--protocol is for programs that are started here: what a --service speaks was decided where it was started",
        );
    }
    if protocol != Protocol::H1 && args.stalled > 0 {
        return usage("--stalled is for --protocol h1: its clients read nothing, not even a handshake");
    }
    Ok(ClientProtocol::new(protocol, args.streams_per_connection))
}

/// What to compare: what was asked for, or all that usually is.
pub(super) fn targets(args: &CompareArgs) -> Result<Vec<Target>, CommandError> {
    let speaks = |target: &Target| args.protocol == Protocol::H1 || target.has_nginx() || target.has_proxy();
    if args.targets.is_empty() {
        return Ok(USUAL.into_iter().filter(speaks).collect());
    }
    let targets = find_targets(&args.targets)?;
    match targets.iter().find(|target| !speaks(target)) {
        None => Ok(targets),
        Some(target) => usage(&format!(
            "--targets {target}: only nginx and sse-proxy are compared over {}, since the origin speaks h1 alone, and HAProxy \
             is given no other listener; leave {target} out",
            args.protocol
        )),
    }
}

fn usage<T>(text: &str) -> Result<T, CommandError> {
    Err(CommandError::Usage(text.to_owned()))
}
