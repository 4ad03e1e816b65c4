//! Why a node does not take a task, in words for the submitter.

use crate::types::{JobId, JobStatus, LedgerId, NodeKey, NodeStatus, Slot, TaskStatus};

/// Why a node does not take a task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The operator does not work for this ledger.
    #[error("this node does not work for the ledger `{ledger}` (its operator sets `ledgers.accept`)")]
    LedgerNotAccepted {
        /// Its chain id.
        ledger: LedgerId,
    },
    /// The operator does not work for jobs that settle nowhere.
    #[error("this node takes no jobs with `settle = \"none\"`")]
    UnsettledNotAccepted,
    /// The operator does not run this bundle.
    #[error("this node's operator does not allow this script bundle")]
    BundleNotAllowed,
    /// The job pays less than the operator asks for.
    #[error("the budget of {budget} is below the {minimum} that this node asks for")]
    BudgetTooSmall {
        /// The job's.
        budget: u64,
        /// The operator's.
        minimum: u64,
    },
    /// A field of the job is out of its range.
    #[error("`{field}` of the job is out of range: {problem}")]
    BadSpec {
        /// The field, as in the job file.
        field: &'static str,
        /// What is wrong with it and what would be right.
        problem: String,
    },
    /// The job completed or failed.
    #[error("the job is {status}; only an open one gives work")]
    JobEnded {
        /// How it ended.
        status: JobStatus,
    },
    /// The creator paused the job.
    #[error("the job is paused; its creator can resume it")]
    JobPaused,
    /// The job's deadline passed.
    #[error("the job's deadline has passed")]
    DeadlinePassed,
    /// The task is none of the job's.
    #[error("the job has no slot {slot}")]
    NoSuchSlot {
        /// The task's slot.
        slot: Slot,
    },
    /// This node isn't registered on the task's ledger.
    #[error("this node is not registered on the task's ledger yet")]
    NotRegistered,
    /// This node has lost all reputation there.
    #[error("this node has no reputation left on the task's ledger")]
    NoReputation,
    /// The ledger does not see this node's beats.
    #[error("the ledger has this node as {status}; it takes work again once its beats arrive there")]
    Unhealthy {
        /// What the ledger has it as.
        status: NodeStatus,
    },
    /// Another node holds the task and with it the shard.
    #[error("the task is held by node {holder}")]
    Held {
        /// Who.
        holder: NodeKey,
    },
    /// The task has ended or changes hands.
    #[error("the task is {status}; only a pending one can be taken")]
    TaskNotFree {
        /// Its state.
        status: TaskStatus,
    },
    /// This node does the same work for another job, and would be paid twice for it.
    #[error("this node computes the same for job {job}; another node can take the task, or this one once that is done")]
    DoubleWork {
        /// The other job.
        job: JobId,
    },
    /// With what the node holds on this ledger, it has registered too little there.
    #[error("this node has registered too little {resource} on the task's ledger for one more task")]
    Registered {
        /// The first resource that does not suffice.
        resource: &'static str,
    },
    /// A lease on the task's ledger needs a stake that this node has not bonded.
    #[error(
        "a lease needs a stake of {needed} on the task's ledger, this node has bonded {bonded}; its operator can bond more with `atlas-node wallet bond`"
    )]
    Stake {
        /// What the node has bonded.
        bonded: u64,
        /// What the ledger asks for.
        needed: u64,
    },
    /// Too little is free here.
    #[error("this node has too little {resource} free for the job's `[resources]`")]
    Capacity {
        /// The first resource that does not suffice.
        resource: &'static str,
    },
}

impl Rejection {
    /// Whether asking again later can help without anybody changing the job or this node's configuration.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::JobPaused
            | Self::NotRegistered
            | Self::Unhealthy { .. }
            | Self::Held { .. }
            | Self::DoubleWork { .. }
            | Self::Registered { .. }
            | Self::Stake { .. }
            | Self::Capacity { .. }
            | Self::TaskNotFree { status: TaskStatus::Rollback | TaskStatus::Delegated } => true,
            Self::LedgerNotAccepted { .. }
            | Self::UnsettledNotAccepted
            | Self::BundleNotAllowed
            | Self::BudgetTooSmall { .. }
            | Self::BadSpec { .. }
            | Self::JobEnded { .. }
            | Self::DeadlinePassed
            | Self::NoSuchSlot { .. }
            | Self::NoReputation
            | Self::TaskNotFree { .. } => false,
        }
    }
}
