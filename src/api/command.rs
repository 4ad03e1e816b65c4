//! What can be asked of a running node.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Amount, ParameterVotes, Payment, StorageKeep, StorageRelease};
use crate::types::{ContentId, JobId, JobSpec, Round, ShardSpec, TaskId};

/// One question or order. The variant's doc names the [`super::Reply`] that answers it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Is the event loop alive? → `Health`.
    Health,
    /// Everything about this node. → `Status`.
    Status,
    /// Connected peers. → `Peers`.
    Peers,
    /// Nodes registered on the ledger. → `Nodes`.
    Nodes,
    /// Jobs on every ledger this node follows. → `Jobs`.
    Jobs,
    /// One job with its tasks and closed rounds. → `Job`.
    Job {
        /// Which.
        job: JobId,
    },
    /// Tasks of one job, or of all. → `Tasks`.
    Tasks {
        /// `None` for all.
        job: Option<JobId>,
    },
    /// Script processes that this node started, oldest first. → `Runs`.
    Runs,
    /// Prepare a job file and submit it. → `Submitted`, once the promised copies are held by others.
    Submit(Submit),
    /// Submit a job whose content is in the block store already. → `Submitted`.
    SubmitPrepared(SubmitPrepared),
    /// End an own job. → `Done`.
    Cancel {
        /// Which.
        job: JobId,
    },
    /// Give out no new lease of an own job, stop its tasks with a checkpoint. → `Done`.
    Pause {
        /// Which.
        job: JobId,
    },
    /// Undo [`Command::Pause`]. → `Done`.
    Resume {
        /// Which.
        job: JobId,
    },
    /// Ask the mesh. → `Inference`.
    Infer(Infer),
    /// Register this node anew, with this label and address. → `Done`.
    Register(Register),
    /// Store a file or directory. → `Shard`.
    ShardAdd(ShardAdd),
    /// Fetch content from the mesh if need be, and write it to a path or keep it. → `Shard`.
    ShardGet(ShardGet),
    /// Pinned content of the block store. → `Shards`.
    ShardList,
    /// Ask other nodes to keep content. → `Done`, once that is in a block; the copies come later.
    StorageKeep(StorageKeep),
    /// Ask no more for it. → `Done`, once that is in a block.
    StorageRelease(StorageRelease),
    /// Content that nodes keep for others. → `Objects`.
    StorageList,
    /// Checkpoints that this node wrote or holds for others. → `Checkpoints`.
    CheckpointList,
    /// The end of a task's log on this node. → `Logs`.
    Logs {
        /// Whose.
        task: TaskId,
        /// Lines wanted; the node sends at most its own limit.
        tail: u32,
    },
    /// What this node can show of a task's round: the signed receipt and whatever makes it checkable. → `Proof`.
    ProofOf {
        /// Which task.
        task: TaskId,
        /// Which round.
        round: Round,
    },
    /// The node's own account on the ledger. → `Account`.
    Account,
    /// The same with its stake. → `Wallet`.
    Wallet,
    /// What the node earned. → `Rewards`.
    Rewards,
    /// Give money to another account. → `Done`, once it is in a block.
    Send(Payment),
    /// Bond money as the node's stake. → `Done`, once it is in a block.
    Bond(Amount),
    /// Ask for part of the stake back. → `Done`, once it is in a block; the money comes later.
    Unbond(Amount),
    /// The numbers that the ledger runs by, and what its validators vote on. → `Parameters`.
    Parameters,
    /// Send validators' votes for other numbers. → `Done`, once they are in a block.
    VoteParameters(ParameterVotes),
    /// Counters. → `Metrics`.
    Metrics,
    /// Stop in order: checkpoint, hand back leases, say goodbye, exit. → `Done`, before it stops.
    Shutdown,
}

/// A job file to submit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submit {
    /// The text of the job file.
    pub job_file: String,
    /// Relative paths in it start here. Absolute.
    pub base_directory: PathBuf,
    /// Overrides the number of shards.
    #[serde(default)]
    pub shards: Option<u32>,
    /// Overrides the number of other nodes that must hold each block.
    #[serde(default)]
    pub copies: Option<u32>,
}

/// A job ready to go on the ledger; its content lies in the block store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmitPrepared {
    /// What it asks for.
    pub spec: Box<JobSpec>,
    /// Its shards, by slot.
    pub shards: Vec<ShardSpec>,
}

/// A question to a model. Exactly one of `job` and `model` is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Infer {
    /// The job whose newest model answers.
    #[serde(default)]
    pub job: Option<JobId>,
    /// A model of the ledger's registry, `name:version`.
    #[serde(default)]
    pub model: Option<String>,
    /// Whatever the model's script takes.
    pub input: serde_json::Value,
    /// The peer that shall answer; `None` lets the node choose among the others.
    #[serde(default)]
    pub via: Option<String>,
}

/// A new registration. What is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// A label for people.
    #[serde(default)]
    pub node_id: Option<String>,
    /// A bech32 account for rewards, checked already.
    #[serde(default)]
    pub address: Option<String>,
}

/// A file or directory to store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardAdd {
    /// Where it is. Absolute.
    pub path: PathBuf,
    /// It is a CAR whose blocks are wanted, rather than a file as such.
    #[serde(default)]
    pub car: bool,
}

/// Content to fetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardGet {
    /// What.
    pub cid: ContentId,
    /// Where to, absolute; must not exist. `None`: it is only kept, pinned, in the block store.
    #[serde(default)]
    pub to: Option<PathBuf>,
    /// It is sealed data: write it opened, with the key that this node has.
    #[serde(default)]
    pub open: bool,
}

impl ShardGet {
    /// Keeps it in the block store.
    pub fn keep(cid: ContentId) -> Self {
        Self { cid, to: None, open: false }
    }

    /// Writes it to a path, as it is.
    pub fn to(cid: ContentId, to: PathBuf) -> Self {
        Self { cid, to: Some(to), open: false }
    }
}
