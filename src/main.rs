//! `walrelay`: parse the command line, run the command, report its end.

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;
use walrelay::{cli, error::Exit};

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(cli::run(cli::Cli::parse())).await {
        Ok(exit) => exit.into(),
        Err(error) => {
            // nothing is left to report to when standard error is gone
            let _ = std::io::stderr().write_all(error.report().as_bytes());
            Exit::into(error.exit())
        }
    }
}
