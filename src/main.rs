//! `walrelay`: parse the command line, run the command, report its end.

use std::{io::Write as _, process::ExitCode, time::Duration};

use clap::Parser as _;
use tokio::runtime::Runtime;
use walrelay::{cli, error::Exit};

/// How long blocking work, such as a commit that a dead broker never answers, may hold up the end.
const PATIENCE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let command = cli::Cli::parse();
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("error: cannot start threads\ncause: {error}\n"), Exit::Fatal),
    };
    let outcome = runtime.block_on(Box::pin(cli::run(command)));
    runtime.shutdown_timeout(PATIENCE);
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => fail(&error.report(), error.exit()),
    }
}

fn fail(report: &str, exit: Exit) -> ExitCode {
    // nothing is left to report to when standard error is gone
    let _ = std::io::stderr().write_all(report.as_bytes());
    exit.into()
}
