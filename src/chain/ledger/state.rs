//! All records, with an undo journal, and the indexes that answer "what is due?" without a scan.

use std::{
    collections::{BTreeMap, btree_map},
    mem,
    ops::RangeBounds,
};

use super::{
    Economy, Event, Genesis, Key, Parameters, Rules,
    entries::{Clock, Entry, Inference, NodeClock, Payout, TaskClock},
    frozen::Frozen,
    index::Index,
    refusal::Refusal,
};
use crate::{
    chain::records::{
        Account, Allowance, Job, Model, Node, Object, ObjectId, Offence, OffenceId, Proposals, RoundRecord, Stake,
        Standing, Task, Totals, Validators,
    },
    types::{Digest, JobId, NodeKey, Slot, TaskId},
};

/// The records. Every write goes through [`State::put`] and [`State::remove`], so that journal, indexes and the set
/// of changed records can't be forgotten.
pub(super) struct State {
    records: Records,
    index: Index,
    /// What each write since [`State::begin`] replaced, oldest first.
    journal: Vec<(Key, Option<Kept>)>,
    changed: ChangedKeys,
    /// Since [`State::take_events`].
    events: Vec<Event>,
    /// An earlier state that is being written out.
    frozen: Option<Frozen>,
}

/// All records.
pub(super) type Records = BTreeMap<Key, Kept>;
/// What was written since [`State::take_changed`], with where it was committed before that; none if it was not.
pub(super) type ChangedKeys = BTreeMap<Key, Option<Place>>;

/// A record, and where it was committed last: none if no block has ended since it was written.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) entry: Entry,
    pub(super) place: Option<Place>,
}

/// The block that a record was committed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) height: u64,
    /// Bytes of the record as it is hashed.
    pub(super) size: usize,
}

/// Declares how a kind of record is looked up and put.
macro_rules! records {
    ($($record:ident: $id:ty, $get:ident $put:ident;)+) => {
        impl State {$(
            /// The record, if there is one.
            pub(super) fn $get(&self, id: &$id) -> Option<&$record> {
                match self.get(&Key::$record(*id)) {
                    Some(Entry::$record(record)) => Some(record),
                    _ => None,
                }
            }

            /// Creates or replaces the record.
            #[allow(clippy::useless_conversion, reason = "large records are boxed, small ones are not")]
            pub(super) fn $put(&mut self, id: &$id, record: $record) {
                self.put(Key::$record(*id), Entry::$record(record.into()));
            }
        )+}
    };
}

/// Declares how a kind of record is changed.
macro_rules! editable {
    ($($record:ident: $id:ty, $get:ident $put:ident $edit:ident;)+) => {
        impl State {$(
            /// Changes the record.
            ///
            /// # Panics
            /// If there is none, which is a bug: callers hold an id that they have just looked up.
            pub(super) fn $edit<R>(&mut self, id: &$id, edit: impl FnOnce(&mut $record) -> R) -> R {
                let mut record = self.$get(id).expect("callers look the record up first").clone();
                let result = edit(&mut record);
                self.$put(id, record);
                result
            }
        )+}
    };
}

/// Declares how a kind of record that transactions name is demanded.
macro_rules! demanded {
    ($($record:ident: $id:ty, $get:ident $known:ident $name:literal;)+) => {
        impl State {$(
            /// The record; a refusal that names it if there is none.
            pub(super) fn $known(&self, id: &$id) -> Result<&$record, Refusal> {
                self.$get(id).ok_or_else(|| Refusal::not_found(format!(concat!($name, " {} does not exist"), id)))
            }
        )+}
    };
}

records! {
    Account: NodeKey, account put_account;
    Node: NodeKey, node put_node;
    NodeClock: NodeKey, node_clock put_node_clock;
    Job: JobId, job put_job;
    Task: TaskId, task put_task;
    TaskClock: TaskId, task_clock put_task_clock;
    Stake: NodeKey, stake put_stake;
    Offence: OffenceId, offence put_offence;
    Standing: NodeKey, standing put_standing;
    Allowance: NodeKey, allowance put_allowance;
    Object: ObjectId, object put_object;
}

editable! {
    Node: NodeKey, node put_node edit_node;
    NodeClock: NodeKey, node_clock put_node_clock edit_node_clock;
    Job: JobId, job put_job edit_job;
    Task: TaskId, task put_task edit_task;
    TaskClock: TaskId, task_clock put_task_clock edit_task_clock;
}

demanded! {
    Node: NodeKey, node known_node "node";
    Job: JobId, job known_job "job";
    Task: TaskId, task known_task "task";
    Object: ObjectId, object known_object "object";
}

impl State {
    /// A ledger that holds nothing but its genesis and clock.
    pub(super) fn new(genesis: Genesis, clock: Clock) -> Self {
        let mut state = Self::of(Records::new());
        state.put(Key::Genesis, Entry::Genesis(Box::new(genesis)));
        state.put(Key::Clock, Entry::Clock(clock));
        state
    }

    /// The state with these records, all of them committed, among which must be genesis and clock.
    pub(super) fn of(records: Records) -> Self {
        let index = Index::over(records.iter().map(|(key, kept)| (key, &kept.entry)));
        let changed = ChangedKeys::new();
        Self { records, index, journal: Vec::new(), changed, events: Vec::new(), frozen: None }
    }

    /// What the ledger began from.
    pub(super) fn genesis(&self) -> &Genesis {
        match self.get(&Key::Genesis) {
            Some(Entry::Genesis(genesis)) => genesis,
            _ => unreachable!("no state is made without a genesis, and none is removed"),
        }
    }

    /// The numbers in force in place of those of the genesis; `None` until validators changed one.
    pub(super) fn rules(&self) -> Option<&Rules> {
        match self.get(&Key::Rules) {
            Some(Entry::Rules(rules)) => Some(rules),
            _ => None,
        }
    }

    /// Puts numbers in force.
    pub(super) fn put_rules(&mut self, rules: Rules) {
        self.put(Key::Rules, Entry::Rules(Box::new(rules)));
    }

    /// The numbers the ledger runs by.
    pub(super) fn parameters(&self) -> &Parameters {
        self.rules().map_or_else(|| &self.genesis().parameters, |rules| &rules.parameters)
    }

    /// The numbers of its economy, if it has one.
    pub(super) fn economy(&self) -> Option<&Economy> {
        self.rules().map_or_else(|| self.genesis().economy.as_ref(), |rules| Some(&rules.economy))
    }

    /// What validators vote on; `None` for nothing.
    pub(super) fn proposals(&self) -> Option<&Proposals> {
        match self.get(&Key::Proposals) {
            Some(Entry::Proposals(proposals)) => Some(proposals),
            _ => None,
        }
    }

    /// Sets what validators vote on. Nothing is no record.
    pub(super) fn put_proposals(&mut self, proposals: Proposals) {
        if proposals.open.is_empty() {
            self.remove(&Key::Proposals);
        } else {
            self.put(Key::Proposals, Entry::Proposals(proposals));
        }
    }

    /// The numbers of its economy; a refusal if it has none.
    pub(super) fn demand_economy(&self) -> Result<&Economy, Refusal> {
        self.economy().ok_or_else(|| Refusal::conflict("this ledger has no economy: its genesis names none"))
    }

    /// The sums of the economy.
    pub(super) fn totals(&self) -> Totals {
        match self.get(&Key::Totals) {
            Some(Entry::Totals(totals)) => *totals,
            _ => Totals::default(),
        }
    }

    /// Sets the sums of the economy.
    pub(super) fn put_totals(&mut self, totals: Totals) {
        self.put(Key::Totals, Entry::Totals(totals));
    }

    /// Who makes the blocks; `None` without an economy.
    pub(super) fn validators(&self) -> Option<&Validators> {
        match self.get(&Key::Validators) {
            Some(Entry::Validators(validators)) => Some(validators),
            _ => None,
        }
    }

    /// Sets who makes the blocks.
    pub(super) fn put_validators(&mut self, validators: Validators) {
        self.put(Key::Validators, Entry::Validators(validators));
    }

    /// Height and times.
    pub(super) fn clock(&self) -> Clock {
        match self.get(&Key::Clock) {
            Some(Entry::Clock(clock)) => *clock,
            _ => unreachable!("no state is made without a clock, and none is removed"),
        }
    }

    /// Sets height and times.
    pub(super) fn put_clock(&mut self, clock: Clock) {
        self.put(Key::Clock, Entry::Clock(clock));
    }

    /// The record under `key`.
    pub(super) fn get(&self, key: &Key) -> Option<&Entry> {
        self.records.get(key).map(|kept| &kept.entry)
    }

    /// Where the record under `key` was committed last.
    pub(super) fn place(&self, key: &Key) -> Option<Place> {
        self.records.get(key).and_then(|kept| kept.place)
    }

    /// The record under `key` was committed.
    pub(super) fn set_place(&mut self, key: &Key, place: Place) {
        if let Some(kept) = self.records.get_mut(key) {
            kept.place = Some(place);
        }
    }

    /// All records with their places, in the order of their keys.
    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    /// All records, in the order of their keys.
    #[cfg(test)]
    pub(super) fn entries(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.range(..)
    }

    /// The records under a range of keys.
    pub(super) fn range(&self, keys: impl RangeBounds<Key>) -> impl Iterator<Item = (&Key, &Entry)> {
        self.records.range(keys).map(|(key, kept)| (key, &kept.entry))
    }

    /// Keeps everything as it is now until it is written out, in place of what was kept so. Between blocks.
    pub(super) fn freeze(&mut self) {
        self.frozen = Some(Frozen::at(self.clock().height));
    }

    /// Gives the next records of the state that is kept since the block of this height, after going through `count` at most.
    /// True while there may be more, none if that state is not kept any more.
    pub(super) fn next_frozen(&mut self, height: u64, count: usize, give: impl FnMut(&Key, &Kept)) -> Option<bool> {
        let frozen = self.frozen.as_mut().filter(|frozen| frozen.height() == height)?;
        let more = frozen.next(&self.records, count, give);
        if !more {
            self.frozen = None;
        }
        Some(more)
    }

    /// The tasks of a job, by slot.
    pub(super) fn tasks_of(&self, job: JobId) -> impl Iterator<Item = &Task> {
        let keys = Key::Task(TaskId { job, slot: 0 })..=Key::Task(TaskId { job, slot: Slot::MAX });
        self.range(keys).filter_map(|(_, entry)| match entry {
            Entry::Task(task) => Some(&**task),
            _ => None,
        })
    }

    /// The objects of `owner`, by their ids.
    pub(super) fn objects_of(&self, owner: NodeKey) -> impl Iterator<Item = &Object> {
        let name = |byte| ObjectId { owner, name: Digest([byte; 32]) };
        self.range(Key::Object(name(0))..=Key::Object(name(0xff))).filter_map(|(_, entry)| match entry {
            Entry::Object(object) => Some(&**object),
            _ => None,
        })
    }

    /// Whether any payout waits for the end of its audit window.
    pub(super) fn has_payouts(&self) -> bool {
        let first = Key::Payout(0, JobId([0; 32]), 0);
        self.range(first..).next().is_some_and(|(key, _)| matches!(key, Key::Payout(..)))
    }

    /// The payouts whose audit window ends at `height` or before.
    pub(super) fn due_payouts(&self, height: u64) -> Vec<(Key, Payout)> {
        let first = Key::Payout(0, JobId([0; 32]), 0);
        let last = Key::Payout(height, JobId([0xff; 32]), u32::MAX);
        let payouts = self.range(first..=last).filter_map(|(key, entry)| match entry {
            Entry::Payout(payout) => Some((key.clone(), payout.clone())),
            _ => None,
        });
        payouts.collect()
    }

    /// What a node answered for a job so far.
    pub(super) fn inference(&self, job: JobId, node: NodeKey) -> Inference {
        match self.get(&Key::Inference(job, node)) {
            Some(Entry::Inference(inference)) => *inference,
            _ => Inference::default(),
        }
    }

    /// Sets what a node answered for a job.
    pub(super) fn put_inference(&mut self, job: JobId, node: NodeKey, inference: Inference) {
        self.put(Key::Inference(job, node), Entry::Inference(inference));
    }

    /// A registered model.
    pub(super) fn model(&self, id: &str) -> Option<&Model> {
        match self.get(&Key::Model(id.to_owned())) {
            Some(Entry::Model(model)) => Some(model),
            _ => None,
        }
    }

    /// Registers a model.
    pub(super) fn put_model(&mut self, model: Model) {
        self.put(Key::Model(model.id.clone()), Entry::Model(Box::new(model)));
    }

    /// Keeps a closed round.
    pub(super) fn put_round(&mut self, record: RoundRecord) {
        let key = Key::Round(record.outcome.job, record.outcome.round);
        self.put(key, Entry::Round(Box::new(record)));
    }

    /// A closed round.
    pub(super) fn round(&self, job: JobId, round: u32) -> Option<&RoundRecord> {
        match self.get(&Key::Round(job, round)) {
            Some(Entry::Round(record)) => Some(record),
            _ => None,
        }
    }

    /// A payout that waits for its height.
    pub(super) fn payout(&self, height: u64, job: JobId, round: u32) -> Option<&Payout> {
        match self.get(&Key::Payout(height, job, round)) {
            Some(Entry::Payout(payout)) => Some(payout),
            _ => None,
        }
    }

    /// Keeps a payout until its height.
    pub(super) fn put_payout(&mut self, height: u64, job: JobId, round: u32, payout: Payout) {
        self.put(Key::Payout(height, job, round), Entry::Payout(payout));
    }

    /// The indexes.
    pub(super) fn index(&self) -> &Index {
        &self.index
    }

    /// Says that something happened.
    pub(super) fn emit(&mut self, event: Event) {
        self.events.push(event);
    }

    /// What happened since the last call.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        mem::take(&mut self.events)
    }

    /// From here on, [`State::rollback`] undoes.
    pub(super) fn begin(&mut self) {
        self.journal.clear();
    }

    /// Undoes every write and forgets every event since [`State::begin`].
    pub(super) fn rollback(&mut self) {
        for (key, old) in mem::take(&mut self.journal).into_iter().rev() {
            self.replace(key, old);
        }
        self.events.clear();
    }

    /// The keys written since the last call.
    pub(super) fn take_changed(&mut self) -> ChangedKeys {
        self.journal.clear();
        mem::take(&mut self.changed)
    }

    /// Removes a record, if it is there.
    pub(super) fn remove(&mut self, key: &Key) {
        self.write(key.clone(), None);
    }

    fn put(&mut self, key: Key, entry: Entry) {
        self.write(key, Some(entry));
    }

    fn write(&mut self, key: Key, new: Option<Entry>) {
        let old = self.replace(key.clone(), new.map(|entry| Kept { entry, place: None }));
        if let Some(frozen) = &mut self.frozen
            && !frozen.put_aside(&key, old.as_ref())
        {
            self.frozen = None;
        }
        self.changed.entry(key.clone()).or_insert_with(|| old.as_ref().and_then(|old| old.place));
        self.journal.push((key, old));
    }

    fn replace(&mut self, key: Key, new: Option<Kept>) -> Option<Kept> {
        // Encoding an address costs more than all else here, and an account that changes keeps its own.
        match (self.records.entry(key), new) {
            (btree_map::Entry::Occupied(mut place), Some(new)) => {
                self.index.remove(place.key(), &place.get().entry);
                self.index.add(place.key(), &new.entry);
                Some(mem::replace(place.get_mut(), new))
            }
            (btree_map::Entry::Vacant(place), Some(new)) => {
                if let Key::Account(account) = place.key() {
                    self.index.open_account(account);
                }
                self.index.add(place.key(), &new.entry);
                place.insert(new);
                None
            }
            (btree_map::Entry::Occupied(place), None) => {
                let (key, old) = place.remove_entry();
                if let Key::Account(account) = &key {
                    self.index.close_account(account);
                }
                self.index.remove(&key, &old.entry);
                Some(old)
            }
            (btree_map::Entry::Vacant(_), None) => None,
        }
    }
}
