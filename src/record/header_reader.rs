//! The headers that a reader of records obeys.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};

use super::{error::DecodeError, header, source::position_of_header};
use crate::{
    event::{Barrier, Resync, Sweep},
    lsn::Position,
};

/// What a record's headers say beside its Avro bytes.
#[derive(Debug, Default)]
pub(super) struct Headers {
    /// Columns that the server did not send.
    pub(super) unchanged: Vec<String>,
    pub(super) texts: Option<Texts>,
    pub(super) position: Option<Position>,
    pub(super) barrier: Option<Barrier>,
    /// The resync that its table was in.
    pub(super) resync: Option<Resync>,
    /// The end of a resync.
    pub(super) sweep: Option<Box<Sweep>>,
    /// Its row may still be to come.
    pub(super) backfilling: bool,
    /// The record is one half of a key move.
    pub(super) key_move: bool,
}

/// Texts in place of what Avro could not hold.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Texts {
    #[serde(default)]
    pub(super) before: NamedTexts,
    #[serde(default)]
    pub(super) after: NamedTexts,
}

/// Texts by column; none is NULL in a field that has no null.
pub(super) type NamedTexts = BTreeMap<String, Option<String>>;

impl Headers {
    /// Reads those that are known; the others are other consumers'.
    pub(super) fn read<'a>(
        topic: &str,
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, DecodeError> {
        let mut read = Self::default();
        for (name, value) in headers {
            match name {
                header::UNCHANGED => read.unchanged = json(topic, header::UNCHANGED, value)?,
                header::TEXT => read.texts = Some(json(topic, header::TEXT, value)?),
                header::BARRIER => read.barrier = Some(json(topic, header::BARRIER, value)?),
                header::SWEEP => read.sweep = Some(json(topic, header::SWEEP, value)?),
                header::RESYNC => {
                    let resync = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    read.resync = Some(resync.ok_or_else(|| unreadable(topic, header::RESYNC))?);
                }
                header::POSITION => {
                    let position = std::str::from_utf8(value).ok().and_then(position_of_header);
                    read.position = Some(position.ok_or_else(|| unreadable(topic, header::POSITION))?);
                }
                header::BACKFILLING => read.backfilling = true,
                header::NEW_KEY | header::OLD_KEY => read.key_move = true,
                _ => {}
            }
        }
        Ok(read)
    }
}

fn json<T: DeserializeOwned>(topic: &str, header: &'static str, value: &[u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(value).map_err(|_| unreadable(topic, header))
}

/// The error for a header's content.
pub(super) fn unreadable(topic: &str, header: &'static str) -> DecodeError {
    DecodeError::Header { topic: topic.to_owned(), header }
}
