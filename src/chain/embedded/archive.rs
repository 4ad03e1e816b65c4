//! All committed blocks, for reading: the newest from memory, the others from log and index.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, RwLock},
};

use prost::Message as _;
use serde::{Deserialize, Serialize};
use tendermint::{
    abci::{
        Event, EventAttribute, response::FinalizeBlock, types::ExecTxResult, v0_37::EventAttribute as NamedAttribute,
    },
    block::{Block, Commit},
};
use tendermint_proto::v0_38::types::{Block as RawBlock, Commit as RawCommit};

use super::{
    block::{self, Sealed},
    index::{self, Index},
};
use crate::{
    chain::{
        ledger::{self, BlockResult},
        log,
    },
    codec,
    types::Digest,
};

/// Blocks kept in memory until they go into the index together: one sync for many. At a block a second, a minute's.
const BATCH_BLOCKS: usize = 64;
/// The same in bytes of transactions and results.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// A block that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// From the index.
    #[error(transparent)]
    Index(#[from] index::Error),
    /// From the log.
    #[error("the block log can't be read")]
    Log(#[from] io::Error),
}

/// A final block and what it came to.
#[derive(Debug)]
pub(super) struct Committed {
    pub sealed: Sealed,
    pub results: FinalizeBlock,
    /// Where its frame begins in the log.
    pub offset: u64,
    hashes: Vec<Digest>,
}

/// Where a transaction is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub block: Arc<Committed>,
    pub position: u32,
}

#[derive(Debug)]
pub(super) struct Archive {
    index: Index,
    log: log::Reader,
    recent: RwLock<Recent>,
}

/// Blocks that are not in the index yet, and the last block in any case.
#[derive(Debug, Default)]
struct Recent {
    blocks: BTreeMap<u64, Arc<Committed>>,
    places: BTreeMap<Digest, (u64, u32)>,
    bytes: usize,
}

/// A block as the log has it: Tendermint's own encodings.
#[derive(Serialize, Deserialize)]
struct Record {
    #[serde(with = "serde_bytes")]
    block: Vec<u8>,
    #[serde(with = "serde_bytes")]
    commit: Vec<u8>,
}

impl Committed {
    pub(super) fn new(sealed: Sealed, result: BlockResult, offset: u64) -> Self {
        Self::with_results(sealed, finalize_block(result), offset)
    }

    fn with_results(sealed: Sealed, results: FinalizeBlock, offset: u64) -> Self {
        let hashes = sealed.block.data.iter().map(|bytes| Digest::of(bytes)).collect();
        Self { sealed, results, offset, hashes }
    }

    /// Its transactions by position.
    pub(super) fn positions(&self) -> impl Iterator<Item = (u32, Digest)> + '_ {
        (0..).zip(self.hashes.iter().copied())
    }

    pub(super) fn result(&self, position: u32) -> ExecTxResult {
        let result = usize::try_from(position).ok().and_then(|position| self.results.tx_results.get(position));
        result.cloned().unwrap_or_default()
    }

    fn weight(&self) -> usize {
        let transactions: usize = self.sealed.block.data.iter().map(Vec::len).sum();
        let results: usize = self.results.tx_results.iter().map(|result| result.data.len() + 256).sum();
        transactions + results + 1024
    }
}

/// A block as the log keeps it.
pub(super) fn encode(sealed: &Sealed) -> Vec<u8> {
    codec::encode(&Record {
        block: RawBlock::from(sealed.block.clone()).encode_to_vec(),
        commit: RawCommit::from(sealed.commit.clone()).encode_to_vec(),
    })
}

/// Reads a block as the log keeps it; `None` for anything else.
pub(super) fn decode(bytes: &[u8]) -> Option<Sealed> {
    let record: Record = codec::decode(bytes, log::MAX_PAYLOAD).ok()?;
    let mut block = Block::try_from(RawBlock::decode(record.block.as_slice()).ok()?).ok()?;
    // The first block's empty last commit reads as none; it is part of the encoding that the block id covers.
    block.last_commit.get_or_insert_default();
    let commit = Commit::try_from(RawCommit::decode(record.commit.as_slice()).ok()?).ok()?;
    Some(Sealed { block_id: commit.block_id, block, commit })
}

impl Archive {
    pub(super) fn new(index: Index, log: log::Reader) -> Self {
        Self { index, log, recent: RwLock::default() }
    }

    /// Remembers a block that the log has. It can be read from now on.
    pub(super) fn push(&self, block: Arc<Committed>) {
        let mut recent = self.recent.write().expect("no holder of this lock panics");
        let height = block.sealed.height();
        recent.bytes += block.weight();
        recent.places.extend(block.positions().map(|(position, hash)| (hash, (height, position))));
        recent.blocks.insert(height, block);
    }

    /// True when [`Archive::flush`] should be called before another block is made.
    pub(super) fn is_full(&self) -> bool {
        let recent = self.recent.read().expect("no holder of this lock panics");
        recent.blocks.len() > BATCH_BLOCKS || recent.bytes > BATCH_BYTES
    }

    /// Moves all blocks but the last from memory into the index, and that one as a copy. On an error nothing is lost.
    pub(super) fn flush(&self) -> Result<(), index::Error> {
        let blocks: Vec<_> = {
            let recent = self.recent.read().expect("no holder of this lock panics");
            recent.blocks.values().cloned().collect()
        };
        self.index.insert(blocks.iter().map(AsRef::as_ref))?;
        if let Some(last) = blocks.into_iter().next_back() {
            *self.recent.write().expect("no holder of this lock panics") = Recent::default();
            self.push(last);
        }
        Ok(())
    }

    pub(super) fn last(&self) -> Option<Arc<Committed>> {
        let recent = self.recent.read().expect("no holder of this lock panics");
        recent.blocks.last_key_value().map(|(_, block)| block.clone())
    }

    pub(super) fn block(&self, height: u64) -> Result<Option<Arc<Committed>>, Error> {
        let recent = self.recent.read().expect("no holder of this lock panics").blocks.get(&height).cloned();
        match recent {
            Some(block) => Ok(Some(block)),
            None => self.old_block(height),
        }
    }

    pub(super) fn transaction(&self, hash: &Digest) -> Result<Option<Place>, Error> {
        let recent = self.recent.read().expect("no holder of this lock panics").places.get(hash).copied();
        let place = match recent {
            Some(place) => Some(place),
            None => self.index.transaction(hash)?,
        };
        let Some((height, position)) = place else {
            return Ok(None);
        };
        Ok(self.block(height)?.map(|block| Place { block, position }))
    }

    fn old_block(&self, height: u64) -> Result<Option<Arc<Committed>>, Error> {
        let Some(entry) = self.index.block(height)? else {
            return Ok(None);
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("block {height} on disk is damaged"));
        let sealed = decode(&self.log.read(entry.offset)?);
        let sealed = sealed.filter(|sealed| sealed.height() == height).ok_or_else(damaged)?;
        Ok(Some(Arc::new(Committed::with_results(sealed, entry.results, entry.offset))))
    }
}

/// What a block came to, in Tendermint's words.
pub(in crate::chain) fn finalize_block(result: BlockResult) -> FinalizeBlock {
    FinalizeBlock {
        events: result.events.into_iter().map(event).collect(),
        tx_results: result.results.into_iter().map(transaction_result).collect(),
        validator_updates: Vec::new(),
        consensus_param_updates: None,
        app_hash: block::app_hash(&result.app_hash),
    }
}

fn transaction_result(result: ledger::TransactionResult) -> ExecTxResult {
    ExecTxResult {
        code: result.code.into(),
        data: result.data.into(),
        log: result.log,
        events: result.events.into_iter().map(event).collect(),
        ..ExecTxResult::default()
    }
}

fn event(event: ledger::Event) -> Event {
    let attribute = |(key, value)| EventAttribute::V037(NamedAttribute { key, value, index: true });
    Event { kind: event.kind, attributes: event.attributes.into_iter().map(attribute).collect() }
}
