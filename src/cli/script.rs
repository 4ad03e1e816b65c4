//! `script check` for whoever writes a bundle, and the hidden `__launch` that starts one in its sandbox.

use std::path::PathBuf;

use clap::{Args, Subcommand};

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

/// What the node tells the launcher.
#[derive(Debug, Args)]
pub(super) struct Launch {
    /// Passed on as it is.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<std::ffi::OsString>,
}

impl Launch {
    pub(super) fn run(self) -> Result<(), Error> {
        let _ = self.arguments;
        Err(Error::Failed("the launcher is not part of this build".to_owned()))
    }
}
