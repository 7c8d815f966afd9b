//! PHP detects a disconnect only when it writes, so it writes in pauses, too.

use super::example::Pace;
use super::{NOTICED, Paths, clients, open};

/// With one event a minute, the comments between the events detect the disconnect.
#[test]
fn php_detects_a_disconnect_in_a_long_pause_by_writing_comments() {
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
