//! `onsale`: every service and every tool in one command.

use std::process::ExitCode;

/// Batches allocate and free many small pieces on many threads. This allocator gives that
/// memory back, and is faster at it than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Everything else is in the library, so that nothing is compiled once more for the program.
    onsale::cli::main()
}
