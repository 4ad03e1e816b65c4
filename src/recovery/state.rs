//! Durable here, held elsewhere, acknowledged: in that order.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    edge,
    task::{Context, Task, Written},
};
use crate::{
    gossip::Rollback,
    types::{CheckpointRef, ContentId, Digest, Generation, JobId, NodeKey, Round, Step, TaskId, Time},
};

/// What an operator can choose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recovery::edge::{Kept, Request};
    use crate::types::Cause;

    const NOW: Time = Time(1_000_000);
    const TASK: TaskId = TaskId { job: JobId([1; 32]), slot: 2 };
    const START: Digest = Digest([9; 32]);

    fn cid(number: u32) -> ContentId {
        let hash = multihash::Multihash::wrap(0x12, &Digest::of(&number.to_be_bytes()).0).unwrap();
        ContentId(cid::Cid::new_v1(0x55, hash))
    }

    fn node(byte: u8) -> NodeKey {
        NodeKey([byte; 32])
    }

    fn began(generation: Generation, round: Round) -> Input {
        Input::Began { task: TASK, generation, round, trace: vec![START] }
    }

    fn written(generation: Generation, round: Round, step: Step, round_end: bool) -> Input {
        let directory = PathBuf::from(format!("step-{step}"));
        Input::Checkpoint { task: TASK, generation, round, step, directory, round_end }
    }

    /// What the edge made of a request. The root's number is round × 1000 + step.
    fn kept(id: u64, request: &edge::KeepRequest) -> Input {
        let root = cid(request.round * 1000 + request.step);
        let state_root = Digest::of(&request.step.to_be_bytes());
        let kept = Kept {
            root,
            state: root,
            model: root,
            optimizer: None,
            size: 77,
            params_root: state_root,
            opt_root: Digest([0; 32]),
            state_root,
            trace: [&request.trace[..], &[state_root]].concat(),
        };
        Input::Edge(edge::Answer::Kept { id, task: TASK, result: Ok(Box::new(kept)) })
    }

    /// A node that works on generation 1, round 0, with three peers.
    fn working() -> State {
        let mut state = State::new(Config::default());
        state.handle(Input::Peers(vec![node(1), node(2), node(3)]), NOW);
        state.handle(began(1, 0), NOW);
        state
    }

    fn outputs(state: &mut State) -> Vec<Output> {
        std::iter::from_fn(|| state.poll_output()).collect()
    }

    /// The keep request among the outputs.
    fn keep_request(outputs: &[Output]) -> (u64, edge::KeepRequest) {
        let found = outputs.iter().find_map(|output| match output {
            Output::Edge(Request::Keep { id, request }) => Some((*id, request.clone())),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("nothing is kept: {outputs:?}"))
    }

    /// The id and peer of the hold request among the outputs.
    fn hold_request(outputs: &[Output]) -> (u64, NodeKey, ContentId) {
        let found = outputs.iter().find_map(|output| match output {
            Output::AskHold { id, peer, root, .. } => Some((*id, *peer, *root)),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("nobody is asked: {outputs:?}"))
    }

    /// Takes a checkpoint all the way to its acknowledgement.
    fn acknowledge(state: &mut State, round: Round, step: Step, round_end: bool) {
        state.handle(written(1, round, step, round_end), NOW);
        let (id, request) = keep_request(&outputs(state));
        state.handle(kept(id, &request), NOW);
        let (id, ..) = hold_request(&outputs(state));
        state.handle(Input::Held { id }, NOW);
        assert!(matches!(outputs(state)[..], [Output::Acknowledged { .. }]));
    }

    fn unpinned(outputs: &[Output]) -> Vec<ContentId> {
        let root = |output: &Output| match output {
            Output::Unpin { root } => Some(*root),
            _ => None,
        };
        outputs.iter().filter_map(root).collect()
    }

    #[test]
    fn a_checkpoint_is_kept_then_held_then_acknowledged() {
        let mut state = working();
        state.handle(written(1, 0, 10, false), NOW);
        let (id, request) = keep_request(&outputs(&mut state));
        assert_eq!(request.trace, [START]);
        state.handle(kept(id, &request), NOW);
        let after_keep = outputs(&mut state);
        assert!(matches!(after_keep[..], [Output::Pin { .. }, Output::AskHold { .. }]), "{after_keep:?}");
        let (id, peer, root) = hold_request(&after_keep);
        assert_eq!(state.unheld(), [TASK]);
        state.handle(Input::Held { id }, NOW);
        let [Output::Acknowledged { reference, holder, generation: 1, round_end: false, kept, .. }] =
            &outputs(&mut state)[..]
        else {
            panic!()
        };
        assert_eq!(*reference, CheckpointRef { cid: root, round: 0, step: 10 });
        assert_eq!((*holder, kept.trace.len()), (peer, 2));
        assert!(state.unheld().is_empty());

        state.handle(written(1, 0, 20, false), NOW);
        let (_, request) = keep_request(&outputs(&mut state));
        assert_eq!(request.trace.len(), 2, "the trace goes on");
    }

    #[test]
    fn peers_are_asked_one_after_the_other_and_again_after_a_while() {
        let mut state = working();
        state.handle(written(1, 0, 10, true), NOW);
        let (id, request) = keep_request(&outputs(&mut state));
        state.handle(kept(id, &request), NOW);
        let (id, first, _) = hold_request(&outputs(&mut state));
        state.handle(Input::HoldFailed { id }, NOW);
        let (_, second, _) = hold_request(&outputs(&mut state));
        let silent_until = NOW + Config::default().hold_within;
        assert_eq!(state.poll_timeout(), Some(silent_until));
        state.on_timeout(silent_until);
        let (id, third, _) = hold_request(&outputs(&mut state));
        assert!(first != second && second != third && first != third);
        state.handle(Input::HoldFailed { id }, silent_until);
        assert!(outputs(&mut state).is_empty());
        let again = silent_until + Config::default().retry;
        assert_eq!(state.poll_timeout(), Some(again));
        state.on_timeout(again);
        assert_eq!(hold_request(&outputs(&mut state)).1, first);
    }

    #[test]
    fn with_nobody_to_ask_it_waits_for_a_peer_without_spinning() {
        let mut state = State::new(Config::default());
        state.handle(began(1, 0), NOW);
        state.handle(written(1, 0, 10, false), NOW);
        let (id, request) = keep_request(&outputs(&mut state));
        state.handle(kept(id, &request), NOW);
        assert_eq!(state.poll_timeout(), None);
        state.handle(Input::Peers(vec![node(1)]), NOW);
        hold_request(&outputs(&mut state)[1..]);
    }

    #[test]
    fn when_slower_than_the_script_the_newest_is_kept_and_the_rounds_end_always() {
        let mut state = working();
        for step in [10, 20, 30] {
            state.handle(written(1, 0, step, false), NOW);
        }
        state.handle(written(1, 0, 40, true), NOW);
        let first = outputs(&mut state);
        let (id, request) = keep_request(&first);
        assert_eq!((first.len(), request.step), (1, 10), "one at a time");
        state.handle(kept(id, &request), NOW);
        let (id, request) = keep_request(&outputs(&mut state));
        assert_eq!(request.step, 40);
        state.handle(kept(id, &request), NOW);
        let boundaries = state.boundaries(&TASK, 0);
        assert_eq!(boundaries.iter().map(|b| (b.index, b.step)).collect::<Vec<_>>(), [(1, 10), (2, 40)]);
    }

    #[test]
    fn what_a_script_writes_twice_counts_once_and_may_become_the_rounds_end() {
        let mut state = working();
        state.handle(written(1, 0, 10, false), NOW);
        let (id, request) = keep_request(&outputs(&mut state));
        state.handle(written(1, 0, 10, true), NOW);
        state.handle(kept(id, &request), NOW);
        let (id, ..) = hold_request(&outputs(&mut state));
        state.handle(written(1, 0, 5, false), NOW);
        state.handle(written(1, 0, 10, true), NOW);
        state.handle(Input::Held { id }, NOW);
        assert!(matches!(outputs(&mut state)[..], [Output::Acknowledged { round_end: true, .. }]));
    }

    #[test]
    fn a_stale_generation_or_round_writes_nothing() {
        let mut state = working();
        state.handle(began(2, 1), NOW);
        for stale in [written(1, 1, 10, false), written(2, 0, 10, true), written(3, 1, 10, false)] {
            state.handle(stale, NOW);
        }
        state.handle(began(1, 5), NOW);
        assert!(outputs(&mut state).is_empty());
        state.handle(written(2, 1, 10, false), NOW);
        keep_request(&outputs(&mut state));
    }

    #[test]
    fn a_failed_keep_is_tried_again_for_the_rounds_end_only() {
        for (round_end, again) in [(false, None), (true, Some(NOW + Config::default().retry))] {
            let mut state = working();
            state.handle(written(1, 0, 10, round_end), NOW);
            let (id, _) = keep_request(&outputs(&mut state));
            let full = Cause::new("the disk is full");
            state.handle(Input::Edge(edge::Answer::Kept { id, task: TASK, result: Err(full) }), NOW);
            assert!(matches!(outputs(&mut state)[..], [Output::KeepFailed { .. }]));
            assert_eq!(state.poll_timeout(), again);
            if let Some(again) = again {
                state.on_timeout(again);
                keep_request(&outputs(&mut state));
            }
        }
    }

    #[test]
    fn an_edge_that_never_answers_is_given_up() {
        let mut state = working();
        state.handle(written(1, 0, 10, true), NOW);
        outputs(&mut state);
        let deadline = state.poll_timeout().unwrap();
        state.on_timeout(deadline);
        assert!(matches!(outputs(&mut state)[..], [Output::KeepFailed { .. }]));
        let retry = state.poll_timeout().unwrap();
        state.on_timeout(retry);
        keep_request(&outputs(&mut state));
    }

    #[test]
    fn checkpoints_stay_while_something_needs_them() {
        let mut state = working();
        for round in 0..5 {
            state.handle(began(1, round), NOW);
            acknowledge(&mut state, round, 10, false);
            acknowledge(&mut state, round, 20, true);
            // The last two rounds are skipped: the optimizer state stays that of round 2.
            state.handle(Input::Settled { task: TASK, round, applied: round < 3 }, NOW);
            let gone = unpinned(&outputs(&mut state));
            match round {
                0 | 1 => assert!(gone.is_empty()),
                2 => assert_eq!(gone, [cid(10), cid(20)]),
                3 => assert_eq!(gone, [cid(1010), cid(1020)]),
                _ => assert_eq!(gone, [cid(2010)], "round 2 ended with the optimizer state in use"),
            }
        }
        assert_eq!(state.boundaries(&TASK, 4).len(), 2);
    }

    #[test]
    fn a_released_task_is_unpinned_after_the_audit_window_and_forgotten() {
        let mut state = working();
        acknowledge(&mut state, 0, 10, true);
        state.handle(Input::Released { task: TASK }, NOW);
        assert_eq!(state.boundaries(&TASK, 0).len(), 1, "can still be opened");
        let end = NOW + Config::default().retain;
        assert_eq!(state.poll_timeout(), Some(end));
        state.on_timeout(end);
        assert_eq!(unpinned(&outputs(&mut state)), [cid(10)]);
        assert!(state.tasks.is_empty());
    }

    fn rollback(void_generation: Generation) -> Input {
        Input::Rollback(Box::new(Rollback {
            event_type: "task_rollback".into(),
            ledger: "test".into(),
            task_id: TASK,
            job_id: TASK.job,
            shard_id: TASK.slot,
            node_id: node(1),
            void_generation,
            checkpoint: None,
            timestamp: NOW,
        }))
    }

    #[test]
    fn a_rollback_is_applied_once_and_only_with_the_ledger() {
        let generation = |generation| Input::Generation { task: TASK, generation };
        let mut state = State::new(Config::default());
        state.handle(rollback(1), NOW);
        state.handle(generation(3), NOW);
        for stale in [0, 1] {
            state.handle(rollback(stale), NOW);
        }
        state.handle(rollback(Generation::MAX), NOW);
        assert!(outputs(&mut state).is_empty(), "unknown, stale, or out of reach");

        state.handle(rollback(2), NOW);
        state.handle(rollback(2), NOW);
        assert!(matches!(outputs(&mut state)[..], [Output::ApplyRollback(_)]), "once");

        state.handle(rollback(3), NOW);
        assert!(outputs(&mut state).is_empty(), "the ledger has not said so");
        state.handle(generation(4), NOW);
        assert!(matches!(outputs(&mut state)[..], [Output::ApplyRollback(_)]));
        state.handle(Input::Ended { job: TASK.job }, NOW);
        assert!(state.known.is_empty());
    }

    #[test]
    fn a_shutdown_waits_for_what_is_in_flight_and_not_for_ever() {
        let mut idle = working();
        idle.handle(Input::Shutdown, NOW);
        assert_eq!(outputs(&mut idle), [Output::Drained]);

        let mut state = working();
        state.handle(written(1, 0, 10, false), NOW);
        let (id, request) = keep_request(&outputs(&mut state));
        state.handle(Input::Shutdown, NOW);
        state.handle(kept(id, &request), NOW);
        let (id, ..) = hold_request(&outputs(&mut state));
        state.handle(Input::Held { id }, NOW);
        assert!(matches!(outputs(&mut state)[..], [Output::Acknowledged { .. }, Output::Drained]));

        let mut stuck = working();
        stuck.handle(written(1, 0, 10, false), NOW);
        outputs(&mut stuck);
        stuck.handle(Input::Shutdown, NOW);
        let deadline = NOW + Config::default().shutdown_within;
        assert_eq!(stuck.poll_timeout(), Some(deadline));
        stuck.on_timeout(deadline);
        assert_eq!(outputs(&mut stuck), [Output::Drained]);
        assert_ne!(stuck.poll_timeout(), Some(deadline));
    }
}
