//! `walrelay resync`: asks the running capture to read tables again, through the source's log.

use clap::Args;

use super::{output, settings};
use crate::{
    config::{Layers, RecordsKind, ResyncConfig},
    error::{Error, Exit},
    event::Condition,
    retry::{Classify, Severity},
    schema::TableName,
    source::{
        catalog, condition,
        key_columns::KeyColumns,
        publication::TablePatterns,
        signal::{self, Kind, Signal},
    },
    telemetry,
};

/// What to read again.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The tables (schema.table)
    #[arg(value_parser = table_name, required_unless_present_any = ["pause", "resume", "stop"])]
    tables: Vec<TableName>,
    /// Only rows for which this holds: comparisons of key columns with values, joined by AND
    #[arg(long = "where", value_name = "CONDITION", value_parser = conditions, conflicts_with_all = ["pause", "resume", "stop"])]
    condition: Option<Conditions>,
    /// Read nothing more for now
    #[arg(long, conflicts_with_all = ["tables", "resume", "stop"])]
    pause: bool,
    /// Go on reading
    #[arg(long, conflicts_with_all = ["tables", "stop"])]
    resume: bool,
    /// Give up reading these tables again, or all: their rows at the targets stay as they are
    #[arg(long)]
    stop: bool,
}

#[derive(Clone, Debug)]
struct Conditions(Vec<Condition>);

/// The configuration leaves no form for it.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("[format] own_headers = false: no record tells of a resync")]
    Headers,
    #[error("[format] records = \"flat\": no record tells of a resync")]
    Flat,
    #[error("[capture] origin = \"none\": the stream leaves out changes that move rows")]
    Origin,
    #[error("table {0} is excluded by [capture] include and exclude")]
    Excluded(TableName),
    #[error("column {1} of table {0} is masked: rows cannot be chosen by it")]
    Masked(TableName, String),
}

impl Classify for Refusal {
    fn severity(&self) -> Severity {
        Severity::Fatal
    }

    fn hint(&self) -> Option<String> {
        let snapshot = "A new snapshot reads all tables: drop the slot and set [capture] on_gap = \"resnapshot\".";
        (!matches!(self, Self::Excluded(_) | Self::Masked(..))).then(|| snapshot.to_owned())
    }
}

/// Checks what is asked for, and sends it.
pub(super) async fn run(layers: &Layers, arguments: Arguments) -> Result<Exit, Error> {
    let config = ResyncConfig::new(layers).map_err(Error::usage)?;
    telemetry::init(config.log.format, &config.log.level);
    let client = catalog::connect(&config.source, "walrelay resync").await?;
    signal::must_be_taken(&client).await?;
    let tables = arguments.tables.iter().map(ToString::to_string).collect();
    let plain = |kind| Signal { kind, slot: None, tables, conditions: Vec::new() };
    let signal = match (arguments.pause, arguments.resume, arguments.stop) {
        (true, ..) => plain(Kind::Pause),
        (_, true, _) => plain(Kind::Resume),
        (.., true) => plain(Kind::Stop),
        _ => {
            check(&config, &arguments.tables)?;
            let conditions = arguments.condition.as_ref().map_or(&[][..], |conditions| &conditions.0);
            must_be_plain(&config, &arguments.tables, conditions)?;
            let keys = KeyColumns::new(&config.capture.key_columns);
            signal::resync(&client, (&config.capture.publication, &keys), &arguments.tables, conditions).await?
        }
    };
    let signal = Signal { slot: Some(config.capture.slot.clone()), ..signal };
    let lsn = signal::send(&client, &signal).await?;
    let page = &config.page;
    let follow = if page == "off" { String::new() } else { format!(", on its status page (http://{page}/)") };
    output::print(&format!(
        "asked for at {lsn}: {}\ncapture takes it up when its stream comes there; it tells how far it is in its log{follow} and by the metric walrelay_capture_snapshot_chunks\n",
        told(&signal)
    ))?;
    Ok(Exit::Success)
}

/// What the configuration alone tells.
fn check(config: &ResyncConfig, tables: &[TableName]) -> Result<(), Error> {
    if config.format.records == RecordsKind::Flat {
        return Err(Error::usage(Refusal::Flat));
    }
    if !config.format.own_headers {
        return Err(Error::usage(Refusal::Headers));
    }
    if config.capture.origin == crate::config::Origins::None {
        return Err(Error::usage(Refusal::Origin));
    }
    let captured = TablePatterns::new(&config.capture.include, &config.capture.exclude).map_err(Error::usage)?;
    match tables.iter().find(|table| !captured.matches(table)) {
        Some(table) => Err(Error::usage(Refusal::Excluded(table.clone()))),
        None => Ok(()),
    }
}

/// A condition is published as it is, and targets have other values than it says.
fn must_be_plain(config: &ResyncConfig, tables: &[TableName], conditions: &[Condition]) -> Result<(), Error> {
    let masks = settings::masks(&config.capture).map_err(Error::usage)?;
    let mut named = tables.iter().flat_map(|table| conditions.iter().map(move |condition| (table, &condition.column)));
    match named.find(|(table, column)| masks.hides(table, column)) {
        Some((table, column)) => Err(Error::usage(Refusal::Masked(table.clone(), column.clone()))),
        None => Ok(()),
    }
}

/// The signal in words.
pub(super) fn told(signal: &Signal) -> String {
    let tables = if signal.tables.is_empty() { "all tables".to_owned() } else { signal.tables.join(", ") };
    match signal.kind {
        Kind::Pause => "to pause reading tables again".to_owned(),
        Kind::Resume => "to go on reading tables again".to_owned(),
        Kind::ResumeTables => format!("to try again {tables}"),
        Kind::Stop => format!("to give up reading again {tables}"),
        Kind::Resync => {
            let conditions: Vec<_> = signal.conditions.iter().map(condition::text).collect();
            let rows =
                if conditions.is_empty() { String::new() } else { format!(" where {}", conditions.join(" AND ")) };
            format!("to read again {tables}{rows}")
        }
    }
}

pub(super) fn table_name(text: &str) -> Result<TableName, String> {
    let (schema, table) = text.split_once('.').ok_or("a table is named as schema.table")?;
    Ok(TableName::new(schema, table))
}

fn conditions(text: &str) -> Result<Conditions, condition::ParseConditionError> {
    condition::parse(text).map(Conditions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Comparison;

    #[test]
    fn what_is_sent_is_told_as_the_server_reads_it() {
        let condition = Condition { column: "id".to_owned(), comparison: Comparison::AtLeast, value: "5".to_owned() };
        let signal = |kind, tables: &[&str], conditions| Signal {
            kind,
            slot: None,
            tables: tables.iter().map(ToString::to_string).collect(),
            conditions,
        };
        let resync = signal(Kind::Resync, &["public.a", "public.b"], vec![condition]);
        assert_eq!(told(&resync), "to read again public.a, public.b where \"id\" >= '5'");
        assert_eq!(told(&signal(Kind::Stop, &[], Vec::new())), "to give up reading again all tables");
    }
}
