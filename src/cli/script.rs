//! `script check`: for whoever writes a bundle.

use std::path::PathBuf;

use clap::Subcommand;

use super::{Context, Error};

/// Script bundles.
#[derive(Debug, Subcommand)]
pub(super) enum Script {
    /// Check that a bundle keeps the script contract.
    Check {
        /// The bundle's directory.
        bundle: PathBuf,
        /// The interpreter. Default: python3 or python on the path
        #[arg(long, value_name = "PROGRAM")]
        python: Option<PathBuf>,
    },
}

impl Script {
    pub(super) fn run(self, _context: &Context) -> Result<(), Error> {
        let Self::Check { bundle, python } = self;
        let _ = (bundle, python);
        Err(Error::Failed("`script check` is not part of this build".to_owned()))
    }
}
