//! Keeping and loading checkpoints. Blocking; run off the event loop.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{Mode, OFlags};

use serde::{Deserialize, Serialize};

use crate::{
    codec,
    identity::Keypair,
    store::Files,
    tensor::{
        Error as FormatError, Layout, MAX_FILE_BYTES,
        checkpoint::{self, Checkpoint, MANIFEST, MAX_SCRIPT_STATE_BYTES, MODEL, OPTIMIZER, SCRIPT_STATE, STATE},
        guarded, root,
    },
    types::{Cause, CheckpointManifest, ContentId, Digest, Generation, OrCause as _, Round, Step, TaskId, Time},
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// To [`super::State`].
    Kept {
        /// Of the request.
        id: u64,
        /// The task.
        task: TaskId,
        /// The checkpoint.
        result: Result<Box<Kept>, Cause>,
    },
    /// To the coordinator.
    Loaded {
        /// Of the request.
        id: u64,
        /// The checkpoint, every claim of it checked.
        result: Result<Box<Checkpoint>, Cause>,
    },
}

/// Blocks while it copies and hashes; answers exactly once, also when something panics.
pub fn perform(context: &Context, request: &Request) -> Answer {
    match request {
        Request::Keep { id, request } => {
            let result = guarded(|| keep(context, request)).map(Box::new).or_cause();
            Answer::Kept { id: *id, task: request.task, result }
        }
        Request::Load { id, root, now } => {
            let loaded = guarded(|| load(&*context.files, root, *now)).map(Box::new);
            Answer::Loaded { id: *id, result: loaded.or_cause() }
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::{
        tensor::testing::{Store, model},
        types::{CHECKPOINT_MAX_AGE, JobId, Signed, SignedError},
    };

    const NOW: Time = Time(1_000_000_000_000);

    struct Host {
        store: Store,
        context: Context,
    }

    impl Host {
        fn new() -> Self {
            let store = Store::new();
            let staging = store.directory.path().join("staging");
            fs::create_dir(&staging).unwrap();
            let context = Context { files: store.files.clone(), keypair: Keypair::from_secret(&[7; 32]), staging };
            Self { store, context }
        }

        /// A directory as a script writes it, and the request to keep it.
        fn written(&self) -> KeepRequest {
            let directory = self.store.directory.path().join("step-00000010");
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join(MODEL), model(&[1.0, 2.0]).to_safetensors()).unwrap();
            fs::write(directory.join(OPTIMIZER), model(&[0.5]).to_safetensors()).unwrap();
            fs::write(directory.join(SCRIPT_STATE), b"{\"step\":10}").unwrap();
            let task = TaskId { job: JobId([1; 32]), slot: 2 };
            KeepRequest { directory, task, generation: 3, round: 4, step: 10, trace: vec![Digest([9; 32])], now: NOW }
        }

        /// Stores a checkpoint whose manifest somebody changed and signed again.
        fn forged(&self, change: impl FnOnce(&mut CheckpointManifest)) -> ContentId {
            let kept = keep(&self.context, &self.written()).unwrap();
            let mut manifest = load(&*self.store.files, &kept.root, NOW).unwrap().manifest;
            change(&mut manifest);
            self.with_manifest(&kept, &codec::encode(&self.context.keypair.seal(&manifest)))
        }

        fn with_manifest(&self, kept: &Kept, manifest: &[u8]) -> ContentId {
            let directory = self.store.directory.path().join("forged");
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join(MANIFEST), manifest).unwrap();
            self.store.files.export(&kept.state, &directory.join(STATE)).unwrap();
            self.store.files.import_path(&directory).unwrap().cid
        }
    }

    #[test]
    fn what_is_kept_loads_elsewhere_with_the_same_roots() {
        let host = Host::new();
        let request = host.written();
        let Answer::Kept { id: 5, result: Ok(kept), .. } =
            perform(&host.context, &Request::Keep { id: 5, request: request.clone() })
        else {
            panic!("not kept");
        };
        let Answer::Loaded { result: Ok(loaded), .. } =
            perform(&host.context, &Request::Load { id: 6, root: kept.root, now: NOW })
        else {
            panic!("not loaded");
        };
        assert_eq!((loaded.state, loaded.model, loaded.optimizer), (kept.state, kept.model, kept.optimizer));
        assert_eq!(loaded.manifest.trace, [Digest([9; 32]), kept.state_root]);
        assert_eq!((loaded.manifest.epoch, loaded.manifest.iteration, loaded.manifest.generation), (4, 10, 3));
        assert_eq!(kept.params_root, root::of_tensors(&model(&[1.0, 2.0])));
        let expected = root::state_root(&kept.params_root, &kept.opt_root, 10, b"{\"step\":10}");
        assert_eq!(kept.state_root, expected);
        assert_eq!(fs::read_dir(&host.context.staging).unwrap().count(), 0, "staging is left empty");
    }

    #[test]
    fn a_script_without_optimizer_and_state_is_kept_too_and_other_files_are_left_out() {
        let host = Host::new();
        let request = host.written();
        fs::remove_file(request.directory.join(OPTIMIZER)).unwrap();
        fs::remove_file(request.directory.join(SCRIPT_STATE)).unwrap();
        fs::write(request.directory.join("metrics.json"), b"{}").unwrap();
        let kept = keep(&host.context, &request).unwrap();
        assert_eq!((kept.opt_root, kept.optimizer), (root::NO_OPTIMIZER, None));
        assert!(load(&*host.store.files, &kept.root, NOW).is_ok());
    }

    #[test]
    fn a_link_a_pipe_a_directory_and_a_missing_model_are_refused_without_hanging() {
        let host = Host::new();
        let request = host.written();
        let path = request.directory.join(MODEL);
        let refused = |fault: &str| {
            let error = keep(&host.context, &request).unwrap_err();
            assert!(error.to_string().contains(fault), "{error}");
        };
        fs::remove_file(&path).unwrap();
        refused("is missing");
        symlink("/etc/passwd", &path).unwrap();
        refused("is a link");
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        refused("is no regular file");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        refused("is no regular file");
        fs::remove_dir(&path).unwrap();
        fs::write(&path, b"no tensors").unwrap();
        refused("is not acceptable");
        let long = File::create(request.directory.join(SCRIPT_STATE)).unwrap();
        long.set_len(MAX_SCRIPT_STATE_BYTES as u64 + 1).unwrap();
        fs::write(&path, model(&[1.0]).to_safetensors()).unwrap();
        refused("is too long");
    }

    #[test]
    fn a_manifest_that_lies_is_refused() {
        type Change = fn(&mut CheckpointManifest);
        let changes: [Change; 6] = [
            |manifest| manifest.iteration += 1,
            |manifest| manifest.opt_root = Digest([1; 32]),
            |manifest| manifest.trace.push(Digest([1; 32])),
            |manifest| manifest.trace.clear(),
            |manifest| manifest.node = crate::types::NodeKey([1; 32]),
            |manifest| {
                manifest.state_root = Digest([1; 32]);
                manifest.trace = vec![Digest([9; 32]), Digest([1; 32])];
            },
        ];
        for change in changes {
            let host = Host::new();
            let forged = host.forged(change);
            let error = load(&*host.store.files, &forged, NOW).unwrap_err();
            let wrong = matches!(
                error,
                checkpoint::Error::Contradiction(_) | checkpoint::Error::Manifest(SignedError::Speaker)
            );
            assert!(wrong, "{error}");
        }
    }

    #[test]
    fn an_old_a_future_and_an_unsigned_checkpoint_are_refused() {
        let host = Host::new();
        let kept = keep(&host.context, &host.written()).unwrap();
        let at = |now| load(&*host.store.files, &kept.root, now);
        assert!(at(NOW + CHECKPOINT_MAX_AGE).is_ok());
        let late = NOW + CHECKPOINT_MAX_AGE + std::time::Duration::from_millis(1);
        assert!(matches!(at(late), Err(checkpoint::Error::Age { .. })));
        assert!(matches!(at(Time(1)), Err(checkpoint::Error::Age { .. })));

        let mut signed: Signed = load(&*host.store.files, &kept.root, NOW).unwrap().signed;
        signed.signature.0[0] ^= 1;
        let unsigned = host.with_manifest(&kept, &codec::encode(&signed));
        assert!(matches!(load(&*host.store.files, &unsigned, NOW), Err(checkpoint::Error::Manifest(_))));
        assert!(matches!(load(&*host.store.files, &kept.state, NOW), Err(checkpoint::Error::Entry(_))));
    }

    #[test]
    fn a_full_trace_is_refused() {
        let host = Host::new();
        let request = KeepRequest { trace: vec![Digest([0; 32]); checkpoint::MAX_TRACE], ..host.written() };
        assert!(matches!(keep(&host.context, &request), Err(Error::TraceFull)));
    }
}
