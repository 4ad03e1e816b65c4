//! When to fetch, combine, propose, vote and close.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::edge;
use crate::{
    gossip::JobUpdate,
    identity::Keypair,
    types::{
        AggregationRule, ContentId, Digest, JobId, LedgerId, NodeKey, OuterStep, Quorum, Round, RoundOutcome, Signed,
        Slot, Time, UpdateCodec,
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

/// The decisions, for all jobs that this node follows.
#[derive(Debug)]
pub struct State {
    config: Config,
    keypair: Keypair,
    outputs: VecDeque<Output>,
    jobs: BTreeMap<JobId, ()>,
}

impl State {
    /// The state of the node with this key, which signs its votes.
    pub fn new(config: Config, keypair: Keypair) -> Self {
        Self { config, keypair, outputs: VecDeque::new(), jobs: BTreeMap::new() }
    }

    /// The coordinator says something.
    pub fn handle(&mut self, _input: Input, _now: Time) {}

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`State::on_timeout`] is wanted next.
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }

    /// The time named by [`State::poll_timeout`] has come.
    pub fn on_timeout(&mut self, _now: Time) {}
}
