//! Money: where it comes from, and how it moves.
//!
//! Every unit is in a balance, in a job's escrow, in a stake, or in a payout that waits for its audit window; their sum is
//! the supply, which only the faucet raises and only [`burn`] lowers. No sum of them can overflow, because the supply does
//! not.

use std::collections::BTreeMap;

use super::{
    Event, Key,
    entries::Payout,
    nodes,
    refusal::{Refusal, check_range, ensure},
    state::State,
    transaction::Context,
};
use crate::{
    chain::records::{Job, Totals},
    types::{JobId, JobStatus, NodeKey, Receipt, Round},
};

/// Credits the faucet's amount to a new node, as far as the supply can still grow.
pub(super) fn open_faucet(state: &mut State, account: &NodeKey) {
    let mut clock = state.clock();
    let amount = state.parameters().faucet_per_account.min(u64::MAX - clock.supply);
    clock.supply += amount;
    state.put_clock(clock);
    credit(state, account, amount);
}

/// Adds to a balance; the account begins to exist if it did not.
pub(super) fn credit(state: &mut State, id: &NodeKey, amount: u64) {
    let mut account = state.account(id).cloned().unwrap_or_default();
    account.balance += amount;
    state.put_account(id, account);
}

/// Takes from a balance. `advice` tells the person what to do where there is too little.
pub(super) fn debit(state: &mut State, id: &NodeKey, amount: u64, advice: &str) -> Result<(), Refusal> {
    let mut account = state.account(id).cloned().unwrap_or_default();
    ensure(account.balance >= amount, || {
        Refusal::funds(format!("{amount} are needed, the balance is {}; {advice}", account.balance))
    })?;
    account.balance -= amount;
    state.put_account(id, account);
    Ok(())
}

/// Gives part of the creator's balance to another account.
pub(super) fn send(state: &mut State, context: &Context, to: &NodeKey, amount: u64) -> Result<Vec<u8>, Refusal> {
    check_range("amount", amount, 1, u64::MAX)?;
    debit(state, &context.creator, amount, "send less")?;
    credit(state, to, amount);
    state.emit(Event::new("money_sent").with("from", context.creator).with("to", to).with("amount", amount));
    Ok(Vec::new())
}

/// What was taken from somewhere is nobody's any more.
pub(super) fn burn(state: &mut State, amount: u64) {
    if amount > 0 {
        let mut clock = state.clock();
        clock.supply -= amount;
        state.put_clock(clock);
        edit_totals(state, |totals| totals.burned = totals.burned.saturating_add(amount));
    }
}

/// Changes the sums of the economy.
pub(super) fn edit_totals(state: &mut State, edit: impl FnOnce(&mut Totals)) {
    let mut totals = state.totals();
    edit(&mut totals);
    state.put_totals(totals);
}

/// Takes back a node's reward of a closed round whose audit window has not ended: to the job's escrow while it is open,
/// else to its creator. Answers how much.
pub(super) fn withhold(state: &mut State, job: &JobId, round: Round, node: &NodeKey) -> u64 {
    let window = state.parameters().audit_window_blocks;
    let Some(due) = state.round(*job, round).map(|record| record.height.saturating_add(window)) else { return 0 };
    let Some(mut payout) = state.payout(due, *job, round).cloned() else { return 0 };
    let Some(share) = payout.shares.remove(node) else { return 0 };
    if payout.shares.is_empty() {
        state.remove(&Key::Payout(due, *job, round));
    } else {
        state.put_payout(due, *job, round, payout);
    }
    let ended = state.edit_job(job, |job| {
        job.paid -= share;
        let ended = job.status != JobStatus::Open;
        job.escrow += if ended { 0 } else { share };
        ended.then_some(job.creator)
    });
    ended.iter().for_each(|creator| credit(state, creator, share));
    share
}

/// Gives what is left of a job's escrow back to its creator.
pub(super) fn refund(state: &mut State, job: &JobId) {
    let (creator, left) = state.edit_job(job, |job| (job.creator, std::mem::take(&mut job.escrow)));
    credit(state, &creator, left);
}

/// Moves the rewards of the round that closes from the job's escrow into a payout that waits for the audit window.
pub(super) fn reserve_rewards(state: &mut State, job: &Job, receipts: &[Receipt]) {
    let shares = shares(state, job, receipts);
    let total: u64 = shares.values().sum();
    if total == 0 {
        return;
    }
    state.edit_job(&job.id, |job| {
        job.escrow -= total;
        job.paid += total;
    });
    let due = state.clock().height.saturating_add(state.parameters().audit_window_blocks);
    state.put_payout(due, job.id, job.round, Payout { shares });
}

/// Reward = base × work × reputation, but never more than the own share in the round's part of the escrow: what is left of
/// it, divided equally over the rounds that are left. Work is counted in local steps. The shares are those of the work, or
/// of work × reputation where the economy says so: then what a low reputation takes from one goes to the others.
fn shares(state: &State, job: &Job, receipts: &[Receipt]) -> BTreeMap<NodeKey, u64> {
    let rounds_left = u64::from(job.spec.rounds.saturating_sub(job.round)).max(1);
    let pool = u128::from(job.escrow / rounds_left);
    let base = u128::from(state.parameters().base_reward);
    let full = u128::from(nodes::FULL);
    let reputation = |receipt: &Receipt| u128::from(state.node(&receipt.node).map_or(0, |node| node.reputation));
    let by_reputation = state.economy().is_some_and(|economy| economy.shares_by_reputation);
    let weight = |receipt: &Receipt| work(receipt) * if by_reputation { reputation(receipt) } else { full };
    let all: u128 = receipts.iter().map(weight).sum();
    let mut shares = BTreeMap::<NodeKey, u64>::new();
    for receipt in receipts {
        let own = (pool * weight(receipt)).checked_div(all).unwrap_or(0);
        let reward = if by_reputation {
            own.min(base * work(receipt) * reputation(receipt) / full)
        } else {
            own.min(base * work(receipt)) * reputation(receipt) / full
        };
        *shares.entry(receipt.node).or_default() += u64::try_from(reward).expect("a part of the escrow, which fits");
    }
    shares.retain(|_, share| *share > 0);
    shares
}

fn work(receipt: &Receipt) -> u128 {
    u128::from(receipt.metrics.iterations)
}

/// Pays out every reward whose audit window has ended.
pub(super) fn release_due(state: &mut State) {
    for (key, payout) in state.due_payouts(state.clock().height) {
        state.remove(&key);
        payout.shares.iter().for_each(|(node, share)| pay(state, node, *share));
    }
}

/// Rewards go to the node's address if the ledger knows its account, otherwise to the node's own.
fn pay(state: &mut State, node: &NodeKey, share: u64) {
    let address = state.node(node).and_then(|node| node.address.clone());
    let account = address.and_then(|address| state.index().account_at(&address)).unwrap_or(*node);
    credit(state, &account, share);
    if state.node(node).is_some() {
        state.edit_node(node, |node| node.rewards = node.rewards.saturating_add(share));
    }
    state.emit(Event::new("reward_paid").with("node_id", node).with("account", account).with("amount", share));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::{
        Genesis, Parameters,
        testing::{FAUCET, World, genesis, id, register_message, room, spec},
    };
    use crate::{
        chain::wire::{Code, Message},
        identity,
        types::{JobSpec, JobStatus, Quorum},
    };

    /// Three nodes, of which the first owns nearly all the money there can be, and a reward without a limit.
    fn rich(balance: u64) -> World {
        let base = genesis();
        let parameters = Parameters { base_reward: u64::MAX, ..base.parameters };
        let mut world = World::with(Genesis { parameters, accounts: BTreeMap::from([(id(1), balance)]), ..base });
        (1..=3).for_each(|number| world.ok(number, register_message()));
        world
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Every block is checked for conservation by [`World::block`].
        #[test]
        fn amounts_near_the_largest_are_neither_lost_nor_paid_twice(
            short_of_all in 0..4 * FAUCET, kept in 0..1_000_u64, rounds in 1..4_u32, cancelled_after in 0..4_u32,
        ) {
            let mut world = rich(u64::MAX - short_of_all);
            let supply = world.ledger.state.clock().supply;
            prop_assert_eq!(supply, (u64::MAX - short_of_all).saturating_add(3 * FAUCET));
            let budget = world.account(1).balance - kept;
            let job = world.submit(1, JobSpec { budget, ..spec(rounds, Quorum::All) }, 2);
            [(2, 0), (3, 1)].into_iter().for_each(|(holder, slot)| world.lease(holder, job, slot));
            for round in 0..rounds {
                if round == cancelled_after {
                    world.ok(1, Message::CancelJob { job_id: job });
                    break;
                }
                [(2, 3, 0), (3, 2, 1)].into_iter().for_each(|(worker, checker, slot)| world.prove(worker, checker, job, slot));
                world.close(job, &[2, 3]);
            }
            world.pass(4, &[1, 2, 3]);
            let paid = world.job(job).paid;
            prop_assert_eq!(world.node(2).rewards + world.node(3).rewards, paid);
            world.pass(4, &[1, 2, 3]);
            prop_assert_eq!((world.job(job).escrow, world.job(job).paid), (0, paid));
            prop_assert_eq!(world.node(2).rewards + world.node(3).rewards, paid, "nobody is paid twice");
            let balances: u64 = (1..=3).map(|number| world.account(number).balance).sum();
            prop_assert_eq!(balances, supply, "all that was not earned went back");
        }
    }

    fn pay_to(address: String) -> Message {
        let Message::RegisterNode { node_id, listen, attributes, .. } = register_message() else { unreachable!() };
        Message::RegisterNode { node_id, address: Some(address), resources: room(2), listen, attributes }
    }

    #[test]
    fn rewards_go_to_a_known_address_and_otherwise_to_the_nodes_own_account() {
        let mut world = World::in_a_round();
        world.ok(1, pay_to(identity::address(&id(200))));
        world.ok(2, pay_to("cosmos1abc123".to_owned()));
        let job = world.changes(0).jobs[0].id;
        world.close(job, &[1, 2]);
        let (first, second) = (world.account(1).balance, world.account(2).balance);
        world.pass(2, &[1, 2, 3]);
        assert_eq!(world.account(200).balance, 5_000, "the audit window has not ended");
        world.pass(1, &[1, 2, 3]);
        assert_eq!(world.account(200).balance, 5_000 + 50_000);
        assert_eq!((world.account(1).balance, world.account(2).balance), (first, second + 50_000));
        assert_eq!(world.node(1).rewards, 50_000);
    }

    #[test]
    fn what_was_earned_stays_earned_when_the_job_is_cancelled() {
        let mut world = World::in_a_round();
        let job = world.changes(0).jobs[0].id;
        world.close(job, &[1, 2]);
        world.ok(1, Message::CancelJob { job_id: job });
        assert_eq!((world.job(job).status, world.job(job).paid), (JobStatus::Failed, 100_000));
        world.pass(3, &[1, 2, 3]);
        assert_eq!(world.account(1).balance, FAUCET - 100_000 + 50_000);
        assert_eq!(world.account(2).balance, FAUCET + 50_000);
        world.refused(1, Code::Conflict, Message::CancelJob { job_id: job });
    }
}
