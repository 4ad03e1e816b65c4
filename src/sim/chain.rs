//! The hosted ledger: the real state machine, with blocks made as the embedded one makes them.

use std::{collections::BTreeSet, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use super::client::Key;
use crate::{
    chain::{
        ledger::{BlockResult, Genesis, GenesisError, Ledger},
        records::{Account, Changes},
        wire::{Code, query},
    },
    codec,
    types::{Digest, NodeKey, Time},
};

/// A block is made so long after the first transaction waits (design §5: group commit).
pub(super) const GROUP_COMMIT: Duration = Duration::from_millis(5);
/// And so often while time alone can change something.
pub(super) const IDLE_BLOCK: Duration = Duration::from_secs(1);

/// Whose transaction it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sender {
    pub(super) node: usize,
    pub(super) life: u64,
    pub(super) key: Key,
}

/// A block, with whose its transactions are.
pub(super) struct Block {
    pub(super) senders: Vec<(Sender, Digest)>,
    pub(super) result: BlockResult,
}

/// A ledger and what waits for its next block.
#[derive(Debug)]
pub(super) struct Chain {
    ledger: Ledger,
    waiting: Vec<(Sender, Vec<u8>)>,
    /// Hashes of the transactions taken: a copy is not taken again.
    taken: BTreeSet<Digest>,
    /// It answers nobody until then.
    pub(super) away_until: Time,
}

impl Chain {
    pub(super) fn new(genesis: Genesis) -> Result<Self, GenesisError> {
        let ledger = Ledger::new(genesis)?;
        Ok(Self { ledger, waiting: Vec::new(), taken: BTreeSet::new(), away_until: Time::ZERO })
    }

    /// Takes a transaction; true if it is the first that waits, so that a block is due soon.
    pub(super) fn take(&mut self, sender: Sender, bytes: Vec<u8>) -> bool {
        if !self.taken.insert(Digest::of(&bytes)) {
            return false;
        }
        self.waiting.push((sender, bytes));
        self.waiting.len() == 1
    }

    /// Whether a block made now would do anything.
    pub(super) fn wants_block(&self) -> bool {
        !self.waiting.is_empty() || self.ledger.has_open_work()
    }

    pub(super) fn make_block(&mut self, now: Time) -> Block {
        let (senders, transactions): (Vec<Sender>, Vec<Vec<u8>>) =
            std::mem::take(&mut self.waiting).into_iter().unzip();
        let hashes: Vec<Digest> = transactions.iter().map(|bytes| Digest::of(bytes)).collect();
        let result = self.ledger.apply_block(now, &transactions);
        // What was out of turn did nothing: the same bytes may come again when it is their turn.
        let stale = hashes.iter().zip(&result.results).filter(|(_, result)| result.code == Code::Nonce as u32);
        for (hash, _) in stale {
            self.taken.remove(hash);
        }
        Block { senders: senders.into_iter().zip(hashes).collect(), result }
    }

    /// The height of the last block.
    pub(super) fn height(&self) -> u64 {
        self.ledger.height()
    }

    /// What changed after a height.
    pub(super) fn changes(&self, after: u64) -> Changes {
        self.ask(query::CHANGES, &after).expect("the query and its data are right")
    }

    /// An account; empty if there is none.
    pub(super) fn account(&self, node: &NodeKey) -> Account {
        self.ask(query::GET_ACCOUNT, node).unwrap_or_default()
    }

    fn ask<T: DeserializeOwned>(&self, path: &str, data: &impl Serialize) -> Option<T> {
        let answer = self.ledger.query(path, &codec::encode(data)).ok()?;
        codec::decode(&answer, usize::MAX).ok()
    }
}
