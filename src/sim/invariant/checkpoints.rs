//! A checkpoint once acknowledged can be found: it lies durable on a machine that is up, or can come back.

use std::collections::{BTreeMap, BTreeSet};

use super::{super::world::World, Violation};
use crate::{
    chain::records::Changes,
    types::{CheckpointRef, TaskId},
};

const NAME: &str = "checkpoints";

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
            let up = world
                .machines
                .iter()
                .filter(|machine| !machine.gone && (machine.node.is_some() || !machine.stays_down));
            up.into_iter().any(|machine| machine.store.is_durable(&reference.cid))
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
