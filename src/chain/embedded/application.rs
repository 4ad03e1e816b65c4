//! What the chain asks of the state machine that it carries.

use crate::{
    chain::ledger::{BlockResult, Ledger, QueryError, SnapshotError, TransactionResult},
    types::{Digest, Time},
};

/// A deterministic state machine. The chain decides order and time; the application decides meaning.
///
/// Everything that [`Application::apply_block`] does follows from its arguments and the state before: a restart
/// replays the block log and must come out at the same application hash. [`Ledger`] is the one that nodes carry.
pub trait Application: Send + Sync + 'static {
    /// Blocks applied so far; 0 at genesis.
    fn height(&self) -> u64;

    /// Time of the last block, or of the genesis.
    fn time(&self) -> Time;

    /// The hash of the whole state.
    fn app_hash(&self) -> Digest;

    /// Is this transaction worth a place in a block? Cheap, and binding for nobody.
    fn check(&self, transaction: &[u8]) -> TransactionResult;

    /// Applies the next block: exactly one result a transaction, in order.
    fn apply_block(&mut self, time: Time, transactions: &[Vec<u8>]) -> BlockResult;

    /// Answers a query of the present state.
    fn query(&self, path: &str, data: &[u8]) -> Result<Vec<u8>, QueryError>;

    /// The whole state, for [`Application::restore`].
    fn snapshot(&self) -> Vec<u8>;

    /// Becomes the state in `snapshot`, or stays as it was and says why not.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), SnapshotError>;

    /// True while time must pass for it, so that blocks are made though no transaction waits.
    fn has_open_work(&self) -> bool;
}

impl Application for Ledger {
    fn height(&self) -> u64 {
        self.height()
    }

    fn time(&self) -> Time {
        self.time()
    }

    fn app_hash(&self) -> Digest {
        self.app_hash()
    }

    fn check(&self, transaction: &[u8]) -> TransactionResult {
        self.check(transaction)
    }

    fn apply_block(&mut self, time: Time, transactions: &[Vec<u8>]) -> BlockResult {
        self.apply_block(time, transactions)
    }

    fn query(&self, path: &str, data: &[u8]) -> Result<Vec<u8>, QueryError> {
        self.query(path, data)
    }

    fn snapshot(&self) -> Vec<u8> {
        self.snapshot()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), SnapshotError> {
        *self = Ledger::restore(snapshot)?;
        Ok(())
    }

    fn has_open_work(&self) -> bool {
        self.has_open_work()
    }
}
