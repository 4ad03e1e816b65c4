//! Changes of the ledger's numbers, by a vote of its validators.
//!
//! A proposal is what its votes say: which numbers, which values, from which block on. The first vote opens it, more than
//! two thirds of the power accept it, and with its block it takes effect or is gone. Votes come in any transaction, of
//! anybody, one or many at a time. A validator has one proposal open that it began, so that there are never more than
//! validators. Nothing here decides which numbers may change; `rules` does.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use super::{
    Event,
    refusal::{Refusal, check_range, ensure},
    rules,
    state::State,
    tally::{self, Tally},
    transaction::Context,
};
use crate::{
    chain::records::{Proposal, Proposals},
    codec,
    types::{NodeKey, ParameterChange, ParameterVote, Signed},
};

/// The most numbers in one change; there are fewer.
const MAX_VALUES: usize = 32;
/// The most blocks between a vote and what it is for: at a block a second eleven days. A guess: longer ahead nobody knows.
const MAX_NOTICE: u64 = 1_000_000;

/// Takes votes for one change. Answers whether it is accepted now.
pub(super) fn vote(state: &mut State, context: &Context, votes: &[Signed]) -> Result<Vec<u8>, Refusal> {
    let (powers, votes) = tally::open_votes::<ParameterVote>(state, context, votes)?;
    let change = &votes[0].change;
    ensure(votes.iter().all(|vote| vote.change == *change), || {
        Refusal::invalid("the votes are for different changes; each transaction has one")
    })?;
    let voters = voters(&powers, &votes)?;
    check_change(state, change)?;
    let mut proposals = state.proposals().cloned().unwrap_or_default();
    let proposal = find_or_open(state, &mut proposals, change, &voters)?;
    add(proposal, &voters)?;
    let tally = Tally::of(&powers, &proposal.voters);
    let accepted = tally.is_enough();
    proposal.accepted_height = accepted.then_some(state.clock().height);
    let event = Event::new("parameters_voted").with("proposal", proposal.id).with("from_height", change.from_height);
    state.put_proposals(proposals);
    state.emit(event.with("power", tally).with("accepted", accepted));
    Ok(codec::encode(&accepted))
}

/// Who voted, each of them a validator and none twice, in the order of the votes.
fn voters(powers: &BTreeMap<NodeKey, u64>, votes: &[ParameterVote]) -> Result<Vec<NodeKey>, Refusal> {
    let mut seen = BTreeSet::new();
    for ParameterVote { validator, .. } in votes {
        ensure(powers.contains_key(validator), || {
            Refusal::unauthorized(format!("{validator} is no validator of this ledger, and has no vote"))
        })?;
        ensure(seen.insert(*validator), || already(validator))?;
    }
    Ok(votes.iter().map(|vote| vote.validator).collect())
}

fn already(validator: &NodeKey) -> Refusal {
    Refusal::conflict(format!("{validator} has voted for this change already; a vote counts once"))
}

/// Refuses what could not take effect as things are now.
fn check_change(state: &State, change: &ParameterChange) -> Result<(), Refusal> {
    let (own, height) = (&state.genesis().chain_id, state.clock().height);
    ensure(change.chain_id == *own, || {
        let theirs: String = change.chain_id.chars().take(super::MAX_CHAIN_ID).collect();
        Refusal::chain_id(format!("the votes are for ledger `{theirs}`, this is `{own}`"))
    })?;
    ensure(change.from_height > height, || {
        Refusal::stale(format!(
            "the change was to take effect with block {}, this is block {height}; propose it for a later one",
            change.from_height
        ))
    })?;
    check_range("from_height", change.from_height, height + 1, height.saturating_add(MAX_NOTICE))?;
    check_range("length of values", change.values.len(), 1, MAX_VALUES)?;
    rules::in_force(state)?.with(&change.values, change.from_height).map(drop)
}

/// The proposal to make this change, which one of the voters opens if there is none.
fn find_or_open<'a>(
    state: &State,
    proposals: &'a mut Proposals,
    change: &ParameterChange,
    voters: &[NodeKey],
) -> Result<&'a mut Proposal, Refusal> {
    let id = change.id();
    let place = proposals.open.iter().position(|proposal| proposal.id == id);
    let place = place.map_or_else(|| open(state, proposals, change, voters), Ok)?;
    Ok(&mut proposals.open[place])
}

fn open(
    state: &State,
    proposals: &mut Proposals,
    change: &ParameterChange,
    voters: &[NodeKey],
) -> Result<usize, Refusal> {
    let has_one = |voter: &NodeKey| proposals.open.iter().any(|proposal| proposal.opened_by == *voter);
    let opener = voters.iter().find(|voter| !has_one(voter)).ok_or_else(|| {
        Refusal::conflict("who votes here has a proposal open already; vote for that one, or wait for its block")
    })?;
    let (opened_by, id) = (*opener, change.id());
    let order = |proposal: &Proposal| (proposal.change.from_height, proposal.id);
    let place = proposals.open.partition_point(|proposal| order(proposal) < (change.from_height, id));
    let proposal = Proposal {
        id,
        change: change.clone(),
        opened_by,
        opened_height: state.clock().height,
        voters: BTreeSet::new(),
        accepted_height: None,
    };
    proposals.open.insert(place, proposal);
    Ok(place)
}

fn add(proposal: &mut Proposal, voters: &[NodeKey]) -> Result<(), Refusal> {
    if let Some(height) = proposal.accepted_height {
        return Err(Refusal::conflict(format!(
            "the change was accepted at height {height}; no further vote is needed"
        )));
    }
    voters.iter().try_for_each(|voter| ensure(proposal.voters.insert(*voter), || already(voter)))
}

/// Ends the proposals for the next block: those that were accepted take effect, in the order of their names.
pub(super) fn take_effect(state: &mut State) {
    let next = state.clock().height.saturating_add(1);
    let is_due = |proposal: &Proposal| proposal.change.from_height <= next;
    if !state.proposals().is_some_and(|proposals| proposals.open.first().is_some_and(is_due)) {
        return;
    }
    let mut proposals = state.proposals().cloned().unwrap_or_default();
    let later = proposals.open.partition_point(is_due);
    let later = proposals.open.split_off(later);
    let due = mem::replace(&mut proposals.open, later);
    state.put_proposals(proposals);
    due.iter().for_each(|proposal| end(state, proposal, next));
}

/// A change that was sound when it was voted may be none any more after another: then it is dropped, with words.
fn end(state: &mut State, proposal: &Proposal, next: u64) {
    let event = |kind: &str| Event::new(kind).with("proposal", proposal.id).with("from_height", next);
    if proposal.accepted_height.is_none() {
        return state.emit(event("parameters_lapsed"));
    }
    match rules::in_force(state).and_then(|rules| rules.with(&proposal.change.values, next)) {
        Ok(rules) => {
            state.put_rules(rules);
            state.emit(event("parameters_changed"));
        }
        Err(refusal) => state.emit(event("parameters_dropped").with("reason", refusal.text)),
    }
}

#[cfg(test)]
#[path = "governance_tests.rs"]
mod tests;
