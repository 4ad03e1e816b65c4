//! The processes of a simulated machine: what the executor's edge does, with time instead of work.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    content::{Directory, Store},
    scenario,
    training::{BATCH, Chain, Inputs},
};
use crate::{
    executor::{
        Exit, FailureKind, Killed, Outputs, RunSpec,
        edge::{Answer, ProcessId, Request, Saying, Signal},
    },
    store::Files,
    types::{Step, Time},
};

/// Between a signal that ends a process and the report that it is gone.
const END: Duration = Duration::from_millis(20);
/// A session takes its next round within this.
const NEXT_ROUND: Duration = Duration::from_millis(5);
/// Between two reports of progress where there is no checkpoint.
const PROGRESS_STEPS: Step = 10;
/// Memory that a script is reported to have used.
const MEMORY_BYTES: u64 = 64 << 20;
/// The longest file that a script reads.
const MAX_FILE: usize = 1 << 20;

/// Something that a process does later.
#[derive(Clone, Debug)]
pub(super) enum Tick {
    Launch {
        process: ProcessId,
        spec: Box<RunSpec>,
        continue_from: Option<(Step, PathBuf)>,
    },
    NextRound {
        process: ProcessId,
        spec: Box<RunSpec>,
    },
    /// A stretch of steps is done.
    Stretch {
        process: ProcessId,
        run: u32,
    },
    Exit {
        process: ProcessId,
        exit: Box<Exit>,
    },
    Say(Answer),
}

/// A tick and when it comes.
pub(super) type Due = (Time, Tick);

#[derive(Debug)]
struct Script {
    spec: RunSpec,
    /// The state after `step` steps, which were done at `since`.
    chain: Chain,
    step: Step,
    since: Time,
    /// Where the present stretch ends.
    until: Step,
    /// Counts the rounds of this process.
    run: u32,
    idle: bool,
}

/// All processes of one node's life.
#[derive(Debug)]
pub(super) struct Scripts {
    config: scenario::Script,
    /// The machine is slower than planned by this factor, in percent.
    pub(super) slowness_percent: u64,
    /// Planted bug: a script that continues does its last batch twice.
    pub(super) redo_a_batch: bool,
    processes: BTreeMap<ProcessId, Script>,
    directories: BTreeMap<PathBuf, Directory>,
    due: Vec<Due>,
}

impl Scripts {
    pub(super) fn new(config: scenario::Script) -> Self {
        Self {
            config,
            slowness_percent: 100,
            redo_a_batch: false,
            processes: BTreeMap::new(),
            directories: BTreeMap::new(),
            due: Vec::new(),
        }
    }

    /// What a script wrote to a path.
    pub(super) fn directory(&self, path: &Path) -> Option<&Directory> {
        self.directories.get(path)
    }

    /// What is due since the last call.
    pub(super) fn take_due(&mut self) -> Vec<Due> {
        std::mem::take(&mut self.due)
    }

    pub(super) fn perform(&mut self, request: Request, now: Time) {
        match request {
            Request::Launch { process, spec, continue_from } => {
                let launched = now + Duration::from_millis(self.config.launch_millis);
                self.due.push((launched, Tick::Launch { process, spec, continue_from }));
            }
            Request::NextRound { process, spec } => {
                self.due.push((now + NEXT_ROUND, Tick::NextRound { process, spec }))
            }
            Request::Signal { process, signal } => self.signal(process, signal, now),
            Request::Forget { process } => {
                let below = directory_of(process);
                self.directories.retain(|path, _| !path.starts_with(&below));
                self.processes.remove(&process);
            }
            Request::ReadLog { id, .. } => {
                let result = Err("a simulated script prints nothing".to_owned());
                self.due.push((now, Tick::Say(Answer::Log { id, result })));
            }
        }
    }

    /// Something that was due has come; what the host reports.
    pub(super) fn on_tick(&mut self, tick: Tick, store: &Store, now: Time) -> Vec<Answer> {
        match tick {
            Tick::Launch { process, spec, continue_from } => {
                match self.begin(process, *spec, continue_from, store, now) {
                    Ok(()) => {
                        let pid = u32::try_from(process.0).unwrap_or(u32::MAX);
                        vec![Answer::Launched { process, pid }, Answer::Said { process, saying: Saying::Started }]
                    }
                    Err(message) => vec![Answer::LaunchFailed { process, kind: FailureKind::Launch, message }],
                }
            }
            Tick::NextRound { process, spec } => {
                let idle = self.processes.get(&process).is_some_and(|script| script.idle);
                let begun = if idle { self.begin(process, *spec, None, store, now) } else { Err("not idle".into()) };
                vec![Answer::RoundSent { process, result: begun }]
            }
            Tick::Stretch { process, run } => self.on_stretch(process, run, now),
            Tick::Exit { process, exit } => vec![Answer::Exited { process, exit }],
            Tick::Say(answer) => vec![answer],
        }
    }

    fn begin(
        &mut self,
        process: ProcessId,
        spec: RunSpec,
        continue_from: Option<(Step, PathBuf)>,
        store: &Store,
        now: Time,
    ) -> Result<(), String> {
        let (step, chain) = match continue_from {
            Some((step, path)) => {
                let directory = self.directories.get(&path).ok_or("the checkpoint's directory is gone")?;
                (step, Chain::from_directory(directory).ok_or("the checkpoint can't be read")?)
            }
            None => start(&spec, store).map_err(|error| error.to_string())?,
        };
        let step = if self.redo_a_batch { step.saturating_sub(1) } else { step };
        let run = self.processes.get(&process).map_or(0, |script| script.run + 1);
        let script = Script { spec, chain, step, since: now, until: step, run, idle: false };
        self.processes.insert(process, script);
        self.next_stretch(process, now);
        Ok(())
    }

    fn next_stretch(&mut self, process: ProcessId, now: Time) {
        let step_millis = self.step_millis();
        let Some(script) = self.processes.get_mut(&process) else { return };
        let every = if script.spec.checkpoint_every > 0 { script.spec.checkpoint_every } else { PROGRESS_STEPS };
        script.until = ((script.step / every + 1) * every).min(script.spec.stop_step.max(script.step));
        script.since = now;
        let millis = u64::from(script.until - script.step) * step_millis;
        self.due.push((now + Duration::from_millis(millis), Tick::Stretch { process, run: script.run }));
    }

    fn step_millis(&self) -> u64 {
        (self.config.step_millis * self.slowness_percent / 100).max(1)
    }

    fn on_stretch(&mut self, process: ProcessId, run: u32, now: Time) -> Vec<Answer> {
        let Some(script) = self.processes.get_mut(&process).filter(|script| script.run == run && !script.idle) else {
            return Vec::new();
        };
        script.chain = script.chain.advance(&script.spec.seed, script.step, script.until);
        script.step = script.until;
        let (step, spec, chain) = (script.step, script.spec.clone(), script.chain);
        let said = |saying| Answer::Said { process, saying };
        let mut answers = vec![said(Saying::Progress { step, loss: Some(loss(&spec, step)) })];
        if step < spec.stop_step {
            if spec.checkpoint_every > 0 {
                answers.push(said(self.checkpoint(process, run, step, chain)));
            }
            self.next_stretch(process, now);
            return answers;
        }
        answers.push(said(self.done(process, run, &spec, chain)));
        if spec.session {
            self.processes.entry(process).and_modify(|script| script.idle = true);
        } else {
            self.end(process, Exit { code: Some(0), ..Exit::default() }, now);
        }
        answers
    }

    fn checkpoint(&mut self, process: ProcessId, run: u32, step: Step, chain: Chain) -> Saying {
        let directory = directory_of(process).join(format!("{run}/step-{step:08}"));
        self.directories.insert(directory.clone(), chain.to_directory());
        Saying::Checkpoint { step, directory }
    }

    fn done(&mut self, process: ProcessId, run: u32, spec: &RunSpec, chain: Chain) -> Saying {
        let directory = directory_of(process).join(format!("{run}/out"));
        self.directories.insert(directory.clone(), chain.to_directory());
        let steps = u64::from(spec.stop_step);
        let wall = Duration::from_millis(steps * self.step_millis());
        Saying::Done(Box::new(Outputs {
            checkpoint: Some(directory.clone()),
            directory,
            steps,
            samples: steps * BATCH,
            loss: Some(loss(spec, spec.stop_step)),
            wall,
            cpu: wall,
            memory_bytes: MEMORY_BYTES,
        }))
    }

    fn signal(&mut self, process: ProcessId, signal: Signal, now: Time) {
        let Some(script) = self.processes.get(&process) else { return };
        let (idle, run) = (script.idle, script.run);
        let (step, chain) = script.at(now, self.step_millis());
        if !idle && signal != Signal::Kill && step > 0 {
            let saying = self.checkpoint(process, run, step, chain);
            self.due.push((now, Tick::Say(Answer::Said { process, saying })));
        }
        match signal {
            Signal::Checkpoint => {}
            Signal::Terminate => self.end(process, Exit { code: Some(75), ..Exit::default() }, now),
            Signal::Kill => {
                self.end(process, Exit { code: Some(137), killed: Some(Killed::Asked), ..Exit::default() }, now);
            }
        }
    }

    fn end(&mut self, process: ProcessId, exit: Exit, now: Time) {
        if self.processes.remove(&process).is_some() {
            self.due.push((now + END, Tick::Exit { process, exit: Box::new(exit) }));
        }
    }
}

impl Script {
    /// Steps done by now, and the state after them.
    fn at(&self, now: Time, step_millis: u64) -> (Step, Chain) {
        let millis = u64::try_from(now.since(self.since).as_millis()).unwrap_or(u64::MAX);
        let steps = u32::try_from(millis / step_millis).unwrap_or(u32::MAX);
        let step = self.step.saturating_add(steps).min(self.until);
        (step, self.chain.advance(&self.spec.seed, self.step, step))
    }
}

/// Where a run begins: at the checkpoint inside the round, or at its start.
fn start(spec: &RunSpec, store: &Store) -> std::io::Result<(Step, Chain)> {
    if let Some(resume) = &spec.resume {
        let directory = store.get(&resume.directory).and_then(|block| Directory::from_block(&block));
        let chain = directory.as_ref().and_then(Chain::from_directory);
        return chain.map(|chain| (resume.step, chain)).ok_or_else(|| std::io::Error::other("no checkpoint to resume"));
    }
    store.read(&spec.bundle, MAX_FILE)?;
    let optimizer = spec.optim.map(|optim| store.read(&optim, MAX_FILE)).transpose()?;
    let (model, data) = (store.read(&spec.model, MAX_FILE)?, store.read(&spec.data, MAX_FILE)?);
    let inputs = Inputs { model: &model, optimizer: optimizer.as_deref(), data: &data, seed: &spec.seed };
    Ok((0, Chain::begin(&inputs)))
}

fn directory_of(process: ProcessId) -> PathBuf {
    PathBuf::from(format!("/sim/{}", process.0))
}

/// A curve that falls, for people to look at.
fn loss(spec: &RunSpec, step: Step) -> f64 {
    2.3 / (1.0 + 0.01 * f64::from(spec.round * spec.stop_step + step))
}
