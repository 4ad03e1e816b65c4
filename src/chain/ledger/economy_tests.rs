//! A ledger with an economy under whatever people send: [`World::block`] checks after every block that no money was made
//! or lost, and that sums and indexes are what the records give.

use proptest::prelude::*;

use super::{
    Economy, Ledger, Rules,
    testing::{CHAIN, World, digest, economy, id, person, register_message, spec},
};
use crate::{
    chain::wire::{Evidence, Message, VotedOutcome},
    types::{JobId, JobSpec, ParameterChange, ParameterVote, Quorum, Receipt, RoundOutcome, RoundVote, Time},
};

/// What a person does next; numbers are folded into what exists.
#[derive(Clone, Debug)]
enum Act {
    Bond(u64),
    Unbond(u64),
    Send(u8, u64),
    Submit(u64),
    /// Every task of a job that is free is taken, every one that is held is proved.
    Work(usize),
    Close(usize),
    Cancel(usize),
    /// Somebody shows two receipts of a task's holder.
    TwoReceipts(usize),
    /// Somebody shows two votes of a person.
    TwoRoots(usize, u8),
    /// Somebody shows a receipt with a wrong hash.
    Forged(usize),
    Register,
    /// The validator votes for another value of one number.
    Vote(usize, u64),
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let amount = || prop_oneof![4 => 0..400_000_u64, 1 => Just(u64::MAX), 1 => 900_000..1_100_000_u64];
    let job = || 0..3_usize;
    prop_oneof![
        4 => amount().prop_map(Act::Bond),
        4 => amount().prop_map(Act::Unbond),
        2 => (1..6_u8, amount()).prop_map(|(to, amount)| Act::Send(to, amount)),
        2 => amount().prop_map(Act::Submit),
        8 => job().prop_map(Act::Work),
        5 => job().prop_map(Act::Close),
        1 => job().prop_map(Act::Cancel),
        3 => job().prop_map(Act::TwoReceipts),
        3 => (job(), 1..5_u8).prop_map(|(job, voter)| Act::TwoRoots(job, voter)),
        2 => job().prop_map(Act::Forged),
        1 => Just(Act::Register),
        3 => (any::<usize>(), prop_oneof![0..3_u64, 1_000..300_000_u64, any::<u64>()])
            .prop_map(|(number, value)| Act::Vote(number, value)),
        4 => prop_oneof![0..10_000_u64, 0..400_000_u64].prop_map(Act::Wait),
    ]
}

fn rules() -> impl Strategy<Value = Economy> {
    let most = 1_000_000_u32;
    (0..=most, 0..=most / 4, 0..=most / 4, 0..10_000_u32, 0..2_u64, prop_oneof![Just(0_u64), 1_000..600_000_u64])
        .prop_map(|(slash, reporter_share, creator_share, offence_penalty, costs, half_life)| Economy {
            unbonding_millis: 60_000,
            max_unbondings: 3,
            min_stake: u64::from(offence_penalty) % 100,
            slash_two_receipts: slash,
            slash_two_roots: slash / 2,
            slash_forged_receipt: slash / 3,
            reporter_share,
            creator_share,
            offence_penalty,
            reputation_half_life_millis: half_life,
            shares_by_reputation: slash % 2 == 0,
            transaction_fee: costs * u64::from(slash % 1_000),
            free_per_minute: 4,
            ..economy()
        })
}

fn job(world: &World, index: usize) -> Option<JobId> {
    let jobs = world.changes(0).jobs;
    jobs.get(index % jobs.len().max(1)).map(|job| job.id)
}

fn number_of(world: &World, job: JobId) -> Option<(u8, Receipt)> {
    let holder = world.task(job, 0).holder?;
    (1..5).find(|number| id(*number) == holder).map(|number| (number, world.receipt(job, 0)))
}

fn message(world: &World, act: &Act) -> Option<Message> {
    let report = |evidence| Some(Message::ReportOffence { evidence: Box::new(evidence) });
    match act {
        Act::Bond(amount) => Some(Message::Bond { amount: *amount }),
        Act::Unbond(amount) => Some(Message::Unbond { amount: *amount }),
        Act::Send(to, amount) => Some(Message::Send { to: id(*to), amount: *amount }),
        Act::Submit(budget) => {
            let spec = JobSpec { budget: *budget, ..spec(2, Quorum::All) };
            Some(Message::SubmitJob { spec: Box::new(spec), shards: super::testing::shards(2) })
        }
        Act::Close(index) => Some(world.close_message(&world.outcome(job(world, *index)?), &[1, 2, 3, 4][..2])),
        Act::Cancel(index) => Some(Message::CancelJob { job_id: job(world, *index)? }),
        Act::TwoReceipts(index) => {
            let (holder, first) = number_of(world, job(world, *index)?)?;
            let second = Receipt { out_state_root: digest("another"), ..first.clone() };
            let [first, second] = [first, second].map(|receipt| person(holder).seal(&receipt));
            report(Evidence::TwoReceipts { first, second })
        }
        Act::TwoRoots(index, voter) => {
            let first = world.outcome(job(world, *index)?);
            let second = RoundOutcome { params_root: digest("lie"), ..first.clone() };
            let voted = |outcome: RoundOutcome| {
                let (job, round, digest) = (outcome.job, outcome.round, outcome.digest());
                let vote = person(*voter).seal(&RoundVote { job, round, outcome: digest, node: id(*voter) });
                VotedOutcome { outcome, vote }
            };
            report(Evidence::TwoRoots { first: voted(first), second: voted(second) })
        }
        Act::Forged(index) => {
            let (holder, receipt) = number_of(world, job(world, *index)?)?;
            report(Evidence::ForgedReceipt { receipt: person(holder).seal(&receipt) })
        }
        Act::Register => Some(register_message()),
        Act::Vote(number, value) => {
            let names: Vec<&str> = Rules::of(world.ledger.genesis())?.values().into_keys().collect();
            let name = names[number % names.len()].to_owned();
            let from_height = world.ledger.height() + 1 + value % 5;
            let change = ParameterChange { chain_id: CHAIN.to_owned(), values: [(name, *value)].into(), from_height };
            let vote = person(250).seal(&ParameterVote { change, validator: id(250) });
            Some(Message::ChangeParameters { votes: vec![vote] })
        }
        Act::Work(_) | Act::Wait(_) => None,
    }
}

/// What the first two people do for a job's two tasks when all goes well, in one block.
fn work(world: &World, job: JobId) -> Vec<Vec<u8>> {
    let step = |(number, slot): (u8, u32)| {
        let holds = world.task(job, slot).holder == Some(id(number));
        let message = if holds {
            world.receipt_message(number, number % 3 + 1, &world.receipt(job, slot))
        } else {
            world.lease_message(job, slot)
        };
        world.sign(number, message)
    };
    [(1, 0), (2, 1)].into_iter().map(step).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn with_an_economy_money_is_conserved_and_replay_and_snapshot_agree(
        rules in rules(),
        acts in proptest::collection::vec((1..5_u8, act()), 1..80),
        cut in 0..80_usize,
    ) {
        let mut world = World::of_nodes_with(4, rules);
        let start = world.ledger.snapshot();
        let begun = world.ledger.state.clock().supply;
        let mut restored: Option<Ledger> = None;
        let mut blocks: Vec<(Time, Vec<Vec<u8>>)> = Vec::new();
        for (index, (who, act)) in acts.iter().enumerate() {
            if index == cut {
                restored = Some(Ledger::restore(&world.ledger.snapshot()).unwrap());
            }
            let millis = if let Act::Wait(millis) = act { *millis } else { 500 };
            let transactions = match act {
                Act::Work(index) => job(&world, *index).map_or(Vec::new(), |job| work(&world, job)),
                act => message(&world, act).map(|message| world.sign(*who, message)).into_iter().collect(),
            };
            let result = world.block(millis, &transactions);
            blocks.push((world.now, transactions.clone()));
            if let Some(restored) = &mut restored {
                prop_assert_eq!(&restored.apply_block(world.now, &transactions), &result);
            }
        }
        let burned = world.ledger.state.totals().burned;
        prop_assert_eq!(world.ledger.state.clock().supply, begun - burned, "only what is burned is gone");
        let mut names: Vec<_> = world.offences().iter().map(|offence| offence.id).collect();
        let all = names.len();
        names.dedup();
        prop_assert_eq!(names.len(), all, "nothing is punished twice");
        let mut replayed = Ledger::restore(&start).unwrap();
        for (time, transactions) in &blocks {
            replayed.apply_block(*time, transactions);
        }
        prop_assert_eq!(replayed.app_hash(), world.ledger.app_hash());
        prop_assert_eq!(replayed.snapshot(), world.ledger.snapshot());
    }
}

#[test]
#[should_panic(expected = "left == right")]
fn a_stake_that_the_sums_do_not_know_would_be_noticed() {
    let mut world = World::of_nodes_with(1, economy());
    world.ok(1, Message::Bond { amount: 10 });
    super::money::edit_totals(&mut world.ledger.state, |totals| totals.bonded -= 1);
    super::testing::check_promises(&world.ledger);
}

#[test]
fn shares_by_reputation_give_to_one_what_the_other_loses() {
    let rewards = |shares_by_reputation: bool| {
        let rules = Economy { shares_by_reputation, reputation_half_life_millis: 0, ..economy() };
        let mut world = World::of_nodes_with(3, rules);
        let job = world.submit(1, JobSpec { budget: 3_000, ..spec(1, Quorum::All) }, 2);
        super::reputation::punish(&mut world.ledger.state, &id(3), 5_000);
        for (number, slot) in [(2, 0), (3, 1)] {
            world.lease(number, job, slot);
            world.prove(number, 1, job, slot);
        }
        world.close(job, &[2, 3]);
        world.pass(4, &[1, 2, 3]);
        [2, 3].map(|number| world.node(number).rewards)
    };
    assert_eq!(rewards(false), [1_500, 750]);
    assert_eq!(rewards(true), [2_000, 1_000]);
}
