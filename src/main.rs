//! The `sweeper` binary. Everything is in the library; see its documentation.

use std::process::ExitCode;

fn main() -> ExitCode {
    audio_cache_sweeper::cli::main()
}
