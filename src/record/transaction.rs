//! Where transactions begin and end: the records of Debezium's transaction topic, and what they count.

use std::{collections::HashMap, sync::Arc};

use crate::{
    avro::{
        content::{Content, OwnHeaders, TransactionId},
        encode,
        schema::{self, Schema},
        store::SchemaStore,
        subject::Part,
        wire,
    },
    event::{RecordBuf, RecordSpans, TransactionMeta},
    lsn::{Lsn, Position},
    record::{
        encoder::EncoderSettings,
        error::EncodeError,
        header,
        scratch::push_header,
        source::{append_id, append_position},
    },
};

/// How many events a transaction has so far, and how many of them are of each collection, in the order of the collections' first
/// ones. In steady state nothing is allocated.
#[derive(Debug, Default)]
pub struct EventCounts {
    collections: Vec<(Arc<str>, u64)>,
    total: u64,
    /// Where each relation's collection is.
    places: HashMap<u32, usize>,
    /// That of the last event.
    last: Option<(u32, usize)>,
}

impl EventCounts {
    /// What the next event of a relation is numbered with, in the transaction and in its collection, of this name.
    #[must_use]
    pub fn next(&self, relation: u32, name: &Arc<str>) -> (u64, u64) {
        let place = self.places.get(&relation).and_then(|place| self.collections.get(*place));
        let known = place.or_else(|| self.collections.iter().find(|(known, _)| known == name));
        (self.total + 1, known.map_or(0, |(_, count)| *count) + 1)
    }

    /// Whether nothing was counted.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Counts events of a relation, which go to a collection of this name. Several relations may be one collection: a table that
    /// is dropped and created again.
    pub fn add(&mut self, relation: u32, name: &Arc<str>, events: u64) {
        if events == 0 {
            return;
        }
        let place = match self.last {
            Some((last, place)) if last == relation => place,
            _ => self.place(relation, name),
        };
        if let Some((_, count)) = self.collections.get_mut(place) {
            *count += events;
        }
        self.total += events;
        self.last = Some((relation, place));
    }

    /// The relation's next events may go to a collection of another name.
    pub fn rename(&mut self, relation: u32) {
        self.places.remove(&relation);
        self.last = None;
    }

    /// Begins at nothing again.
    pub fn clear(&mut self) {
        self.collections.clear();
        self.places.clear();
        (self.total, self.last) = (0, None);
    }

    fn place(&mut self, relation: u32, name: &Arc<str>) -> usize {
        if let Some(place) = self.places.get(&relation) {
            return *place;
        }
        let known = self.collections.iter().position(|(known, _)| known == name);
        let place = known.unwrap_or_else(|| {
            self.collections.push((Arc::clone(name), 0));
            self.collections.len() - 1
        });
        self.places.insert(relation, place);
        place
    }
}

/// How the begins and ends of one capture's transactions are written, under Debezium's schemas. Everything in them comes from the
/// log and from the options, so a transaction that is delivered again gives the same bytes.
#[derive(Debug)]
pub struct TransactionRecords {
    key_prefix: [u8; wire::PREFIX_LENGTH],
    value_prefix: [u8; wire::PREFIX_LENGTH],
    form: TransactionId,
    own_headers: OwnHeaders,
    id: Vec<u8>,
    position: Vec<u8>,
}

impl TransactionRecords {
    /// Registers the schemas under the subjects of a topic.
    ///
    /// # Errors
    /// The registry's.
    pub async fn prepare<S: SchemaStore>(
        settings: &EncoderSettings,
        topic: &str,
        store: &S,
    ) -> Result<Self, EncodeError> {
        let subject = |part, schema: &Schema| settings.subjects.subject(topic, part, &schema.name);
        let (key, value) = (schema::transaction_key(), schema::transaction_value());
        let key_id = store.register(&subject(Part::Key, &key), &key.json).await?;
        let value_id = store.register(&subject(Part::Value, &value), &value.json).await?;
        let (key_prefix, value_prefix) = (wire::prefix(key_id), wire::prefix(value_id));
        let Content { transaction_id: form, own_headers, .. } = settings.content;
        Ok(Self { key_prefix, value_prefix, form, own_headers, id: Vec::new(), position: Vec::new() })
    }

    /// Appends the begin, at ordinal 0; `first` is the LSN that the server tells of it, which is that of the first change that it
    /// delivers.
    pub fn encode_begin(&mut self, meta: &TransactionMeta, first: Lsn, out: &mut RecordBuf) {
        self.encode(meta, (0, first), None, out);
    }

    /// Appends the end, at the ordinal behind the transaction's last; `end` is the LSN behind its commit.
    pub fn encode_end(
        &mut self,
        meta: &TransactionMeta,
        (ordinal, end): (u64, Lsn),
        counts: &EventCounts,
        out: &mut RecordBuf,
    ) {
        self.encode(meta, (ordinal, end), Some(counts), out);
    }

    /// All in partition 0, so that they lie in the order of commits.
    fn encode(
        &mut self,
        meta: &TransactionMeta,
        (ordinal, lsn): (u64, Lsn),
        counts: Option<&EventCounts>,
        out: &mut RecordBuf,
    ) {
        self.id.clear();
        append_id(self.form, meta, (1, lsn), &mut self.id);
        let start = out.bytes.len();
        out.bytes.extend_from_slice(&self.key_prefix);
        encode::bytes(&self.id, &mut out.bytes);
        let key = start..out.bytes.len();
        let bytes = &mut out.bytes;
        bytes.extend_from_slice(&self.value_prefix);
        encode::string(if counts.is_some() { "END" } else { "BEGIN" }, bytes);
        encode::bytes(&self.id, bytes);
        encode::optional_long(counts.map(|counts| counts.total.cast_signed()), bytes);
        append_collections(counts, bytes);
        encode::long(meta.commit_us.div_euclid(1_000), bytes);
        let value = key.end..bytes.len();
        let first = out.headers.len();
        if self.own_headers == OwnHeaders::Written {
            append_position(Position { epoch: meta.epoch, commit: meta.commit, ordinal }, &mut self.position);
            push_header(header::POSITION, &self.position, out);
        }
        let headers = first..out.headers.len();
        out.records.push(RecordSpans { key: Some(key), value: Some(value), headers, partition: Some(0) });
    }
}

/// A nullable array whose items are nullable.
fn append_collections(counts: Option<&EventCounts>, out: &mut Vec<u8>) {
    let Some(EventCounts { collections, .. }) = counts else { return encode::null(out) };
    encode::present(out);
    if !collections.is_empty() {
        encode::long(i64::try_from(collections.len()).unwrap_or(i64::MAX), out);
        for (name, events) in collections {
            encode::present(out);
            encode::string(name, out);
            encode::long(events.cast_signed(), out);
        }
    }
    encode::long(0, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_are_told_apart_by_their_names() {
        let (first, second) = (Arc::from("public.a"), Arc::from("public.b"));
        let mut counts = EventCounts::default();
        counts.add(1, &first, 2);
        counts.add(2, &second, 1);
        // Dropped and created again.
        counts.add(3, &first, 1);
        counts.add(1, &first, 0);
        counts.rename(1);
        counts.add(1, &second, 4);
        assert_eq!(counts.collections, [(first, 3), (second, 5)]);
        assert_eq!(counts.total, 8);
        counts.clear();
        assert!(counts.is_empty() && counts.collections.is_empty());
    }
}
