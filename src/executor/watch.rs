//! Runs and watches one training process: from its work directory to its last word.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{
    Exit, FailureFile, Killed, Outputs, RunSpec,
    bundle::Bundle,
    edge::{Answer, Reporter, Saying, Shared, Signal},
    environment::{self, Surroundings},
    events::{self, ScriptEvent, Tail},
    overrun::{self, SAMPLES_A_MEASUREMENT},
    process::{self, Launch, LaunchError, Script},
    python::Interpreter,
    session,
    usage::{self, Usage},
    work_dir::{Round, WorkDir},
};
use crate::types::{Step, Time};

/// Between two looks at the events: short against a step, and 100 reads a second cost nothing that can be measured.
const LOOK: Duration = Duration::from_millis(10);
/// Looks between two samples of memory and CPU ([`overrun::SAMPLE`]).
const LOOKS_A_SAMPLE: u32 = 50;

/// What a watcher is told.
#[derive(Debug)]
pub(super) enum Order {
    Signal(Signal),
    NextRound(Box<RunSpec>),
}

/// What to run.
pub(super) struct Task {
    pub(super) spec: RunSpec,
    pub(super) continue_from: Option<(Step, PathBuf)>,
    pub(super) directory: PathBuf,
    pub(super) inbox: mpsc::Receiver<Order>,
}

/// Runs a task's process to its end, and reports.
pub(super) async fn run(shared: Arc<Shared>, task: Task, reporter: Reporter) {
    let process = reporter.process;
    let inbox = task.inbox;
    let (spec, continue_from, directory) = (task.spec, task.continue_from, task.directory);
    let prepared = {
        let (shared, spec) = (Arc::clone(&shared), spec.clone());
        tokio::task::spawn_blocking(move || prepare(&shared, &spec, continue_from.as_ref(), &directory)).await
    };
    let prepared = prepared.map_err(|error| LaunchError::Host("its inputs can't be laid out", error.into())).flatten();
    let started = prepared.and_then(|prepared| {
        let script = Script::start(&shared, &prepared.launch)?;
        Ok((prepared, script))
    });
    let (prepared, script) = match started {
        Ok(started) => started,
        Err(error) => {
            let answer = Answer::LaunchFailed { process, kind: error.kind(), message: error.to_string() };
            return reporter.send(answer).await;
        }
    };
    reporter.send(Answer::Launched { process, pid: script.pid }).await;
    let watcher = Watcher::new(shared, reporter, prepared, script, spec);
    watcher.watch(inbox).await;
}

/// A process that is ready to be started.
struct Prepared {
    work: WorkDir,
    bundle: Bundle,
    interpreter: Interpreter,
    socket: PathBuf,
    round: Round,
    launch: Launch,
}

fn prepare(
    shared: &Shared,
    spec: &RunSpec,
    continue_from: Option<&(Step, PathBuf)>,
    directory: &Path,
) -> Result<Prepared, LaunchError> {
    let (files, keys) = (shared.files.as_ref(), shared.keys.as_ref());
    let host = |what| move |error| LaunchError::Host(what, error);
    let interpreter = shared.interpreter().map_err(LaunchError::Python)?;
    let work = WorkDir::create(directory, &spec.bundle, files).map_err(host("the bundle can't be laid out"))?;
    let bundle = Bundle::read(&work.bundle())?;
    let interpreter = interpreter.of_bundle(&bundle, &work).map_err(LaunchError::Python)?;
    let round = work.lay_out(0, spec, continue_from, files, keys).map_err(host("its inputs can't be laid out"))?;
    let sockets = shared.root.sockets_of(directory).map_err(host("its socket's directory can't be made"))?;
    let socket = sockets.join(process::SOCKET);
    let around = Surroundings {
        bundle: &bundle,
        interpreter: &interpreter,
        work_dir: &round.directory,
        socket: &socket,
        resume: round.resume.as_ref().map(|(step, path)| (*step, path.as_path())),
    };
    let environment = environment::of_run(spec, &around);
    let specification = process::specification(&work, &around, environment, &spec.resources);
    let path = work.path().join("launch.json");
    specification.write(&path).map_err(host("its launch file can't be written"))?;
    let launch = Launch { spec: path, log: shared.root.log_of(&spec.task) };
    Ok(Prepared { work, bundle, interpreter, socket, round, launch })
}

/// Watches one process through all its rounds.
struct Watcher {
    shared: Arc<Shared>,
    reporter: Reporter,
    work: Arc<WorkDir>,
    bundle: Bundle,
    interpreter: Interpreter,
    socket: PathBuf,
    script: Script,
    spec: RunSpec,
    run: Run,
    killed: Option<Killed>,
    samples: u32,
}

/// One round of the process.
struct Run {
    number: u32,
    tail: Tail,
    began: Time,
    used_before: Duration,
    usage: Usage,
    peak: u64,
    loss: Option<f64>,
    done: bool,
    error: Option<FailureFile>,
}

impl Run {
    fn new(number: u32, round: Round, used_before: Duration) -> Self {
        Self {
            number,
            tail: Tail::new(round.events),
            began: crate::clock::now(),
            used_before,
            usage: Usage::default(),
            peak: 0,
            loss: None,
            done: false,
            error: None,
        }
    }
}

impl Watcher {
    fn new(shared: Arc<Shared>, reporter: Reporter, prepared: Prepared, script: Script, spec: RunSpec) -> Self {
        let Prepared { work, bundle, interpreter, socket, round, .. } = prepared;
        let run = Run::new(0, round, Duration::ZERO);
        let (work, killed, samples) = (Arc::new(work), None, 0);
        Self { shared, reporter, work, bundle, interpreter, socket, script, spec, run, killed, samples }
    }

    async fn watch(mut self, mut inbox: mpsc::Receiver<Order>) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count = 0_u32;
        let code = loop {
            tokio::select! {
                code = self.script.wait() => break code,
                order = inbox.recv() => match order {
                    Some(order) => self.obey(order).await,
                    // The supervisor is gone, and so is the node's interest.
                    None => self.script.signal(Signal::Kill).await,
                },
                _ = looks.tick() => {
                    if !self.run.done {
                        self.look().await;
                    }
                    // A session that waits for its next round is held to its limits too.
                    count = count.wrapping_add(1);
                    if count.is_multiple_of(LOOKS_A_SAMPLE) {
                        self.sample().await;
                    }
                }
            }
        };
        // What it said just before its end counts.
        while !self.run.done && self.look().await {}
        self.report_exit(code).await;
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Signal(signal) => {
                if signal == Signal::Kill {
                    self.killed = self.killed.take().or(Some(Killed::Asked));
                }
                self.script.signal(signal).await;
            }
            Order::NextRound(spec) => {
                let result = self.next_round(*spec).await.map_err(|error| error.to_string());
                self.reporter.send(Answer::RoundSent { process: self.reporter.process, result }).await;
            }
        }
    }

    async fn next_round(&mut self, spec: RunSpec) -> io::Result<()> {
        let number = self.run.number + 1;
        let round = {
            let (work, spec) = (Arc::clone(&self.work), spec.clone());
            let (files, keys) = (Arc::clone(&self.shared.files), Arc::clone(&self.shared.keys));
            blocking(move || {
                // Recovery and the aggregate may still read the last round's results.
                number.checked_sub(2).into_iter().for_each(|old| work.drop_round(old));
                work.lay_out(number, &spec, None, files.as_ref(), &keys)
            })
            .await?
        };
        let around = Surroundings {
            bundle: &self.bundle,
            interpreter: &self.interpreter,
            work_dir: &round.directory,
            socket: &self.socket,
            resume: round.resume.as_ref().map(|(step, path)| (*step, path.as_path())),
        };
        let env = environment::of_run(&spec, &around);
        let directory = round.directory.clone();
        let used = usage::of_descendants(self.script.pid).cpu;
        self.run = Run::new(number, round, used);
        self.spec = spec;
        session::send_round(&self.socket, &directory, &env).await
    }

    /// Reads what the script said; false when there is no more of it.
    async fn look(&mut self) -> bool {
        let said = match self.run.tail.poll() {
            Ok(said) => said,
            Err(error) => {
                self.broken(format!("its events can't be read: {error}")).await;
                return false;
            }
        };
        if self.run.tail.is_over_limit() {
            self.kill(Killed::Output {
                what: "the events file".into(),
                limit: events::MAX_EVENTS,
                unit: "bytes".into(),
            })
            .await;
            return false;
        }
        let mut progress = None;
        for event in said.events {
            if let ScriptEvent::Progress { step, loss } = event {
                self.run.loss = loss.or(self.run.loss);
                progress = Some(Saying::Progress { step, loss });
                continue;
            }
            if let Some(progress) = progress.take() {
                self.reporter.say(progress).await;
            }
            self.on_event(event).await;
        }
        if let Some(progress) = progress {
            self.reporter.say(progress).await;
        }
        !said.at_end
    }

    async fn on_event(&mut self, event: ScriptEvent) {
        match event {
            ScriptEvent::Started => self.reporter.say(Saying::Started).await,
            ScriptEvent::Other | ScriptEvent::Progress { .. } => self.reporter.say(Saying::Alive).await,
            ScriptEvent::Error(error) => {
                self.run.error = Some(error);
                self.reporter.say(Saying::Alive).await;
            }
            ScriptEvent::Checkpoint { step } => self.on_checkpoint(step).await,
            ScriptEvent::Done { steps, samples } => self.on_done(steps, samples).await,
        }
    }

    async fn on_checkpoint(&mut self, step: Step) {
        // The round's end is kept from `out/`: two kinds of end would be two states, and two roots.
        if step >= self.spec.stop_step {
            return self.reporter.say(Saying::Alive).await;
        }
        let (work, number) = (Arc::clone(&self.work), self.run.number);
        match blocking(move || work.keep_checkpoint(number, step)).await {
            Ok(directory) => self.reporter.say(Saying::Checkpoint { step, directory }).await,
            Err(error) => {
                self.broken(format!("its checkpoint of step {step} is not there as it should be: {error}")).await
            }
        }
    }

    async fn on_done(&mut self, steps: Option<u64>, samples: u64) {
        if self.run.done {
            return;
        }
        self.sample().await;
        self.run.done = true;
        let (work, number) = (Arc::clone(&self.work), self.run.number);
        let (stop, kind) = (self.spec.stop_step, self.spec.output);
        match blocking(move || work.keep_outputs(number, stop, kind)).await {
            Ok((directory, checkpoint)) => {
                let outputs = Outputs {
                    directory,
                    checkpoint,
                    steps: steps.unwrap_or_else(|| u64::from(stop)),
                    samples,
                    loss: self.run.loss,
                    wall: crate::clock::now().since(self.run.began),
                    cpu: self.run.usage.cpu.saturating_sub(self.run.used_before),
                    memory_bytes: self.run.peak,
                };
                self.reporter.say(Saying::Done(Box::new(outputs))).await;
            }
            Err(error) => self.broken(format!("its outputs are not there as they should be: {error}")).await,
        }
    }

    async fn broken(&mut self, message: String) {
        self.run.error.get_or_insert_with(|| FailureFile { code: "contract".to_owned(), msg: message.clone() });
        self.reporter.say(Saying::Broken { message }).await;
    }

    /// Looks at memory, CPU and disk, and kills what is over its limit.
    async fn sample(&mut self) {
        let usage = usage::of_descendants(self.script.pid);
        self.run.usage.cpu = self.run.usage.cpu.max(usage.cpu);
        self.run.peak = self.run.peak.max(usage.resident);
        let mut found = overrun::of_usage(&usage, &self.spec.resources);
        self.samples = self.samples.wrapping_add(1);
        if found.is_none() && self.samples.is_multiple_of(SAMPLES_A_MEASUREMENT) {
            found = overrun::of_output(&self.work, &self.spec.resources).await;
        }
        if let Some(why) = found {
            self.kill(why).await;
        }
    }

    async fn kill(&mut self, why: Killed) {
        if self.killed.is_none() {
            tracing::warn!(task = %self.spec.task, ?why, "killing a script that is over its limit");
            self.killed = Some(why);
            self.script.signal(Signal::Kill).await;
        }
    }

    async fn report_exit(mut self, code: Option<i32>) {
        let last_words = self.script.last_words().await;
        let (work, number) = (Arc::clone(&self.work), self.run.number);
        let written = blocking(move || Ok(work.failure(number))).await.ok().flatten();
        let failure = written.or(self.run.error.take());
        let exit = Box::new(Exit { code, killed: self.killed.take(), failure, last_words });
        self.reporter.send(Answer::Exited { process: self.reporter.process, exit }).await;
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
