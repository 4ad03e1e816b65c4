//! First stage: new namespaces for what comes after.

use std::{
    fs, io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitStatus, Stdio},
};

use nix::sched::{CloneFlags, unshare};

use super::{Error, Stage, next_stage};

/// All that can be had without being root.
pub(super) const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWPID
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS);

/// Isolates as far as the host allows, then waits for the next stage, which shares the pipe from the node.
pub(super) fn run(spec: &Path) -> Result<u8, Error> {
    // What is refused is reported by `protections`, not here: the script runs all the same.
    let _ = isolate();
    let mut child = next_stage(Stage::Init, spec).stdin(Stdio::inherit()).spawn().map_err(Error::NextStage)?;
    Ok(code_of(child.wait().map_err(Error::Wait)?))
}

/// A new user namespace first, because it gives the right to make the others; root can do without it.
pub(super) fn isolate() -> io::Result<()> {
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    if unshare(NAMESPACES | CloneFlags::CLONE_NEWUSER).is_ok() {
        return map_ids(user.as_raw(), group.as_raw());
    }
    Ok(unshare(NAMESPACES)?)
}

/// Inside, the node's user is root: of this namespace, and only until `confine` drops all capabilities.
fn map_ids(user: u32, group: u32) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

/// The exit code, or 128 plus the signal's number, as shells do it.
pub(super) fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
