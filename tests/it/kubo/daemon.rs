//! A Kubo repository of its own, on loopback, that knows nobody.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use crate::e2e::wait::until;

/// A daemon that opens its repository is up by then, on a busy machine too.
const UP: Duration = Duration::from_secs(60);

/// A repository, and a daemon over it while one runs. Dropping it ends the daemon.
pub(super) struct Kubo {
    directory: tempfile::TempDir,
    daemon: Option<Child>,
}

fn program() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/ipfs");
    assert!(path.exists(), "there is no {}: run scripts/setup --dev", path.display());
    path
}

impl Kubo {
    /// A new repository with the profile whose names are ours.
    pub(super) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("atlas-kubo-").tempdir().unwrap();
        let kubo = Self { directory, daemon: None };
        kubo.run(&["init", "--profile=test,unixfs-v1-2025"]);
        kubo.run(&["bootstrap", "rm", "--all"]);
        kubo.run(&["config", "Routing.Type", "none"]);
        kubo.run(&["config", "--json", "AutoConf.Enabled", "false"]);
        kubo.run(&["config", "--json", "Provide.Enabled", "false"]);
        kubo
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(arguments).env("IPFS_PATH", self.directory.path()).env("IPFS_TELEMETRY", "off");
        command
    }

    /// Runs a command that must succeed; what it printed.
    pub(super) fn run(&self, arguments: &[&str]) -> Vec<u8> {
        let Output { status, stdout, stderr } = self.command(arguments).stdin(Stdio::null()).output().unwrap();
        assert!(status.success(), "ipfs {arguments:?}: {status}: {}", String::from_utf8_lossy(&stderr));
        stdout
    }

    /// The same, as one word.
    pub(super) fn word(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.run(arguments)).unwrap().trim().to_owned()
    }

    /// Starts the daemon without a network of its own; the address of its RPC.
    pub(super) async fn start(&mut self) -> String {
        self.start_with(&["daemon", "--offline"]).await
    }

    /// Starts the daemon so that peers can reach it; the address of its RPC.
    pub(super) async fn start_online(&mut self) -> String {
        self.start_with(&["daemon"]).await
    }

    /// Where peers reach a daemon that is online: its TCP multiaddr on loopback.
    pub(super) fn peer_address(&self) -> String {
        let addresses = self.word(&["id", "--format=<addrs>"]);
        let of_tcp = |address: &&str| address.starts_with("/ip4/127.0.0.1/tcp/") && !address.contains("/ws/");
        addresses.lines().find(of_tcp).unwrap_or_else(|| panic!("no peer can reach it: {addresses}")).to_owned()
    }

    async fn start_with(&mut self, arguments: &[&str]) -> String {
        let address = self.directory.path().join("api");
        let _ = fs::remove_file(&address);
        let log = File::create(self.directory.path().join("daemon.log")).unwrap();
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.daemon = Some(command.spawn().unwrap());
        until("the daemon serves its RPC", UP, async || {
            fs::read_to_string(&address).ok().filter(|text| !text.is_empty())
        })
        .await
        .trim()
        .to_owned()
    }

    /// Kills the daemon.
    pub(super) fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let ended: io::Result<()> = daemon.kill().and_then(|()| daemon.wait().map(drop));
            ended.unwrap();
        }
    }
}

impl Drop for Kubo {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}
