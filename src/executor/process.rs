//! A script's process behind the launcher, and its log: what training and inference have in common.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, Command},
    task::JoinHandle,
    time::timeout,
};

use super::{
    FailureKind,
    edge::{Shared, Signal},
    environment::{self, Environment, Surroundings},
    launcher::{self, Limits, init::order},
    logs,
    work_dir::WorkDir,
};
use crate::types::Resources;

/// A process that was told to die may take this long before its launcher is killed too.
const DEATH_LIMIT: Duration = Duration::from_secs(2);
/// Address space beyond the booked memory: libraries and their reservations are mapped and never touched.
const MAPPED: u64 = 2 << 30;
/// Open files of one process; loaders with many workers stay below it.
const OPEN_FILES: u64 = 1024;
/// Processes and threads of one task.
pub(super) const PROCESSES: u64 = 512;
/// What a job that books no memory or disk gets: 64 GiB, so that only a defect is stopped.
const UNBOOKED: u64 = 64 << 30;
/// Characters of the last line on standard error that are kept for the failure's message.
const LAST_WORDS: usize = 400;
/// Name of the socket that a session or a server listens on.
pub(super) const SOCKET: &str = "s";

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum LaunchError {
    /// The bundle is at fault, on every node.
    #[error("the bundle can't be run: {0}")]
    Bundle(#[from] super::bundle::Error),
    /// The interpreter is at fault, on this node.
    #[error("no Python to run it with ({0}); set `executor.python`")]
    Python(#[source] io::Error),
    /// The host is at fault.
    #[error("{0}: {1}")]
    Host(&'static str, #[source] io::Error),
}

impl LaunchError {
    pub(super) fn kind(&self) -> FailureKind {
        match self {
            Self::Bundle(_) => FailureKind::BadConfig,
            Self::Python(_) => FailureKind::MissingResource,
            Self::Host(..) => FailureKind::Launch,
        }
    }
}

/// How to start a script, trained or serving.
pub(super) struct Launch {
    /// The launcher's specification, already written.
    pub(super) spec: PathBuf,
    /// Its log.
    pub(super) log: PathBuf,
}

/// What the launcher is to do.
pub(super) fn specification(
    work: &WorkDir,
    around: &Surroundings<'_>,
    environment: Environment,
    resources: &Resources,
) -> launcher::Spec {
    let script = environment::text(&work.bundle().join(around.bundle.script()));
    let arguments = ["-B".to_owned(), script].into_iter().chain(around.bundle.arguments().iter().cloned());
    let sockets = around.socket.parent().unwrap_or(Path::new("/")).to_owned();
    launcher::Spec {
        program: around.interpreter.executable.clone(),
        arguments: arguments.collect(),
        environment,
        directory: around.work_dir.to_owned(),
        readable: around.interpreter.roots.iter().cloned().chain([work.path().to_owned()]).collect(),
        writable: vec![work.writable(), sockets],
        limits: Limits {
            address_space: memory_limit(resources).saturating_add(MAPPED),
            file_size: storage_limit(resources),
            open_files: OPEN_FILES,
            processes: PROCESSES,
        },
    }
}

/// Resident bytes that a process tree may have.
pub(super) fn memory_limit(resources: &Resources) -> u64 {
    if resources.memory_bytes == 0 { UNBOOKED } else { resources.memory_bytes }
}

/// Bytes that it may write.
pub(super) fn storage_limit(resources: &Resources) -> u64 {
    if resources.storage_bytes == 0 { UNBOOKED } else { resources.storage_bytes }
}

/// A script's process, behind the launcher.
pub(super) struct Script {
    /// The launcher's process id.
    pub(super) pid: u32,
    child: Child,
    /// The launcher watches its other end: when this is dropped, everything ends.
    orders: ChildStdin,
    last_words: Arc<Mutex<String>>,
    pumps: [JoinHandle<()>; 2],
}

impl Script {
    pub(super) fn start(shared: &Shared, launch: &Launch) -> Result<Self, LaunchError> {
        let host = |what| move |error| LaunchError::Host(what, error);
        let log = logs::Writer::open(&launch.log).map_err(host("its log can't be opened"))?;
        let (program, first) = shared.launcher();
        let mut child = Command::new(program)
            .args(first)
            .args(launcher::arguments(&launch.spec))
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in the operator's terminal is for the node, which then stops its scripts in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(host("the launcher can't be started"))?;
        let missing = || LaunchError::Host("the launcher can't be started", io::Error::other("its pipes are missing"));
        let pid = child.id().ok_or_else(missing)?;
        let orders = child.stdin.take().ok_or_else(missing)?;
        let (out, errors) = (child.stdout.take().ok_or_else(missing)?, child.stderr.take().ok_or_else(missing)?);
        let log = Arc::new(Mutex::new(log));
        let last_words = Arc::new(Mutex::new(String::new()));
        let pumps = [
            tokio::spawn(pump(out, Arc::clone(&log), None)),
            tokio::spawn(pump(errors, log, Some(Arc::clone(&last_words)))),
        ];
        Ok(Self { pid, child, orders, last_words, pumps })
    }

    /// Passes a signal on. A process that is gone does not mind.
    pub(super) async fn signal(&mut self, signal: Signal) {
        let byte = match signal {
            Signal::Checkpoint => order::CHECKPOINT,
            Signal::Terminate => order::TERMINATE,
            Signal::Kill => order::KILL,
        };
        let _ = self.orders.write_all(&[byte]).await;
        let _ = self.orders.flush().await;
        if signal == Signal::Kill && timeout(DEATH_LIMIT, self.child.wait()).await.is_err() {
            let _ = self.child.start_kill();
        }
    }

    /// Waits for its end. Safe to be cancelled and called again.
    pub(super) async fn wait(&mut self) -> Option<i32> {
        self.child.wait().await.ok().and_then(|status| status.code())
    }

    /// The last line on standard error. Waits until the pipes are read to their ends, but not for long: a descendant
    /// that left the group may hold them.
    pub(super) async fn last_words(&mut self) -> String {
        for pump in &mut self.pumps {
            let _ = timeout(DEATH_LIMIT, pump).await;
        }
        self.last_words.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Copies a pipe into a log, and keeps its last line where that is wanted.
async fn pump(mut pipe: impl AsyncRead + Unpin, log: Arc<Mutex<logs::Writer>>, last_words: Option<Arc<Mutex<String>>>) {
    let mut buffer = vec![0; 8192];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        let bytes = &buffer[..read];
        if let Err(error) = log.lock().unwrap_or_else(PoisonError::into_inner).append(bytes) {
            // A full disk must not stop the script through a full pipe.
            tracing::debug!(%error, "a line of a log is lost");
        }
        if let Some(words) = &last_words {
            let text = String::from_utf8_lossy(bytes);
            if let Some(line) = text.lines().rev().find(|line| !line.trim().is_empty()) {
                *words.lock().unwrap_or_else(PoisonError::into_inner) = line.trim().chars().take(LAST_WORDS).collect();
            }
        }
    }
}
