//! `walrelay config`: the configuration in effect.

use super::output;
use crate::{
    config::{self, Layers},
    error::{Error, Exit},
};

/// Prints it, then everything that is wrong with it.
pub(super) fn run(layers: &Layers) -> Result<Exit, Error> {
    output::print(&config::effective(layers))?;
    let problems = config::problems(layers, &[]);
    if problems.is_empty() { Ok(Exit::Success) } else { Err(Error::usage(config::Error::Problems(problems))) }
}
