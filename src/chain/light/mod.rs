//! What a chain of validators has signed, and what follows from that: the light client.
//!
//! It exists so that a node needs to believe no RPC endpoint. It decides on bytes that somebody brings: which headers are trusted
//! ([`State`]), whether what was told of the ledger's records is what the trusted app hash commits to ([`Replica`]), and whether
//! blocks and results are those of a trusted header ([`block`]). All of it is pure: time comes in, what is needed next goes out, and
//! `chain::client` fetches it.
//!
//! It never believes a word that no proof covers, never takes a header because it is the newest, and never goes on from a
//! header older than the trusting period.

pub(in crate::chain) mod block;
mod replica;
mod state;
#[cfg(test)]
pub(in crate::chain) mod testing;

pub(in crate::chain) use replica::{Refusal as Untrue, Replica, Taken};
pub(in crate::chain) use state::{Anchor, Beginning, LightBlock, Need, Refusal, State};

#[cfg(test)]
mod tests;
