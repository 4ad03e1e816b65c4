//! What of two signatures, or of one and the ledger's records, is an offence: what no honest node signs.
//!
//! It exists so that the ledger, which punishes, and a node, which reports, have one rule. An honest node may sign twice, after a
//! restart between its word and the block: times, costs, traces and checkpoints then differ, and a change of holder gives a round
//! another set of updates. Only what follows from what was given counts here. It never looks at a signature: who calls has opened
//! it. Whether a result is true is not decided here; for that there are audits.

use super::records::{Job, Task};
use crate::types::{AssignmentId, Receipt, RoundOutcome, computation};

/// Whether two receipts speak of one node's assignment.
pub fn of_one_assignment(one: &Receipt, other: &Receipt) -> bool {
    let name = |receipt: &Receipt| (receipt.node, receipt.assignment, receipt.task, receipt.round);
    name(one) == name(other)
}

/// Whether two receipts of one assignment can't both be honest. Of machines of two kinds two results may be, unless they began from
/// two states.
pub fn receipts_conflict(one: &Receipt, other: &Receipt) -> bool {
    let inputs = |receipt: &Receipt| (receipt.in_params_root, receipt.in_opt_root);
    let machine = |receipt: &Receipt| (receipt.class_id, receipt.kat_root);
    let results = |receipt: &Receipt| (receipt.out_state_root, receipt.out_opt_root, receipt.update_digest);
    inputs(one) != inputs(other) || machine(one) == machine(other) && results(one) != results(other)
}

/// Whether two outcomes of one round combine the same updates.
pub fn of_one_set(one: &RoundOutcome, other: &RoundOutcome) -> bool {
    one.applied == other.applied && one.skipped == other.skipped
}

/// Whether two outcomes of one set of updates can't both be honest: the aggregate is the same to the byte wherever it is made.
pub fn roots_conflict(one: &RoundOutcome, other: &RoundOutcome) -> bool {
    (one.params_root, one.momentum_root) != (other.params_root, other.momentum_root)
}

/// Whether a receipt is of the task's present lease and round, so that it can be judged by what is committed.
pub fn is_present(job: &Job, task: &Task, receipt: &Receipt) -> bool {
    let present = AssignmentId::derive(&task.id, job.round, task.generation, &task.lease_tx);
    task.holder == Some(receipt.node) && receipt.round == job.round && receipt.assignment == present
}

/// Whether a receipt of the present lease and round contradicts what the ledger has committed for it. An honest node derives all
/// of that from the same records before it signs.
pub fn contradicts(job: &Job, task: &Task, receipt: &Receipt) -> bool {
    let inputs = (job.model_root.unwrap_or(job.spec.model_root), task.opt_root);
    let shard = usize::try_from(task.id.slot).ok().and_then(|slot| job.shards.get(slot));
    let hash = shard.map(|shard| {
        let seed = computation::seed(job.spec.seed, task.id.slot, task.cursor);
        let places = (&job.spec.bundle, &shard.cid);
        computation::hash(places, &seed, (&inputs.0, &inputs.1), &receipt.out_state_root)
    });
    (receipt.in_params_root, receipt.in_opt_root) != inputs || hash != Some(receipt.computation_hash)
}
