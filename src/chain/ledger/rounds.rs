//! Rounds: which outcome closes one, and what follows from it.

use std::collections::BTreeSet;

use super::{
    Event, jobs, money, nodes,
    refusal::{Refusal, ensure},
    reputation,
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
    let voters = count_votes(state, context, outcome, votes, slots)?;
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
fn count_votes(
    state: &State,
    context: &Context,
    outcome: &RoundOutcome,
    votes: &[Signed],
    slots: usize,
) -> Result<Vec<NodeKey>, Refusal> {
    ensure(votes.len() <= slots, || Refusal::invalid(format!("{} votes for {slots} slots", votes.len())))?;
    let digest = outcome.digest();
    let mut signers = BTreeSet::new();
    for signed in votes {
        let vote: RoundVote = signed.open_within(context.vouched).map_err(|error| Refusal::unopened("vote", &error))?;
        let for_this = vote.job == outcome.job && vote.round == outcome.round && vote.outcome == digest;
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
        reputation::settled(state, &receipt.node);
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

#[cfg(test)]
mod tests {
    use super::super::testing::{FAUCET, World, content, digest, id, spec};
    use super::*;
    use crate::{
        chain::records::Model,
        chain::wire::{Code, Message, query},
        types::{JobId, JobSpec, JobStatus, NodeStatus, TaskStatus},
    };

    /// A job of the first person whose slot s is held by person s + 2.
    fn leased(nodes: u8, rounds: u32, quorum: Quorum) -> (World, JobId) {
        let mut world = World::of_nodes(nodes);
        let slots = u32::from(nodes) - 1;
        let job = world.submit(1, spec(rounds, quorum), slots);
        for slot in 0..slots {
            world.lease(u8::try_from(slot).unwrap() + 2, job, slot);
        }
        (world, job)
    }

    fn prove(world: &mut World, job: JobId, slots: &[Slot]) {
        for slot in slots {
            world.prove(u8::try_from(*slot).unwrap() + 2, 1, job, *slot);
        }
    }

    #[test]
    fn a_job_runs_through_its_rounds_pays_its_workers_and_leaves_a_model() {
        let (mut world, job) = leased(4, 2, Quorum::All);
        for round in 0..2 {
            assert_eq!(world.job(job).round, round);
            prove(&mut world, job, &[0, 1, 2]);
            world.close(job, &[2, 3, 4]);
        }
        let ended = world.job(job);
        assert_eq!((ended.status, ended.progress, ended.round), (JobStatus::Completed, 10_000, 2));
        assert_eq!((ended.model_root, ended.result_cid), (Some(digest("params 1")), Some(ended.model_cid)));
        for task in world.tasks(job) {
            assert_eq!((task.status, task.cursor, task.holder), (TaskStatus::Completed, 2, None));
        }
        let rounds = world.rounds(job);
        assert_eq!(rounds.iter().map(|round| round.batches).collect::<Vec<_>>(), [150, 150]);
        assert_eq!(rounds.iter().map(|round| round.verified).collect::<Vec<_>>(), [3, 3]);
        assert_eq!(rounds[0].loss_micros, 2_000_000);
        let model: Option<Model> = world.query(query::GET_MODEL, &format!("digits-mlp:{job}"));
        assert_eq!(model.unwrap().metadata["root"], digest("params 1").to_string());
        // Base reward times work: 1,000 for each of 50 steps and 2 rounds, after the audit window.
        assert_eq!((ended.escrow, ended.paid), (0, 300_000));
        assert_eq!(world.account(1).balance, FAUCET - 300_000);
        assert!(world.ledger.has_open_work());
        world.pass(3, &[1, 2, 3, 4]);
        assert_eq!((world.account(2).balance, world.node(2).rewards), (FAUCET + 100_000, 100_000));
        assert!(!world.ledger.has_open_work());
    }

    #[test]
    fn a_small_budget_is_shared_by_contribution_and_reputation() {
        let mut world = World::of_nodes(3);
        let job = world.submit(1, JobSpec { budget: 900, ..spec(3, Quorum::All) }, 2);
        world.lease(2, job, 0);
        world.lease(3, job, 1);
        prove(&mut world, job, &[0]);
        let receipt = world.receipt(job, 1);
        let half = Receipt { metrics: crate::types::Metrics { iterations: 25, ..receipt.metrics }, ..receipt };
        let half = world.receipt_message(3, 1, &half);
        world.ok(3, half);
        world.close(job, &[2, 3]);
        assert_eq!((world.job(job).escrow, world.job(job).paid), (600, 300));
        world.pass(3, &[1, 2, 3]);
        assert_eq!((world.node(2).rewards, world.node(3).rewards), (200, 100));
    }

    #[test]
    fn a_round_is_closed_once_and_its_receipts_do_not_carry_over() {
        let (mut world, job) = leased(3, 2, Quorum::All);
        prove(&mut world, job, &[0, 1]);
        let close = world.close_message(&world.outcome(job), &[2, 3]);
        world.ok(2, close.clone());
        world.refused(3, Code::Stale, close);
        let task = world.task(job, 0);
        assert_eq!((task.cursor, task.receipt, task.holder), (1, None, Some(id(2))));
        assert_eq!(task.checkpoint, task.opt_checkpoint);
        // The next receipt must begin from what this round left.
        let wrong = Receipt { in_params_root: digest("initial"), ..world.receipt(job, 0) };
        let wrong = world.receipt_message(2, 1, &wrong);
        assert!(world.refused(2, Code::Invalid, wrong).contains("in_params_root"));
    }

    #[test]
    fn with_quorum_all_nothing_is_skipped() {
        let (mut world, job) = leased(4, 1, Quorum::All);
        prove(&mut world, job, &[0, 1]);
        let close = world.close_message(&world.outcome(job), &[2, 3, 4]);
        assert!(world.refused(2, Code::Invalid, close).contains("quorum all"));
    }

    #[test]
    fn with_two_thirds_a_late_slot_is_skipped_unpaid_and_stays_at_its_cursor() {
        let (mut world, job) = leased(4, 2, Quorum::TwoThirds);
        prove(&mut world, job, &[0, 1]);
        let checkpoint = world.checkpoint(job, 2, 10);
        world.ok(4, checkpoint);
        world.close(job, &[2, 3]);
        let late = world.task(job, 2);
        assert_eq!((late.cursor, late.checkpoint, late.holder), (0, None, Some(id(4))));
        prove(&mut world, job, &[0]);
        let close = world.close_message(&world.outcome(job), &[2, 3, 4]);
        assert!(world.refused(2, Code::Invalid, close).contains("at least 2"));
        prove(&mut world, job, &[2]);
        world.close(job, &[2, 4]);
        let cursors: Vec<_> = world.tasks(job).iter().map(|task| task.cursor).collect();
        assert_eq!((cursors, world.job(job).status), (vec![2, 1, 1], JobStatus::Completed));
        world.pass(3, &[1, 2, 3, 4]);
        assert!(world.node(4).rewards < world.node(2).rewards);
    }

    #[test]
    fn an_outcome_must_name_every_slot_once_and_only_accepted_updates() {
        let (mut world, job) = leased(4, 1, Quorum::TwoThirds);
        prove(&mut world, job, &[0, 1, 2]);
        let good = world.outcome(job);
        let changed = |change: fn(&mut RoundOutcome)| {
            let mut outcome = good.clone();
            change(&mut outcome);
            outcome
        };
        let refused = [
            (changed(|outcome| outcome.applied.truncate(2)), Code::Invalid),
            (changed(|outcome| outcome.skipped.push(2)), Code::Invalid),
            (changed(|outcome| outcome.skipped.push(3)), Code::Invalid),
            (changed(|outcome| outcome.applied.swap(0, 1)), Code::Invalid),
            (changed(|outcome| outcome.applied[1] = outcome.applied[0]), Code::Invalid),
            (changed(|outcome| outcome.applied[0].update_digest = digest("else")), Code::Conflict),
            (changed(|outcome| outcome.applied[0].samples += 1), Code::Conflict),
            (changed(|outcome| outcome.applied[0].node = id(3)), Code::Conflict),
            (changed(|outcome| outcome.round = 1), Code::Stale),
            (changed(|outcome| outcome.job = JobId([0; 32])), Code::NotFound),
        ];
        for (outcome, code) in refused {
            let close = world.close_message(&outcome, &[2, 3, 4]);
            world.refused(2, code, close);
        }
        let close = world.close_message(&good, &[2, 3, 4]);
        world.ok(2, close);
    }

    #[test]
    fn votes_count_once_by_slots_held_and_only_of_present_holders() {
        let (mut world, job) = leased(4, 1, Quorum::All);
        prove(&mut world, job, &[0, 1, 2]);
        let outcome = world.outcome(job);
        for voters in [vec![], vec![2], vec![2, 2], vec![2, 1], vec![2, 2, 2]] {
            let close = world.close_message(&outcome, &voters);
            world.refused(2, Code::Unauthorized, close);
        }
        let too_many = world.close_message(&outcome, &[2, 3, 4, 1]);
        world.refused(2, Code::Invalid, too_many);
        let Message::CloseRound { votes: others, .. } =
            world.close_message(&RoundOutcome { params_root: digest("lie"), ..outcome.clone() }, &[2, 3])
        else {
            unreachable!()
        };
        let mixed = Message::CloseRound { outcome: Box::new(outcome.clone()), votes: others };
        assert!(world.refused(2, Code::Conflict, mixed).contains("another outcome"));
        let Message::CloseRound { mut votes, .. } = world.close_message(&outcome, &[2, 3]) else { unreachable!() };
        votes[0].signer = id(4);
        world.refused(2, Code::Signature, Message::CloseRound { outcome: Box::new(outcome.clone()), votes });
        // A holder of two slots of three is enough alone.
        let mut world = World::of_nodes(3);
        let job = world.submit(1, spec(1, Quorum::All), 3);
        for (number, slot) in [(2, 0), (2, 1), (3, 2)] {
            world.lease(number, job, slot);
            world.prove(number, 1, job, slot);
        }
        world.close(job, &[2]);
        assert_eq!(world.rounds(job)[0].voters, [id(2)]);
    }

    #[test]
    fn a_receipt_is_void_when_its_worker_vanishes_before_the_close() {
        let (mut world, job) = leased(3, 1, Quorum::All);
        prove(&mut world, job, &[0, 1]);
        let close = world.close_message(&world.outcome(job), &[2, 3]);
        world.pass(92, &[1, 3]);
        assert_eq!(world.node(2).status, NodeStatus::Offline);
        world.refused(3, Code::Conflict, close);
        assert_eq!(world.task(job, 0).receipt, None);
        // Its end-of-round checkpoint is still there for whoever comes next.
        assert_eq!(world.task(job, 0).checkpoint.unwrap().step, 50);
        world.lease(3, job, 0);
        world.prove(3, 1, job, 0);
        world.close(job, &[3]);
        assert_eq!(world.job(job).status, JobStatus::Completed);
    }

    #[test]
    fn the_close_of_the_largest_job_fits_into_a_transaction() {
        let world = World::new();
        let applied = |slot| AppliedSlot { slot, update_digest: digest("u"), node: id(1), samples: u64::MAX };
        let outcome = RoundOutcome {
            job: JobId([1; 32]),
            round: u32::MAX,
            params_root: digest("p"),
            momentum_root: digest("m"),
            model_cid: content("p"),
            momentum_cid: content("m"),
            applied: (0..1_000).map(applied).collect(),
            skipped: Vec::new(),
        };
        let close = world.close_message(&outcome, &[7; 1_000]);
        assert!(world.sign(1, close).len() < crate::chain::wire::MAX_TRANSACTION);
    }

    #[test]
    fn two_thirds_rounds_up() {
        assert_eq!([1, 2, 3, 4, 5, 6, 7, 1_000].map(two_thirds), [1, 2, 2, 3, 4, 4, 5, 667]);
    }
}
