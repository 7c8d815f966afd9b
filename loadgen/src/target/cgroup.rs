//! Memory that the kernel charges to a container's cgroup.
//!
//! Read from the files of the process' memory cgroup, of version 2 or 1. A container sees only its own; one that has the
//! machine's `/sys/fs/cgroup` mounted, read-only, can read those of others, without any privilege: the files are readable
//! by everyone. The path in `/proc/PID/cgroup` is that of the reader's cgroup namespace (cgroup_namespaces(7)),
//! `/../docker-ID.scope` for a neighbour; then the directory is looked for by its name.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Container runtimes nest no deeper: `user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope`.
const MAX_DEPTH: usize = 6;

/// Memory charged to one cgroup, in bytes. What the kernel does not report is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupMemory {
    /// Version of the cgroup interface.
    pub version: u8,
    /// Everything together: `memory.current`.
    pub current: u64,
    /// Private memory of processes.
    pub anon: Option<u64>,
    /// Files in the page cache: given back when memory is short.
    pub file: Option<u64>,
    /// Kernel objects: sockets, descriptors, page tables, stacks.
    pub kernel: Option<u64>,
    /// Socket buffers. Version 1 counts them only under a limit of their own, so that it is `None` there.
    pub sock: Option<u64>,
}

impl CgroupMemory {
    /// What the load is charged with: everything but the page cache.
    #[must_use]
    pub fn without_files(&self) -> u64 {
        self.current.saturating_sub(self.file.unwrap_or(0))
    }

    /// The kernel's share; `None` where it is not reported.
    #[must_use]
    pub fn of_kernel(&self) -> Option<u64> {
        self.kernel.map(|kernel| kernel + self.sock.unwrap_or(0))
    }

    /// Two cgroups as one.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let sum = |left: Option<u64>, right: Option<u64>| left.zip(right).map(|(left, right)| left + right);
        Self {
            version: self.version.min(other.version),
            current: self.current + other.current,
            anon: sum(self.anon, other.anon),
            file: sum(self.file, other.file),
            kernel: sum(self.kernel, other.kernel),
            sock: sum(self.sock, other.sock),
        }
    }
}

/// Reads the cgroup of process `pid`; `root` is where the machine's `/sys/fs/cgroup` is mounted. `None` when the process is
/// in no cgroup of its own, or its files are not there.
#[must_use]
pub fn read(pid: u32, root: &Path) -> Option<CgroupMemory> {
    let memberships = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    read_at(&memberships, root)
}

fn read_at(memberships: &str, root: &Path) -> Option<CgroupMemory> {
    let path_of = |is_it: &dyn Fn(&str) -> bool| {
        memberships.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            is_it(controllers).then_some(path)
        })
    };
    let version_2 = path_of(&|controllers| controllers.is_empty());
    let version_1 = path_of(&|controllers| controllers.split(',').any(|controller| controller == "memory"));
    let read_2 = |path: &str| version_2_at(&find(root, path, "memory.current")?);
    let read_1 = |path: &str| version_1_at(&find(&root.join("memory"), path, "memory.usage_in_bytes")?);
    // Where the machine has both, the memory controller is in one of them.
    version_2.and_then(read_2).or_else(|| version_1.and_then(read_1))
}

/// The directory of `path` that holds `file`.
fn find(root: &Path, path: &str, file: &str) -> Option<PathBuf> {
    let name = path.rsplit('/').next().filter(|name| !name.is_empty() && *name != "..")?;
    let direct = root.join(path.trim_start_matches('/'));
    if !path.contains("/../") && direct.join(file).is_file() {
        return Some(direct);
    }
    search(root, name, MAX_DEPTH).filter(|found| found.join(file).is_file())
}

fn search(directory: &Path, name: &str, depth: usize) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?.filter_map(Result::ok);
    let below: Vec<PathBuf> =
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect();
    let here = below.iter().find(|path| path.file_name().is_some_and(|own| own == name)).cloned();
    here.or_else(|| below.iter().filter(|_| depth > 0).find_map(|path| search(path, name, depth - 1)))
}

fn version_2_at(directory: &Path) -> Option<CgroupMemory> {
    let stat = fs::read_to_string(directory.join("memory.stat")).unwrap_or_default();
    let field = |name: &str| field(&stat, name);
    Some(CgroupMemory {
        version: 2,
        current: number(&directory.join("memory.current"))?,
        anon: field("anon"),
        file: field("file"),
        kernel: field("kernel"),
        sock: field("sock"),
    })
}

fn version_1_at(directory: &Path) -> Option<CgroupMemory> {
    let stat = fs::read_to_string(directory.join("memory.stat")).unwrap_or_default();
    Some(CgroupMemory {
        version: 1,
        current: number(&directory.join("memory.usage_in_bytes"))?,
        anon: field(&stat, "total_rss"),
        file: field(&stat, "total_cache"),
        kernel: number(&directory.join("memory.kmem.usage_in_bytes")),
        sock: None,
    })
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn field(stat: &str, name: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.split_once(' ').filter(|(key, _)| *key == name)?.1.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(root: &Path, path: &str, files: &[(&str, &str)]) {
        let directory = root.join(path);
        fs::create_dir_all(&directory).expect("made");
        for (name, content) in files {
            fs::write(directory.join(name), content).expect("written");
        }
    }

    const STAT_2: &str = "anon 700\nfile 100\nkernel 180\nkernel_stack 16\nsock 20\n";

    #[test]
    fn a_neighbour_of_version_2_is_found_by_its_name() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let files = [("memory.current", "1000\n"), ("memory.stat", STAT_2)];
        group(root.path(), "system.slice/docker-abc.scope", &files);
        group(root.path(), "system.slice/docker-other.scope", &[("memory.current", "5\n")]);
        for path in ["/system.slice/docker-abc.scope", "/../docker-abc.scope", "/../../system.slice/docker-abc.scope"] {
            let found = read_at(&format!("0::{path}\n"), root.path()).expect(path);
            assert_eq!((found.version, found.current, found.without_files()), (2, 1000, 900), "{path}");
            assert_eq!((found.anon, found.of_kernel()), (Some(700), Some(200)), "{path}");
        }
        assert_eq!(read_at("0::/../docker-gone.scope\n", root.path()), None);
    }

    #[test]
    fn version_1_is_read_where_the_memory_controller_is_there() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let stat = "cache 5\nrss 6\ntotal_cache 100\ntotal_rss 700\n";
        let files = [("memory.usage_in_bytes", "1000"), ("memory.stat", stat), ("memory.kmem.usage_in_bytes", "180")];
        group(root.path(), "memory/docker/abc", &files);
        group(root.path(), "unified", &[]);
        let found = read_at("4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n0::/\n", root.path()).expect("found");
        let expected =
            CgroupMemory { version: 1, current: 1000, anon: Some(700), file: Some(100), kernel: Some(180), sock: None };
        assert_eq!(found, expected);
    }

    #[test]
    fn the_root_cgroup_is_not_a_containers() {
        let root = tempfile::tempdir().expect("a temporary directory");
        group(root.path(), "", &[("memory.current", "1\n")]);
        group(root.path(), "memory", &[("memory.usage_in_bytes", "1\n")]);
        assert_eq!(read_at("4:memory:/\n0::/\n", root.path()), None);
    }

    #[test]
    fn what_one_of_two_does_not_tell_is_not_told_of_both() {
        let one =
            CgroupMemory { version: 2, current: 10, anon: Some(4), file: Some(2), kernel: Some(3), sock: Some(1) };
        let sum = one.plus(&CgroupMemory { kernel: None, ..one });
        assert_eq!((sum.current, sum.anon, sum.kernel), (20, Some(8), None));
    }
}
