//! `ledger abci`: the ledger as the application of one CometBFT.

use std::{num::NonZeroU64, path::PathBuf};

use clap::Args;

use crate::{
    chain::abci::{Address, Config, SNAPSHOT_EVERY, Server},
    cli::Error,
};

/// How the ledger keeps what it keeps.
#[derive(Clone, Debug, Args)]
pub(super) struct Keep {
    /// Blocks between two snapshots; the same on all validators.
    #[arg(long, value_name = "BLOCKS", default_value_t = SNAPSHOT_EVERY)]
    pub(super) snapshot_every: NonZeroU64,
    /// Let CometBFT forget blocks older than this many. Default: it keeps all
    #[arg(long, value_name = "BLOCKS")]
    pub(super) keep_blocks: Option<NonZeroU64>,
}

/// Run the ledger as the application of a CometBFT that is started otherwise. What it acknowledged survives any end.
#[derive(Debug, Args)]
pub(super) struct Abci {
    /// Where CometBFT connects (its proxy_app): unix:///PATH, or tcp://ADDRESS:PORT on loopback.
    #[arg(long, value_name = "ADDRESS", default_value = "tcp://127.0.0.1:26658")]
    listen: Address,
    /// Where the ledger keeps its snapshots.
    #[arg(long, value_name = "DIR")]
    home: PathBuf,
    #[command(flatten)]
    keep: Keep,
    /// error, warn, info, debug, trace, or a filter.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
    /// End when standard input ends.
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

impl Abci {
    pub(super) async fn run(self) -> Result<(), Error> {
        super::chain::log(&self.log_level);
        let config = Config { snapshot_every: self.keep.snapshot_every, keep_blocks: self.keep.keep_blocks };
        let server = Server::open(&self.home, &self.listen, config)?;
        let served = tokio::task::spawn_blocking(move || server.run());
        tokio::select! {
            served = served => served.map_err(|error| Error::Failed(error.to_string()))?.map_err(Error::from),
            () = super::chain::asked_to_stop(self.exit_with_parent) => Ok(()),
        }
    }
}
