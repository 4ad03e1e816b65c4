//! What stands on a ledger, as people read it. JSON field names are the documented ones of the network.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::{
    ContentId, Digest, Generation, JobId, JobStatus, NodeStatus, Settle, Slot, Step, TaskId, TaskStatus, TaskType, Time,
};

/// A node on the ledger. (Documented: id address status resources reputation uptime_percent last_heartbeat
/// registered_at active_tasks.)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its peer id.
    pub id: String,
    /// Its label.
    pub node_id: String,
    /// Where its rewards go; its own account if it named none.
    pub address: String,
    /// Its state.
    pub status: NodeStatus,
    /// What it lends, and measured or stated attributes beside it (`network_download_mbps`, `region`, …).
    pub resources: BTreeMap<String, serde_json::Value>,
    /// 0 to 100.
    pub reputation: f64,
    /// 0 to 100.
    pub uptime_percent: f64,
    /// Block time.
    pub last_heartbeat: Time,
    /// Block time.
    pub registered_at: Time,
    /// Tasks it holds.
    pub active_tasks: u32,
    /// Earned so far, in the smallest unit.
    pub rewards: u64,
}

/// A job. (Documented: id model_id dataset_cid config status progress tasks created_at updated_at; and creator,
/// budget, deadline, result CID.)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// For people.
    pub name: String,
    /// Names its model in the registry.
    pub model_id: String,
    /// The data set's manifest.
    pub dataset_cid: ContentId,
    /// Held-out data.
    pub held_out_cid: Option<ContentId>,
    /// Commitment to the key that shards and held-out data are sealed with; `None` if everybody may read them.
    pub data_key: Option<Digest>,
    /// The script bundle.
    pub bundle_cid: ContentId,
    /// Parameters of the script.
    pub config: serde_json::Value,
    /// Open or ended.
    pub status: JobStatus,
    /// No lease is given.
    pub paused: bool,
    /// 0 to 1.
    pub progress: f64,
    /// How many tasks it has.
    pub tasks: u32,
    /// Rounds closed.
    pub round: u32,
    /// Rounds in all.
    pub rounds: u32,
    /// Local steps a round.
    pub local_steps: u32,
    /// Who submitted it: a peer id.
    pub creator: String,
    /// The ledger that it is on.
    pub ledger: String,
    /// Where it settles.
    pub settle: Settle,
    /// Left in escrow.
    pub escrow: u64,
    /// Put in at submission.
    pub budget: u64,
    /// Paid or owed to workers.
    pub paid: u64,
    /// When it fails if still open.
    pub deadline: Time,
    /// Root of the present model.
    pub model_root: Option<Digest>,
    /// The present model.
    pub model_cid: ContentId,
    /// The final model.
    pub result_cid: Option<ContentId>,
    /// Block time.
    pub created_at: Time,
    /// Block time.
    pub updated_at: Time,
    /// Why it failed.
    pub error: Option<String>,
}

/// A job with what belongs to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobDetail {
    /// The job.
    pub job: Job,
    /// Its tasks, by slot.
    pub tasks: Vec<Task>,
    /// Its closed rounds, in order.
    pub rounds: Vec<Round>,
    /// App hash of its ledger at this node's view.
    pub app_hash: Option<Digest>,
}

/// A task. (Documented: id job_id shard_id node_id status progress checkpoint_cid task_type created_at started_at
/// completed_at error.)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Its job.
    pub job_id: JobId,
    /// Its slot.
    pub shard_id: Slot,
    /// Its shard.
    pub shard_cid: Option<ContentId>,
    /// Who holds it: a peer id.
    pub node_id: Option<String>,
    /// Its state.
    pub status: TaskStatus,
    /// 0 to 1.
    pub progress: f64,
    /// What it does.
    pub task_type: TaskType,
    /// Grows with each holder.
    pub generation: Generation,
    /// Rounds applied so far.
    pub cursor: u32,
    /// The job's open round.
    pub round: u32,
    /// Newest checkpoint that another node holds.
    pub checkpoint_cid: Option<ContentId>,
    /// The round of that checkpoint.
    pub checkpoint_round: Option<u32>,
    /// Its step inside that round.
    pub checkpoint_step: Option<Step>,
    /// The open round's receipt stands on the ledger.
    pub receipt: bool,
    /// Receipts refused so far.
    pub refused_receipts: u32,
    /// Times that it went back to pending.
    pub reassigned: u32,
    /// Why nobody takes it, as far as this node knows.
    pub waiting: Option<String>,
    /// Block time.
    pub created_at: Time,
    /// Block time.
    pub started_at: Option<Time>,
    /// Block time.
    pub completed_at: Option<Time>,
    /// Why it failed, or rolled back last.
    pub error: Option<String>,
}

/// A closed round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Which.
    pub round: u32,
    /// `params_root` of the model that came out.
    pub params_root: Digest,
    /// That model.
    pub model_cid: ContentId,
    /// Slots applied, with the peer that computed each.
    pub applied: BTreeMap<Slot, String>,
    /// Slots skipped.
    pub skipped: Vec<Slot>,
    /// Batches applied.
    pub batches: u64,
    /// Receipts that a node other than their worker verified.
    pub verified: u32,
    /// Mean loss; `None` if no finite one was reported.
    pub loss: Option<f64>,
    /// Who closed it: a peer id.
    pub closer: String,
    /// How many holders signed it.
    pub votes: u32,
    /// Block height.
    pub height: u64,
    /// Block time.
    pub closed_at: Time,
}
