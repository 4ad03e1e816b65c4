//! Whether a script has more of something than it may: memory, processes, disk. What training and inference have in common.
//!
//! The limits that the kernel keeps (`launcher`) are those of one process; those of all of them together are looked at here.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use super::{
    Killed,
    process::{PROCESSES, memory_limit, storage_limit},
    tree::{self, Uncounted},
    usage::{self, Usage},
    work_dir::WorkDir,
};
use crate::types::Resources;

/// Between two looks at memory and processes.
pub(super) const SAMPLE: Duration = Duration::from_millis(500);
/// Such looks between two measurements of what was written: two seconds.
pub(super) const SAMPLES_A_MEASUREMENT: u32 = 4;

/// What of `usage` is too much. The kernel's own limit on processes does not bind root, so they are counted too.
pub(super) fn of_usage(usage: &Usage, resources: &Resources) -> Option<Killed> {
    let limit = memory_limit(resources);
    if usage.processes > PROCESSES {
        return Some(Killed::Output { what: "what it started".into(), limit: PROCESSES, unit: "processes".into() });
    }
    (usage.resident > limit).then_some(Killed::Memory { used: usage.resident, limit })
}

/// What is too much of what lies on the disk.
pub(super) async fn of_output(work: &Arc<WorkDir>, resources: &Resources) -> Option<Killed> {
    let work = Arc::clone(work);
    // A measurement that failed is made again soon.
    let written = tokio::task::spawn_blocking(move || work.written()).await.ok()?;
    let limit = storage_limit(resources);
    let over =
        |limit, unit: &'static str| Some(Killed::Output { what: "what it wrote".into(), limit, unit: unit.into() });
    match written {
        Ok(bytes) if bytes > limit => over(limit, "bytes"),
        Ok(_) => None,
        Err(Uncounted::Entries) => over(tree::MAX_ENTRIES, "files and directories"),
        Err(Uncounted::Levels) => over(tree::MAX_LEVELS, "levels of directories"),
        Err(Uncounted::Unreadable) => over(0, "directories that can't be read"),
    }
}

/// Watches the descendants of `pid` until there is too much of something.
pub(super) async fn watch(pid: u32, work: &Arc<WorkDir>, resources: &Resources) -> Killed {
    let mut looks = interval(SAMPLE);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut samples = 0_u32;
    loop {
        looks.tick().await;
        samples = samples.wrapping_add(1);
        let mut found = of_usage(&usage::of_descendants(pid), resources);
        if found.is_none() && samples.is_multiple_of(SAMPLES_A_MEASUREMENT) {
            found = of_output(work, resources).await;
        }
        if let Some(found) = found {
            return found;
        }
    }
}
