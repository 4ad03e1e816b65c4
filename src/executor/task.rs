//! One task's process, as a state machine. Pure.

use std::{collections::VecDeque, path::PathBuf, time::Duration};

use super::{
    Event, Exit, FailureKind, Outputs, ProcessState, ProgressReport, RunSpec, State, StopMode,
    edge::{Answer, ProcessId, Request, Saying, Signal},
    exit::Verdict,
    spec::{GRACE, STALL_LIMIT},
};
use crate::{
    protocol::Action,
    types::{Step, Time},
};

/// Laying out inputs may take this long: 100 GB from a disk of 250 MB/s. Then the run fails.
const PREPARE_LIMIT: Duration = Duration::from_secs(400);
/// A killed process must be reported as gone within this; then it is given up, and its report ignored.
const KILL_LIMIT: Duration = Duration::from_secs(15);
/// A session without a next round for this long is ended, silently: a fresh process costs a few seconds at most.
const IDLE_LIMIT: Duration = Duration::from_secs(600);

/// What the tasks want done, in order.
pub(super) type Actions = VecDeque<Action<State>>;

/// A task with, at most times, a process.
#[derive(Debug)]
pub(super) struct Task {
    spec: RunSpec,
    process: ProcessId,
    state: ProcessState,
    /// Process starts in this generation.
    starts: u32,
    /// Crashes in this round.
    crashes: u32,
    step: Step,
    loss: Option<f64>,
    /// The newest checkpoint that a process of this round made on this host.
    checkpoint: Option<(Step, PathBuf)>,
    /// The round is done; its process has not ended yet.
    outputs: Option<Box<Outputs>>,
    stop: Option<StopMode>,
    /// Killed for its silence.
    stalled: bool,
    /// The run that begins when the present process is gone.
    next: Option<RunSpec>,
    deadline: Option<Time>,
    /// Processes that are gone and whose directories still are there, with their last round.
    retired: Vec<(u32, ProcessId)>,
}

impl Task {
    /// A task whose first process is launched at once.
    pub(super) fn launch(spec: RunSpec, process: ProcessId, now: Time, out: &mut Actions) -> Self {
        let mut task = Self {
            starts: spec.attempt,
            crashes: 0,
            step: spec.start_step(),
            spec,
            process,
            state: ProcessState::Ended,
            loss: None,
            checkpoint: None,
            outputs: None,
            stop: None,
            stalled: false,
            next: None,
            deadline: None,
            retired: Vec::new(),
        };
        task.start(process, now, out);
        task
    }

    /// The present process, whether it lives or not.
    pub(super) fn process(&self) -> ProcessId {
        self.process
    }

    /// Whether a process of it lives.
    pub(super) fn is_live(&self) -> bool {
        self.state != ProcessState::Ended
    }

    /// When [`Task::on_timeout`] is due.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.deadline
    }

    /// How far it is.
    pub(super) fn report(&self) -> ProgressReport {
        let (round, step, of) = (self.spec.round, self.step, self.spec.stop_step);
        ProgressReport { state: self.state, round, step, of, loss: self.loss }
    }

    /// Begins `spec`, in the session's process where that is possible. `fresh` names a new process if one is needed.
    pub(super) fn run(&mut self, spec: RunSpec, fresh: ProcessId, now: Time, out: &mut Actions) {
        let same = (spec.generation, spec.round) == (self.spec.generation, self.spec.round);
        if same && self.is_live() && self.stop.is_none() && self.state != ProcessState::Idle {
            return;
        }
        self.drop_old_directories(&spec, out);
        match self.state {
            ProcessState::Ended => {
                self.begin(spec);
                self.start(fresh, now, out);
            }
            ProcessState::Idle if self.session_can_serve(&spec) => {
                self.begin(spec);
                self.set(ProcessState::Starting, Some(now + STALL_LIMIT));
                out.push_back(edge(Request::NextRound { process: self.process, spec: Box::new(self.spec.clone()) }));
            }
            _ => {
                self.next = Some(spec);
                self.kill(now, out);
            }
        }
    }

    /// Stops it. Always ends in [`Event::Stopped`].
    pub(super) fn stop(&mut self, mode: StopMode, now: Time, out: &mut Actions) {
        self.next = None;
        match (self.state, mode) {
            (ProcessState::Ended, _) => out.push_back(self.stopped(false)),
            (ProcessState::Stopping, StopMode::Checkpoint) => self.stop = self.stop.or(Some(mode)),
            (ProcessState::Fetching, _) => self.stop = Some(mode),
            (_, StopMode::Kill) => {
                self.stop = Some(mode);
                self.kill(now, out);
            }
            (_, StopMode::Checkpoint) => {
                self.stop = Some(mode);
                self.set(ProcessState::Stopping, Some(now + GRACE));
                out.push_back(self.signal(Signal::Terminate));
            }
        }
    }

    /// Asks for a checkpoint now.
    pub(super) fn checkpoint_now(&mut self, out: &mut Actions) {
        if self.state == ProcessState::Running {
            self.state = ProcessState::Checkpointing;
            out.push_back(self.signal(Signal::Checkpoint));
        }
    }

    /// Kills what lives, and removes what is left of those that are gone. What the present process leaves is removed when
    /// it is reported as gone, and by then a stray.
    pub(super) fn forget(&mut self, out: &mut Actions) {
        if self.is_live() {
            out.push_back(self.signal(Signal::Kill));
        }
        out.extend(self.retired.drain(..).map(|(_, process)| edge(Request::Forget { process })));
    }

    /// The host reports on the present process. `fresh` names a new process if one is needed; true if it was used.
    pub(super) fn on_answer(&mut self, answer: Answer, fresh: ProcessId, now: Time, out: &mut Actions) -> bool {
        match answer {
            Answer::Launched { pid, .. } => self.on_launched(pid, now, out),
            Answer::LaunchFailed { kind, message, .. } => return self.on_launch_failed(kind, message, fresh, now, out),
            Answer::RoundSent { result: Ok(()), .. } => {}
            Answer::RoundSent { result: Err(reason), .. } => self.on_round_refused(&reason, now, out),
            Answer::Said { saying, .. } => self.on_saying(saying, now, out),
            Answer::Exited { exit, .. } => return self.on_exited(&exit, fresh, now, out),
            Answer::Log { .. } => {}
        }
        false
    }

    /// The deadline has come: something was silent for too long.
    pub(super) fn on_timeout(&mut self, fresh: ProcessId, now: Time, out: &mut Actions) -> bool {
        match self.state {
            ProcessState::Ended => self.deadline = None,
            ProcessState::Fetching => {
                let message = format!("inputs were not laid out within {} s", PREPARE_LIMIT.as_secs());
                return self.on_launch_failed(FailureKind::Launch, message, fresh, now, out);
            }
            // The grace is over, or the kill had no effect.
            ProcessState::Stopping if self.stop == Some(StopMode::Checkpoint) => {
                self.stop = Some(StopMode::Kill);
                self.kill(now, out);
            }
            ProcessState::Stopping => {
                let last_words = "the process did not go away when it was killed".to_owned();
                return self.on_exited(&Exit { last_words, ..Exit::default() }, fresh, now, out);
            }
            ProcessState::Idle => {
                out.push_back(self.signal(Signal::Terminate));
                self.set(ProcessState::Stopping, Some(now + KILL_LIMIT));
            }
            // A finished round is finished, even if its process does not know how to go.
            ProcessState::Starting | ProcessState::Running | ProcessState::Checkpointing => {
                self.stalled = self.outputs.is_none();
                self.kill(now, out);
            }
        }
        false
    }

    fn on_launched(&mut self, pid: u32, now: Time, out: &mut Actions) {
        if self.state != ProcessState::Fetching {
            // It took so long that the run was given up.
            return out.push_back(self.signal(Signal::Kill));
        }
        self.set(ProcessState::Starting, Some(now + STALL_LIMIT));
        out.push_back(Action::Event(Event::Started { task: self.spec.task, pid }));
        if let Some(mode) = self.stop {
            self.stop(mode, now, out);
        } else if self.next.is_some() {
            self.kill(now, out);
        }
    }

    fn on_launch_failed(
        &mut self,
        kind: FailureKind,
        message: String,
        fresh: ProcessId,
        now: Time,
        out: &mut Actions,
    ) -> bool {
        if self.state != ProcessState::Fetching {
            return false;
        }
        self.end();
        if self.stop.take().is_some() {
            out.push_back(self.stopped(false));
            return false;
        }
        if self.next.is_some() {
            return self.start_next(fresh, now, out);
        }
        out.push_back(self.failed(kind, message));
        false
    }

    fn on_round_refused(&mut self, reason: &str, now: Time, out: &mut Actions) {
        if self.state != ProcessState::Starting {
            return;
        }
        tracing::warn!(task = %self.spec.task, reason, "the session did not take its next round; starting a fresh process");
        self.next = Some(self.spec.clone());
        self.kill(now, out);
    }

    fn on_saying(&mut self, saying: Saying, now: Time, out: &mut Actions) {
        match self.state {
            ProcessState::Starting => self.state = ProcessState::Running,
            ProcessState::Running | ProcessState::Checkpointing | ProcessState::Stopping => {}
            ProcessState::Fetching | ProcessState::Idle | ProcessState::Ended => return,
        }
        if self.state != ProcessState::Stopping {
            self.deadline = Some(now + STALL_LIMIT);
        }
        match saying {
            Saying::Started | Saying::Alive => {}
            Saying::Progress { step, loss } => self.on_progress(step, loss, out),
            Saying::Checkpoint { step, directory } => self.on_checkpoint(step, directory, out),
            Saying::Done(outputs) => self.on_done(outputs, now, out),
            Saying::Broken { message } => {
                tracing::warn!(task = %self.spec.task, message, "the script broke its contract");
                self.kill(now, out);
            }
        }
    }

    fn on_progress(&mut self, step: Step, loss: Option<f64>, out: &mut Actions) {
        self.step = step;
        self.loss = loss.or(self.loss);
        let RunSpec { task, round, stop_step: of, .. } = self.spec;
        out.push_back(Action::Event(Event::Progress { task, round, step, of, loss }));
    }

    fn on_checkpoint(&mut self, step: Step, directory: PathBuf, out: &mut Actions) {
        if self.state == ProcessState::Checkpointing {
            self.state = ProcessState::Running;
        }
        self.checkpoint = Some((step, directory.clone()));
        let RunSpec { task, generation, round, .. } = self.spec;
        out.push_back(Action::Event(Event::Checkpoint { task, generation, round, step, directory }));
    }

    fn on_done(&mut self, outputs: Box<Outputs>, now: Time, out: &mut Actions) {
        self.step = self.spec.stop_step;
        self.loss = outputs.loss.or(self.loss);
        if !self.spec.session || self.state == ProcessState::Stopping {
            // The exit code has the last word.
            self.outputs = Some(outputs);
            self.deadline = self.deadline.max(Some(now + GRACE)).min(Some(now + GRACE));
            return;
        }
        out.push_back(self.finished(outputs));
        self.set(ProcessState::Idle, Some(now + IDLE_LIMIT));
    }

    fn on_exited(&mut self, exit: &Exit, fresh: ProcessId, now: Time, out: &mut Actions) -> bool {
        if !self.is_live() {
            return false;
        }
        let was_idle = self.state == ProcessState::Idle;
        let stalled = std::mem::take(&mut self.stalled);
        self.end();
        let outputs = self.outputs.take();
        let done = outputs.is_some();
        if let Some(outputs) = outputs {
            out.push_back(self.finished(outputs));
        }
        if self.stop.take().is_some() {
            out.push_back(self.stopped(done || exit.code == Some(75)));
            return false;
        }
        if self.next.is_some() {
            return self.start_next(fresh, now, out);
        }
        if done || was_idle {
            return false;
        }
        let verdict = if stalled { self.stall_verdict() } else { exit.verdict(self.crashes) };
        self.on_verdict(verdict, exit, fresh, now, out)
    }

    /// A hang is a crash by another name.
    fn stall_verdict(&self) -> Verdict {
        let reason = format!("no event for {} s", STALL_LIMIT.as_secs());
        match (Exit { code: Some(1), ..Exit::default() }).verdict(self.crashes) {
            Verdict::Retry { .. } => Verdict::Retry { reason },
            _ => Verdict::Fail { kind: FailureKind::Stalled, message: reason },
        }
    }

    fn on_verdict(&mut self, verdict: Verdict, exit: &Exit, fresh: ProcessId, now: Time, out: &mut Actions) -> bool {
        let reason = match verdict {
            Verdict::Fail { kind, message } => {
                out.push_back(self.failed(kind, message));
                return false;
            }
            Verdict::Retry { reason } => reason,
            Verdict::Done => "it exited with 0 and never said `done`".to_owned(),
            Verdict::Preempted => "it exited with 75 and nobody had asked it to".to_owned(),
        };
        let again = Exit { code: Some(1), last_words: reason.clone(), ..exit.clone() };
        if let Verdict::Fail { kind, .. } = again.verdict(self.crashes) {
            out.push_back(self.failed(kind, reason));
            return false;
        }
        tracing::warn!(task = %self.spec.task, round = self.spec.round, reason, "the script failed; starting it again");
        self.crashes += 1;
        self.start(fresh, now, out);
        true
    }

    fn start_next(&mut self, fresh: ProcessId, now: Time, out: &mut Actions) -> bool {
        if let Some(spec) = self.next.take() {
            self.begin(spec);
        }
        self.start(fresh, now, out);
        true
    }

    /// Another round: nothing of the last one counts.
    fn begin(&mut self, spec: RunSpec) {
        if spec.generation != self.spec.generation {
            self.starts = spec.attempt;
        }
        self.step = spec.start_step();
        self.spec = spec;
        self.crashes = 0;
        self.loss = None;
        self.checkpoint = None;
        self.outputs = None;
        self.stop = None;
        self.stalled = false;
    }

    fn start(&mut self, process: ProcessId, now: Time, out: &mut Actions) {
        self.process = process;
        let spec = Box::new(RunSpec { attempt: self.starts, ..self.spec.clone() });
        self.starts += 1;
        self.set(ProcessState::Fetching, Some(now + PREPARE_LIMIT));
        out.push_back(edge(Request::Launch { process, spec, continue_from: self.checkpoint.clone() }));
    }

    fn kill(&mut self, now: Time, out: &mut Actions) {
        if self.state == ProcessState::Fetching {
            // Killed as soon as it is launched.
            return;
        }
        self.set(ProcessState::Stopping, Some(now + KILL_LIMIT));
        out.push_back(self.signal(Signal::Kill));
    }

    fn end(&mut self) {
        self.set(ProcessState::Ended, None);
        self.retired.push((self.spec.round, self.process));
    }

    fn set(&mut self, state: ProcessState, deadline: Option<Time>) {
        self.state = state;
        self.deadline = deadline;
    }

    fn session_can_serve(&self, spec: &RunSpec) -> bool {
        let fixed = |spec: &RunSpec| (spec.generation, spec.mode, spec.bundle, spec.resources, spec.session);
        spec.session && fixed(spec) == fixed(&self.spec)
    }

    /// Directories stay through the round after theirs; those of another generation are of no use.
    fn drop_old_directories(&mut self, spec: &RunSpec, out: &mut Actions) {
        let other_generation = spec.generation != self.spec.generation;
        let old = |round: u32| other_generation || round.saturating_add(1) < spec.round;
        let gone = self.retired.extract_if(.., |(round, _)| old(*round));
        out.extend(gone.map(|(_, process)| edge(Request::Forget { process })));
    }

    fn signal(&self, signal: Signal) -> Action<State> {
        edge(Request::Signal { process: self.process, signal })
    }

    fn finished(&self, outputs: Box<Outputs>) -> Action<State> {
        let RunSpec { task, generation, round, .. } = self.spec;
        Action::Event(Event::Finished { task, generation, round, outputs })
    }

    fn stopped(&self, preempted: bool) -> Action<State> {
        Action::Event(Event::Stopped { task: self.spec.task, preempted })
    }

    fn failed(&self, kind: FailureKind, message: String) -> Action<State> {
        let RunSpec { task, generation, round, .. } = self.spec;
        Action::Event(Event::Failed { task, generation, round, kind, message, attempts: self.starts })
    }
}

pub(super) fn edge(request: Request) -> Action<State> {
    Action::Event(Event::Edge(request))
}
