//! Lays out work directories, and takes what scripts wrote out of their reach.
//!
//! A script may write below `rounds/`, and may put a link there in place of anything. So the node builds a round's
//! directory aside and renames it in, and takes results out by a rename from a directory that was opened without
//! following links; what it then reads lies where no script can write.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode as Permissions, OFlags, ResolveFlags, openat2, renameat};

use super::{
    FailureFile, RunSpec, data,
    edge::ProcessId,
    gradient,
    tree::{self, Uncounted},
};
use crate::{
    store::{Files, data_keys::DataKeys},
    tensor::MAX_FILE_BYTES,
    types::{Digest, OutputKind, Step, TaskId},
};

/// A socket's path holds 107 bytes; the names that we add to the directory take 40.
const MAX_SOCKET_DIRECTORY: usize = 107 - 40;
/// Entries of a checkpoint or an output directory, subdirectories included; more is refused.
const MAX_ENTRIES: usize = 1024;
/// Bytes of a bundle: one with a PyTorch for GPUs in it has 5.4 GB.
const MAX_BUNDLE_BYTES: u64 = 16 << 30;
/// Levels of subdirectories in them.
const MAX_DEPTH: usize = 4;
/// Longest `failure.json` read, in bytes; of a longer one nothing is read.
const MAX_FAILURE: u64 = 64 * 1024;
/// Checkpoints of one round that stay on disk; the oldest goes first. Recovery imports the newest.
const MAX_KEPT: usize = 8;
/// Logs of tasks that stay on disk.
const MAX_LOGS: usize = 1000;

/// Bytes of a digest that name a process's directory, in hexadecimal.
const NAME_BYTES: usize = 8;

/// The directory that all work lies in.
#[derive(Debug)]
pub(super) struct WorkRoot {
    work: PathBuf,
    logs: PathBuf,
    sockets: PathBuf,
}

/// A directory for sockets with a short path: inside `directory` if that is short, else below `/tmp`.
pub(super) fn socket_directory(directory: &Path) -> PathBuf {
    let inside = directory.join("sockets");
    if inside.as_os_str().len() <= MAX_SOCKET_DIRECTORY {
        return inside;
    }
    let name = hex::encode(&Digest::of(directory.as_os_str().as_encoded_bytes()).0[..8]);
    PathBuf::from(format!("/tmp/atlas-{}-{name}", rustix::process::getuid().as_raw()))
}

impl WorkRoot {
    /// Makes the directories, and removes what an earlier supervisor left: its processes died with it.
    pub(super) fn open(directory: &Path, sockets: &Path) -> io::Result<Self> {
        if directory.to_str().is_none() || sockets.to_str().is_none() {
            return Err(io::Error::other("the data directory's path is not UTF-8, which scripts need"));
        }
        let directory = std::path::absolute(directory)?;
        let root =
            Self { work: directory.join("work"), logs: directory.join("logs"), sockets: std::path::absolute(sockets)? };
        for path in [&root.work, &root.sockets] {
            refuse_others(path)?;
            remove(path);
        }
        for path in [&root.work, &root.logs, &root.sockets] {
            private_directory(path)?;
        }
        prune_logs(&root.logs)?;
        Ok(root)
    }

    /// Where the process works. The name is a digest: no text of a stranger becomes a path.
    pub(super) fn directory_of(&self, spec: &RunSpec, process: ProcessId) -> PathBuf {
        let (slot, generation) = (spec.task.slot.to_be_bytes(), spec.generation.to_be_bytes());
        let parts: [&[u8]; 4] = [&spec.task.job.0, &slot, &generation, &process.0.to_be_bytes()];
        self.named(&Digest::of_parts("atlas/work/v1", &parts))
    }

    /// Where a worker with this name works.
    pub(super) fn named(&self, name: &Digest) -> PathBuf {
        self.work.join(hex::encode(&name.0[..NAME_BYTES]))
    }

    /// The socket directory of the process that works in `directory`; made empty.
    pub(super) fn sockets_of(&self, directory: &Path) -> io::Result<PathBuf> {
        let path = self.sockets.join(directory.file_name().unwrap_or_default());
        remove(&path);
        private_directory(&path)?;
        Ok(path)
    }

    /// Removes a process's directory and its sockets.
    pub(super) fn clear(&self, directory: &Path) {
        remove(directory);
        remove(&self.sockets.join(directory.file_name().unwrap_or_default()));
    }

    /// The log of a task.
    pub(super) fn log_of(&self, task: &TaskId) -> PathBuf {
        self.logs.join(task.to_string())
    }

    /// The log of a worker with this name.
    pub(super) fn log_named(&self, name: &str) -> PathBuf {
        self.logs.join(name)
    }
}

/// Removes a directory and all in it. A failure is told and nothing else: the next start tries again.
pub(super) fn remove(directory: &Path) {
    if let Err(error) = tree::remove(directory) {
        tracing::warn!(directory = %directory.display(), %error, "a work directory could not be removed");
    }
}

/// Makes a directory that nobody else can look into, or accepts one that is so already.
fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() || found.uid() != rustix::process::getuid().as_raw() {
        let why = format!("`{}` is not a directory of this user; remove it", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// The operator may have named a directory that has a `work` of his own: what no node made is never removed.
fn refuse_others(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        if hex::decode_to_slice(name.as_encoded_bytes(), &mut [0; NAME_BYTES]).is_err() {
            let why = format!(
                "`{}` holds `{}`, which no node made, and would be emptied; choose another directory (WORK_DIR)",
                path.display(),
                name.display()
            );
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
    }
    Ok(())
}

fn prune_logs(logs: &Path) -> io::Result<()> {
    let mut all = Vec::new();
    for entry in fs::read_dir(logs)? {
        let entry = entry?;
        // What is not named by a task is somebody else's.
        if entry.file_name().to_str().is_some_and(|name| name.parse::<TaskId>().is_ok()) {
            all.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    all.sort();
    let excess = all.len().saturating_sub(MAX_LOGS);
    all.iter().take(excess).for_each(|(_, path)| remove(path));
    Ok(())
}

/// One process's directory. Calls block.
#[derive(Debug)]
pub(super) struct WorkDir {
    path: PathBuf,
}

/// One run in it.
#[derive(Debug)]
pub(super) struct Round {
    /// The contract's work directory.
    pub(super) directory: PathBuf,
    /// The checkpoint to continue from, and its step.
    pub(super) resume: Option<(Step, PathBuf)>,
    /// `events.jsonl`, empty, for reading.
    pub(super) events: File,
}

impl WorkDir {
    /// Makes the directory anew, with the bundle in it.
    pub(super) fn create(path: &Path, bundle: &crate::types::ContentId, files: &dyn Files) -> io::Result<Self> {
        remove(path);
        DirBuilder::new().mode(0o700).create(path)?;
        for name in ["inputs", "rounds", "kept", "staging"] {
            fs::create_dir(path.join(name))?;
        }
        files.export_at_most(bundle, &path.join("bundle"), MAX_BUNDLE_BYTES)?;
        Ok(Self { path: path.to_owned() })
    }

    /// Makes a file of the bundle executable: content-addressed files carry no permissions.
    pub(super) fn make_executable(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.bundle().join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o500))?;
        Ok(path)
    }

    /// The directory itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the bundle lies.
    pub(super) fn bundle(&self) -> PathBuf {
        self.path.join("bundle")
    }

    /// Below which the script may write.
    pub(super) fn writable(&self) -> PathBuf {
        self.path.join("rounds")
    }

    /// Lays out the inputs of the `number`th run and its work directory.
    pub(super) fn lay_out(
        &self,
        number: u32,
        spec: &RunSpec,
        continue_from: Option<&(Step, PathBuf)>,
        files: &dyn Files,
        keys: &DataKeys,
    ) -> io::Result<Round> {
        let inputs = self.path.join(format!("inputs/{number}"));
        let data = inputs.join("data");
        fs::create_dir_all(&data)?;
        fs::write(inputs.join("job.json"), &spec.config)?;
        files.export_at_most(&spec.model, &inputs.join("model.safetensors"), MAX_FILE_BYTES)?;
        if let Some(optim) = &spec.optim {
            files.export_at_most(optim, &inputs.join("optim.safetensors"), MAX_FILE_BYTES)?;
        }
        data::lay_out(spec, &data.join(spec.mode.channel()), &inputs.join("sealed"), files, keys)?;
        let resume = self.lay_out_checkpoint(&inputs.join("resume"), spec, continue_from, files)?;
        let (directory, events) = self.lay_out_round(number)?;
        Ok(Round { directory, resume, events })
    }

    /// Lays out a worker's model and its work directory.
    pub(super) fn lay_out_worker(
        &self,
        config: &str,
        model: &crate::types::ContentId,
        files: &dyn Files,
    ) -> io::Result<PathBuf> {
        let inputs = self.path.join("inputs/0");
        fs::create_dir_all(&inputs)?;
        fs::write(inputs.join("job.json"), config)?;
        files.export_at_most(model, &inputs.join("model.safetensors"), MAX_FILE_BYTES)?;
        self.lay_out_round(0).map(|(directory, _)| directory)
    }

    fn lay_out_checkpoint(
        &self,
        to: &Path,
        spec: &RunSpec,
        continue_from: Option<&(Step, PathBuf)>,
        files: &dyn Files,
    ) -> io::Result<Option<(Step, PathBuf)>> {
        match (continue_from, &spec.resume) {
            (Some((step, from)), _) => {
                fs::create_dir(to)?;
                link_files(from, to)?;
                Ok(Some((*step, to.to_owned())))
            }
            (None, Some(resume)) => {
                files.export(&resume.directory, to)?;
                Ok(Some((resume.step, to.to_owned())))
            }
            (None, None) => Ok(None),
        }
    }

    /// An empty work directory of the contract, and its events file.
    fn lay_out_round(&self, number: u32) -> io::Result<(PathBuf, File)> {
        let staging = self.path.join(format!("staging/{number}"));
        fs::create_dir(&staging)?;
        for name in ["out", "ckpt", "tmp", "logs"] {
            fs::create_dir(staging.join(name))?;
        }
        symlink(format!("../../inputs/{number}"), staging.join("in"))?;
        symlink(format!("../../inputs/{number}/job.json"), staging.join("job.json"))?;
        let events = OpenOptions::new()
            .read(true)
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(staging.join("events.jsonl"))?;
        let directory = self.writable().join(number.to_string());
        fs::rename(&staging, &directory)?;
        fs::create_dir(self.kept(number))?;
        Ok((directory, events))
    }

    /// Takes the checkpoint of `step` out of the script's reach.
    pub(super) fn keep_checkpoint(&self, number: u32, step: Step) -> io::Result<PathBuf> {
        let name = format!("step-{step:08}");
        let to = self.kept(number).join(&name);
        // The same step again, after a restart of the round's process: the newer one counts.
        remove(&to);
        self.take(&format!("rounds/{number}/ckpt"), &name, &to)?;
        require(&to, &["model.safetensors", "state.json"])?;
        self.drop_oldest_checkpoints(number)?;
        Ok(to)
    }

    /// Takes `out/` out of the script's reach, and turns a gradient in it into a model; with a model in it, the end of the
    /// round is also laid out as a checkpoint.
    pub(super) fn keep_outputs(
        &self,
        number: u32,
        stop_step: Step,
        kind: OutputKind,
    ) -> io::Result<(PathBuf, Option<PathBuf>)> {
        let outputs = self.kept(number).join("out");
        self.take(&format!("rounds/{number}"), "out", &outputs)?;
        if kind == OutputKind::Gradient {
            let base = self.path.join(format!("inputs/{number}/model.safetensors"));
            gradient::apply(&base, &outputs).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        if !outputs.join("model.safetensors").is_file() {
            return Ok((outputs, None));
        }
        let checkpoint = self.kept(number).join(format!("step-{stop_step:08}"));
        fs::create_dir(&checkpoint)?;
        for name in ["model.safetensors", "optim.safetensors"] {
            if outputs.join(name).is_file() {
                link(&outputs.join(name), &checkpoint.join(name))?;
            }
        }
        fs::write(checkpoint.join("state.json"), format!("{{\"step\": {stop_step}}}\n"))?;
        Ok((outputs, Some(checkpoint)))
    }

    /// Removes what run `number` used and left.
    pub(super) fn drop_round(&self, number: u32) {
        for part in ["inputs", "rounds", "kept"] {
            remove(&self.path.join(format!("{part}/{number}")));
        }
    }

    /// `out/failure.json`, if the script left one that can be read.
    pub(super) fn failure(&self, number: u32) -> Option<FailureFile> {
        let out = self.open_beneath(&format!("rounds/{number}/out")).ok()?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(out, "failure.json", flags, Permissions::empty()).ok()?);
        let metadata = file.metadata().ok()?;
        if !metadata.is_file() || metadata.len() > MAX_FAILURE {
            return None;
        }
        serde_json::from_reader(io::Read::take(file, MAX_FAILURE)).ok()
    }

    /// Bytes that the script has written and that are still below `rounds/`.
    pub(super) fn written(&self) -> Result<u64, Uncounted> {
        tree::size(&self.writable())
    }

    fn kept(&self, number: u32) -> PathBuf {
        self.path.join(format!("kept/{number}"))
    }

    fn open_beneath(&self, path: &str) -> io::Result<rustix::fd::OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let base = rustix::fs::open(&self.path, flags, Permissions::empty())?;
        Ok(openat2(&base, path, flags, Permissions::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?)
    }

    fn take(&self, parent: &str, name: &str, to: &Path) -> io::Result<()> {
        let parent = self.open_beneath(parent)?;
        renameat(&parent, name, CWD, to)?;
        let mut entries = MAX_ENTRIES;
        plain_files_only(to, 0, &mut entries).inspect_err(|_| remove(to))
    }

    fn drop_oldest_checkpoints(&self, number: u32) -> io::Result<()> {
        let mut all = Vec::new();
        for entry in fs::read_dir(self.kept(number))? {
            let name = entry?.file_name();
            all.extend(name.to_str().filter(|name| name.starts_with("step-")).map(str::to_owned));
        }
        all.sort_unstable();
        let excess = all.len().saturating_sub(MAX_KEPT);
        all.iter().take(excess).for_each(|name| remove(&self.kept(number).join(name)));
        Ok(())
    }
}

/// Refuses links, devices, sockets, and trees that are too large to be outputs.
fn plain_files_only(path: &Path, depth: usize, entries: &mut usize) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    *entries = entries.checked_sub(1).ok_or_else(|| refused(path, "has too many entries"))?;
    if found.is_file() {
        return Ok(());
    }
    if !found.is_dir() {
        return Err(refused(path, "is neither a file nor a directory"));
    }
    if depth > MAX_DEPTH {
        return Err(refused(path, "is nested too deep"));
    }
    fs::read_dir(path)?.try_for_each(|entry| plain_files_only(&entry?.path(), depth + 1, entries))
}

fn refused(path: &Path, why: &str) -> io::Error {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    io::Error::new(io::ErrorKind::InvalidData, format!("`{name}` {why}"))
}

fn require(directory: &Path, names: &[&str]) -> io::Result<()> {
    match names.iter().find(|name| !directory.join(name).is_file()) {
        Some(missing) => Err(refused(directory, &format!("has no `{missing}`"))),
        None => Ok(()),
    }
}

/// Links (or, across file systems, copies) the files of one flat directory into another.
fn link_files(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            link(&entry.path(), &to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn link(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(|_| ()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::scratch::Scratch;

    fn work_dir() -> (tempfile::TempDir, WorkDir) {
        let root = tempfile::tempdir().unwrap();
        let files = Scratch::new(root.path().join("store"));
        fs::create_dir(root.path().join("script")).unwrap();
        let bundle = files.import_path(&root.path().join("script")).unwrap().cid;
        let work_dir = WorkDir::create(&root.path().join("w"), &bundle, &files).unwrap();
        (root, work_dir)
    }

    #[test]
    fn a_checkpoint_is_moved_out_of_reach() {
        let (_root, work) = work_dir();
        let (round, _events) = work.lay_out_round(0).unwrap();
        let made = round.join("ckpt/step-00000004");
        fs::create_dir(&made).unwrap();
        fs::write(made.join("model.safetensors"), "m").unwrap();
        assert!(work.keep_checkpoint(0, 4).is_err(), "without state.json it is no checkpoint");
        fs::create_dir(&made).unwrap();
        fs::write(made.join("model.safetensors"), "m").unwrap();
        fs::write(made.join("state.json"), "{}").unwrap();
        let kept = work.keep_checkpoint(0, 4).unwrap();
        assert!(kept.join("state.json").is_file() && !made.exists());
    }

    #[test]
    fn links_are_neither_followed_nor_kept() {
        let (root, work) = work_dir();
        let (round, _events) = work.lay_out_round(0).unwrap();
        let secret = root.path().join("secret");
        fs::create_dir(&secret).unwrap();
        fs::write(secret.join("model.safetensors"), "s").unwrap();
        fs::write(secret.join("state.json"), "{}").unwrap();

        symlink(&secret, round.join("ckpt/step-00000001")).unwrap();
        assert!(work.keep_checkpoint(0, 1).is_err());
        fs::create_dir(round.join("ckpt/step-00000002")).unwrap();
        symlink(secret.join("state.json"), round.join("ckpt/step-00000002/state.json")).unwrap();
        assert!(work.keep_checkpoint(0, 2).is_err());
        fs::rename(round.join("ckpt"), round.join("old")).unwrap();
        symlink(root.path(), round.join("ckpt")).unwrap();
        assert!(work.take("rounds/0/ckpt", "secret", &root.path().join("stolen")).is_err());
        assert!(secret.join("model.safetensors").is_file());
    }

    #[test]
    fn the_end_of_a_round_is_a_checkpoint_too() {
        let (_root, work) = work_dir();
        let (round, _events) = work.lay_out_round(0).unwrap();
        fs::write(round.join("out/model.safetensors"), "m").unwrap();
        let (outputs, checkpoint) = work.keep_outputs(0, 9, OutputKind::Model).unwrap();
        assert!(outputs.join("model.safetensors").is_file());
        let checkpoint = checkpoint.unwrap();
        assert_eq!(checkpoint.file_name().unwrap(), "step-00000009");
        assert!(require(&checkpoint, &["model.safetensors", "state.json"]).is_ok());
    }

    #[test]
    fn a_directory_with_somebodys_own_files_is_refused_and_they_stay() {
        let home = tempfile::tempdir().unwrap();
        let (theirs, logs) = (home.path().join("work/thesis.tex"), home.path().join("logs/mine.log"));
        fs::create_dir_all(theirs.parent().unwrap()).unwrap();
        fs::create_dir_all(logs.parent().unwrap()).unwrap();
        fs::write(&theirs, "years of work").unwrap();
        fs::write(&logs, "mine").unwrap();
        let error = WorkRoot::open(home.path(), &home.path().join("sockets")).unwrap_err().to_string();
        assert!(error.contains("thesis.tex") && error.contains("WORK_DIR"), "{error}");
        assert_eq!(fs::read_to_string(&theirs).unwrap(), "years of work");

        fs::rename(&theirs, home.path().join("thesis.tex")).unwrap();
        let root = WorkRoot::open(home.path(), &home.path().join("sockets")).unwrap();
        fs::create_dir(root.named(&Digest([7; 32]))).unwrap();
        let root = WorkRoot::open(home.path(), &home.path().join("sockets")).unwrap();
        assert!(!root.named(&Digest([7; 32])).exists(), "what an earlier node left is removed");
        assert_eq!(fs::read_to_string(&logs).unwrap(), "mine");
    }

    #[test]
    fn a_long_directory_gets_a_short_one_for_its_sockets() {
        assert_eq!(socket_directory(Path::new("/d")), Path::new("/d/sockets"));
        let long = PathBuf::from(format!("/{}", "d".repeat(200)));
        assert!(socket_directory(&long).as_os_str().len() <= MAX_SOCKET_DIRECTORY);
    }
}
