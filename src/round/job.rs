//! One open round of one job, from its first receipt to its close.
//!
//! [`Following::act`] does everything that is due and says when it wants to be called next. It can be called at any time,
//! twice, or late: what was done is remembered, so that every input is one change followed by one `act`.

mod act;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::{Config, Opened, Output, edge};
use crate::{
    identity::Keypair,
    types::{AppliedSlot, ContentId, Digest, NodeKey, Quorum, Round, RoundOutcome, Signed, Slot, Time},
};

/// The least wait after two thirds of the updates came (rounds.md), and the least hard limit.
const MIN_GRACE: Duration = Duration::from_secs(2);
/// The hard limit in medians of the previous round's durations (rounds.md).
const LIMIT_MEDIANS: u32 = 3;
/// A fetch without an answer is asked for again after this long, the stall limit of a transfer.
const FETCH_WITHIN: Duration = Duration::from_secs(120);
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
    pub(super) fn propose(&mut self, from: NodeKey, digest: Digest, outcome: RoundOutcome) {
        let sets = self.proposed_sets.entry(from).or_default();
        if sets.len() >= MAX_SETS_PER_NODE && !sets.contains(&outcome.applied) {
            return;
        }
        sets.insert(outcome.applied.clone());
        let sorted = outcome.applied.is_sorted_by(|left, right| left.slot < right.slot);
        if sorted && self.may_close_with(outcome.applied.len()) && self.skipped(&outcome.applied) == outcome.skipped {
            self.proposals.insert(from, (digest, outcome.applied));
        }
    }

    pub(super) fn vote(&mut self, outcome: Digest, node: NodeKey, vote: Signed) {
        let given = self.votes.values().filter(|votes| votes.contains_key(&node)).count();
        if given < MAX_VOTES_PER_NODE {
            self.votes.entry(outcome).or_default().insert(node, vote);
        }
    }

    pub(super) fn aggregated(&mut self, id: u64, result: Result<edge::Aggregated, edge::Failed>, again: Time) {
        let running = |attempt: &Attempt| matches!(attempt.progress, Progress::Running { id: own, .. } if own == id);
        let Some(set) = self.attempts.iter().find(|(_, attempt)| running(attempt)).map(|(set, _)| set.clone()) else {
            return;
        };
        let progress = match result {
            Ok(aggregated) => self.done(&set, &aggregated),
            Err(error) => {
                self.blame(&set, error.slot, again);
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

    /// True if a round may close with that many updates. The ledger takes no fewer, whatever the time.
    fn may_close_with(&self, updates: usize) -> bool {
        updates == self.opened.slots.len() || self.opened.quorum == Quorum::TwoThirds && self.is_two_thirds(updates)
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

    /// True if one of the updates was wrong too often to be asked for again.
    fn is_hopeless(&self, set: &Set) -> bool {
        let receipts = set.iter().filter_map(|applied| self.receipts.get(&applied.slot));
        receipts.filter_map(|receipt| self.contents.get(&receipt.cid)).any(|content| content.faults >= MAX_FAULTS)
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
}

fn present(slots: &[(Slot, Option<NodeKey>)]) -> BTreeMap<Slot, NodeKey> {
    slots.iter().filter_map(|(slot, holder)| Some((*slot, (*holder)?))).collect()
}
