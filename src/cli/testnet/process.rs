//! One node process.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};

use crate::{
    api::{Metrics, client::Client},
    cli::Error,
    config::keys::KEYS,
};

/// From SIGTERM to SIGKILL at the end. A node that stops in order saves checkpoints and says goodbye.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// Lines of a log that are shown when its node ended by itself.
const LOG_TAIL: usize = 15;

/// A node in a process of its own, with a data directory and a log beside it.
#[derive(Debug)]
pub(super) struct NodeProcess {
    label: String,
    data_dir: PathBuf,
    log: PathBuf,
    child: Child,
    client: Option<Client>,
    /// Killed on purpose: from then on its silence is no failure.
    killed: bool,
    /// Its peer id, once it said so.
    pub(super) peer_id: String,
    /// The counters it told last; those of a killed node stay.
    pub(super) metrics: Metrics,
}

impl NodeProcess {
    /// Starts `atlas-node start` with these flags beside those that every node of a test network gets.
    pub(super) fn spawn(label: &str, directory: &Path, flags: &[String]) -> Result<Self, Error> {
        let data_dir = directory.join(label);
        let log = directory.join(format!("{label}.log"));
        let mut command = this_program(&log)?;
        // A test network is the same whatever its user's own node is told.
        for key in KEYS {
            command.env_remove(key.variable).env_remove(key.atlas_variable());
        }
        command.env_remove("ATLAS_CONFIG").arg("--data-dir").arg(&data_dir);
        command.args(["start", "--exit-with-parent", "--node-id", label]).args(flags);
        let child = spawn(&mut command, &log)?;
        Ok(Self {
            label: label.to_owned(),
            data_dir,
            log,
            child,
            client: None,
            killed: false,
            peer_id: String::new(),
            metrics: Metrics::default(),
        })
    }

    /// Its name in this network.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// Its data directory, for whoever wants to talk to it.
    pub(super) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Its control socket. Fails while the node is not up yet.
    pub(super) fn client(&self) -> Result<Client, Error> {
        match &self.client {
            Some(client) => Ok(client.clone()),
            None => Ok(Client::connect(&self.data_dir)?),
        }
    }

    /// Keeps the connection for later calls.
    pub(super) fn remember_client(&mut self, client: Client) {
        self.client = Some(client);
    }

    /// Whether it was not killed on purpose.
    pub(super) fn is_alive(&self) -> bool {
        !self.killed
    }

    /// An error with the end of its log if it ended by itself.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        if self.killed { Ok(()) } else { check(&mut self.child, &self.label, &self.log) }
    }

    /// SIGKILL, and waits until the process is gone.
    pub(super) async fn kill(&mut self) -> Result<(), Error> {
        self.killed = true;
        self.child
            .kill()
            .await
            .map_err(|error| Error::JobFailed(format!("{} could not be killed: {error}", self.label)))
    }

    /// Asks it to stop in order.
    pub(super) fn ask_to_stop(&mut self) {
        ask_to_stop(&self.child);
    }

    /// Waits until it is gone; false if it had to be killed.
    pub(super) async fn finish(&mut self) -> bool {
        self.killed || finish(&mut self.child, STOP_LIMIT).await
    }
}

/// This program again, to be told what to do; `log` is what an error names.
pub(super) fn this_program(log: &Path) -> Result<Command, Error> {
    let program = std::env::current_exe().map_err(|source| Error::File { path: log.to_owned(), source })?;
    Ok(Command::new(program))
}

/// Starts a process that ends with this one, and writes to `log`.
pub(super) fn spawn(command: &mut Command, log: &Path) -> Result<Child, Error> {
    let failed = |source| Error::File { path: log.to_owned(), source };
    let output = File::create(log).map_err(failed)?;
    command
        // It ends at end of file: when this process does.
        .stdin(Stdio::piped())
        .stdout(output.try_clone().map_err(failed)?)
        .stderr(output)
        // Ctrl-C is for this process alone; it stops the others in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)
}

/// An error with the end of its log if a process ended by itself.
pub(super) fn check(child: &mut Child, label: &str, log: &Path) -> Result<(), Error> {
    match child.try_wait() {
        Ok(None) => Ok(()),
        Ok(Some(status)) => Err(Error::JobFailed(format!("{label} ended by itself ({status})\n{}", log_tail(log)))),
        Err(error) => Err(Error::JobFailed(format!("{label} can't be watched: {error}"))),
    }
}

/// Asks a process to stop in order.
pub(super) fn ask_to_stop(child: &Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // It may have ended a moment ago; `finish` finds out.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

/// Waits until a process is gone; false if it had to be killed.
pub(super) async fn finish(child: &mut Child, limit: Duration) -> bool {
    if tokio::time::timeout(limit, child.wait()).await.is_ok() {
        return true;
    }
    let _ = child.kill().await;
    false
}

/// The last lines of a log.
fn log_tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(LOG_TAIL)..];
    format!("the end of {}:\n{}", log.display(), tail.join("\n"))
}
