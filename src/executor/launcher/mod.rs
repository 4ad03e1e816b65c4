//! Stands between the node and a script: the same executable run again, as `atlas-node __launch`.
//!
//! It is a chain of three processes, each a few lines of safe calls, because each thing can be done at one place only:
//! 1. `isolate` makes new user, PID, mount, network, IPC and host-name namespaces, where the host lets it. A new PID
//!    namespace holds for children alone, hence
//! 2. `init`, the first process in it: when it ends, the kernel ends all others. It watches a pipe from the node: a
//!    byte is an order, end of file means that the node is gone, even by `kill -9`. It reaps orphans. Where there is no
//!    PID namespace it is the reaper of all descendants and kills them one by one.
//! 3. `confine` sets resource limits, drops capabilities, restricts files and TCP with Landlock, and becomes the
//!    script by `exec`.
//!
//! The first two hold no rights that the script could use: they read one file that the script can't write, and talk to
//! nobody. What a host lacks is left out and told by [`protections()`]; a script runs all the same.

mod confine;
pub(in crate::executor) mod init;
mod isolate;
mod protections;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use serde::{Deserialize, Serialize};

pub use protections::{Protection, protections};

/// The hidden command under which the node's executable is the launcher.
pub const COMMAND: &str = "__launch";

/// Exit code of the launcher when it could not start the script, as `env(1)` and `timeout(1)` have it.
pub(super) const EXIT_FAILED: u8 = 125;

/// What to start, and within which limits. Written by the node to a file that the script can't write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The program, an absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: BTreeMap<String, String>,
    /// Its current directory.
    pub directory: PathBuf,
    /// Files and directories that it may read and execute, beside the system's libraries.
    pub readable: Vec<PathBuf>,
    /// Directories below which it may also write.
    pub writable: Vec<PathBuf>,
    /// Resource limits.
    pub limits: Limits,
}

/// Resource limits of each process of a task (`setrlimit(2)`). 0 leaves a limit as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of address space.
    pub address_space: u64,
    /// Bytes of the longest file that it may write.
    pub file_size: u64,
    /// Open files.
    pub open_files: u64,
    /// Processes and threads of the user inside the namespace. Does not bind root.
    pub processes: u64,
}

/// A step of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Isolate,
    Init,
    Confine,
    Probe,
}

impl Stage {
    const ALL: [Self; 4] = [Self::Isolate, Self::Init, Self::Confine, Self::Probe];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Isolate => "isolate",
            Self::Init => "init",
            Self::Confine => "confine",
            Self::Probe => "probe",
        }
    }
}

/// Why a stage could not do its work.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("usage: {COMMAND} STAGE SPEC")]
    Usage,
    #[error("the specification can't be read")]
    Spec(#[source] io::Error),
    #[error("the next stage can't be started")]
    NextStage(#[source] io::Error),
    #[error("`{0}` can't be started")]
    Program(PathBuf, #[source] io::Error),
    #[error("the limit of {0} can't be set")]
    Limit(&'static str, #[source] io::Error),
    #[error("waiting for the script failed")]
    Wait(#[source] io::Error),
}

/// What `atlas-node __launch ARGUMENTS…` does. Must be called before any thread is started. The exit code is the
/// script's; 128 plus its number if a signal ended it; 125 if the launcher failed, which it explains on standard error.
#[must_use]
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    match run(&arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            eprintln!("launcher: {error}{source}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn run(arguments: &[OsString]) -> Result<u8, Error> {
    let (stage, path) = match arguments {
        [stage] => (stage, Path::new("")),
        [stage, path] => (stage, Path::new(path)),
        _ => return Err(Error::Usage),
    };
    let stage = Stage::ALL.into_iter().find(|known| stage == known.as_str()).ok_or(Error::Usage)?;
    match stage {
        Stage::Isolate => isolate::run(path),
        Stage::Init => init::run(path),
        Stage::Confine => confine::run(&Spec::read(path)?),
        Stage::Probe => Ok(protections::probe()),
    }
}

impl Spec {
    /// Writes it where [`arguments`] will point to.
    ///
    /// # Errors
    /// If the file can't be written, or a path is not UTF-8.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_vec(self)?)
    }

    fn read(path: &Path) -> Result<Self, Error> {
        let bytes = fs::read(path).map_err(Error::Spec)?;
        serde_json::from_slice(&bytes).map_err(|error| Error::Spec(error.into()))
    }
}

/// This executable as the launcher: its path, and its first argument.
///
/// # Errors
/// If the path can't be found out.
pub fn of_this_executable() -> io::Result<Vec<PathBuf>> {
    Ok(vec![std::env::current_exe()?, COMMAND.into()])
}

/// The arguments, after [`COMMAND`], that start the chain for the specification at `path`.
#[must_use]
pub fn arguments(path: &Path) -> [OsString; 2] {
    [Stage::Isolate.as_str().into(), path.into()]
}

/// This executable again, as another stage. `/proc/self/exe` is this very file, even if it was replaced on disk.
fn next_stage(stage: Stage, path: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(COMMAND).arg(stage.as_str()).arg(path);
    command
}
