//! Whether the server is asked for values in binary or as text.
//!
//! `binary` holds for a whole stream (PROTOCOL, 7), so it is asked for where every column of every captured table has a type
//! that is read in binary. A table may get another column while the stream runs, or have had one when older WAL was written:
//! the session ends at its first value, and the ones after it ask for text as long as the process lives. That is not recorded:
//! a later process comes to the same by itself. Positions count events, so the format changes none.
//!
//! A snapshot asks for each table's values by itself, under the same rule.

use super::{Error, settings::CaptureSettings, tables::Tables};
use crate::{
    postgres,
    record::EncodeError,
    schema::Relation,
    source::{catalog::PublishedTable, connection::StreamOptions, snapshot::CopyFormat},
    types::BinaryCodec,
};

/// The first server version whose `pgoutput` knows the option.
const SINCE: u32 = 140_000;

/// The options of a stream of these tables.
pub(super) fn stream_options(
    settings: &CaptureSettings,
    client: &postgres::Client,
    published: &[PublishedTable],
    tables: &Tables,
) -> StreamOptions {
    let binary = may_be_binary(settings, client, tables) && published.iter().all(|table| is_read(&table.relation));
    tracing::info!(format = if binary { "binary" } else { "text" }, "values are asked for");
    StreamOptions { binary, ..StreamOptions::default() }
}

/// The format in which a snapshot reads rows of a table.
pub(super) fn copy_format(
    settings: &CaptureSettings,
    client: &postgres::Client,
    relation: &Relation,
    tables: &Tables,
) -> CopyFormat {
    let binary = may_be_binary(settings, client, tables) && is_read(relation);
    if binary { CopyFormat::Binary } else { CopyFormat::Text }
}

fn may_be_binary(settings: &CaptureSettings, client: &postgres::Client, tables: &Tables) -> bool {
    settings.binary && client.server_version() >= SINCE && !tables.are_read_as_text()
}

fn is_read(relation: &Relation) -> bool {
    relation.columns.iter().all(|column| BinaryCodec::of_column(&column.ty).is_some())
}

/// Notes what a session ended with: after a value that is read as text only, the next ones ask for text.
pub(super) fn note(error: &Error, tables: &Tables) {
    if matches!(error, Error::Record(EncodeError::Binary { .. })) {
        tables.read_as_text();
    }
}
