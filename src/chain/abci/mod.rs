//! The ledger as an application of CometBFT (ABCI 2.0): run by validators who do not trust each other.
//!
//! It exists so that the state machine that one machine carries in [`super::embedded`] is, byte for byte, the one that a
//! chain of many agrees on. CometBFT orders and keeps the blocks and talks to the other validators; this program says what
//! they mean.
//!
//! - `wire` is the bytes, `server` the socket with CometBFT's four connections.
//! - `state` decides what a block does and which height counts; `proposal` what may stand in a block; `genesis` what a
//!   chain begins from; `query` what is answered; `sync` how a snapshot goes to a new validator. All of them are pure.
//! - `ahead` verifies signatures before a block is applied; `store` keeps snapshots, and `writer` writes those of large
//!   ledgers while blocks go on; `application` puts all together.
//! - [`local`] makes the directories of a chain and [`supervise`] runs its processes on this machine; `damage` knows what
//!   CometBFT says when a restart won't help.
//!
//! **Durability.** CometBFT syncs a block before this program sees it, and hands every block over again that comes after
//! the height named in `Info`. So a snapshot now and then is all that is kept here, there is no second log that could
//! disagree with CometBFT's, and a `kill -9` at any instant costs a replay of at most [`Config::snapshot_every`] blocks.
//!
//! **Why not `tendermint-abci`.** Its server reads a frame of any length, can't limit its connections, and needs an
//! application that is cloned for each; what is left of it without those is the two functions of `wire`.
//!
//! It never leaves a transaction of a block without its result, never counts a block that was not committed, and never
//! restores a state that a trusted header does not name. It listens on a Unix socket or on loopback alone, because whoever
//! can connect can make blocks.

mod ahead;
mod application;
mod damage;
mod genesis;
pub mod local;
mod proposal;
mod query;
mod server;
mod state;
mod store;
pub mod supervise;
mod sync;
#[cfg(test)]
mod testing;
pub mod voter;
pub mod wire;
mod writer;

use std::{io, num::NonZeroU64, path::PathBuf};

pub use ahead::verify as verify_ahead;
pub use application::Application;
pub use genesis::InitError;
pub use query::answer as answer_query;
pub use server::{Address, AddressError, Server};

/// The most bytes of transactions in a block that a chain of this ledger may have: a chain's `block.max_bytes` may be less,
/// and is 4 MiB unless its genesis says otherwise.
pub const MAX_BLOCK: usize = 16 * 1024 * 1024;
/// The longest `app_state` of a genesis in bytes: 100,000 accounts.
pub const MAX_GENESIS: usize = 16 * 1024 * 1024;
/// Blocks between two snapshots: at a block a second a quarter of an hour, which a restart replays in a second or two.
pub const SNAPSHOT_EVERY: NonZeroU64 = NonZeroU64::new(1_000).expect("it is not 0");

/// How an application keeps what it keeps.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Blocks between two snapshots. All validators of a chain should have the same number: a new one fetches a snapshot
    /// from all that have it.
    pub snapshot_every: NonZeroU64,
    /// Blocks that CometBFT keeps at least; it may forget older ones. `None`: all.
    pub keep_blocks: Option<NonZeroU64>,
}

impl Default for Config {
    fn default() -> Self {
        Self { snapshot_every: SNAPSHOT_EVERY, keep_blocks: None }
    }
}

/// Why the application does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("{} is in use by another process: stop it, or choose another directory", .path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The address can't be listened on.
    #[error("can't listen on {address}: {source}; choose another address with --listen, or stop what listens there")]
    Listen {
        /// The address.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// No thread for a connection, or no connection.
    #[error("connections can't be served: {0}")]
    Serve(#[source] io::Error),
}
