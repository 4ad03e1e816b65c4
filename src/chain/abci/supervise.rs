//! The two processes of a validator on this machine: the application, and CometBFT beside it. Started, watched, started
//! again when one ends, stopped in order.
//!
//! CometBFT can't go on without its application and ends when that does, so the two live and die together. The
//! application ends when its standard input does: whatever happens to the process that runs this, nothing is left behind.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    net::UnixStream,
    process::{Child, ChildStdin, Command},
};
use tokio_util::sync::CancellationToken;

use super::{
    damage,
    local::Home,
    server::{Address, AddressError},
};
use crate::{clock, types::Time};

/// From SIGTERM to SIGKILL at the end. CometBFT closes its databases in well under a second.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// The same for a CometBFT that lost its ledger: it hangs at times while it stops (0.38.25 waits for answers that nobody
/// gives), and whatever it has acknowledged is synced.
const ORPHAN_LIMIT: Duration = Duration::from_secs(3);
/// The application listens by then. It reads its newest snapshot first, which takes about a second for 100 MB.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Between two looks whether it listens.
const START_POLL: Duration = Duration::from_millis(20);
/// The pause before a first restart; it doubles with each that follows.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A validator that has run this long is well: its next restart is a first one again.
const WELL_AFTER: Duration = Duration::from_secs(20);
/// Restarts in a row after which it is given up: what fails ten times fails again.
const MAX_RESTARTS: u32 = 10;
/// A log that is longer at a start, in bytes, is set aside; one that was set aside before goes.
const MAX_LOG: u64 = 64 * 1024 * 1024;
/// Bytes of a log's end that are shown when its process can't be kept running.
const LOG_TAIL: u64 = 2_000;
/// Bytes of a log's end in which CometBFT's last words are looked for: a panic shows its stack behind them.
const LAST_WORDS: u64 = 64 * 1024;

/// Why a validator does not run.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// A program can't be started.
    #[error("{} can't be started: {source}{hint}", .program.display())]
    Start {
        /// Which.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// A file beside it.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It ends again and again.
    #[error("{name} ended {restarts} times in a row, last with {last}\n{tail}")]
    GivenUp {
        /// The validator's directory.
        name: String,
        /// Restarts.
        restarts: u32,
        /// What happened last.
        last: String,
        /// The ends of its logs.
        tail: String,
    },
    /// What it keeps is not what it wrote.
    #[error(
        "{home}: what CometBFT keeps is damaged, or what the ledger beside it keeps. It said: {words}\n\
         The other validators have all of it. Run `cometbft reset-state --home {home}`, which leaves the keys and what was \
         signed last; remove {home}/ledger; see that {home}/data/priv_validator_state.json is there; turn on [statesync] in \
         {home}/config/config.toml, unless the others keep all blocks; and start again. Check the disk."
    )]
    Damaged {
        /// The validator's directory.
        home: String,
        /// CometBFT's last words.
        words: String,
    },
    /// The socket has no usable path.
    #[error(transparent)]
    Address(#[from] AddressError),
}

/// The programs, and how the ledger keeps what it keeps.
#[derive(Clone, Debug)]
pub struct Programs {
    /// This program.
    pub node: PathBuf,
    /// CometBFT.
    pub cometbft: PathBuf,
    /// What `ledger abci` gets beside its directory and address.
    pub ledger_flags: Vec<String>,
}

/// Keeps the validator in `home` running until `stop`.
pub async fn run(home: &Home, programs: &Programs, stop: &CancellationToken) -> Result<(), SuperviseError> {
    let (mut restarts, mut pause) = (0, SHORTEST_PAUSE);
    loop {
        let began = clock::now();
        let Some(last) = once(home, programs, stop).await? else {
            return Ok(());
        };
        if ran_well(began, clock::now()) {
            (restarts, pause) = (0, SHORTEST_PAUSE);
        }
        restarts += 1;
        if restarts > MAX_RESTARTS {
            let tail = [tail(&log(home, "ledger")), tail(&log(home, "cometbft"))].concat();
            return Err(SuperviseError::GivenUp { name: home.0.display().to_string(), restarts, last, tail });
        }
        tracing::warn!(home = %home.0.display(), last, restarts, ?pause, "a validator ended and is started again");
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Ok(());
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn ran_well(began: Time, now: Time) -> bool {
    now.since(began) >= WELL_AFTER
}

/// Runs both processes once. What ended, in words; `None` if they were stopped.
async fn once(home: &Home, programs: &Programs, stop: &CancellationToken) -> Result<Option<String>, SuperviseError> {
    let address = home.address()?;
    let mut ledger = Process::start(home, "ledger", &mut ledger_command(home, programs, &address), "")?;
    if let Some(ended) = until_listening(&mut ledger, &address, stop).await {
        ledger.stop(STOP_LIMIT).await;
        return Ok(ended);
    }
    let mut command = Command::new(&programs.cometbft);
    // Whatever its configuration says: it is this ledger that waits for it.
    command.args(["start", "--proxy_app", &address.to_string(), "--home"]).arg(&home.0).stdin(Stdio::null());
    let hint = "; install CometBFT 0.38 and name it with --cometbft";
    let mut cometbft = Process::start(home, "cometbft", &mut command, hint)?;
    tracing::info!(home = %home.0.display(), ledger = ledger.id(), cometbft = cometbft.id(), "a validator runs");
    let (ended, limit) = tokio::select! {
        status = ledger.child.wait() => (Some(format!("the ledger's {}", words(status))), ORPHAN_LIMIT),
        status = cometbft.child.wait() => (Some(format!("CometBFT's {}", words(status))), STOP_LIMIT),
        () = stop.cancelled() => (None, STOP_LIMIT),
    };
    let log_from = cometbft.log_from;
    // CometBFT first: it takes the loss of its application for a fault.
    cometbft.stop(limit).await;
    ledger.stop(STOP_LIMIT).await;
    let log = end_of(&log(home, "cometbft"), log_from, LAST_WORDS).unwrap_or_default();
    match damage::said(&log).filter(|_| ended.is_some()) {
        Some(words) => Err(SuperviseError::Damaged { home: home.0.display().to_string(), words }),
        None => Ok(ended),
    }
}

fn ledger_command(home: &Home, programs: &Programs, address: &Address) -> Command {
    let mut command = Command::new(&programs.node);
    command.args(["ledger", "abci", "--exit-with-parent", "--listen", &address.to_string(), "--home"]);
    // Its end is the end of the application.
    command.arg(home.application()).args(&programs.ledger_flags).stdin(Stdio::piped());
    command
}

/// Waits until the application listens; what happened instead: `Some(None)` for a stop.
async fn until_listening(ledger: &mut Process, address: &Address, stop: &CancellationToken) -> Option<Option<String>> {
    let Address::Unix(path) = address else { return None };
    let listening = async {
        while UnixStream::connect(path).await.is_err() {
            tokio::time::sleep(START_POLL).await;
        }
    };
    tokio::select! {
        () = listening => None,
        status = ledger.child.wait() => Some(Some(format!("the ledger's {}", words(status)))),
        () = stop.cancelled() => Some(None),
        () = tokio::time::sleep(START_LIMIT) => Some(Some(format!("a ledger that was silent for {} s", START_LIMIT.as_secs()))),
    }
}

fn words(status: io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| format!("end unseen ({error})"), |status| status.to_string())
}

/// One process, with its id in a file beside its log.
struct Process {
    child: Child,
    /// Held open as long as it may run; waiting for a child would close it.
    _input: Option<ChildStdin>,
    id_file: PathBuf,
    /// Where in its log it began.
    log_from: u64,
}

impl Process {
    fn start(home: &Home, name: &str, command: &mut Command, hint: &'static str) -> Result<Self, SuperviseError> {
        let path = log(home, name);
        let output = open_log(&path).map_err(|source| SuperviseError::Io { path: path.clone(), source })?;
        let fail = |source| SuperviseError::Io { path: path.clone(), source };
        let log_from = output.metadata().map_err(fail)?.len();
        let error_output = output.try_clone().map_err(fail)?;
        let program = PathBuf::from(command.as_std().get_program());
        let spawned = command.stdout(output).stderr(error_output).process_group(0).kill_on_drop(true).spawn();
        let mut child = spawned.map_err(|source| SuperviseError::Start { program, source, hint })?;
        let input = child.stdin.take();
        let id_file = home.0.join(format!("{name}.pid"));
        let id = child.id().map_or_else(String::new, |id| format!("{id}\n"));
        fs::write(&id_file, id).map_err(|source| SuperviseError::Io { path: id_file.clone(), source })?;
        Ok(Self { child, _input: input, id_file, log_from })
    }

    fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Asks it to stop, and kills it if it does not. Nothing is asked of one that has ended.
    async fn stop(mut self, limit: Duration) {
        // Its id is known as long as nobody has waited for its end, so it can't be another's by now.
        if let Some(id) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            // It may be ending this moment.
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
            if tokio::time::timeout(limit, self.child.wait()).await.is_err() {
                let _ = self.child.kill().await;
            }
        }
        // A file that stays names a process that is gone, which is what a reader has to expect after a crash anyway.
        let _ = fs::remove_file(&self.id_file);
    }
}

fn log(home: &Home, name: &str) -> PathBuf {
    home.0.join(format!("{name}.log"))
}

/// The log to append to; one that has grown too long is set aside first.
fn open_log(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > MAX_LOG) {
        fs::rename(path, path.with_extension("log.old"))?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

fn tail(path: &Path) -> String {
    let end = end_of(path, 0, LOG_TAIL);
    end.map_or_else(|_| String::new(), |text| format!("the end of {}:\n{text}\n", path.display()))
}

/// The last `limit` bytes of a file, of those from `from` on.
fn end_of(path: &Path, from: u64, limit: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(limit).max(from)))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
