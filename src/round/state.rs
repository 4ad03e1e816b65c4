//! When to fetch, combine, propose, vote and close.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    edge,
    job::{Context, Following},
};
use crate::{
    gossip::JobUpdate,
    identity::Keypair,
    types::{
        AggregationRule, ContentId, Digest, JobId, LedgerId, NodeKey, OuterStep, Quorum, Round, RoundOutcome,
        RoundVote, Signed, Slot, Time, UpdateCodec,
    },
};

/// What an operator can choose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The k-th in line acts for the aggregator after k times this long without it having acted.
    pub takeover: Duration,
    /// A proposal or vote is published again after this long, until the round is closed: gossip may lose it.
    pub republish: Duration,
    /// A failed or unanswered fetch or aggregation is tried again after this long.
    pub retry: Duration,
}

impl Default for Config {
    /// A guess: a mesh round trip and an aggregation of 100 MB fit into the takeover several times.
    fn default() -> Self {
        Self { takeover: Duration::from_secs(5), republish: Duration::from_secs(2), retry: Duration::from_secs(2) }
    }
}

impl Config {
    /// For one machine, where a message takes a millisecond.
    pub fn testnet() -> Self {
        Self {
            takeover: Duration::from_millis(1500),
            republish: Duration::from_millis(500),
            retry: Duration::from_millis(500),
        }
    }
}

/// A round of a job that this node follows, from committed state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The job's ledger.
    pub ledger: LedgerId,
    /// The job.
    pub job: JobId,
    /// The open round.
    pub round: Round,
    /// Block height at which it opened.
    pub opened_height: u64,
    /// Block time at which it opened, on this node's clock.
    pub opened_at: Time,
    /// Every slot, with who held it at that height.
    pub slots: Vec<(Slot, Option<NodeKey>)>,
    /// When it may close.
    pub quorum: Quorum,
    /// The job's `round_limit`: the hard limit while no earlier round's duration is known.
    pub round_limit: Duration,
    /// The round's model.
    pub base_model: ContentId,
    /// The outer momentum; `None` for zero.
    pub momentum: Option<ContentId>,
    /// The outer step.
    pub outer: OuterStep,
    /// The job's codec.
    pub codec: UpdateCodec,
    /// The job's rule.
    pub rule: AggregationRule,
}

/// What the coordinator says. All of it can be said again, in any order, after a restart.
#[derive(Debug)]
pub enum Input {
    /// A job's round is open. The previous round of that job is over.
    Opened(Box<Opened>),
    /// The ledger accepted a slot's receipt for the open round.
    Receipt {
        /// The job.
        job: JobId,
        /// The round.
        round: Round,
        /// The slot.
        slot: Slot,
        /// The worker.
        node: NodeKey,
        /// Where the update is.
        update_cid: ContentId,
        /// SHA-256 of the update.
        digest: Digest,
        /// Its weight.
        samples: u64,
        /// Block time of its acceptance, on this node's clock.
        accepted_at: Time,
    },
    /// The ledger voided a slot's receipt (its generation grew).
    ReceiptVoided {
        /// The job.
        job: JobId,
        /// The slot.
        slot: Slot,
    },
    /// The update that [`Output::FetchUpdate`] asked for is in the store.
    UpdateHere {
        /// The job.
        job: JobId,
        /// The slot.
        slot: Slot,
        /// The update.
        cid: ContentId,
    },
    /// It could not be fetched now; it is asked for again later.
    UpdateFailed {
        /// The job.
        job: JobId,
        /// The slot.
        slot: Slot,
        /// The update.
        cid: ContentId,
    },
    /// The model or momentum that [`Output::FetchModel`] asked for is in the store.
    ModelHere {
        /// The job.
        job: JobId,
        /// The file.
        cid: ContentId,
    },
    /// It could not be fetched now; it is asked for again later.
    ModelFailed {
        /// The job.
        job: JobId,
        /// The file.
        cid: ContentId,
    },
    /// The answer to [`Output::Edge`].
    Edge(edge::Answer),
    /// A holder's proposal, from gossip; the envelope was checked.
    Proposal {
        /// Who published it.
        from: NodeKey,
        /// What it says came out.
        outcome: Box<RoundOutcome>,
        /// Its signed [`crate::types::RoundVote`].
        vote: Signed,
    },
    /// A holder's signed [`crate::types::RoundVote`], from gossip.
    Vote {
        /// The vote.
        vote: Signed,
    },
    /// The present holders of a job's slots, as the ledger has them.
    HoldersChanged {
        /// The job.
        job: JobId,
        /// Every slot.
        slots: Vec<(Slot, Option<NodeKey>)>,
    },
    /// The ledger closed the round.
    Closed {
        /// The job.
        job: JobId,
        /// The round.
        round: Round,
    },
    /// The job ended, or this node no longer follows it.
    Ended {
        /// The job.
        job: JobId,
    },
}

/// What this module tells the coordinator.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Fetch an update; complete at once if it is here. [`Input::UpdateHere`] or [`Input::UpdateFailed`] should follow; without
    /// either it is asked for again.
    FetchUpdate {
        /// The job.
        job: JobId,
        /// The slot.
        slot: Slot,
        /// The update.
        cid: ContentId,
        /// Its worker, who surely has it.
        node: NodeKey,
    },
    /// Fetch the round's model or momentum; complete at once if it is here. [`Input::ModelHere`] or [`Input::ModelFailed`]
    /// should follow; without either it is asked for again.
    FetchModel {
        /// The job.
        job: JobId,
        /// The file. The holders of the job's slots have it.
        cid: ContentId,
    },
    /// Run [`edge::perform`] off the loop and feed the answer back.
    Edge(edge::Request),
    /// Publish on the job's topic.
    Publish {
        /// The job's ledger.
        ledger: LedgerId,
        /// The job.
        job: JobId,
        /// A proposal or vote.
        update: JobUpdate,
    },
    /// Send `CloseRound` to the ledger. Said again until the round is closed.
    Close {
        /// The job's ledger.
        ledger: LedgerId,
        /// The job.
        job: JobId,
        /// What came out.
        outcome: Box<RoundOutcome>,
        /// Signed votes of holders of at least two thirds of the slots.
        votes: Vec<Signed>,
    },
}

/// A job that this node follows. Between two rounds only the last one's duration is known.
#[derive(Debug, Default)]
struct Job {
    median: Option<Duration>,
    open: Option<Following>,
    wake: Option<Time>,
}

/// The decisions, for all jobs that this node follows.
#[derive(Debug)]
pub struct State {
    context: Context,
    jobs: BTreeMap<JobId, Job>,
}

impl State {
    /// The state of the node with this key, which signs its votes.
    pub fn new(config: Config, keypair: Keypair) -> Self {
        Self { context: Context { config, keypair, next_id: 0, outputs: VecDeque::new() }, jobs: BTreeMap::new() }
    }

    /// The coordinator says something. What is about no open round of a followed job is ignored: it is late, or will be
    /// said again.
    pub fn handle(&mut self, input: Input, now: Time) {
        match input {
            Input::Opened(opened) => self.open(*opened, now),
            Input::Closed { job, round } => self.close(&job, round),
            Input::Ended { job } => drop(self.jobs.remove(&job)),
            Input::Receipt { job, round, slot, node, update_cid, digest, samples, accepted_at } => {
                let update = edge::Update { slot, cid: update_cid, digest, samples };
                self.with(&job, now, |open| {
                    if open.round() == round {
                        open.receive(update, node, accepted_at);
                    }
                });
            }
            Input::ReceiptVoided { job, slot } => self.with(&job, now, |open| open.void(slot)),
            Input::UpdateHere { job, cid, .. } | Input::ModelHere { job, cid } => {
                self.with(&job, now, |open| open.content_here(&cid));
            }
            Input::UpdateFailed { job, cid, .. } | Input::ModelFailed { job, cid } => {
                let again = now + self.context.config.retry;
                self.with(&job, now, |open| open.content_failed(&cid, again));
            }
            Input::Edge(edge::Answer::Aggregated { id, job, result, .. }) => {
                let again = now + self.context.config.retry;
                self.with(&job, now, |open| open.aggregated(id, result, again));
            }
            // The coordinator's own.
            Input::Edge(edge::Answer::Packaged { .. }) => {}
            Input::Proposal { from, outcome, vote } => self.on_proposal(from, *outcome, vote, now),
            Input::Vote { vote } => self.on_vote(vote, now),
            Input::HoldersChanged { job, slots } => self.with(&job, now, |open| open.set_holders(&slots)),
        }
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.context.outputs.pop_front()
    }

    /// When [`State::on_timeout`] is wanted next.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.jobs.values().filter_map(|job| job.wake).min()
    }

    /// The time named by [`State::poll_timeout`] has come.
    pub fn on_timeout(&mut self, now: Time) {
        for job in self.jobs.values_mut().filter(|job| job.wake.is_some_and(|wake| wake <= now)) {
            job.wake = job.open.as_mut().and_then(|open| open.act(&mut self.context, now));
        }
    }

    fn open(&mut self, opened: Opened, now: Time) {
        let id = opened.job;
        let job = self.jobs.entry(id).or_default();
        if job.open.as_ref().is_some_and(|open| open.round() >= opened.round) {
            return;
        }
        job.median = job.open.take().and_then(|open| open.median()).or(job.median);
        job.open = Some(Following::new(opened, self.context.keypair.node_key(), job.median));
        self.with(&id, now, |_| {});
    }

    fn close(&mut self, job: &JobId, round: Round) {
        let Some(job) = self.jobs.get_mut(job) else {
            return;
        };
        if let Some(open) = job.open.take_if(|open| open.round() <= round) {
            job.median = open.median().or(job.median);
            job.wake = None;
        }
    }

    /// Changes an open round and then does everything that is due in it.
    fn with(&mut self, job: &JobId, now: Time, change: impl FnOnce(&mut Following)) {
        if let Some(job) = self.jobs.get_mut(job)
            && let Some(open) = &mut job.open
        {
            change(open);
            job.wake = open.act(&mut self.context, now);
        }
    }

    fn on_proposal(&mut self, from: NodeKey, outcome: RoundOutcome, vote: Signed, now: Time) {
        let Ok(opened) = vote.open::<RoundVote>() else {
            return;
        };
        let digest = outcome.digest();
        if opened.node != from || vote.signer != from || opened.outcome != digest || opened.round != outcome.round {
            return;
        }
        self.with(&outcome.job.clone(), now, |open| {
            if open.round() == outcome.round && open.is_candidate(&from) {
                open.propose(from, digest, outcome);
                open.vote(digest, from, vote);
            }
        });
    }

    fn on_vote(&mut self, signed: Signed, now: Time) {
        let Ok(vote) = signed.open::<RoundVote>() else {
            return;
        };
        self.with(&vote.job, now, |open| {
            if open.round() == vote.round && vote.node == signed.signer && open.is_candidate(&vote.node) {
                open.vote(vote.outcome, vote.node, signed);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{AppliedSlot, Cause, Digest};

    const ROUND: Round = 3;
    const JOB: JobId = JobId([1; 32]);
    const OPENED_AT: Time = Time(1_000_000);

    fn keypair(node: usize) -> Keypair {
        Keypair::from_secret(&[u8::try_from(node).unwrap() + 1; 32])
    }

    fn cid(bytes: &[u8]) -> ContentId {
        let hash = multihash::Multihash::wrap(0x12, &Digest::of(bytes).0).unwrap();
        ContentId(cid::Cid::new_v1(0x55, hash))
    }

    fn opened(nodes: usize, quorum: Quorum) -> Opened {
        Opened {
            ledger: "test".into(),
            job: JOB,
            round: ROUND,
            opened_height: 10,
            opened_at: OPENED_AT,
            slots: slots(nodes, |slot| slot),
            quorum,
            round_limit: Duration::from_secs(60),
            base_model: cid(b"base"),
            momentum: Some(cid(b"momentum")),
            outer: OuterStep::default(),
            codec: UpdateCodec::F32,
            rule: AggregationRule::NormClippedMean,
        }
    }

    /// Every slot with its holder.
    fn slots(count: usize, holder: impl Fn(usize) -> usize) -> Vec<(Slot, Option<NodeKey>)> {
        (0..count).map(|slot| (Slot::try_from(slot).unwrap(), Some(keypair(holder(slot)).node_key()))).collect()
    }

    fn receipt(slot: usize, node: usize, after: Duration) -> Input {
        let slot = Slot::try_from(slot).unwrap();
        let update = slot.to_be_bytes();
        Input::Receipt {
            job: JOB,
            round: ROUND,
            slot,
            node: keypair(node).node_key(),
            update_cid: cid(&update),
            digest: Digest::of(&update),
            samples: 10,
            accepted_at: OPENED_AT + after,
        }
    }

    /// Nodes that hear each other at once, and a ledger that takes the first close.
    struct World {
        now: Time,
        nodes: BTreeMap<usize, State>,
        /// Computes something else than the rest.
        liar: Option<usize>,
        /// Slots whose update can't be fetched, or is wrong.
        unreachable: Vec<Slot>,
        wrong: Option<Slot>,
        /// Messages to lose before gossip begins to work.
        lost: usize,
        closes: Vec<(usize, Time, RoundOutcome, Vec<Signed>)>,
    }

    impl World {
        fn new(count: usize, quorum: Quorum) -> Self {
            let nodes = (0..count).map(|node| (node, State::new(Config::default(), keypair(node)))).collect();
            let mut world =
                Self { now: OPENED_AT, nodes, liar: None, unreachable: vec![], wrong: None, lost: 0, closes: vec![] };
            world.tell(|| Input::Opened(Box::new(opened(count, quorum))));
            world
        }

        /// Nodes in the order in which they act for the aggregator.
        fn line(count: usize) -> Vec<usize> {
            let mut line: Vec<usize> = (0..count).collect();
            let weight = |node: &usize| {
                let parts: [&[u8]; 3] = [&JOB.0, &ROUND.to_be_bytes(), &keypair(*node).node_key().0];
                Digest::of_parts("atlas/aggregator/v1", &parts)
            };
            line.sort_by_key(|node| std::cmp::Reverse(weight(node)));
            line
        }

        fn tell(&mut self, input: impl Fn() -> Input) {
            let now = self.now;
            self.nodes.values_mut().for_each(|state| state.handle(input(), now));
        }

        fn receive(&mut self, slots: impl IntoIterator<Item = usize>) {
            for slot in slots {
                self.tell(|| receipt(slot, slot, Duration::from_secs(4)));
            }
        }

        /// Lets time pass until somebody closes, or for `limit`.
        fn run(&mut self, limit: Duration) -> Option<RoundOutcome> {
            let end = self.now + limit;
            loop {
                self.settle();
                let next = self.nodes.values().filter_map(State::poll_timeout).min();
                match next {
                    _ if !self.closes.is_empty() => return Some(self.closes[0].2.clone()),
                    Some(next) if next <= end => self.now = self.now.max(next),
                    _ => return None,
                }
                let now = self.now;
                self.nodes.values_mut().for_each(|state| state.on_timeout(now));
            }
        }

        /// Does all outputs until there are none.
        fn settle(&mut self) {
            while let Some((node, output)) =
                self.nodes.iter_mut().find_map(|(node, state)| Some((*node, state.poll_output()?)))
            {
                self.perform(node, output);
            }
        }

        fn perform(&mut self, node: usize, output: Output) {
            let input = match output {
                Output::FetchUpdate { job, slot, cid, .. } if self.unreachable.contains(&slot) => {
                    Input::UpdateFailed { job, slot, cid }
                }
                Output::FetchUpdate { job, slot, cid, .. } => Input::UpdateHere { job, slot, cid },
                Output::FetchModel { job, cid } => Input::ModelHere { job, cid },
                Output::Edge(edge::Request::Aggregate { id, job, round, request }) => {
                    let result = self.aggregate(node, &request);
                    Input::Edge(edge::Answer::Aggregated { id, job, round, result })
                }
                Output::Edge(other) => panic!("{other:?}"),
                Output::Publish { update, .. } => return self.deliver(node, &update),
                Output::Close { outcome, votes, .. } => {
                    return self.closes.push((node, self.now, *outcome, votes));
                }
            };
            let now = self.now;
            self.nodes.get_mut(&node).unwrap().handle(input, now);
        }

        fn aggregate(&self, node: usize, request: &edge::AggregateRequest) -> Result<edge::Aggregated, edge::Failed> {
            if let Some(slot) = self.wrong.filter(|slot| request.updates.iter().any(|update| update.slot == *slot)) {
                return Err(edge::Failed { slot: Some(slot), cause: Cause::new("wrong") });
            }
            let lie = if self.liar == Some(node) { "lie" } else { "" };
            let text = format!("{:?}{lie}", request.updates);
            let (params_root, model_cid) = (Digest::of(text.as_bytes()), cid(text.as_bytes()));
            Ok(edge::Aggregated { params_root, momentum_root: params_root, model_cid, momentum_cid: model_cid })
        }

        fn deliver(&mut self, from: usize, update: &JobUpdate) {
            if self.lost > 0 {
                self.lost -= 1;
                return;
            }
            let now = self.now;
            for (_, state) in self.nodes.iter_mut().filter(|(node, _)| **node != from) {
                state.handle(
                    match update.clone() {
                        JobUpdate::Proposal { outcome, vote } => {
                            Input::Proposal { from: keypair(from).node_key(), outcome, vote }
                        }
                        JobUpdate::Vote(vote) => Input::Vote { vote },
                        JobUpdate::Update { .. } => panic!("the coordinator's own"),
                    },
                    now,
                );
            }
        }
    }

    fn applied_slots(outcome: &RoundOutcome) -> Vec<Slot> {
        outcome.applied.iter().map(|applied| applied.slot).collect()
    }

    #[test]
    fn all_agree_and_the_first_in_line_closes_at_once() {
        let mut world = World::new(4, Quorum::All);
        world.receive([2, 0, 3]);
        assert_eq!(world.run(Duration::from_secs(600)), None, "one update is missing, whatever time passes");
        world.receive([1]);
        let asked_at = world.now;
        let outcome = world.run(Duration::ZERO).unwrap();
        let (closer, at, _, votes) = &world.closes[0];
        assert_eq!((*closer, *at), (World::line(4)[0], asked_at));
        assert!(votes.len() >= 3);
        assert_eq!((applied_slots(&outcome), outcome.skipped), (vec![0, 1, 2, 3], vec![]));
    }

    #[test]
    fn when_the_first_in_line_is_dead_the_next_one_closes_after_one_takeover() {
        let mut world = World::new(4, Quorum::All);
        let line = World::line(4);
        world.receive(0..4);
        world.nodes.remove(&line[0]);
        world.run(Duration::from_secs(60)).unwrap();
        let (closer, at, _, votes) = &world.closes[0];
        assert_eq!((*closer, *at, votes.len()), (line[1], OPENED_AT + Config::default().takeover, 3));
    }

    #[test]
    fn any_order_of_arrival_gives_the_same_outcome() {
        let outcomes = [[0, 1, 2], [2, 1, 0], [1, 2, 0]].map(|order| {
            let mut world = World::new(3, Quorum::All);
            world.receive(order);
            world.run(Duration::ZERO).unwrap()
        });
        assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]));
    }

    #[test]
    fn a_lie_of_the_aggregator_gets_no_vote_and_the_truth_closes() {
        let mut world = World::new(4, Quorum::All);
        let line = World::line(4);
        world.liar = Some(line[0]);
        world.receive(0..4);
        let outcome = world.run(Duration::from_secs(60)).unwrap();
        let (closer, _, _, votes) = &world.closes[0];
        assert_eq!(*closer, line[1]);
        let truth = world.aggregate(line[1], &edge_request(&outcome)).unwrap();
        assert_eq!(outcome.params_root, truth.params_root);
        assert!(votes.iter().all(|vote| vote.signer != keypair(line[0]).node_key()));
    }

    /// The request whose answer the outcome must be.
    fn edge_request(outcome: &RoundOutcome) -> edge::AggregateRequest {
        let Opened { base_model, momentum, outer, codec, rule, .. } = opened(4, Quorum::All);
        let update = |applied: &AppliedSlot| edge::Update {
            slot: applied.slot,
            cid: cid(&applied.slot.to_be_bytes()),
            digest: applied.update_digest,
            samples: applied.samples,
        };
        let updates = outcome.applied.iter().map(update).collect();
        edge::AggregateRequest { base_model, momentum, updates, outer, codec, rule }
    }

    #[test]
    fn two_thirds_close_after_the_grace_and_the_late_slot_is_skipped() {
        let mut world = World::new(4, Quorum::TwoThirds);
        world.receive([0, 1]);
        world.settle();
        assert!(world.closes.is_empty(), "two of four are not two thirds");
        world.receive([3]);
        let outcome = world.run(Duration::from_secs(10)).unwrap();
        assert_eq!((applied_slots(&outcome), outcome.skipped), (vec![0, 1, 3], vec![2]));
        assert_eq!(world.closes[0].1, OPENED_AT + Duration::from_secs(2));
    }

    #[test]
    fn two_thirds_close_also_when_the_first_in_line_is_dead() {
        let mut world = World::new(4, Quorum::TwoThirds);
        let line = World::line(4);
        world.nodes.remove(&line[0]);
        world.receive((0..4).filter(|slot| *slot != line[0]));
        let outcome = world.run(Duration::from_secs(60)).unwrap();
        assert_eq!(outcome.skipped, [Slot::try_from(line[0]).unwrap()]);
    }

    #[test]
    fn with_fewer_than_two_thirds_the_round_stays_open_until_they_come() {
        let mut world = World::new(5, Quorum::TwoThirds);
        world.receive([0, 1, 2]);
        assert_eq!(world.run(Duration::from_secs(100)), None, "three of five are not two thirds, however late it is");
        world.receive([3]);
        let outcome = world.run(Duration::from_secs(60));
        assert!(outcome.is_some_and(|outcome| applied_slots(&outcome) == [0, 1, 2, 3]));
    }

    #[test]
    fn the_next_rounds_hard_limit_is_three_medians() {
        let mut world = World::new(3, Quorum::TwoThirds);
        world.receive(0..3);
        world.run(Duration::ZERO).unwrap();
        world.tell(|| Input::Closed { job: JOB, round: ROUND });
        world.closes.clear();
        let next = Opened { round: ROUND + 1, ..opened(3, Quorum::TwoThirds) };
        world.tell(|| Input::Opened(Box::new(next.clone())));
        let at = world.nodes[&0].jobs[&JOB].median;
        assert_eq!(at, Some(Duration::from_secs(4)));
    }

    #[test]
    fn an_update_that_nobody_can_fetch_is_skipped_but_only_where_the_quorum_allows_it() {
        for (quorum, closes) in [(Quorum::TwoThirds, true), (Quorum::All, false)] {
            let mut world = World::new(4, quorum);
            world.unreachable = vec![2];
            world.receive(0..4);
            let outcome = world.run(Duration::from_secs(30));
            assert_eq!(outcome.map(|outcome| outcome.skipped), closes.then(|| vec![2]));
        }
    }

    #[test]
    fn an_update_whose_bytes_are_wrong_is_left_out() {
        let mut world = World::new(4, Quorum::TwoThirds);
        world.wrong = Some(1);
        world.receive(0..4);
        let outcome = world.run(Duration::from_secs(60)).unwrap();
        assert_eq!((applied_slots(&outcome), outcome.skipped), (vec![0, 2, 3], vec![1]));
    }

    #[test]
    fn lost_messages_are_said_again_until_the_round_is_closed() {
        let mut world = World::new(4, Quorum::All);
        world.lost = 9;
        world.receive(0..4);
        assert!(world.run(Duration::from_secs(30)).is_some());
    }

    #[test]
    fn a_close_is_said_again_until_the_ledger_answers_and_then_all_is_quiet() {
        let mut world = World::new(3, Quorum::All);
        world.receive(0..3);
        world.run(Duration::ZERO);
        world.closes.clear();
        world.run(Duration::from_secs(60)).unwrap();
        world.tell(|| Input::Closed { job: JOB, round: ROUND });
        world.settle();
        assert!(world.nodes.values().all(|state| state.poll_timeout().is_none()));
    }

    #[test]
    fn the_successor_of_a_dead_worker_gives_the_update_and_is_named() {
        let mut world = World::new(3, Quorum::All);
        world.receive([0, 1]);
        world.tell(|| receipt(2, 2, Duration::from_secs(3)));
        world.nodes.remove(&2);
        world.tell(|| Input::HoldersChanged { job: JOB, slots: slots(3, |slot| if slot == 2 { 0 } else { slot }) });
        world.settle();
        assert!(world.closes.iter().all(|(_, _, outcome, _)| outcome.applied[2].node == keypair(2).node_key()));
        world.closes.clear();
        world.tell(|| receipt(2, 0, Duration::from_secs(9)));
        let outcome = world.run(Duration::from_secs(60)).unwrap();
        assert_eq!(outcome.applied[2].node, keypair(0).node_key());
    }

    #[test]
    fn a_restarted_node_takes_part_again_from_the_ledger_alone() {
        let mut world = World::new(4, Quorum::All);
        world.lost = 4;
        world.receive(0..3);
        world.settle();
        for node in 0..4 {
            world.nodes.insert(node, State::new(Config::default(), keypair(node)));
        }
        world.tell(|| Input::Opened(Box::new(opened(4, Quorum::All))));
        world.receive(0..4);
        assert!(world.run(Duration::from_secs(60)).is_some());
    }

    #[test]
    fn who_holds_no_slot_only_watches() {
        let mut watcher = State::new(Config::default(), keypair(9));
        watcher.handle(Input::Opened(Box::new(opened(2, Quorum::All))), OPENED_AT);
        watcher.handle(receipt(0, 0, Duration::ZERO), OPENED_AT);
        watcher.handle(receipt(1, 1, Duration::ZERO), OPENED_AT);
        assert_eq!((watcher.poll_output(), watcher.poll_timeout()), (None, None));
    }

    #[test]
    fn forged_and_foreign_votes_and_proposals_change_nothing() {
        let mut state = State::new(Config::default(), keypair(0));
        state.handle(Input::Opened(Box::new(opened(3, Quorum::All))), OPENED_AT);
        while state.poll_output().is_some() {}
        let outcome = RoundOutcome {
            job: JOB,
            round: ROUND,
            params_root: Digest([1; 32]),
            momentum_root: Digest([1; 32]),
            model_cid: cid(b"x"),
            momentum_cid: cid(b"x"),
            applied: vec![],
            skipped: vec![0, 1, 2],
        };
        let vote = |signer: usize, node: usize, digest: Digest| {
            let node = keypair(node).node_key();
            keypair(signer).seal(&RoundVote { job: JOB, round: ROUND, outcome: digest, node })
        };
        let digest = outcome.digest();
        for vote in [vote(1, 2, digest), vote(9, 9, digest), vote(1, 1, Digest([7; 32]))] {
            let from = vote.signer;
            state.handle(Input::Proposal { from, outcome: Box::new(outcome.clone()), vote: vote.clone() }, OPENED_AT);
            state.handle(Input::Vote { vote }, OPENED_AT);
        }
        let honest = vote(1, 1, digest);
        let from = keypair(1).node_key();
        state.handle(Input::Proposal { from, outcome: Box::new(outcome), vote: honest }, OPENED_AT);
        assert_eq!(state.poll_output(), None, "no updates were applied: not a set to combine");
    }

    #[test]
    fn an_ended_job_is_forgotten() {
        let mut world = World::new(3, Quorum::All);
        world.receive([0]);
        world.tell(|| Input::Ended { job: JOB });
        world.settle();
        assert!(world.nodes.values().all(|state| state.jobs.is_empty() && state.poll_timeout().is_none()));
    }
}
