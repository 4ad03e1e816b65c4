//! When to fetch, combine, propose, vote and close.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

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
#[derive(Clone, Debug, PartialEq, Eq)]
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
                open.propose(from, digest, outcome, now);
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
