//! The `atlas-node` program: its allocator, and the choice between the launcher and the command line. Everything else is in the
//! library.

use std::{
    env,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use atlas_node::{cli, executor::launcher};

/// Small blocks of two threads per stream are what a node allocates most; the system's allocator costs a quarter of the
/// transfer speed there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// After how many milliseconds the allocator gives freed memory back to the system; it reads them from the environment before
/// anything of ours runs.
const GIVE_BACK: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "20");
/// The command whose process lives long.
const START: &str = "start";

fn main() -> ExitCode {
    // The launcher stands between the node and a script: it starts no runtime and parses no command line of ours.
    let mut arguments = env::args_os().skip(1);
    match arguments.next() {
        Some(command) if command == launcher::COMMAND => launcher::main(arguments),
        _ => {
            if env::args_os().any(|argument| argument == START) && env::var_os(GIVE_BACK.0).is_none() {
                start_anew();
            }
            cli::main()
        }
    }
}

/// Replaces this process by the same with [`GIVE_BACK`] in its environment. By default freed memory waits a second, in which a
/// transfer frees some 10 MiB. Returns if that can't be done: the node then only holds that much more.
fn start_anew() {
    let mut arguments = env::args_os();
    let (Ok(program), Some(name)) = (env::current_exe(), arguments.next()) else { return };
    let _failed = Command::new(program).arg0(name).args(arguments).env(GIVE_BACK.0, GIVE_BACK.1).exec();
}
