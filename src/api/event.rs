//! What a running node reports as it happens.

use serde::{Deserialize, Serialize};

use crate::types::{
    ContentId, Digest, Generation, JobId, JobStatus, NodeStatus, Round, Slot, Step, TaskId, TaskStatus,
};

/// One thing that happened. In JSON: `{"event": "peer_connected", …}`. Readers ignore events they don't know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum NodeEvent {
    /// The node is up: it listens and answers.
    Ready {
        /// This node.
        peer_id: String,
        /// Where it listens.
        listen: Vec<String>,
    },
    /// The first connection to a peer opened.
    PeerConnected {
        /// The peer.
        peer_id: String,
        /// Where it is.
        address: String,
    },
    /// The last connection to a peer closed.
    PeerDisconnected {
        /// The peer.
        peer_id: String,
    },
    /// This node stands on the ledger now.
    Registered {
        /// The ledger.
        ledger: String,
        /// Its label there.
        node_id: String,
    },
    /// A job appeared or changed its state on a ledger.
    JobStatus {
        /// The job.
        job: JobId,
        /// Its state.
        status: JobStatus,
        /// Why it failed.
        error: Option<String>,
    },
    /// A task changed its state on a ledger.
    TaskStatus {
        /// The task.
        task: TaskId,
        /// Its state.
        status: TaskStatus,
        /// Its generation.
        generation: Generation,
        /// Who holds it: a peer id.
        holder: Option<String>,
        /// Why it failed or rolled back.
        error: Option<String>,
    },
    /// A script process of this node started.
    RunStarted {
        /// The task.
        task: TaskId,
        /// The round.
        round: Round,
        /// The generation.
        generation: Generation,
        /// Steps of the round that were done already; 0 for its start.
        from_step: Step,
        /// The checkpoint it continues from.
        checkpoint_cid: Option<ContentId>,
    },
    /// A script process of this node ended.
    RunEnded {
        /// The task.
        task: TaskId,
        /// The round.
        round: Round,
        /// How, in words.
        outcome: String,
    },
    /// A script of this node got on.
    Progress {
        /// The task.
        task: TaskId,
        /// The round.
        round: Round,
        /// Steps of the round done.
        step: Step,
        /// Steps of the round.
        of: Step,
        /// The loss it reported; `None` if it reported none or a non-finite one.
        loss: Option<f64>,
    },
    /// A checkpoint of this node is held by another node too.
    Checkpoint {
        /// The task.
        task: TaskId,
        /// The round.
        round: Round,
        /// Steps of the round done.
        step: Step,
        /// The signed manifest.
        cid: ContentId,
        /// Who holds it.
        holder: String,
    },
    /// Another node attested this node's receipt.
    ReceiptVerified {
        /// The task.
        task: TaskId,
        /// The round.
        round: Round,
        /// By whom.
        verifier: String,
    },
    /// A receipt was refused, ours by another node or another's by us.
    ReceiptRefused {
        /// The task.
        task: TaskId,
        /// The round.
        round: Round,
        /// Why.
        reason: String,
    },
    /// A round closed on the ledger.
    RoundClosed {
        /// The job.
        job: JobId,
        /// The round.
        round: Round,
        /// `params_root` of the next model.
        params_root: Digest,
        /// The next model.
        model_cid: ContentId,
        /// Slots applied.
        applied: Vec<Slot>,
        /// Slots skipped.
        skipped: Vec<Slot>,
        /// Mean loss over what was applied.
        loss: Option<f64>,
    },
    /// A node's status changed, as seen on gossip or the ledger.
    NodeStatus {
        /// The node.
        peer_id: String,
        /// Its new status.
        status: NodeStatus,
    },
    /// A task went back to an earlier state.
    Rollback {
        /// The task.
        task: TaskId,
        /// Everything of this generation and before is void.
        void_generation: Generation,
        /// Where it continues; `None` for the round's start.
        checkpoint_cid: Option<ContentId>,
    },
    /// The way to a ledger was found or lost.
    LedgerReachable {
        /// The ledger.
        ledger: String,
        /// Whether it answers.
        reachable: bool,
        /// Why not.
        reason: Option<String>,
    },
    /// Something an operator should know.
    Warning {
        /// What.
        message: String,
    },
    /// This reader was too slow: so many events are missing here.
    Lost {
        /// How many.
        count: u64,
    },
    /// The node stops.
    Stopping {
        /// Why.
        reason: String,
    },
}
