//! Ledger records as people and their tools read them.

use std::collections::BTreeMap;

use super::{Job, JobDetail, Node, Round, Task};
use crate::{
    chain::records,
    identity,
    types::{Digest, NodeKey},
};

/// Basis points as a fraction of 1.
fn fraction(basis_points: u32) -> f64 {
    f64::from(basis_points) / 10_000.0
}

/// The peer id of a key as text.
pub fn peer_text(key: &NodeKey) -> String {
    identity::peer_id_of_known(key).to_string()
}

/// Millionths as a number; `None` for "none reported".
#[expect(clippy::cast_precision_loss, reason = "a loss is shown, never compared")]
fn loss(micros: i64) -> Option<f64> {
    (micros != i64::MAX).then_some(micros as f64 / 1e6)
}

impl From<&records::Node> for Node {
    fn from(node: &records::Node) -> Self {
        Self {
            id: peer_text(&node.id),
            node_id: node.node_id.clone(),
            address: node.address.clone().unwrap_or_else(|| identity::address(&node.id)),
            status: node.status,
            resources: resources(node),
            reputation: fraction(node.reputation) * 100.0,
            uptime_percent: fraction(node.uptime) * 100.0,
            last_heartbeat: node.last_heartbeat,
            registered_at: node.registered_at,
            active_tasks: node.active_tasks,
            rewards: node.rewards,
        }
    }
}

fn resources(node: &records::Node) -> BTreeMap<String, serde_json::Value> {
    let capacity = super::Capacity::from(node.resources);
    let own = [
        ("cpu_cores", serde_json::json!(capacity.cpu_cores)),
        ("memory_gb", serde_json::json!(capacity.memory_gb)),
        ("storage_gb", serde_json::json!(capacity.storage_gb)),
        ("gpu_count", serde_json::json!(capacity.gpu_count)),
    ];
    let stated = node.attributes.iter().map(|(key, value)| (key.clone(), serde_json::json!(value)));
    stated.chain(own.map(|(key, value)| (key.to_owned(), value))).collect()
}

impl Job {
    /// The job as it stands on `ledger`.
    pub fn from_record(ledger: &str, job: &records::Job) -> Self {
        let spec = &job.spec;
        Self {
            id: job.id,
            name: spec.name.clone(),
            model_id: spec.model_id.clone(),
            dataset_cid: spec.dataset_cid,
            held_out_cid: spec.held_out,
            data_key: spec.data_key,
            bundle_cid: spec.bundle,
            config: serde_json::from_str(&spec.config).unwrap_or_default(),
            status: job.status,
            paused: job.paused,
            progress: fraction(job.progress),
            tasks: u32::try_from(job.shards.len()).unwrap_or(u32::MAX),
            round: job.round,
            rounds: spec.rounds,
            local_steps: spec.local_steps,
            creator: peer_text(&job.creator),
            ledger: ledger.to_owned(),
            settle: spec.settle,
            escrow: job.escrow,
            budget: spec.budget,
            paid: job.paid,
            deadline: job.created_at + std::time::Duration::from_millis(spec.deadline_millis),
            model_root: job.model_root,
            model_cid: job.model_cid,
            result_cid: job.result_cid,
            created_at: job.created_at,
            updated_at: job.updated_at,
            error: job.error.clone(),
        }
    }
}

impl Task {
    /// The task as it stands on the ledger; `waiting` is what this node knows beside it.
    pub fn from_record(job: &records::Job, task: &records::Task, waiting: Option<String>) -> Self {
        Self {
            id: task.id,
            job_id: task.id.job,
            shard_id: task.id.slot,
            shard_cid: job.shards.get(task.id.slot as usize).map(|shard| shard.cid),
            node_id: task.holder.as_ref().map(peer_text),
            status: task.status,
            progress: fraction(task.progress),
            task_type: job.spec.task_type,
            generation: task.generation,
            cursor: task.cursor,
            round: job.round,
            checkpoint_cid: task.checkpoint.map(|checkpoint| checkpoint.cid),
            checkpoint_round: task.checkpoint.map(|checkpoint| checkpoint.round),
            checkpoint_step: task.checkpoint.map(|checkpoint| checkpoint.step),
            receipt: task.receipt.is_some(),
            refused_receipts: task.refused_receipts,
            reassigned: task.reassigned,
            waiting,
            created_at: task.created_at,
            started_at: task.started_at,
            completed_at: task.completed_at,
            error: task.error.clone(),
        }
    }
}

impl From<&records::RoundRecord> for Round {
    fn from(record: &records::RoundRecord) -> Self {
        let outcome = &record.outcome;
        Self {
            round: outcome.round,
            params_root: outcome.params_root,
            model_cid: outcome.model_cid,
            applied: outcome.applied.iter().map(|applied| (applied.slot, peer_text(&applied.node))).collect(),
            skipped: outcome.skipped.clone(),
            batches: record.batches,
            verified: record.verified,
            loss: loss(record.loss_micros),
            closer: peer_text(&record.closer),
            votes: u32::try_from(record.voters.len()).unwrap_or(u32::MAX),
            height: record.height,
            closed_at: record.closed_at,
        }
    }
}

impl JobDetail {
    /// A job with its tasks (by slot) and closed rounds (in order), as they stand on `ledger`.
    pub fn from_records<'a>(
        ledger: &str,
        app_hash: Option<Digest>,
        job: &records::Job,
        tasks: impl IntoIterator<Item = &'a records::Task>,
        rounds: impl IntoIterator<Item = &'a records::RoundRecord>,
    ) -> Self {
        Self {
            job: Job::from_record(ledger, job),
            tasks: tasks.into_iter().map(|task| Task::from_record(job, task, None)).collect(),
            rounds: rounds.into_iter().map(Round::from).collect(),
            app_hash,
        }
    }
}
