//! What a chain of validators has signed, and what follows from that: the light client.
//!
//! It exists so that a node needs to believe no RPC endpoint. It decides on bytes that somebody brings: which headers are trusted
//! ([`State`]), whether what was told of the ledger's records is what the trusted app hash commits to ([`Replica`]), and whether
//! blocks and results are those of a trusted header ([`block`]). All of it is pure: time comes in, what is needed next goes out, and
//! `chain::client` fetches it.
//!
//! It never believes a word that no proof covers, never takes a header because it is the newest, and never goes on from a
//! header older than the trusting period.

use std::time::Duration;

pub(in crate::chain) mod block;
mod replica;
mod state;
#[cfg(test)]
pub(in crate::chain) mod testing;

pub(in crate::chain) use replica::{Refusal as Untrue, Replica, Taken};
pub(in crate::chain) use state::{Anchor, Beginning, LightBlock, Need, Refusal, State};

/// How long evidence against a validator counts, by the genesis of the chains that this program makes (CometBFT's
/// `evidence.max_age_duration`). Twice [`TRUSTING_PERIOD`]: who is shown a false header on the last day of its trust has a week to
/// notice and to bring the evidence. CometBFT's own 48 hours are less than a third of that period, and a validator could sign
/// another history after them without anything to lose, while light clients still believe it.
pub(in crate::chain) const EVIDENCE_AGE: Duration = Duration::from_hours(336);
/// How long a header is trusted without a newer one, if nobody says another time: what CometBFT's own light client has
/// (`cometbft light --trusting-period`).
pub(in crate::chain) const TRUSTING_PERIOD: Duration = Duration::from_hours(168);
const _: () = assert!(EVIDENCE_AGE.as_secs() >= 2 * TRUSTING_PERIOD.as_secs());

#[cfg(test)]
mod tests;
