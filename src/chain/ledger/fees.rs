//! Fees: what keeps spam out.
//!
//! A transaction costs its creator a fixed fee, which is burned. A node's work costs nothing: beats, leases, reports,
//! receipts and closes keep the network going, and a node must be able to prove what it did with an empty account. So
//! that this is no way to send spam for nothing, it holds for registered nodes alone, whose registration was paid for,
//! and for so many transactions a minute; beyond them, work costs what everything costs. Where a faucet gives money to
//! every newcomer, its first registration is free: nobody could pay for it.

use super::{
    money,
    refusal::{Refusal, ensure},
    state::State,
};
use crate::{
    chain::{records::Allowance, wire::Message},
    types::NodeKey,
};

/// Milliseconds of live time for which an allowance counts.
const MINUTE: u64 = 60_000;

/// What a transaction costs.
enum Price {
    Nothing,
    /// One of the creator's free ones.
    Allowance(Allowance),
    Fee(u64),
}

/// Refuses a transaction whose creator could not pay for it now.
pub(super) fn check(state: &State, creator: &NodeKey, message: &Message) -> Result<(), Refusal> {
    check_funds(state, creator, &price(state, creator, message))
}

fn check_funds(state: &State, creator: &NodeKey, price: &Price) -> Result<(), Refusal> {
    let Price::Fee(fee) = price else { return Ok(()) };
    let balance = state.account(creator).map_or(0, |account| account.balance);
    ensure(balance >= *fee, || {
        Refusal::funds(format!("a transaction costs {fee}, the balance is {balance}; put money into the account first"))
    })
}

/// Takes what a transaction costs, whatever becomes of its message.
pub(super) fn charge(state: &mut State, creator: &NodeKey, message: &Message) -> Result<(), Refusal> {
    let price = price(state, creator, message);
    check_funds(state, creator, &price)?;
    match price {
        Price::Nothing => Ok(()),
        Price::Allowance(allowance) => {
            state.put_allowance(creator, allowance);
            Ok(())
        }
        Price::Fee(fee) => {
            money::debit(state, creator, fee, "put money into the account first")?;
            money::burn(state, fee);
            money::edit_totals(state, |totals| totals.fees = totals.fees.saturating_add(fee));
            Ok(())
        }
    }
}

fn price(state: &State, creator: &NodeKey, message: &Message) -> Price {
    let Some(economy) = state.economy().filter(|economy| economy.transaction_fee > 0) else { return Price::Nothing };
    let registered = state.node(creator).is_some();
    let is_first_registration = !registered && matches!(message, Message::RegisterNode { .. });
    if is_first_registration && state.parameters().faucet_per_account > 0 {
        return Price::Nothing;
    }
    let minute = state.clock().live / MINUTE;
    let known = state.allowance(creator).copied().filter(|allowance| allowance.minute == minute);
    let used = known.map_or(0, |allowance| allowance.used);
    if registered && is_work(message) && used < economy.free_per_minute {
        return Price::Allowance(Allowance { minute, used: used + 1 });
    }
    Price::Fee(economy.transaction_fee)
}

/// What a node sends because it works.
fn is_work(message: &Message) -> bool {
    matches!(
        message,
        Message::UpdateHeartbeat { .. }
            | Message::TakeLease { .. }
            | Message::UpdateTaskStatus { .. }
            | Message::SubmitReceipt { .. }
            | Message::CloseRound { .. }
            | Message::ReportInference { .. }
            | Message::OfferStorage { .. }
            | Message::Held { .. }
            | Message::Dropped { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::super::{
        Economy, Genesis, Parameters,
        testing::{FAUCET, World, economy, genesis, id, register_message, spec, with_economy},
    };
    use super::*;
    use crate::{
        chain::{
            records::Totals,
            wire::{Code, query},
        },
        types::Quorum,
    };

    const FEE: u64 = 7;

    fn costly() -> Economy {
        Economy { transaction_fee: FEE, free_per_minute: 3, ..economy() }
    }

    fn pause(world: &World) -> Message {
        Message::PauseJob { job_id: world.changes(0).jobs[0].id, paused: true }
    }

    #[test]
    fn a_transaction_costs_its_fee_whether_it_works_or_not_and_the_fee_is_burned() {
        let mut world = World::of_nodes_with(2, costly());
        assert_eq!(world.account(1).balance, FAUCET, "where a faucet pays, the first registration is free");
        let supply = world.ledger.state.clock().supply;
        world.ok(1, register_message());
        world.refused(2, Code::Funds, Message::Bond { amount: FAUCET });
        assert_eq!([1, 2].map(|number| world.account(number).balance), [FAUCET - FEE; 2]);
        assert_eq!(world.ledger.state.clock().supply, supply - 2 * FEE);
        let totals: Totals = world.query(query::GET_TOTALS, &());
        assert_eq!((totals.fees, totals.burned), (2 * FEE, 2 * FEE));
    }

    #[test]
    fn who_can_not_pay_is_refused_before_the_block_and_in_it_with_the_price() {
        let mut world = World::of_nodes_with(2, costly());
        let job = world.submit(1, spec(1, Quorum::All), 1);
        let left = world.account(1).balance - FEE - (FEE - 1);
        world.ok(1, Message::Send { to: id(2), amount: left });
        assert_eq!(world.account(1).balance, FEE - 1);
        let pause = world.sign(1, pause(&world));
        let checked = world.ledger.check(&pause);
        assert_eq!(checked.code, Code::Funds as u32);
        assert!(checked.log.contains("costs 7, the balance is 6"), "{}", checked.log);
        let nonce = world.account(1).nonce;
        let result = world.block(1, &[pause]).results.remove(0);
        assert_eq!((result.code, world.account(1).nonce), (Code::Funds as u32, nonce + 1));
        assert!(!world.job(job).paused && world.account(1).balance == FEE - 1);
        // Its work goes on.
        world.lease(1, job, 0);
        world.prove(1, 2, job, 0);
    }

    #[test]
    fn work_is_free_so_often_a_minute_and_for_registered_nodes_alone() {
        let mut world = World::of_nodes_with(2, costly());
        let lease = |world: &World| {
            world.sign(
                2,
                Message::TakeLease {
                    task_id: crate::types::TaskId { job: crate::types::JobId([0; 32]), slot: 0 },
                    generation: 0,
                },
            )
        };
        for paid in [0, 0, 0, FEE, 2 * FEE] {
            let lease = lease(&world);
            assert_eq!(world.block(1, &[lease]).results[0].code, Code::NotFound as u32);
            assert_eq!(world.account(2).balance, FAUCET - paid);
        }
        (0..13).for_each(|_| drop(world.block(5_000, &[])));
        let again = lease(&world);
        world.block(1, &[again]);
        assert_eq!(world.account(2).balance, FAUCET - 2 * FEE, "another minute has begun");
        let stranger = world.sign(200, Message::UpdateHeartbeat { beats: vec![world.beat(2, false)] });
        assert_eq!(world.block(1, &[stranger]).results[0].code, 0);
        assert_eq!(world.account(200).balance, 5_000 - FEE, "who is no node pays for the beats that it brings");
    }

    #[test]
    fn without_a_faucet_a_newcomer_needs_money_that_somebody_sent() {
        let parameters = Parameters { faucet_per_account: 0, ..genesis().parameters };
        let mut world = World::with(Genesis { parameters, ..with_economy(costly()) });
        let register = world.sign(1, register_message());
        assert_eq!(world.ledger.check(&register).code, Code::Funds as u32);
        world.ok(200, Message::Send { to: id(1), amount: FEE });
        assert_eq!((world.account(200).balance, world.account(1).balance), (5_000 - 2 * FEE, FEE));
        world.ok(1, register_message());
        assert_eq!(world.account(1).balance, 0);
        world.refused(200, Code::Funds, Message::Send { to: id(1), amount: u64::MAX });
        world.refused(200, Code::Invalid, Message::Send { to: id(1), amount: 0 });
    }

    #[test]
    fn without_a_fee_nothing_is_counted() {
        let mut world = World::of_nodes_with(2, economy());
        world.pass(3, &[1, 2]);
        assert_eq!((world.ledger.state.allowance(&id(1)), world.account(1).balance), (None, FAUCET));
    }
}
