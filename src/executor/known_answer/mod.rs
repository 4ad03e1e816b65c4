//! A training run whose answer is known: the same twenty steps on every host, through the sandbox that jobs get.
//!
//! Its root names the bits that this host's arithmetic gives (proof.md, `kat_root`). Two hosts with equal roots can be
//! compared exactly; reproducibility is measured, not assumed. It runs once, in the background, whenever what names the
//! class of the host changes. It never decides who may work: whoever compares receipts does.

use std::{fs, io, path::PathBuf, sync::Arc};

use super::{
    Mode, RunSpec,
    alone::Executor,
    edge::{self, Supervisor},
    scratch::Scratch,
};
use crate::{
    store::Files,
    tensor::root,
    types::{Digest, JobId, OutputKind, Resources, TaskId},
};

const BUNDLE: [(&str, &str); 2] =
    [("atlas.toml", include_str!("atlas.toml")), ("known_answer.py", include_str!("known_answer.py"))];
/// Steps of the run; the script has the same number.
const STEPS: u32 = 20;
/// It needs an interpreter with numpy, and next to nothing itself.
const MEMORY: u64 = 1 << 30;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host is at fault.
    #[error("the known-answer run can't be laid out")]
    Host(#[from] io::Error),
    /// The run failed.
    #[error("the known-answer run failed: {0}")]
    Run(String),
    /// What it left is no model.
    #[error("the known-answer run left no model")]
    Model(#[from] crate::tensor::Error),
}

/// Trains and returns the root of what came out. `python` and `launcher` as in [`edge::Config`]. Takes about a second of
/// one core. Must be called inside a Tokio runtime.
///
/// # Errors
/// If the run fails, as any job of this host then would.
pub async fn run(python: PathBuf, launcher: Vec<PathBuf>) -> Result<Digest, Error> {
    let directory = tempfile::tempdir()?;
    let bundle = directory.path().join("bundle");
    fs::create_dir(&bundle)?;
    for (name, text) in BUNDLE {
        fs::write(bundle.join(name), text)?;
    }
    let data = directory.path().join("data");
    fs::create_dir(&data)?;
    let files = Arc::new(Scratch::new(directory.path().join("store")));
    let spec = RunSpec {
        task: TaskId { job: JobId([0; 32]), slot: 0 },
        generation: 1,
        round: 0,
        mode: Mode::Train,
        bundle: files.import_path(&bundle)?.cid,
        model: files.import_bytes(b"none")?,
        optim: None,
        data: files.import_path(&data)?.cid,
        data_bytes: u64::MAX,
        resume: None,
        config: "{}".to_owned(),
        seed: Digest([0; 32]),
        stop_step: STEPS,
        checkpoint_every: 0,
        output: OutputKind::Model,
        session: false,
        data_key: None,
        resources: Resources { memory_bytes: MEMORY, storage_bytes: MEMORY, ..Resources::default() },
        attempt: 0,
    };
    let config = edge::Config { python, launcher, ..edge::Config::new(directory.path().join("executor"))? };
    let outputs = Executor::start(config, files).map_err(Error::Run)?.finish(spec).await.map_err(Error::Run)?;
    let model = tokio::task::spawn_blocking(move || fs::read(outputs.directory.join("model.safetensors")));
    Ok(root::of_file(&model.await.map_err(io::Error::other)??)?)
}

impl Supervisor {
    /// [`run`] with the interpreter and the launcher of this supervisor.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn known_answer(&self) -> Result<Digest, Error> {
        let config = &self.shared().config;
        run(config.python.clone(), config.launcher.clone()).await
    }
}
