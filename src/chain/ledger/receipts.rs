//! Receipts: level L0 of the proofs, as far as the ledger can see.

use super::{
    Event, jobs,
    refusal::{Refusal, check_range, ensure},
    state::State,
    tasks,
    transaction::Context,
};
use crate::{
    chain::records::{Job, ProvisionalReceipt, Task},
    types::{AssignmentId, Attestation, Receipt, Signed},
};

/// Accepts the receipt of a task's open round, provisionally: it counts once a round record names its update, and is
/// void when the task changes hands before that.
pub(super) fn submit(state: &mut State, receipt: &Signed, attestation: &Signed) -> Result<Vec<u8>, Refusal> {
    let (signed, digest) = (receipt, receipt.digest());
    let receipt: Receipt = signed.open().map_err(|error| Refusal::unopened("receipt", &error))?;
    let verifier = check_attestation(state, attestation, signed, &receipt)?;
    let task = state.known_task(&receipt.task)?;
    let job = jobs::open_job(state, &receipt.task.job)?;
    check_assignment(task, job, &receipt)?;
    check_inputs(task, job, &receipt)?;
    check_outputs(task, job, &receipt)?;
    let id = receipt.task;
    let clock = state.clock();
    state.emit(
        Event::new("receipt_accepted")
            .with("task_id", id)
            .with("job_id", id.job)
            .with("round", receipt.round)
            .with("node_id", receipt.node)
            .with("verifier", verifier),
    );
    let provisional = ProvisionalReceipt { receipt, digest, verifier, height: clock.height, accepted_at: clock.time };
    state.edit_task(&id, |task| {
        task.checkpoint = Some(provisional.receipt.checkpoint);
        task.receipt = Some(provisional);
    });
    tasks::set_lapse(state, &id);
    Ok(Vec::new())
}

fn check_attestation(
    state: &State,
    attestation: &Signed,
    signed: &Signed,
    receipt: &Receipt,
) -> Result<crate::types::NodeKey, Refusal> {
    let signer = attestation.signer;
    let attestation: Attestation = attestation.open().map_err(|error| Refusal::unopened("attestation", &error))?;
    ensure(attestation.receipt == signed.digest(), || Refusal::invalid("the attestation is of another receipt"))?;
    ensure(signer != receipt.node, || Refusal::unauthorized("a worker can't attest its own receipt"))?;
    state.known_node(&signer)?;
    Ok(signer)
}

/// The receipt is for this lease and this round, and is the first.
fn check_assignment(task: &Task, job: &Job, receipt: &Receipt) -> Result<(), Refusal> {
    ensure(task.holder == Some(receipt.node), || {
        Refusal::unauthorized(format!("node {} does not hold task {}", receipt.node, task.id))
    })?;
    ensure(receipt.round == job.round, || {
        Refusal::stale(format!("the receipt is of round {}, round {} is open", receipt.round, job.round))
    })?;
    let assignment = AssignmentId::derive(&task.id, job.round, task.generation, &task.lease_tx);
    ensure(receipt.assignment == assignment, || {
        Refusal::stale("the receipt's assignment is not that of the present lease and round")
    })?;
    ensure(task.receipt.is_none(), || Refusal::conflict("the round's receipt is already accepted"))
}

/// The receipt began from the committed model and optimizer state. In round 0 the model's root is not on the ledger;
/// the round's voters compute it.
fn check_inputs(task: &Task, job: &Job, receipt: &Receipt) -> Result<(), Refusal> {
    ensure(receipt.in_params_root == job.model_root.unwrap_or(job.spec.model_root), || {
        Refusal::invalid("`in_params_root` is not the root of the job's model")
    })?;
    ensure(receipt.in_opt_root == task.opt_root, || {
        Refusal::invalid("`in_opt_root` is not the root of the task's optimizer state")
    })
}

fn check_outputs(task: &Task, job: &Job, receipt: &Receipt) -> Result<(), Refusal> {
    check_range("iterations", receipt.metrics.iterations, 1, u64::from(job.spec.local_steps))?;
    check_range("samples", receipt.metrics.samples, 1, u64::from(u32::MAX) << 16)?;
    check_range("segments", receipt.segments, 1, job.spec.local_steps)?;
    let checkpoint = receipt.checkpoint;
    ensure(checkpoint.round == receipt.round, || Refusal::invalid("the checkpoint is of another round"))?;
    check_range("step of the checkpoint", checkpoint.step, 1, job.spec.local_steps)?;
    let newest = task.checkpoint.map(|newest| (newest.round, newest.step));
    ensure(newest <= Some((checkpoint.round, checkpoint.step)), || {
        Refusal::stale("the receipt's checkpoint is older than one the task already has")
    })
}

/// Counts a refused receipt, if it was sent by the very node that signed it: nobody raises the count of another by
/// sending its old receipts again.
pub(super) fn count_refused(state: &mut State, context: &Context, signed: &Signed) {
    let Ok(receipt) = signed.open::<Receipt>() else {
        return;
    };
    let own = signed.signer == context.creator && receipt.node == context.creator;
    if own && state.node(&context.creator).is_some() && state.task(&receipt.task).is_some() {
        state.edit_task(&receipt.task, |task| task.refused_receipts = task.refused_receipts.saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{World, digest, id, person, spec};
    use super::*;
    use crate::{
        chain::wire::{Code, Message},
        types::{JobId, Metrics, Quorum, TaskStatus},
    };

    fn leased() -> (World, JobId) {
        let mut world = World::of_nodes(3);
        let job = world.submit(1, spec(2, Quorum::All), 2);
        world.lease(2, job, 0);
        (world, job)
    }

    #[test]
    fn an_attested_receipt_of_the_open_round_is_accepted_once() {
        let (mut world, job) = leased();
        let message = world.receipt_message(2, 3, &world.receipt(job, 0));
        world.ok(2, message.clone());
        let provisional = world.task(job, 0).receipt.unwrap();
        assert_eq!((provisional.verifier, provisional.receipt.node), (id(3), id(2)));
        assert_eq!(world.task(job, 0).checkpoint, Some(provisional.receipt.checkpoint));
        world.refused(2, Code::Conflict, message);
        assert_eq!(world.task(job, 0).refused_receipts, 1);
    }

    #[test]
    fn an_old_receipt_is_refused_in_every_form() {
        let (mut world, job) = leased();
        let receipt = world.receipt(job, 0);
        let message = world.receipt_message(2, 3, &receipt);
        // By another generation of the same holder.
        let handed_back = world.report(job, 0, TaskStatus::Rollback);
        world.ok(2, handed_back);
        world.refused(2, Code::Unauthorized, message.clone());
        world.lease(2, job, 0);
        world.refused(2, Code::Stale, message.clone());
        // For another slot.
        let other_slot = Receipt { task: crate::types::TaskId { job, slot: 1 }, ..receipt.clone() };
        let other_slot = world.receipt_message(2, 3, &other_slot);
        world.refused(2, Code::Unauthorized, other_slot);
        // For another round.
        let other_round = Receipt { round: 1, ..receipt };
        let other_round = world.receipt_message(2, 3, &other_round);
        world.refused(2, Code::Stale, other_round);
        assert_eq!(world.task(job, 0).refused_receipts, 3);
        // Someone else who sends it again does not raise the worker's count.
        world.refused(3, Code::Stale, message);
        assert_eq!(world.task(job, 0).refused_receipts, 3);
    }

    #[test]
    fn a_receipt_from_other_inputs_is_refused() {
        let (mut world, job) = leased();
        let receipt = world.receipt(job, 0);
        let refused: [(Receipt, &str); 6] = [
            (Receipt { in_opt_root: digest("else"), ..receipt.clone() }, "in_opt_root"),
            (Receipt { assignment: AssignmentId([0; 32]), ..receipt.clone() }, "assignment"),
            (Receipt { segments: 0, ..receipt.clone() }, "segments"),
            (Receipt { metrics: Metrics { iterations: 51, ..receipt.metrics }, ..receipt.clone() }, "iterations"),
            (Receipt { metrics: Metrics { samples: 0, ..receipt.metrics }, ..receipt.clone() }, "samples"),
            (
                Receipt {
                    checkpoint: crate::types::CheckpointRef { step: 51, ..receipt.checkpoint },
                    ..receipt.clone()
                },
                "checkpoint",
            ),
        ];
        for (receipt, word) in refused {
            let message = world.receipt_message(2, 3, &receipt);
            let result = world.send(2, message);
            assert!(result.code != 0 && result.log.contains(word), "{word}: {}", result.log);
        }
    }

    #[test]
    fn an_attestation_must_be_of_this_receipt_by_another_registered_node() {
        let (mut world, job) = leased();
        let receipt = world.receipt(job, 0);
        let own = world.receipt_message(2, 2, &receipt);
        assert!(world.refused(2, Code::Unauthorized, own).contains("own receipt"));
        let stranger = world.receipt_message(2, 9, &receipt);
        world.refused(2, Code::NotFound, stranger);
        let other = Attestation { receipt: digest("other"), verifier: id(3), timestamp: world.now };
        let other = Message::SubmitReceipt { receipt: person(2).seal(&receipt), attestation: person(3).seal(&other) };
        world.refused(2, Code::Invalid, other);
        let forged = Attestation { receipt: person(2).seal(&receipt).digest(), verifier: id(3), timestamp: world.now };
        let forged = Message::SubmitReceipt { receipt: person(2).seal(&receipt), attestation: person(2).seal(&forged) };
        world.refused(2, Code::Signature, forged);
        let stolen = world.receipt_message(3, 1, &receipt);
        world.refused(3, Code::Signature, stolen);
    }
}
