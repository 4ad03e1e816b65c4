//! What is due in an open round: fetch, choose, combine, publish, close.

use std::{collections::BTreeSet, time::Duration};

use super::{Attempt, Context, FETCH_WITHIN, Following, MAX_FAULTS, MIN_GRACE, Progress, Received, Set};
use crate::{
    gossip::JobUpdate,
    round::{Opened, Output, edge},
    types::{AppliedSlot, Digest, Quorum, RoundVote, Signed, Time},
};

/// An aggregation without an answer is given up after this long: 64 updates of 64 MB take well under a minute.
const AGGREGATE_WITHIN: Duration = Duration::from_secs(600);

/// The earliest time that something waits for.
#[derive(Default)]
struct Wake(Option<Time>);

impl Wake {
    /// True if `at` has come; otherwise it is waited for.
    fn is_due(&mut self, at: Time, now: Time) -> bool {
        if at > now {
            self.0 = Some(self.0.map_or(at, |other| other.min(at)));
        }
        at <= now
    }
}

impl Following {
    /// Does what is due; returns when something will be. A node that holds no slot and held none only watches.
    pub(in crate::round) fn act(&mut self, context: &mut Context, now: Time) -> Option<Time> {
        let place = self.line().iter().position(|node| *node == self.me)?;
        let patience = context.config.takeover.saturating_mul(u32::try_from(place).unwrap_or(u32::MAX));
        let mut wake = Wake::default();
        self.fetch(context, now, &mut wake);
        self.choose(now, &mut wake);
        let eager = place == 0 || self.opened.quorum == Quorum::All;
        self.enlist(eager, patience, context.config.takeover, now, &mut wake);
        self.combine(context, now, &mut wake);
        self.publish(context, patience, now, &mut wake);
        self.close(context, patience, now, &mut wake);
        wake.0
    }

    fn fetch(&mut self, context: &mut Context, now: Time, wake: &mut Wake) {
        let job = self.opened.job;
        for (cid, content) in &mut self.contents {
            if content.here || content.faults >= MAX_FAULTS || !wake.is_due(content.ask_at, now) {
                continue;
            }
            content.ask_at = now + FETCH_WITHIN;
            wake.is_due(content.ask_at, now);
            context.outputs.push_back(match content.origin {
                Some((slot, node)) => Output::FetchUpdate { job, slot, cid: *cid, node },
                None => Output::FetchModel { job, cid: *cid },
            });
        }
    }

    /// Fixes the set that this node would close with, once the round may close.
    fn choose(&mut self, now: Time, wake: &mut Wake) {
        if self.choice.as_ref().is_some_and(|(set, _)| self.is_current(set) && !self.is_hopeless(set)) {
            return;
        }
        self.choice = None;
        let usable = self.usable();
        let all = usable.len() == self.opened.slots.len();
        if all || self.opened.quorum == Quorum::TwoThirds && self.is_time(usable.len(), now, wake) {
            self.choice = Some((usable, now));
        }
    }

    /// True once two thirds are here and their grace or the hard limit is over. With fewer the round stays open: who makes
    /// no progress loses its lease within `round_limit`, and another node brings the update.
    fn is_time(&mut self, usable: usize, now: Time, wake: &mut Wake) -> bool {
        if !self.is_two_thirds(usable) {
            self.quorum_at = None;
            return false;
        }
        let grace = self.median().map_or(MIN_GRACE, |median| (median / 4).max(MIN_GRACE));
        let quorum_at = *self.quorum_at.get_or_insert(now);
        wake.is_due((quorum_at + grace).min(self.limit_at()), now)
    }

    /// Makes attempts of the sets that are worth combining: proposals, and the own choice when it is this node's turn. Who
    /// is `eager` begins at once: the first in line, and with `quorum = "all"`, where there is but one set, everybody.
    fn enlist(&mut self, eager: bool, patience: Duration, takeover: Duration, now: Time, wake: &mut Wake) {
        let proposals = self.proposals.iter().filter(|(from, _)| **from != self.me);
        let credible: Vec<Set> =
            proposals.filter(|(_, proposal)| self.is_credible(proposal)).map(|(_, (_, set))| set.clone()).collect();
        // A proposal is waited for a little longer, since its updates may be unreachable.
        let patience = if credible.is_empty() { patience } else { patience + takeover };
        let own = self.choice.as_ref().filter(|(_, since)| eager || wake.is_due(*since + patience, now));
        let own = own.map(|(set, _)| set.clone());
        for set in credible.into_iter().chain(own) {
            self.attempts.entry(set).or_insert(Attempt {
                since: now,
                progress: Progress::Idle(now),
                publish_at: now,
                agreed_at: None,
                close_at: now,
            });
        }
    }

    /// True unless the set is not that of accepted receipts, or was combined here to something else.
    fn is_credible(&self, (digest, set): &(Digest, Set)) -> bool {
        let refuted = self.attempts.get(set).is_some_and(|attempt| match &attempt.progress {
            Progress::Done(_, own) => own != digest,
            Progress::Idle(_) | Progress::Running { .. } => false,
        });
        self.is_current(set) && !refuted && !self.is_hopeless(set)
    }

    /// Starts one aggregation, if none runs.
    fn combine(&mut self, context: &mut Context, now: Time, wake: &mut Wake) {
        for attempt in self.attempts.values_mut() {
            if let Progress::Running { deadline, .. } = attempt.progress
                && wake.is_due(deadline, now)
            {
                attempt.progress = Progress::Idle(now);
            }
        }
        let running = |attempt: &Attempt| matches!(attempt.progress, Progress::Running { .. });
        if self.attempts.values().any(running) {
            return;
        }
        let mut waiting = self.attempts.iter().filter_map(|(set, attempt)| match attempt.progress {
            Progress::Idle(from) => Some((set, from)),
            Progress::Running { .. } | Progress::Done(..) => None,
        });
        let next = waiting.find(|(set, from)| self.can_combine(set) && wake.is_due(*from, now));
        let Some(set) = next.map(|(set, _)| set.clone()) else {
            return;
        };
        let id = context.next_id;
        context.next_id += 1;
        let request = self.request(&set);
        if let Some(attempt) = self.attempts.get_mut(&set) {
            let deadline = now + AGGREGATE_WITHIN;
            wake.is_due(deadline, now);
            attempt.progress = Progress::Running { id, deadline };
        }
        let (job, round) = (self.opened.job, self.opened.round);
        context.outputs.push_back(Output::Edge(edge::Request::Aggregate { id, job, round, request }));
    }

    fn request(&self, set: &Set) -> edge::AggregateRequest {
        let update = |received: &Received| {
            let AppliedSlot { slot, update_digest, samples, .. } = received.applied;
            edge::Update { slot, cid: received.cid, digest: update_digest, samples }
        };
        let Opened { base_model, momentum, outer, codec, rule, .. } = self.opened;
        let updates = set.iter().filter_map(|applied| self.receipts.get(&applied.slot)).map(update).collect();
        edge::AggregateRequest { base_model, momentum, updates, outer, codec, rule }
    }

    /// Votes for what was recomputed, again and again until the round is closed; who has waited long enough for the
    /// aggregator proposes it instead.
    fn publish(&mut self, context: &mut Context, patience: Duration, now: Time, wake: &mut Wake) {
        let holds = self.holders.values().any(|holder| *holder == self.me);
        let current: Vec<Set> = self.attempts.keys().filter(|set| self.is_current(set)).cloned().collect();
        for set in current {
            let Some(attempt) = self.attempts.get_mut(&set) else {
                continue;
            };
            let Progress::Done(outcome, digest) = &attempt.progress else {
                continue;
            };
            if !wake.is_due(attempt.publish_at, now) {
                continue;
            }
            attempt.publish_at = now + context.config.republish;
            wake.is_due(attempt.publish_at, now);
            let (job, round, node) = (self.opened.job, self.opened.round, self.me);
            let vote = context.keypair.seal(&RoundVote { job, round, outcome: *digest, node });
            let proposes = now >= attempt.since + patience;
            let (outcome, digest) = (outcome.clone(), *digest);
            let update = match proposes {
                true => Some(JobUpdate::Proposal { outcome, vote: vote.clone() }),
                false => holds.then(|| JobUpdate::Vote(vote.clone())),
            };
            let ledger = self.opened.ledger.clone();
            context.outputs.extend(update.map(|update| Output::Publish { ledger, job, update }));
            self.votes.entry(digest).or_default().insert(self.me, vote);
        }
    }

    /// Sends the close once two thirds agree: the aggregator at once, who comes after it in turn.
    fn close(&mut self, context: &mut Context, patience: Duration, now: Time, wake: &mut Wake) {
        let agreed = |(set, attempt): (&Set, &Attempt)| match &attempt.progress {
            Progress::Done(_, digest) if self.is_current(set) && self.is_two_thirds(self.weight(digest)) => {
                Some((set.clone(), *digest))
            }
            _ => None,
        };
        let agreed: Vec<(Set, Digest)> = self.attempts.iter().filter_map(agreed).collect();
        for (set, digest) in agreed {
            let votes = self.votes_of_holders(&digest);
            let Some(attempt) = self.attempts.get_mut(&set) else {
                continue;
            };
            let agreed_at = *attempt.agreed_at.get_or_insert(now);
            if !wake.is_due((agreed_at + patience).max(attempt.close_at), now) {
                continue;
            }
            attempt.close_at = now + context.config.takeover;
            wake.is_due(attempt.close_at, now);
            if let Progress::Done(outcome, _) = &attempt.progress {
                let (ledger, job, outcome) = (self.opened.ledger.clone(), self.opened.job, outcome.clone());
                context.outputs.push_back(Output::Close { ledger, job, outcome, votes });
            }
        }
    }

    fn votes_of_holders(&self, outcome: &Digest) -> Vec<Signed> {
        let holders: BTreeSet<_> = self.holders.values().collect();
        let votes = self.votes.get(outcome).into_iter().flatten();
        votes.filter(|(node, _)| holders.contains(node)).map(|(_, vote)| vote.clone()).collect()
    }
}
