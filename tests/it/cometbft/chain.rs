//! A chain of validators on this machine, as `ledger init` and `ledger run` make it.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use atlas_node::chain::abci::local::{Chain as Description, Home, Validator};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tendermint::block::Height;
use tendermint_proto::serializers::bytes::base64string;
use tendermint_rpc::{Client as _, HttpClient};

use crate::e2e::{node::program, wait::until};

/// A validator is up, and a chain of a few makes blocks, by then, on a busy machine too.
pub(super) const UP: Duration = Duration::from_secs(60);
/// A chain does what little is asked of it by then.
pub(super) const SOON: Duration = Duration::from_secs(180);
/// The chain's name.
pub(super) const CHAIN_ID: &str = "atlas-lab";
/// Lines of a log that are shown when a test fails.
const LOG_TAIL: usize = 25;

/// A chain. Dropping it ends its processes.
pub(super) struct Chain {
    running: BTreeMap<usize, Child>,
    pub(super) validators: Vec<Validator>,
    flags: Vec<String>,
    directory: tempfile::TempDir,
}

/// CometBFT's program.
pub(super) fn cometbft() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/cometbft");
    assert!(path.exists(), "there is no {}: run scripts/setup --dev", path.display());
    path
}

impl Chain {
    /// A chain that does not run yet, with a block every 100 ms. `flags` are for `ledger run`.
    pub(super) fn new(validators: u32, flags: &[&str]) -> Self {
        Self::made_with(validators, &[], flags)
    }

    /// The same, with further flags for `ledger init`.
    pub(super) fn made_with(validators: u32, init: &[&str], flags: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("atlas-chain-").tempdir().unwrap();
        let home = directory.path().join("chain");
        let made = program()
            .args(["ledger", "init", "--chain-id", CHAIN_ID, "--validators", &validators.to_string()])
            .args(["--block-time", "100", "--base-port", "0", "--faucet", "1000000"])
            .args(init)
            .arg("--home")
            .arg(&home)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let validators = Description::read(&home).unwrap().validators;
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        Self { running: BTreeMap::new(), validators, flags, directory }
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The directory of a validator, counted from 0.
    pub(super) fn home(&self, validator: usize) -> Home {
        Description::home(&self.path().join("chain"), &self.validators[validator])
    }

    /// Starts a validator under its supervisor.
    pub(super) fn start(&mut self, validator: usize) {
        let log = self.path().join(format!("run-{validator}.log"));
        let log = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut command = program();
        command
            .args(["ledger", "run", "--exit-with-parent", "--only", &(validator + 1).to_string(), "--home"])
            .arg(self.path().join("chain"))
            .arg("--cometbft")
            .arg(cometbft())
            .args(&self.flags)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        assert!(self.running.insert(validator, command.spawn().unwrap()).is_none());
    }

    /// Starts some validators and waits until they make blocks.
    pub(super) async fn start_all(&mut self, validators: impl Iterator<Item = usize> + Clone) {
        validators.clone().for_each(|validator| self.start(validator));
        for validator in validators {
            self.until_height(validator, 2).await;
        }
    }

    /// The process id of a part of a validator: `ledger` or `cometbft`.
    pub(super) fn pid(&self, validator: usize, part: &str) -> Option<Pid> {
        let text = fs::read_to_string(self.home(validator).0.join(format!("{part}.pid"))).ok()?;
        text.trim().parse().ok().map(Pid::from_raw)
    }

    /// SIGKILL to a part of a validator that runs.
    pub(super) fn kill(&self, validator: usize, part: &str) -> Pid {
        let pid = self.pid(validator, part).expect("it runs");
        kill(pid, Signal::SIGKILL).unwrap();
        pid
    }

    /// Stops the supervisor of a validator in order.
    pub(super) async fn stop(&mut self, validator: usize) {
        let mut child = self.running.remove(&validator).expect("it was started");
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
        let status = until("the validator stops", UP, async || child.try_wait().unwrap()).await;
        assert!(status.success(), "{status}");
    }

    /// Waits until the supervisor of a validator gives it up; what it said.
    pub(super) async fn until_given_up(&mut self, validator: usize) -> String {
        let mut child = self.running.remove(&validator).expect("it was started");
        let status = until("the validator is given up", SOON, async || child.try_wait().unwrap()).await;
        assert!(!status.success(), "{status}");
        fs::read_to_string(self.path().join(format!("run-{validator}.log"))).unwrap()
    }

    /// What an operator does before a validator joins late: a height that is trusted, and two RPC servers to check the
    /// headers from there on.
    pub(super) async fn begin_from_a_snapshot(&self, validator: usize, trusted: u64, others: [usize; 2]) {
        let height = Height::try_from(trusted).unwrap();
        let hash = self.rpc(others[0]).commit(height).await.unwrap().signed_header.header.hash();
        let path = self.home(validator).0.join("config/config.toml");
        let config = fs::read_to_string(&path).unwrap();
        let before = config.split("\n[statesync]\n").next().unwrap();
        let sync = format!(
            "\n[statesync]\nenable = true\nrpc_servers = \"{},{}\"\ntrust_height = {trusted}\ntrust_hash = \"{hash}\"\n\
             trust_period = \"1h0m0s\"\ndiscovery_time = \"5s\"\n",
            self.url(others[0]),
            self.url(others[1])
        );
        fs::write(&path, before.to_owned() + &sync).unwrap();
    }

    pub(super) fn url(&self, validator: usize) -> String {
        format!("http://127.0.0.1:{}", self.validators[validator].rpc)
    }

    pub(super) fn rpc(&self, validator: usize) -> HttpClient {
        HttpClient::new(self.url(validator).as_str()).unwrap()
    }

    /// Its last block, if it answers.
    pub(super) async fn height(&self, validator: usize) -> Option<u64> {
        Some(self.rpc(validator).status().await.ok()?.sync_info.latest_block_height.value())
    }

    pub(super) async fn until_height(&self, validator: usize, height: u64) -> u64 {
        let what = format!("validator {validator} is at block {height}");
        until(&what, SOON, async || self.height(validator).await.filter(|found| *found >= height)).await
    }

    /// The last committed height of a validator's ledger, and the app hash there.
    pub(super) async fn ledger(&self, validator: usize) -> (u64, Vec<u8>) {
        let what = format!("the ledger of validator {validator} answers");
        until(&what, SOON, async || ledger_of(&self.rpc(validator)).await.filter(|(height, _)| *height > 0)).await
    }

    /// The app hash after a block, as `witness` has it in the header of the next.
    pub(super) async fn app_hash(&self, witness: usize, height: u64) -> Vec<u8> {
        self.until_height(witness, height + 1).await;
        let next = Height::try_from(height + 1).unwrap();
        let header = self.rpc(witness).commit(next).await.unwrap().signed_header.header;
        header.app_hash.as_bytes().to_vec()
    }

    /// The ledger of a validator agrees with what `witness` has signed; the height that was compared.
    pub(super) async fn agrees(&self, validator: usize, witness: usize) -> u64 {
        let (height, app_hash) = self.ledger(validator).await;
        assert_eq!(hex::encode(app_hash), hex::encode(self.app_hash(witness, height).await), "after block {height}");
        height
    }

    /// What a part of a validator logged.
    pub(super) fn log(&self, validator: usize, part: &str) -> String {
        fs::read_to_string(self.home(validator).0.join(format!("{part}.log"))).unwrap_or_default()
    }

    fn print_logs(&self) {
        for (validator, _) in self.validators.iter().enumerate() {
            for part in ["ledger", "cometbft"] {
                let text = self.log(validator, part);
                let lines: Vec<&str> = text.lines().collect();
                let tail = &lines[lines.len().saturating_sub(LOG_TAIL)..];
                eprintln!("--- the end of what {part} of validator {validator} logged\n{}", tail.join("\n"));
            }
        }
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        for child in self.running.values_mut() {
            // The supervisor's end is the end of what it runs.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The last committed height of a validator's ledger, and the app hash there.
pub(super) async fn ledger_of(rpc: &HttpClient) -> Option<(u64, Vec<u8>)> {
    let info = rpc.abci_info().await.ok()?;
    // The library hands on the base64 of CometBFT's JSON as if it were the bytes.
    let text = String::from_utf8(info.last_block_app_hash.as_bytes().to_vec()).unwrap();
    let app_hash: Vec<u8> = base64string::deserialize(serde_json::Value::String(text)).unwrap();
    Some((info.last_block_height.value(), app_hash))
}

/// The two processes of one validator without a supervisor, so that a test decides when each starts and dies.
pub(super) struct Pair {
    pub(super) ledger: Option<Child>,
    pub(super) cometbft: Option<Child>,
}

impl Pair {
    pub(super) fn new() -> Self {
        Self { ledger: None, cometbft: None }
    }

    /// Starts what does not run.
    pub(super) fn start(&mut self, chain: &Chain, validator: usize) {
        let home = chain.home(validator);
        if self.ledger.is_none() {
            let mut command = program();
            command.args(["ledger", "abci", "--listen", &home.address().unwrap().to_string(), "--home"]);
            command.arg(home.application()).args(&chain.flags);
            self.ledger = Some(spawn(&mut command, &home, "ledger"));
        }
        self.start_cometbft(chain, validator);
    }

    /// Starts CometBFT alone: another application listens at the validator's address.
    pub(super) fn start_cometbft(&mut self, chain: &Chain, validator: usize) {
        let home = chain.home(validator);
        if self.cometbft.is_none() {
            let mut command = Command::new(cometbft());
            command.args(["start", "--home"]).arg(&home.0);
            self.cometbft = Some(spawn(&mut command, &home, "cometbft"));
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        end(&mut self.cometbft);
        end(&mut self.ledger);
    }
}

/// SIGKILL, and waits until the process is gone.
pub(super) fn end(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Starts a part of a validator, with its log in the validator's directory.
pub(super) fn spawn(command: &mut Command, home: &Home, part: &str) -> Child {
    let log = home.0.join(format!("{part}.log"));
    let log = OpenOptions::new().create(true).append(true).open(log).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}
