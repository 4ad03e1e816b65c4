//! Second stage: the parent of the script. Its end is the end of all that the script started.

use std::{
    fs, io,
    io::Read,
    os::unix::process::CommandExt,
    path::Path,
    process::{self, Stdio},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::{
        signal::{Signal, kill, killpg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use rustix::process::set_child_subreaper;

use super::{Error, Stage, next_stage};

/// A byte on the pipe from the node.
pub(in crate::executor) mod order {
    /// SIGUSR1 to the script's group.
    pub(in crate::executor) const CHECKPOINT: u8 = b'U';
    /// SIGTERM to the script's group.
    pub(in crate::executor) const TERMINATE: u8 = b'T';
    /// The end of everything, at once.
    pub(in crate::executor) const KILL: u8 = b'K';
}

/// What `init` exits with when it was ordered to end everything: as if by SIGKILL.
const KILLED: i32 = 137;
/// Times that descendants are looked for and killed: a fork bomb outruns a few. With the pause, ten seconds; what the
/// kernel can't kill in that time hangs in the kernel.
const MAX_SWEEPS: usize = 10_000;
/// Between two of them.
const SWEEP_PAUSE: Duration = Duration::from_millis(1);

/// Starts the script, obeys the node, reaps, and returns the script's exit code.
pub(super) fn run(spec: &Path) -> Result<u8, Error> {
    // No parent-death signal: should `isolate` be killed, the node sees it and closes the pipe, and there is still time
    // to end the others.
    let _ = set_child_subreaper(Some(rustix::process::getpid()));
    if is_first() {
        own_proc();
    }
    let child =
        next_stage(Stage::Confine, spec).stdin(Stdio::null()).process_group(0).spawn().map_err(Error::NextStage)?;
    // A process id fits: the kernel's largest is 2^22.
    let script = Pid::from_raw(child.id().cast_signed());
    thread::Builder::new().spawn(move || obey(script)).map_err(Error::NextStage)?;
    let code = reap_until(script)?;
    kill_descendants();
    Ok(code)
}

/// Whether this is the first process of a PID namespace.
fn is_first() -> bool {
    process::id() == 1
}

/// A `/proc` that shows this namespace alone. Some hosts refuse it; then the script sees names of other processes, and
/// can do nothing to them.
fn own_proc() {
    let none: Option<&str> = None;
    let _ = mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let _ = mount(Some("proc"), "/proc", Some("proc"), flags, none);
}

/// Reads orders until the node is gone, and then ends everything.
fn obey(script: Pid) {
    let mut pipe = io::stdin().lock();
    let mut byte = [0];
    while let Ok(1) = pipe.read(&mut byte) {
        match byte[0] {
            order::CHECKPOINT => drop(killpg(script, Signal::SIGUSR1)),
            order::TERMINATE => drop(killpg(script, Signal::SIGTERM)),
            _ => break,
        }
    }
    kill_descendants();
    process::exit(KILLED);
}

/// Waits for the script, and for whatever else ends before it.
fn reap_until(script: Pid) -> Result<u8, Error> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == script => return Ok(u8::try_from(code).unwrap_or(u8::MAX)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == script => {
                return Ok(u8::try_from(128 + signal as i32).unwrap_or(u8::MAX));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(Error::Wait(error.into())),
        }
    }
}

/// Where the kernel does not do it: kills descendants found through `/proc`, those that left the group or the session
/// too, because orphans come back to this process. A list of children may miss some while others end (proc(5)), so the
/// proof that none is left is that there is nobody to wait for.
fn kill_descendants() {
    if is_first() {
        return;
    }
    for _ in 0..MAX_SWEEPS {
        let mut found = children_of(process::id());
        let mut next = 0;
        while let Some(pid) = found.get(next).copied() {
            // One that is gone already is no failure.
            let _ = kill(pid, Signal::SIGKILL);
            found.extend(children_of(pid.as_raw().cast_unsigned()));
            next += 1;
        }
        if reap_the_dead() {
            return;
        }
        thread::park_timeout(SWEEP_PAUSE);
    }
}

/// Reaps what has ended; true if there are no children left.
fn reap_the_dead() -> bool {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return false,
            Err(Errno::ECHILD) => return true,
            Ok(_) | Err(_) => {}
        }
    }
}

fn children_of(pid: u32) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    let parse = |list: String| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>();
    lists.flat_map(parse).map(Pid::from_raw).collect()
}
