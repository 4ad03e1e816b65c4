//! Whether transactions and results are those of a block whose headers are trusted.
//!
//! A header commits to its block's transactions (`data_hash`), and the header of the next block to their results
//! (`last_results_hash`): code, data and gas. The words of a result (`log`) and its events are in no hash: they stay the word of the
//! endpoint.

use prost::Message as _;
use tendermint::{Hash, block::Header, crypto::default::Sha256, merkle};
use tendermint_proto::v0_38::abci::ExecTxResult as RawResult;

use crate::types::Digest;

/// What all validators agree on of a transaction's result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::chain) struct Agreed {
    /// 0 if it did what it says.
    pub code: u32,
    /// The answer.
    pub data: Vec<u8>,
    /// What it was allowed to cost.
    pub gas_wanted: i64,
    /// What it cost.
    pub gas_used: i64,
}

/// It is not of that block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::chain) enum Mismatch {
    #[error("its transactions of block {height} are not those that the block's header commits to")]
    Transactions { height: u64 },
    #[error("its results of block {height} are not those that the next header commits to")]
    Results { height: u64 },
}

/// Whether these are the transactions of the block with this header.
pub(in crate::chain) fn check_transactions(header: &Header, transactions: &[Vec<u8>]) -> Result<(), Mismatch> {
    let hashes: Vec<_> = transactions.iter().map(|bytes| Digest::of(bytes).0).collect();
    let found = root(&hashes);
    if header.data_hash.unwrap_or_default() == found {
        Ok(())
    } else {
        Err(Mismatch::Transactions { height: header.height.value() })
    }
}

/// Whether these are the results of the block before the one with this header.
pub(in crate::chain) fn check_results(next: &Header, results: &[Agreed]) -> Result<(), Mismatch> {
    if next.last_results_hash.unwrap_or_default() == root_of(results) {
        Ok(())
    } else {
        Err(Mismatch::Results { height: next.height.value().saturating_sub(1) })
    }
}

/// The hash over the results of a block (CometBFT `types/results.go`).
pub(super) fn root_of(results: &[Agreed]) -> Hash {
    let encode = |result: &Agreed| {
        let Agreed { code, data, gas_wanted, gas_used } = result.clone();
        RawResult { code, data: data.into(), gas_wanted, gas_used, ..RawResult::default() }.encode_to_vec()
    };
    root(&results.iter().map(encode).collect::<Vec<_>>())
}

fn root<T: AsRef<[u8]>>(leaves: &[T]) -> Hash {
    Hash::Sha256(merkle::simple_hash_from_byte_vectors::<Sha256>(leaves))
}
