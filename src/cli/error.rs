//! What ends a command, with its exit code.

use std::{io, path::PathBuf};

use super::output::printable;
use crate::{
    api::client,
    chain::abci::{self, local::LocalError, supervise::SuperviseError, voter::VoterError},
    config, node, submit,
};

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node could not be asked, or said no.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The node did not start or could not go on.
    #[error(transparent)]
    Node(#[from] node::Error),
    /// The job file is wrong.
    #[error(transparent)]
    Job(#[from] submit::Error),
    /// The ledger does not run as an application of CometBFT.
    #[error(transparent)]
    Ledger(#[from] abci::Error),
    /// The files of a chain are not there, or can't be made.
    #[error(transparent)]
    Chain(#[from] LocalError),
    /// The directory is none of a validator who could vote.
    #[error(transparent)]
    Voter(#[from] VoterError),
    /// A validator does not run.
    #[error(transparent)]
    Validator(#[from] SuperviseError),
    /// A file that the command line names can't be used.
    #[error("{} can't be used", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An argument or an input file is not what it should be.
    #[error("{0}")]
    Input(String),
    /// The thing asked for did not come true.
    #[error("{0}")]
    Failed(String),
    /// A job ended without its result, or the test network did not do what it was asked.
    #[error("{0}")]
    JobFailed(String),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// stdout can't be written.
    #[error("stdout can't be written")]
    Output(#[from] io::Error),
    /// No threads, no timers.
    #[error("the runtime could not start")]
    Runtime(#[source] io::Error),
}

impl Error {
    /// 1 refused or broken, 2 wrong flag, setting or input, 3 no node runs, 4 the job or the test network failed,
    /// 130 interrupted (128 + SIGINT). A reader that closed the pipe has what it wanted: 0.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Client(client::Error::NotRunning { .. }) => 3,
            Self::Client(_) | Self::Node(_) | Self::Failed(_) | Self::Output(_) | Self::Runtime(_) => 1,
            Self::Ledger(_) | Self::Validator(_) => 1,
            Self::Config(_) | Self::Job(_) | Self::File { .. } | Self::Input(_) | Self::Chain(_) | Self::Voter(_) => 2,
            Self::JobFailed(_) => 4,
            Self::Interrupted => 130,
        }
    }

    /// Prints the error with its causes to stderr.
    pub(super) fn report(&self) {
        if self.exit_code() == 0 {
            return;
        }
        let mut text = format!("error: {self}");
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text.push_str(&format!("\n  because: {cause_text}"));
            }
            source = cause.source();
        }
        eprintln!("{}", printable(text));
    }
}
