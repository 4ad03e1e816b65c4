//! Snapshots: a ledger as bytes, and back.
//!
//! A snapshot holds the records with the heights of their last change; tree and indexes are built again from them.
//! It is not signed: whoever takes one from another compares the app hash of the restored ledger with a block header
//! that it trusts. A format that is older than this program's is read with the records and the app hash that it has: a state
//! becomes one of a newer version in a block, on all validators at once, and never by being read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Key, Ledger, SnapshotError,
    changes::Changed,
    entries::Entry,
    rules::STATE_VERSION,
    state::{Kept, Place, Records, State},
};
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

/// A snapshot that is written a part at a time.
#[derive(Debug)]
pub struct Beginning {
    /// The height that it is of.
    pub height: u64,
    /// Its first bytes.
    pub bytes: Vec<u8>,
}

/// A part of a snapshot.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// Its bytes.
    Bytes(Vec<u8>),
    /// The one before was the last.
    End,
    /// There is no such snapshot any more: too much has changed, another was begun, or the ledger is another.
    Gone,
}

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
    codec::encode(&written(ledger, ledger.state.records().iter().map(|(key, kept)| record(key, kept)).collect()))
}

fn written<'a>(ledger: &Ledger, records: Vec<(&'a Key, &'a Entry, u64)>) -> Written<'a> {
    let version = version(ledger.state.get(&Key::Rules));
    Written { format: FORMAT, version, app_hash: ledger.app_hash(), records }
}

/// A record as a snapshot has it.
fn record<'a>(key: &'a Key, kept: &'a Kept) -> (&'a Key, &'a Entry, u64) {
    (key, &kept.entry, kept.place.map_or(0, |place| place.height))
}

/// What stands before the records.
pub(super) fn begin(ledger: &Ledger) -> Beginning {
    let mut bytes = codec::encode(&written(ledger, Vec::new()));
    // The list of records comes last. An empty one is one byte, and has its length in the place of this one's.
    bytes.pop();
    bytes.extend(codec::list_head(ledger.records()));
    Beginning { height: ledger.height(), bytes }
}

/// The next records.
pub(super) fn part(ledger: &mut Ledger, beginning: &Beginning, count: usize) -> Part {
    let mut bytes = Vec::new();
    let give = |key: &Key, kept: &Kept| bytes.extend(codec::encode(&record(key, kept)));
    match ledger.state.next_frozen(beginning.height, count, give) {
        Some(true) => Part::Bytes(bytes),
        Some(false) => Part::End,
        None => Part::Gone,
    }
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
    let (mut records, mut tree, mut changed) = (Records::new(), Tree::new(), Changed::default());
    let mut values = BTreeMap::new();
    for (key, entry, height) in snapshot.records {
        if !entry.fits(&key) {
            return Err(SnapshotError::Misplaced(format!("{key:?}")));
        }
        let value = entry.to_bytes();
        let place = Place { height, size: value.len() };
        let before = records.insert(key.clone(), Kept { entry, place: Some(place) }).and_then(|kept| kept.place);
        changed.set(key.clone(), before.map(|place| place.height), height);
        values.insert(key, Some(value));
    }
    tree.update(values);
    if tree.root() != snapshot.app_hash {
        return Err(SnapshotError::AppHash { stated: snapshot.app_hash, computed: tree.root() });
    }
    check_complete(&records)?;
    let found = version(records.get(&Key::Rules).map(|kept| &kept.entry));
    if found != snapshot.version {
        return Err(SnapshotError::OtherVersion { stated: snapshot.version, found });
    }
    let state = State::of(records);
    changed.begin_at(state.clock().height);
    Ok(Ledger { state, tree, changed, verified: Verified::default() })
}

fn check_complete(records: &Records) -> Result<(), SnapshotError> {
    let needed = [(Key::Genesis, "genesis"), (Key::Clock, "clock")];
    let missing = needed.into_iter().find(|(key, _)| !records.contains_key(key));
    missing.map_or(Ok(()), |(_, name)| Err(SnapshotError::Missing(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chain::ledger::testing::{World, check_promises, register_message, spec},
        types::{JobSpec, JobStatus, Quorum, Time},
    };

    /// All parts of the snapshot that begins now, of so many records each; a block follows on each.
    fn beside(world: &mut World, records: usize) -> Vec<u8> {
        let begun = world.ledger.begin_snapshot();
        let mut bytes = begun.bytes.clone();
        for turn in 0.. {
            match world.ledger.snapshot_part(&begun, records) {
                Part::Bytes(part) => bytes.extend(part),
                Part::End => break,
                Part::Gone => panic!("it is the only one"),
            }
            match turn {
                // New records before and behind, a round that is closed and paid, and what is left of it removed.
                0 => world.ok(9, register_message()),
                1 => drop(world.submit(2, JobSpec { budget: 0, ..spec(1, Quorum::All) }, 3)),
                2 => {
                    let jobs = world.changes(0).jobs;
                    let open = jobs.iter().find(|job| job.spec.rounds == 2 && job.round == 0).map(|job| job.id);
                    open.iter().for_each(|job| world.close(*job, &[2, 1]));
                }
                _ => world.pass(1, &[1, 2, 3]),
            }
        }
        bytes
    }

    #[test]
    fn a_snapshot_in_parts_is_the_one_of_its_height_whatever_happens_meanwhile() {
        for records in [1, 2, 3, 7, 1_000] {
            let mut world = World::in_a_round();
            let whole = world.ledger.snapshot();
            assert_eq!(beside(&mut world, records), whole, "{records} records at a time");
            // And again, of what it is now.
            let whole = world.ledger.snapshot();
            assert_eq!(beside(&mut world, records), whole);
            let restored = Ledger::restore(&whole).unwrap();
            assert_eq!(restored.snapshot(), whole);
        }
    }

    #[test]
    fn a_snapshot_in_parts_ends_with_its_last_part_and_where_another_begins() {
        let mut world = World::of_nodes(2);
        let first = world.ledger.begin_snapshot();
        assert!(matches!(world.ledger.snapshot_part(&first, 1), Part::Bytes(_)));
        world.pass(1, &[1]);
        let second = world.ledger.begin_snapshot();
        assert_eq!(world.ledger.snapshot_part(&first, 1), Part::Gone);
        let records = world.ledger.records();
        assert!(matches!(world.ledger.snapshot_part(&second, records), Part::Bytes(_)));
        assert_eq!(world.ledger.snapshot_part(&second, 1), Part::End);
        assert_eq!(world.ledger.snapshot_part(&second, 1), Part::Gone);
        let mut other = World::of_nodes(2).ledger;
        assert_eq!(other.snapshot_part(&second, 1), Part::Gone);
    }

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
