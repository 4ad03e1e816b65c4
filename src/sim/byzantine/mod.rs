//! The ledger as a chain of validators of whom some lie: honest replicas of the very application that CometBFT drives,
//! asked in ABCI's own messages, and around them what CometBFT, the network and the liars do. One seed gives one run.
//!
//! It exists because agreement can't be seen on one ledger: here several replicas, each with a disk of its own, hear
//! transactions in different orders, crash between `FinalizeBlock` and `Commit`, lose or damage what they kept, come back
//! by replay or from a snapshot of others, and must be equal to the byte after each block ([`invariant`] says all that
//! must hold).
//!
//! - `validator` is one honest replica, and what its CometBFT asks of it.
//! - `people` sign transactions, and remember what they signed; one of them cheats.
//! - `liar` makes the proposals that no honest validator makes.
//! - `world` goes from height to height: who proposes, who votes, what is decided, who dies.
//!
//! Consensus itself is not simulated: a proposal is decided if more than two thirds of the power accept it, and a block's
//! time is the median of votes, as in CometBFT. In some worlds the liars have more than a third of the power and decide what
//! they like; then too all replicas do the same. It reads no clock and no entropy.

mod invariant;
mod liar;
mod people;
mod validator;
mod wishes;
mod world;

use std::{fmt, path::Path};

use super::invariant::Violation;
use crate::types::{Digest, memo};
use world::World;

/// A bug that is put into a world on purpose, to show that an invariant notices it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// One replica goes through the transactions of a block in another order.
    Reordered,
    /// Validators accept whatever is proposed.
    Credulous,
    /// Half of somebody's balance is nowhere.
    MoneyLost,
    /// A reward is counted twice.
    PaidTwice,
    /// A closed round is written anew.
    Rewritten,
    /// A lease is another's without a new generation.
    TwoHolders,
    /// An account's nonce is one further than its transactions.
    NonceSkipped,
    /// Honest proposers leave out what one person sends.
    Censored,
    /// The mempool takes what was in a block already.
    Replayed,
}

/// What happened in a run, to show that it was not idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Blocks decided.
    pub blocks: u64,
    /// Transactions that used their nonce.
    pub transactions: u64,
    /// Transactions in a block that did nothing: only where liars decide.
    pub idle: u64,
    /// Proposals that an honest quorum refused.
    pub refused: u64,
    /// Transactions that a mempool refused.
    pub kept_out: u64,
    /// Replicas that died.
    pub crashes: u64,
    /// Of these, between `FinalizeBlock` and `Commit`.
    pub between: u64,
    /// Blocks applied again after a start.
    pub replayed: u64,
    /// Snapshots that were damaged or lost while their replica was down.
    pub damaged: u64,
    /// Replicas that began from a snapshot of another.
    pub restored: u64,
    /// Leases given.
    pub leases: u64,
    /// Rounds closed.
    pub rounds: u64,
    /// Rewards paid.
    pub rewards: u64,
    /// Offences punished.
    pub offences: u64,
}

impl Counts {
    /// All of them by name.
    pub fn named(&self) -> [(&'static str, u64); 14] {
        [
            ("blocks", self.blocks),
            ("transactions", self.transactions),
            ("idle", self.idle),
            ("refused", self.refused),
            ("kept_out", self.kept_out),
            ("crashes", self.crashes),
            ("between", self.between),
            ("replayed", self.replayed),
            ("damaged", self.damaged),
            ("restored", self.restored),
            ("leases", self.leases),
            ("rounds", self.rounds),
            ("rewards", self.rewards),
            ("offences", self.offences),
        ]
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.blocks += other.blocks;
        self.transactions += other.transactions;
        self.idle += other.idle;
        self.refused += other.refused;
        self.kept_out += other.kept_out;
        self.crashes += other.crashes;
        self.between += other.between;
        self.replayed += other.replayed;
        self.damaged += other.damaged;
        self.restored += other.restored;
        self.leases += other.leases;
        self.rounds += other.rounds;
        self.rewards += other.rewards;
        self.offences += other.offences;
    }
}

/// What came out of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Validators, and how many of them lie.
    pub validators: (usize, usize),
    /// What happened.
    pub counts: Counts,
    /// Digest of all blocks, verdicts and app hashes.
    pub digest: Digest,
    /// What did not hold.
    pub violation: Option<Violation>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {} validators, {} of them lie", self.seed, self.validators.0, self.validators.1)?;
        self.counts.named().iter().try_for_each(|(name, count)| write!(f, ", {count} {name}"))?;
        writeln!(f, "; digest {}", self.digest)
    }
}

/// Runs the world of a seed, perhaps with a planted bug. The replicas keep what they keep in `directory`, which is empty.
pub fn run(seed: u64, directory: &Path, plant: Option<Plant>) -> Report {
    // All replicas are in one thread: what one of them has verified, the others know.
    let _memo = memo::Remembering::begin();
    let mut world = World::new(seed, directory, plant);
    let violation = world.run().err();
    Report { seed, validators: world.size(), counts: world.counts(), digest: world.digest(), violation }
}

#[cfg(test)]
mod tests;
