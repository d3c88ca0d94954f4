//! `walrelay verify`.

use std::time::Duration;

use clap::Args;

use super::{output, settings, shutdown};
use crate::{
    config::{self, Layers, Period, VerifyConfig},
    error::{Error, Exit},
    pipeline::{
        applied::is_applied,
        verify::{self, Bookkeeping, Options},
    },
    schema::TableName,
    source::publication::TablePatterns,
    telemetry,
};

/// What to compare and how to show it.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only these tables (schema.table); without any, all that are published and applied
    #[arg(value_parser = table_name)]
    tables: Vec<TableName>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Tables that are compared at a time
    #[arg(long, value_name = "N", default_value_t = 2)]
    parallel: usize,
    /// Differing rows of each kind to list per table
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Show the values of differing columns, not only their names
    #[arg(long)]
    values: bool,
    /// How long to wait for the source's snapshot, and for apply
    #[arg(long, value_name = "PERIOD", default_value = "60s", value_parser = period)]
    timeout: Duration,
}

/// Compares and prints; a difference makes the exit code [`Exit::Differs`].
pub(super) async fn run(layers: &Layers, arguments: Arguments) -> Result<Exit, Error> {
    let config = VerifyConfig::new(layers).map_err(Error::usage)?;
    telemetry::init(config.log.format, &config.log.level);
    let applied = TablePatterns::new(&config.apply.include, &config.apply.exclude).map_err(Error::usage)?;
    let captured = settings::publication(&config.capture).map_err(Error::usage)?.tables;
    let names = settings::topic_names(&config.kafka, Some(&config.source.database));
    let followed = |source: &TableName| captured.matches(source) && is_applied(&applied, &names, source);
    let target_table = |source: &TableName| followed(source).then(|| settings::place(&config.apply, source));
    // a name that is too long was refused by capture, so it has no topic to wait for
    let topic = |source: &TableName| names.of_table(source).unwrap_or_default();
    let options = Options {
        source: config.source.clone(),
        target: config.target.clone(),
        publication: config.capture.publication.clone(),
        tables: arguments.tables,
        target_table: &target_table,
        topic: &topic,
        masks: settings::masks(&config.capture).map_err(Error::usage)?,
        bookkeeping: Bookkeeping {
            schema: config.apply.bookkeeping_schema.clone(),
            instance: config.apply.group.clone(),
        },
        kafka: (!config.kafka.brokers.is_empty()).then(|| settings::kafka(&config.kafka)),
        timeout: arguments.timeout,
        parallel: arguments.parallel.max(1),
        limit: arguments.limit,
        show_values: arguments.values,
    };
    let report = verify::run(&options, shutdown::requested()?).await?;
    let text = if arguments.json { format!("{:#}\n", serde_json::json!(report)) } else { format!("{report}\n") };
    output::print(&text)?;
    Ok(if report.equal { Exit::Success } else { Exit::Differs })
}

fn table_name(text: &str) -> Result<TableName, String> {
    let (schema, table) = text.split_once('.').ok_or("a table is named as schema.table")?;
    Ok(TableName::new(schema, table))
}

fn period(text: &str) -> Result<Duration, config::ParseError> {
    text.parse::<Period>().map(|period| period.0)
}
