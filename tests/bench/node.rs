//! A node process that is measured from outside: its control socket, its memory, its processor time.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use atlas_node::{
    api::{Status, client::Client},
    clock,
};
use tokio::process::{Child, Command};

/// Nothing that is waited for takes longer.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks: a hundredth of the shortest thing that is waited for.
const LOOK: Duration = Duration::from_millis(1);
/// What /proc counts processor time in: USER_HZ, 100 on x86-64 and AArch64 Linux.
const TICKS_A_SECOND: f64 = 100.0;
/// From SIGTERM to SIGKILL.
const STOP: Duration = Duration::from_secs(10);

/// Where a node runs.
pub(crate) struct Place {
    /// What stands before its command.
    pub(crate) within: Vec<String>,
    /// The multiaddr that it listens at.
    pub(crate) listen: String,
}

impl Default for Place {
    fn default() -> Self {
        Self { within: Vec::new(), listen: "/ip4/127.0.0.1/tcp/0".to_owned() }
    }
}

/// A node.
pub(crate) struct Node {
    child: Child,
    label: String,
    data_dir: PathBuf,
    /// When it was started, in microseconds of the clock.
    started: u64,
}

impl Node {
    /// Starts `atlas-node start` with these flags beside those that every measured node gets.
    pub(crate) fn spawn(directory: &Path, label: &str, flags: &[&str]) -> Result<Self> {
        Self::spawn_at(&Place::default(), directory, label, flags)
    }

    /// The same, in another place.
    pub(crate) fn spawn_at(place: &Place, directory: &Path, label: &str, flags: &[&str]) -> Result<Self> {
        let (data_dir, log) = (directory.join(label), directory.join(format!("{label}.log")));
        let output = File::create(&log).with_context(|| format!("{} can't be made", log.display()))?;
        let started = clock::now_micros();
        let child = within(&place.within, Path::new(env!("CARGO_BIN_EXE_atlas-node")))
            .arg("--data-dir")
            .arg(&data_dir)
            .args(["start", "--exit-with-parent", "--listen", &place.listen])
            .args(["--ipfs-api", "none", "--no-mdns", "--no-upnp", "--no-gpu"])
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { child, label: label.to_owned(), data_dir, started })
    }

    /// Its control socket.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::connect(&self.data_dir)?)
    }

    /// Waits until its status is as wanted.
    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&Status) -> bool) -> Result<Status> {
        let deadline = clock::now() + LIMIT;
        let mut client = None;
        while clock::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(self.data_dir.with_extension("log")).unwrap_or_default();
                bail!("{} ended by itself ({status}):\n{log}", self.label);
            }
            // The control socket is there once the node is.
            client = client.or_else(|| self.client().ok());
            if let Some(client) = &client
                && let Ok(status) = client.status().await
                && wanted(&status)
            {
                return Ok(status);
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("{} was not {what} within {} s", self.label, LIMIT.as_secs())
    }

    /// Waits until it answers and can be dialled; gives the milliseconds since its start.
    pub(crate) async fn ready(&mut self) -> Result<(Status, f64)> {
        let status = self.until("ready", |status| !status.listen.is_empty()).await?;
        Ok((status, (clock::now_micros() - self.started) as f64 / 1e3))
    }

    /// Waits until it has so many peers, and has done what a new node does once: the known answer of its host, which takes a second
    /// of one core.
    pub(crate) async fn settled(&mut self, peers: u32) -> Result<()> {
        let answer = self.data_dir.join("known-answer");
        self.until("connected, with its known answer,", |status| status.peers >= peers && answer.exists()).await?;
        Ok(())
    }

    /// Waits until a peer has found it reachable, which it does once by a connection of its own.
    pub(crate) async fn reached(&mut self) -> Result<()> {
        self.until("reached", |status| !status.external.is_empty()).await?;
        Ok(())
    }

    /// The resident size in MiB: now, and at most since [`Node::forget_peak`] or the start.
    pub(crate) fn resident_mib(&self) -> Result<[f64; 2]> {
        resident_mib(self.pid()?)
    }

    /// The greatest resident size is counted from here.
    pub(crate) fn forget_peak(&self) -> Result<()> {
        // Documented in proc(5), clear_refs.
        Ok(fs::write(format!("/proc/{}/clear_refs", self.pid()?), "5")?)
    }

    /// Processor time used so far, in seconds: user and system of all its threads.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()?))?;
        // Fields 14 and 15 of proc(5); the second, the name in parentheses, may hold spaces.
        let after_name = stat.rsplit_once(')').context("a line of /proc has no name")?.1;
        let ticks: f64 =
            after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
        Ok(ticks / TICKS_A_SECOND)
    }

    fn pid(&self) -> Result<u32> {
        self.child.id().with_context(|| format!("{} is gone", self.label))
    }

    /// Ends it in order.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.client()?.shutdown().await?;
        if tokio::time::timeout(STOP, self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        Ok(())
    }
}

/// `program`, behind the command that it runs within.
pub(crate) fn within(outer: &[String], program: &Path) -> Command {
    let Some((first, arguments)) = outer.split_first() else { return Command::new(program) };
    let mut command = Command::new(first);
    command.args(arguments).arg(program);
    command
}

/// The resident size of a process in MiB: now, and at most.
pub(crate) fn resident_mib(pid: u32) -> Result<[f64; 2]> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        let number = line.split_whitespace().next().context("a line of /proc has no number")?;
        Ok::<f64, anyhow::Error>(number.parse()?)
    };
    Ok([kib("VmRSS:")? / 1024.0, kib("VmHWM:")? / 1024.0])
}
