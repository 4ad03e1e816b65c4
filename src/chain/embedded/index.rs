//! Where each block lies in the log, what its transactions came to, and which block holds a transaction.
//!
//! All of it follows from the log: the index is written in batches, and what a crash keeps from it, the replay at
//! the next start writes again.
//!
//! redb does nothing more after a write that failed, of a full disk for example, until its file is opened again. That is
//! done here, so that the ledger goes on as soon as there is room.

use std::{
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use prost::Message as _;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tendermint::abci::response::FinalizeBlock;
use tendermint_proto::v0_38::abci::ResponseFinalizeBlock;

use super::archive::Committed;
use crate::{
    store::table::{guarded, is_damage},
    types::Digest,
};

/// Memory that the index may use for pages, in bytes. Old blocks are asked for rarely.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

const OFFSETS: TableDefinition<'_, u64, u64> = TableDefinition::new("offset of a block by height");
const RESULTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("results of a block by height");
const TRANSACTIONS: TableDefinition<'_, &[u8; 32], (u64, u32)> =
    TableDefinition::new("height and position of a transaction by hash");

/// The index database failed.
#[derive(Debug, thiserror::Error)]
#[error("the block index failed{}", if self.is_damage() { ADVICE } else { "" })]
pub struct Error(#[source] Box<redb::Error>);

/// What to do about one that is damaged.
const ADVICE: &str = "; it may be deleted while no node runs, and is then made again from the log";

impl Error {
    /// Whether the file is what is wrong, so that making it anew helps.
    pub(super) fn is_damage(&self) -> bool {
        !self.is_closed() && is_damage(&self.0)
    }

    /// Whether an earlier error is why: the file must be opened again.
    fn is_closed(&self) -> bool {
        matches!(*self.0, redb::Error::PreviousIo)
    }
}

impl<T: Into<redb::Error>> From<T> for Error {
    fn from(error: T) -> Self {
        Self(Box::new(error.into()))
    }
}

#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    /// None while the file could not be opened again.
    database: RwLock<Option<Database>>,
}

/// What the index knows of a block.
#[derive(Debug)]
pub(super) struct Entry {
    pub offset: u64,
    pub results: FinalizeBlock,
}

impl Index {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let database = guarded(|| open(path))?;
        Ok(Self { path: path.to_owned(), database: RwLock::new(Some(database)) })
    }

    /// Does something with the database, once it is open again if an earlier error closed it.
    fn with<T>(&self, work: impl Fn(&Database) -> Result<T, Error>) -> Result<T, Error> {
        if let Some(database) = &*self.database.read().unwrap_or_else(PoisonError::into_inner) {
            match guarded(|| work(database)) {
                Err(error) if error.is_closed() => {}
                done => return done,
            }
        }
        let mut slot = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // Its file is locked as long as it is there.
        *slot = None;
        let database = slot.insert(guarded(|| open(&self.path))?);
        tracing::info!(path = %self.path.display(), "the block index is open again");
        guarded(|| work(database))
    }

    /// The height up to which it is complete.
    pub(super) fn height(&self) -> Result<u64, Error> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(OFFSETS)?;
            Ok(table.last()?.map_or(0, |(height, _)| height.value()))
        })
    }

    /// Adds blocks, all or none, and syncs.
    pub(super) fn insert<'a>(&self, blocks: impl Iterator<Item = &'a Committed> + Clone) -> Result<(), Error> {
        self.with(|database| insert(database, blocks.clone()))
    }

    pub(super) fn block(&self, height: u64) -> Result<Option<Entry>, Error> {
        self.with(|database| block(database, height))
    }

    pub(super) fn transaction(&self, hash: &Digest) -> Result<Option<(u64, u32)>, Error> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(TRANSACTIONS)?;
            Ok(table.get(&hash.0)?.map(|place| place.value()))
        })
    }
}

fn open(path: &Path) -> Result<Database, Error> {
    let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
    let write = database.begin_write()?;
    write.open_table(OFFSETS)?;
    write.open_table(RESULTS)?;
    write.open_table(TRANSACTIONS)?;
    write.commit()?;
    Ok(database)
}

fn insert<'a>(database: &Database, blocks: impl Iterator<Item = &'a Committed>) -> Result<(), Error> {
    let write = database.begin_write()?;
    {
        let mut offsets = write.open_table(OFFSETS)?;
        let mut results = write.open_table(RESULTS)?;
        let mut transactions = write.open_table(TRANSACTIONS)?;
        for block in blocks {
            let height = block.sealed.height();
            offsets.insert(height, block.offset)?;
            let encoded = ResponseFinalizeBlock::from(block.results.clone()).encode_to_vec();
            results.insert(height, encoded.as_slice())?;
            for (position, hash) in block.positions() {
                transactions.insert(&hash.0, (height, position))?;
            }
        }
    }
    write.commit()?;
    Ok(())
}

fn block(database: &Database, height: u64) -> Result<Option<Entry>, Error> {
    let read = database.begin_read()?;
    let Some(offset) = read.open_table(OFFSETS)?.get(height)? else {
        return Ok(None);
    };
    let results = read.open_table(RESULTS)?.get(height)?;
    let results = results.and_then(|results| decode(results.value()));
    let damaged = || redb::StorageError::Corrupted(format!("the results of block {height} are missing"));
    Ok(Some(Entry { offset: offset.value(), results: results.ok_or_else(damaged)? }))
}

fn decode(results: &[u8]) -> Option<FinalizeBlock> {
    ResponseFinalizeBlock::decode(results).ok()?.try_into().ok()
}
