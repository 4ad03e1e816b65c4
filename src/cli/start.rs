//! `start`: runs a node in this process.

use std::path::PathBuf;

use clap::Args;

use super::{Context, Error, settings::Settings};
use crate::node;

/// Run a node until SIGINT or SIGTERM; a second one ends it at once.
#[derive(Debug, Args)]
pub(super) struct Start {
    #[command(flatten)]
    settings: Settings,
    /// End when standard input ends, so that a launcher's death ends its nodes.
    #[arg(long, hide = true)]
    exit_with_parent: bool,
    /// Write down in this directory what this node is told, for `atlas-sim replay`. Holds job files and questions: for you alone.
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
}

impl Start {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let config = self.settings.layers(&context.data_dir)?.resolve(self.exit_with_parent)?;
        let filter = tracing_subscriber::EnvFilter::new(&config.log_level);
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
        // On pages of 2 MiB the allocator's small blocks take three times the memory. `executor::launcher` gives scripts,
        // whose arrays gain from them, large pages again.
        if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
            tracing::debug!(%error, "the host does not let a process do without large pages");
        }
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let reason = node::run(config, self.record.as_deref()).await?;
        tracing::info!(?reason, "stopped");
        Ok(())
    }
}
