//! The ledger state machine: what all nodes agree on, as a pure function of genesis and blocks.

mod genesis;

pub use genesis::{Genesis, GenesisError, MAX_CHAIN_ID, Parameters};

use crate::types::{Digest, Time};

/// What became of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransactionResult {
    /// A [`super::wire::Code`]; 0 is success.
    pub code: u32,
    /// Words for a person; why it failed.
    pub log: String,
    /// The answer in CBOR, where the message has one.
    pub data: Vec<u8>,
    /// What happened; empty if it failed.
    pub events: Vec<Event>,
}

/// Something that happened, for subscribers and indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its name, for example `task_status_updated`.
    pub kind: String,
    /// Its attributes, in a fixed order.
    pub attributes: Vec<(String, String)>,
}

/// What a block did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockResult {
    /// Its height; the first block has 1.
    pub height: u64,
    /// Its time: never earlier than the block before.
    pub time: Time,
    /// The state after it.
    pub app_hash: Digest,
    /// One a transaction, in order.
    pub results: Vec<TransactionResult>,
    /// What happened at its end: lapses, deadlines, payments.
    pub events: Vec<Event>,
}

/// Why a query was refused.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// No such path.
    #[error("no query `{0}`; see `chain::wire::query`")]
    Path(String),
    /// The data is not what the path takes.
    #[error("the data of query `{path}` is not what it takes")]
    Data {
        /// The path.
        path: String,
        /// What is wrong with it.
        #[source]
        source: crate::codec::Error,
    },
}

/// Why a snapshot was refused.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Not a snapshot.
    #[error("the bytes are not a ledger snapshot")]
    Decode(#[from] crate::codec::Error),
    /// Written by another version of the program.
    #[error("the snapshot has format {found}, this program reads {expected}")]
    Format {
        /// The format it has.
        found: u32,
        /// The format that is read here.
        expected: u32,
    },
    /// Its records don't give the app hash it states.
    #[error("the snapshot states app hash {stated}, its records give {computed}: it is damaged; delete it and replay")]
    AppHash {
        /// What it says.
        stated: Digest,
        /// What it holds.
        computed: Digest,
    },
    /// It lacks a record that every ledger has.
    #[error("the snapshot lacks its {0} record")]
    Missing(&'static str),
}

/// A ledger at one height.
pub struct Ledger {
    genesis: Genesis,
}

impl Ledger {
    /// The ledger at height 0.
    pub fn new(genesis: Genesis) -> Result<Self, GenesisError> {
        genesis.check()?;
        Ok(Self { genesis })
    }

    /// Blocks applied so far.
    pub fn height(&self) -> u64 {
        0
    }

    /// Time of the last block, or of the genesis.
    pub fn time(&self) -> Time {
        self.genesis.time
    }

    /// Root of the authenticated map of all records.
    pub fn app_hash(&self) -> Digest {
        Digest([0; 32])
    }

    /// The name of this ledger.
    pub fn chain_id(&self) -> &str {
        &self.genesis.chain_id
    }

    /// Whether a transaction may wait for a block: its size, signature, chain id, and a nonce that is not used yet.
    pub fn check(&self, _transaction: &[u8]) -> TransactionResult {
        TransactionResult { code: super::wire::Code::Malformed as u32, ..TransactionResult::default() }
    }

    /// Applies the next block. Exactly one result a transaction, whatever its bytes are.
    pub fn apply_block(&mut self, time: Time, transactions: &[Vec<u8>]) -> BlockResult {
        let results = transactions.iter().map(|transaction| self.check(transaction)).collect();
        BlockResult { height: self.height(), time, app_hash: self.app_hash(), results, events: Vec::new() }
    }

    /// Answers a query of [`super::wire::query`] from the last block's state.
    pub fn query(&self, path: &str, _data: &[u8]) -> Result<Vec<u8>, QueryError> {
        Err(QueryError::Path(path.to_owned()))
    }

    /// Everything, for [`Ledger::restore`].
    pub fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    /// The ledger that gave this snapshot. Its app hash is computed anew and compared.
    pub fn restore(_bytes: &[u8]) -> Result<Self, SnapshotError> {
        Err(SnapshotError::Missing("genesis"))
    }

    /// Whether time alone can change something soon. An embedded ledger makes a block a second while it is true.
    pub fn has_open_work(&self) -> bool {
        false
    }
}
