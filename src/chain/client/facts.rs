//! What a ledger said of a transaction, as the outbox is told, and what the outbox tells of a submission.

use crate::types::Digest;

/// What came of sending a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It waits for a block, or did before.
    Accepted,
    /// The ledger's check refused it.
    Refused { code: u32, log: String },
    /// It is not even a transaction to that endpoint.
    Impossible { reason: String },
    /// Not now: a full mempool, a full disk.
    NotNow,
    /// The connection broke; it may have arrived.
    Unknown,
}

/// What other endpoints say of a transaction, beside the one in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Second {
    /// One of them took it; or what most speaks against it.
    Said(Sent),
    /// None of them answers.
    Silent,
    /// There are none.
    Nobody,
}

/// A transaction found on the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub code: u32,
    pub log: String,
    pub data: Vec<u8>,
    pub height: u64,
}

/// What the blocks themselves show of a transaction that the index does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Searched {
    /// It is in one.
    Found(Found),
    /// It is in none, and none can hold it any more.
    Absent,
    /// It is in none that is proven, and a later one may hold it.
    Open,
    /// The blocks that could hold it are not there any more. It may have been included.
    Unknown { reason: String },
}

/// A submission is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is final.
    Committed { id: u64, hash: Digest, found: Found },
    /// It can never be included.
    Rejected { id: u64, reason: String },
}

/// Why a submission is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Full,
    Duplicate,
}
