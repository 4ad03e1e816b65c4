//! Stake: money that a node bonds as a surety, and gets back a while after it asked for it.
//!
//! A node has one stake. What it unbonds waits for `unbonding_millis` of block time and can be slashed until then: who
//! did wrong has no head start. Nothing here decides who is slashed; `offences` does.

use std::time::Duration;

use super::{
    Event,
    economy::MILLIONTHS,
    money,
    refusal::{Refusal, check_range, ensure},
    state::State,
    transaction::Context,
};
use crate::{
    chain::records::{Stake, Unbonding},
    codec,
    types::{NodeKey, Time},
};

/// The most unbondings that one block releases; further ones wait for the next. So a block's cost is bounded however
/// many fall due together.
const MAX_RELEASES: usize = 1_000;

/// Bonds part of the creator's balance. Answers what it has bonded then.
pub(super) fn bond(state: &mut State, context: &Context, amount: u64) -> Result<Vec<u8>, Refusal> {
    check_range("amount", amount, 1, u64::MAX)?;
    let node = context.creator;
    state.known_node(&node)?;
    money::debit(state, &node, amount, "bond less")?;
    let bonded = edit(state, &node, |stake| {
        stake.bonded += amount;
        stake.bonded
    });
    money::edit_totals(state, |totals| totals.bonded += amount);
    state.emit(Event::new("stake_bonded").with("node_id", node).with("amount", amount).with("bonded", bonded));
    Ok(codec::encode(&bonded))
}

/// Asks for part of the creator's stake back. Answers the block time from which it is released.
pub(super) fn unbond(state: &mut State, context: &Context, amount: u64) -> Result<Vec<u8>, Refusal> {
    check_range("amount", amount, 1, u64::MAX)?;
    let node = context.creator;
    let economy = *state.demand_economy()?;
    let stake = state.stake(&node).cloned().unwrap_or_default();
    ensure(amount <= stake.bonded, || {
        Refusal::funds(format!("{amount} are to be unbonded, {} are bonded; unbond less", stake.bonded))
    })?;
    // Never before what was asked back earlier, even if validators made the time shorter: the line stays a line.
    let before = stake.unbonding.last().map_or(Time::ZERO, |last| last.releases_at);
    let releases_at = (state.clock().time + Duration::from_millis(economy.unbonding_millis)).max(before);
    let joins = stake.unbonding.last().is_some_and(|last| last.releases_at == releases_at);
    let most = usize::try_from(economy.max_unbondings).unwrap_or(usize::MAX);
    ensure(joins || stake.unbonding.len() < most, || {
        Refusal::conflict(format!("{most} unbondings wait for their release, which is the most; wait for the first"))
    })?;
    edit(state, &node, |stake| {
        stake.bonded -= amount;
        match stake.unbonding.last_mut().filter(|last| last.releases_at == releases_at) {
            Some(last) => last.amount += amount,
            None => stake.unbonding.push(Unbonding { amount, releases_at }),
        }
    });
    money::edit_totals(state, |totals| {
        totals.bonded -= amount;
        totals.unbonding += amount;
    });
    let event = Event::new("stake_unbonded").with("node_id", node).with("amount", amount);
    state.emit(event.with("releases_at", releases_at.as_millis()));
    Ok(codec::encode(&releases_at))
}

/// Gives back what has waited long enough, the longest waiting first.
pub(super) fn release_due(state: &mut State) {
    for _ in 0..MAX_RELEASES {
        let due = state.index().next_release().filter(|(at, _)| *at <= state.clock().time);
        let Some((_, node)) = due else { return };
        release_first(state, &node);
    }
}

fn release_first(state: &mut State, node: &NodeKey) {
    let Unbonding { amount, .. } = edit(state, node, |stake| stake.unbonding.remove(0));
    money::credit(state, node, amount);
    money::edit_totals(state, |totals| totals.unbonding -= amount);
    state.emit(Event::new("stake_released").with("node_id", node).with("amount", amount));
}

/// Refuses a lease to a node that has bonded less than a lease needs.
pub(super) fn check_enough(state: &State, node: &NodeKey) -> Result<(), Refusal> {
    let needed = state.economy().map_or(0, |economy| economy.min_stake);
    let bonded = state.stake(node).map_or(0, |stake| stake.bonded);
    ensure(bonded >= needed, || {
        Refusal::funds(format!("a lease needs a stake of {needed}, the node has bonded {bonded}; bond more first"))
    })
}

/// Takes so many millionths of all that a node has bonded and of each unbonding, rounded up, out of its stake. The
/// caller must put what is answered somewhere.
pub(super) fn slash(state: &mut State, node: &NodeKey, millionths: u32) -> u64 {
    let Some(stake) = state.stake(node) else { return 0 };
    let left = |amount: u64| amount - part(amount, millionths);
    let kept = |unbonding: &Unbonding| Unbonding { amount: left(unbonding.amount), ..*unbonding };
    let slashed = Stake { bonded: left(stake.bonded), unbonding: stake.unbonding.iter().map(kept).collect() };
    let bonded = stake.bonded - slashed.bonded;
    let unbonding = waiting(stake) - waiting(&slashed);
    put(state, node, slashed);
    money::edit_totals(state, |totals| {
        totals.bonded -= bonded;
        totals.unbonding -= unbonding;
    });
    bonded + unbonding
}

/// So many millionths of an amount, rounded up.
fn part(amount: u64, millionths: u32) -> u64 {
    let part = (u128::from(amount) * u128::from(millionths)).div_ceil(u128::from(MILLIONTHS));
    u64::try_from(part).map_or(amount, |part| part.min(amount))
}

fn waiting(stake: &Stake) -> u64 {
    stake.unbonding.iter().map(|unbonding| unbonding.amount).sum()
}

fn edit<R>(state: &mut State, node: &NodeKey, edit: impl FnOnce(&mut Stake) -> R) -> R {
    let mut stake = state.stake(node).cloned().unwrap_or_default();
    let result = edit(&mut stake);
    put(state, node, stake);
    result
}

/// A stake of nothing is no record, and an unbonding of nothing is none.
fn put(state: &mut State, node: &NodeKey, mut stake: Stake) {
    stake.unbonding.retain(|unbonding| unbonding.amount > 0);
    if stake == Stake::default() {
        state.remove(&super::Key::Stake(*node));
    } else {
        state.put_stake(node, stake);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Economy, Ledger,
        testing::{FAUCET, World, economy, id, spec},
    };
    use super::*;
    use crate::{
        chain::{
            records::Totals,
            wire::{Code, Message, query},
        },
        types::Quorum,
    };

    const DAY: u64 = 86_400_000;

    fn bond(amount: u64) -> Message {
        Message::Bond { amount }
    }

    fn unbond(amount: u64) -> Message {
        Message::Unbond { amount }
    }

    /// A world of nodes whose unbondings take a day.
    fn world(nodes: u8) -> World {
        World::of_nodes_with(nodes, Economy { unbonding_millis: DAY, ..economy() })
    }

    #[test]
    fn what_is_bonded_leaves_the_balance_and_comes_back_after_its_time() {
        let mut world = world(1);
        let bonded = world.send(1, bond(700));
        assert_eq!(codec::decode::<u64>(&bonded.data, 9).unwrap(), 700, "{}", bonded.log);
        assert_eq!((world.account(1).balance, world.stake(1).bonded), (FAUCET - 700, 700));
        let asked = world.send(1, unbond(300));
        let releases_at: Time = codec::decode(&asked.data, 9).unwrap();
        assert_eq!(releases_at, world.now + Duration::from_millis(DAY));
        assert_eq!(world.stake(1).unbonding, [Unbonding { amount: 300, releases_at }]);
        let totals: Totals = world.query(query::GET_TOTALS, &());
        assert_eq!((totals.bonded, totals.unbonding, totals.burned), (400, 300, 0));
        world.block(DAY - 1, &[]);
        assert_eq!(world.account(1).balance, FAUCET - 700);
        let block = world.block(1, &[]);
        assert_eq!((world.account(1).balance, world.stake(1).unbonding.len()), (FAUCET - 400, 0));
        assert!(block.events.iter().any(|event| event.kind == "stake_released"));
        world.ok(1, unbond(400));
        world.block(DAY, &[]);
        assert_eq!((world.account(1).balance, world.stake(1)), (FAUCET, Stake::default()));
        assert_eq!(world.ledger.prove(&super::super::Key::Stake(id(1))).value, None, "a stake of nothing is no record");
    }

    #[test]
    fn more_than_there_is_nothing_and_strangers_bond_and_unbond_nothing() {
        let mut world = world(1);
        for amount in [FAUCET + 1, u64::MAX] {
            assert!(world.refused(1, Code::Funds, bond(amount)).contains("bond less"));
        }
        world.refused(1, Code::Invalid, bond(0));
        world.refused(9, Code::NotFound, bond(1));
        world.ok(1, bond(FAUCET));
        assert_eq!(world.account(1).balance, 0);
        assert!(world.refused(1, Code::Funds, unbond(u64::MAX)).contains("are bonded"));
        world.refused(1, Code::Invalid, unbond(0));
        world.refused(9, Code::Funds, unbond(1));
    }

    #[test]
    fn unbondings_of_a_node_are_few_and_those_of_one_block_are_one() {
        let mut world = World::of_nodes_with(1, Economy { max_unbondings: 2, unbonding_millis: DAY, ..economy() });
        world.ok(1, bond(100));
        let nonce = world.account(1).nonce;
        let both = [world.sign_with(1, nonce, unbond(1)), world.sign_with(1, nonce + 1, unbond(2))];
        world.block(10, &both);
        assert_eq!(world.stake(1).unbonding.iter().map(|unbonding| unbonding.amount).collect::<Vec<_>>(), [3]);
        world.ok(1, unbond(4));
        assert!(world.refused(1, Code::Conflict, unbond(5)).contains("wait for the first"));
        world.block(DAY, &[]);
        world.ok(1, unbond(5));
        assert_eq!(world.stake(1), Stake { bonded: 88, unbonding: vec![world.stake(1).unbonding[0]] });
    }

    #[test]
    fn a_lease_needs_the_least_stake_where_the_genesis_asks_for_one() {
        let mut world = World::of_nodes_with(2, Economy { min_stake: 500, ..economy() });
        let job = world.submit(1, spec(1, Quorum::All), 1);
        let lease = world.lease_message(job, 0);
        world.ok(2, bond(499));
        assert!(world.refused(2, Code::Funds, lease.clone()).contains("a stake of 500"));
        world.ok(2, bond(1));
        world.ok(2, lease);
        world.ok(2, unbond(1));
        assert_eq!(world.task(job, 0).holder, Some(id(2)), "the lease stays with who had the stake when it took it");
    }

    #[test]
    fn a_slash_takes_its_part_of_everything_and_rounds_against_the_offender() {
        for (amount, millionths, expected) in
            [(0, 50_000, 0), (1, 1, 1), (100, 50_000, 5), (101, 50_000, 6), (u64::MAX, 1_000_000, u64::MAX), (7, 0, 0)]
        {
            assert_eq!(part(amount, millionths), expected, "{millionths} millionths of {amount}");
        }
        let mut world = world(1);
        world.ok(1, bond(1_000));
        world.ok(1, unbond(101));
        let state = &mut world.ledger.state;
        assert_eq!(slash(state, &id(1), 100_000), 90 + 11);
        money::burn(state, 101);
        assert_eq!((world.stake(1).bonded, world.stake(1).unbonding[0].amount), (809, 90));
        assert_eq!(slash(&mut world.ledger.state, &id(1), 1_000_000), 899);
        money::burn(&mut world.ledger.state, 899);
        assert_eq!(world.stake(1), Stake::default());
        assert_eq!(slash(&mut world.ledger.state, &id(7), 1_000_000), 0, "who has no stake loses none");
        world.block(DAY, &[]);
    }

    #[test]
    fn a_block_releases_at_most_a_thousand_and_a_restored_ledger_the_same_ones() {
        let mut world = World::of_nodes_with(2, Economy { max_unbondings: 1_000, unbonding_millis: DAY, ..economy() });
        [1, 2].into_iter().for_each(|number| world.ok(number, bond(5_000)));
        for block in 0..600 {
            world.now = world.now + Duration::from_millis(1);
            let unbondings = [1, 2].map(|number| world.sign(number, unbond(1)));
            let result = world.ledger.apply_block(world.now, &unbondings);
            assert!(result.results.iter().all(|result| result.code == 0), "{block}");
        }
        let mut restored = Ledger::restore(&world.ledger.snapshot()).unwrap();
        let waiting = |world: &World| [1, 2].map(|number| world.stake(number).unbonding.len());
        assert_eq!(waiting(&world), [600, 600]);
        world.block(DAY, &[]);
        assert_eq!(restored.apply_block(world.now, &[]).app_hash, world.ledger.app_hash());
        assert_eq!(waiting(&world), [100, 100]);
        world.block(1, &[]);
        assert_eq!(restored.apply_block(world.now, &[]).app_hash, world.ledger.app_hash());
        assert_eq!((waiting(&world), world.account(1).balance), ([0, 0], FAUCET - 4_400));
    }
}
