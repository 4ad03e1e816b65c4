//! One node process of a test: the binary that people start, with a data directory and a log of its own.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use atlas_node::{
    api::{NodeEvent, Status, client::Client},
    config::keys::KEYS,
};
use futures::{Stream, StreamExt};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::wait::{START, STOP, until};
use crate::executor::host::python;

/// Lines of a log that are shown when a test fails.
const LOG_TAIL: usize = 60;

/// The program, in an environment without settings of whoever runs the tests.
pub(crate) fn program() -> Command {
    program_within(&[])
}

/// The same, run by another command.
fn program_within(within: &[String]) -> Command {
    let program = env!("CARGO_BIN_EXE_atlas-node");
    let mut command = match within.split_first() {
        None => Command::new(program),
        Some((outer, arguments)) => {
            let mut command = Command::new(outer);
            command.args(arguments).arg(program);
            command
        }
    };
    for key in KEYS {
        command.env_remove(key.variable).env_remove(key.atlas_variable());
    }
    command.env_remove("ATLAS_CONFIG").env_remove("ATLAS_DATA_DIR").env_remove("ATLAS_TEST_PYTHON");
    command
}

/// A node, running or not. Dropping it ends its process.
pub(crate) struct Node {
    pub(crate) label: String,
    pub(crate) data_dir: PathBuf,
    log: PathBuf,
    flags: Vec<String>,
    /// What stands before the command: it runs inside something.
    within: Vec<String>,
    /// Where it listens, as a multiaddr.
    listen: String,
    child: Option<Child>,
    /// Known once it was up.
    pub(crate) peer_id: String,
    /// The first address that it listened on, with its peer id.
    pub(crate) address: String,
}

impl Node {
    /// A node that is not started yet, in a directory of its own below `directory`.
    pub(crate) fn new(directory: &Path, label: &str, flags: &[&str]) -> Self {
        Self {
            label: label.to_owned(),
            data_dir: directory.join(label),
            log: directory.join(format!("{label}.log")),
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            within: Vec::new(),
            listen: "/ip4/127.0.0.1/tcp/0".to_owned(),
            child: None,
            peer_id: String::new(),
            address: String::new(),
        }
    }

    /// Has it run behind another command, and listen at an address there.
    pub(crate) fn within(&mut self, command: Vec<String>, host: &str) {
        self.within_listening(command, format!("/ip4/{host}/tcp/0"));
    }

    /// The same, at this multiaddr.
    pub(crate) fn within_listening(&mut self, command: Vec<String>, listen: String) {
        self.within = command;
        self.listen = listen;
    }

    /// Puts what it keeps on a disk of this size, in memory. Its control socket stays where everybody sees it.
    pub(crate) fn on_a_disk_of(&mut self, size: &str) {
        let mount = format!(
            r#"set -e
            mkdir -p "$0/disk"
            mount -t tmpfs -o size={size} disk "$0/disk"
            for part in blocks ledgers pins staging work; do
                mkdir -p "$0/disk/$part" "$0/$part"
                mount --bind "$0/disk/$part" "$0/$part"
            done
            exec "$@""#
        );
        let command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &mount];
        self.within = command.map(str::to_owned).into();
        self.within.push(self.data_dir.to_str().unwrap().to_owned());
    }

    /// That disk, as this process sees it.
    pub(crate) fn disk(&self) -> PathBuf {
        let root = Path::new("/proc").join(self.pid().to_string()).join("root");
        root.join(self.data_dir.strip_prefix("/").unwrap()).join("disk")
    }

    /// `atlas-node start` as an operator types it, but on loopback, with fast beats, and tied to the test's life.
    pub(crate) fn start_command(&self) -> Command {
        let mut command = program_within(&self.within);
        command
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(["start", "--exit-with-parent", "--node-id", &self.label])
            .args(["--listen", &self.listen, "--no-mdns", "--no-upnp", "--no-gpu"])
            .args(["--heartbeat-interval", "1", "--heartbeat-timeout", "3.5"])
            .arg("--python")
            .arg(python())
            .args(&self.flags)
            .stdin(Stdio::piped());
        if !self.flags.iter().any(|flag| flag == "--ipfs-api") {
            command.args(["--ipfs-api", "none"]);
        }
        command
    }

    /// Gives a flag that it was started with another value, for the next start.
    pub(super) fn change_flag(&mut self, flag: &str, value: &str) {
        let place = self.flags.iter().position(|given| given == flag).expect("the flag was given");
        value.clone_into(&mut self.flags[place + 1]);
    }

    /// Starts the process, without waiting.
    pub(crate) fn spawn(&mut self) {
        let log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut command = self.start_command();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        assert!(self.child.replace(command.spawn().unwrap()).is_none(), "{} runs already", self.label);
    }

    /// Starts the process and waits until it answers and listens.
    pub(crate) async fn start(&mut self) {
        self.spawn();
        let status = self.until_status("it listens", |status| !status.listen.is_empty()).await;
        self.peer_id = status.peer_id;
        self.address = status.listen[0].clone();
    }

    /// Waits until its status is as wanted.
    pub(crate) async fn until_status(&mut self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let label = self.label.clone();
        until(&format!("{label}: {what}"), START, async || {
            assert!(self.is_running(), "{label} ended by itself");
            let status = Client::connect(&self.data_dir).ok()?.status().await.ok()?;
            wanted(&status).then_some(status)
        })
        .await
    }

    /// Its control socket.
    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.data_dir).unwrap_or_else(|error| panic!("{}: {error}", self.label))
    }

    /// What it reports from now on.
    pub(crate) async fn events(&self) -> impl Stream<Item = NodeEvent> + Unpin + use<> {
        let events = self.client().events().await.unwrap();
        Box::pin(events.filter_map(async |event| event.ok()))
    }

    pub(crate) fn pid(&self) -> Pid {
        let id = self.child.as_ref().expect("the node was started").id();
        Pid::from_raw(i32::try_from(id).unwrap())
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits until a node that was asked to stop has stopped in order.
    pub(crate) async fn stopped(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the node was started");
        until(&format!("{} stops", self.label), STOP, async || child.try_wait().unwrap()).await
    }

    /// SIGTERM, without waiting.
    pub(crate) fn ask_to_stop(&self) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Another command of the program, for this node.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.arg("--data-dir").arg(&self.data_dir).args(arguments).stdin(Stdio::null());
        command
    }

    /// What it logged so far, without colours.
    pub(crate) fn log(&self) -> String {
        let text = File::open(&self.log).and_then(std::io::read_to_string).unwrap_or_default();
        let mut plain = String::new();
        for part in text.split('\u{1b}') {
            // `[33m`: an escape sequence ends with its first letter.
            plain.push_str(
                part.strip_prefix('[').map_or(part, |rest| rest.split_once('m').map_or("", |(_, text)| text)),
            );
        }
        plain
    }

    fn print_log(&self) {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL)..];
        eprintln!("--- the end of what {} logged\n{}", self.label, tail.join("\n"));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            self.print_log();
        }
    }
}

/// Processes whose command line or environment speaks of `directory`: nodes, launchers and scripts.
pub(crate) fn processes_of(directory: &Path) -> Vec<(i32, String)> {
    let needle = directory.to_str().unwrap();
    let process = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.ok()?.path();
        let id = path.file_name()?.to_str()?.parse().ok()?;
        let read = |name| fs::read(path.join(name)).map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "));
        let command = read("cmdline").ok()?;
        let working = fs::read_link(path.join("cwd")).unwrap_or_default();
        let ours = command.contains(needle) || working.starts_with(directory) || read("environ").ok()?.contains(needle);
        // A process that has ended but whose parent has not looked yet has no command line.
        (ours && !command.is_empty()).then_some((id, command))
    };
    fs::read_dir("/proc").unwrap().filter_map(process).collect()
}
