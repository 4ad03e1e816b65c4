//! This node's copy of a ledger's records, kept current by [`Changes`]. It never guesses: what is not here is not
//! committed.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    chain::records::{Changes, Job, Model, Node, Object, ObjectId, RoundRecord, Task},
    types::{Digest, JobId, JobStatus, NodeKey, NodeStatus, Round, TaskId, TaskStatus, Time},
};

/// Ended jobs that a view remembers, the newest: some 10 MB with their tasks and rounds. The ledger has the others.
const MAX_ENDED: usize = 1_000;

/// The committed state of one ledger, as far as this node has read it.
#[derive(Debug, Default)]
pub struct View {
    /// The height it stands at; 0 before the first answer.
    pub height: u64,
    /// Block time at that height.
    pub time: Time,
    /// App hash after that height's block.
    pub app_hash: Option<Digest>,
    /// Nodes by key.
    pub nodes: BTreeMap<NodeKey, Node>,
    /// Jobs by id.
    pub jobs: BTreeMap<JobId, Job>,
    /// Tasks by id; those of a job are neighbours.
    pub tasks: BTreeMap<TaskId, Task>,
    /// Closed rounds.
    pub rounds: BTreeMap<(JobId, Round), RoundRecord>,
    /// Models by id.
    pub models: BTreeMap<String, Model>,
    /// Objects that nodes keep for others. One that is over may stand here a little longer than on the ledger.
    pub objects: BTreeMap<ObjectId, Object>,
}

/// What a batch of changes touched.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Jobs whose record, tasks or rounds changed.
    pub jobs: BTreeSet<JobId>,
    /// Nodes whose status changed, with the new one.
    pub statuses: BTreeMap<NodeKey, NodeStatus>,
    /// Tasks whose status changed, with the old one (`None`: new here).
    pub tasks: BTreeMap<TaskId, Option<TaskStatus>>,
    /// Rounds closed since.
    pub closed: BTreeSet<(JobId, Round)>,
}

impl View {
    /// Takes over what changed. Applying the same changes twice changes nothing.
    pub fn apply(&mut self, changes: Changes) -> Touched {
        let mut touched = Touched::default();
        self.height = self.height.max(changes.height);
        self.time = self.time.max(changes.time);
        self.app_hash = Some(changes.app_hash);
        for node in changes.nodes {
            let before = self.nodes.get(&node.id).map(|node| node.status);
            if before != Some(node.status) {
                touched.statuses.insert(node.id, node.status);
            }
            self.nodes.insert(node.id, node);
        }
        for job in changes.jobs {
            touched.jobs.insert(job.id);
            self.jobs.insert(job.id, job);
        }
        for task in changes.tasks {
            touched.jobs.insert(task.id.job);
            let before = self.tasks.get(&task.id).map(|task| task.status);
            if before != Some(task.status) {
                touched.tasks.insert(task.id, before);
            }
            self.tasks.insert(task.id, task);
        }
        for round in changes.rounds {
            let key = (round.outcome.job, round.outcome.round);
            touched.jobs.insert(key.0);
            if self.rounds.insert(key, round).is_none() {
                touched.closed.insert(key);
            }
        }
        for model in changes.models {
            self.models.insert(model.id.clone(), model);
        }
        for object in changes.objects {
            self.objects.insert(object.id(), object);
        }
        for id in changes.gone {
            self.objects.remove(&id);
        }
        touched
    }

    /// Forgets the objects that are over: a ledger that forgot that it removed one can't tell of it.
    pub fn forget_over(&mut self) {
        let now = self.time;
        self.objects.retain(|_, object| object.until > now);
    }

    /// Forgets the jobs that ended longest ago, beyond [`MAX_ENDED`], with all that belongs to them.
    pub fn forget_ended(&mut self) {
        if self.jobs.len() <= MAX_ENDED {
            return;
        }
        let ended = self.jobs.values().filter(|job| job.status != JobStatus::Open);
        let mut ended: Vec<(Time, JobId)> = ended.map(|job| (job.updated_at, job.id)).collect();
        ended.sort_unstable();
        for (_, job) in &ended[..ended.len().saturating_sub(MAX_ENDED)] {
            self.jobs.remove(job);
            self.tasks.retain(|task, _| task.job != *job);
            self.rounds.retain(|(of, _), _| of != job);
        }
    }

    /// The tasks of a job, by slot.
    pub fn tasks_of(&self, job: &JobId) -> impl Iterator<Item = &Task> {
        let (first, last) = (TaskId { job: *job, slot: 0 }, TaskId { job: *job, slot: u32::MAX });
        self.tasks.range(first..=last).map(|(_, task)| task)
    }

    /// The closed rounds of a job, in order.
    pub fn rounds_of(&self, job: &JobId) -> impl Iterator<Item = &RoundRecord> {
        self.rounds.range((*job, 0)..=(*job, Round::MAX)).map(|(_, round)| round)
    }

    /// The jobs that are open, with their ids.
    pub fn open_jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().filter(|job| job.status == JobStatus::Open)
    }

    /// The nodes that the ledger counts as present.
    pub fn present_nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.status != NodeStatus::Offline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validator;

    #[test]
    fn the_jobs_that_ended_longest_ago_are_forgotten_and_open_ones_never() {
        let mut view = View::default();
        let count = u16::try_from(MAX_ENDED).unwrap() + 3;
        for number in 0..count {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&number.to_be_bytes());
            let mut job = validator::tests::job();
            (job.id, job.updated_at) = (JobId(id), Time(u64::from(count - number)));
            job.status = if number == count - 1 { JobStatus::Open } else { JobStatus::Completed };
            view.jobs.insert(job.id, job);
        }
        view.forget_ended();
        assert_eq!((view.jobs.len(), view.open_jobs().count()), (MAX_ENDED + 1, 1));
        let oldest = view.jobs.values().filter(|job| job.status != JobStatus::Open).map(|job| job.updated_at).min();
        assert_eq!(oldest, Some(Time(4)), "1 is the open one; 2 and 3 are forgotten");
    }
}
