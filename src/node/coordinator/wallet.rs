//! What a person orders of this node's money and of the ledger's numbers, and asks about them.
//!
//! The ledger alone decides what can be done: here an order becomes a transaction. An order is refused while the ledger is
//! away, so that none is carried out long after the person has given up on it.

use super::{Coordinator, LedgerState, Output, Pending};
use crate::{
    api::{self, Error, ErrorCode, MAX_REWARDED, RewardedRound, Rewards, views::peer_text},
    chain::{records::RoundRecord, wire::Message},
    identity,
    node::edges,
    types::{NodeKey, Signed, Slot},
};

impl Coordinator {
    pub(super) fn on_wallet_asked(&mut self, id: u64) {
        let request = edges::Request::Wallet { ledger: self.config.ledger.clone(), account: self.me };
        self.edge(request, Pending::Files { command: id });
    }

    pub(super) fn on_rewards_asked(&mut self, id: u64) {
        let known = self.ledgers.get(&self.config.ledger).map(|state| rewards(&self.config.ledger, state, &self.me));
        match known {
            Some(known) => {
                let request = edges::Request::Rewards { node: self.me, known: Box::new(known) };
                self.edge(request, Pending::Files { command: id });
            }
            None => self.ledger_is_away(id),
        }
    }

    pub(super) fn on_payment(&mut self, id: u64, payment: api::Payment) {
        let api::Payment { to, amount } = payment;
        let message = Message::Send { to: to.0, amount };
        self.order_amount(id, amount, message, format!("sent {amount} to {to}"));
    }

    pub(super) fn on_bond(&mut self, id: u64, amount: u64) {
        self.order_amount(id, amount, Message::Bond { amount }, format!("bonded {amount}"));
    }

    pub(super) fn on_unbond(&mut self, id: u64, amount: u64) {
        let done = format!("asked {amount} back; `atlas-node wallet show` says when it is in the balance");
        self.order_amount(id, amount, Message::Unbond { amount }, done);
    }

    pub(super) fn on_parameters_asked(&mut self, id: u64) {
        let request = edges::Request::Parameters { ledger: self.config.ledger.clone() };
        self.edge(request, Pending::Files { command: id });
    }

    /// Votes are those of validators, and this node only carries them.
    pub(super) fn on_votes(&mut self, id: u64, votes: Vec<Signed>) {
        let done = "the votes are counted; `atlas-node ledger parameters` shows how many there are".to_owned();
        self.order_of_ledger(id, Message::ChangeParameters { votes }, done);
    }

    fn order_amount(&mut self, id: u64, amount: u64, message: Message, done: String) {
        if amount == 0 {
            return self.reply_error(id, ErrorCode::Invalid, "the amount is 0; it must be at least 1");
        }
        self.order_of_ledger(id, message, done);
    }

    pub(super) fn order_of_ledger(&mut self, id: u64, message: Message, done: String) {
        let ledger = self.config.ledger.clone();
        if self.ledgers.get(&ledger).is_some_and(|state| state.connected) {
            return self.submit(&ledger, message, true, Pending::Command { command: id, done });
        }
        self.ledger_is_away(id);
    }

    pub(super) fn ledger_is_away(&mut self, id: u64) {
        let error = format!("ledger `{}` does not answer at present, and nothing was sent", self.config.ledger);
        let error = Error::new(ErrorCode::Unavailable, error)
            .with_hint("see `atlas-node status` for the way to it, and give the order again when it answers");
        self.output(Output::Reply { id, result: Box::new(Err(error)) });
    }
}

/// What the node's view of the ledger tells of its rewards; what waits is asked of the ledger itself.
fn rewards(ledger: &str, state: &LedgerState, me: &NodeKey) -> Rewards {
    let node = state.view.nodes.get(me);
    let mut rounds: Vec<RewardedRound> =
        state.view.rounds.values().filter_map(|record| rewarded(record, state, me)).collect();
    rounds.sort_by_key(|round| std::cmp::Reverse((round.height, round.job, round.round)));
    let left_out = rounds.len().saturating_sub(MAX_REWARDED);
    rounds.truncate(MAX_REWARDED);
    Rewards {
        node: peer_text(me),
        ledger: ledger.to_owned(),
        address: node.and_then(|node| node.address.clone()).unwrap_or_else(|| identity::address(me)),
        paid: node.map_or(0, |node| node.rewards),
        waiting: 0,
        height: state.view.height,
        rounds,
        left_out: u64::try_from(left_out).unwrap_or(u64::MAX),
    }
}

/// The round, if it applied work of this node.
fn rewarded(record: &RoundRecord, state: &LedgerState, me: &NodeKey) -> Option<RewardedRound> {
    let outcome = &record.outcome;
    let slots: Vec<Slot> = outcome.applied.iter().filter(|one| one.node == *me).map(|one| one.slot).collect();
    if slots.is_empty() {
        return None;
    }
    let job = state.view.jobs.get(&outcome.job)?;
    Some(RewardedRound {
        job: outcome.job,
        name: job.spec.name.clone(),
        round: outcome.round,
        slots,
        height: record.height,
        closed_at: record.closed_at,
        // Both are the ledger's to say.
        due: 0,
        waiting: None,
    })
}
