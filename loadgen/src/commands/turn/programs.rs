//! Finds the programs to compare, and their versions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli::ProgramArgs;
use crate::target::{Programs, Target, TargetError};

/// Finds the programs that `targets` need; the others' paths are left as they were given.
pub(in crate::commands) fn find(args: &ProgramArgs, targets: &[Target]) -> Result<Programs, TargetError> {
    let own_directory = std::env::current_exe().ok().and_then(|own| own.parent().map(Path::to_owned));
    let nginx = locate(
        args.nginx_bin.as_deref(),
        "nginx",
        Some(Path::new("/usr/sbin")),
        "install nginx, or say where it is with --nginx-bin",
    );
    let haproxy = locate(
        args.haproxy_bin.as_deref(),
        "haproxy",
        Some(Path::new("/usr/sbin")),
        "install HAProxy (apt-get install haproxy), say where it is with --haproxy-bin, or leave haproxy out of --targets",
    );
    let proxy = locate(
        args.proxy_bin.as_deref(),
        "sse-proxy",
        own_directory.as_deref(),
        "build it (cargo build --release -p sse-proxy), or say where it is with --proxy-bin",
    );
    Ok(Programs {
        nginx: needed(nginx, targets.iter().any(|target| target.has_nginx()))?,
        proxy: needed(proxy, targets.iter().any(|target| target.has_proxy()))?,
        haproxy: needed(haproxy, targets.iter().any(|target| target.has_haproxy()))?,
    })
}

/// What each program says about its version.
pub(in crate::commands) fn versions(targets: &[Target], programs: &Programs) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    if targets.iter().any(|target| target.has_nginx()) {
        versions.extend(version(&programs.nginx, "-v").map(|text| ("nginx".to_owned(), text)));
    }
    if targets.iter().any(|target| target.has_proxy()) {
        versions.extend(version(&programs.proxy, "--version").map(|text| ("sse-proxy".to_owned(), text)));
    }
    if targets.iter().any(|target| target.has_haproxy()) {
        versions.extend(version(&programs.haproxy, "-v").map(|text| ("haproxy".to_owned(), text)));
    }
    versions
}

fn needed(found: Result<PathBuf, TargetError>, is_needed: bool) -> Result<PathBuf, TargetError> {
    if is_needed { found } else { Ok(found.unwrap_or_default()) }
}

fn locate(given: Option<&Path>, name: &str, usual: Option<&Path>, remedy: &str) -> Result<PathBuf, TargetError> {
    let missing = |program: String| TargetError::Missing { program, remedy: remedy.to_owned() };
    if let Some(path) = given {
        // Made absolute: a name without a slash would be looked up in PATH.
        return std::fs::canonicalize(path).map_err(|_| missing(path.display().to_string()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).map(Some);
    // sse-proxy is taken from beside this program first; the others from PATH, which may not contain the usual place.
    let usual = usual.map(Path::to_owned);
    let ordered: Vec<PathBuf> = if name == "sse-proxy" {
        std::iter::once(usual).chain(directories).flatten().collect()
    } else {
        directories.chain([usual]).flatten().collect()
    };
    ordered
        .into_iter()
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| missing(name.to_owned()))
}

fn version(program: &Path, flag: &str) -> Option<String> {
    let output = Command::new(program).arg(flag).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().map(|line| line.trim().to_owned())
}
