//! The ledger state machine: what all nodes agree on, as a pure function of genesis and blocks.
//!
//! It decides who holds which task, which receipts and rounds count, who is online and what is paid. It never reads a
//! clock (block time comes with the block), never touches a disk or a socket, knows no floats and no chance: two
//! ledgers with equal genesis and equal blocks are equal to the byte, and their app hashes prove it.
//!
//! A message is a function in the file of what it is about ([`nodes`], [`jobs`], [`tasks`], [`receipts`], [`rounds`],
//! [`models`]); [`transaction`] leads to it and undoes what a failed one wrote; [`block`] adds what time alone brings
//! about; [`money`] is the only file that moves any. All records lie in [`state`]; [`authenticated`] hashes them,
//! [`changes`] and [`query`] read them, [`snapshot`] keeps them.
//!
//! What holds after every block:
//! - balances, escrow and waiting payouts add up to the supply, which only the faucet raises;
//! - a task has at most one holder, and its generation grows whenever one comes or goes;
//! - a slot's update counts at most once a round, and only with an accepted receipt that another node attested;
//! - a job that is open has a deadline, and a held task without a receipt has a time at which it lapses.

mod authenticated;
mod block;
mod changes;
mod entries;
mod genesis;
mod index;
mod jobs;
mod models;
mod money;
mod nodes;
mod query;
mod receipts;
mod refusal;
mod rounds;
mod snapshot;
mod state;
mod tasks;
mod transaction;

pub use authenticated::Proof;
pub use entries::{Clock, Inference, Key, NodeClock, Payout, TaskClock};
pub use genesis::{Genesis, GenesisError, MAX_CHAIN_ID, Parameters};
pub use snapshot::MAX_SNAPSHOT;

use std::fmt;

use crate::types::{Digest, Time};
use authenticated::Tree;
use changes::Changed;
use state::State;

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

impl Event {
    fn new(kind: &str) -> Self {
        Self { kind: kind.to_owned(), attributes: Vec::new() }
    }

    fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.attributes.push((name.to_owned(), value.to_string()));
        self
    }
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
    /// A record stands under the key of another.
    #[error("the snapshot has another kind of record under {0}")]
    Misplaced(String),
    /// It lacks a record that every ledger has.
    #[error("the snapshot lacks its {0} record")]
    Missing(&'static str),
}

/// A ledger at one height.
pub struct Ledger {
    state: State,
    tree: Tree,
    changed: Changed,
}

impl Ledger {
    /// The ledger at height 0.
    pub fn new(genesis: Genesis) -> Result<Self, GenesisError> {
        let supply = genesis.check()?;
        let clock = Clock { height: 0, time: genesis.time, live: 0, supply };
        let balances = genesis.accounts.clone();
        let mut state = State::new(genesis, clock);
        balances.iter().for_each(|(account, balance)| money::credit(&mut state, account, *balance));
        let mut ledger = Self { state, tree: Tree::new(), changed: Changed::default() };
        ledger.commit();
        Ok(ledger)
    }

    /// What it began from.
    pub fn genesis(&self) -> &Genesis {
        self.state.genesis()
    }

    /// Blocks applied so far.
    pub fn height(&self) -> u64 {
        self.state.clock().height
    }

    /// Time of the last block, or of the genesis.
    pub fn time(&self) -> Time {
        self.state.clock().time
    }

    /// Root of the authenticated map of all records. It changes with every block, because the clock is a record.
    pub fn app_hash(&self) -> Digest {
        self.tree.root()
    }

    /// The name of this ledger.
    pub fn chain_id(&self) -> &str {
        &self.state.genesis().chain_id
    }

    /// Whether a transaction may wait for a block: its size, signature, chain id, and a nonce that is not used yet.
    pub fn check(&self, transaction: &[u8]) -> TransactionResult {
        transaction::check(&self.state, transaction)
    }

    /// Applies the next block: its transactions in order, then what time alone brings about. Exactly one result a
    /// transaction, whatever its bytes are. A `time` before the last block's counts as the last block's.
    pub fn apply_block(&mut self, time: Time, transactions: &[Vec<u8>]) -> BlockResult {
        block::apply(self, time, transactions)
    }

    /// Answers a query of [`super::wire::query`] from the last block's state.
    pub fn query(&self, path: &str, data: &[u8]) -> Result<Vec<u8>, QueryError> {
        query::answer(self, path, data)
    }

    /// Proves to anyone who knows the app hash what the record under `key` is, or that there is none.
    pub fn prove(&self, key: &Key) -> Proof {
        let value = self.state.get(key).map(entries::Entry::to_bytes);
        self.tree.prove(key, value).expect("the genesis has been committed")
    }

    /// Everything, for [`Ledger::restore`].
    pub fn snapshot(&self) -> Vec<u8> {
        snapshot::write(self)
    }

    /// The ledger that gave this snapshot. Its app hash is computed anew and compared.
    pub fn restore(bytes: &[u8]) -> Result<Self, SnapshotError> {
        snapshot::read(bytes)
    }

    /// Whether time alone can change something soon. An embedded ledger makes a block a second while it is true.
    pub fn has_open_work(&self) -> bool {
        block::has_open_work(&self.state)
    }

    /// Brings tree and index of changes up to the records.
    fn commit(&mut self) {
        let height = self.height();
        let mut writes = Vec::new();
        for key in self.state.take_changed() {
            let value = self.state.get(&key).map(entries::Entry::to_bytes);
            match &value {
                Some(value) => self.changed.set(key.clone(), height, value.len()),
                // Made and removed within the block.
                None if !self.changed.contains(&key) => continue,
                None => self.changed.remove(&key),
            }
            writes.push((key, value));
        }
        self.tree.update(writes);
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ledger({} at height {}, {})", self.chain_id(), self.height(), self.app_hash())
    }
}
