//! What the ledger remembers, as clients read it. Integers only; maps are ordered.

mod objects;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use crate::types::{
    CheckpointRef, ContentId, Digest, Generation, JobId, JobSpec, JobStatus, Load, NodeKey, NodeStatus,
    ParameterChange, Receipt, Resources, Round, RoundOutcome, ShardSpec, TaskId, TaskStatus, Time,
};

pub use objects::{Holder, Object, ObjectId};

/// An account. A node's own account has its key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// In the smallest unit.
    pub balance: u64,
    /// The nonce that its next transaction must carry.
    pub nonce: u64,
}

/// A registered node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its key, which is also its account and peer.
    pub id: NodeKey,
    /// Its label.
    pub node_id: String,
    /// Where its rewards go; `None` for its own account.
    pub address: Option<String>,
    /// Online or not.
    pub status: NodeStatus,
    /// What it lends.
    pub resources: Resources,
    /// Where it listens (multiaddrs).
    pub listen: Vec<String>,
    /// Measured network and stated place, by the origin's resource keys.
    pub attributes: BTreeMap<String, String>,
    /// Basis points, 0 to 10,000; a new node begins at 10,000.
    pub reputation: u32,
    /// Basis points of its registered time that it was online.
    pub uptime: u32,
    /// Load of its last beat.
    pub load: Load,
    /// Sequence of its last beat.
    pub last_sequence: u64,
    /// Block time of its last beat.
    pub last_heartbeat: Time,
    /// Block time of its registration.
    pub registered_at: Time,
    /// Tasks it holds.
    pub active_tasks: u32,
    /// Rewards it earned so far.
    pub rewards: u64,
    /// Bytes of room that it offers for content of others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub storage_offered: u64,
    /// Bytes of the objects that it holds now.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub storage_used: u64,
    /// Grows by one whenever all that it held lapses: then it went offline, or took its offer back.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub storage_epoch: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Who submitted it.
    pub creator: NodeKey,
    /// What it asks for.
    pub spec: JobSpec,
    /// Its shards, by slot; as many as it has tasks.
    pub shards: Vec<ShardSpec>,
    /// Open or ended.
    pub status: JobStatus,
    /// No new lease is given while true.
    pub paused: bool,
    /// The open round; equals `spec.rounds` when all are closed.
    pub round: Round,
    /// Block height at which the open round opened.
    pub round_opened_height: u64,
    /// Block time at which it opened.
    pub round_opened_at: Time,
    /// `params_root` of the present model; `None` until the first round closed (`spec.model_root` until then).
    pub model_root: Option<Digest>,
    /// The present model; `spec.model` until the first round closed.
    pub model_cid: ContentId,
    /// Root of the outer momentum; `None` for zero.
    pub momentum_root: Option<Digest>,
    /// The outer momentum; `None` for zero.
    pub momentum_cid: Option<ContentId>,
    /// The final model of a completed job.
    pub result_cid: Option<ContentId>,
    /// What is left of the budget.
    pub escrow: u64,
    /// Paid or owed to workers.
    pub paid: u64,
    /// Basis points through the whole job.
    pub progress: u32,
    /// Block time of its submission.
    pub created_at: Time,
    /// Block time of its last change.
    pub updated_at: Time,
    /// Why it failed.
    pub error: Option<String>,
}

/// A receipt that the ledger accepted for a task's open round. Void once the generation grows or the round closes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvisionalReceipt {
    /// The receipt.
    pub receipt: Receipt,
    /// Digest of its signed body.
    pub digest: Digest,
    /// The node that attested it.
    pub verifier: NodeKey,
    /// Block height at which it was accepted.
    pub height: u64,
    /// Block time at which it was accepted.
    pub accepted_at: Time,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Its state.
    pub status: TaskStatus,
    /// Who holds its lease.
    pub holder: Option<NodeKey>,
    /// Grows with each change of holder. The first lease is generation 1.
    pub generation: Generation,
    /// Hash of the transaction that took the lease; zero if none.
    pub lease_tx: Digest,
    /// Block time at which the lease lapses unless it is renewed.
    pub lease_expires: Time,
    /// Rounds of this slot applied so far.
    pub cursor: u32,
    /// Basis points through the whole job.
    pub progress: u32,
    /// The newest checkpoint of the open round, or the end-of-round checkpoint of the last applied one.
    pub checkpoint: Option<CheckpointRef>,
    /// Optimizer root of the last applied receipt; zero for none. The next round begins from it.
    pub opt_root: Digest,
    /// End-of-round checkpoint of the last applied receipt: where that optimizer state is.
    pub opt_checkpoint: Option<CheckpointRef>,
    /// The accepted receipt of the open round.
    pub receipt: Option<ProvisionalReceipt>,
    /// For `delegated`: to whom.
    pub delegate: Option<NodeKey>,
    /// Times it went back to pending.
    pub reassigned: u32,
    /// Receipts refused so far.
    pub refused_receipts: u32,
    /// Block time of its creation.
    pub created_at: Time,
    /// Block time of its first start.
    pub started_at: Option<Time>,
    /// Block time of its end.
    pub completed_at: Option<Time>,
    /// Why it failed or rolled back last.
    pub error: Option<String>,
}

/// A closed round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundRecord {
    /// What came out.
    pub outcome: RoundOutcome,
    /// Who closed it.
    pub closer: NodeKey,
    /// Holders whose votes it carries.
    pub voters: Vec<NodeKey>,
    /// Local steps (batches) applied: per applied slot, the iterations of its receipt.
    pub batches: u64,
    /// Receipts applied that a node other than their worker verified.
    pub verified: u32,
    /// Mean of the applied receipts' losses, weighted by samples, in millionths.
    pub loss_micros: i64,
    /// Block height.
    pub height: u64,
    /// Block time.
    pub closed_at: Time,
}

/// A registered model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// `{name}:{version}`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its content.
    pub cid: ContentId,
    /// Who registered it, or the job's creator.
    pub creator: NodeKey,
    /// Block time.
    pub created_at: Time,
    /// Short entries; a job's result has `job`, `bundle` and `root`.
    pub metadata: BTreeMap<String, String>,
}

/// Everything that changed after a height. Applied to a view in any order, it is idempotent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The height this brings the reader to.
    pub height: u64,
    /// Time of the ledger's last block, which is that height's unless `more`.
    pub time: Time,
    /// App hash after the ledger's last block.
    pub app_hash: Digest,
    /// True if objects were left out: ask again with `height`. A page is cut between heights, so that nothing is
    /// lost; it has at most 1,000 objects of a kind and 2 MiB, or else the objects of one height.
    pub more: bool,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Jobs.
    pub jobs: Vec<Job>,
    /// Tasks.
    pub tasks: Vec<Task>,
    /// Round records.
    pub rounds: Vec<RoundRecord>,
    /// Models.
    pub models: Vec<Model>,
    /// Objects that nodes keep for others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<Object>,
    /// Objects that were released or are over. A ledger that began from a snapshot after `height` was asked for may not
    /// know all of them: the time of an object says too when it is over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<ObjectId>,
}

impl Changes {
    /// A page without a record.
    pub(super) fn none_at(height: u64, time: Time, app_hash: Digest) -> Self {
        Self {
            height,
            time,
            app_hash,
            more: false,
            nodes: Vec::new(),
            jobs: Vec::new(),
            tasks: Vec::new(),
            rounds: Vec::new(),
            models: Vec::new(),
            objects: Vec::new(),
            gone: Vec::new(),
        }
    }
}

/// Every record that was written or removed after a height, of each kind, as the authenticated map has them. Applied in order to the
/// records of that height they give those of [`Updates::height`], and so its app hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Updates {
    /// The height this brings the reader to.
    pub height: u64,
    /// True if records were left out: ask again with `height`. Until none is, what the reader has is no state that ever was. A page
    /// is cut between heights; it has at most 2,000 records and 2 MiB, or else those of one height.
    pub more: bool,
    /// This ledger does not know any more what was removed after the height that was asked for: the answer begins from
    /// nothing, and so does the reader.
    pub whole: bool,
    /// No key twice.
    pub records: Vec<Update>,
}

/// A record that was written or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Its key, as the authenticated map hashes it.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
    /// Its CBOR; `None` if it was removed.
    #[serde(with = "serde_bytes")]
    pub value: Option<Vec<u8>>,
}

/// What a node has bonded, and what it asked back. Only in the ledgers of a genesis with an economy, as all below.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stake {
    /// In the smallest unit.
    pub bonded: u64,
    /// What waits for its release, the longest waiting first; at most as many as the genesis says.
    pub unbonding: Vec<Unbonding>,
}

/// Part of a stake that goes back to its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unbonding {
    /// In the smallest unit.
    pub amount: u64,
    /// Block time from which it is released.
    pub releases_at: Time,
}

/// What a node did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum OffenceKind {
    /// It signed two results for one assignment.
    TwoReceipts = 0,
    /// It voted for two roots of one set of updates.
    TwoRoots = 1,
    /// It signed a receipt that contradicts what the ledger has committed.
    ForgedReceipt = 2,
    /// The validators found it guilty.
    Verdict = 3,
}

impl fmt::Display for OffenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TwoReceipts => "two_receipts",
            Self::TwoRoots => "two_roots",
            Self::ForgedReceipt => "forged_receipt",
            Self::Verdict => "verdict",
        })
    }
}

/// The name of an offence. What has it is punished once, however much evidence comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OffenceId {
    /// Who did it.
    pub node: NodeKey,
    /// What it did.
    pub kind: OffenceKind,
    /// In which job.
    pub job: JobId,
    /// In which of its rounds.
    pub round: Round,
}

/// A punished offence. It is kept for all time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offence {
    /// Its name.
    pub id: OffenceId,
    /// Who reported it; `None` for a verdict.
    pub reporter: Option<NodeKey>,
    /// SHA-256 of the evidence: of a report as it was sent, of a verdict what its votes name.
    pub evidence: Digest,
    /// What was taken from the stake; the sum of the next three.
    pub slashed: u64,
    /// What of it went to the reporter.
    pub to_reporter: u64,
    /// What of it went to the job's creator.
    pub to_creator: u64,
    /// What of it is nobody's any more.
    pub burned: u64,
    /// The round's reward that was taken back.
    pub withheld: u64,
    /// Block height of the punishment.
    pub height: u64,
    /// Block time of it.
    pub punished_at: Time,
}

/// Who makes the blocks, as the chain began with them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validators {
    /// The voting power of each.
    pub powers: BTreeMap<NodeKey, u64>,
}

/// The changes of numbers that validators vote on, by their blocks and names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposals {
    /// At most one that each validator opened.
    pub open: Vec<Proposal>,
}

/// A change of numbers that waits for votes, or for its block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Its name: that of the change.
    pub id: Digest,
    /// What changes, and from which block on.
    pub change: ParameterChange,
    /// The validator whose vote was the first.
    pub opened_by: NodeKey,
    /// Block height of that.
    pub opened_height: u64,
    /// Who voted for it.
    pub voters: BTreeSet<NodeKey>,
    /// Block height at which they had more than two thirds of the power; `None` until then.
    pub accepted_height: Option<u64>,
}

/// What a node's past counts for at a moment. It fades from then on by the genesis' half-life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Live time in milliseconds at which the others held.
    pub at: u64,
    /// Weight of presences that ended, in parts of 2^32.
    pub presence: u64,
    /// Settled rounds of tasks, in millionths of one.
    pub settled: u64,
    /// Leases lost by lack of progress, in millionths of one.
    pub lost: u64,
    /// Millionths of its reputation that offences cost it.
    pub penalty: u64,
}

/// Free transactions of a node's work in a minute of live time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// The minute: live time in milliseconds, divided by 60,000.
    pub minute: u64,
    /// How many it sent in it.
    pub used: u32,
}

/// The sums of the economy, in the smallest unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Bonded, of all nodes together.
    pub bonded: u64,
    /// Waiting for release.
    pub unbonding: u64,
    /// Burned since the start, fees included.
    pub burned: u64,
    /// Fees paid since the start.
    pub fees: u64,
}
