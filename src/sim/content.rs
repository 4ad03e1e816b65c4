//! The disk of a simulated machine: content by name, some of it not synced yet.
//!
//! The network moves one raw block a root. A directory is such a block too: it carries its files inside, and whoever
//! has it has them. Everything else is as on a real disk: names are checked, and what was not synced is lost in a
//! power cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use cid::Cid;
use multihash::Multihash;
use serde::{Deserialize, Serialize};

use crate::{
    codec,
    store::{Files, Imported},
    types::{ContentId, Digest},
};

/// Multicodec of raw bytes.
const RAW: u64 = 0x55;
/// Multihash code of SHA-256.
const SHA2_256: u64 = 0x12;
/// What a block that is a directory begins with. No file of a simulation does.
const DIRECTORY: &[u8] = b"atlas/sim/directory\0";

/// The name of a block with these bytes.
pub fn name(bytes: &[u8]) -> ContentId {
    let hash = Multihash::wrap(SHA2_256, &Digest::of(bytes).0).expect("32 bytes fit a multihash of 64");
    ContentId(Cid::new_v1(RAW, hash))
}

/// A directory as one block: each entry's name and block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory(pub BTreeMap<String, serde_bytes::ByteBuf>);

impl Directory {
    /// A directory of these entries.
    pub fn of<const N: usize>(entries: [(&str, Vec<u8>); N]) -> Self {
        Self(entries.into_iter().map(|(name, bytes)| (name.to_owned(), serde_bytes::ByteBuf::from(bytes))).collect())
    }

    /// Its block.
    pub fn to_block(&self) -> Vec<u8> {
        [DIRECTORY, &codec::encode(self)].concat()
    }

    /// The directory that a block is; `None` if it is a file.
    pub fn from_block(block: &[u8]) -> Option<Self> {
        codec::decode(block.strip_prefix(DIRECTORY)?, block.len()).ok()
    }
}

#[derive(Debug, Clone)]
struct Block {
    bytes: Bytes,
    synced: bool,
}

#[derive(Debug, Default)]
struct Inner {
    blocks: BTreeMap<ContentId, Block>,
    pins: BTreeSet<(ContentId, String)>,
}

/// A machine's content store.
#[derive(Debug, Default)]
pub struct Store(Mutex<Inner>);

impl Store {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a block and, if it is a directory, everything inside. Synced, as an import is when it answers.
    pub fn import(&self, bytes: &[u8]) -> ContentId {
        let cid = name(bytes);
        self.inner().insert(cid, Bytes::copy_from_slice(bytes), true);
        cid
    }

    /// Stores a block that came from elsewhere, not synced yet; false if its bytes are not what its name says.
    pub fn put(&self, cid: &ContentId, bytes: &Bytes) -> bool {
        let right = name(bytes) == *cid;
        if right {
            self.inner().insert(*cid, bytes.clone(), false);
        }
        right
    }

    /// A block's bytes.
    pub fn get(&self, cid: &ContentId) -> Option<Bytes> {
        self.inner().blocks.get(cid).map(|block| block.bytes.clone())
    }

    /// Whether a block is here.
    pub fn has(&self, cid: &ContentId) -> bool {
        self.inner().blocks.contains_key(cid)
    }

    /// Whether a block is here and would survive a power cut.
    pub fn is_durable(&self, cid: &ContentId) -> bool {
        self.inner().blocks.get(cid).is_some_and(|block| block.synced)
    }

    /// Everything here survives a power cut from now on.
    pub fn sync(&self) {
        self.inner().blocks.values_mut().for_each(|block| block.synced = true);
    }

    /// The power was cut.
    pub fn lose_unsynced(&self) {
        self.inner().blocks.retain(|_, block| block.synced);
    }

    /// Keeps a root for a reason, or no longer.
    pub fn pin(&self, root: ContentId, reason: &str, keep: bool) {
        let pin = (root, reason.to_owned());
        let mut inner = self.inner();
        if keep {
            inner.pins.insert(pin)
        } else {
            inner.pins.remove(&pin)
        };
    }

    /// All pins.
    pub fn pins(&self) -> Vec<(ContentId, String)> {
        self.inner().pins.iter().cloned().collect()
    }
}

impl Inner {
    fn insert(&mut self, cid: ContentId, bytes: Bytes, synced: bool) {
        if let Some(directory) = Directory::from_block(&bytes) {
            for entry in directory.0.into_values() {
                let entry = Bytes::from(entry.into_vec());
                self.insert(name(&entry), entry, synced);
            }
        }
        let known = self.blocks.entry(cid).or_insert(Block { bytes, synced });
        known.synced |= synced;
    }
}

fn missing(cid: &ContentId) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{cid} is not here"))
}

impl Files for Store {
    fn import_bytes(&self, bytes: &[u8]) -> io::Result<ContentId> {
        Ok(self.import(bytes))
    }

    fn import_path(&self, _: &Path) -> io::Result<Imported> {
        Err(io::Error::other("a simulated machine has no paths"))
    }

    fn read(&self, cid: &ContentId, limit: usize) -> io::Result<Vec<u8>> {
        let bytes = self.get(cid).ok_or_else(|| missing(cid))?;
        if bytes.len() > limit {
            return Err(io::Error::other("the file is longer than the limit"));
        }
        Ok(bytes.to_vec())
    }

    fn export(&self, _: &ContentId, _: &Path) -> io::Result<()> {
        Err(io::Error::other("a simulated machine has no paths"))
    }

    fn list(&self, cid: &ContentId) -> io::Result<Vec<(String, ContentId)>> {
        let block = self.get(cid).ok_or_else(|| missing(cid))?;
        let directory = Directory::from_block(&block).ok_or_else(|| io::Error::other("it is no directory"))?;
        Ok(directory.0.into_iter().map(|(entry, bytes)| (entry, name(&bytes))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_directory_has_what_is_in_it() {
        let store = Store::default();
        let inner = Directory::of([("model", vec![1, 2, 3])]);
        let outer = Directory::of([("manifest", vec![4]), ("state", inner.to_block())]).to_block();
        let root = store.import(&outer);
        let listed = store.list(&root).unwrap();
        assert_eq!(listed[1], ("state".to_owned(), name(&inner.to_block())));
        assert_eq!(store.read(&store.list(&listed[1].1).unwrap()[0].1, 9).unwrap(), [1, 2, 3]);
        assert!(store.list(&listed[0].1).is_err(), "a file is no directory");
    }

    #[test]
    fn a_power_cut_takes_what_was_not_synced_and_nothing_else() {
        let store = Store::default();
        let kept = store.import(b"kept");
        let came = Bytes::from_static(b"came");
        assert!(store.put(&name(&came), &came));
        assert!(!store.put(&kept, &came), "its bytes are not what its name says");
        store.lose_unsynced();
        assert!(store.is_durable(&kept) && !store.has(&name(&came)));
        assert!(store.put(&name(&came), &came));
        store.sync();
        store.lose_unsynced();
        assert!(store.has(&name(&came)));
    }
}
