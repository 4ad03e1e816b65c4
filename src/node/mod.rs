//! The running node.

use crate::config::Config;

/// Why a node ended in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// SIGINT or SIGTERM.
    Signal,
    /// `shutdown` on the control API.
    Asked,
    /// Its parent ended (`--exit-with-parent`).
    ParentEnded,
}

/// Why a node did not start or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The event loop is not part of this build.
    #[error("not built yet")]
    NotBuilt,
}

/// Runs a node until it is told to stop.
pub async fn run(_config: Config) -> Result<ExitReason, Error> {
    Err(Error::NotBuilt)
}
