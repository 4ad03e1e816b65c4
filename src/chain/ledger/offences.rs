//! Offences: what a node signed and no honest one does, shown by its own signatures, and what it costs.
//!
//! The ledger judges what it can check itself: two receipts, two roots, a receipt that contradicts committed state, by the
//! rules of `chain::offence`. Whether a result is true is not decided here; for that there are audits, and `verdicts`.

use super::{
    Event,
    economy::MILLIONTHS,
    jobs, money, nodes,
    refusal::{Refusal, ensure},
    reputation, stake,
    state::State,
    transaction::Context,
};
use crate::{
    chain::{
        offence,
        records::{Offence, OffenceId, OffenceKind},
        wire::{Evidence, VotedOutcome},
    },
    codec,
    types::{Digest, NodeKey, Receipt, Round, RoundVote, Signed, TaskId},
};

/// Takes evidence of an offence, and punishes it. Answers what was slashed.
pub(super) fn report(state: &mut State, context: &Context, evidence: &Evidence) -> Result<Vec<u8>, Refusal> {
    let id = match evidence {
        Evidence::TwoReceipts { first, second } => two_receipts(state, first, second)?,
        Evidence::TwoRoots { first, second } => two_roots(state, first, second)?,
        Evidence::ForgedReceipt { receipt } => forged_receipt(state, receipt)?,
    };
    ensure(id.node != context.creator, || Refusal::unauthorized("a node can't report its own offence"))?;
    let slashed = punish(state, &id, Some(context.creator), Digest::of(&codec::encode(evidence)))?;
    Ok(codec::encode(&slashed))
}

/// Two results for one assignment. Of machines of two kinds two results may be honest, unless they began from two states.
fn two_receipts(state: &State, first: &Signed, second: &Signed) -> Result<OffenceId, Refusal> {
    let [one, other] = [open_receipt(first)?, open_receipt(second)?];
    ensure(offence::of_one_assignment(&one, &other), || {
        Refusal::invalid("the receipts are not of one node and assignment")
    })?;
    ensure(offence::receipts_conflict(&one, &other), || {
        Refusal::invalid(
            "the receipts have one result, or are of two kinds of machines: a node that began again may sign both",
        )
    })?;
    named(state, OffenceKind::TwoReceipts, one.node, one.task, one.round)
}

/// Two roots for one set of updates: the aggregate is the same to the byte wherever it is made.
fn two_roots(state: &State, first: &VotedOutcome, second: &VotedOutcome) -> Result<OffenceId, Refusal> {
    let voters = [voter(first)?, voter(second)?];
    let (one, other) = (&first.outcome, &second.outcome);
    ensure(voters[0] == voters[1] && (one.job, one.round) == (other.job, other.round), || {
        Refusal::invalid("the votes are not of one node and round")
    })?;
    ensure(offence::of_one_set(one, other), || {
        Refusal::invalid("the outcomes apply two sets of updates: an honest node may vote for both")
    })?;
    ensure(offence::roots_conflict(one, other), || Refusal::invalid("the outcomes have the same roots"))?;
    named(state, OffenceKind::TwoRoots, voters[0], TaskId { job: one.job, slot: 0 }, one.round)
}

/// The node that voted for exactly this outcome.
fn voter(voted: &VotedOutcome) -> Result<NodeKey, Refusal> {
    let vote: RoundVote = voted.vote.open().map_err(|error| Refusal::unopened("vote", &error))?;
    let outcome = &voted.outcome;
    ensure((vote.job, vote.round, vote.outcome) == (outcome.job, outcome.round, outcome.digest()), || {
        Refusal::invalid("the vote is for another outcome")
    })?;
    Ok(vote.node)
}

/// A receipt of the present lease and round that contradicts what the ledger has committed for it. An honest node derives
/// both from that state before it signs.
fn forged_receipt(state: &State, signed: &Signed) -> Result<OffenceId, Refusal> {
    let receipt = open_receipt(signed)?;
    let task = state.known_task(&receipt.task)?;
    let job = jobs::open_job(state, &receipt.task.job)?;
    ensure(offence::is_present(job, task, &receipt), || {
        Refusal::stale("only a receipt of the present lease and round can be judged")
    })?;
    ensure(offence::contradicts(job, task, &receipt), || Refusal::invalid("the receipt says what the ledger says"))?;
    named(state, OffenceKind::ForgedReceipt, receipt.node, receipt.task, receipt.round)
}

fn open_receipt(signed: &Signed) -> Result<Receipt, Refusal> {
    signed.open().map_err(|error| Refusal::unopened("receipt", &error))
}

/// The offence by its name, if its node, job and round are known here.
pub(super) fn named(
    state: &State,
    kind: OffenceKind,
    node: NodeKey,
    task: TaskId,
    round: Round,
) -> Result<OffenceId, Refusal> {
    state.known_node(&node)?;
    state.known_task(&task)?;
    let open = state.known_job(&task.job)?.round;
    ensure(round <= open, || Refusal::stale(format!("round {round} has not begun, round {open} is open")))?;
    Ok(OffenceId { node, kind, job: task.job, round })
}

/// Punishes an offence, once for all time: part of the stake, the rewards of the round that still wait, and reputation.
/// Answers what was slashed.
pub(super) fn punish(
    state: &mut State,
    id: &OffenceId,
    reporter: Option<NodeKey>,
    evidence: Digest,
) -> Result<u64, Refusal> {
    if let Some(known) = state.offence(id) {
        return Err(Refusal::conflict(format!("it was punished at height {}", known.height)));
    }
    let economy = *state.demand_economy()?;
    let creator = state.known_job(&id.job)?.creator;
    let slashed = stake::slash(state, &id.node, economy.slash(id.kind));
    let share = |millionths: u32| {
        let share = u128::from(slashed) * u128::from(millionths) / u128::from(MILLIONTHS);
        u64::try_from(share).expect("a part of what was slashed, which fits")
    };
    let to_reporter = reporter.map_or(0, |_| share(economy.reporter_share));
    // Nobody is paid for an own offence.
    let to_creator = if creator == id.node { 0 } else { share(economy.creator_share) };
    let burned = slashed - to_reporter - to_creator;
    reporter.iter().for_each(|reporter| money::credit(state, reporter, to_reporter));
    if to_creator > 0 {
        money::credit(state, &creator, to_creator);
    }
    money::burn(state, burned);
    let withheld = money::withhold(state, &id.job, id.round, &id.node);
    reputation::punish(state, &id.node, economy.offence_penalty);
    nodes::assess(state, &id.node);
    let clock = state.clock();
    let offence = Offence {
        id: *id,
        reporter,
        evidence,
        slashed,
        to_reporter,
        to_creator,
        burned,
        withheld,
        height: clock.height,
        punished_at: clock.time,
    };
    state.put_offence(id, offence);
    state.emit(
        Event::new("offence_punished")
            .with("node_id", id.node)
            .with("job_id", id.job)
            .with("round", id.round)
            .with("kind", id.kind)
            .with("evidence", evidence)
            .with("slashed", slashed)
            .with("withheld", withheld),
    );
    Ok(slashed)
}

#[cfg(test)]
#[path = "offences_tests.rs"]
mod tests;
