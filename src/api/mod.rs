//! What an operator, a researcher and the command line may ask of a running node, and what it tells them.
//!
//! Plain data in both directions: a [`Command`] goes in, a [`Reply`] or an [`Error`] comes back, and
//! [`NodeEvent`]s stream out. `server` carries them over HTTP on a Unix socket (and loopback TCP when asked),
//! `client` speaks to that server; the event loop sees neither, only a bounded queue of [`Request`]s.
//!
//! Nothing here decides anything. Field names in JSON are those of the network's documentation; peers are text,
//! so that no consumer needs libp2p to read them.

pub mod client;
mod command;
mod error;
mod event;
mod parameters;
mod prometheus;
mod records;
mod reply;
mod routes;
pub mod server;
pub mod socket;
mod storage;
mod stream;
pub mod views;
mod wallet;

pub use command::{Command, Infer, Register, ShardAdd, ShardGet, Submit, SubmitPrepared};
pub use error::{Error, ErrorCode};
pub use event::NodeEvent;
pub use parameters::{LedgerParameters, OpenProposal, ParameterVotes};
pub use records::{Job, JobDetail, Node, Round, Task};
pub use reply::{
    Account, BytesMoved, Capacity, CheckpointLine, CutOff, Done, Health, Inference, IpfsStatus, LedgerStatus,
    LedgerWay, Logs, Metrics, Peer, Protection, Python, Reply, ResourceStatus, Run, Shard, Status, Submitted,
    TaskSummary, Traffic,
};
pub use storage::{StorageKeep, StorageRelease, StorageStatus, StoredObject};
pub use wallet::{Amount, MAX_REWARDED, Payee, PayeeError, Payment, RewardedRound, Rewards, Unbonding, Wallet};

use tokio::sync::oneshot;

/// Requests that wait for the event loop at once. An operator's tools ask a few at a time; when the queue is full
/// the server answers `busy`, so that a flood of questions never delays the mesh.
pub const REQUEST_QUEUE: usize = 64;

/// Events kept for a reader that is slower than the node. A reader that falls further behind is told how many
/// it lost ([`NodeEvent::Lost`]).
pub const EVENT_QUEUE: usize = 1024;

/// One question on its way to the event loop.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub command: Command,
    /// Takes exactly one answer. Dropping it answers `internal`.
    pub answer: oneshot::Sender<Result<Reply, Error>>,
}
