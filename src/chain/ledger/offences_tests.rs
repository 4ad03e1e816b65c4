//! Offences: what is punished, what an honest node may do, and who gets what.

use super::*;
use crate::{
    chain::{
        ledger::{
            Economy,
            testing::{FAUCET, World, digest, economy, id, person, spec},
        },
        wire::{Code, Message, query},
    },
    types::{AssignmentId, JobId, JobSpec, JobStatus, Metrics, Quorum, RoundOutcome, TaskStatus, Time, computation},
};

const STAKE: u64 = 1_000;

/// A world in which slot 0 of the first person's job is held by the second and slot 1 by the third, who both have a stake;
/// the fourth watches.
fn working_under(economy: Economy) -> (World, JobId) {
    let mut world = World::of_nodes_with(4, economy);
    let job = world.submit(1, spec(2, Quorum::All), 2);
    for (number, slot) in [(2, 0), (3, 1)] {
        world.ok(number, Message::Bond { amount: STAKE });
        world.lease(number, job, slot);
    }
    (world, job)
}

fn working() -> (World, JobId) {
    working_under(economy())
}

/// A receipt as an honest node derives it from committed state.
fn honest(world: &World, job: JobId) -> Receipt {
    let (record, task, receipt) = (world.job(job), world.task(job, 0), world.receipt(job, 0));
    let seed = computation::seed(record.spec.seed, 0, task.cursor);
    let inputs = (&receipt.in_params_root, &receipt.in_opt_root);
    let places = (&record.spec.bundle, &record.shards[0].cid);
    let computation_hash = computation::hash(places, &seed, inputs, &receipt.out_state_root);
    Receipt { computation_hash, ..receipt }
}

fn report(evidence: Evidence) -> Message {
    Message::ReportOffence { evidence: Box::new(evidence) }
}

fn both(first: &Receipt, second: &Receipt) -> Message {
    let [first, second] = [first, second].map(|receipt| person(2).seal(receipt));
    report(Evidence::TwoReceipts { first, second })
}

fn voted(outcome: &RoundOutcome, number: u8) -> VotedOutcome {
    let (job, round, digest) = (outcome.job, outcome.round, outcome.digest());
    let vote = person(number).seal(&RoundVote { job, round, outcome: digest, node: id(number) });
    VotedOutcome { outcome: outcome.clone(), vote }
}

fn two_roots(first: VotedOutcome, second: VotedOutcome) -> Message {
    report(Evidence::TwoRoots { first, second })
}

#[test]
fn two_results_for_one_assignment_cost_stake_and_reputation_once_and_for_all() {
    let (mut world, job) = working();
    world.ok(2, Message::Unbond { amount: 200 });
    let first = honest(&world, job);
    let second = Receipt { out_state_root: digest("another"), ..first.clone() };
    let supply = world.ledger.state.clock().supply;
    let creator = world.account(1).balance;
    let result = world.send(4, both(&first, &second));
    assert_eq!(codec::decode::<u64>(&result.data, 9).unwrap(), 500, "{}", result.log);
    assert_eq!((world.stake(2).bonded, world.stake(2).unbonding[0].amount), (400, 100), "unbonding is no way out");
    assert_eq!((world.account(4).balance, world.account(1).balance), (FAUCET + 100, creator + 150));
    assert_eq!(world.ledger.state.clock().supply, supply - 250);
    assert_eq!(world.node(2).reputation, 5_000);
    let known = OffenceId { node: id(2), kind: OffenceKind::TwoReceipts, job, round: 0 };
    let offence: Option<Offence> = world.query(query::GET_OFFENCE, &known);
    let offence = offence.unwrap();
    assert_eq!((offence.reporter, offence.slashed, offence.to_reporter), (Some(id(4)), 500, 100));
    assert_eq!((offence.to_creator, offence.burned, world.offences()), (150, 250, vec![offence.clone()]));
    // The same again, turned round, or another pair of the round: all have one name.
    let third = Receipt { update_digest: digest("a third"), ..first.clone() };
    for again in [both(&first, &second), both(&second, &first), both(&first, &third)] {
        let words = world.refused(3, Code::Conflict, again);
        assert!(words.contains(&format!("at height {}", offence.height)), "{words}");
    }
    world.block(365 * 86_400_000, &[]);
    world.refused(3, Code::Conflict, both(&first, &second));
}

#[test]
fn what_an_honest_node_signs_again_after_a_restart_is_no_offence() {
    let (mut world, job) = working();
    let first = honest(&world, job);
    let other = |change: fn(&mut Receipt)| {
        let mut receipt = first.clone();
        change(&mut receipt);
        receipt
    };
    let honest = [
        first.clone(),
        other(|receipt| receipt.timestamp = Time::ZERO),
        other(|receipt| receipt.metrics = Metrics { wall_millis: 9, cpu_millis: 9, ..receipt.metrics }),
        // It stopped at another step: another checkpoint, and another trace.
        other(|receipt| (receipt.trace_root, receipt.segments) = (digest("longer"), 7)),
        other(|receipt| receipt.checkpoint.cid = crate::chain::ledger::testing::content("again")),
        // It came back with other libraries, whose bits are others.
        other(|receipt| (receipt.class_id, receipt.out_state_root) = (digest("upgraded"), digest("bits"))),
        other(|receipt| (receipt.kat_root, receipt.update_digest) = (digest("drifted"), digest("bits"))),
    ];
    for second in honest {
        assert!(world.refused(4, Code::Invalid, both(&first, &second)).contains("began again"));
    }
    // A lease that it took again is another assignment.
    let back = world.report(job, 0, TaskStatus::Rollback);
    world.ok(2, back);
    world.lease(2, job, 0);
    let later = Receipt { out_state_root: digest("another"), ..self::honest(&world, job) };
    assert!(world.refused(4, Code::Invalid, both(&first, &later)).contains("one node and assignment"));
    assert_eq!((world.stake(2).bonded, world.offences().len(), world.node(2).reputation), (STAKE, 0, 10_000));
}

#[test]
fn each_result_counts_and_two_beginnings_count_on_any_machine() {
    let changes: [fn(&mut Receipt); 5] = [
        |receipt| receipt.out_state_root = digest("x"),
        |receipt| receipt.out_opt_root = digest("x"),
        |receipt| receipt.update_digest = digest("x"),
        |receipt| (receipt.class_id, receipt.in_params_root) = (digest("other"), digest("x")),
        |receipt| (receipt.class_id, receipt.in_opt_root) = (digest("other"), digest("x")),
    ];
    for change in changes {
        let (mut world, job) = working();
        let first = honest(&world, job);
        let mut second = first.clone();
        change(&mut second);
        world.ok(4, both(&first, &second));
        assert_eq!(world.stake(2).bonded, STAKE / 2);
    }
}

#[test]
fn nobody_is_accused_with_words_that_are_not_its_own() {
    let (mut world, job) = working();
    let first = honest(&world, job);
    let second = Receipt { out_state_root: digest("x"), ..first.clone() };
    let forged = |by: u8| Evidence::TwoReceipts { first: person(2).seal(&first), second: person(by).seal(&second) };
    world.refused(4, Code::Signature, report(forged(4)));
    let mut altered = person(2).seal(&second);
    *altered.body.last_mut().unwrap() ^= 1;
    world.refused(4, Code::Signature, report(Evidence::TwoReceipts { first: person(2).seal(&first), second: altered }));
    let vote = person(2).seal(&RoundVote { job, round: 0, outcome: digest("x"), node: id(2) });
    world.refused(4, Code::Signature, report(Evidence::TwoReceipts { first: person(2).seal(&first), second: vote }));
    // Not by the offender itself, not of strangers, not of what does not exist.
    assert!(world.refused(2, Code::Unauthorized, both(&first, &second)).contains("its own"));
    let strangers = [&first, &second].map(|receipt| Receipt { node: id(9), ..receipt.clone() });
    let [first_of_nine, second_of_nine] = strangers.map(|receipt| person(9).seal(&receipt));
    let evidence = Evidence::TwoReceipts { first: first_of_nine, second: second_of_nine };
    world.refused(4, Code::NotFound, report(evidence));
    let nowhere = TaskId { job: JobId([7; 32]), slot: 0 };
    let [a, b] = [&first, &second].map(|receipt| Receipt { task: nowhere, ..receipt.clone() });
    world.refused(4, Code::NotFound, both(&a, &b));
    let [a, b] = [&first, &second].map(|receipt| Receipt { round: 1, ..receipt.clone() });
    world.refused(4, Code::Stale, both(&a, &b));
    assert_eq!((world.stake(2).bonded, world.offences()), (STAKE, vec![]));
}

#[test]
fn two_roots_for_one_set_of_updates_are_an_offence_and_two_sets_are_not() {
    let (mut world, job) = working();
    world.prove(2, 4, job, 0);
    world.prove(3, 4, job, 1);
    let good = world.outcome(job);
    let lie = RoundOutcome { params_root: digest("lie"), ..good.clone() };
    let smaller = RoundOutcome { applied: good.applied[..1].to_vec(), skipped: vec![1], ..lie.clone() };
    let refused = [
        (two_roots(voted(&good, 2), voted(&good, 2)), "same roots"),
        (two_roots(voted(&good, 2), voted(&smaller, 2)), "two sets"),
        (two_roots(voted(&good, 2), voted(&lie, 3)), "one node"),
        (two_roots(voted(&good, 2), voted(&RoundOutcome { round: 1, ..lie.clone() }, 2)), "one node and round"),
        (two_roots(voted(&good, 2), VotedOutcome { outcome: lie.clone(), ..voted(&good, 2) }), "another outcome"),
    ];
    for (message, words) in refused {
        let log = world.refused(4, Code::Invalid, message);
        assert!(log.contains(words), "{words}: {log}");
    }
    let stolen = VotedOutcome {
        vote: person(4).seal(&RoundVote { node: id(2), job, round: 0, outcome: lie.digest() }),
        ..voted(&lie, 2)
    };
    world.refused(4, Code::Signature, two_roots(voted(&good, 2), stolen));
    let momentum = RoundOutcome { momentum_root: digest("lie"), ..good.clone() };
    world.ok(4, two_roots(voted(&good, 2), voted(&lie, 2)));
    world.ok(4, two_roots(voted(&momentum, 3), voted(&good, 3)));
    assert_eq!([2, 3].map(|number| world.stake(number).bonded), [STAKE / 2; 2]);
    // It is provable after the round closed too.
    world.close(job, &[2, 3]);
    assert!(world.refused(4, Code::Conflict, two_roots(voted(&good, 2), voted(&lie, 2))).contains("punished"));
}

#[test]
fn a_reward_that_still_waits_is_taken_back_into_the_job_or_to_its_creator() {
    let (mut world, job) = working();
    world.prove(2, 4, job, 0);
    world.prove(3, 4, job, 1);
    let outcome = world.outcome(job);
    let lie = RoundOutcome { params_root: digest("lie"), ..outcome.clone() };
    world.close(job, &[2, 3]);
    assert_eq!((world.job(job).escrow, world.job(job).paid), (500_000, 100_000));
    world.ok(4, two_roots(voted(&outcome, 2), voted(&lie, 2)));
    assert_eq!((world.job(job).escrow, world.job(job).paid, world.offences()[0].withheld), (550_000, 50_000, 50_000));
    world.ok(1, Message::CancelJob { job_id: job });
    let creator = world.account(1).balance;
    world.ok(4, two_roots(voted(&outcome, 3), voted(&lie, 3)));
    assert_eq!((world.job(job).escrow, world.job(job).paid), (0, 0));
    // And the creator's share of the slash.
    assert_eq!(world.account(1).balance, creator + 50_000 + 150);
    world.pass(5, &[1, 2, 3, 4]);
    assert_eq!([2, 3].map(|number| world.node(number).rewards), [0, 0]);
    assert_eq!(world.job(job).status, JobStatus::Failed);
}

#[test]
fn a_receipt_that_contradicts_the_ledger_is_forged_and_one_that_does_not_is_not() {
    let (mut world, job) = working();
    let good = honest(&world, job);
    let forged = |receipt: &Receipt| report(Evidence::ForgedReceipt { receipt: person(2).seal(receipt) });
    assert!(world.refused(4, Code::Invalid, forged(&good)).contains("says what the ledger says"));
    let old = Receipt { assignment: AssignmentId([1; 32]), in_opt_root: digest("x"), ..good.clone() };
    world.refused(4, Code::Stale, forged(&old));
    let lies: [fn(&mut Receipt); 4] = [
        |receipt| receipt.in_params_root = digest("another model"),
        |receipt| receipt.in_opt_root = digest("another optimizer"),
        |receipt| receipt.computation_hash = digest("another shard or seed"),
        |receipt| receipt.out_state_root = digest("not what was hashed"),
    ];
    for lie in lies {
        let (mut world, job) = working();
        let mut receipt = honest(&world, job);
        lie(&mut receipt);
        world.ok(4, forged(&receipt));
        assert_eq!((world.stake(2).bonded, world.offences()[0].id.kind), (STAKE / 2, OffenceKind::ForgedReceipt));
    }
}

#[test]
fn a_creator_is_not_paid_for_its_own_offence_and_who_has_no_stake_loses_reputation() {
    let mut world = World::of_nodes_with(3, economy());
    let job = world.submit(2, JobSpec { budget: 0, ..spec(1, Quorum::All) }, 1);
    world.ok(2, Message::Bond { amount: STAKE });
    world.lease(2, job, 0);
    let first = honest(&world, job);
    let second = Receipt { update_digest: digest("x"), ..first.clone() };
    let balance = world.account(2).balance;
    world.ok(3, both(&first, &second));
    let offence = world.offences().remove(0);
    assert_eq!((offence.to_creator, offence.burned, world.account(2).balance), (0, 400, balance));
    let poor = world.submit(1, JobSpec { budget: 0, ..spec(1, Quorum::All) }, 1);
    world.lease(3, poor, 0);
    let first = honest(&world, poor);
    let [a, b] =
        [first.clone(), Receipt { update_digest: digest("x"), ..first }].map(|receipt| person(3).seal(&receipt));
    world.ok(1, report(Evidence::TwoReceipts { first: a, second: b }));
    assert_eq!((world.offences()[1].slashed, world.node(3).reputation), (0, 5_000));
}

#[test]
fn the_evidence_of_the_largest_job_fits_into_a_transaction() {
    let (world, job) = working();
    let applied = |slot| crate::types::AppliedSlot { slot, update_digest: digest("u"), node: id(1), samples: u64::MAX };
    let outcome = RoundOutcome { applied: (0..1_000).map(applied).collect(), skipped: vec![], ..world.outcome(job) };
    let other = RoundOutcome { params_root: digest("lie"), ..outcome.clone() };
    let message = two_roots(voted(&outcome, 2), voted(&other, 2));
    assert!(world.sign(4, message).len() < crate::chain::wire::MAX_TRANSACTION);
}
