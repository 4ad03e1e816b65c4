//! Offences that this node sees, and reports on the ledger that punishes them.
//!
//! Receipts that it is asked to check and votes that it hears are signed, and two signatures that no honest node gives are evidence
//! (`chain::offence`). What is remembered for that is of open rounds and bounded. It never reports on a ledger without an economy,
//! which knows no offences, never this node itself, and no offence twice.

use std::collections::{BTreeMap, BTreeSet};

use super::{Coordinator, Pending};
use crate::{
    api::views::peer_text,
    chain::{
        offence,
        records::{OffenceId, OffenceKind},
        wire::{Evidence, Message, VotedOutcome},
    },
    types::{AssignmentId, Digest, JobId, NodeKey, Receipt, Round, RoundOutcome, RoundVote, Signed},
};

/// Receipts that are remembered, 1 KiB each; then those of all rounds are forgotten. A node checks a few a round.
const MAX_RECEIPTS: usize = 1_024;
/// Votes of one node that are remembered of a round: twice as many as a round counts. Further ones are not looked at.
const MAX_VOTES_A_NODE: usize = 8;
/// Outcomes that are remembered of a round, 100 KiB each for a thousand slots: honest nodes propose one or two.
const MAX_OUTCOMES: usize = 16;
/// Rounds whose votes are remembered; the one that was heard of first goes. A node works for a few jobs at once.
const MAX_ROUNDS: usize = 16;
/// Reports that are remembered, so that none is sent twice; then the ledger says so.
const MAX_REPORTED: usize = 4_096;

/// What was signed in a round.
#[derive(Debug, Default)]
struct Votes {
    outcomes: BTreeMap<Digest, RoundOutcome>,
    votes: BTreeMap<(NodeKey, Digest), Signed>,
}

impl Votes {
    /// The votes of a node, with the outcomes that they are for.
    fn of(&self, node: &NodeKey) -> impl Iterator<Item = (&Digest, &Signed)> {
        let from = (*node, Digest([0; 32]));
        self.votes.range(from..=(*node, Digest([0xff; 32]))).map(|((_, outcome), vote)| (outcome, vote))
    }

    fn two_roots(&self, node: &NodeKey) -> Option<Evidence> {
        let known: Vec<(&RoundOutcome, &Signed)> =
            self.of(node).filter_map(|(digest, vote)| Some((self.outcomes.get(digest)?, vote))).collect();
        let conflict = |one: &RoundOutcome, other: &RoundOutcome| {
            offence::of_one_set(one, other) && offence::roots_conflict(one, other)
        };
        let pairs =
            known.iter().enumerate().flat_map(|(at, one)| known[at + 1..].iter().map(move |other| (one, other)));
        let (one, other) = pairs.into_iter().find(|(one, other)| conflict(one.0, other.0))?;
        let voted = |(outcome, vote): &(&RoundOutcome, &Signed)| VotedOutcome {
            outcome: (*outcome).clone(),
            vote: (*vote).clone(),
        };
        Some(Evidence::TwoRoots { first: voted(one), second: voted(other) })
    }
}

/// What this node saw signed.
#[derive(Debug, Default)]
pub(super) struct Reports {
    receipts: BTreeMap<(NodeKey, AssignmentId), (Receipt, Signed)>,
    rounds: Vec<((JobId, Round), Votes)>,
    reported: BTreeSet<OffenceId>,
}

impl Reports {
    /// A receipt of a present lease was seen: evidence, if another one of it was that can't be honest beside it.
    fn see_receipt(&mut self, receipt: &Receipt, signed: &Signed) -> Option<Evidence> {
        if let Some((known, first)) = self.receipts.get(&(receipt.node, receipt.assignment)) {
            let conflict = offence::of_one_assignment(known, receipt) && offence::receipts_conflict(known, receipt);
            return conflict.then(|| Evidence::TwoReceipts { first: first.clone(), second: signed.clone() });
        }
        if self.receipts.len() >= MAX_RECEIPTS {
            self.receipts.clear();
        }
        self.receipts.insert((receipt.node, receipt.assignment), (receipt.clone(), signed.clone()));
        None
    }

    /// A holder's vote was heard, with the outcome that it is for or without: evidence against each node that has voted for two
    /// roots of one set of updates.
    fn see_vote(
        &mut self,
        vote: &RoundVote,
        signed: &Signed,
        outcome: Option<&RoundOutcome>,
    ) -> Vec<(NodeKey, Evidence)> {
        let votes = self.round(vote.job, vote.round);
        if votes.of(&vote.node).count() >= MAX_VOTES_A_NODE {
            return Vec::new();
        }
        votes.votes.insert((vote.node, vote.outcome), signed.clone());
        let told =
            outcome.filter(|outcome| !votes.outcomes.contains_key(&vote.outcome) && outcome.digest() == vote.outcome);
        let concerned: Vec<NodeKey> = match told.filter(|_| votes.outcomes.len() < MAX_OUTCOMES) {
            Some(outcome) => {
                votes.outcomes.insert(vote.outcome, outcome.clone());
                votes.votes.keys().filter(|(_, digest)| *digest == vote.outcome).map(|(node, _)| *node).collect()
            }
            None => vec![vote.node],
        };
        concerned.into_iter().filter_map(|node| Some((node, votes.two_roots(&node)?))).collect()
    }

    /// The votes of the open round of a job. With the first of them, all rounds of the job before it are over.
    fn round(&mut self, job: JobId, round: Round) -> &mut Votes {
        let known = self.rounds.iter().position(|(name, _)| *name == (job, round));
        let place = known.unwrap_or_else(|| {
            self.forget(&job, round);
            if self.rounds.len() >= MAX_ROUNDS {
                self.rounds.remove(0);
            }
            self.rounds.push(((job, round), Votes::default()));
            self.rounds.len() - 1
        });
        &mut self.rounds[place].1
    }

    /// The rounds of a job before this one are over.
    fn forget(&mut self, job: &JobId, before: Round) {
        self.rounds.retain(|((other, round), _)| other != job || *round >= before);
        self.receipts.retain(|_, (receipt, _)| receipt.task.job != *job || receipt.round >= before);
    }

    /// True the first time.
    fn is_new(&mut self, id: &OffenceId) -> bool {
        if self.reported.len() >= MAX_REPORTED {
            self.reported.clear();
        }
        self.reported.insert(*id)
    }
}

impl Coordinator {
    /// A node asks for its receipt to be checked.
    pub(super) fn look_at_receipt(&mut self, signed: &Signed) {
        let Ok(receipt) = signed.open::<Receipt>() else { return };
        let task = receipt.task;
        let Some(ledger) = self.ledger_of(&task.job) else { return };
        let Some(view) = self.ledgers.get(&ledger).map(|state| &state.view) else { return };
        let (Some(job), Some(record)) = (view.jobs.get(&task.job), view.tasks.get(&task)) else { return };
        if !offence::is_present(job, record, &receipt) {
            return;
        }
        let forged = offence::contradicts(job, record, &receipt);
        let id = |kind| OffenceId { node: receipt.node, kind, job: task.job, round: receipt.round };
        if forged {
            let evidence = Evidence::ForgedReceipt { receipt: signed.clone() };
            self.report_offence(&ledger, id(OffenceKind::ForgedReceipt), evidence);
        }
        if let Some(evidence) = self.reports.see_receipt(&receipt, signed) {
            self.report_offence(&ledger, id(OffenceKind::TwoReceipts), evidence);
        }
    }

    /// A vote was heard, perhaps with its outcome.
    pub(super) fn look_at_vote(&mut self, signed: &Signed, outcome: Option<&RoundOutcome>) {
        let Ok(vote) = signed.open::<RoundVote>() else { return };
        let Some(ledger) = self.ledger_of(&vote.job) else { return };
        let open = self.ledgers.get(&ledger).and_then(|state| state.view.jobs.get(&vote.job)).map(|job| job.round);
        // Only who holds a task is listened to: everybody can sign.
        if open != Some(vote.round) || !self.holders(&ledger, &vote.job).contains(&vote.node) {
            return;
        }
        for (node, evidence) in self.reports.see_vote(&vote, signed, outcome) {
            let id = OffenceId { node, kind: OffenceKind::TwoRoots, job: vote.job, round: vote.round };
            self.report_offence(&ledger, id, evidence);
        }
    }

    fn report_offence(&mut self, ledger: &str, id: OffenceId, evidence: Evidence) {
        let punishes = self.ledgers.get(ledger).and_then(|state| state.terms).is_some_and(|terms| terms.economy);
        if !punishes || id.node == self.me || !self.reports.is_new(&id) {
            return;
        }
        let OffenceId { node, kind, job, round } = id;
        tracing::warn!(%job, round, node = %peer_text(&node), %kind, "a node signed what no honest one does; it is reported");
        let message = Message::ReportOffence { evidence: Box::new(evidence) };
        self.submit(ledger, message, true, Pending::Report { id });
    }

    /// The ledger judged a report.
    pub(super) fn on_reported(&mut self, id: &OffenceId, code: u32, log: &str) {
        let OffenceId { node, kind, job, round } = id;
        if code == 0 {
            tracing::info!(%job, round, node = %peer_text(node), %kind, "the offence was punished");
        } else {
            tracing::info!(%job, round, node = %peer_text(node), %kind, log, "the report of an offence changed nothing");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{identity::Keypair, types::AppliedSlot};

    const JOB: JobId = JobId([1; 32]);

    fn outcome(root: u8, samples: u64) -> RoundOutcome {
        let cid = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy".parse().unwrap();
        let applied = AppliedSlot { slot: 0, update_digest: Digest([7; 32]), node: NodeKey([8; 32]), samples };
        RoundOutcome {
            job: JOB,
            round: 3,
            params_root: Digest([root; 32]),
            momentum_root: Digest([9; 32]),
            model_cid: cid,
            momentum_cid: cid,
            applied: vec![applied],
            skipped: vec![],
        }
    }

    /// Node `who` votes for it; `told` if the outcome is heard with the vote. Who has done wrong then.
    fn hear(reports: &mut Reports, who: u8, outcome: &RoundOutcome, told: bool) -> Vec<NodeKey> {
        let keypair = Keypair::from_secret(&[who; 32]);
        let vote = RoundVote { job: JOB, round: outcome.round, outcome: outcome.digest(), node: keypair.node_key() };
        let found = reports.see_vote(&vote, &keypair.seal(&vote), told.then_some(outcome));
        found.into_iter().map(|(node, _)| node).collect()
    }

    #[test]
    fn two_votes_for_two_roots_of_one_set_are_evidence_and_nothing_else_is() {
        let mut reports = Reports::default();
        let (one, other, of_another_set) = (outcome(1, 5), outcome(2, 5), outcome(2, 6));
        assert_eq!(hear(&mut reports, 1, &one, true), []);
        assert_eq!(hear(&mut reports, 1, &one, true), [], "the same vote again");
        assert_eq!(hear(&mut reports, 1, &of_another_set, true), [], "after a change of holder");
        assert_eq!(hear(&mut reports, 2, &other, false), [], "another node");
        assert_eq!(hear(&mut reports, 1, &other, false), [], "for an outcome that nobody told");
        // Node 3 tells it; then node 1 has voted for two roots.
        let liar = Keypair::from_secret(&[1; 32]).node_key();
        assert_eq!(hear(&mut reports, 3, &other, true), [liar]);
        assert_eq!(hear(&mut reports, 1, &other, false), [liar], "and it stays so");
        let next = RoundOutcome { round: 4, ..outcome(1, 5) };
        assert_eq!(hear(&mut reports, 2, &next, true), [], "the round is over");
        assert_eq!(hear(&mut reports, 1, &other, true), []);
    }

    #[test]
    fn what_is_remembered_of_votes_is_bounded() {
        let mut reports = Reports::default();
        for number in 0..2_000_u64 {
            // Backwards, so that no round is over.
            let outcome = RoundOutcome { round: u32::try_from(19 - number % 20).unwrap(), ..outcome(1, number) };
            hear(&mut reports, u8::try_from(number % 5).unwrap() + 1, &outcome, true);
        }
        assert_eq!(reports.rounds.len(), MAX_ROUNDS);
        for (_, votes) in &reports.rounds {
            assert!(votes.outcomes.len() <= MAX_OUTCOMES && votes.votes.len() <= 5 * MAX_VOTES_A_NODE);
        }
        let id = |round| OffenceId { node: NodeKey([1; 32]), kind: OffenceKind::TwoRoots, job: JOB, round };
        assert!(reports.is_new(&id(0)) && !reports.is_new(&id(0)));
        assert!((1..10_000).all(|round| reports.is_new(&id(round))));
        assert!(reports.reported.len() <= MAX_REPORTED);
    }
}
