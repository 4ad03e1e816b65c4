//! `start`: runs a node in this process.

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
}

impl Start {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let config = self.settings.layers(&context.data_dir)?.resolve(self.exit_with_parent)?;
        let filter = tracing_subscriber::EnvFilter::new(&config.log_level);
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let reason = node::run(config).await?;
        tracing::info!(?reason, "stopped");
        Ok(())
    }
}
