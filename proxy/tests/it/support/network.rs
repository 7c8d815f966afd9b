//! Keeps tests that change this machine's network interfaces apart from browsers, which abandon what they load when that happens
//! (`ERR_NETWORK_CHANGED`). Tests run as processes of their own, so a file is locked.

use std::fs::File;

use rustix::fs::{FlockOperation, flock};

/// Held by a test that adds or removes network interfaces: alone, without browsers.
pub fn changes_network() -> File {
    lock(FlockOperation::LockExclusive)
}

/// Held by a test with a browser.
pub fn keeps_network() -> File {
    lock(FlockOperation::LockShared)
}

fn lock(operation: FlockOperation) -> File {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("network.lock");
    let file = File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    flock(&file, operation).unwrap();
    file
}
