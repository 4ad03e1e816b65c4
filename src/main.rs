//! The `atlas-node` program. Everything is in the library.

/// Small blocks of two threads per stream are what a node allocates most; the system's allocator costs a quarter of the
/// transfer speed there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    atlas_node::cli::main()
}
