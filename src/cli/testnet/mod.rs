//! `testnet`: a network of nodes on this machine.
use clap::Args;

use super::{Context, Error};

/// Run a network of nodes on this machine, give it a job, and watch.
#[derive(Debug, Args)]
pub(super) struct Testnet {
    #[arg(long, default_value_t = 4)]
    nodes: u32,
    #[arg(long)]
    job: std::path::PathBuf,
    #[arg(long)]
    kill: Option<String>,
    #[arg(long)]
    keep: bool,
}

impl Testnet {
    pub(super) async fn run(self, _context: &Context) -> Result<(), Error> {
        let _ = (self.nodes, self.job, self.kill, self.keep);
        Err(Error::Failed("not built yet".into()))
    }
}
