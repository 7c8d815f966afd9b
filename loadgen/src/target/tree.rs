//! Memory and CPU time of a process and all its descendants, read from `/proc`.

use std::io;

use super::error::TargetError;

/// One process of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    pid: u32,
    parent: u32,
    cpu_ticks: u64,
}

/// Process ids of the tree below and including `root`.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn pids(root: u32) -> Result<Vec<u32>, TargetError> {
    Ok(tree(root)?.into_iter().map(|stat| stat.pid).collect())
}

/// User and system time of the tree's processes so far, in microseconds. The kernel counts in ticks, usually of 10 ms.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn cpu_us(root: u32) -> Result<u64, TargetError> {
    let ticks: u64 = tree(root)?.iter().map(|stat| stat.cpu_ticks).sum();
    Ok(ticks * 1_000_000 / rustix::param::clock_ticks_per_second())
}

/// Proportional set size of the tree's processes in bytes: private pages, and a fair share of the shared ones.
///
/// # Errors
/// When one process' `smaps_rollup` cannot be read, for example because it belongs to another user.
pub fn pss_bytes(root: u32) -> Result<u64, TargetError> {
    let mut total = 0;
    for pid in pids(root)? {
        let refuse = |source| TargetError::Reading { what: "memory (/proc/PID/smaps_rollup)", source };
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).map_err(refuse)?;
        total += parse_pss(&text).ok_or_else(|| refuse(io::ErrorKind::InvalidData.into()))?;
    }
    Ok(total)
}

/// Busy and total time of all cores so far, in ticks.
///
/// # Errors
/// When `/proc/stat` cannot be read.
pub fn machine_ticks() -> Result<(u64, u64), TargetError> {
    let refuse = |source| TargetError::Reading { what: "CPU time (/proc/stat)", source };
    let text = std::fs::read_to_string("/proc/stat").map_err(refuse)?;
    parse_machine(&text).ok_or_else(|| refuse(io::ErrorKind::InvalidData.into()))
}

fn tree(root: u32) -> Result<Vec<Stat>, TargetError> {
    let refuse = |source| TargetError::Reading { what: "processes (/proc)", source };
    let entries = std::fs::read_dir("/proc").map_err(refuse)?.filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // Processes come and go while they are listed: what cannot be read any more is not there.
    let all: Vec<Stat> =
        pids.filter_map(|pid| parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect();
    let found = descendants(root, &all);
    if found.is_empty() { Err(refuse(io::ErrorKind::NotFound.into())) } else { Ok(found) }
}

fn descendants(root: u32, all: &[Stat]) -> Vec<Stat> {
    let mut found: Vec<Stat> = all.iter().copied().filter(|stat| stat.pid == root).collect();
    let mut checked = 0;
    while checked < found.len() {
        let parent = found[checked].pid;
        found.extend(all.iter().copied().filter(|stat| stat.parent == parent));
        checked += 1;
    }
    found
}

/// Fields of `/proc/PID/stat` (proc_pid_stat(5)): the name in parentheses may hold anything, so count from its end.
fn parse_stat(text: &str) -> Option<Stat> {
    let pid = text.split_whitespace().next()?.parse().ok()?;
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
    let number = |field: usize| fields.get(field)?.parse::<u64>().ok();
    // The first field after the name is the third of all (state): ppid is the 4th, utime the 14th, stime the 15th.
    Some(Stat { pid, parent: u32::try_from(number(4 - 3)?).ok()?, cpu_ticks: number(14 - 3)? + number(15 - 3)? })
}

fn parse_pss(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("Pss:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn parse_machine(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    // user nice system idle iowait irq softirq steal; guest times are contained in user.
    let times: Vec<u64> = line.split_whitespace().take(8).map(|time| time.parse().ok()).collect::<Option<_>>()?;
    let total = times.iter().sum::<u64>();
    let idle = times.get(3)? + times.get(4)?;
    Some((total - idle, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_no_trouble() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 100 0 0";
        assert_eq!(parse_stat(text), Some(Stat { pid: 42, parent: 7, cpu_ticks: 300 }));
    }

    #[test]
    fn children_of_children_belong_to_the_tree_and_strangers_do_not() {
        let stat = |pid, parent| Stat { pid, parent, cpu_ticks: 1 };
        let all = [stat(1, 0), stat(9, 2), stat(2, 1), stat(3, 2), stat(4, 3), stat(5, 1)];
        let mut pids: Vec<u32> = descendants(2, &all).iter().map(|stat| stat.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [2, 3, 4, 9]);
    }

    #[test]
    fn this_process_can_be_read() {
        let own = std::process::id();
        assert!(pss_bytes(own).expect("own memory") > 100_000);
        cpu_us(own).expect("own CPU time");
        let (busy, total) = machine_ticks().expect("the machine's CPU time");
        assert!(busy <= total);
    }

    #[test]
    fn pss_and_machine_time_are_parsed() {
        assert_eq!(parse_pss("00-ff ---p 0 0 0 [rollup]\nRss:  900 kB\nPss:  640 kB\n"), Some(640 * 1024));
        assert_eq!(parse_machine("cpu  10 1 5 80 4 0 0 0 0 0\ncpu0 1\n"), Some((16, 100)));
    }
}
