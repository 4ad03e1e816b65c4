//! The numbers that a ledger runs by, and the votes of its validators for others.
//!
//! Plain data, as all of the API. Names are those of a genesis, with `economy.` before those of its economy.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::{Digest, NodeKey, Signed};

/// Votes for one change, to be sent to the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParameterVotes {
    /// Signed [`crate::types::ParameterVote`]s.
    pub votes: Vec<Signed>,
}

/// What a ledger runs by, and what its validators vote on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerParameters {
    /// The ledger.
    pub ledger: String,
    /// The version of its state: 1 until a change took effect.
    pub version: u32,
    /// The first block that ran by these numbers.
    pub since: u64,
    /// The numbers that validators may change.
    pub values: BTreeMap<String, u64>,
    /// The power of each validator.
    pub validators: BTreeMap<NodeKey, u64>,
    /// What is open, by block.
    pub proposals: Vec<OpenProposal>,
}

/// A change that waits for votes, or for its block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenProposal {
    /// Its name.
    pub id: Digest,
    /// What changes.
    pub values: BTreeMap<String, u64>,
    /// The first block that runs by it.
    pub from_height: u64,
    /// The block of its first vote.
    pub opened_height: u64,
    /// Who voted for it.
    pub voters: Vec<NodeKey>,
    /// Their power; more than two thirds of all are needed.
    pub power: u64,
    /// The block with which it was accepted.
    pub accepted_height: Option<u64>,
}
