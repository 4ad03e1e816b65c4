//! Keeping and loading checkpoints. Blocking; run off the event loop.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{Mode, OFlags};

use crate::{
    codec,
    identity::Keypair,
    store::Files,
    tensor::{
        Error as FormatError, Layout, MAX_FILE_BYTES,
        checkpoint::{self, Checkpoint, MANIFEST, MAX_SCRIPT_STATE_BYTES, MODEL, OPTIMIZER, SCRIPT_STATE, STATE},
        guarded, root,
    },
    types::{CheckpointManifest, ContentId, Digest, Generation, Round, Step, TaskId, Time},
};

/// What this edge works with.
#[derive(Clone)]
pub struct Context {
    /// Content.
    pub files: Arc<dyn Files>,
    /// Signs manifests.
    pub keypair: Keypair,
    /// An existing directory of the node's own, on the store's disk: checkpoints are copied into it before they are read.
    pub staging: PathBuf,
}

/// Asks to keep what a script wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepRequest {
    /// Where: has `model.safetensors`, perhaps `optim.safetensors` and `state.json`. Other entries are ignored.
    pub directory: PathBuf,
    /// The task.
    pub task: TaskId,
    /// The generation that wrote it.
    pub generation: Generation,
    /// The round.
    pub round: Round,
    /// Steps done inside the round.
    pub step: Step,
    /// State roots of the round before this one, at least its start.
    pub trace: Vec<Digest>,
    /// This node's time.
    pub now: Time,
}

/// A checkpoint that is durable here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The root: what another node holds, and what [`crate::types::CheckpointRef::cid`] names.
    pub root: ContentId,
    /// The state's directory, for a script to resume from.
    pub state: ContentId,
    /// The model file in it.
    pub model: ContentId,
    /// The optimizer's file in it.
    pub optimizer: Option<ContentId>,
    /// Bytes of all files.
    pub size: u64,
    /// `params_root` of the model.
    pub params_root: Digest,
    /// Root of the optimizer state; zero for none.
    pub opt_root: Digest,
    /// Root of the whole state.
    pub state_root: Digest,
    /// The round's state roots up to and with this one.
    pub trace: Vec<Digest>,
}

/// Why a checkpoint could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk or the store fails.
    #[error("the checkpoint can't be read or kept: look at the disk and its free space")]
    Io(#[from] io::Error),
    /// A file that the script wrote is not acceptable.
    #[error("`{name}` in the script's checkpoint is not acceptable")]
    File {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        source: FormatError,
    },
    /// A file that the script wrote is missing, too long, a link, or no regular file.
    #[error("`{name}` in the script's checkpoint {fault}")]
    Entry {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        fault: &'static str,
    },
    /// A round has at most 255 checkpoints.
    #[error("the round has over 255 checkpoints: make `checkpoint_every` larger")]
    TraceFull,
}

/// Asks this edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// From [`super::State`].
    Keep {
        /// Repeated by the answer.
        id: u64,
        /// What to keep.
        request: KeepRequest,
    },
    /// From the coordinator, once the root is in the store.
    Load {
        /// Repeated by the answer.
        id: u64,
        /// The checkpoint's root.
        root: ContentId,
        /// This node's time.
        now: Time,
    },
}

/// The answer to a [`Request`].
#[derive(Debug)]
pub enum Answer {
    /// To [`super::State`].
    Kept {
        /// Of the request.
        id: u64,
        /// The task.
        task: TaskId,
        /// The checkpoint.
        result: Result<Kept, Error>,
    },
    /// To the coordinator.
    Loaded {
        /// Of the request.
        id: u64,
        /// The checkpoint, every claim of it checked.
        result: Result<Box<Checkpoint>, checkpoint::Error>,
    },
}

/// Blocks while it copies and hashes; answers exactly once, also when something panics.
pub fn perform(context: &Context, request: &Request) -> Answer {
    match request {
        Request::Keep { id, request } => {
            Answer::Kept { id: *id, task: request.task, result: guarded(|| keep(context, request)) }
        }
        Request::Load { id, root, now } => {
            Answer::Loaded { id: *id, result: guarded(|| load(&*context.files, root, *now)).map(Box::new) }
        }
    }
}

/// Reads a checkpoint that is in the store: signature, age, names and roots are checked.
pub fn load(files: &dyn Files, root: &ContentId, now: Time) -> Result<Checkpoint, checkpoint::Error> {
    Checkpoint::load(files, root, now)
}

/// Makes a checkpoint durable: copies it where the script can't change it any more, computes its roots, signs the
/// manifest, imports both. Memory does not grow with the model.
pub fn keep(context: &Context, request: &KeepRequest) -> Result<Kept, Error> {
    if request.trace.len() >= checkpoint::MAX_TRACE {
        return Err(Error::TraceFull);
    }
    let staging = tempfile::Builder::new().prefix("checkpoint-").tempdir_in(&context.staging)?;
    let state = staging.path().join(STATE);
    fs::create_dir(&state)?;
    let roots = stage(&request.directory, &state, request.step)?;
    let imported = context.files.import_path(&state)?;
    let trace = [&request.trace[..], &[roots.state_root]].concat();
    let manifest = CheckpointManifest {
        task: request.task,
        generation: request.generation,
        epoch: request.round,
        iteration: request.step,
        node: context.keypair.node_key(),
        cid: imported.cid,
        size: imported.size,
        state_root: roots.state_root,
        opt_root: roots.opt_root,
        trace: trace.clone(),
        timestamp: request.now,
    };
    fs::write(staging.path().join(MANIFEST), codec::encode(&context.keypair.seal(&manifest)))?;
    let whole = context.files.import_path(staging.path())?;
    let entries = context.files.list(&imported.cid)?;
    let entry = |wanted: &str| entries.iter().find(|(name, _)| name == wanted).map(|(_, cid)| *cid);
    Ok(Kept {
        root: whole.cid,
        state: imported.cid,
        model: entry(MODEL).ok_or_else(|| io::Error::other("the store lost the model that it just imported"))?,
        optimizer: entry(OPTIMIZER),
        size: whole.size,
        params_root: roots.params_root,
        opt_root: roots.opt_root,
        state_root: roots.state_root,
        trace,
    })
}

/// Copies the files of a checkpoint and computes the roots of the copies.
fn stage(directory: &Path, state: &Path, step: Step) -> Result<checkpoint::Roots, Error> {
    let tensors = |name| -> Result<Option<Digest>, Error> {
        let Some(file) = copy(directory, state, name, MAX_FILE_BYTES)? else {
            return Ok(None);
        };
        let root =
            || root::params_root(&Layout::parse(&file, file.metadata()?.len())?, &file).map_err(FormatError::from);
        root().map(Some).map_err(|source| Error::File { name, source })
    };
    let params_root = tensors(MODEL)?.ok_or(Error::Entry { name: MODEL, fault: "is missing" })?;
    let opt_root = tensors(OPTIMIZER)?.unwrap_or(root::NO_OPTIMIZER);
    copy(directory, state, SCRIPT_STATE, MAX_SCRIPT_STATE_BYTES as u64)?;
    let extra = match fs::read(state.join(SCRIPT_STATE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        extra => extra?,
    };
    Ok(checkpoint::Roots { params_root, opt_root, state_root: root::state_root(&params_root, &opt_root, step, &extra) })
}

/// Copies one file that a script wrote; `None` if there is none. The script is a stranger: a link, a pipe or a device in
/// the file's place is refused, and no more than `limit` bytes are read whatever the file claims.
fn copy(from: &Path, to: &Path, name: &'static str, limit: u64) -> Result<Option<File>, Error> {
    let entry = |fault| Error::Entry { name, fault };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source = match rustix::fs::open(from.join(name), flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => return Err(entry("is a link")),
        opened => File::from(opened.map_err(io::Error::from)?),
    };
    if !source.metadata()?.is_file() {
        return Err(entry("is no regular file"));
    }
    let mut target = File::options().read(true).write(true).create_new(true).open(to.join(name))?;
    if io::copy(&mut source.take(limit + 1), &mut target)? > limit {
        return Err(entry("is too long"));
    }
    Ok(Some(target))
}
