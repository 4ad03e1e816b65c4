//! Durable here, held elsewhere, acknowledged: in that order.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    time::Duration,
};

use super::{
    edge,
    task::{Context, Task, Written},
};
use crate::{
    gossip::Rollback,
    types::{CheckpointRef, ContentId, Digest, Generation, JobId, NodeKey, Round, Step, TaskId, Time},
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
    /// The job ended: its tasks are released, and their generations no longer followed.
    Ended {
        /// The job.
        job: JobId,
    },
    /// The node stops. Said once its scripts have stopped and their last checkpoints were reported; [`Output::Drained`] follows
    /// within [`Config::shutdown_within`].
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

/// What is known of a task's generation, and a rollback that is ahead of it.
#[derive(Debug, Default)]
struct Known {
    generation: Generation,
    /// The last generation that a rollback was applied for.
    voided: Option<Generation>,
    /// The event that says that the known generation is over, until the ledger says so too.
    ahead: Option<Box<Rollback>>,
}

/// The decisions.
#[derive(Debug)]
pub struct State {
    context: Context,
    tasks: BTreeMap<TaskId, Task>,
    known: BTreeMap<TaskId, Known>,
    /// When a shutdown has waited long enough; gone again once it was said that it is over.
    drain_until: Option<Time>,
}

impl State {
    /// An empty state. Everything is rebuilt from the ledger after a restart.
    pub fn new(config: Config) -> Self {
        let context = Context { config, peers: Vec::new(), next_id: 0, outputs: VecDeque::new() };
        Self { context, tasks: BTreeMap::new(), known: BTreeMap::new(), drain_until: None }
    }

    /// The coordinator says something. What is about an unknown task or an earlier generation is ignored.
    pub fn handle(&mut self, input: Input, now: Time) {
        match input {
            Input::Began { task, generation, round, trace } => {
                self.tasks.entry(task).or_default().begin(generation, round, trace);
            }
            Input::Checkpoint { task, generation, round, step, directory, round_end } => {
                let written = Written { generation, round, step, directory, round_end };
                self.tasks.entry(task).and_modify(|task| task.write(written));
            }
            Input::Edge(edge::Answer::Kept { id, task, result }) => {
                let State { context, tasks, .. } = self;
                tasks.entry(task).and_modify(|own| own.kept(task, id, result, context, now));
            }
            // The coordinator's own.
            Input::Edge(edge::Answer::Loaded { .. }) => {}
            Input::Held { id } => {
                let State { context, tasks, .. } = self;
                tasks.iter_mut().for_each(|(id_of_task, task)| task.held(*id_of_task, id, context));
            }
            Input::HoldFailed { id } => self.tasks.values_mut().for_each(|task| task.hold_failed(id)),
            Input::Peers(peers) => self.context.peers = peers,
            Input::Generation { task, generation } => self.on_generation(task, generation),
            Input::Rollback(rollback) => self.on_rollback(rollback),
            Input::Settled { task, round, applied } => {
                let State { context, tasks, .. } = self;
                tasks.entry(task).and_modify(|task| task.settle(round, applied, context));
            }
            Input::Released { task } => {
                let until = now + self.context.config.retain;
                self.tasks.entry(task).and_modify(|task| task.release(until));
            }
            Input::Ended { job } => {
                let until = now + self.context.config.retain;
                self.tasks.iter_mut().filter(|(id, _)| id.job == job).for_each(|(_, task)| task.release(until));
                self.known.retain(|id, _| id.job != job);
            }
            Input::Shutdown => self.drain_until = Some(now + self.context.config.shutdown_within),
        }
        self.act(now);
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.context.outputs.pop_front()
    }

    /// When [`State::on_timeout`] is wanted next.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.tasks.values().filter_map(Task::wake).chain(self.drain_until).min()
    }

    /// The time named by [`State::poll_timeout`] has come.
    pub fn on_timeout(&mut self, now: Time) {
        self.act(now);
    }

    /// The states of a round that this node can open, in the order of the trace.
    pub fn boundaries(&self, task: &TaskId, round: Round) -> Vec<Boundary> {
        self.tasks.get(task).map(|task| task.boundaries(round)).unwrap_or_default()
    }

    /// Tasks whose newest checkpoint no other node holds yet, for `status`.
    pub fn unheld(&self) -> Vec<TaskId> {
        self.tasks.iter().filter(|(_, task)| task.waits_for_holder()).map(|(id, _)| *id).collect()
    }

    fn act(&mut self, now: Time) {
        let State { context, tasks, .. } = self;
        tasks.retain(|id, task| task.act(*id, context, now));
        let idle = !self.tasks.values().any(|task| task.is_busy(&self.context));
        if self.drain_until.take_if(|until| idle || *until <= now).is_some() {
            self.context.outputs.push_back(Output::Drained);
        }
    }

    fn on_generation(&mut self, task: TaskId, generation: Generation) {
        let known = self.known.entry(task).or_default();
        known.generation = known.generation.max(generation);
        let confirmed = known.ahead.take_if(|rollback| rollback.void_generation < known.generation);
        if let Some(rollback) = confirmed {
            self.on_rollback(rollback);
        }
    }

    /// A rollback counts once the ledger's generation is the next one. One that is older is stale; one that says that the
    /// present generation is over waits for the ledger; one further ahead can't be judged, and the ledger will tell.
    fn on_rollback(&mut self, rollback: Box<Rollback>) {
        let Some(known) = self.known.get_mut(&rollback.task_id) else {
            return;
        };
        let void = rollback.void_generation;
        if void == known.generation {
            known.ahead.get_or_insert(rollback);
        } else if void.checked_add(1) == Some(known.generation) && known.voided < Some(void) {
            known.voided = Some(void);
            self.context.outputs.push_back(Output::ApplyRollback(rollback));
        }
    }
}
