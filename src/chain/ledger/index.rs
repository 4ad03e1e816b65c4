//! Indexes over the records. They are derived: never hashed, never in a snapshot, kept current by each write.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Key,
    entries::{Entry, TaskClock},
};
use crate::{
    chain::records::{Job, Object, ObjectId, Task},
    identity,
    types::{Digest, JobId, JobStatus, NodeKey, TaskId, Time},
};

/// What is due when, and who holds what.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    held: BTreeMap<NodeKey, BTreeSet<TaskId>>,
    /// Nodes that are not offline, by the live time of their last beat.
    beats: BTreeSet<(u64, NodeKey)>,
    /// Held tasks, by the live time at which they lapse.
    lapses: BTreeSet<(u64, TaskId)>,
    /// Open jobs, by deadline.
    deadlines: BTreeSet<(Time, JobId)>,
    /// Open jobs of each creator.
    open_jobs: BTreeMap<NodeKey, u32>,
    /// Accounts by their bech32 address.
    addresses: BTreeMap<String, NodeKey>,
    /// Nodes that unbond, by the block time at which the first of it is released.
    releases: BTreeSet<(Time, NodeKey)>,
    /// Objects by the block time from which they are over.
    objects: BTreeSet<(Time, ObjectId)>,
    /// Who owns objects of a root, by its name.
    owners: BTreeSet<(Digest, NodeKey)>,
    /// Objects of each owner.
    owned: BTreeMap<NodeKey, u32>,
}

impl Index {
    /// The indexes over these records.
    pub(super) fn over<'a>(entries: impl IntoIterator<Item = (&'a Key, &'a Entry)>) -> Self {
        let mut index = Self::default();
        for (key, entry) in entries {
            index.add(key, entry);
            if let Key::Account(account) = key {
                index.open_account(account);
            }
        }
        index
    }

    /// The tasks that `node` holds.
    pub(super) fn held_by(&self, node: &NodeKey) -> impl Iterator<Item = TaskId> {
        self.held.get(node).into_iter().flatten().copied()
    }

    /// The node that has been silent for longest, of those that are not offline: live time of its last beat, and who.
    pub(super) fn most_silent(&self) -> Option<(u64, NodeKey)> {
        self.beats.first().copied()
    }

    /// Nodes that are not offline.
    pub(super) fn online(&self) -> usize {
        self.beats.len()
    }

    /// The task whose lease lapses next by lack of progress, and the live time of that.
    pub(super) fn next_lapse(&self) -> Option<(u64, TaskId)> {
        self.lapses.first().copied()
    }

    /// The open job whose deadline is next.
    pub(super) fn next_deadline(&self) -> Option<(Time, JobId)> {
        self.deadlines.first().copied()
    }

    /// Open jobs of `creator`.
    pub(super) fn open_jobs(&self, creator: &NodeKey) -> u32 {
        self.open_jobs.get(creator).copied().unwrap_or(0)
    }

    /// The account with this bech32 address.
    pub(super) fn account_at(&self, address: &str) -> Option<NodeKey> {
        self.addresses.get(address).copied()
    }

    /// The node whose unbonded stake is released next, and the block time of that.
    pub(super) fn next_release(&self) -> Option<(Time, NodeKey)> {
        self.releases.first().copied()
    }

    /// The object that is over next, and the block time of that.
    pub(super) fn next_object_over(&self) -> Option<(Time, ObjectId)> {
        self.objects.first().copied()
    }

    /// The objects of a root with this name, by owner.
    pub(super) fn objects_named(&self, name: Digest) -> impl Iterator<Item = ObjectId> {
        let owners = self.owners.range((name, NodeKey([0; 32]))..=(name, NodeKey([0xff; 32])));
        owners.map(|(name, owner)| ObjectId { owner: *owner, name: *name })
    }

    /// Objects of `owner`.
    pub(super) fn objects_of(&self, owner: &NodeKey) -> u32 {
        self.owned.get(owner).copied().unwrap_or(0)
    }

    /// Adds what `entry` brings.
    pub(super) fn add(&mut self, key: &Key, entry: &Entry) {
        match (key, entry) {
            (Key::NodeClock(node), Entry::NodeClock(clock)) if clock.online_since.is_some() => {
                self.beats.insert((clock.last_beat, *node));
            }
            (_, Entry::Job(job)) if job.status == JobStatus::Open => self.add_open_job(job),
            (_, Entry::Task(task)) => self.add_holder(task),
            (Key::TaskClock(task), Entry::TaskClock(clock)) => {
                self.lapses.extend(clock.lapses_at.map(|lapses_at| (lapses_at, *task)));
            }
            (Key::Stake(node), Entry::Stake(stake)) => {
                self.releases.extend(stake.unbonding.first().map(|first| (first.releases_at, *node)));
            }
            (Key::Object(id), Entry::Object(object)) => self.add_object(*id, object),
            _ => {}
        }
    }

    /// Removes what `entry` brought.
    pub(super) fn remove(&mut self, key: &Key, entry: &Entry) {
        match (key, entry) {
            (Key::NodeClock(node), Entry::NodeClock(clock)) => {
                self.beats.remove(&(clock.last_beat, *node));
            }
            (_, Entry::Job(job)) if job.status == JobStatus::Open => self.remove_open_job(job),
            (_, Entry::Task(task)) => self.remove_holder(task),
            (Key::TaskClock(task), Entry::TaskClock(TaskClock { lapses_at: Some(lapses_at), .. })) => {
                self.lapses.remove(&(*lapses_at, *task));
            }
            (Key::Stake(node), Entry::Stake(stake)) => {
                if let Some(first) = stake.unbonding.first() {
                    self.releases.remove(&(first.releases_at, *node));
                }
            }
            (Key::Object(id), Entry::Object(object)) => self.remove_object(id, object),
            _ => {}
        }
    }

    /// An account was opened.
    pub(super) fn open_account(&mut self, account: &NodeKey) {
        self.addresses.insert(identity::address(account), *account);
    }

    /// An account was undone.
    pub(super) fn close_account(&mut self, account: &NodeKey) {
        self.addresses.remove(&identity::address(account));
    }

    fn add_object(&mut self, id: ObjectId, object: &Object) {
        self.objects.insert((object.until, id));
        self.owners.insert((id.name, id.owner));
        *self.owned.entry(id.owner).or_default() += 1;
    }

    fn remove_object(&mut self, id: &ObjectId, object: &Object) {
        self.objects.remove(&(object.until, *id));
        self.owners.remove(&(id.name, id.owner));
        match self.owned.get_mut(&id.owner) {
            Some(owned) if *owned > 1 => *owned -= 1,
            _ => drop(self.owned.remove(&id.owner)),
        }
    }

    fn add_open_job(&mut self, job: &Job) {
        self.deadlines.insert((deadline(job), job.id));
        *self.open_jobs.entry(job.creator).or_default() += 1;
    }

    fn remove_open_job(&mut self, job: &Job) {
        self.deadlines.remove(&(deadline(job), job.id));
        match self.open_jobs.get_mut(&job.creator) {
            Some(open) if *open > 1 => *open -= 1,
            _ => drop(self.open_jobs.remove(&job.creator)),
        }
    }

    fn add_holder(&mut self, task: &Task) {
        if let Some(holder) = task.holder {
            self.held.entry(holder).or_default().insert(task.id);
        }
    }

    fn remove_holder(&mut self, task: &Task) {
        let Some(holder) = task.holder else {
            return;
        };
        if let Some(tasks) = self.held.get_mut(&holder) {
            tasks.remove(&task.id);
            if tasks.is_empty() {
                self.held.remove(&holder);
            }
        }
    }
}

/// Block time after which an open job fails.
pub(super) fn deadline(job: &Job) -> Time {
    job.created_at + std::time::Duration::from_millis(job.spec.deadline_millis)
}
