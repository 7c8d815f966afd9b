//! What is special about PHP: it learns of a client's leaving only when it writes, so it writes in pauses, too.

use super::example::Pace;
use super::{NOTICED, Paths, clients, open};

/// One event a minute, and still a client that leaves is noticed: by the comments between the events.
#[test]
fn php_notices_a_client_that_leaves_in_a_long_pause_because_it_writes_comments() {
    for name in ["php", "php_built_in"] {
        let Some(paths) = Paths::to(name, Pace { interval_ms: 60_000, count: 10 }) else { return };
        for (path, address) in paths.each() {
            let leaves = open(address, "/events", "");
            clients(&paths.backend, 1);
            drop(leaves);
            let took = clients(&paths.backend, 0);
            assert!(took < NOTICED, "{name}, {path}: noticed after {took:?}");
        }
    }
}
