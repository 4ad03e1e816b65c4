//! Transactions: what a node asks of the ledger. Signed CBOR; names are the origin's where it had one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::{
    CheckpointRef, ContentId, Generation, JobId, JobSpec, NodeKey, Resources, Round, RoundOutcome, ShardSpec, Signed,
    SignedObject, TaskId, TaskStatus, Time,
};

/// The longest transaction in bytes: 1,000 signed beats of about 250 bytes, or a job of 1,000 shards.
pub const MAX_TRANSACTION: usize = 512 * 1024;
/// What the status of an embedded ledger calls itself: one key signs its blocks, its host's.
pub const EMBEDDED_MONIKER: &str = "atlas-embedded";
/// The most beats one transaction carries (targets.md).
pub const MAX_BEATS: usize = 1_000;

/// A transaction. It travels as [`Signed`] over this; the creator is the signer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// The ledger it is for; any other refuses it.
    pub chain_id: String,
    /// The creator's next nonce: 0 for its first transaction, then one more each time. A transaction that is
    /// included but fails still uses its nonce.
    pub nonce: u64,
    /// How often this message was signed anew. The bytes of one that was included out of turn are spent: without another
    /// number the message could not be told from it when its nonce comes again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempt: u32,
    /// What to do.
    pub message: Message,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl SignedObject for Transaction {
    const DOMAIN: &'static str = "atlas/transaction/v1";
    const LIMIT: usize = MAX_TRANSACTION;

    fn speaker(&self) -> Option<NodeKey> {
        None
    }
}

/// What a transaction does. The creator (signer) is not repeated inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Registers the creator as a node, or changes what it offers.
    RegisterNode {
        /// A label for people, at most 64 characters.
        node_id: String,
        /// A bech32 account for rewards, checked by the sender; `None` for the node's own.
        address: Option<String>,
        /// What it lends.
        resources: Resources,
        /// Where it listens, at most 16 multiaddrs of at most 256 characters.
        listen: Vec<String>,
        /// Measured network and stated place, by the origin's resource keys; at most 16 short entries.
        attributes: BTreeMap<String, String>,
    },
    /// One or more heartbeats, each signed by its node ([`crate::types::Beat`]); the creator need not be one of them.
    /// A bad one does not spoil the others: it fails only if none is taken. Answers how many were (`u32`) as data.
    UpdateHeartbeat {
        /// At most [`MAX_BEATS`].
        beats: Vec<Signed>,
    },
    /// Submits a job with one task a shard. The budget goes into escrow. Answers the job id as data.
    SubmitJob {
        /// What it asks for.
        spec: Box<JobSpec>,
        /// Its shards, by slot; at least one.
        shards: Vec<ShardSpec>,
    },
    /// Adds a task to an own job whose first round is still open. Answers the task id as data.
    CreateTask {
        /// The job.
        job_id: JobId,
        /// The shard of the new, highest slot.
        shard: ShardSpec,
    },
    /// Takes the lease of a pending task, or of one that is delegated to the creator. Fails if it is taken, or if
    /// `generation` is not the task's own. Answers the lease's generation, which is one more, as data.
    TakeLease {
        /// The task.
        task_id: TaskId,
        /// The task's generation as the creator saw it.
        generation: Generation,
    },
    /// What the holder says of its task: started, progress with a checkpoint (which renews the lease), paused,
    /// resumed, rollback (hands it back), delegated, failed. Every transition that the state machine lacks fails.
    /// A task that is reported as failed goes to another node like a rollback, and fails, and its job with it, when
    /// that has happened `task_failures` times without an applied round in between.
    UpdateTaskStatus {
        /// The task.
        task_id: TaskId,
        /// The holder's generation; a stale one fails.
        generation: Generation,
        /// The new state; the present one to report progress alone.
        status: TaskStatus,
        /// Progress through the whole job in basis points (0 to 10,000).
        progress: u32,
        /// A newer checkpoint that another node holds.
        checkpoint: Option<CheckpointRef>,
        /// For `delegated`: to whom.
        delegate: Option<NodeKey>,
        /// For `failed` and `rollback`: why, at most 512 characters.
        error: Option<String>,
    },
    /// The receipt of a round with another node's attestation.
    SubmitReceipt {
        /// A signed [`crate::types::Receipt`]; its signer must hold the task.
        receipt: Signed,
        /// A signed [`crate::types::Attestation`] of it by another registered node.
        attestation: Signed,
    },
    /// Closes a round. The first valid one wins.
    CloseRound {
        /// What came out.
        outcome: Box<RoundOutcome>,
        /// Signed [`crate::types::RoundVote`]s of the present holders of at least two thirds of the slots.
        votes: Vec<Signed>,
    },
    /// Ends an own job that is open: its tasks fail with `cancelled`, what is left of the escrow goes back.
    CancelJob {
        /// The job.
        job_id: JobId,
    },
    /// Pauses or resumes an own job: while it is paused no new lease is given, and none lapses by lack of progress.
    PauseJob {
        /// The job.
        job_id: JobId,
        /// True to pause.
        paused: bool,
    },
    /// Registers a model under `{name}:{version}`, once; `name` has no colon. Answers that id as data.
    RegisterModel {
        /// Its name, at most 64 characters.
        name: String,
        /// Its version, at most 64 characters.
        version: String,
        /// Its content.
        cid: ContentId,
        /// At most 16 short entries.
        metadata: BTreeMap<String, String>,
    },
    /// Bonds part of the creator's balance as its node's stake. Answers what it has bonded then (`u64`) as data. This and
    /// the next five are known only to ledgers whose genesis has an economy.
    Bond {
        /// In the smallest unit; at least 1.
        amount: u64,
    },
    /// Asks for part of the stake back, which is released after a while. Answers the block time of that as data.
    Unbond {
        /// In the smallest unit; at least 1.
        amount: u64,
    },
    /// Gives part of the creator's balance to another account, which need not exist yet.
    Send {
        /// The account.
        to: NodeKey,
        /// In the smallest unit; at least 1.
        amount: u64,
    },
    /// Shows what a node signed and no honest one does. Answers what was slashed (`u64`) as data.
    ReportOffence {
        /// Its own signatures.
        evidence: Box<Evidence>,
    },
    /// The validators found a node guilty. Answers what was slashed (`u64`) as data.
    Verdict {
        /// Signed [`crate::types::VerdictVote`]s on one finding, of validators with more than two thirds of the power.
        votes: Vec<Signed>,
    },
    /// Validators want other numbers for the ledger. Answers whether the change is accepted now (`bool`) as data.
    ChangeParameters {
        /// Signed [`crate::types::ParameterVote`]s for one change, of validators that have not voted for it.
        votes: Vec<Signed>,
    },
    /// What an inference node answered since its last report, in one batch.
    ReportInference {
        /// The job whose model it served.
        job_id: JobId,
        /// Requests answered.
        answered: u64,
        /// Requests that failed.
        failed: u64,
        /// The job's round whose model it served.
        round: Round,
    },
    /// How much room the creator's node has for content of others. This and the next four are known only to ledgers whose
    /// `max_objects` is above 0.
    OfferStorage {
        /// In bytes; 0 takes the offer back, and whatever the node held with it.
        bytes: u64,
    },
    /// Asks that nodes keep a DAG, or changes how many and for how long.
    Keep {
        /// Its root.
        root: ContentId,
        /// Bytes of its blocks, a leaf counted as often as it occurs; never another number while it is kept.
        bytes: u64,
        /// How many nodes, the creator's own not counted.
        copies: u32,
        /// Block time from which it is not asked for any more.
        until: Time,
    },
    /// The creator's node has the whole DAG on its disk and keeps it.
    Held {
        /// Whose object it is.
        owner: NodeKey,
        /// Its root.
        root: ContentId,
    },
    /// The creator's node gives up what it held.
    Dropped {
        /// Whose object it was.
        owner: NodeKey,
        /// Its root.
        root: ContentId,
    },
    /// Asks no more that an own object is kept.
    Release {
        /// Its root.
        root: ContentId,
    },
}

impl Message {
    /// Whether only a ledger with an economy knows it.
    pub fn needs_economy(&self) -> bool {
        matches!(
            self,
            Self::Bond { .. }
                | Self::Unbond { .. }
                | Self::Send { .. }
                | Self::ReportOffence { .. }
                | Self::Verdict { .. }
                | Self::ChangeParameters { .. }
        )
    }

    /// Whether only a ledger with storage knows it.
    pub fn needs_storage(&self) -> bool {
        matches!(
            self,
            Self::OfferStorage { .. }
                | Self::Keep { .. }
                | Self::Held { .. }
                | Self::Dropped { .. }
                | Self::Release { .. }
        )
    }
}

/// What shows an offence to whoever has the ledger's state and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Evidence {
    /// Two signed [`crate::types::Receipt`]s of one assignment with different results.
    TwoReceipts {
        /// One.
        first: Signed,
        /// The other.
        second: Signed,
    },
    /// Two votes of one node for different roots of one set of updates.
    TwoRoots {
        /// One.
        first: VotedOutcome,
        /// The other.
        second: VotedOutcome,
    },
    /// A signed [`crate::types::Receipt`] of the present lease and round that contradicts committed state.
    ForgedReceipt {
        /// The receipt.
        receipt: Signed,
    },
}

/// An outcome with one vote for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VotedOutcome {
    /// The outcome.
    pub outcome: RoundOutcome,
    /// A signed [`crate::types::RoundVote`] for it.
    pub vote: Signed,
}

/// Result codes of a transaction. 0 is success; the text beside the code says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// Done.
    Ok = 0,
    /// Not decodable, or over a limit.
    Malformed = 1,
    /// The signature or an inner one is wrong.
    Signature = 2,
    /// For another ledger.
    ChainId = 3,
    /// Not the creator's next nonce; the text names the expected one.
    Nonce = 4,
    /// The node, job, task or model does not exist.
    NotFound = 5,
    /// The creator may not do that.
    Unauthorized = 6,
    /// The generation or round is not the present one.
    Stale = 7,
    /// The state machine has no such transition, or it is taken.
    Conflict = 8,
    /// Not enough balance.
    Funds = 9,
    /// A field is out of its range.
    Invalid = 10,
}

/// The path of each query, and what its `data` and answer are. CBOR both ways.
pub mod query {
    /// data: [`crate::types::NodeKey`]; answer: `Option<records::Node>`.
    pub const GET_NODE: &str = "/atlas.compute.Query/GetNode";
    /// data: empty, or the last node key seen; answer: `Vec<records::Node>`, at most 1,000, by key.
    pub const LIST_NODES: &str = "/atlas.compute.Query/ListNodes";
    /// data: [`crate::types::JobId`]; answer: `Option<records::Job>`.
    pub const GET_JOB: &str = "/atlas.training.Query/GetJob";
    /// data: empty, or the last job id seen; answer: `Vec<records::Job>`, at most 1,000, by id.
    pub const LIST_JOBS: &str = "/atlas.training.Query/ListJobs";
    /// data: [`crate::types::TaskId`]; answer: `Option<records::Task>`.
    pub const GET_TASK: &str = "/atlas.training.Query/GetTask";
    /// data: [`crate::types::JobId`]; answer: `Vec<records::Task>`.
    pub const GET_TASKS_BY_JOB: &str = "/atlas.training.Query/GetTasksByJob";
    /// data: model id; answer: `Option<records::Model>`.
    pub const GET_MODEL: &str = "/atlas.model.Query/GetModel";
    /// data: empty, or the last model id seen; answer: `Vec<records::Model>`, at most 1,000, by id.
    pub const LIST_MODELS: &str = "/atlas.model.Query/ListModels";
    /// data: [`crate::types::NodeKey`]; answer: `records::Account`.
    pub const GET_ACCOUNT: &str = "/atlas.ledger.Query/GetAccount";
    /// data: [`crate::types::NodeKey`]; answer: `records::Stake`; of one without: 0 and nothing.
    pub const GET_STAKE: &str = "/atlas.ledger.Query/GetStake";
    /// data: [`crate::types::NodeKey`]; answer: `records::Standing`, as it is at the last block.
    pub const GET_STANDING: &str = "/atlas.ledger.Query/GetStanding";
    /// data: `records::OffenceId`; answer: `Option<records::Offence>`.
    pub const GET_OFFENCE: &str = "/atlas.ledger.Query/GetOffence";
    /// data: empty, or the last offence's id seen; answer: `Vec<records::Offence>`, at most 1,000, by id.
    pub const LIST_OFFENCES: &str = "/atlas.ledger.Query/ListOffences";
    /// data: [`crate::chain::Key`]; answer: the record under it, whatever its kind, or null.
    pub const GET_RECORD: &str = "/atlas.ledger.Query/GetRecord";
    /// data: [`crate::chain::records::ObjectId`]; answer: `Option<records::Object>`.
    pub const GET_OBJECT: &str = "/atlas.storage.Query/GetObject";
    /// data: empty, or the last object's id seen; answer: `Vec<records::Object>`, at most 1,000, by id.
    pub const LIST_OBJECTS: &str = "/atlas.storage.Query/ListObjects";
    /// data: [`crate::types::NodeKey`], an owner; answer: `Vec<records::Object>`, at most 1,000, by id.
    pub const GET_OBJECTS_BY_OWNER: &str = "/atlas.storage.Query/GetObjectsByOwner";
    /// data: [`crate::types::ContentId`], a root; answer: `Vec<records::Object>`, at most 1,000, by owner.
    pub const GET_OBJECTS_BY_ROOT: &str = "/atlas.storage.Query/GetObjectsByRoot";
    /// data: ignored; answer: `records::Validators`.
    pub const GET_VALIDATORS: &str = "/atlas.ledger.Query/GetValidators";
    /// data: ignored; answer: `records::Totals`.
    pub const GET_TOTALS: &str = "/atlas.ledger.Query/GetTotals";
    /// data: u64, a height; answer: [`super::super::records::Changes`], everything changed after that height.
    /// This is what a node's view of the ledger is kept current with.
    pub const CHANGES: &str = "/atlas.ledger.Query/Changes";
    /// data: empty, or u64, a height; answer: [`super::super::records::Updates`], every record written or removed after that
    /// height, whatever its kind. Who applies them to the records that it has comes to the app hash, or was lied to.
    pub const UPDATES: &str = "/atlas.ledger.Query/Updates";
    /// data: [`crate::chain::Key`]; answer: `ledger::Proof`, which holds against the app hash of the last block.
    pub const PROVE: &str = "/atlas.ledger.Query/Prove";
}
