//! Records into events.

use std::{collections::HashMap, str::Utf8Error, sync::Arc};

use crate::{
    avro::{store::SchemaStore, wire, writer::Writer},
    event::{ChangeEvent, ShapeColumn, Sweep, TableShape},
    lsn::Position,
    record::{
        column_plan::{ColumnPlan, Place},
        decode_plan::{DecodePlan, EnvelopePlan},
        error::DecodeError,
        header,
        header_reader::{Headers, unreadable},
        parts::Parts,
        shared_run::Shared,
        view::{EventView, Reading},
    },
    schema::TableName,
    types::Placeholder,
};

/// Reads records by the schemas of their writers.
///
/// [`Self::decode`] is synchronous. It answers [`Decoded::NeedsSchema`] when it meets an id for the first time; the caller then
/// awaits [`Self::fetch`] and decodes the record again. Plans and schemas are kept for the decoder's life.
#[derive(Debug)]
pub struct Decoder {
    row_bytes: usize,
    placeholder: Placeholder,
    writers: HashMap<u32, Arc<Writer>>,
    /// Indices into `known`.
    plans: HashMap<Ids, usize>,
    known: Vec<Known>,
    /// The ids of the last record, and its plan: the next one is most often of the same table.
    last: Option<(Ids, usize)>,
    /// Where the columns of the last event's rows lie.
    places: Vec<Place>,
    /// The last record's.
    headers: Headers,
}

/// Schema ids of a record's key and value.
type Ids = (Option<u32>, u32);

/// What a record is, borrowed from its bytes.
#[derive(Debug)]
pub enum View<'a> {
    /// A change event.
    Event(EventView<'a>),
    /// As [`Decoded::Sweep`].
    Sweep(Position, Box<Sweep>),
    /// As [`Decoded::Nothing`].
    Nothing,
    /// As [`Decoded::NeedsSchema`].
    NeedsSchema(u32),
}

/// What a record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A change event.
    Event(ChangeEvent),
    /// The end of a resync, and where it stands.
    Sweep(Position, Box<Sweep>),
    /// A tombstone, a logical message, or where a transaction begins or ends: nothing to apply.
    Nothing,
    /// The schema of this id must be fetched first.
    NeedsSchema(u32),
}

/// Where the plan of a pair of schemas is.
enum Found {
    Plan(usize),
    NeedsSchema(u32),
}

/// The plan of a pair of schemas with the table that was last seen under it, and whether another producer wrote of it.
#[derive(Debug)]
struct Known {
    plan: DecodePlan,
    shape: Option<(bool, Arc<TableShape>)>,
    shared: Shared,
}

impl Decoder {
    /// By how much the text of values may be longer than their bytes, whatever else is allowed: a short number is a long time.
    const GROWTH: usize = 32;

    /// A decoder that knows no schema yet. A row's text may take `row_bytes`, or what is usual for as many bytes as it has:
    /// where a schema says that values are padded, a small record may hold a very large row.
    #[must_use]
    pub fn new(row_bytes: usize) -> Self {
        Self::with_placeholder(row_bytes, Placeholder::default())
    }

    /// The same, where other producers were told another placeholder for values that they were not sent. walrelay's own records
    /// name such columns in a header.
    #[must_use]
    pub fn with_placeholder(row_bytes: usize, placeholder: Placeholder) -> Self {
        let (writers, plans) = (HashMap::new(), HashMap::new());
        Self {
            row_bytes,
            placeholder,
            writers,
            plans,
            known: Vec::new(),
            last: None,
            places: Vec::new(),
            headers: Headers::default(),
        }
    }

    /// Decodes a record.
    ///
    /// The event's rows: a column that was not sent is `Unchanged`; so is, in `before`, a null column outside the key, since a
    /// table with a key is matched by its key and most identities send nothing else. A table without a key has `before` whole.
    /// A record with a null key (op t) has a shape without a key.
    ///
    /// Another producer's record has no position that rises within its partition: the transaction block of Debezium's, where there
    /// is one, has the LSN of the event, and transactions overlap (trap T3). Its offset stands in for it.
    ///
    /// # Errors
    /// The record is not one of ours, or its bytes do not match its schema; the caller adds partition and offset.
    pub fn decode<'h>(
        &mut self,
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
        offset: i64,
    ) -> Result<Decoded, DecodeError> {
        let outcome = self.view(topic, key, value, headers, offset).and_then(|view| match view {
            View::Event(event) => event.into_event().map(Decoded::Event),
            View::Sweep(position, sweep) => Ok(Decoded::Sweep(position, sweep)),
            View::Nothing => Ok(Decoded::Nothing),
            View::NeedsSchema(id) => Ok(Decoded::NeedsSchema(id)),
        });
        // They may hold values of any size, and what is kept is in no budget.
        self.headers = Headers::default();
        outcome
    }

    /// The same without the texts of values.
    ///
    /// # Errors
    /// As [`Self::decode`], but for what is wrong with a single value or with the name of a column in a header.
    pub fn view<'a, 'h>(
        &'a mut self,
        topic: &'a str,
        key: Option<&[u8]>,
        value: Option<&'a [u8]>,
        headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
        offset: i64,
    ) -> Result<View<'a>, DecodeError> {
        self.headers = Headers::read(topic, headers)?;
        let has_position = self.headers.position.is_some();
        let flat = || DecodeError::Flat { topic: topic.to_owned() };
        // Only a flat delete and the end of a resync have a position and no value.
        let Some(value) = value else {
            return match (self.headers.sweep.take(), self.headers.position) {
                (Some(sweep), Some(position)) if key.is_none() => Ok(View::Sweep(position, sweep)),
                (Some(_), _) => Err(unreadable(topic, header::SWEEP)),
                (None, Some(_)) => Err(flat()),
                (None, None) => Ok(View::Nothing),
            };
        };
        let frame = |source| DecodeError::Frame { topic: topic.to_owned(), source };
        let (value_id, body) = wire::split(value).map_err(frame)?;
        let key_id = key.map(wire::split).transpose().map_err(frame)?.map(|(id, _)| id);
        let index = match self.find(topic, (key_id, value_id)) {
            Ok(Found::Plan(index)) => index,
            Ok(Found::NeedsSchema(id)) => return Ok(View::NeedsSchema(id)),
            Err(DecodeError::NotAnEnvelope { .. }) if has_position => return Err(flat()),
            Err(error) => return Err(error),
        };
        let Some(Known { plan: DecodePlan::Envelope(plan), shape: last, shared }) = self.known.get_mut(index) else {
            return Ok(View::Nothing);
        };
        let most = self.row_bytes.max(body.len().saturating_mul(Self::GROWTH));
        let (placeholder, headers) = (&self.placeholder, &self.headers);
        let reading = Reading { topic, id: value_id, body, plan, placeholder, headers, offset, most };
        let parts = reading.parts(&mut self.places, shared)?;
        let problem = "the name of its table is not UTF-8";
        let not_utf8 = |_| DecodeError::Content { topic: topic.to_owned(), problem };
        let shape = shape_of(plan, reading.is_foreign(), &parts, last).map_err(not_utf8)?;
        EventView::new(reading, &parts, (&self.places, shared), shape).map(View::Event)
    }

    /// The plan of a pair of schemas, or which of them must be fetched.
    fn find(&mut self, topic: &str, ids: Ids) -> Result<Found, DecodeError> {
        let index = match self.last.filter(|(last, _)| *last == ids) {
            Some((_, index)) => index,
            None => match self.plans.get(&ids) {
                Some(index) => *index,
                None => match ids.0.into_iter().chain([ids.1]).find(|id| !self.writers.contains_key(id)) {
                    Some(id) => return Ok(Found::NeedsSchema(id)),
                    None => self.compile(topic, ids)?,
                },
            },
        };
        self.last = Some((ids, index));
        Ok(Found::Plan(index))
    }

    /// Fetches a schema that [`Self::decode`] asked for.
    ///
    /// # Errors
    /// The registry does not answer or does not know the id, or the schema cannot be read.
    pub async fn fetch<S: SchemaStore>(&mut self, topic: &str, id: u32, store: &S) -> Result<(), DecodeError> {
        let json = store.schema(id).await.map_err(|source| {
            if source.is_unknown_id() {
                DecodeError::UnknownSchema { topic: topic.to_owned(), id, source }
            } else {
                DecodeError::Store(source)
            }
        })?;
        let writer = Writer::parse(&json).map_err(|source| DecodeError::Schema { id, source })?;
        self.writers.insert(id, Arc::new(writer));
        Ok(())
    }

    fn compile(&mut self, topic: &str, ids: Ids) -> Result<usize, DecodeError> {
        let (key_id, value_id) = ids;
        let not_an_envelope = |problem: String| {
            let topic = topic.to_owned();
            DecodeError::NotAnEnvelope { topic, id: value_id, problem }
        };
        let value = self.writers.get(&value_id).ok_or_else(|| not_an_envelope("it was not fetched".into()))?;
        let key = key_id.and_then(|id| self.writers.get(&id)).map(|key| &**key);
        let plan = DecodePlan::compile(key, value).map_err(not_an_envelope)?;
        self.known.push(Known { plan, shape: None, shared: Shared::default() });
        self.plans.insert(ids, self.known.len() - 1);
        Ok(self.known.len() - 1)
    }
}

/// The table that the event belongs to; one for all events of a pair of schemas, unless other tables share the pair, or other
/// producers.
fn shape_of<'a>(
    plan: &EnvelopePlan,
    is_foreign: bool,
    parts: &Parts<'_>,
    last: &'a mut Option<(bool, Arc<TableShape>)>,
) -> Result<&'a Arc<TableShape>, Utf8Error> {
    let is_its = |(foreign, shape): &(bool, Arc<TableShape>)| {
        *foreign == is_foreign
            && shape.name.schema.as_bytes() == parts.schema
            && shape.name.table.as_bytes() == parts.table
    };
    // walrelay's own schemas tell an encoding, whatever else they leave out.
    let column = |column: &ColumnPlan| {
        let may_be_encoded = is_foreign && column.shape.may_be_encoded;
        ShapeColumn { may_be_encoded, ..column.shape.clone() }
    };
    let shape = match last.take().filter(is_its) {
        Some((_, shape)) => shape,
        None => Arc::new(TableShape {
            name: TableName::new(std::str::from_utf8(parts.schema)?, std::str::from_utf8(parts.table)?),
            columns: plan.columns.iter().map(column).collect(),
            key: plan.key.clone(),
        }),
    };
    Ok(&last.insert((is_foreign, shape)).1)
}
