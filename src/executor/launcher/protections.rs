//! Which protections this host gives: each is tried, in a process of its own.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use landlock::RulesetStatus;
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use super::{Stage, confine, isolate::NAMESPACES};

/// A protection of the host from scripts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// Its name.
    pub name: String,
    /// Whether scripts on this host run with it.
    pub active: bool,
    /// What it does, or why it is missing.
    pub reason: String,
}

/// Tries all protections through the launcher: its program, and its first arguments. Blocks for some milliseconds.
///
/// # Errors
/// If the launcher can't be run or answers nonsense.
pub fn protections(launcher: &[PathBuf]) -> io::Result<Vec<Protection>> {
    let (program, arguments) = launcher.split_first().ok_or_else(|| io::Error::other("no launcher is configured"))?;
    let mut command = Command::new(program);
    command.args(arguments).arg(Stage::Probe.as_str()).stdin(Stdio::null());
    Ok(serde_json::from_slice(&command.output()?.stdout)?)
}

/// Prints what [`protections`] reads.
pub(super) fn probe() -> u8 {
    // Before namespaces are tried: inside one, everybody is root.
    let root = nix::unistd::geteuid().is_root();
    let mut all = namespaces();
    let user_namespace = all.first().is_some_and(|first| first.active);
    let dropped = confine::drop_capabilities();
    all.push(found("capabilities", dropped, "scripts hold none", "they could not be dropped"));
    all.push(found(
        "process limit",
        !root && user_namespace,
        "RLIMIT_NPROC bounds a fork bomb",
        "RLIMIT_NPROC does not bind root, and needs a user namespace; run the node as another user",
    ));
    all.push(landlock());
    all.push(found("resource limits", true, "memory, file size, open files", ""));
    // Plain data: it can't fail to serialise.
    println!("{}", serde_json::to_string(&all).unwrap_or_default());
    0
}

fn namespaces() -> Vec<Protection> {
    let user = unshare(NAMESPACES | CloneFlags::CLONE_NEWUSER);
    let tried = [
        ("pid namespace", CloneFlags::CLONE_NEWPID, "no process of a script outlives the node"),
        ("network namespace", CloneFlags::CLONE_NEWNET, "scripts reach no network"),
        ("mount namespace", CloneFlags::CLONE_NEWNS, "scripts see their own /proc"),
    ];
    let mut all = vec![protection("user namespace", user.map_err(io::Error::from), "scripts have no rights outside")];
    for (name, flag, what) in tried {
        // Those made together with the user namespace are there already.
        let result = if user.is_ok() { Ok(()) } else { unshare(flag).map_err(io::Error::from) };
        all.push(protection(name, result, what));
    }
    all
}

fn landlock() -> Protection {
    let nowhere: [&Path; 0] = [];
    let result = match confine::restrict(nowhere.into_iter(), nowhere.into_iter()) {
        Ok(status) if status.ruleset != RulesetStatus::NotEnforced => Ok(()),
        Ok(_) => Err(io::Error::other("the kernel does not have it, or it is not enabled at boot")),
        Err(error) => Err(io::Error::other(error)),
    };
    protection("landlock", result, "scripts read and write their own files alone")
}

fn protection(name: &str, result: io::Result<()>, what: &str) -> Protection {
    let active = result.is_ok();
    let reason = result.map_or_else(|error| error.to_string(), |()| what.to_owned());
    Protection { name: name.to_owned(), active, reason }
}

fn found(name: &str, active: bool, what: &str, why_not: &str) -> Protection {
    let reason = if active { what } else { why_not };
    Protection { name: name.to_owned(), active, reason: reason.to_owned() }
}
