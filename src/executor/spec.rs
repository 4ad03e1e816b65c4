//! What a run is, and how it can end.

use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::types::{ContentId, Digest, Generation, OutputKind, Resources, Round, Step, TaskId};

/// Silence of a script beyond this is a hang (script contract, "Events").
pub(super) const STALL_LIMIT: Duration = Duration::from_secs(120);

/// Between SIGTERM and SIGKILL. A guess: a checkpoint of 1 GB is written and synced in 10 s on a slow disk.
pub(super) const GRACE: Duration = Duration::from_secs(20);

/// Why a script is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Trains; writes `out/model.safetensors`.
    Train,
    /// Measures a model on data in channel `eval`; writes `out/metrics.json`.
    Eval,
    /// Answers `in/requests.jsonl` with `out/responses.jsonl`.
    Infer,
    /// Serves requests on `ATLAS_SOCKET` until told to stop.
    Serve,
    /// Trains one segment again, from an opened state.
    Verify,
}

impl Mode {
    /// The value of `ATLAS_MODE`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Eval => "eval",
            Self::Infer => "infer",
            Self::Serve => "serve",
            Self::Verify => "verify",
        }
    }

    /// The name of the data channel, which is the directory's name below `in/data/`.
    pub const fn channel(self) -> &'static str {
        match self {
            Self::Train | Self::Verify => "train",
            Self::Eval => "eval",
            Self::Infer | Self::Serve => "requests",
        }
    }
}

/// Where inside a round to continue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// A directory with `model.safetensors`, `state.json` and, if the script has one, `optim.safetensors`.
    pub directory: ContentId,
    /// Steps of the round that it contains.
    pub step: Step,
}

/// One round of one task. All content that it names must be in the store already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    /// The task.
    pub task: TaskId,
    /// The generation under which this node holds it.
    pub generation: Generation,
    /// The round.
    pub round: Round,
    /// Why it is run.
    pub mode: Mode,
    /// The script, a directory with `atlas.toml`.
    pub bundle: ContentId,
    /// The model that the round begins from, a file.
    pub model: ContentId,
    /// The optimizer state that the round begins from, a file.
    pub optim: Option<ContentId>,
    /// The shard, a directory.
    pub data: ContentId,
    /// Bytes of its files, as the job tells; a shard that holds more is refused.
    pub data_bytes: u64,
    /// Where to continue inside the round; `None` for its start.
    pub resume: Option<Resume>,
    /// Parameters of the script, a JSON object as text: the content of `job.json`.
    pub config: String,
    /// The slot's seed of this cursor; the script sees 64 hexadecimal digits.
    pub seed: Digest,
    /// Steps of the round after which to stop, H.
    pub stop_step: Step,
    /// Steps between checkpoints; 0 for none.
    pub checkpoint_every: Step,
    /// What the script leaves in `out/`.
    pub output: OutputKind,
    /// Whether the process stays for the next round.
    pub session: bool,
    /// Commitment to the key that the data is sealed with, if it is; the key itself is the supervisor's to find.
    pub data_key: Option<Digest>,
    /// What was booked for it, and therefore its limits.
    pub resources: Resources,
    /// Starts of this task in this generation before, for `ATLAS_ATTEMPT`.
    pub attempt: u32,
}

impl RunSpec {
    /// The step that the run begins at.
    pub fn start_step(&self) -> Step {
        self.resume.as_ref().map_or(0, |resume| resume.step)
    }
}

/// How to stop a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StopMode {
    /// SIGTERM: the script checkpoints and exits with 75 within the grace.
    Checkpoint,
    /// SIGKILL, at once.
    Kill,
}

/// What a process is doing. The executor's own: never on the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    /// Its inputs are being laid out.
    Fetching,
    /// It was started and has not said anything yet.
    Starting,
    /// It computes.
    Running,
    /// It was asked for a checkpoint.
    Checkpointing,
    /// It was told to stop.
    Stopping,
    /// A session between two rounds.
    Idle,
    /// It is gone.
    Ended,
}

impl ProcessState {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fetching => "fetching",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Checkpointing => "checkpointing",
            Self::Stopping => "stopping",
            Self::Idle => "idle",
            Self::Ended => "ended",
        }
    }
}

impl fmt::Display for ProcessState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a run failed for good on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Exit 64: the job's parameters are wrong. Never retried, anywhere.
    BadConfig,
    /// Exit 65: the shard's data are wrong. Never retried on this shard.
    BadData,
    /// Exit 69: this host lacks something. Another node may do it.
    MissingResource,
    /// It crashed as often as is allowed.
    Crash,
    /// It needed more memory than was booked.
    OutOfMemory,
    /// It was silent for too long.
    Stalled,
    /// It wrote more, or started more processes, than it may.
    OutputLimit,
    /// It could not be started: inputs, bundle or launcher.
    Launch,
}

impl FailureKind {
    /// Whether no other node could do better.
    pub const fn is_fatal(self) -> bool {
        matches!(self, Self::BadConfig | Self::BadData)
    }

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadConfig => "bad_config",
            Self::BadData => "bad_data",
            Self::MissingResource => "missing_resource",
            Self::Crash => "crash",
            Self::OutOfMemory => "out_of_memory",
            Self::Stalled => "stalled",
            Self::OutputLimit => "output_limit",
            Self::Launch => "launch",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a finished run left. The directories are out of the script's reach; they stay until the task's next run but
/// one begins, or the task is forgotten.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outputs {
    /// Holds `model.safetensors`, and what else the script wrote to `out/`.
    pub directory: PathBuf,
    /// The end of the round as a checkpoint: `model.safetensors`, `optim.safetensors` if there is one, `state.json`.
    /// `None` where the script wrote no model (evaluation).
    pub checkpoint: Option<PathBuf>,
    /// Local steps of the whole round.
    pub steps: u64,
    /// Records seen in the whole round, counted with repetition, resumed or not.
    pub samples: u64,
    /// The last loss that the script reported.
    pub loss: Option<f64>,
    /// Wall-clock time of this process in this round.
    pub wall: Duration,
    /// CPU time of the process tree in this round.
    pub cpu: Duration,
    /// Peak resident bytes of the process tree.
    pub memory_bytes: u64,
}
