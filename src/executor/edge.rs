//! What the state asks of the host, what the host reports, and the supervisor between them.
//!
//! A process is named by its [`ProcessId`]. For every [`Request::Launch`] there is exactly one [`Answer::Launched`] or
//! [`Answer::LaunchFailed`], and after `Launched` exactly one [`Answer::Exited`], with any number of
//! [`Answer::Said`] between; that holds when the disk is full and when the code that watches a process panics.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{
    Exit, FailureKind, Outputs, RunSpec,
    launcher::{self, Protection},
    logs::{self, LogPart},
    python::Interpreter,
    watch::{self, Order},
    work_dir::{self, WorkRoot},
};
use crate::{
    store::{Files, data_keys::DataKeys},
    types::{Step, TaskId},
};

/// Orders that wait for one process. Each is a signal or a round; a state has at most a few under way, so a full queue
/// means that nobody reads it, and the process is reported as gone when its watcher ends.
const MAX_ORDERS: usize = 16;

/// Names a process; never used twice by one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId(pub u64);

/// What to tell a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Signal {
    /// SIGUSR1 to the group: checkpoint and go on.
    Checkpoint,
    /// SIGTERM to the group: checkpoint and exit with 75.
    Terminate,
    /// SIGKILL to everything.
    Kill,
}

/// What the state asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Lay out a work directory and start a process in it.
    Launch {
        /// Its name from now on.
        process: ProcessId,
        /// What to run.
        spec: Box<RunSpec>,
        /// A checkpoint of an earlier process of this round to continue from, in place of `spec.resume`.
        continue_from: Option<(Step, PathBuf)>,
    },
    /// Give a session its next round. Answered by [`Answer::RoundSent`].
    NextRound {
        /// Which process.
        process: ProcessId,
        /// The round.
        spec: Box<RunSpec>,
    },
    /// Tell a process something. Not answered.
    Signal {
        /// Which process.
        process: ProcessId,
        /// What.
        signal: Signal,
    },
    /// Remove the work directory of a process that is gone. Not answered.
    Forget {
        /// Which process.
        process: ProcessId,
    },
    /// Read part of a task's log. Answered by [`Answer::Log`].
    ReadLog {
        /// Repeated by the answer.
        id: u64,
        /// The task.
        task: TaskId,
        /// Offset of the first byte wanted; `None` for the last `max`.
        from: Option<u64>,
        /// Most bytes wanted.
        max: u32,
    },
}

/// What a script said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Saying {
    /// It began.
    Started,
    /// It is alive; nothing else of it matters here.
    Alive,
    /// Steps were done. Between two looks at the file only the last is reported.
    Progress {
        /// Steps done in the round.
        step: Step,
        /// The loss, if it said one that is a number.
        loss: Option<f64>,
    },
    /// A checkpoint is complete, and now out of the script's reach.
    Checkpoint {
        /// Steps of the round that it contains.
        step: Step,
        /// Where it is.
        directory: PathBuf,
    },
    /// The round is done and its outputs are out of the script's reach.
    Done(Box<Outputs>),
    /// It said something that is not so: a checkpoint or outputs that are not there.
    Broken {
        /// What.
        message: String,
    },
}

/// What the host reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// The process runs.
    Launched {
        /// Which.
        process: ProcessId,
        /// The launcher's process id on this host.
        pid: u32,
    },
    /// It could not be started.
    LaunchFailed {
        /// Which.
        process: ProcessId,
        /// Why, as a word.
        kind: FailureKind,
        /// Why, in words.
        message: String,
    },
    /// A session has or has not taken its next round.
    RoundSent {
        /// Which.
        process: ProcessId,
        /// In words, why not.
        result: Result<(), String>,
    },
    /// The script said something.
    Said {
        /// Which process.
        process: ProcessId,
        /// What.
        saying: Saying,
    },
    /// The process is gone, with all its descendants.
    Exited {
        /// Which.
        process: ProcessId,
        /// How.
        exit: Box<Exit>,
    },
    /// Part of a log.
    Log {
        /// As in the request.
        id: u64,
        /// The part, or in words why not.
        result: Result<LogPart, String>,
    },
}

/// Where and how processes run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Work directories and logs; made if missing. Belongs to the supervisor alone: what an earlier one left is removed.
    pub directory: PathBuf,
    /// For sockets, whose paths hold 107 bytes; [`Config::new`] finds a short one.
    pub socket_directory: PathBuf,
    /// The interpreter (`executor.python`): a path, or a name to be found on the `PATH`.
    pub python: PathBuf,
    /// The program that is the launcher, and its first arguments: this executable and `__launch`.
    pub launcher: Vec<PathBuf>,
}

impl Config {
    /// Work below `directory`, with this very executable as the launcher.
    pub fn new(directory: PathBuf) -> std::io::Result<Self> {
        Ok(Self {
            socket_directory: work_dir::socket_directory(&directory),
            directory,
            python: "python3".into(),
            launcher: launcher::of_this_executable()?,
        })
    }
}

/// The interpreter of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Python {
    /// Its absolute path.
    pub path: PathBuf,
    /// Its version.
    pub version: String,
    /// Builds of libraries on which the bits of a result depend, for example `numpy 2.4.6`.
    pub libraries: Vec<String>,
}

/// Starts processes and watches them. Cloning shares it; when the last clone is dropped every process ends.
#[derive(Clone)]
pub struct Supervisor {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) files: Arc<dyn Files>,
    pub(super) keys: Arc<DataKeys>,
    pub(super) root: WorkRoot,
    answers: mpsc::Sender<Answer>,
    interpreter: OnceLock<Interpreter>,
    processes: Mutex<BTreeMap<ProcessId, Running>>,
}

struct Running {
    orders: mpsc::Sender<Order>,
    directory: PathBuf,
}

impl Supervisor {
    /// A supervisor that reports on `answers`. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// If the directories can't be made.
    pub fn start(
        config: Config,
        files: Arc<dyn Files>,
        keys: Arc<DataKeys>,
        answers: mpsc::Sender<Answer>,
    ) -> std::io::Result<Self> {
        let root = WorkRoot::open(&config.directory, &config.socket_directory)?;
        let processes = Mutex::default();
        let interpreter = OnceLock::new();
        Ok(Self { shared: Arc::new(Shared { config, files, keys, root, answers, interpreter, processes }) })
    }

    /// Begins to do what was asked, and returns at once.
    pub fn perform(&self, request: Request) {
        match request {
            Request::Launch { process, spec, continue_from } => self.launch(process, *spec, continue_from),
            Request::NextRound { process, spec } => self.next_round(process, spec),
            Request::Signal { process, signal } => {
                // A process that is gone has been, or will be, reported as such.
                self.order(process, Order::Signal(signal));
            }
            Request::Forget { process } => self.forget(process),
            Request::ReadLog { id, task, from, max } => self.read_log(id, task, from, max),
        }
    }

    /// The protections that scripts have on this host, tried in a process of their own. Blocks for some milliseconds.
    ///
    /// # Errors
    /// If the launcher can't be run.
    pub fn protections(&self) -> std::io::Result<Vec<Protection>> {
        launcher::protections(&self.shared.config.launcher)
    }

    /// What inference shares with it.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The interpreter that runs scripts. Blocks for some 0.2 s the first time.
    ///
    /// # Errors
    /// If there is none that works.
    pub fn python(&self) -> std::io::Result<Python> {
        let found = self.shared.interpreter()?;
        let (path, version, libraries) = (found.executable.clone(), found.version.clone(), found.libraries.clone());
        Ok(Python { path, version, libraries })
    }

    fn launch(&self, process: ProcessId, spec: RunSpec, continue_from: Option<(Step, PathBuf)>) {
        let (orders, inbox) = mpsc::channel(MAX_ORDERS);
        let directory = self.shared.root.directory_of(&spec, process);
        self.processes().insert(process, Running { orders, directory: directory.clone() });
        let task = watch::Task { spec, continue_from, directory, inbox };
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let reporter = Reporter { process, answers: shared.answers.clone() };
            let watched = tokio::spawn(watch::run(shared, task, reporter.clone()));
            if watched.await.is_err() {
                // Its child is killed with it (`kill_on_drop`).
                let message = "the watcher of the process panicked, which is a defect of the node".to_owned();
                reporter.ended_badly(message).await;
            }
        });
    }

    fn next_round(&self, process: ProcessId, spec: Box<RunSpec>) {
        if !self.order(process, Order::NextRound(spec)) {
            let answers = self.shared.answers.clone();
            let result = Err("the process is gone".to_owned());
            tokio::spawn(async move { answers.send(Answer::RoundSent { process, result }).await });
        }
    }

    fn order(&self, process: ProcessId, order: Order) -> bool {
        let processes = self.processes();
        processes.get(&process).is_some_and(|running| running.orders.try_send(order).is_ok())
    }

    fn forget(&self, process: ProcessId) {
        let Some(running) = self.processes().remove(&process) else {
            return;
        };
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || shared.root.clear(&running.directory));
    }

    fn read_log(&self, id: u64, task: TaskId, from: Option<u64>, max: u32) {
        let (path, answers) = (self.shared.root.log_of(&task), self.shared.answers.clone());
        tokio::spawn(async move {
            let read = tokio::task::spawn_blocking(move || logs::read(&path, from, max)).await;
            let result = read.map_err(std::io::Error::other).flatten().map_err(|error| error.to_string());
            // A closed channel means that the node stops.
            let _ = answers.send(Answer::Log { id, result }).await;
        });
    }

    fn processes(&self) -> MutexGuard<'_, BTreeMap<ProcessId, Running>> {
        self.shared.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// The interpreter, found once. Blocks while it is.
    pub(super) fn interpreter(&self) -> std::io::Result<&Interpreter> {
        if let Some(found) = self.interpreter.get() {
            return Ok(found);
        }
        let found = Interpreter::detect(&self.config.python)?;
        Ok(self.interpreter.get_or_init(|| found))
    }

    /// Where the launcher is, and its first arguments.
    pub(super) fn launcher(&self) -> (&Path, &[PathBuf]) {
        match self.config.launcher.split_first() {
            Some((program, arguments)) => (program, arguments),
            None => (Path::new(""), &[]),
        }
    }
}

/// Reports on one process.
#[derive(Clone)]
pub(super) struct Reporter {
    pub(super) process: ProcessId,
    answers: mpsc::Sender<Answer>,
}

impl Reporter {
    /// Sends; a closed channel means that the node stops, and nobody wants to know.
    pub(super) async fn send(&self, answer: Answer) {
        let _ = self.answers.send(answer).await;
    }

    pub(super) async fn say(&self, saying: Saying) {
        self.send(Answer::Said { process: self.process, saying }).await;
    }

    /// Both ends at once: the state takes the one that it waits for and ignores the other.
    async fn ended_badly(&self, message: String) {
        let process = self.process;
        self.send(Answer::LaunchFailed { process, kind: FailureKind::Launch, message: message.clone() }).await;
        let exit = Box::new(Exit { last_words: message, ..Exit::default() });
        self.send(Answer::Exited { process, exit }).await;
    }
}
