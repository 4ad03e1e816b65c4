//! The `atlas-node` program. Everything is in the library.

use std::{env, process::ExitCode};

use atlas_node::{cli, executor::launcher};

/// Small blocks of two threads per stream are what a node allocates most; the system's allocator costs a quarter of the
/// transfer speed there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The launcher stands between the node and a script: it starts no runtime and parses no command line of ours.
    let mut arguments = env::args_os().skip(1);
    match arguments.next() {
        Some(command) if command == launcher::COMMAND => launcher::main(arguments),
        _ => cli::main(),
    }
}
