//! A ledger that is a chain of CometBFT validators on this machine: one process that keeps theirs running.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::ValueEnum;
use tokio::process::Child;

use super::process;
use crate::{
    chain::abci::local::{self, Plan, Terms},
    cli::Error,
};

/// Its name, for people; nodes ask for the chain of this name.
pub(super) const CHAIN_ID: &str = "atlas-testnet";
/// Between two blocks. A round takes a few, so a second each would be most of a small job's time.
const BLOCK_TIME: Duration = Duration::from_millis(200);
/// Credited to each account, as an embedded ledger does.
const FAUCET: u64 = 1_000_000_000_000;
/// From SIGTERM to SIGKILL at the end: that of a validator, and room.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// What carries the ledger of a test network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Carrier {
    /// One process.
    Embedded,
    /// Validators of CometBFT.
    Cometbft,
}

/// How many validators, and what they run.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Validators.
    pub(super) validators: u32,
    /// CometBFT.
    pub(super) cometbft: PathBuf,
    /// What they log.
    pub(super) log_level: String,
    /// A node without a beat is offline after this.
    pub(super) offline_after: Duration,
}

/// The process that keeps the validators running.
#[derive(Debug)]
pub(super) struct ChainProcess {
    child: Child,
    log: PathBuf,
    /// The JSON-RPC of each validator.
    pub(super) rpc: Vec<String>,
}

impl ChainProcess {
    /// Makes the chain in `directory/chain`, and starts it.
    pub(super) fn start(directory: &Path, settings: &Settings) -> Result<Self, Error> {
        let home = directory.join("chain");
        let offline_after = settings.offline_after;
        let terms = Terms { faucet: FAUCET, offline_after, accounts: BTreeMap::new(), economy: None };
        let plan = Plan {
            chain_id: CHAIN_ID.to_owned(),
            validators: settings.validators,
            terms,
            block_time: BLOCK_TIME,
            base_port: None,
        };
        let chain = local::init(&home, &plan)?;
        let rpc = chain.validators.iter().map(|validator| format!("http://127.0.0.1:{}", validator.rpc)).collect();
        let log = directory.join("chain.log");
        let mut command = process::this_program(&log)?;
        command.args(["ledger", "run", "--exit-with-parent", "--log-level", &settings.log_level, "--home"]).arg(&home);
        command.arg("--cometbft").arg(&settings.cometbft);
        let child = process::spawn(&mut command, &log)?;
        Ok(Self { child, log, rpc })
    }

    /// An error with the end of its log if it ended by itself.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        process::check(&mut self.child, "the ledger", &self.log)
    }

    /// Stops the validators in order; false if they had to be killed.
    pub(super) async fn stop(mut self) -> bool {
        process::ask_to_stop(&self.child);
        process::finish(&mut self.child, STOP_LIMIT).await
    }
}
