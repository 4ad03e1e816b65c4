//! Pins: which roots garbage collection starts from, and why each is kept.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use cid::Cid;
use redb::{Database, ReadableTable, TableDefinition};

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
    pub(crate) fn open(path: &Path) -> Result<Self, redb::Error> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
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
