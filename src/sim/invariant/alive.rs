//! Nothing hangs: while nothing is broken, every open job changes within its largest deadline.

use std::{collections::BTreeMap, time::Duration};

use super::{super::world::World, Violation};
use crate::{
    chain::records::Changes,
    types::{JobId, JobStatus, Time},
};

const NAME: &str = "alive";
/// A transfer that makes no progress ends after this (`shard`, `round`).
const STALL_MILLIS: u64 = 120_000;
/// Above the deadlines that a job has on the ledger: pauses after failed attempts (1, 2, 4 and 8 s), a task left to
/// others for 30 s, and the launch.
const SLACK: Duration = Duration::from_secs(60);

/// When each job changed last: its record, its tasks or its rounds.
#[derive(Debug, Default)]
pub(super) struct Alive {
    changed: BTreeMap<JobId, Time>,
}

impl Alive {
    pub(super) fn on_changes(&mut self, changes: &Changes, now: Time) {
        let jobs = changes.jobs.iter().map(|job| job.id);
        let tasks = changes.tasks.iter().map(|task| task.id.job);
        let rounds = changes.rounds.iter().map(|round| round.outcome.job);
        self.changed.extend(jobs.chain(tasks).chain(rounds).map(|job| (job, now)));
    }

    pub(super) fn check(world: &mut World) -> Result<(), Violation> {
        let Some(silent) = world.watch.alive.hangs(world) else { return Ok(()) };
        let open: Vec<String> = (0..world.machines.len()).filter_map(|index| open(world, index)).collect();
        let what = format!(
            "the job has not changed for {} s, and nothing is broken; open are {}",
            silent.as_secs(),
            open.join("; ")
        );
        Err(Violation::new(NAME, what))
    }

    /// How long an open job has not changed, if that is longer than it may be.
    fn hangs(&self, world: &World) -> Option<Duration> {
        let (job, ledger) = (&world.scenario.job, &world.scenario.ledger);
        let deadline = job.round_limit_millis.max(ledger.lease_millis).max(STALL_MILLIS) + ledger.offline_after_millis;
        let deadline = Duration::from_millis(deadline) + SLACK;
        let open = |job: &JobId| world.view.jobs.get(job).is_some_and(|job| job.status == JobStatus::Open);
        let silent = |changed: &Time| world.now.since((*changed).max(world.troubled_until));
        let hang = self.changed.iter().filter(|(job, _)| open(job)).map(|(_, changed)| silent(changed));
        hang.max().filter(|silent| *silent > deadline)
    }
}

/// What a node has open.
fn open(world: &mut World, index: usize) -> Option<String> {
    let open = world.machines[index].node.as_mut()?.open();
    let open: Vec<String> =
        open.into_iter().filter(|(_, count)| *count > 0).map(|(kind, count)| format!("{count} {kind}")).collect();
    (!open.is_empty()).then(|| format!("at node {index} {}", open.join(", ")))
}
