//! Rounds: which outcome closes one, and what follows from it.

use std::collections::BTreeSet;

use super::{
    Event, jobs, money, nodes,
    refusal::{Refusal, ensure},
    state::State,
    tasks,
    transaction::Context,
};
use crate::{
    chain::records::{Job, ProvisionalReceipt, RoundRecord},
    codec,
    types::{AppliedSlot, NodeKey, Quorum, Receipt, RoundOutcome, RoundVote, Signed, Slot, TaskId},
};

/// Fewer applied updates than this close no round of a job that has more slots (rounds.md): one node's word alone
/// would become the model.
const LEAST_APPLIED: usize = 2;

/// Closes the open round of a job. The first valid outcome wins; every later one is stale.
pub(super) fn close(
    state: &mut State,
    context: &Context,
    outcome: &RoundOutcome,
    votes: &[Signed],
) -> Result<Vec<u8>, Refusal> {
    let job = jobs::open_job(state, &outcome.job)?;
    ensure(outcome.round == job.round, || {
        Refusal::stale(format!("the outcome is of round {}, round {} is open", outcome.round, job.round))
    })?;
    let slots = job.shards.len();
    check_partition(outcome, slots)?;
    check_quorum(job.spec.quorum, outcome, slots)?;
    let applied = applied_receipts(state, outcome)?;
    let voters = count_votes(state, outcome, votes, slots)?;
    let job = job.clone();
    state.put_round(record(state, context, outcome, &applied, voters));
    settle(state, &job, &applied);
    open_next(state, outcome);
    state.emit(
        Event::new("round_closed")
            .with("job_id", outcome.job)
            .with("round", outcome.round)
            .with("applied", outcome.applied.len())
            .with("skipped", outcome.skipped.len())
            .with("model_root", outcome.params_root)
            .with("model_cid", outcome.model_cid),
    );
    if outcome.round + 1 == job.spec.rounds {
        jobs::complete(state, &outcome.job);
    }
    Ok(codec::encode(&outcome.round))
}

/// Per slot exactly one of applied and skipped holds.
fn check_partition(outcome: &RoundOutcome, slots: usize) -> Result<(), Refusal> {
    let applied: Vec<Slot> = outcome.applied.iter().map(|applied| applied.slot).collect();
    let all: BTreeSet<Slot> = applied.iter().chain(&outcome.skipped).copied().collect();
    let every_slot = all.len() == slots && all.iter().zip(0..).all(|(slot, expected)| *slot == expected);
    let once = applied.len() + outcome.skipped.len() == slots;
    let sorted = applied.is_sorted() && outcome.skipped.is_sorted();
    ensure(every_slot && once && sorted, || {
        Refusal::invalid(format!("`applied` and `skipped`, each sorted, must name each of {slots} slots exactly once"))
    })
}

fn check_quorum(quorum: Quorum, outcome: &RoundOutcome, slots: usize) -> Result<(), Refusal> {
    let least = match quorum {
        Quorum::All => slots,
        Quorum::TwoThirds => two_thirds(slots).max(LEAST_APPLIED.min(slots)),
    };
    ensure(outcome.applied.len() >= least, || {
        let applied = outcome.applied.len();
        Refusal::invalid(format!("{applied} updates are applied; with quorum {quorum} at least {least} must be"))
    })
}

/// The least whole number that is at least two thirds of `slots`.
fn two_thirds(slots: usize) -> usize {
    (2 * slots).div_ceil(3)
}

/// The accepted receipt of each applied slot, by slot.
fn applied_receipts(state: &State, outcome: &RoundOutcome) -> Result<Vec<ProvisionalReceipt>, Refusal> {
    let receipt_of = |applied: &AppliedSlot| {
        let id = TaskId { job: outcome.job, slot: applied.slot };
        let provisional = state.known_task(&id)?.receipt.as_ref();
        let matching = provisional.filter(|provisional| {
            let receipt = &provisional.receipt;
            receipt.update_digest == applied.update_digest
                && receipt.node == applied.node
                && receipt.metrics.samples == applied.samples
        });
        matching.cloned().ok_or_else(|| {
            Refusal::conflict(format!("slot {} has no accepted receipt of the update that is applied", applied.slot))
        })
    };
    outcome.applied.iter().map(receipt_of).collect()
}

/// The holders whose votes count, if they hold enough slots. A vote of someone who no longer holds any is not an
/// error: leases may change while votes are gathered.
fn count_votes(state: &State, outcome: &RoundOutcome, votes: &[Signed], slots: usize) -> Result<Vec<NodeKey>, Refusal> {
    ensure(votes.len() <= slots, || Refusal::invalid(format!("{} votes for {slots} slots", votes.len())))?;
    let digest = outcome.digest();
    let mut signers = BTreeSet::new();
    for signed in votes {
        let vote: RoundVote = signed.open().map_err(|error| Refusal::unopened("vote", &error))?;
        let for_this = vote.job == outcome.job && vote.round == outcome.round && vote.outcome == digest;
        ensure(vote.node == signed.signer, || Refusal::signature("a vote must be signed by its own node"))?;
        ensure(for_this, || Refusal::conflict(format!("node {} voted for another outcome", vote.node)))?;
        signers.insert(vote.node);
    }
    let holders: Vec<NodeKey> = state.tasks_of(outcome.job).filter_map(|task| task.holder).collect();
    let covered = holders.iter().filter(|holder| signers.contains(holder)).count();
    let least = two_thirds(slots);
    ensure(covered >= least, || {
        Refusal::unauthorized(format!("the votes are of holders of {covered} of {slots} slots; {least} are needed"))
    })?;
    signers.retain(|signer| holders.contains(signer));
    Ok(signers.into_iter().collect())
}

fn record(
    state: &State,
    context: &Context,
    outcome: &RoundOutcome,
    applied: &[ProvisionalReceipt],
    voters: Vec<NodeKey>,
) -> RoundRecord {
    let checked = |provisional: &&ProvisionalReceipt| {
        let worker = provisional.receipt.node;
        provisional.verifier != worker || voters.iter().any(|voter| *voter != worker)
    };
    let clock = state.clock();
    RoundRecord {
        batches: applied.iter().map(|provisional| provisional.receipt.metrics.iterations).sum(),
        verified: u32::try_from(applied.iter().filter(checked).count()).unwrap_or(u32::MAX),
        loss_micros: mean_loss(applied),
        outcome: outcome.clone(),
        closer: context.creator,
        voters,
        height: clock.height,
        closed_at: clock.time,
    }
}

/// Mean loss weighted by samples; `i64::MAX` if no receipt states one.
fn mean_loss(applied: &[ProvisionalReceipt]) -> i64 {
    let stated =
        applied.iter().map(|applied| applied.receipt.metrics).filter(|metrics| metrics.loss_micros != i64::MAX);
    let (sum, samples) = stated.fold((0_i128, 0_i128), |(sum, samples), metrics| {
        let weight = i128::from(metrics.samples);
        (sum + i128::from(metrics.loss_micros) * weight, samples + weight)
    });
    sum.checked_div(samples).and_then(|mean| i64::try_from(mean).ok()).unwrap_or(i64::MAX)
}

/// Reserves the rewards and brings each applied slot forward; a skipped one goes back to where it last stood.
fn settle(state: &mut State, job: &Job, applied: &[ProvisionalReceipt]) {
    let receipts: Vec<Receipt> = applied.iter().map(|provisional| provisional.receipt.clone()).collect();
    receipts.iter().for_each(|receipt| nodes::assess(state, &receipt.node));
    money::reserve_rewards(state, job, &receipts);
    for receipt in receipts {
        state.edit_task(&receipt.task, |task| {
            task.cursor += 1;
            task.opt_root = receipt.out_opt_root;
            task.opt_checkpoint = Some(receipt.checkpoint);
        });
        state.edit_task_clock(&receipt.task, |clock| {
            clock.failed_by.clear();
            clock.failures = 0;
        });
    }
}

/// Opens the next round: holders stay, receipts don't, and every held task's clock begins anew.
fn open_next(state: &mut State, outcome: &RoundOutcome) {
    let clock = state.clock();
    let progress = jobs::edit(state, &outcome.job, |job| {
        job.round += 1;
        job.round_opened_height = clock.height;
        job.round_opened_at = clock.time;
        job.model_root = Some(outcome.params_root);
        job.model_cid = outcome.model_cid;
        job.momentum_root = Some(outcome.momentum_root);
        job.momentum_cid = Some(outcome.momentum_cid);
        job.progress = nodes::basis_points(u64::from(job.round), u64::from(job.spec.rounds));
        job.progress
    });
    for id in jobs::task_ids(state, &outcome.job) {
        state.edit_task(&id, |task| {
            task.checkpoint = task.opt_checkpoint;
            task.receipt = None;
            task.progress = task.progress.max(progress);
        });
        tasks::restart_clock(state, &id);
    }
}
