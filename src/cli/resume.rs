//! `walrelay resume`: asks the running capture to try stopped tables again, through the source's log.

use clap::Args;

use super::{
    output,
    resync::{table_name, told},
};
use crate::{
    config::{Layers, ResyncConfig},
    error::{Error, Exit},
    schema::TableName,
    source::{
        catalog,
        signal::{self, Kind, Signal},
    },
    telemetry,
};

/// What is to go on.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The tables (schema.table); without any, all that have stopped
    #[arg(value_parser = table_name)]
    tables: Vec<TableName>,
}

/// Sends what is asked for.
pub(super) async fn run(layers: &Layers, arguments: Arguments) -> Result<Exit, Error> {
    let config = ResyncConfig::new(layers).map_err(Error::usage)?;
    telemetry::init(config.log.format, &config.log.level);
    let client = catalog::connect(&config.source, "walrelay resume").await?;
    signal::must_be_taken(&client).await?;
    let tables = arguments.tables.iter().map(ToString::to_string).collect();
    let slot = Some(config.capture.slot.clone());
    let signal = Signal { kind: Kind::ResumeTables, slot, tables, conditions: Vec::new() };
    let lsn = signal::send(&client, &signal).await?;
    let page = &config.page;
    let follow = if page == "off" { String::new() } else { format!(" and on its status page (http://{page}/)") };
    output::print(&format!(
        "asked for at {lsn}: {}\ncapture takes it up when its stream comes there; what stops once more is in its log{follow}\n",
        told(&signal)
    ))?;
    Ok(Exit::Success)
}
