//! The program `onsale`, as its own crate starts it.

use std::process::ExitCode;

fn main() -> ExitCode {
    onsale::cli::main()
}
