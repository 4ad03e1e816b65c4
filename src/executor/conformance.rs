//! `script check`: does a bundle keep the contract? For whoever writes one.
//!
//! It runs the bundle's own tiny job (`[check]` in its `atlas.toml`) through the very executor that a node uses: same
//! state, same supervisor, same launcher. What passes here runs on a node.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use serde::Serialize;
use tokio::{sync::mpsc, time::timeout};

use super::{
    Event, FailureKind, Input, Mode, Outputs, Resume, RunSpec, StopMode,
    alone::{Executor, MAX_REPORTS, RUN_LIMIT},
    bundle::{self, Bundle, Check},
    edge,
    inference::{self, WorkerSpec},
    scratch::Scratch,
};
use crate::{
    store::Files,
    types::{ContentId, Digest, JobId, Resources, Step, TaskId},
};

/// A run that is to be interrupted has this many steps more than it can do before the signal comes.
const ENDLESS: Step = 100_000_000;

/// Why nothing could be checked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The manifest is at fault.
    #[error(transparent)]
    Bundle(#[from] bundle::Error),
    /// There is no job to check with.
    #[error("`{}` has no `[check]` table: say there how to make a small model and a small data set", bundle::MANIFEST)]
    NoJob,
    /// A script of `[check]` failed.
    #[error("`{script}` of `[check]` failed: {reason}")]
    Script {
        /// Which.
        script: String,
        /// Its last words.
        reason: String,
    },
    /// This host is at fault.
    #[error("the check can't run here")]
    Host(#[from] io::Error),
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The bundle's name.
    pub bundle: String,
    /// Each check.
    pub findings: Vec<Finding>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub check: &'static str,
    /// What came out.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What came out of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", content = "reason", rename_all = "snake_case")]
pub enum Verdict {
    /// The bundle keeps this part of the contract.
    Passed,
    /// It does not, and why.
    Failed(String),
    /// It does not promise it.
    NotPromised,
}

impl Report {
    /// Whether no check failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.findings.iter().any(|finding| matches!(finding.verdict, Verdict::Failed(_)))
    }
}

/// Checks the bundle at `directory` with the interpreter `python`; `launcher` as in [`edge::Config`]. Must be called
/// inside a Tokio runtime.
///
/// # Errors
/// If there is nothing to run. A bundle that breaks the contract is no error, but a [`Report`] that says so.
pub async fn check(directory: &Path, python: &Path, launcher: Vec<PathBuf>) -> Result<Report, Error> {
    let bundle = Bundle::read(directory)?;
    let job = bundle.check.clone().ok_or(Error::NoJob)?;
    let bench = Bench::new(directory, python, launcher, &job)?;
    let mut findings = vec![Finding { check: "manifest", verdict: Verdict::Passed }];
    let whole = bench.finish(bench.spec.clone()).await;
    let mut add = |check, promised: bool, result: Result<(), String>| {
        let verdict = match result {
            _ if !promised => Verdict::NotPromised,
            Ok(()) => Verdict::Passed,
            Err(reason) => Verdict::Failed(reason),
        };
        findings.push(Finding { check, verdict });
    };
    add("a round is done", true, whole.as_ref().map(drop).map_err(Clone::clone));
    if let Ok(whole) = &whole {
        add("the model keeps its tensors", true, bench.same_schema(whole));
        add("two runs give the same bytes", bundle.deterministic, bench.twice(whole).await);
        add("a resumed run gives the same bytes", bundle.deterministic, bench.resumed(whole).await);
        add("a session gives the bytes of fresh processes", bundle.deterministic, bench.session(whole).await);
        add("SIGUSR1 checkpoints and goes on; SIGTERM checkpoints and exits with 75", true, bench.signals().await);
        add("bad parameters exit with 64", true, bench.fails_as(FailureKind::BadConfig).await);
        add("bad data exit with 65", true, bench.fails_as(FailureKind::BadData).await);
    }
    let serves = bundle.modes.contains(&Mode::Serve);
    add("a served model answers in JSON", serves, bench.serves(&job).await);
    Ok(Report { bundle: bundle.name, findings })
}

/// Everything that the checks share.
struct Bench {
    config: edge::Config,
    files: Arc<Scratch>,
    spec: RunSpec,
    model: Vec<u8>,
    /// Removed at the end.
    directory: tempfile::TempDir,
}

impl Bench {
    fn new(bundle: &Path, python: &Path, launcher: Vec<PathBuf>, job: &Check) -> Result<Self, Error> {
        let directory = tempfile::tempdir()?;
        let at = |name: &str| directory.path().join(name);
        let mut config = edge::Config::new(at("executor"))?;
        config.python = python.to_owned();
        config.launcher = launcher;
        fs::create_dir(at("data"))?;
        make(bundle, python, &job.init, &at("model"))?;
        make(bundle, python, &job.data, &at("data/records"))?;
        let files = Arc::new(Scratch::new(at("store")));
        let spec = RunSpec {
            task: TaskId { job: JobId([0; 32]), slot: 0 },
            generation: 1,
            round: 0,
            mode: Mode::Train,
            bundle: import_bundle(bundle, &at("bundle"), &files)?,
            model: files.import_path(&at("model"))?.cid,
            optim: None,
            data: files.import_path(&at("data"))?.cid,
            data_bytes: u64::MAX,
            resume: None,
            config: serde_json::to_string(&job.config).map_err(io::Error::other)?,
            seed: Digest::of(b"atlas-node script check"),
            stop_step: job.steps.max(4),
            checkpoint_every: job.steps.max(4) / 2,
            output: job.output,
            session: false,
            data_key: None,
            resources: Resources::default(),
            attempt: 0,
        };
        Ok(Self { config, files, spec, model: fs::read(at("model"))?, directory })
    }

    /// An executor of its own, so that no check can lean on another.
    fn executor(&self) -> Result<Executor, String> {
        Executor::start(self.config.clone(), Arc::clone(&self.files))
    }

    /// Runs one round in a fresh process. What it left is copied out of the executor's directory.
    async fn finish(&self, spec: RunSpec) -> Result<Left, String> {
        let mut executor = self.executor()?;
        let outputs = executor.finish(spec).await?;
        self.keep(&outputs, &executor.checkpoints)
    }

    fn keep(&self, outputs: &Outputs, checkpoints: &[(Step, PathBuf)]) -> Result<Left, String> {
        let words = |error: io::Error| error.to_string();
        let read = |name| fs::read(outputs.directory.join(name)).ok();
        let middle = checkpoints.iter().find(|(step, _)| *step < self.spec.stop_step);
        let middle = middle.map(|(step, path)| {
            self.files.import_path(path).map(|imported| Resume { directory: imported.cid, step: *step }).map_err(words)
        });
        Ok(Left {
            model: read("model.safetensors").ok_or("there is no `out/model.safetensors`")?,
            optim: read("optim.safetensors"),
            middle: middle.transpose()?,
            samples: outputs.samples,
        })
    }

    fn same_schema(&self, left: &Left) -> Result<(), String> {
        let of = |bytes: &[u8]| -> Result<Vec<(String, String)>, String> {
            let tensors = safetensors::SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
            let mut all: Vec<_> = tensors
                .tensors()
                .into_iter()
                .map(|(name, view)| (name, format!("{:?} {:?}", view.dtype(), view.shape())))
                .collect();
            all.sort();
            Ok(all)
        };
        let (before, after) = (of(&self.model)?, of(&left.model)?);
        if before == after {
            return Ok(());
        }
        Err(format!("the input has {before:?}, the output {after:?}"))
    }

    async fn twice(&self, whole: &Left) -> Result<(), String> {
        whole.equals(&self.finish(self.spec.clone()).await?)
    }

    async fn resumed(&self, whole: &Left) -> Result<(), String> {
        let every = self.spec.checkpoint_every;
        let middle =
            whole.middle.clone().ok_or(format!("it wrote no checkpoint at step {every}, as it was told to"))?;
        whole.equals(&self.finish(RunSpec { resume: Some(middle), generation: 2, ..self.spec.clone() }).await?)
    }

    /// Two rounds in one process against two in two.
    async fn session(&self, whole: &Left) -> Result<(), String> {
        let next = self.next_round(whole)?;
        let fresh = self.finish(next.clone()).await?;
        let mut executor = self.executor()?;
        executor.finish(RunSpec { session: true, ..self.spec.clone() }).await?;
        let outputs = executor.finish(RunSpec { session: true, ..next }).await?;
        fresh.equals(&self.keep(&outputs, &[])?)
    }

    fn next_round(&self, last: &Left) -> Result<RunSpec, String> {
        let import = |bytes: &Vec<u8>| self.files.import_bytes(bytes).map_err(|error| error.to_string());
        let optim = last.optim.as_ref().map(import).transpose()?;
        Ok(RunSpec { round: 1, model: import(&last.model)?, optim, ..self.spec.clone() })
    }

    async fn signals(&self) -> Result<(), String> {
        let mut executor = self.executor()?;
        let spec = RunSpec { stop_step: ENDLESS, checkpoint_every: 0, ..self.spec.clone() };
        let task = spec.task;
        executor.tell(Input::Run(Box::new(spec)));
        let progress = |event: &Event| matches!(event, Event::Progress { .. }).then_some(());
        let checkpoint = |event: &Event| matches!(event, Event::Checkpoint { .. }).then_some(());
        executor.until("the first step", progress).await?;
        executor.tell(Input::CheckpointNow { task });
        executor.until("a checkpoint after SIGUSR1", checkpoint).await?;
        executor.until("a step after it", progress).await?;
        let before = executor.checkpoints.len();
        executor.tell(Input::Stop { task, mode: StopMode::Checkpoint });
        let stopped = |event: &Event| match event {
            Event::Stopped { preempted, .. } => Some(*preempted),
            _ => None,
        };
        let preempted = executor.until("its end after SIGTERM", stopped).await?;
        match (preempted, executor.checkpoints.len() > before) {
            (true, true) => Ok(()),
            (false, _) => Err("it did not exit with 75 after SIGTERM, or not in time".to_owned()),
            (_, false) => Err("it wrote no checkpoint after SIGTERM".to_owned()),
        }
    }

    /// Parameters that are not an object, or records that are no text.
    async fn fails_as(&self, wanted: FailureKind) -> Result<(), String> {
        let mut spec = self.spec.clone();
        if wanted == FailureKind::BadConfig {
            "[]".clone_into(&mut spec.config);
        } else {
            let garbage = self.directory.path().join("garbage");
            fs::create_dir_all(&garbage).map_err(|error| error.to_string())?;
            fs::write(garbage.join("records"), "neither, numbers\n").map_err(|error| error.to_string())?;
            spec.data = self.files.import_path(&garbage).map_err(|error| error.to_string())?.cid;
        }
        let mut executor = self.executor()?;
        executor.tell(Input::Run(Box::new(spec)));
        match executor.outcome().await? {
            Ok(_) => Err("it went on as if nothing were wrong".to_owned()),
            Err((kind, _)) if kind == wanted => Ok(()),
            Err((kind, message)) => Err(format!("it failed as `{kind}`: {message}")),
        }
    }

    async fn serves(&self, job: &Check) -> Result<(), String> {
        let request = job.request.as_ref().ok_or("`[check]` has no `request` to ask it")?;
        let input = serde_json::to_vec(request).map_err(|error| error.to_string())?;
        let executor = self.executor()?;
        let (sender, mut answers) = mpsc::channel(MAX_REPORTS);
        let workers = inference::edge::Workers::new(&executor.supervisor, sender);
        let worker = inference::edge::WorkerId(0);
        let RunSpec { bundle, model, config, resources, .. } = self.spec.clone();
        let spec = Box::new(WorkerSpec { bundle, model, model_id: "check".to_owned(), config, resources });
        workers.perform(inference::edge::Request::Start { worker, spec });
        while let Ok(Some(answer)) = timeout(RUN_LIMIT, answers.recv()).await {
            match answer {
                inference::edge::Answer::Ready { .. } => {
                    workers.perform(inference::edge::Request::Infer { ticket: 0, worker, input: input.clone() });
                }
                inference::edge::Answer::Inferred { result, .. } => return result.map(drop),
                inference::edge::Answer::Ended { message, .. } => return Err(message),
            }
        }
        Err("it did not answer in time".to_owned())
    }
}

/// Runs `script arguments… to` of the bundle, outside the sandbox: it is the developer's own, on the developer's machine.
fn make(bundle: &Path, python: &Path, script: &[String], to: &Path) -> Result<(), Error> {
    let name = script.first().cloned().unwrap_or_default();
    let failed = |reason: String| Error::Script { script: name.clone(), reason };
    let mut command = Command::new(python);
    command.arg("-B").arg(bundle.join(&name)).args(script.iter().skip(1)).arg(to).stdin(Stdio::null());
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() || !to.is_file() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(())
}

/// Without what an interpreter left beside the sources: it would change the bundle's identity.
fn import_bundle(bundle: &Path, copy: &Path, files: &Scratch) -> io::Result<ContentId> {
    fs::create_dir(copy)?;
    for entry in fs::read_dir(bundle)? {
        let entry = entry?;
        if entry.file_name() != "__pycache__" {
            super::scratch::copy(&entry.path(), &copy.join(entry.file_name()))?;
        }
    }
    Ok(files.import_path(copy)?.cid)
}

/// What a run left.
struct Left {
    model: Vec<u8>,
    optim: Option<Vec<u8>>,
    middle: Option<Resume>,
    samples: u64,
}

impl Left {
    fn equals(&self, other: &Self) -> Result<(), String> {
        let differ = [
            ("model.safetensors", self.model != other.model),
            ("optim.safetensors", self.optim != other.optim),
            ("`done.samples`", self.samples != other.samples),
        ];
        match differ.into_iter().find(|(_, differs)| *differs) {
            Some((what, _)) => Err(format!("{what} differs")),
            None => Ok(()),
        }
    }
}
