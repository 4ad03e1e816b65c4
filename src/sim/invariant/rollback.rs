//! A rollback never undoes newer work: checkpoints and cursors of a task only move forward, and no node goes back to
//! an older generation or round of a task.

use std::collections::BTreeMap;

use super::Violation;
use crate::{
    api::NodeEvent,
    chain::records::Changes,
    types::{Generation, JobId, Round, Step, TaskId},
};

const NAME: &str = "rollback";

/// How far a task has come: its cursor, the job's open round, and the newest checkpoint.
type Reached = (u32, Round, Option<(Round, Step)>);

/// How far each task has come.
#[derive(Debug, Default)]
pub(super) struct Rollback {
    rounds: BTreeMap<JobId, Round>,
    reached: BTreeMap<TaskId, Reached>,
    /// What each node began last.
    begun: BTreeMap<(usize, TaskId), (Generation, Round)>,
}

impl Rollback {
    pub(super) fn on_changes(&mut self, changes: &Changes) -> Result<(), Violation> {
        for job in &changes.jobs {
            let known = self.rounds.insert(job.id, job.round);
            if known.is_some_and(|known| known > job.round) {
                return Err(Violation::new(NAME, format!("job {} went back to round {}", job.id, job.round)));
            }
        }
        for task in &changes.tasks {
            let round = self.rounds.get(&task.id.job).copied().unwrap_or_default();
            let reached = (task.cursor, round, task.checkpoint.map(|newest| (newest.round, newest.step)));
            // Where a round closes without a slot's update, its checkpoints are void, and the tuple grows by the round.
            match self.reached.insert(task.id, reached) {
                Some(before) if before > reached => {
                    let what = format!("task {} went back from {before:?} to {reached:?}", task.id);
                    return Err(Violation::new(NAME, what));
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn on_event(&mut self, node: usize, event: &NodeEvent) -> Result<(), Violation> {
        let NodeEvent::RunStarted { task, round, generation, .. } = event else { return Ok(()) };
        let begun = (*generation, *round);
        match self.begun.insert((node, *task), begun) {
            Some(before) if before > begun => {
                let what = format!("node {node} went back from {before:?} to {begun:?} of task {task}");
                Err(Violation::new(NAME, what))
            }
            _ => Ok(()),
        }
    }
}
