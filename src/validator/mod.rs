//! May this node take this task? Asked of the ledger's records before a lease is taken, and of the operator's policy.
//!
//! Pure: it gets plain records and gives yes or a [`Rejection`] whose words reach the submitter. The ledger decides in
//! the end; this keeps a node from asking for what it would be refused, or would regret.
//!
//! What it never does: it never fetches, books or reserves anything, and it never trusts what an announcement says
//! of a task's holder; only the ledger's records count for that. That codec, rule and task type are known needs no
//! check here: a record with an unknown word does not decode.
//!
//! The origin's names: `validate_assignment`, `check_duplication`.

mod rejection;
mod spec;

use std::{collections::BTreeSet, time::Duration};

pub use rejection::Rejection;
pub use spec::validate_spec;

use serde::{Deserialize, Serialize};

use crate::{
    chain::records::{Job, Node, Task},
    types::{ContentId, JobStatus, LedgerId, NodeKey, NodeStatus, Resources, Settle, ShardSpec, TaskStatus, Time},
};

/// What the operator agrees to work for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// `ledgers.accept`: chain ids worked for; `None` for any.
    pub ledgers: Option<BTreeSet<LedgerId>>,
    /// Whether jobs that settle nowhere (`settle = "none"`) are worked for. They are, whatever their ledger is called.
    pub unsettled: bool,
    /// Script bundles that may run; `None` for any (each runs in the sandbox).
    pub bundles: Option<BTreeSet<ContentId>>,
    /// Jobs with a smaller budget are refused, in the ledger's smallest unit. Not asked of unsettled jobs.
    pub minimum_budget: u64,
    /// Jobs with longer rounds are refused: a lease must not bind the machine longer than this without a receipt.
    pub longest_round: Duration,
}

impl Default for Policy {
    /// Any ledger, any bundle, any budget, rounds of a day at most.
    fn default() -> Self {
        Self {
            ledgers: None,
            unsettled: true,
            bundles: None,
            minimum_budget: 0,
            longest_round: Duration::from_secs(24 * 3_600),
        }
    }
}

impl Policy {
    /// The default, for the chain ids of `ledgers.accept`; `*` stands for all.
    pub fn accepting(chain_ids: &[String]) -> Self {
        let all = chain_ids.iter().any(|name| name == "*");
        Self { ledgers: (!all).then(|| chain_ids.iter().cloned().collect()), ..Self::default() }
    }
}

/// A task that this node holds already.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// The ledger that gave it.
    pub ledger: &'a LedgerId,
    /// Its job.
    pub job: &'a Job,
    /// The task.
    pub task: &'a Task,
}

/// What a ledger asks a node to have bonded before it takes a lease, in its smallest unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stake {
    /// What the node has bonded.
    pub bonded: u64,
    /// What is asked for; 0 for nothing.
    pub needed: u64,
}

/// What is known when the question is asked.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Who asks.
    pub me: NodeKey,
    /// Its record on the task's ledger; `None` if it isn't registered there.
    pub node: Option<&'a Node>,
    /// The task's ledger.
    pub ledger: &'a LedgerId,
    /// The task's job.
    pub job: &'a Job,
    /// The task.
    pub task: &'a Task,
    /// What the resource manager has free.
    pub free: Resources,
    /// What this node holds, on every ledger it works for.
    pub held: &'a [Held<'a>],
    /// The stake, as far as the ledger has said.
    pub stake: Stake,
    /// Ledger time.
    pub now: Time,
}

/// Whether `view.me` may take `view.task`: a free one, one that is delegated to it, or one that it holds already (then
/// nothing more needs to be free).
pub fn validate_assignment(view: &View<'_>, policy: &Policy) -> Result<(), Rejection> {
    check_job(view)?;
    validate_spec(policy, view.ledger, &view.job.spec)?;
    check_node(view.node)?;
    check_duplication(&view.me, view.task)?;
    if view.task.holder == Some(view.me) {
        return Ok(());
    }
    if view.job.paused {
        return Err(Rejection::JobPaused);
    }
    let Stake { bonded, needed } = view.stake;
    if bonded < needed {
        return Err(Rejection::Stake { bonded, needed });
    }
    check_double_work(view)?;
    check_capacity(&view.free, view.job, shard(view)?)?;
    check_registered(view)
}

/// Whether this node computes the very same for another paid job already. One computation would be paid twice, and two
/// jobs that were meant to check each other would hang on one node.
fn check_double_work(view: &View<'_>) -> Result<(), Rejection> {
    let paid = |job: &Job| job.spec.settle == Settle::Ledger && job.spec.budget > 0;
    let wanted = Held { ledger: view.ledger, job: view.job, task: view.task };
    let same =
        |held: &&Held<'_>| held.job.id != view.job.id && paid(held.job) && computation(held) == computation(&wanted);
    match view.held.iter().find(same) {
        Some(held) if paid(view.job) => Err(Rejection::DoubleWork { job: held.job.id }),
        _ => Ok(()),
    }
}

/// What decides the result of a task: equal ones give equal updates.
fn computation<'a>(held: &Held<'a>) -> impl PartialEq + use<'a> {
    let (spec, slot) = (&held.job.spec, held.task.id.slot);
    let shard = held.job.shards.get(slot as usize).map(|shard| shard.cid);
    (spec.bundle, spec.model, &spec.config, spec.seed, spec.local_steps, shard, slot)
}

/// The ledger's own rule: what a node holds there must fit into what it registered there.
fn check_registered(view: &View<'_>) -> Result<(), Rejection> {
    let others = view.held.iter().filter(|held| held.ledger == view.ledger && held.task.id != view.task.id);
    let wanted = others.map(|held| held.job).chain([view.job]).map(|job| job.spec.resources);
    match view.node.and_then(|node| node.resources.lacks_for(wanted)) {
        None => Ok(()),
        Some(resource) => Err(Rejection::Registered { resource }),
    }
}

/// Whether the task, and with it its shard, is free for `me` or held by it already. A slot's shard is its own even where
/// another slot has the same content: slots draw different batches.
pub fn check_duplication(me: &NodeKey, task: &Task) -> Result<(), Rejection> {
    let own = |owner: Option<NodeKey>| match owner {
        Some(holder) if holder == *me => Ok(()),
        Some(holder) => Err(Rejection::Held { holder }),
        None => Err(Rejection::TaskNotFree { status: task.status }),
    };
    match task.status {
        TaskStatus::Pending => Ok(()),
        TaskStatus::Assigned | TaskStatus::InProgress | TaskStatus::Paused => own(task.holder),
        TaskStatus::Delegated => own(task.delegate),
        TaskStatus::Rollback | TaskStatus::Completed | TaskStatus::Failed => {
            Err(Rejection::TaskNotFree { status: task.status })
        }
    }
}

fn check_job(view: &View<'_>) -> Result<(), Rejection> {
    if view.task.id.job != view.job.id {
        return Err(Rejection::NoSuchSlot { slot: view.task.id.slot });
    }
    if view.job.status != JobStatus::Open {
        return Err(Rejection::JobEnded { status: view.job.status });
    }
    if view.now >= view.job.created_at + Duration::from_millis(view.job.spec.deadline_millis) {
        return Err(Rejection::DeadlinePassed);
    }
    shard(view).map(|_| ())
}

fn shard<'a>(view: &View<'a>) -> Result<&'a ShardSpec, Rejection> {
    let slot = view.task.id.slot;
    view.job.shards.get(slot as usize).ok_or(Rejection::NoSuchSlot { slot })
}

fn check_node(node: Option<&Node>) -> Result<(), Rejection> {
    let node = node.ok_or(Rejection::NotRegistered)?;
    if node.reputation == 0 {
        return Err(Rejection::NoReputation);
    }
    match node.status {
        NodeStatus::Online | NodeStatus::Degraded | NodeStatus::Recovering => Ok(()),
        NodeStatus::Offline => Err(Rejection::Unhealthy { status: node.status }),
    }
}

fn check_capacity(free: &Resources, job: &Job, shard: &ShardSpec) -> Result<(), Rejection> {
    let wanted = job.spec.resources;
    let wanted = Resources { storage_bytes: wanted.storage_bytes.max(shard.size), ..wanted };
    match free.lacks(&wanted) {
        None => Ok(()),
        Some(resource) => Err(Rejection::Capacity { resource }),
    }
}

#[cfg(test)]
pub(crate) mod tests;
