//! What a snapshot that was cut has left to read, and whether that can be read beside the stream.

use std::collections::BTreeMap;

use super::{
    chunks::{LeafChunks, TableChunks},
    settings::{CaptureSettings, OriginFilter},
    state::State,
};
use crate::{
    avro::{content::OwnHeaders, flat::Records},
    postgres,
    record::{Encoder, KeyForm},
    source::{self, catalog::PublishedTable, chunk::Leaf, window},
};

/// Tables that are copied behind one snapshot: they are recorded together.
const MOST_COPIES: usize = 100;

/// A table that is not whole.
pub(super) struct Unread {
    pub(super) published: PublishedTable,
    /// What is recorded of it, with its leaves as they are now.
    pub(super) chunks: TableChunks,
    pub(super) leaves: Vec<UnreadLeaf>,
}

/// Blocks of a leaf that are to be read.
pub(super) struct UnreadLeaf {
    pub(super) oid: u32,
    pub(super) file: Option<u32>,
    pub(super) missing: Vec<(u32, u32)>,
}

/// The tables of a cut snapshot that are not whole: those that are read beside the stream, and those that are copied behind that, since their rows
/// cannot be told from those that are there. An error says why it cannot go on.
pub(super) async fn look(
    client: &postgres::Client,
    settings: &CaptureSettings,
    published: &[PublishedTable],
    state: &State,
) -> Result<Result<(Vec<Unread>, Vec<PublishedTable>), String>, source::Error> {
    if state.plan.is_none() {
        return Ok(Err("it was cut before its first row, or by an earlier release".to_owned()));
    }
    if let Some(reason) = hindrance(client, settings).await? {
        return Ok(Err(reason.to_owned()));
    }
    let known = |table: &&PublishedTable| state.chunks.contains_key(&table.relation.oid);
    let published: Vec<_> = published.iter().filter(known).cloned().collect();
    // Each leaf as a whole: what is left of it, the record tells.
    let mut leaves = BTreeMap::<usize, Vec<Leaf>>::new();
    for chunk in source::chunk::plan(client, &published, u64::MAX).await? {
        leaves.entry(chunk.table).or_default().push((*chunk.leaf).clone());
    }
    let (mut unread, mut copies) = (Vec::new(), Vec::new());
    let encoder = Encoder::new(settings.encoder.clone());
    for (index, table) in published.into_iter().enumerate() {
        let recorded = state.chunks.get(&table.relation.oid).cloned().unwrap_or_default();
        // Also one of which nothing is left to read by now: what was missing is changed by events that come again.
        if recorded.is_whole() && leaves.get(&index).is_some_and(|leaves| recorded.has(leaves)) {
            continue;
        }
        let topic = settings.encoder.topics.of_table(&table.relation.name).ok();
        if encoder.tells_no_rows_apart(&table.relation, topic.and_then(|topic| state.keys.get(&topic))) {
            if let Some(reason) = why_not_copied(client, settings, &table).await? {
                return Ok(Err(format!("rows of table {} are missing, {reason}", table.relation.name)));
            }
            copies.push(table);
            continue;
        }
        let found = Unread::of(table, recorded, leaves.remove(&index).unwrap_or_default());
        if let Err(reason) = found.may_go_on(settings, state) {
            return Ok(Err(reason));
        }
        unread.push(found);
    }
    if copies.len() > MOST_COPIES {
        return Ok(Err(format!("rows are missing of more than {MOST_COPIES} tables whose rows cannot be told apart")));
    }
    Ok(Ok((unread, copies)))
}

/// Why a table whose rows cannot be told apart is not copied beside the stream.
async fn why_not_copied(
    client: &postgres::Client,
    settings: &CaptureSettings,
    table: &PublishedTable,
) -> Result<Option<&'static str>, source::Error> {
    if settings.encoder.records != Records::Envelope {
        return Ok(Some("whose rows cannot be told apart, and flat records have no resync"));
    }
    if source::references::others_refer_to(client, table.relation.oid).await? {
        return Ok(Some("whose rows cannot be told apart, and which others refer to"));
    }
    Ok(table.unreadable().map(|_| "which cannot be read beside the stream"))
}

/// Why no rows can be read beside this stream; `None` if they can.
pub(super) async fn hindrance(
    client: &postgres::Client,
    settings: &CaptureSettings,
) -> Result<Option<&'static str>, source::Error> {
    if settings.encoder.content.own_headers == OwnHeaders::LeftOut {
        return Ok(Some("without own_headers no record tells that its row is still to come"));
    }
    if !window::takes_markers(client).await? {
        return Ok(Some("the source is a stand-by, which takes no messages"));
    }
    if settings.origin == OriginFilter::None || !window::carries_all(client, &settings.publication.name).await? {
        return Ok(Some(
            "the stream leaves out changes that move rows (capture.origin, or what the publication publishes)",
        ));
    }
    Ok(None)
}

impl Unread {
    /// A leaf in another file is read from its begin: its rows lie elsewhere there. One that is no leaf any more is forgotten.
    pub(super) fn of(published: PublishedTable, recorded: TableChunks, leaves: Vec<Leaf>) -> Self {
        let mut chunks = TableChunks { windows: recorded.windows, ..TableChunks::default() };
        let mut unread = Vec::new();
        for leaf in leaves {
            // Where all its rows are there, it does not matter where they lie by now.
            let same =
                |known: &&LeafChunks| known.oid == leaf.oid && (known.file == leaf.file || known.missing().is_empty());
            let known = recorded.leaves.iter().find(same).cloned().unwrap_or_else(|| LeafChunks::new(&leaf));
            let missing = known.missing();
            unread.push(UnreadLeaf { oid: leaf.oid, file: leaf.file, missing });
            chunks.leaves.push(known);
        }
        Self { published, chunks, leaves: unread }
    }

    fn may_go_on(&self, settings: &CaptureSettings, state: &State) -> Result<(), String> {
        let topic = settings.encoder.topics.of_table(&self.published.relation.name).ok();
        self.may_be_read(topic.and_then(|topic| state.keys.get(&topic)))
    }

    /// Whether its rows can be read beside the stream, where its topic has keys of this form; an error says why not.
    pub(super) fn may_be_read(&self, form: Option<&KeyForm>) -> Result<(), String> {
        let name = &self.published.relation.name;
        if form.is_some_and(|form| form.one_partition) && !self.published.relation.key.is_empty() {
            return Err(format!("rows of table {name} are missing, whose keys are not told apart by their bytes"));
        }
        if self.published.relation.key.is_empty() {
            return Err(format!(
                "rows of table {name} are missing, which has no key: they cannot be told from those that are there"
            ));
        }
        let whole = self.chunks.leaves.iter().any(|leaf| leaf.blocks.is_none() && !leaf.missing().is_empty());
        if whole { Err(format!("table {name}, or a part of it, can only be read as a whole")) } else { Ok(()) }
    }
}
