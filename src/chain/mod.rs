//! The ledger: what all nodes agree on.
//!
//! `ledger` is the pure state machine. It runs in three places, and only these may import it: `embedded` (one
//! machine, real blocks and headers, served as Tendermint JSON-RPC), `abci` (an application of CometBFT, whose validators
//! need not trust each other), and the simulator.
//! Everyone else sends [`wire::Transaction`]s and reads [`records`] through a client, exactly as from a real chain.
//! The client takes no endpoint's word for what a chain of validators has agreed on: `light` decides what is proven.

pub mod abci;
mod authenticated;
pub mod client;
mod directory_lock;
pub mod embedded;
mod key;
pub mod ledger;
mod light;
mod log;
pub mod offence;
pub mod records;
pub mod rpc;
#[cfg(test)]
mod small_disk;
mod snapshot;
pub mod wire;

pub use key::Key;
