//! A network in one process, under virtual time, from one seed.
//!
//! The decisions are the node's own: each simulated node is the very [`crate::node::coordinator`] and protocol states
//! that run in production, talking in the bytes of the wire, on the real ledger state machine. What is simulated is
//! what they stand on: time, network, disks, processes and the operator. A [`Scenario`] says how large the world is
//! and what goes wrong in it; [`invariant`]s say what must hold nevertheless. One seed gives one run, to the byte.
//!
//! It never decides anything that a node decides, reads no clock and no entropy, and iterates over nothing unordered.
//! What it can't show is what libp2p itself does: discovery, back-pressure, and the gossip mesh's shape.

pub mod byzantine;
mod chain;
mod chance;
mod client;
pub mod content;
pub mod draw;
mod edges;
mod effects;
mod fault;
mod forgery;
mod host;
pub mod invariant;
mod ledger_link;
mod machine;
mod network;
mod node;
mod record;
pub mod replay;
mod report;
pub mod scenario;
mod scripts;
pub mod search;
mod storage;
mod striking;
mod training;
mod workload;
mod world;

#[cfg(test)]
mod tests;

pub use chance::Chance;
pub use fault::{Fault, Kind, Lie, When, Who};
pub use report::{Report, Setup, run, run_with};
pub use scenario::Scenario;

/// A bug that is put into every node of a world on purpose, to show that an invariant notices it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// A script does its last batch twice when it continues.
    BatchTwice,
    /// A store says that content is on the disk when it is not.
    NoSync,
    /// Answers of the disk are lost.
    LostAnswers,
    /// No round can be closed.
    NoClose,
    /// Nodes are told that they hold what others hold.
    ForgedHolder,
    /// One node combines updates to another model.
    OtherModel,
    /// The ledger loses money.
    MoneyLost,
    /// Half of what nodes have bonded is nowhere.
    StakeLost,
    /// A checkpoint is rolled back on the ledger.
    RolledBack,
    /// Nodes are not told that what a node held has lapsed.
    LapseUnseen,
    /// Nodes are not told how much room is used.
    RoomUnseen,
}
