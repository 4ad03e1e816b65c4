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
