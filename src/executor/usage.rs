//! What a process and its descendants use, read from `/proc`.

use std::{fs, time::Duration};

/// Kernel ticks a second in `/proc/*/stat`; 100 on every Linux there is (`sysconf(_SC_CLK_TCK)`).
const TICKS: u64 = 100;
/// Processes looked at: twice as many as a task may have, so that a count over its limit shows. What a fork bomb has beyond
/// them is not looked at; it is killed for the count.
const MAX_PROCESSES: u64 = 1024;

/// What a process tree uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// CPU time of the processes alive and of the children that they waited for.
    pub(super) cpu: Duration,
    /// Resident bytes now.
    pub(super) resident: u64,
    /// Processes.
    pub(super) processes: u64,
}

/// What the descendants of `root` use, without `root` itself: that is the launcher.
pub(super) fn of_descendants(root: u32) -> Usage {
    let mut total = Usage::default();
    let mut queue = children(root);
    while let Some(pid) = queue.pop() {
        if total.processes == MAX_PROCESSES {
            break;
        }
        total.processes += 1;
        if let Some(usage) = of(pid) {
            total.cpu += usage.cpu;
            total.resident += usage.resident;
        }
        queue.extend(children(pid));
    }
    total
}

fn children(pid: u32) -> Vec<u32> {
    // Each thread has the children that it made.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

fn of(pid: u32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, a parenthesis too; fields are counted behind the last one. See proc(5).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    // utime stime cutime cstime are fields 14 to 17; `fields` begins at 3.
    let ticks: u64 = (11..15).map(number).sum();
    Some(Usage { cpu: Duration::from_millis(ticks * 1000 / TICKS), resident: resident(pid).unwrap_or(0), processes: 1 })
}

fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_memory_of_a_child_is_seen() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let deadline = crate::clock::now() + Duration::from_secs(10);
        while of_descendants(std::process::id()).resident == 0 {
            assert!(crate::clock::now() < deadline, "a running child uses memory");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
