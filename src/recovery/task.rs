//! One task's checkpoints: written, kept here, held elsewhere, unpinned.

use std::{
    collections::{BTreeSet, VecDeque},
    path::PathBuf,
    time::Duration,
};

use super::{
    Boundary, Config, Output,
    edge::{self, KeepRequest, Kept},
};
use crate::{
    tensor::checkpoint::MAX_TRACE,
    types::{Cause, CheckpointRef, ContentId, Digest, Generation, NodeKey, Round, Step, TaskId, Time},
};

/// Keeping a checkpoint takes at most this long: 1 GB on a disk of 10 MB/s. Then it counts as failed.
const KEEP_WITHIN: Duration = Duration::from_secs(600);
/// Checkpoints of a round stay pinned until this many rounds after it are settled: its trace can still be challenged.
const RETAINED_ROUNDS: Round = 2;

/// What all tasks share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) config: Config,
    pub(super) peers: Vec<NodeKey>,
    pub(super) next_id: u64,
    pub(super) outputs: VecDeque<Output>,
}

impl Context {
    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

/// A checkpoint as the script wrote it.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) generation: Generation,
    pub(super) round: Round,
    pub(super) step: Step,
    pub(super) directory: PathBuf,
    pub(super) round_end: bool,
}

/// A checkpoint that is durable here.
#[derive(Debug)]
struct Entry {
    generation: Generation,
    round: Round,
    step: Step,
    round_end: bool,
    kept: Box<Kept>,
    acknowledged: bool,
}

/// A peer that was asked to hold the entry with this root.
#[derive(Debug)]
struct Asking {
    id: u64,
    root: ContentId,
    peer: NodeKey,
    deadline: Time,
}

/// A task that this node works on, or did lately.
#[derive(Debug, Default)]
pub(super) struct Task {
    generation: Generation,
    round: Round,
    /// State roots of the round so far. Empty while this node does not work on the task.
    trace: Vec<Digest>,
    /// Waits to be kept: round ends, and at most one other, the newest.
    queue: VecDeque<Written>,
    keeping: Option<(u64, Written, Time)>,
    /// Keeping, or asking peers, begins again then.
    keep_at: Time,
    hold_at: Time,
    entries: Vec<Entry>,
    asking: Option<Asking>,
    /// Peers that refused since all were asked.
    refused: BTreeSet<NodeKey>,
    /// The end of the last applied round: where the optimizer state is.
    optimizer: Option<ContentId>,
    forget_at: Option<Time>,
    wake: Option<Time>,
}

impl Task {
    // Changes. Each is followed by `act`.

    pub(super) fn begin(&mut self, generation: Generation, round: Round, trace: Vec<Digest>) {
        let newer = (generation, round) > (self.generation, self.round) || self.trace.is_empty();
        if newer && !trace.is_empty() {
            (self.generation, self.round, self.trace) = (generation, round, trace);
            self.queue.clear();
            self.forget_at = None;
        }
    }

    /// Takes a checkpoint. A script that begins again from an earlier one writes some twice: what is known counts once.
    pub(super) fn write(&mut self, written: Written) {
        if self.trace.is_empty() || (written.generation, written.round) != (self.generation, self.round) {
            return;
        }
        if self.promote(&written) {
            return;
        }
        if written.step <= self.last_step() || !written.round_end && self.trace.len() + 1 >= MAX_TRACE {
            return;
        }
        // Slower than the script: the newest wins, round ends are never skipped.
        self.queue.retain(|waiting| waiting.round_end);
        self.queue.push_back(written);
    }

    /// True if the step is known already; it is a round's end if either says so.
    fn promote(&mut self, written: &Written) -> bool {
        let current = (self.generation, self.round, written.step);
        let entries = self.entries.iter_mut().filter(|entry| (entry.generation, entry.round, entry.step) == current);
        let known = entries.map(|entry| &mut entry.round_end);
        let queued = self.queue.iter_mut().chain(self.keeping.as_mut().map(|(_, written, _)| written));
        let queued = queued.filter(|queued| (queued.generation, queued.round, queued.step) == current);
        let mut found = false;
        known.chain(queued.map(|queued| &mut queued.round_end)).for_each(|round_end| {
            *round_end |= written.round_end;
            found = true;
        });
        found
    }

    /// The newest step of the round that is known.
    fn last_step(&self) -> Step {
        let entries = self.entries.iter().map(|entry| (entry.generation, entry.round, entry.step));
        let queued = self.queue.iter().chain(self.keeping.as_ref().map(|(_, written, _)| written));
        let queued = queued.map(|written| (written.generation, written.round, written.step));
        let current = entries.chain(queued).filter(|known| (known.0, known.1) == (self.generation, self.round));
        current.map(|(_, _, step)| step).max().unwrap_or(0)
    }

    pub(super) fn kept(
        &mut self,
        id: TaskId,
        answer: u64,
        result: Result<Box<Kept>, Cause>,
        context: &mut Context,
        now: Time,
    ) {
        let Some((_, written, _)) = self.keeping.take_if(|(own, _, _)| *own == answer) else {
            return;
        };
        let current = !self.trace.is_empty() && (written.generation, written.round) == (self.generation, self.round);
        match result {
            // It belongs to something that is over; nobody needs it.
            _ if !current => {}
            Ok(kept) => {
                self.trace.clone_from(&kept.trace);
                context.outputs.push_back(Output::Pin { root: kept.root });
                let Written { generation, round, step, round_end, .. } = written;
                self.entries.push(Entry { generation, round, step, round_end, kept, acknowledged: false });
            }
            Err(error) => self.keep_failed(id, written, &error.to_string(), context, now),
        }
    }

    fn keep_failed(&mut self, task: TaskId, written: Written, reason: &str, context: &mut Context, now: Time) {
        context.outputs.push_back(Output::KeepFailed { task, reason: reason.to_owned() });
        if written.round_end {
            self.queue.push_front(written);
            self.keep_at = now + context.config.retry;
        }
    }

    pub(super) fn held(&mut self, task: TaskId, id: u64, context: &mut Context) {
        let Some(asking) = self.asking.take_if(|asking| asking.id == id) else {
            return;
        };
        self.refused.clear();
        let Some(place) = self.entries.iter().position(|entry| entry.kept.root == asking.root) else {
            return;
        };
        let entry = &mut self.entries[place];
        entry.acknowledged = true;
        let Entry { generation, round, step, round_end, .. } = *entry;
        if (generation, round) != (self.generation, self.round) {
            return;
        }
        context.outputs.push_back(Output::Acknowledged {
            task,
            generation,
            reference: CheckpointRef { cid: asking.root, round, step },
            kept: entry.kept.clone(),
            holder: asking.peer,
            round_end,
        });
    }

    pub(super) fn hold_failed(&mut self, id: u64) {
        if let Some(asking) = self.asking.take_if(|asking| asking.id == id) {
            self.refused.insert(asking.peer);
        }
    }

    pub(super) fn settle(&mut self, round: Round, applied: bool, context: &mut Context) {
        if applied && let Some(end) = self.entries.iter().rfind(|entry| entry.round == round && entry.round_end) {
            self.optimizer = Some(end.kept.root);
        }
        let newest = self.entries.iter().rfind(|entry| entry.acknowledged).map(|entry| entry.kept.root);
        let needed = [self.optimizer, newest];
        self.unpin_unless(context, |entry| {
            entry.round + RETAINED_ROUNDS > round || needed.contains(&Some(entry.kept.root))
        });
    }

    pub(super) fn release(&mut self, until: Time) {
        self.trace.clear();
        self.queue.clear();
        self.forget_at.get_or_insert(until);
    }

    fn unpin_unless(&mut self, context: &mut Context, keep: impl Fn(&Entry) -> bool) {
        let over = self.entries.extract_if(.., |entry| !keep(entry));
        context.outputs.extend(over.map(|entry| Output::Unpin { root: entry.kept.root }));
    }

    // Questions.

    pub(super) fn wake(&self) -> Option<Time> {
        self.wake
    }

    pub(super) fn boundaries(&self, round: Round) -> Vec<Boundary> {
        let of_round = self.entries.iter().filter(|entry| entry.round == round);
        let boundary = |entry: &Entry| {
            let index = u32::try_from(entry.kept.trace.len() - 1).ok()?;
            let Kept { state_root, root, .. } = *entry.kept;
            Some(Boundary { index, step: entry.step, state_root, checkpoint: root })
        };
        of_round.filter_map(boundary).collect()
    }

    pub(super) fn waits_for_holder(&self) -> bool {
        self.next_to_hold().is_some()
    }

    pub(super) fn is_busy(&self, context: &Context) -> bool {
        !self.queue.is_empty() || self.keeping.is_some() || !context.peers.is_empty() && self.waits_for_holder()
    }

    /// The round's end before all else, since a receipt waits for it; otherwise the newest, unless a newer one is held.
    fn next_to_hold(&self) -> Option<&Entry> {
        if self.trace.is_empty() {
            return None;
        }
        let mut current =
            self.entries.iter().filter(|entry| (entry.generation, entry.round) == (self.generation, self.round));
        let end = current.clone().find(|entry| entry.round_end && !entry.acknowledged);
        end.or_else(|| current.next_back().filter(|entry| !entry.acknowledged))
    }

    // Acts.

    /// Does what is due; false once nothing is left to remember.
    pub(super) fn act(&mut self, id: TaskId, context: &mut Context, now: Time) -> bool {
        self.wake = None;
        if self.forget_at.is_some_and(|at| at <= now) {
            self.unpin_unless(context, |_| false);
            return false;
        }
        self.keep(id, context, now);
        self.hold(id, context, now);
        self.wait_for(self.forget_at);
        true
    }

    fn wait_for(&mut self, at: Option<Time>) {
        self.wake = self.wake.into_iter().chain(at).min();
    }

    fn keep(&mut self, id: TaskId, context: &mut Context, now: Time) {
        if let Some((_, written, _)) = self.keeping.take_if(|(_, _, deadline)| *deadline <= now) {
            self.keep_failed(id, written, "the disk did not answer in time", context, now);
        }
        if self.keeping.is_none()
            && self.keep_at <= now
            && let Some(written) = self.queue.pop_front()
        {
            let request = KeepRequest {
                directory: written.directory.clone(),
                task: id,
                generation: written.generation,
                round: written.round,
                step: written.step,
                trace: self.trace.clone(),
                now,
            };
            let answer = context.id();
            context.outputs.push_back(Output::Edge(edge::Request::Keep { id: answer, request }));
            self.keeping = Some((answer, written, now + KEEP_WITHIN));
        }
        let deadline = self.keeping.as_ref().map(|(_, _, deadline)| *deadline);
        let waiting = (deadline.is_none() && !self.queue.is_empty()).then_some(self.keep_at);
        self.wait_for(deadline.or(waiting));
    }

    fn hold(&mut self, id: TaskId, context: &mut Context, now: Time) {
        if let Some(asking) = self.asking.take_if(|asking| asking.deadline <= now) {
            self.refused.insert(asking.peer);
        }
        if self.asking.is_none() && self.hold_at <= now {
            self.ask(id, context, now);
        }
        let waiting = self.waits_for_holder() && !context.peers.is_empty();
        let asking = self.asking.as_ref().map(|asking| asking.deadline);
        self.wait_for(asking.or(waiting.then_some(self.hold_at)));
    }

    /// Asks the next peer in line to hold what has to be held next.
    fn ask(&mut self, id: TaskId, context: &mut Context, now: Time) {
        let Some(entry) = self.next_to_hold().filter(|_| !context.peers.is_empty()) else {
            return;
        };
        let (root, size) = (entry.kept.root, entry.kept.size);
        let willing = context.peers.iter().filter(|peer| !self.refused.contains(peer));
        let Some(peer) = willing.max_by_key(|peer| weight(&id, peer)).copied() else {
            self.refused.clear();
            self.hold_at = now + context.config.retry;
            return;
        };
        let ask = context.id();
        self.asking = Some(Asking { id: ask, root, peer, deadline: now + context.config.hold_within });
        context.outputs.push_back(Output::AskHold { id: ask, task: id, root, size, peer });
    }
}

/// Rendezvous: SHA-256("atlas/hold/v1" ‖ 0x00 ‖ job ‖ slot as u32 big-endian ‖ node). It does not depend on the
/// checkpoint, so that one peer holds a task's successive checkpoints and most of their blocks are there already.
fn weight(task: &TaskId, node: &NodeKey) -> Digest {
    Digest::of_parts("atlas/hold/v1", &[&task.job.0, &task.slot.to_be_bytes(), node.as_bytes()])
}
