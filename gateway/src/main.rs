//! The program: the command line, the log, and the exit code. Everything else is in the library.

use std::io::Write;
use std::process::ExitCode;
use tidegate::cli::{self, Exit, Start};
use tidegate::{config, logging};

fn main() -> ExitCode {
    cli::run(std::env::args_os(), serve).into()
}

/// `tidegate run`.
fn serve(start: Start) -> Exit {
    if let Err(error) = logging::start(start.log.as_deref()) {
        // Nobody is left to tell when standard error is gone.
        let _ = writeln!(std::io::stderr(), "error: {error}");
        return Exit::Usage;
    }
    let file = start.file;
    match tidegate::run(start.config, || config::load(file.as_deref())) {
        Ok(()) => Exit::Well,
        Err(error) => {
            tracing::error!("{error}");
            Exit::Failure
        }
    }
}
