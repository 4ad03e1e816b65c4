//! The block store: content-addressed files, synced in groups, pinned by root, evicted by age.
//!
//! Layout of the directory: `lock`; `fresh/` holds blocks that were written but not synced yet; `placed/xx/` holds
//! blocks whose bytes are on the disk (`xx` is the last byte of the digest); `pins.redb`. A block is named by its
//! SHA-256 digest alone, so that one set of bytes is kept once under whatever codec it is asked for.
//!
//! A block enters `fresh/` by rename when all of it is written, and moves to `placed/` after its sync. So a killed
//! process leaves only whole blocks behind, and nothing has to be hashed again at a restart. Only when the machine
//! itself went down are the blocks in `fresh/` (at most about [`SYNC_BATCH_BYTES`]) checked against their names.
//!
//! Blocks are verified before they are written, never while they are read for a peer (the peer verifies); what this
//! node itself uses goes through [`BlockStore::get_verified`].

mod found;
mod garbage;
mod index;
pub mod scrub;

#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use self::{
    found::{boot_id, list_blocks},
    index::Index,
};
use super::{
    block_file::BlockFiles,
    dag_pb::{self, MAX_BLOCK_BYTES, Named},
    pins::{MAX_REASON_BYTES, Pins},
};
use crate::types::ContentId;

/// Bytes written since the last sync at which [`BlockStore::put`] syncs by itself: large enough that a sync costs
/// little beside the writing, small enough that little is checked again after the machine went down.
pub const SYNC_BATCH_BYTES: u64 = 64 * 1024 * 1024;
/// Threads that sync files at once: file systems commit several syncs in one journal transaction.
const SYNC_THREADS: usize = 4;

/// How much may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Bytes of blocks. When they are reached, unpinned blocks go, least recently used first; when only pinned
    /// ones are left, a further block is refused with [`Error::Full`].
    pub bytes: u64,
}

/// What the store could not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the directory.
    #[error("{} is in use by another process: stop it, or choose another --data-dir", .0.display())]
    Locked(PathBuf),
    /// A path could not be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The bytes are not those that the name names.
    #[error("the bytes do not match {0}")]
    Mismatch(ContentId),
    /// A hash function other than SHA-256 and identity.
    #[error("{0} is named by a hash function that is not supported; use sha2-256")]
    Hash(ContentId),
    /// Larger than [`MAX_BLOCK_BYTES`].
    #[error("a block of {0} bytes is over the limit of {MAX_BLOCK_BYTES}")]
    TooLarge(usize),
    /// The quota is used up by pinned blocks.
    #[error(
        "the block store is full: {used} of {quota} bytes are used and pinned; raise resources.storage_gb or unpin"
    )]
    Full {
        /// Bytes used.
        used: u64,
        /// Bytes allowed.
        quota: u64,
    },
    /// The pin table can't be read.
    #[error(
        "the table of pins {} can't be read: restore it from a copy, or move it away to start without pins (what is held for \
         jobs may then be evicted)",
        .path.display()
    )]
    PinTable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// The pin table failed.
    #[error("the table of pins could not be used")]
    Pins(#[source] Box<redb::Error>),
    /// A pin's reason is longer than [`MAX_REASON_BYTES`].
    #[error("the reason of a pin is over {MAX_REASON_BYTES} bytes")]
    Reason,
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Io { source, .. } => source.kind(),
            Error::Full { .. } => io::ErrorKind::QuotaExceeded,
            Error::Mismatch(_) | Error::TooLarge(_) => io::ErrorKind::InvalidData,
            Error::Hash(_) => io::ErrorKind::Unsupported,
            Error::Reason => io::ErrorKind::InvalidInput,
            Error::Locked(_) | Error::Pins(_) | Error::PinTable { .. } => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

impl From<redb::Error> for Error {
    fn from(error: redb::Error) -> Self {
        Self::Pins(Box::new(error))
    }
}

fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|source| Error::Io { path: path.to_owned(), source })
}

type Key = [u8; 32];

/// Blocks on disk. Calls block; run them off the event loop. Cheap to share: everything is behind `&self`.
#[derive(Debug)]
pub struct BlockStore {
    directory: PathBuf,
    quota: Quota,
    index: Mutex<Index>,
    /// One sync at a time; who waits finds its blocks synced by the one before.
    syncing: Mutex<()>,
    /// Held while pinned blocks are marked and others deleted, so that nothing is deleted by a half-made mark.
    collecting: Mutex<()>,
    pins: Pins,
    next_temporary: AtomicU64,
    files: BlockFiles,
    /// Held open: the lock goes with it.
    _lock: File,
}

/// While it lives, blocks written since it was made are not evicted: an import writes leaves long before the root
/// that could be pinned.
#[derive(Debug)]
pub struct Importing<'a> {
    store: &'a BlockStore,
    since: u64,
}

impl Drop for Importing<'_> {
    fn drop(&mut self) {
        let mut index = self.store.lock();
        if let Some(position) = index.imports.iter().position(|since| *since == self.since) {
            index.imports.swap_remove(position);
        }
    }
}

impl BlockStore {
    /// Opens or creates the store in `directory`. A second process is refused.
    pub fn open(directory: &Path, quota: Quota) -> Result<Arc<Self>, Error> {
        for path in [directory.to_owned(), directory.join("fresh"), directory.join("placed")] {
            at(&path, fs::create_dir_all(&path))?;
        }
        let lock = take_lock(directory)?;
        let path = directory.join("pins.redb");
        let pins = Pins::open(&path).map_err(|error| Error::PinTable { path, source: Box::new(error) })?;
        let store = Self {
            directory: directory.to_owned(),
            quota,
            index: Mutex::default(),
            syncing: Mutex::default(),
            collecting: Mutex::default(),
            pins,
            next_temporary: AtomicU64::new(0),
            files: BlockFiles::default(),
            _lock: lock,
        };
        store.scan_placed()?;
        store.recover_fresh()?;
        Ok(Arc::new(store))
    }

    /// Whether the block is here.
    pub fn has(&self, cid: &ContentId) -> bool {
        match dag_pb::named(cid) {
            Named::Sha256(key) => self.lock().blocks.contains_key(&key),
            Named::Inline(_) => true,
            Named::Unsupported => false,
        }
    }

    /// Bytes of the block, if it is here.
    pub fn size(&self, cid: &ContentId) -> Option<u64> {
        match dag_pb::named(cid) {
            Named::Sha256(key) => self.lock().blocks.get(&key).map(|entry| u64::from(entry.size)),
            Named::Inline(bytes) => Some(bytes.len() as u64),
            Named::Unsupported => None,
        }
    }

    /// Bytes of all blocks.
    pub fn used_bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// The quota it was opened with.
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// Reads a block without verifying it, for whoever verifies it himself.
    pub fn get(&self, cid: &ContentId) -> io::Result<Option<Bytes>> {
        let key = match dag_pb::named(cid) {
            Named::Sha256(key) => key,
            Named::Inline(bytes) => return Ok(Some(Bytes::copy_from_slice(bytes))),
            Named::Unsupported => return Ok(None),
        };
        let Some(entry) = self.lock().touch(&key) else {
            return Ok(None);
        };
        // A sync may move the block from one place to the other between the two looks, never back.
        let places = [entry.fresh.then(|| self.fresh_path(&key)), Some(self.placed_path(&key))];
        for path in places.into_iter().flatten() {
            match self.files.read(&path) {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        self.lock().remove(&key);
        Ok(None)
    }

    /// Reads a block and checks it against its name. A block that rotted on the disk is dropped, so that it can be
    /// fetched again, and is an error of kind `InvalidData`.
    pub fn get_verified(&self, cid: &ContentId) -> io::Result<Option<Bytes>> {
        let Some(bytes) = self.get(cid)? else {
            return Ok(None);
        };
        if let Named::Sha256(key) = dag_pb::named(cid)
            && Key::from(Sha256::digest(&bytes)) != key
        {
            self.drop_block(&key);
            return Err(Error::Mismatch(*cid).into());
        }
        Ok(Some(bytes))
    }

    /// Verifies `bytes` against `cid` and keeps them. They survive the death of the process from here on, and that
    /// of the machine after the next [`BlockStore::sync`].
    pub fn put(&self, cid: &ContentId, bytes: &[u8]) -> Result<(), Error> {
        match dag_pb::named(cid) {
            Named::Inline(inline) if inline == bytes => Ok(()),
            Named::Inline(_) => Err(Error::Mismatch(*cid)),
            Named::Unsupported => Err(Error::Hash(*cid)),
            Named::Sha256(key) => {
                if bytes.len() <= MAX_BLOCK_BYTES && Key::from(Sha256::digest(bytes)) != key {
                    return Err(Error::Mismatch(*cid));
                }
                self.write(cid, key, bytes)
            }
        }
    }

    /// Keeps `bytes` under the name that they have with `codec`.
    pub fn put_new(&self, codec: u64, bytes: &[u8]) -> Result<ContentId, Error> {
        let key = Key::from(Sha256::digest(bytes));
        let cid = dag_pb::from_digest(codec, &key);
        self.write(&cid, key, bytes)?;
        Ok(cid)
    }

    /// Protects blocks that are written before their root is known, until it is dropped. Pin the root before that.
    pub fn importing(&self) -> Importing<'_> {
        let mut index = self.lock();
        index.tick += 1;
        let since = index.tick;
        index.imports.push(since);
        Importing { store: self, since }
    }

    /// When it returns, every block put before the call is on the disk: first the bytes, then the directories.
    /// A block whose sync fails is dropped, because the system forgets such bytes; the error says so.
    pub fn sync(&self) -> Result<(), Error> {
        let _one_at_a_time = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = {
            let mut index = self.lock();
            index.fresh_bytes = 0;
            std::mem::take(&mut index.fresh)
        };
        // Whoever took them has synced them: it held the lock above.
        if batch.is_empty() {
            return Ok(());
        }
        let (synced, failed) = self.sync_files(&batch);
        for key in &synced {
            let (from, to) = (self.fresh_path(key), self.placed_path(key));
            at(&to, rename_into(&from, &to))?;
        }
        let directories: HashSet<u8> = synced.iter().map(|key| key[31]).collect();
        for last in directories {
            let path = self.placed_directory(last);
            at(&path, File::open(&path).and_then(|directory| directory.sync_all()))?;
        }
        let placed = self.directory.join("placed");
        at(&placed, File::open(&placed).and_then(|directory| directory.sync_all()))?;
        let mut index = self.lock();
        for key in &synced {
            if let Some(entry) = index.blocks.get_mut(key) {
                entry.fresh = false;
            }
        }
        drop(index);
        failed.map_or(Ok(()), Err)
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh_path(&self, key: &Key) -> PathBuf {
        self.directory.join("fresh").join(hex::encode(key))
    }

    fn placed_directory(&self, last: u8) -> PathBuf {
        self.directory.join("placed").join(hex::encode([last]))
    }

    fn placed_path(&self, key: &Key) -> PathBuf {
        self.placed_directory(key[31]).join(hex::encode(key))
    }

    /// Writes a block whose digest is `key`.
    fn write(&self, cid: &ContentId, key: Key, bytes: &[u8]) -> Result<(), Error> {
        let size = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= MAX_BLOCK_BYTES);
        let size = size.ok_or(Error::TooLarge(bytes.len()))?;
        if self.lock().touch(&key).is_some() {
            return Ok(());
        }
        self.make_room(u64::from(size))?;
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.directory.join("fresh").join(format!("{number}.part"));
        let written = self.files.write_new(&temporary, bytes);
        let written = written.and_then(|()| fs::rename(&temporary, self.fresh_path(&key)));
        if let Err(source) = written {
            let _ = fs::remove_file(&temporary);
            return Err(Error::Io { path: temporary, source });
        }
        let (marks, full_batch) = {
            let mut index = self.lock();
            if !index.blocks.contains_key(&key) {
                index.insert(key, size, true);
            }
            let marks = cid.0.codec() == dag_pb::DAG_PB && index.pinned.as_ref().is_some_and(|set| set.contains(&key));
            (marks, index.fresh_bytes >= SYNC_BATCH_BYTES)
        };
        if marks {
            self.mark_below(cid, bytes);
        }
        if full_batch { self.sync() } else { Ok(()) }
    }

    fn drop_block(&self, key: &Key) -> Option<u32> {
        let size = {
            let mut index = self.lock();
            let size = index.blocks.get(key).map(|entry| entry.size);
            index.remove(key);
            size
        };
        for path in [self.fresh_path(key), self.placed_path(key)] {
            // What is not there need not be deleted; what can't be deleted is found again at the next start.
            let _ = fs::remove_file(path);
        }
        size
    }

    /// Syncs each file of the batch. Returns the synced, and the first failure; the failed are dropped.
    fn sync_files(&self, batch: &[Key]) -> (Vec<Key>, Option<Error>) {
        let sync = |key: &Key| {
            let path = self.fresh_path(key);
            match File::open(&path).and_then(|file| file.sync_data()) {
                Ok(()) => Ok(Some(*key)),
                // Evicted meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => {
                    self.drop_block(key);
                    Err(Error::Io { path, source })
                }
            }
        };
        let results: Vec<Result<Option<Key>, Error>> = std::thread::scope(|scope| {
            let part = batch.len().div_ceil(SYNC_THREADS).max(1);
            let workers: Vec<_> =
                batch.chunks(part).map(|keys| scope.spawn(move || keys.iter().map(sync).collect::<Vec<_>>())).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
        });
        let mut synced = Vec::with_capacity(batch.len());
        let mut failed = None;
        for result in results {
            match result {
                Ok(key) => synced.extend(key),
                Err(error) => failed = Some(error),
            }
        }
        (synced, failed)
    }

    fn scan_placed(&self) -> Result<(), Error> {
        let mut found = Vec::new();
        for last in 0..=u8::MAX {
            let directory = self.placed_directory(last);
            if directory.is_dir() {
                found.extend(at(&directory, list_blocks(&directory))?);
            }
        }
        // The order of last writing stands in for the order of use, which is not kept.
        found.sort_unstable_by_key(|block| block.modified);
        let mut index = self.lock();
        for block in found {
            index.insert(block.key, block.size, false);
        }
        Ok(())
    }

    /// Takes up the blocks that were not synced; verifies them if the machine went down since.
    fn recover_fresh(&self) -> Result<(), Error> {
        let directory = self.directory.join("fresh");
        let boot_file = directory.join("boot");
        let boot = boot_id();
        let same_boot = boot.is_some() && fs::read(&boot_file).ok() == boot;
        for block in at(&directory, list_blocks(&directory))? {
            let path = self.fresh_path(&block.key);
            let whole = same_boot
                || at(&path, self.files.read(&path)).is_ok_and(|bytes| Key::from(Sha256::digest(bytes)) == block.key);
            if whole {
                self.lock().insert(block.key, block.size, true);
            } else {
                at(&path, fs::remove_file(&path))?;
            }
        }
        at(&boot_file, fs::write(&boot_file, boot.unwrap_or_default()))
    }
}

fn take_lock(directory: &Path) -> Result<File, Error> {
    let path = directory.join("lock");
    let lock = at(&path, File::options().create(true).truncate(false).write(true).open(&path))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked(directory.to_owned())),
        Err(error) => Err(Error::Io { path, source: error.into() }),
    }
}

fn rename_into(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && from.exists() => {
            if let Some(directory) = to.parent() {
                fs::create_dir_all(directory)?;
            }
            fs::rename(from, to)
        }
        // Evicted meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
