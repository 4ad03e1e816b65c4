//! What a running node answers. JSON field names are the documented ones of the network.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    LedgerParameters, Rewards, StorageStatus, StoredObject, Wallet,
    records::{Job, JobDetail, Node, Task},
};
use crate::{
    proof::evidence::Evidence,
    types::{ContentId, Digest, Generation, JobId, Resources, Step, TaskId, TaskStatus, Time},
};

/// The answer to one [`super::Command`]. In JSON it is the inner value alone: each route has one shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each variant wraps the type of its own name")]
pub enum Reply {
    Health(Health),
    Status(Box<Status>),
    Peers(Vec<Peer>),
    Nodes(Vec<Node>),
    Jobs(Vec<Job>),
    Job(Box<JobDetail>),
    Tasks(Vec<Task>),
    Runs(Vec<Run>),
    Submitted(Box<Submitted>),
    Inference(Inference),
    Shard(Shard),
    Shards(Vec<Shard>),
    Objects(Vec<StoredObject>),
    Checkpoints(Vec<CheckpointLine>),
    Logs(Logs),
    Proof(Box<Evidence>),
    Account(Account),
    Wallet(Wallet),
    Rewards(Box<Rewards>),
    Parameters(Box<LedgerParameters>),
    Metrics(Box<Metrics>),
    Done(Done),
}

/// The order was carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What was done, for people.
    pub message: String,
}

/// The event loop answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Always `ok`: a node that is not does not answer.
    pub status: String,
    /// This node.
    pub peer_id: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
}

/// Everything about this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Its label.
    pub node_id: String,
    /// Its peer id.
    pub peer_id: String,
    /// Its bech32 account.
    pub account: String,
    /// Where its rewards go; `None` for its own account.
    pub address: Option<String>,
    /// Its process.
    pub pid: u32,
    /// Where its files are.
    pub data_dir: PathBuf,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Multiaddrs it listens on, with `/p2p/{peer_id}`.
    pub listen: Vec<String>,
    /// Multiaddrs at which peers see it.
    pub external: Vec<String>,
    /// Connected peers.
    pub peers: u32,
    /// In words why nobody is connected; `None` when somebody is.
    pub alone: Option<String>,
    /// It stands on its ledger.
    pub registered: bool,
    /// Tasks it holds.
    pub tasks: Vec<TaskSummary>,
    /// What it lends.
    pub resources: ResourceStatus,
    /// The ledger it is configured with.
    pub ledger: LedgerStatus,
    /// Ledgers of single jobs (`settle = "none"`) that it carries or follows.
    pub job_ledgers: Vec<LedgerStatus>,
    /// What it keeps for others.
    #[serde(default)]
    pub storage: StorageStatus,
    /// The Kubo daemon.
    pub ipfs: IpfsStatus,
    /// What keeps scripts away from the rest of the machine.
    pub protections: Vec<Protection>,
    /// The interpreter that runs scripts.
    pub python: Python,
    /// Peers that it talks to no more for a while, the latest to come back first, at most 64.
    pub cut_off: Vec<CutOff>,
    /// Anything an operator should change.
    pub warnings: Vec<String>,
}

/// A peer that misbehaved and is cut off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutOff {
    /// Who.
    pub peer_id: String,
    /// What it did.
    pub reason: String,
    /// Until when.
    pub until: Time,
    /// How many times in a row, this one included.
    pub times: u32,
}

/// A task that this node holds, in a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSummary {
    /// The task.
    pub id: TaskId,
    /// Its state on the ledger.
    pub status: TaskStatus,
    /// Its process here, in words: fetching, starting, running, checkpointing, stopping, waiting for the round.
    pub process: String,
    /// The round.
    pub round: u32,
    /// Steps of the round done.
    pub step: Step,
    /// Through the whole job, 0 to 1.
    pub progress: f64,
}

/// Capacity of a machine in the units people use. 1 GB is 10⁹ bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// CPU cores.
    pub cpu_cores: f64,
    /// Gigabytes of memory.
    pub memory_gb: f64,
    /// Gigabytes of disk.
    pub storage_gb: f64,
    /// GPUs.
    pub gpu_count: u32,
}

/// What the node lends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResourceStatus {
    /// All of it, within cgroup, affinity and the operator's caps.
    pub total: Capacity,
    /// Held by tasks.
    pub booked: Capacity,
    /// Left.
    pub free: Capacity,
    /// How it was found and what limited it, for example `memory: cgroup v2 limit`.
    pub notes: Vec<String>,
}

/// Which way the node reaches a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LedgerWay {
    /// This process carries it.
    Here,
    /// JSON-RPC over HTTP, `--chain-rpc`.
    Rpc,
    /// `/atlas/ledger-rpc/1` through a peer.
    Peer,
    /// None at present.
    Unreachable,
}

/// One ledger as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerStatus {
    /// Its chain id; empty while unknown.
    pub id: String,
    /// The way to it.
    pub way: LedgerWay,
    /// URL or peer id.
    pub endpoint: Option<String>,
    /// Height of the view that this node acts on.
    pub height: u64,
    /// Blocks that the view is behind; `None` when the ledger does not answer.
    pub lag: Option<u64>,
    /// App hash at `height`.
    pub app_hash: Option<Digest>,
    /// Transactions in the outbox.
    pub outbox: u32,
    /// Why it is not reached.
    pub reason: Option<String>,
    /// Endpoints that lied or are stale, and what did not match. Others are used before them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub distrusted: BTreeMap<String, String>,
}

/// The Kubo daemon as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpfsStatus {
    /// Where it is looked for.
    pub endpoint: String,
    /// It answered the last call.
    pub answers: bool,
    /// Roots that wait to be pinned.
    pub queued: u32,
    /// What it said last, if it failed.
    pub reason: Option<String>,
}

/// One protection of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// For example `landlock`, `network namespace`.
    pub name: String,
    /// This host has it.
    pub active: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// The Python interpreter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Python {
    /// The program; `None` if there is none, and no work is taken.
    pub path: Option<PathBuf>,
    /// What `--version` said.
    pub version: Option<String>,
}

/// A connected peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// The peer.
    pub peer_id: String,
    /// Its label, if it is registered.
    pub node_id: Option<String>,
    /// Addresses of its connections.
    pub addresses: Vec<String>,
    /// `inbound` or `outbound`, of the first connection.
    pub direction: String,
    /// Round-trip time.
    pub latency_ms: Option<f64>,
    /// Measured, from it to here.
    pub download_mbps: Option<f64>,
    /// Measured, from here to it.
    pub upload_mbps: Option<f64>,
    /// What it says it is.
    pub agent: Option<String>,
    /// Health: `alive`, `suspect` or `offline`.
    pub health: String,
}

/// A script process that this node started. The node keeps its newest thousand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The task.
    pub task: TaskId,
    /// The round.
    pub round: u32,
    /// The generation.
    pub generation: Generation,
    /// Process starts within the generation.
    pub attempt: u32,
    /// Steps of the round that were done already; 0 for its start.
    pub from_step: Step,
    /// The checkpoint it continued from: the signed manifest.
    pub checkpoint_cid: Option<ContentId>,
    /// Who wrote that checkpoint: a peer id.
    pub checkpoint_node: Option<String>,
    /// When it started.
    pub started_at: Time,
    /// How it ended, in words; `None` while it runs.
    pub outcome: Option<String>,
}

/// A submitted job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// The job.
    pub job_id: JobId,
    /// Its ledger.
    pub ledger: String,
    /// How many tasks it has.
    pub tasks: u32,
    /// The script bundle.
    pub bundle_cid: ContentId,
    /// The initial model.
    pub model_cid: ContentId,
    /// The data set's manifest.
    pub dataset_cid: ContentId,
    /// Held-out data.
    pub held_out_cid: Option<ContentId>,
    /// Other nodes that hold every block: from this many on, the submitter may vanish.
    pub copies: u32,
    /// Fewer copies than wanted, a ledger that is lost with this node, …
    pub warnings: Vec<String>,
}

/// A model's answer. One flat shape, always.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inference {
    /// What the script said.
    pub result: serde_json::Value,
    /// From the question to the answer, at the asking node.
    pub latency_ms: f64,
    /// The model: `name:version`, or its CID while the job is open.
    pub model_id: String,
    /// Who answered: a peer id.
    pub node: String,
}

/// Content in the block store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Its root.
    pub cid: ContentId,
    /// Bytes of its blocks that are here: its files, and a little more that holds them together.
    pub size: u64,
    /// Why it is kept.
    pub pins: Vec<String>,
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointLine {
    /// The signed manifest.
    pub cid: ContentId,
    /// The task.
    pub task_id: TaskId,
    /// The round.
    pub epoch: u32,
    /// Steps done inside it.
    pub iteration: Step,
    /// Who wrote it: a peer id.
    pub node_id: String,
    /// Bytes.
    pub size: u64,
    /// When it was written.
    pub timestamp: Time,
    /// Other nodes known to hold it.
    pub holders: Vec<String>,
}

/// The end of a task's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// The task.
    pub task: TaskId,
    /// Oldest first.
    pub lines: Vec<String>,
    /// Earlier lines were left out.
    pub truncated: bool,
}

/// The node's own account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Bech32.
    pub address: String,
    /// The ledger.
    pub ledger: String,
    /// In the smallest unit.
    pub balance: u64,
    /// The next transaction's nonce.
    pub nonce: u64,
}

/// Bytes both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Received from peers.
    pub received: u64,
    /// Sent to peers.
    pub sent: u64,
}

/// Bytes counted at the transport or the protocol's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BytesMoved {
    /// Everything of `/atlas/shard/1` that is no update: scripts, models, data, checkpoints.
    pub shards: Traffic,
    /// Updates of joint training.
    pub updates: Traffic,
    /// Gossip.
    pub gossip: Traffic,
    /// Everything, as the transport counts it.
    pub total: Traffic,
}

/// Counters of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Connected peers.
    pub peers: u32,
    /// Bytes moved since it started.
    pub bytes: BytesMoved,
    /// Height of its ledger view.
    pub ledger_height: u64,
    /// Resources booked.
    pub booked: Capacity,
    /// Resources free.
    pub free: Capacity,
    /// Further counters by name, in lower case with `_`; each appears as `atlas_{name}_total` in Prometheus' text.
    pub counters: BTreeMap<String, u64>,
}

impl From<Resources> for Capacity {
    #[expect(clippy::cast_precision_loss, reason = "for people: nobody reads a byte of a terabyte")]
    fn from(resources: Resources) -> Self {
        Self {
            cpu_cores: resources.cpu_millicores as f64 / 1e3,
            memory_gb: resources.memory_bytes as f64 / 1e9,
            storage_gb: resources.storage_bytes as f64 / 1e9,
            gpu_count: resources.gpu_count,
        }
    }
}
