//! The command line: each command maps the configuration to the settings of what it runs.

mod apply;
mod capture;
mod check;
mod config;
pub mod demo;
mod half;
mod output;
mod resume;
mod resync;
mod settings;
mod shutdown;
mod verify;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use crate::{
    config::Layers,
    error::{Error, Exit},
};

const DEFAULT_FILE: &str = "walrelay.toml";

const EXIT_CODES: &str = "\
Exit codes:
  0    done, or stopped in an orderly way by SIGTERM or SIGINT
  1    verify found differences, or check found a problem
  2    the command line or the configuration is wrong
  3    the work cannot go on without somebody's help
  130  a second signal cut the orderly stop short

Every value of the configuration can be set by environment variable: WALRELAY_SOURCE__HOST is source.host.";

/// Log-based change data capture for PostgreSQL: WAL to Kafka as Debezium-compatible Avro, and back into PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = "walrelay", version, about, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Cli {
    /// Configuration file [default: walrelay.toml, if there is one]
    #[arg(long, global = true, env = "WALRELAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read the source's WAL and publish every change, until SIGTERM or SIGINT
    Capture,
    /// Replay the topics into the target, until SIGTERM or SIGINT
    Apply,
    /// Compare source and target exactly at one LSN, while both go on
    Verify(verify::Arguments),
    /// Have the running capture read tables again while it streams; rows that the source does not have go at the targets then
    Resync(resync::Arguments),
    /// Have the running capture try stopped tables again, without a restart
    Resume(resume::Arguments),
    /// Look at every prerequisite on source, Kafka, registry and target, and say what fixes what is wrong
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the configuration in effect, with secrets masked and the origin of each value
    Config,
    /// Show both halves at work between two real servers: killed under load, and equal at the end
    Demo(demo::Args),
}

/// Runs the command.
pub async fn run(cli: Cli) -> Result<Exit, Error> {
    let layers = || Layers::read(file(cli.config.as_deref()), environment()).map_err(Error::usage);
    match cli.command {
        Command::Capture => capture::run(&layers()?).await,
        Command::Apply => apply::run(&layers()?).await,
        Command::Verify(arguments) => verify::run(&layers()?, arguments).await,
        Command::Resync(arguments) => resync::run(&layers()?, arguments).await,
        Command::Resume(arguments) => resume::run(&layers()?, arguments).await,
        Command::Check { json } => check::run(&layers()?, json).await,
        Command::Config => config::run(&layers()?),
        Command::Demo(args) => Ok(if demo::run(args).await? { Exit::Success } else { Exit::Differs }),
    }
}

/// The named file; else the default one if it exists, since the environment can say everything too.
fn file(named: Option<&Path>) -> Option<&Path> {
    named.or_else(|| Some(Path::new(DEFAULT_FILE)).filter(|file| file.exists()))
}

/// The environment; what is not text cannot be a value.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_named_file_is_read_even_when_it_is_missing() {
        assert_eq!(file(Some(Path::new("/nonexistent.toml"))), Some(Path::new("/nonexistent.toml")));
    }
}
