//! `completions`: for shells.

use clap::{Args, CommandFactory};

use super::{Cli, Error, Output};

/// Print a completion script; the shell's manual says where it goes.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Completions {
    /// Which shell.
    shell: clap_complete::Shell,
}

impl Completions {
    pub(super) fn run(self, output: &mut Output) -> Result<(), Error> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "atlas-node", &mut script);
        Ok(output.text(&String::from_utf8_lossy(&script))?)
    }
}
