//! What an answer is for.

use libp2p::PeerId;

use super::{on_proof::CheckReceipt, safekeeping::Part};
use crate::api::StorageKeep;
use crate::chain::records::{ObjectId, OffenceId};
use crate::protocol::ResponseToken;
use crate::types::{ContentId, Generation, JobId, LedgerId, NodeKey, Round, Slot, TaskId};

/// One thing that this node waits for. Each entry is taken out by its one answer.
#[derive(Debug)]
pub(super) enum Pending {
    /// A lease of this task and generation.
    Lease { task: TaskId, generation: Generation },
    /// A status of a held task; nothing depends on it.
    TaskStatus { task: TaskId },
    /// Giving a task back; the work is forgotten afterwards.
    HandBack { task: TaskId },
    /// A receipt of a held task.
    Receipt { task: TaskId, round: Round },
    /// Closing a round.
    CloseRound { job: JobId },
    /// Registering on a ledger.
    Register { ledger: LedgerId, command: Option<u64> },
    /// A beat on a ledger.
    Beat,
    /// An order of a person on a ledger; `done` is said when it is committed.
    Command { command: u64, done: String },
    /// The job of a submission.
    SubmitJob { submission: u64 },
    /// Preparing a job file.
    Prepare { submission: u64 },
    /// Starting a ledger of its own for a submission.
    CarryLedger { submission: u64 },
    /// A peer was asked to hold content of a submission.
    SubmissionHold { submission: u64, root: ContentId, peer: PeerId },
    /// A peer was asked to hold a checkpoint.
    CheckpointHold { hold: u64, peer: NodeKey },
    /// A peer was offered a slot.
    Offer { job: JobId, slot: Slot },
    /// A peer was asked for the key of a held task's data.
    DataKey { task: TaskId, generation: Generation, giver: NodeKey },
    /// A key that came is opened and kept.
    OpenDataKey { task: TaskId, generation: Generation, giver: NodeKey },
    /// A key is sealed for a peer.
    SealDataKey { token: ResponseToken },
    /// A key is forgotten; nothing depends on it.
    ForgetDataKey,
    /// The update of a finished round is made.
    Package { task: TaskId, round: Round },
    /// A checkpoint is stored and its roots are computed.
    Keep,
    /// A root is pinned or unpinned; nothing depends on it.
    Pin,
    /// A checkpoint is read to continue from.
    LoadCheckpoint { task: TaskId, purpose: LoadPurpose },
    /// A peer was asked to verify a receipt.
    Verify { task: TaskId, round: Round, peer: NodeKey },
    /// Another node's update is checked.
    CheckUpdate(Box<CheckReceipt>),
    /// A round is aggregated.
    Aggregate,
    /// A question to a model.
    Infer { command: u64, model_id: String, node: NodeKey, asked_at: crate::types::Time },
    /// A person's file work.
    Files { command: u64 },
    /// The tail of a log, locally.
    Log { command: u64, task: TaskId },
    /// A directory for Kubo is made.
    Directory { job: JobId, part: Part, name: String },
    /// What is pinned is listed, to be provided.
    Provide,
    /// What is pinned is listed, to be made whole.
    Repair,
    /// What a ledger asks of nodes is read.
    Terms { ledger: LedgerId },
    /// The stake that a ledger asks for is bonded.
    Bond { ledger: LedgerId },
    /// An offence is reported.
    Report { id: OffenceId },
    /// Room for others' content is offered on the configured ledger.
    StorageOffer,
    /// That ledger is told that an object is here, or given up.
    StorageTold { id: ObjectId },
    /// An object is looked at and pinned.
    StoragePin { id: ObjectId },
    /// An object is kept no longer.
    StorageUnpin { id: ObjectId },
    /// What a person wants others to keep is looked at and pinned.
    StorageKeep { command: u64, request: StorageKeep },
    /// A path to a peer is being measured.
    Speed,
}

/// What of a checkpoint is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoadPurpose {
    /// Continue inside the round.
    Resume,
    /// Begin a round from its optimizer state.
    Optimizer,
}
