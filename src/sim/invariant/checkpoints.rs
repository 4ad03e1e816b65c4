//! A checkpoint once acknowledged can be found: it lies durable on a machine that is up, or can come back.
//!
//! It is acknowledged when two machines have it, so the loss of one for ever must not lose it. When both are lost, it may be:
//! the task then begins its round again, which the other invariants watch.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{machine::Machine, world::World},
    Violation,
};
use crate::{
    chain::records::Changes,
    types::{CheckpointRef, TaskId},
};

const NAME: &str = "checkpoints";

/// Machines that have a checkpoint when it is acknowledged: its writer and one holder.
const COPIES: usize = 2;

/// The checkpoints that the ledger names.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    named: BTreeMap<TaskId, BTreeSet<CheckpointRef>>,
}

impl Checkpoints {
    pub(super) fn on_changes(&mut self, changes: &Changes) {
        for task in &changes.tasks {
            let named = [task.checkpoint, task.opt_checkpoint].into_iter().flatten().collect();
            let ended = task.completed_at.is_some();
            self.named.insert(task.id, if ended { BTreeSet::new() } else { named });
        }
    }

    pub(super) fn check(&self, world: &World) -> Result<(), Violation> {
        let lives = |reference: &CheckpointRef| {
            let (lost, left): (Vec<&Machine>, Vec<&Machine>) = world
                .machines
                .iter()
                .partition(|machine| machine.gone || (machine.node.is_none() && machine.stays_down));
            let lost = lost.into_iter().filter(|machine| machine.gone || machine.store.is_durable(&reference.cid));
            left.into_iter().any(|machine| machine.store.is_durable(&reference.cid)) || lost.count() >= COPIES
        };
        for (task, named) in &self.named {
            if let Some(lost) = named.iter().find(|reference| !lives(reference)) {
                let what =
                    format!("the checkpoint of task {task} after step {} of round {} is lost", lost.step, lost.round);
                return Err(Violation::new(NAME, what));
            }
        }
        Ok(())
    }
}
