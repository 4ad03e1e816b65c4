//! Pins: which roots garbage collection starts from, and why each is kept.

use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use cid::Cid;
use redb::{Database, ReadableTable, TableDefinition};

use super::table;
use crate::types::ContentId;

/// (binary CID, reason).
const PINS: TableDefinition<'_, (&[u8], &str), ()> = TableDefinition::new("pins");
/// Page cache in bytes: pins are read once, at the start.
const CACHE_BYTES: usize = 256 * 1024;
/// Longest reason in bytes; a longer one is refused.
pub const MAX_REASON_BYTES: usize = 256;

/// A root that is kept, with the reason. One root may be pinned for several reasons; it stays until the last is gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin {
    /// The root.
    pub root: ContentId,
    /// Why, for example `job 3f…` or `hold`.
    pub reason: String,
}

/// The pins of a store, on disk and in memory.
#[derive(Debug)]
pub(crate) struct Pins {
    database: Database,
    pins: Mutex<BTreeSet<Pin>>,
}

impl Pins {
    /// Opens or creates the table. One that is damaged is an error, and left as it is: a pin too few would let blocks go that
    /// somebody counts on.
    pub(crate) fn open(path: &Path) -> Result<Self, redb::Error> {
        let before = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            bytes => Some(bytes.map_err(redb::Error::Io)?),
        };
        let opened = table::guarded(|| Self::open_checked(path));
        if let (Err(_), Some(before)) = (&opened, before) {
            put_back(path, &before).map_err(redb::Error::Io)?;
        }
        opened
    }

    fn open_checked(path: &Path) -> Result<Self, redb::Error> {
        let mut database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
        // Opening checks little. The whole table is read below anyway.
        if !database.check_integrity()? {
            return Err(redb::Error::Corrupted("its checksums do not fit".to_owned()));
        }
        let transaction = database.begin_write()?;
        let mut pins = BTreeSet::new();
        for entry in transaction.open_table(PINS)?.iter()? {
            let (key, ()) = entry.map(|(key, _)| (key, ()))?;
            let (root, reason) = key.value();
            if let Ok(root) = Cid::try_from(root) {
                pins.insert(Pin { root: ContentId(root), reason: reason.to_owned() });
            }
        }
        transaction.commit()?;
        Ok(Self { database, pins: Mutex::new(pins) })
    }

    /// On disk when it returns. False if it was there already.
    pub(crate) fn insert(&self, pin: Pin) -> Result<bool, redb::Error> {
        let mut pins = self.lock();
        if pins.contains(&pin) {
            return Ok(false);
        }
        let transaction = self.database.begin_write()?;
        transaction.open_table(PINS)?.insert((pin.root.0.to_bytes().as_slice(), pin.reason.as_str()), ())?;
        transaction.commit()?;
        pins.insert(pin);
        Ok(true)
    }

    /// False if there was no such pin.
    pub(crate) fn remove(&self, pin: &Pin) -> Result<bool, redb::Error> {
        let mut pins = self.lock();
        if !pins.contains(pin) {
            return Ok(false);
        }
        let transaction = self.database.begin_write()?;
        transaction.open_table(PINS)?.remove((pin.root.0.to_bytes().as_slice(), pin.reason.as_str()))?;
        transaction.commit()?;
        pins.remove(pin);
        Ok(true)
    }

    pub(crate) fn list(&self) -> Vec<Pin> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Pin>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Undoes what redb did to repair a file that then was not used.
fn put_back(path: &Path, before: &[u8]) -> io::Result<()> {
    if fs::read(path)? == before {
        return Ok(());
    }
    let temporary = path.with_extension("part");
    fs::write(&temporary, before)?;
    fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::dag_pb::{RAW, content_id};

    fn pin(number: u8) -> Pin {
        Pin { root: content_id(RAW, &[number]), reason: format!("job {number}") }
    }

    #[test]
    fn a_damaged_table_is_read_whole_or_refused_and_never_ends_the_node() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pins.redb");
        let pins = Pins::open(&path).unwrap();
        let all: Vec<Pin> = (0..20).map(pin).collect();
        for pin in &all {
            pins.insert(pin.clone()).unwrap();
        }
        drop(pins);
        let good = fs::read(&path).unwrap();
        let sorted: Vec<Pin> = all.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        let (mut whole, mut refused) = (0, 0);
        let mut bend = |bytes: Vec<u8>, what: &str| {
            fs::write(&path, &bytes).unwrap();
            match Pins::open(&path) {
                Ok(pins) => {
                    assert_eq!(pins.list(), sorted, "{what}: pins are lost without a word");
                    whole += 1;
                }
                Err(_) => {
                    assert!(fs::read(&path).unwrap() == bytes, "{what}: the file was changed");
                    refused += 1;
                }
            }
        };
        for cut in [1, 100, 512, 4096, good.len() / 2, good.len() - 1] {
            bend(good[..cut].to_vec(), &format!("cut at {cut}"));
        }
        bend(vec![0; good.len()], "zeros");
        bend(b"no table".repeat(1000), "text");
        for at in (0..good.len()).step_by(good.len() / 400 + 1) {
            let mut bytes = good.clone();
            bytes[at] ^= 0x41;
            bend(bytes, &format!("byte {at}"));
        }
        for at in (0..good.len()).step_by(512) {
            let mut bytes = good.clone();
            let end = bytes.len().min(at + 512);
            bytes[at..end].fill(0);
            bend(bytes, &format!("sector {at}"));
        }
        assert!(whole > 100 && refused > 10, "{whole} whole, {refused} refused: much of the file is spare room");
        fs::write(&path, &good).unwrap();
        assert_eq!(Pins::open(&path).unwrap().list(), sorted);
    }

    /// What a `kill -9` leaves is no damage.
    #[test]
    fn a_table_that_was_not_closed_is_read_whole() {
        let directory = tempfile::tempdir().unwrap();
        let (path, copy) = (directory.path().join("pins.redb"), directory.path().join("copy.redb"));
        let pins = Pins::open(&path).unwrap();
        for number in 0..20 {
            pins.insert(pin(number)).unwrap();
            fs::copy(&path, &copy).unwrap();
            assert_eq!(Pins::open(&copy).unwrap().list(), pins.list());
        }
    }
}
