//! Which records changed at which height, so that a reader can be brought up to date without a scan.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Key,
    entries::Entry,
    removed::{Removed, take_out},
    state::State,
};
use crate::{
    chain::records::{Changes, ObjectId, Update, Updates},
    types::Digest,
};

/// The most records of one kind in an answer.
const PAGE_RECORDS: usize = 1_000;
/// The most bytes of records in an answer: what a reader's transport takes with room to spare.
const PAGE_BYTES: usize = 2 * 1024 * 1024;
/// The most records in a page of updates.
const PAGE_UPDATES: usize = 2_000;
/// What the key of an update takes in an answer, and what stands around it, in bytes: at most.
const KEY_BYTES: usize = 96;

/// The records of each height of their last change; the other way round, a record says it itself. It stands in exactly
/// one height, so the index is as large as the set of records, however long the ledger runs.
#[derive(Default)]
pub(super) struct Changed {
    at: BTreeMap<u64, BTreeSet<Key>>,
    removed: Removed,
}

impl Changed {
    /// A record was committed at `height`, and at another before; for the first time if that is none.
    pub(super) fn set(&mut self, key: Key, before: Option<u64>, height: u64) {
        match before {
            Some(before) => take_out(&mut self.at, before, &key),
            None => self.removed.forget(&key),
        }
        self.at.entry(height).or_default().insert(key);
    }

    /// A record that was committed at a height before was removed at `height`. Of those that readers of [`Changes`] see, only objects
    /// are.
    pub(super) fn remove(&mut self, key: Key, before: u64, height: u64) {
        take_out(&mut self.at, before, &key);
        self.removed.add(key, height);
    }

    /// What was removed up to `height` is not known: the records come from a snapshot.
    pub(super) fn begin_at(&mut self, height: u64) {
        self.removed = Removed::after(height);
    }

    /// Every record written or removed after `after`, all kinds alike, or the first page of it; from the beginning if `after` is
    /// none, or if it is not known what was removed since.
    pub(super) fn updates(&self, after: Option<u64>, state: &State) -> Updates {
        let whole = after.is_some_and(|height| !self.removed.is_known_after(height));
        let after = after.filter(|_| !whole);
        let mut page = Updates { height: state.clock().height, more: false, whole, records: Vec::new() };
        let (mut bytes, mut reached) = (0, after.unwrap_or(0));
        let mut next = after.map_or(0, |height| height.saturating_add(1));
        while let Some(at) = self.next_height(next, after.is_some()) {
            let written = self.at.get(&at).into_iter().flatten();
            // A reader that begins has nothing that could have been removed.
            let removed = self.removed.at(at).filter(|_| after.is_some()).into_iter().flatten();
            let keys: Vec<&Key> = written.chain(removed).collect();
            bytes += keys.iter().map(|key| KEY_BYTES + size(state, key)).sum::<usize>();
            let full = bytes > PAGE_BYTES || page.records.len() + keys.len() > PAGE_UPDATES;
            if full && !page.records.is_empty() {
                (page.more, page.height) = (true, reached);
                break;
            }
            let update = |key: &Key| Update { key: key.to_bytes(), value: state.get(key).map(Entry::to_bytes) };
            page.records.extend(keys.into_iter().map(update));
            (reached, next) = (at, at.saturating_add(1));
        }
        page
    }

    /// The first height from `from` on at which something was written last, or removed.
    fn next_height(&self, from: u64, with_removed: bool) -> Option<u64> {
        let written = self.at.range(from..).next().map(|(height, _)| *height);
        let removed = self.removed.first_from(from).filter(|_| with_removed);
        written.into_iter().chain(removed).min()
    }

    /// Everything changed after `height`, or the first page of it: whole heights, as many as fit into
    /// [`PAGE_RECORDS`] and [`PAGE_BYTES`], and at least one. So no record is ever split from its height, and asking
    /// again with the answer's height goes on where it stopped.
    pub(super) fn after(&self, height: u64, state: &State, app_hash: Digest) -> Changes {
        let clock = state.clock();
        let mut page = Changes::none_at(clock.height, clock.time, app_hash);
        let mut bytes = 0;
        let mut reached = height;
        let mut next = height.saturating_add(1);
        while let Some(at) = self.next_height(next, true).filter(|at| *at > height) {
            let keys: Vec<&Key> = self.at.get(&at).into_iter().flatten().collect();
            let gone: Vec<ObjectId> = self.removed.at(at).into_iter().flatten().filter_map(object).collect();
            bytes += keys.iter().map(|key| size(state, key)).sum::<usize>();
            bytes += gone.len() * KEY_BYTES;
            if !is_empty(&page) && (bytes > PAGE_BYTES || !fits(&page, &keys, gone.len())) {
                page.more = true;
                page.height = reached;
                break;
            }
            keys.into_iter().filter_map(|key| state.get(key)).for_each(|entry| add(&mut page, entry));
            page.gone.extend(gone);
            (reached, next) = (at, at.saturating_add(1));
        }
        page
    }
}

/// Bytes of a record; 0 if it is not there.
fn size(state: &State, key: &Key) -> usize {
    state.place(key).map_or(0, |place| place.size)
}

fn is_empty(page: &Changes) -> bool {
    largest(page) == 0
}

/// Records of the kind of which there are most.
fn largest(page: &Changes) -> usize {
    let counts = [
        page.nodes.len(),
        page.jobs.len(),
        page.tasks.len(),
        page.rounds.len(),
        page.models.len(),
        page.objects.len(),
        page.gone.len(),
    ];
    counts.into_iter().max().unwrap_or(0)
}

/// The object that a key names.
fn object(key: &Key) -> Option<ObjectId> {
    match key {
        Key::Object(id) => Some(*id),
        _ => None,
    }
}

fn fits(page: &Changes, keys: &[&Key], gone: usize) -> bool {
    let count = |kind: fn(&Key) -> bool| keys.iter().filter(|key| kind(key)).count();
    let totals = [
        page.nodes.len() + count(|key| matches!(key, Key::Node(_))),
        page.jobs.len() + count(|key| matches!(key, Key::Job(_))),
        page.tasks.len() + count(|key| matches!(key, Key::Task(_))),
        page.rounds.len() + count(|key| matches!(key, Key::Round(..))),
        page.models.len() + count(|key| matches!(key, Key::Model(_))),
        page.objects.len() + count(|key| matches!(key, Key::Object(_))),
        page.gone.len() + gone,
    ];
    totals.into_iter().all(|total| total <= PAGE_RECORDS)
}

fn add(page: &mut Changes, entry: &Entry) {
    match entry {
        Entry::Node(node) => page.nodes.push((**node).clone()),
        Entry::Job(job) => page.jobs.push((**job).clone()),
        Entry::Task(task) => page.tasks.push((**task).clone()),
        Entry::Round(round) => page.rounds.push((**round).clone()),
        Entry::Model(model) => page.models.push((**model).clone()),
        Entry::Object(object) => page.objects.push((**object).clone()),
        // The ledger's own book-keeping.
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::testing::{CHAIN, World, id, register_message, spec};
    use crate::{
        chain::{
            authenticated::Tree,
            records::{Node, Task, Update, Updates},
            wire::{Transaction, query},
        },
        codec,
        identity::Keypair,
        types::{Digest, JobSpec, NodeKey, Quorum, TaskId},
    };

    #[test]
    fn a_view_fed_with_changes_equals_the_ledger() {
        let mut world = World::in_a_round();
        let mut nodes = BTreeMap::<NodeKey, Node>::new();
        let mut tasks = BTreeMap::<TaskId, Task>::new();
        let mut height = 0;
        for voters in [[2, 1], [1, 2]] {
            let changes = world.changes(height);
            assert_eq!((changes.height, changes.more), (world.ledger.height(), false));
            assert_eq!(changes.app_hash, world.ledger.app_hash());
            height = changes.height;
            nodes.extend(changes.nodes.into_iter().map(|node| (node.id, node)));
            tasks.extend(changes.tasks.into_iter().map(|task| (task.id, task)));
            let job = tasks.keys().next().unwrap().job;
            assert_eq!(tasks.values().cloned().collect::<Vec<_>>(), world.tasks(job));
            assert_eq!(nodes[&id(3)], world.node(3));
            if world.job(job).round == 0 {
                world.close(job, &voters);
            }
        }
        let changes = world.changes(height);
        assert!(changes.nodes.is_empty() && changes.tasks.is_empty() && changes.jobs.is_empty());
        assert!(world.changes(u64::MAX).tasks.is_empty());
    }

    /// The records of a reader after its pages.
    fn read(world: &World, records: &mut BTreeMap<Vec<u8>, Vec<u8>>, mut after: Option<u64>) -> (u64, usize, bool) {
        let (mut pages, mut began_anew) = (0, false);
        loop {
            let data = after.map_or_else(Vec::new, |height| codec::encode(&height));
            let page =
                codec::decode::<Updates>(&world.ledger.query(query::UPDATES, &data).unwrap(), usize::MAX).unwrap();
            if page.whole {
                records.clear();
                began_anew = true;
            }
            for Update { key, value } in page.records {
                match value {
                    Some(value) => records.insert(key, value),
                    None => records.remove(&key),
                };
            }
            (after, pages) = (Some(page.height), pages + 1);
            if !page.more {
                return (page.height, pages, began_anew);
            }
        }
    }

    fn root(records: &BTreeMap<Vec<u8>, Vec<u8>>) -> Digest {
        let mut tree = Tree::new();
        tree.update(records.iter().map(|(key, value)| (key.clone(), Some(value.clone()))));
        tree.root()
    }

    #[test]
    fn who_applies_all_updates_comes_to_the_app_hash_whatever_was_removed() {
        let (world, mut records) = (World::new(), BTreeMap::new());
        let (mut height, _, _) = read(&world, &mut records, None);
        assert_eq!((height, root(&records)), (0, world.ledger.app_hash()), "an empty ledger has a genesis");
        let mut world = World::in_a_round();
        let job = world.changes(0).jobs[0].id;
        records.clear();
        (height, _, _) = read(&world, &mut records, None);
        assert_eq!((height, root(&records)), (world.ledger.height(), world.ledger.app_hash()));
        // The rewards of a round wait in a record of their own, and are gone with their audit window.
        world.close(job, &[2, 1]);
        (height, _, _) = read(&world, &mut records, Some(height));
        assert_eq!(root(&records), world.ledger.app_hash());
        let before = records.len();
        world.pass(60, &[1, 2, 3]);
        let (_, _, began_anew) = read(&world, &mut records, Some(height));
        assert!(!began_anew && records.len() < before, "{} records of {before}", records.len());
        assert_eq!(root(&records), world.ledger.app_hash());
    }

    #[test]
    fn a_ledger_from_a_snapshot_has_a_reader_begin_anew_who_was_away_for_longer() {
        let mut world = World::in_a_round();
        let job = world.changes(0).jobs[0].id;
        let mut records = BTreeMap::new();
        world.close(job, &[2, 1]);
        let (height, _, _) = read(&world, &mut records, None);
        world.pass(60, &[1, 2, 3]);
        world.ledger = super::super::Ledger::restore(&world.ledger.snapshot()).unwrap();
        let (now, _, began_anew) = read(&world, &mut records, Some(height));
        assert!(began_anew && root(&records) == world.ledger.app_hash());
        world.pass(1, &[1, 2, 3]);
        let (_, _, began_anew) = read(&world, &mut records, Some(now));
        assert!(!began_anew && root(&records) == world.ledger.app_hash());
    }

    #[test]
    fn a_long_absence_is_made_up_in_pages_without_loss() {
        let mut world = World::new();
        world.ok(1, register_message());
        // 600 nodes in one block, and 2,100 tasks in three.
        let register = |index: u32| {
            let key = Keypair::from_secret(&Digest::of(&index.to_be_bytes()).0);
            codec::encode(&key.seal(&Transaction {
                chain_id: CHAIN.to_owned(),
                nonce: 0,
                attempt: 0,
                message: register_message(),
            }))
        };
        let nodes: Vec<Vec<u8>> = (0..600).map(register).collect();
        world.block(100, &nodes);
        let free = || JobSpec { budget: 0, ..spec(1, Quorum::All) };
        for _ in 0..3 {
            world.submit(1, free(), 700);
        }
        let (mut height, mut tasks, mut seen, mut pages) = (0, 0, 0, 0);
        loop {
            let page = world.changes(height);
            assert!(page.tasks.len() <= 1_000 && page.height > height);
            (height, tasks, seen, pages) = (page.height, tasks + page.tasks.len(), seen + page.nodes.len(), pages + 1);
            if !page.more {
                break;
            }
        }
        assert_eq!((height, tasks, seen), (world.ledger.height(), 2_100, 601));
        assert!(pages >= 3);
        let mut records = BTreeMap::new();
        let (height, pages, _) = read(&world, &mut records, None);
        assert_eq!((height, root(&records)), (world.ledger.height(), world.ledger.app_hash()));
        assert!(pages >= 2, "{pages}");
        let mut listed = 0;
        let mut after = Vec::new();
        loop {
            let page: Vec<Node> =
                codec::decode(&world.ledger.query(query::LIST_NODES, &after).unwrap(), usize::MAX).unwrap();
            listed += page.len();
            match page.last() {
                Some(last) => after = codec::encode(&last.id),
                None => break,
            }
        }
        assert_eq!(listed, 601);
    }
}
