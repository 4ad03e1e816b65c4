//! Content that nodes keep for others: what can be ordered, and what is shown of it.

use serde::{Deserialize, Serialize};

use crate::types::{ContentId, Time};

/// Content that other nodes shall keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageKeep {
    /// Its root. It is fetched here first, if it is not here.
    pub cid: ContentId,
    /// How many other nodes; the ledger says how many at most.
    pub copies: u32,
    /// For how long from now, in seconds; the ledger says how long at most.
    pub seconds: u64,
}

/// Content that other nodes need not keep any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageRelease {
    /// Its root.
    pub cid: ContentId,
}

/// Content that nodes keep for another, as the ledger has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredObject {
    /// Its root.
    pub cid: ContentId,
    /// Who asked for it: a peer id.
    pub owner: String,
    /// Bytes of its blocks.
    pub bytes: u64,
    /// How many nodes shall hold it.
    pub copies: u32,
    /// Who holds it now: peer ids.
    pub holders: Vec<String>,
    /// Block time from which it is over.
    pub until: Time,
    /// Block time at which it was asked for first.
    pub created_at: Time,
}

/// What a node keeps for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageStatus {
    /// Bytes of room that its operator gives.
    pub room: u64,
    /// Bytes that it offers on the ledger.
    pub offered: u64,
    /// Bytes that it holds for others, as the ledger counts them.
    pub used: u64,
}
