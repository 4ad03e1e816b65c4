//! The `atlas-node` program.

use std::{env, process::ExitCode};

use atlas_node::executor::launcher;

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    match arguments.next() {
        Some(command) if command == launcher::COMMAND => launcher::main(arguments),
        _ => ExitCode::SUCCESS,
    }
}
