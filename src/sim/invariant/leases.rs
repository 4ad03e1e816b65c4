//! A generation of a task has one holder, on the ledger and among those who work.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{super::world::World, Violation};
use crate::{
    api::NodeEvent,
    chain::records::Changes,
    types::{Generation, NodeKey, TaskId},
};

const NAME: &str = "leases";

/// Who held and who worked on each generation.
#[derive(Debug, Default)]
pub(in crate::sim) struct Leases {
    holders: BTreeMap<(TaskId, Generation), NodeKey>,
    workers: BTreeMap<(TaskId, Generation), usize>,
    newest: BTreeMap<TaskId, Generation>,
}

impl Leases {
    pub(in crate::sim) fn on_changes(&mut self, changes: &Changes) -> Result<(), Violation> {
        for task in &changes.tasks {
            let newest = self.newest.entry(task.id).or_default();
            if task.generation < *newest {
                return Err(Violation::new(
                    NAME,
                    format!("task {} went back to generation {}", task.id, task.generation),
                ));
            }
            *newest = task.generation;
            if let Some(holder) = task.holder
                && let Some(other) = first(self.holders.entry((task.id, task.generation)), holder)
            {
                let what =
                    format!("generation {} of task {} was held by {other}, then by {holder}", task.generation, task.id);
                return Err(Violation::new(NAME, what));
            }
        }
        Ok(())
    }

    /// What the ledger says now is what was seen of it, task by task.
    pub(super) fn check(&self, world: &World) -> Result<(), Violation> {
        for task in world.view.tasks.values() {
            let seen = self.holders.get(&(task.id, task.generation));
            if task.holder.is_some() && task.holder.as_ref() != seen
                || self.newest.get(&task.id) != Some(&task.generation)
            {
                return Err(Violation::new(NAME, format!("task {} has a holder that never took it", task.id)));
            }
        }
        Ok(())
    }

    pub(super) fn on_event(&mut self, node: usize, event: &NodeEvent) -> Result<(), Violation> {
        let NodeEvent::RunStarted { task, generation, .. } = event else { return Ok(()) };
        match first(self.workers.entry((*task, *generation)), node) {
            None => Ok(()),
            Some(other) => {
                let what = format!("nodes {other} and {node} both work on generation {generation} of task {task}");
                Err(Violation::new(NAME, what))
            }
        }
    }
}

/// Who else was there first.
fn first<K: Ord, V: Copy + PartialEq>(entry: Entry<'_, K, V>, value: V) -> Option<V> {
    let known = *entry.or_insert(value);
    (known != value).then_some(known)
}
