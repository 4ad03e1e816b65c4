//! Durable here, held elsewhere, acknowledged: in that order.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    time::Duration,
};

use super::edge;
use crate::{
    gossip::Rollback,
    types::{CheckpointRef, ContentId, Digest, Generation, NodeKey, Round, Step, TaskId, Time},
};

/// What an operator can choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// A peer that was asked to hold a checkpoint and says nothing for this long is given up, and the next one asked.
    pub hold_within: Duration,
    /// When all peers refused, or keeping failed, the next try comes after this long.
    pub retry: Duration,
    /// At a shutdown, checkpoints that are not acknowledged by then are given up.
    pub shutdown_within: Duration,
    /// Checkpoints of a task that this node no longer works on stay pinned this long, for audits and late holders.
    pub retain: Duration,
}

impl Default for Config {
    /// Guesses: a checkpoint of 1 GB at 20 MB/s takes 50 s; a service manager kills after 90 s.
    fn default() -> Self {
        Self {
            hold_within: Duration::from_secs(90),
            retry: Duration::from_secs(5),
            shutdown_within: Duration::from_secs(20),
            retain: Duration::from_secs(3600),
        }
    }
}

/// What the coordinator says.
#[derive(Debug)]
pub enum Input {
    /// This node works on a task's round from now on. `trace` is the loaded checkpoint's, or the start root alone
    /// ([`crate::tensor::root::start_root`]).
    Began {
        /// The task.
        task: TaskId,
        /// The generation that this node holds.
        generation: Generation,
        /// The round.
        round: Round,
        /// State roots so far; at least one.
        trace: Vec<Digest>,
    },
    /// The script wrote a checkpoint.
    Checkpoint {
        /// The task.
        task: TaskId,
        /// The generation that wrote it; another than the one that began is ignored.
        generation: Generation,
        /// The round.
        round: Round,
        /// Steps done inside the round.
        step: Step,
        /// Where it is.
        directory: PathBuf,
        /// True for the round's end, which is never skipped.
        round_end: bool,
    },
    /// The answer to [`Output::Edge`].
    Edge(edge::Answer),
    /// A peer holds what [`Output::AskHold`] asked it to.
    Held {
        /// Of the output.
        id: u64,
    },
    /// It won't.
    HoldFailed {
        /// Of the output.
        id: u64,
    },
    /// The nodes that may be asked, this one not among them. Replaces the earlier list.
    Peers(Vec<NodeKey>),
    /// The ledger's present generation of a task.
    Generation {
        /// The task.
        task: TaskId,
        /// Its generation.
        generation: Generation,
    },
    /// A rollback event from gossip; its signature was checked.
    Rollback(Box<Rollback>),
    /// The ledger closed a round.
    Settled {
        /// The task.
        task: TaskId,
        /// The round.
        round: Round,
        /// True if it applied the task's update.
        applied: bool,
    },
    /// This node no longer works on the task.
    Released {
        /// The task.
        task: TaskId,
    },
    /// The node stops: finish what is in flight, take no more than what comes in [`Config::shutdown_within`].
    Shutdown,
}

/// What this module tells the coordinator.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Run [`edge::perform`] off the loop and feed the answer back.
    Edge(edge::Request),
    /// Pin a kept checkpoint, so that it is not collected.
    Pin {
        /// The root.
        root: ContentId,
    },
    /// Ask `peer` to hold it. [`Input::Held`] or [`Input::HoldFailed`] must follow; without either it is given up in time.
    AskHold {
        /// Repeated by the input.
        id: u64,
        /// The task.
        task: TaskId,
        /// The checkpoint's root.
        root: ContentId,
        /// Bytes of its files.
        size: u64,
        /// Whom.
        peer: NodeKey,
    },
    /// A checkpoint is durable here and on another node: tell the ledger. The round's end also carries what the receipt needs.
    Acknowledged {
        /// The task.
        task: TaskId,
        /// The generation that wrote it.
        generation: Generation,
        /// For the ledger.
        reference: CheckpointRef,
        /// The kept checkpoint.
        kept: Box<edge::Kept>,
        /// Who holds it.
        holder: NodeKey,
        /// True for the round's end.
        round_end: bool,
    },
    /// A checkpoint could not be kept; it is tried again for the round's end, and given up otherwise.
    KeepFailed {
        /// The task.
        task: TaskId,
        /// For people.
        reason: String,
    },
    /// A generation is over: stop what runs for it and forget what was derived from it.
    ApplyRollback(Box<Rollback>),
    /// Nothing needs this checkpoint any more.
    Unpin {
        /// The root.
        root: ContentId,
    },
    /// After [`Input::Shutdown`]: nothing is in flight any more, or its time is over.
    Drained,
}

/// A state of a round that this node can open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// Its place in the trace.
    pub index: u32,
    /// Steps done inside the round.
    pub step: Step,
    /// The state root.
    pub state_root: Digest,
    /// The checkpoint's root.
    pub checkpoint: ContentId,
}

/// The decisions.
#[derive(Debug)]
pub struct State {
    config: Config,
    outputs: VecDeque<Output>,
}

impl State {
    /// An empty state.
    pub fn new(config: Config) -> Self {
        Self { config, outputs: VecDeque::new() }
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

    /// The states of a round that this node can open, in the order of the trace.
    pub fn boundaries(&self, _task: &TaskId, _round: Round) -> Vec<Boundary> {
        Vec::new()
    }
}
