//! The protocol of a comparison's clients, and the targets that support it.

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
            "--streams-per-connection works only with --protocol h2 and h2c: each stream of HTTP/1.1 has its own connection",
        );
    }
    if protocol != Protocol::H1 && !args.services.is_empty() {
        return usage("--protocol works only with programs that are started here, not with --service");
    }
    if protocol != Protocol::H1 && args.stalled > 0 {
        return usage("--stalled works only with --protocol h1, because its clients do not read, not even a handshake");
    }
    Ok(ClientProtocol::new(protocol, args.streams_per_connection))
}

/// The targets: those requested, or the usual ones.
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
