//! Which records changed at which height, so that a reader can be brought up to date without a scan.

use std::collections::{BTreeMap, BTreeSet};

use super::{Key, entries::Entry, state::State};
use crate::{chain::records::Changes, types::Digest};

/// The most records of one kind in an answer.
const PAGE_RECORDS: usize = 1_000;
/// The most bytes of records in an answer: what a reader's transport takes with room to spare.
const PAGE_BYTES: usize = 2 * 1024 * 1024;

/// For each record the height of its last change and its size, and the other way round. A record stands in exactly
/// one height, so the index is as large as the set of records, however long the ledger runs.
#[derive(Default)]
pub(super) struct Changed {
    at: BTreeMap<u64, BTreeSet<Key>>,
    of: BTreeMap<Key, (u64, usize)>,
}

impl Changed {
    /// Whether a record has been committed under this key.
    pub(super) fn contains(&self, key: &Key) -> bool {
        self.of.contains_key(key)
    }

    /// The height of a record's last change.
    pub(super) fn height_of(&self, key: &Key) -> u64 {
        self.of.get(key).map_or(0, |(height, _)| *height)
    }

    /// A record of `size` bytes was committed at `height`.
    pub(super) fn set(&mut self, key: Key, height: u64, size: usize) {
        self.remove(&key);
        self.at.entry(height).or_default().insert(key.clone());
        self.of.insert(key, (height, size));
    }

    /// A record was removed. Readers are not told: no kind that they see is ever removed.
    pub(super) fn remove(&mut self, key: &Key) {
        let Some((height, _)) = self.of.remove(key) else {
            return;
        };
        if let Some(keys) = self.at.get_mut(&height) {
            keys.remove(key);
            if keys.is_empty() {
                self.at.remove(&height);
            }
        }
    }

    /// Everything changed after `height`, or the first page of it: whole heights, as many as fit into
    /// [`PAGE_RECORDS`] and [`PAGE_BYTES`], and at least one. So no record is ever split from its height, and asking
    /// again with the answer's height goes on where it stopped.
    pub(super) fn after(&self, height: u64, state: &State, app_hash: Digest) -> Changes {
        let clock = state.clock();
        let mut page = Changes {
            height: clock.height,
            time: clock.time,
            app_hash,
            more: false,
            nodes: Vec::new(),
            jobs: Vec::new(),
            tasks: Vec::new(),
            rounds: Vec::new(),
            models: Vec::new(),
        };
        let mut bytes = 0;
        let mut reached = height;
        for (at, keys) in self.at.range(height.saturating_add(1)..) {
            bytes += keys.iter().filter_map(|key| self.of.get(key)).map(|(_, size)| size).sum::<usize>();
            if !is_empty(&page) && (bytes > PAGE_BYTES || !fits(&page, keys)) {
                page.more = true;
                page.height = reached;
                break;
            }
            keys.iter().filter_map(|key| state.get(key)).for_each(|entry| add(&mut page, entry));
            reached = *at;
        }
        page
    }
}

fn is_empty(page: &Changes) -> bool {
    largest(page) == 0
}

/// Records of the kind of which there are most.
fn largest(page: &Changes) -> usize {
    let counts = [page.nodes.len(), page.jobs.len(), page.tasks.len(), page.rounds.len(), page.models.len()];
    counts.into_iter().max().unwrap_or(0)
}

fn fits(page: &Changes, keys: &BTreeSet<Key>) -> bool {
    let count = |kind: fn(&Key) -> bool| keys.iter().filter(|key| kind(key)).count();
    let totals = [
        page.nodes.len() + count(|key| matches!(key, Key::Node(_))),
        page.jobs.len() + count(|key| matches!(key, Key::Job(_))),
        page.tasks.len() + count(|key| matches!(key, Key::Task(_))),
        page.rounds.len() + count(|key| matches!(key, Key::Round(..))),
        page.models.len() + count(|key| matches!(key, Key::Model(_))),
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
            records::{Node, Task},
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
