//! The chain on disk: opening, replaying, committing. One owner, one block at a time.
//!
//! A block goes to the log and is synced before the application sees it. So a full disk refuses a block and changes
//! nothing, and whatever was answered follows again from the log.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
};

use super::{
    Error,
    application::Application,
    archive::{self, Archive, Committed},
    block::{self, Host, Sealed, Tip},
    index::{self, Index},
    synced::Synced,
};
use crate::{
    chain::{
        log::Log,
        snapshot::{self, Snapshot},
    },
    types::{Time, words},
};

/// Blocks between two snapshots: a restart replays fewer than this.
pub(super) const SNAPSHOT_EVERY: u64 = 1_000;
/// Snapshots kept: the newest, and the one before in case that is damaged.
const SNAPSHOTS_KEPT: usize = 2;
/// Blocks after which a snapshot that failed is tried again.
const SNAPSHOT_RETRY: u64 = 100;

/// The application, shared with those who read it.
pub(super) type Shared = Arc<RwLock<Box<dyn Application>>>;

/// A block was not made; nothing has changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommitError {
    #[error("the ledger host can't write its block log: {0}")]
    Log(#[from] io::Error),
    #[error("the ledger host can't write its block index: {0}")]
    Index(#[from] index::Error),
}

pub(super) struct Chain {
    directory: PathBuf,
    host: Host,
    tip: Tip,
    log: Log,
    synced: Synced,
    archive: Arc<Archive>,
    application: Shared,
    next_snapshot: u64,
}

impl Chain {
    /// Opens the chain in `directory` and brings `application`, which is at genesis, to its last block.
    pub(super) fn open(directory: &Path, host: Host, mut application: Box<dyn Application>) -> Result<Self, Error> {
        let (index, height, last) = open_index(&directory.join("index.redb"))?;
        let mark = directory.join("blocks.synced");
        let (mut synced, marked) = Synced::open(&mark).map_err(|source| Error::Io { path: mark, source })?;
        let from = restore(directory, height, &index, application.as_mut())?;
        // Whatever index and snapshot know of was synced in the log before.
        let known = last.into_iter().chain(from).map(|offset| offset.saturating_add(1));
        let mut log = Log::open(&directory.join("blocks.log"))?;
        let archive =
            Archive::new(index, log.reader().map_err(|source| Error::Io { path: directory.to_owned(), source })?);
        let mut replay = Replay::new(&host, &archive, application, from.is_some());
        let whole = known.fold(marked, u64::max);
        log.replay(from.unwrap_or(0), whole, |offset, payload| replay.block(offset, payload))?;
        synced.mark(log.end());
        let Replay { application, tip, .. } = replay;
        let next_snapshot = tip.height / SNAPSHOT_EVERY * SNAPSHOT_EVERY + SNAPSHOT_EVERY;
        Ok(Self {
            directory: directory.to_owned(),
            host,
            tip,
            log,
            synced,
            archive: Arc::new(archive),
            application: Arc::new(RwLock::new(application)),
            next_snapshot,
        })
    }

    pub(super) fn archive(&self) -> Arc<Archive> {
        self.archive.clone()
    }

    pub(super) fn application(&self) -> Shared {
        self.application.clone()
    }

    pub(super) fn last_time(&self) -> Time {
        self.tip.time
    }

    /// True while blocks are wanted though no transaction waits.
    pub(super) fn has_open_work(&self) -> bool {
        self.application.read().expect("only this thread writes, and it has not panicked").has_open_work()
    }

    /// Makes the next block, final and synced when this returns.
    pub(super) fn commit(&mut self, time: Time, transactions: Vec<Vec<u8>>) -> Result<Arc<Committed>, CommitError> {
        if self.archive.is_full() {
            self.archive.flush()?;
        }
        let sealed = self.host.seal(&self.tip, time, transactions);
        let offset = self.log.append(&archive::encode(&sealed))?;
        self.synced.mark(self.log.end());
        let block = {
            let mut application = self.application.write().expect("only this thread writes, and it has not panicked");
            apply(application.as_mut(), sealed, offset, &mut self.tip)
        };
        self.archive.push(block.clone());
        self.keep_snapshot(offset);
        Ok(block)
    }

    /// Takes a snapshot when one is due. A failure costs replay time at the next start, and nothing else.
    fn keep_snapshot(&mut self, offset: u64) {
        let height = self.tip.height;
        if height < self.next_snapshot {
            return;
        }
        match self.write_snapshot(height, offset) {
            Ok(()) => self.next_snapshot = height + SNAPSHOT_EVERY,
            Err(error) => {
                self.next_snapshot = height + SNAPSHOT_RETRY;
                let error = words(&error);
                tracing::warn!(height, error, "the ledger's snapshot could not be written and is tried again later");
            }
        }
    }

    fn write_snapshot(&self, height: u64, offset: u64) -> Result<(), CommitError> {
        // The index must reach as far as the snapshot: the replay that fills it begins there.
        self.archive.flush()?;
        let state = self.application.read().expect("only this thread writes, and it has not panicked").snapshot();
        Ok(snapshot::write(&self.directory, &Snapshot { height, offset, state }, SNAPSHOTS_KEPT)?)
    }
}

/// The index, the height that it reaches, and where that block begins in the log. One that is damaged is set aside and made anew: all of it follows from the log.
fn open_index(path: &Path) -> Result<(Index, u64, Option<u64>), Error> {
    let open = || {
        let index = Index::open(path)?;
        let height = index.height()?;
        let last = index.block(height)?.map(|entry| entry.offset);
        Ok((index, height, last))
    };
    match open() {
        Err(error) if index::Error::is_damage(&error) => {
            let aside = path.with_extension("damaged");
            tracing::warn!(path = %path.display(), kept = %aside.display(), "the block index is damaged and made anew");
            std::fs::rename(path, &aside).map_err(|source| Error::Io { path: path.to_owned(), source })?;
            Ok(open()?)
        }
        opened => Ok(opened?),
    }
}

/// Restores the newest usable snapshot that the index reaches; where its block begins in the log.
fn restore(
    directory: &Path,
    indexed: u64,
    index: &Index,
    application: &mut dyn Application,
) -> Result<Option<u64>, Error> {
    let fail = |source| Error::Io { path: directory.to_owned(), source };
    let beginning = application.snapshot();
    for height in snapshot::heights(directory).map_err(fail)?.into_iter().filter(|height| *height <= indexed) {
        let Some(snapshot) = snapshot::read(directory, height).map_err(fail)? else {
            tracing::warn!(height, "the ledger's snapshot is damaged; an older one is used");
            continue;
        };
        // It may be of blocks that were given up since.
        let Some(block) = index.block(height)?.filter(|block| block.offset == snapshot.offset) else {
            tracing::warn!(height, "the ledger's snapshot is of another block; an older one is used");
            continue;
        };
        match application.restore(&snapshot.state) {
            Ok(()) if block.results.app_hash == block::app_hash(&application.app_hash()) => {
                return Ok(Some(snapshot.offset));
            }
            Ok(()) => tracing::warn!(height, "the ledger's snapshot is of another state; an older one is used"),
            Err(error) => tracing::warn!(height, %error, "the ledger's snapshot is not usable; an older one is used"),
        }
    }
    if application.height() > 0 {
        application.restore(&beginning).expect("a state reads its own snapshot");
    }
    Ok(None)
}

/// Applies a block and moves `tip` to it.
fn apply(application: &mut dyn Application, sealed: Sealed, offset: u64, tip: &mut Tip) -> Arc<Committed> {
    let result = application.apply_block(sealed.time(), &sealed.block.data);
    let app_hash = result.app_hash;
    let block = Committed::new(sealed, result, offset);
    *tip = Tip::after(&block.sealed, app_hash, &block.results.tx_results);
    Arc::new(block)
}

/// Brings an application from a snapshot or genesis to the log's last block.
struct Replay<'a> {
    host: &'a Host,
    archive: &'a Archive,
    application: Box<dyn Application>,
    tip: Tip,
    /// The first frame is the block that the snapshot was taken after.
    at_snapshot: bool,
}

impl<'a> Replay<'a> {
    fn new(host: &'a Host, archive: &'a Archive, application: Box<dyn Application>, at_snapshot: bool) -> Self {
        let tip = Tip::genesis(application.time(), application.app_hash());
        Self { host, archive, application, tip, at_snapshot }
    }

    fn block(&mut self, offset: u64, payload: &[u8]) -> Result<(), Error> {
        if std::mem::take(&mut self.at_snapshot) {
            return self.begin();
        }
        let diverged = Error::Diverged { height: self.tip.height + 1 };
        let sealed = archive::decode(payload).filter(|sealed| self.host.follows(&self.tip, sealed)).ok_or(diverged)?;
        let block = apply(self.application.as_mut(), sealed, offset, &mut self.tip);
        self.archive.push(block);
        if self.archive.is_full() {
            self.archive.flush()?;
        }
        Ok(())
    }

    /// Stands after the block of the snapshot, which the index knows.
    fn begin(&mut self) -> Result<(), Error> {
        let height = self.application.height();
        let block = self.archive.block(height)?.ok_or(Error::Diverged { height })?;
        self.tip = Tip::after(&block.sealed, self.application.app_hash(), &block.results.tx_results);
        self.archive.push(block);
        Ok(())
    }
}
