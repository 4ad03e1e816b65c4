//! What nodes tell everybody: small signed messages on a few topics.
//!
//! Gossip never carries data, only names of data. Each message is checked (size, signature, age) before it is
//! forwarded, so that one bad peer can't make everybody a spammer. The envelope is [`Signed`]: one application
//! signature, checked once after de-duplication; gossipsub's own signature is off.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::types::{
    CheckpointRef, ContentId, Digest, Generation, JobId, JobSpec, LedgerId, NodeKey, NodeStatus, Round, RoundOutcome,
    ShardSpec, Signed, SignedObject, Slot, TaskId, Time,
};

/// New jobs.
pub const TOPIC_JOBS: &str = "/atlas/jobs/new";
/// Who took which task.
pub const TOPIC_ASSIGN: &str = "/atlas/tasks/assign";
/// Rollback events.
pub const TOPIC_ROLLBACK: &str = "/atlas/recovery/rollback";
/// Changes of a node's status; never the beats themselves, which would not scale.
pub const TOPIC_HEARTBEAT: &str = "/atlas/heartbeat";

/// The longest gossip message in bytes; gossipsub's own default limit, and enough for 200 shards.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// A message seen within this time is a duplicate; an older one is refused by its timestamp.
pub const MEMORY: Duration = Duration::from_secs(300);
/// Bytes that the envelope ([`Signed`]) adds to a message, at most.
pub const ENVELOPE: usize = 256;

/// The topic that the holders of a job's tasks join.
pub fn updates_topic(job: &JobId) -> String {
    format!("/atlas/jobs/{job}/updates")
}

/// Whether this network has such a topic.
pub fn is_topic(name: &str) -> bool {
    let of_job = || name.strip_prefix("/atlas/jobs/")?.strip_suffix("/updates");
    let is_id = |id: &str| id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    [TOPIC_JOBS, TOPIC_ASSIGN, TOPIC_ROLLBACK, TOPIC_HEARTBEAT].contains(&name) || of_job().is_some_and(is_id)
}

/// A new job, told to all who may want to work on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The job.
    pub job: JobId,
    /// Its ledger.
    pub ledger: LedgerId,
    /// Key of the node that carries the ledger over `/atlas/ledger-rpc/1`, for `settle = "none"`.
    pub ledger_host: Option<NodeKey>,
    /// What it asks for.
    pub spec: JobSpec,
    /// Its shards, by slot.
    pub shards: Vec<ShardSpec>,
    /// Who submitted it; must be the signer.
    pub submitter: NodeKey,
    /// Nodes that hold its content beside the submitter.
    pub providers: Vec<NodeKey>,
    /// The submitter's clock.
    pub timestamp: Time,
}

/// A node took a lease: where to find the task's artifacts from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentNotice {
    /// The task's ledger.
    pub ledger: LedgerId,
    /// The task.
    pub task: TaskId,
    /// The generation that the lease gave.
    pub generation: Generation,
    /// The holder; must be the signer.
    pub node: NodeKey,
    /// The holder's clock.
    pub timestamp: Time,
}

/// A task went back to an earlier state: forget what was derived from its newer ones.
/// (Origin: event_type "task_rollback", task_id, job_id, shard_id, node_id, timestamp.)
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// Always `task_rollback`.
    pub event_type: String,
    /// The task's ledger.
    pub ledger: LedgerId,
    /// The task.
    pub task_id: TaskId,
    /// Its job.
    pub job_id: JobId,
    /// Its slot.
    pub shard_id: Slot,
    /// Who says so; must be the signer.
    pub node_id: NodeKey,
    /// The generation that is void: everything of it and before is refused from now on.
    pub void_generation: Generation,
    /// The checkpoint to continue from; `None` for the round's start.
    pub checkpoint: Option<CheckpointRef>,
    /// The sender's clock.
    pub timestamp: Time,
}

/// A node's status changed, as its watcher (or the node itself, when it leaves) sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusChange {
    /// Of whom.
    pub node: NodeKey,
    /// The new status.
    pub status: NodeStatus,
    /// Who says so; must be the signer.
    pub observer: NodeKey,
    /// The sequence of the last beat that the observer has from it.
    pub last_sequence: u64,
    /// The observer's clock.
    pub timestamp: Time,
}

/// What the holders of one job tell each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobUpdate {
    /// "My receipt for this round is out; here is my update."
    Update {
        /// The task.
        task: TaskId,
        /// The round.
        round: Round,
        /// The encoded update.
        update_cid: ContentId,
        /// Digest of the receipt's signed body.
        receipt: Digest,
    },
    /// "I aggregated; this came out. Recompute it and vote."
    Proposal {
        /// What came out.
        outcome: Box<RoundOutcome>,
        /// The proposer's own vote.
        vote: Signed,
    },
    /// "I recomputed it and got the same." Holds a signed [`crate::types::RoundVote`].
    Vote(Signed),
}

/// A [`JobUpdate`] with what makes it checkable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobMessage {
    /// The job.
    pub job: JobId,
    /// Who says so; must be the signer.
    pub node: NodeKey,
    /// The sender's clock.
    pub timestamp: Time,
    /// What.
    pub update: JobUpdate,
}

macro_rules! gossip_object {
    ($name:ident, $domain:literal, $speaker:ident) => {
        impl SignedObject for $name {
            const DOMAIN: &'static str = $domain;
            const LIMIT: usize = MAX_MESSAGE;

            fn speaker(&self) -> Option<NodeKey> {
                Some(self.$speaker)
            }
        }
    };
}

gossip_object!(Announcement, "atlas/announcement/v1", submitter);
gossip_object!(AssignmentNotice, "atlas/assignment-notice/v1", node);
gossip_object!(Rollback, "atlas/rollback/v1", node_id);
gossip_object!(StatusChange, "atlas/status-change/v1", observer);
gossip_object!(JobMessage, "atlas/job-message/v1", node);
