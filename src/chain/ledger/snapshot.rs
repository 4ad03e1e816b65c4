//! Snapshots: a ledger as bytes, and back.
//!
//! A snapshot holds the records with the heights of their last change; tree and indexes are built again from them.
//! It is not signed: whoever takes one from another compares the app hash of the restored ledger with a block header
//! that it trusts. A format that is older than this program's is read with the records and the app hash that it has: a state
//! becomes one of a newer version in a block, on all validators at once, and never by being read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Key, Ledger, SnapshotError, changes::Changed, entries::Entry, rules::STATE_VERSION, state::State};
use crate::{
    chain::authenticated::Tree,
    codec,
    types::{Digest, Verified},
};

/// Grows with each change of what a snapshot means. 1: without the version of the state, which is 1.
const FORMAT: u32 = 2;
/// The oldest that is read.
const OLDEST_FORMAT: u32 = 1;
/// The longest snapshot in bytes: about a million records. A longer one is refused before it is decoded.
pub const MAX_SNAPSHOT: usize = 1 << 30;

#[derive(Serialize)]
struct Written<'a> {
    format: u32,
    version: u32,
    app_hash: Digest,
    records: Vec<(&'a Key, &'a Entry, u64)>,
}

#[derive(Deserialize)]
struct Read {
    format: u32,
    #[serde(default = "first_version")]
    version: u32,
    app_hash: Digest,
    records: Vec<(Key, Entry, u64)>,
}

fn first_version() -> u32 {
    1
}

/// The version of a state with these records.
fn version(rules: Option<&Entry>) -> u32 {
    match rules {
        Some(Entry::Rules(rules)) => rules.version,
        _ => first_version(),
    }
}

/// The ledger as bytes.
pub(super) fn write(ledger: &Ledger) -> Vec<u8> {
    let records = ledger.state.entries().map(|(key, entry)| (key, entry, ledger.changed.height_of(key))).collect();
    let version = version(ledger.state.get(&Key::Rules));
    codec::encode(&Written { format: FORMAT, version, app_hash: ledger.app_hash(), records })
}

/// The ledger that these bytes were written from.
pub(super) fn read(bytes: &[u8]) -> Result<Ledger, SnapshotError> {
    let snapshot: Read = codec::decode(bytes, MAX_SNAPSHOT)?;
    if !(OLDEST_FORMAT..=FORMAT).contains(&snapshot.format) {
        return Err(SnapshotError::Format { found: snapshot.format, expected: FORMAT });
    }
    if snapshot.version > STATE_VERSION {
        return Err(SnapshotError::Version { found: snapshot.version, newest: STATE_VERSION });
    }
    let (mut entries, mut tree, mut changed) = (BTreeMap::new(), Tree::new(), Changed::default());
    let mut values = BTreeMap::new();
    for (key, entry, height) in snapshot.records {
        if !entry.fits(&key) {
            return Err(SnapshotError::Misplaced(format!("{key:?}")));
        }
        let value = entry.to_bytes();
        changed.set(key.clone(), height, value.len());
        values.insert(key.clone(), Some(value));
        entries.insert(key, entry);
    }
    tree.update(values);
    if tree.root() != snapshot.app_hash {
        return Err(SnapshotError::AppHash { stated: snapshot.app_hash, computed: tree.root() });
    }
    check_complete(&entries)?;
    let found = version(entries.get(&Key::Rules));
    if found != snapshot.version {
        return Err(SnapshotError::OtherVersion { stated: snapshot.version, found });
    }
    let mut state = State::from_entries(entries);
    state.take_changed();
    changed.begin_at(state.clock().height);
    Ok(Ledger { state, tree, changed, verified: Verified::default() })
}

fn check_complete(entries: &BTreeMap<Key, Entry>) -> Result<(), SnapshotError> {
    let needed = [(Key::Genesis, "genesis"), (Key::Clock, "clock")];
    let missing = needed.into_iter().find(|(key, _)| !entries.contains_key(key));
    missing.map_or(Ok(()), |(_, name)| Err(SnapshotError::Missing(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chain::ledger::testing::check_promises,
        types::{JobStatus, Time},
    };

    /// A ledger of format 1 as its program wrote it: one job has closed a round, another has a task that a node failed.
    /// These bytes never change. A program that keeps records in another way brings them over, and shows it here.
    const VERSION_1: &[u8] = include_bytes!("version-1.snapshot");

    /// Status, escrow and payments of each job.
    fn jobs(ledger: &Ledger) -> Vec<(JobStatus, u64, u64)> {
        let jobs = ledger.state.entries().filter_map(|(_, entry)| match entry {
            Entry::Job(job) => Some((job.status, job.escrow, job.paid)),
            _ => None,
        });
        jobs.collect()
    }

    #[test]
    fn a_snapshot_of_format_1_is_read_and_its_jobs_end_at_their_deadline() {
        let mut ledger = read(VERSION_1).unwrap();
        let stated: Read = codec::decode(VERSION_1, MAX_SNAPSHOT).unwrap();
        assert_eq!((stated.format, ledger.app_hash()), (1, stated.app_hash));
        check_promises(&ledger);
        let before = jobs(&ledger);
        assert!(before.contains(&(JobStatus::Open, 500_000, 100_000)), "{before:?}");
        assert!(before.contains(&(JobStatus::Open, 600_000, 0)), "{before:?}");
        ledger.apply_block(Time::from_millis(ledger.time().as_millis() + 2 * 86_400_000), &[]);
        check_promises(&ledger);
        let mut after = jobs(&ledger);
        after.sort_by_key(|(_, _, paid)| *paid);
        assert_eq!(after, [(JobStatus::Failed, 0, 0), (JobStatus::Failed, 0, 100_000)]);
        assert_eq!(Ledger::restore(&ledger.snapshot()).unwrap().app_hash(), ledger.app_hash());
    }
}
