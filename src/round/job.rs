//! One open round of one job, from its first receipt to its close.
//!
//! [`Following::act`] does everything that is due and says when it wants to be called next. It can be called at any time,
//! twice, or late: what was done is remembered, so that every input is one change followed by one `act`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::{Config, Opened, Output, edge};
use crate::{
    gossip::JobUpdate,
    identity::Keypair,
    types::{AppliedSlot, ContentId, Digest, NodeKey, Quorum, Round, RoundOutcome, RoundVote, Signed, Slot, Time},
};

/// The least wait after two thirds of the updates came (rounds.md), and the least hard limit.
const MIN_GRACE: Duration = Duration::from_secs(2);
/// The hard limit in medians of the previous round's durations (rounds.md).
const LIMIT_MEDIANS: u32 = 3;
/// A fetch without an answer is asked for again after this long, the stall limit of a transfer.
const FETCH_WITHIN: Duration = Duration::from_secs(120);
/// An aggregation without an answer is given up after this long: 64 updates of 64 MB take well under a minute.
const AGGREGATE_WITHIN: Duration = Duration::from_secs(600);
/// An update whose bytes were wrong this often is no longer asked for.
const MAX_FAULTS: u32 = 3;
/// Sets of updates that one node can make this one combine in a round: honest nodes propose one, or two after a change
/// of holder. Further ones are ignored.
const MAX_SETS_PER_NODE: usize = 4;
/// Outcomes that one node can vote for in a round. Further votes are ignored.
const MAX_VOTES_PER_NODE: usize = 4;

/// What all jobs share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) config: Config,
    pub(super) keypair: Keypair,
    pub(super) next_id: u64,
    pub(super) outputs: VecDeque<Output>,
}

/// Something that this round needs in the store.
#[derive(Debug)]
struct Content {
    /// The slot whose update it is and its worker; `None` for a model.
    origin: Option<(Slot, NodeKey)>,
    here: bool,
    /// When to ask for it (again).
    ask_at: Time,
    faults: u32,
}

/// An accepted receipt's update.
#[derive(Debug)]
struct Received {
    applied: AppliedSlot,
    cid: ContentId,
    accepted_at: Time,
}

/// The updates that are combined, sorted by slot.
type Set = Vec<AppliedSlot>;

/// A set of updates on its way to an outcome.
#[derive(Debug)]
struct Attempt {
    since: Time,
    progress: Progress,
    /// When the vote or proposal goes out (again).
    publish_at: Time,
    /// When there were votes enough.
    agreed_at: Option<Time>,
    /// When `Close` is said (again).
    close_at: Time,
}

#[derive(Debug)]
enum Progress {
    /// Not begun, or to be tried again from then on.
    Idle(Time),
    Running {
        id: u64,
        deadline: Time,
    },
    Done(Box<RoundOutcome>, Digest),
}

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

/// An open round.
#[derive(Debug)]
pub(super) struct Following {
    opened: Opened,
    me: NodeKey,
    started_at: Time,
    previous_median: Option<Duration>,
    holders: BTreeMap<Slot, NodeKey>,
    receipts: BTreeMap<Slot, Received>,
    contents: BTreeMap<ContentId, Content>,
    /// The newest proposal of each node.
    proposals: BTreeMap<NodeKey, (Digest, Set)>,
    proposed_sets: BTreeMap<NodeKey, BTreeSet<Set>>,
    attempts: BTreeMap<Set, Attempt>,
    votes: BTreeMap<Digest, BTreeMap<NodeKey, Signed>>,
    quorum_at: Option<Time>,
    /// The set that this node would close the round with, and since when.
    choice: Option<(Set, Time)>,
}

impl Following {
    pub(super) fn new(opened: Opened, me: NodeKey, previous_median: Option<Duration>) -> Self {
        let models = [Some(opened.base_model), opened.momentum].into_iter().flatten();
        let model = |cid| (cid, Content { origin: None, here: false, ask_at: Time::ZERO, faults: 0 });
        Self {
            me,
            started_at: opened.opened_at,
            previous_median,
            holders: present(&opened.slots),
            receipts: BTreeMap::new(),
            contents: models.map(model).collect(),
            proposals: BTreeMap::new(),
            proposed_sets: BTreeMap::new(),
            attempts: BTreeMap::new(),
            votes: BTreeMap::new(),
            quorum_at: None,
            choice: None,
            opened,
        }
    }

    pub(super) fn round(&self) -> Round {
        self.opened.round
    }

    /// The median of the workers' durations so far, of an even count the lower one.
    pub(super) fn median(&self) -> Option<Duration> {
        let mut durations: Vec<_> =
            self.receipts.values().map(|receipt| receipt.accepted_at.since(self.started_at)).collect();
        durations.sort();
        durations.get(durations.len().saturating_sub(1) / 2).copied()
    }

    // Changes. Each is followed by `act`.

    pub(super) fn receive(&mut self, update: edge::Update, node: NodeKey, accepted_at: Time) {
        let edge::Update { slot, cid, digest, samples } = update;
        if !self.opened.slots.iter().any(|(known, _)| *known == slot) {
            return;
        }
        let applied = AppliedSlot { slot, update_digest: digest, node, samples };
        self.receipts.insert(slot, Received { applied, cid, accepted_at });
        let origin = Some((slot, node));
        let content = Content { origin, here: false, ask_at: Time::ZERO, faults: 0 };
        // A successor's update has the same name as its predecessor's, and another source.
        self.contents.entry(cid).or_insert(content).origin = origin;
    }

    pub(super) fn void(&mut self, slot: Slot) {
        self.receipts.remove(&slot);
    }

    pub(super) fn content_here(&mut self, cid: &ContentId) {
        if let Some(content) = self.contents.get_mut(cid) {
            content.here = true;
        }
    }

    pub(super) fn content_failed(&mut self, cid: &ContentId, again: Time) {
        if let Some(content) = self.contents.get_mut(cid) {
            content.here = false;
            content.ask_at = again;
        }
    }

    /// A receipt is void once its worker no longer holds the slot.
    pub(super) fn set_holders(&mut self, slots: &[(Slot, Option<NodeKey>)]) {
        self.holders = present(slots);
        let holders = &self.holders;
        self.receipts.retain(|slot, receipt| holders.get(slot) == Some(&receipt.applied.node));
    }

    /// Takes a proposal to be recomputed, if it can be one.
    pub(super) fn propose(&mut self, from: NodeKey, digest: Digest, outcome: RoundOutcome, now: Time) {
        let sets = self.proposed_sets.entry(from).or_default();
        if sets.len() >= MAX_SETS_PER_NODE && !sets.contains(&outcome.applied) {
            return;
        }
        sets.insert(outcome.applied.clone());
        let sorted = outcome.applied.is_sorted_by(|left, right| left.slot < right.slot);
        if sorted
            && self.may_close_with(outcome.applied.len(), now)
            && self.skipped(&outcome.applied) == outcome.skipped
        {
            self.proposals.insert(from, (digest, outcome.applied));
        }
    }

    pub(super) fn vote(&mut self, outcome: Digest, node: NodeKey, vote: Signed) {
        let given = self.votes.values().filter(|votes| votes.contains_key(&node)).count();
        if given < MAX_VOTES_PER_NODE {
            self.votes.entry(outcome).or_default().insert(node, vote);
        }
    }

    pub(super) fn aggregated(&mut self, id: u64, result: Result<edge::Aggregated, edge::Error>, again: Time) {
        let running = |attempt: &Attempt| matches!(attempt.progress, Progress::Running { id: own, .. } if own == id);
        let Some(set) = self.attempts.iter().find(|(_, attempt)| running(attempt)).map(|(set, _)| set.clone()) else {
            return;
        };
        let progress = match result {
            Ok(aggregated) => self.done(&set, &aggregated),
            Err(error) => {
                self.blame(&set, error.slot(), again);
                Progress::Idle(again)
            }
        };
        if let Some(attempt) = self.attempts.get_mut(&set) {
            attempt.progress = progress;
        }
    }

    fn done(&self, set: &Set, aggregated: &edge::Aggregated) -> Progress {
        let outcome = RoundOutcome {
            job: self.opened.job,
            round: self.opened.round,
            params_root: aggregated.params_root,
            momentum_root: aggregated.momentum_root,
            model_cid: aggregated.model_cid,
            momentum_cid: aggregated.momentum_cid,
            applied: set.clone(),
            skipped: self.skipped(set),
        };
        let digest = outcome.digest();
        Progress::Done(Box::new(outcome), digest)
    }

    /// After a failure everything involved is fetched again, which costs nothing where it is still here.
    fn blame(&mut self, set: &Set, slot: Option<Slot>, again: Time) {
        let slots = set.iter().map(|applied| applied.slot).filter(|other| slot.is_none_or(|slot| slot == *other));
        let updates: Vec<_> = slots.filter_map(|slot| self.receipts.get(&slot)).map(|receipt| receipt.cid).collect();
        for cid in &updates {
            if let Some(content) = self.contents.get_mut(cid) {
                content.faults += u32::from(slot.is_some());
            }
            self.content_failed(cid, again);
        }
        if slot.is_none() {
            let models = [Some(self.opened.base_model), self.opened.momentum];
            models.into_iter().flatten().for_each(|cid| self.content_failed(&cid, again));
        }
    }

    // Questions.

    /// Nodes in line for the aggregator's work: those that held a slot when the round opened, then those that took one since.
    fn line(&self) -> Vec<NodeKey> {
        let first: BTreeSet<_> = self.opened.slots.iter().filter_map(|(_, holder)| *holder).collect();
        let later: BTreeSet<_> = self.holders.values().copied().filter(|node| !first.contains(node)).collect();
        [first, later].into_iter().flat_map(|group| self.by_rendezvous(group)).collect()
    }

    /// Highest SHA-256("atlas/aggregator/v1" ‖ 0x00 ‖ job ‖ round as u32 big-endian ‖ node) first.
    fn by_rendezvous(&self, nodes: BTreeSet<NodeKey>) -> Vec<NodeKey> {
        let round = self.opened.round.to_be_bytes();
        let weight =
            |node: &NodeKey| Digest::of_parts("atlas/aggregator/v1", &[&self.opened.job.0, &round, node.as_bytes()]);
        let mut nodes: Vec<_> = nodes.into_iter().collect();
        nodes.sort_by_key(|node| std::cmp::Reverse(weight(node)));
        nodes
    }

    pub(super) fn is_candidate(&self, node: &NodeKey) -> bool {
        self.holders.values().any(|holder| holder == node)
            || self.opened.slots.iter().any(|(_, holder)| *holder == Some(*node))
    }

    fn skipped(&self, set: &Set) -> Vec<Slot> {
        let applied: BTreeSet<Slot> = set.iter().map(|applied| applied.slot).collect();
        let mut slots: Vec<Slot> = self.opened.slots.iter().map(|(slot, _)| *slot).collect();
        slots.sort_unstable();
        slots.retain(|slot| !applied.contains(slot));
        slots
    }

    fn is_two_thirds(&self, slots: usize) -> bool {
        3 * slots >= 2 * self.opened.slots.len()
    }

    /// True if a round may close with that many updates at this time.
    fn may_close_with(&self, updates: usize, now: Time) -> bool {
        let limit_over = now >= self.limit_at() && updates >= 2;
        updates == self.opened.slots.len()
            || self.opened.quorum == Quorum::TwoThirds && (self.is_two_thirds(updates) || limit_over)
    }

    fn limit_at(&self) -> Time {
        let limit = self.previous_median.map(|median| (median * LIMIT_MEDIANS).max(MIN_GRACE));
        self.started_at + limit.unwrap_or(self.opened.round_limit)
    }

    fn is_here(&self, cid: &ContentId) -> bool {
        self.contents.get(cid).is_some_and(|content| content.here)
    }

    /// The updates of accepted receipts that are here.
    fn usable(&self) -> Set {
        self.receipts.values().filter(|receipt| self.is_here(&receipt.cid)).map(|receipt| receipt.applied).collect()
    }

    /// True if the accepted receipts still are those of the set.
    fn is_current(&self, set: &Set) -> bool {
        set.iter().all(|applied| self.receipts.get(&applied.slot).is_some_and(|receipt| receipt.applied == *applied))
    }

    fn can_combine(&self, set: &Set) -> bool {
        let models = [Some(self.opened.base_model), self.opened.momentum];
        let updates = set.iter().filter_map(|applied| self.receipts.get(&applied.slot)).map(|receipt| receipt.cid);
        self.is_current(set) && models.into_iter().flatten().chain(updates).all(|cid| self.is_here(&cid))
    }

    /// Slots whose present holders voted for the outcome.
    fn weight(&self, outcome: &Digest) -> usize {
        let votes = self.votes.get(outcome);
        self.holders.values().filter(|holder| votes.is_some_and(|votes| votes.contains_key(holder))).count()
    }

    // Acts.

    /// Does what is due; returns when something will be. A node that holds no slot and held none only watches.
    pub(super) fn act(&mut self, context: &mut Context, now: Time) -> Option<Time> {
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
        if self.choice.as_ref().is_some_and(|(set, _)| self.is_current(set)) {
            return;
        }
        self.choice = None;
        let usable = self.usable();
        let all = usable.len() == self.opened.slots.len();
        if all || self.opened.quorum == Quorum::TwoThirds && self.is_time(usable.len(), now, wake) {
            self.choice = Some((usable, now));
        }
    }

    /// True once the grace or the hard limit is over. Fewer than two updates at the hard limit: the same round runs again.
    fn is_time(&mut self, usable: usize, now: Time, wake: &mut Wake) -> bool {
        if self.is_two_thirds(usable) {
            let grace = self.median().map_or(MIN_GRACE, |median| (median / 4).max(MIN_GRACE));
            let quorum_at = *self.quorum_at.get_or_insert(now);
            if wake.is_due(quorum_at + grace, now) {
                return true;
            }
        } else {
            self.quorum_at = None;
        }
        if !wake.is_due(self.limit_at(), now) {
            return false;
        }
        if usable >= 2 {
            return true;
        }
        self.started_at = now;
        wake.is_due(self.limit_at(), now);
        false
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
        self.is_current(set) && !refuted
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

fn present(slots: &[(Slot, Option<NodeKey>)]) -> BTreeMap<Slot, NodeKey> {
    slots.iter().filter_map(|(slot, holder)| Some((*slot, (*holder)?))).collect()
}
