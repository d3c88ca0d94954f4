//! Records into events.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    avro::{
        cursor::{self, Cursor},
        store::SchemaStore,
        wire,
        writer::Writer,
    },
    event::{self, Barrier, Cell, ChangeEvent, Op, Row, Span, TableShape},
    lsn::Position,
    record::{
        column_plan::TextError,
        decode_plan::{DecodePlan, EnvelopePlan, SourceStep, Step, TransactionStep},
        error::DecodeError,
        header,
        source::{position_of_block, position_of_header},
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
}

/// Schema ids of a record's key and value.
type Ids = (Option<u32>, u32);

/// What a record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A change event.
    Event(ChangeEvent),
    /// A tombstone, a logical message, or where a transaction begins or ends: nothing to apply.
    Nothing,
    /// The schema of this id must be fetched first.
    NeedsSchema(u32),
}

/// The plan of a pair of schemas with the table that was last seen under it.
#[derive(Debug)]
struct Known {
    plan: DecodePlan,
    shape: Option<Arc<TableShape>>,
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
        Self { row_bytes, placeholder, writers, plans, known: Vec::new(), last: None }
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
        let headers = Headers::read(topic, headers)?;
        let flat = || DecodeError::Flat { topic: topic.to_owned() };
        // Only a flat delete has a position and no value.
        let Some(value) = value else {
            return if headers.position.is_none() { Ok(Decoded::Nothing) } else { Err(flat()) };
        };
        let split = |bytes| wire::split(bytes).map_err(|source| DecodeError::Frame { topic: topic.to_owned(), source });
        let (value_id, body) = split(value)?;
        let key_id = key.map(split).transpose()?.map(|(id, _)| id);
        let ids = (key_id, value_id);
        let index = match self.last.filter(|(last, _)| *last == ids) {
            Some((_, index)) => index,
            None => match self.plans.get(&ids) {
                Some(index) => *index,
                None => match key_id.into_iter().chain([value_id]).find(|id| !self.writers.contains_key(id)) {
                    Some(id) => return Ok(Decoded::NeedsSchema(id)),
                    None => self.compile(topic, ids).map_err(|error| match error {
                        DecodeError::NotAnEnvelope { .. } if headers.position.is_some() => flat(),
                        error => error,
                    })?,
                },
            },
        };
        self.last = Some((ids, index));
        let Some(Known { plan: DecodePlan::Envelope(plan), shape: last }) = self.known.get_mut(index) else {
            return Ok(Decoded::Nothing);
        };
        let most = self.row_bytes.max(body.len().saturating_mul(Self::GROWTH));
        let reading = Reading { topic, id: value_id, plan, placeholder: &self.placeholder, headers, offset, most };
        let parts = reading.parts(body)?;
        let shape = shape_of(plan, &parts, last);
        reading.event(parts, shape).map(Decoded::Event)
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
        self.known.push(Known { plan, shape: None });
        self.plans.insert(ids, self.known.len() - 1);
        Ok(self.known.len() - 1)
    }
}

/// The table that the event belongs to; one for all events of a pair of schemas, unless other tables share the pair.
fn shape_of(plan: &EnvelopePlan, parts: &Parts<'_>, last: &mut Option<Arc<TableShape>>) -> Arc<TableShape> {
    let is_its = |shape: &&Arc<TableShape>| *shape.name.schema == *parts.schema && *shape.name.table == *parts.table;
    if let Some(shape) = last.as_ref().filter(is_its) {
        return Arc::clone(shape);
    }
    let shape = Arc::new(TableShape {
        name: TableName::new(parts.schema, parts.table),
        columns: plan.columns.iter().map(|column| column.shape.clone()).collect(),
        key: plan.key.clone(),
    });
    *last = Some(Arc::clone(&shape));
    shape
}

/// One record while it is decoded.
struct Reading<'a> {
    topic: &'a str,
    id: u32,
    plan: &'a EnvelopePlan,
    placeholder: &'a Placeholder,
    headers: Headers,
    offset: i64,
    /// Bytes that a row's text may have.
    most: usize,
}

/// What an envelope holds.
#[derive(Default)]
struct Parts<'a> {
    before: Option<Row>,
    after: Option<Row>,
    op: &'a str,
    commit_ms: i64,
    schema: &'a str,
    table: &'a str,
    transaction: Option<(&'a str, i64)>,
    /// Columns that the server did not send.
    unchanged: Vec<usize>,
}

/// Texts in place of what Avro could not hold.
#[derive(Default, Deserialize)]
struct Texts {
    #[serde(default)]
    before: NamedTexts,
    #[serde(default)]
    after: NamedTexts,
}

/// Texts by column; none is NULL in a field that has no null.
type NamedTexts = HashMap<String, Option<String>>;

/// The headers that the decoder obeys.
#[derive(Default)]
struct Headers {
    unchanged: Vec<String>,
    texts: Texts,
    position: Option<Position>,
    barrier: Option<Barrier>,
    key_move: bool,
}

impl Headers {
    fn read<'a>(topic: &str, headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, DecodeError> {
        let mut read = Self::default();
        for (name, value) in headers {
            match name {
                header::UNCHANGED => read.unchanged = json(topic, header::UNCHANGED, value)?,
                header::TEXT => read.texts = json(topic, header::TEXT, value)?,
                header::BARRIER => read.barrier = Some(json(topic, header::BARRIER, value)?),
                header::POSITION => {
                    let position = std::str::from_utf8(value).ok().and_then(position_of_header);
                    read.position = Some(position.ok_or_else(|| unreadable(topic, header::POSITION))?);
                }
                header::NEW_KEY | header::OLD_KEY => read.key_move = true,
                _ => {}
            }
        }
        Ok(read)
    }
}

impl Reading<'_> {
    fn parts<'b>(&self, body: &'b [u8]) -> Result<Parts<'b>, DecodeError> {
        let mut cursor = Cursor::new(body);
        let bytes = |source| DecodeError::Bytes { topic: self.topic.to_owned(), id: self.id, source };
        let mut parts = Parts { unchanged: self.unchanged_columns()?, ..Parts::default() };
        for step in &self.plan.steps {
            match step {
                Step::Before(presence) => {
                    if presence.read(&mut cursor).map_err(bytes)? {
                        parts.before = Some(self.row(&mut cursor, &self.headers.texts.before, &[])?);
                    }
                }
                Step::After(presence) => {
                    if presence.read(&mut cursor).map_err(bytes)? {
                        parts.after = Some(self.row(&mut cursor, &self.headers.texts.after, &parts.unchanged)?);
                    }
                }
                Step::Op => parts.op = cursor.string().map_err(bytes)?,
                Step::Source(steps) => self.source(steps, &mut cursor, &mut parts).map_err(bytes)?,
                Step::Transaction(presence, steps) => {
                    if presence.read(&mut cursor).map_err(bytes)? {
                        parts.transaction = Some(self.transaction(steps, &mut cursor).map_err(bytes)?);
                    }
                }
                Step::Skip(skip) => skip.run(&self.plan.writer, &mut cursor).map_err(bytes)?,
            }
        }
        cursor.finish().map_err(bytes)?;
        Ok(parts)
    }

    fn source<'b>(
        &self,
        steps: &[SourceStep],
        cursor: &mut Cursor<'b>,
        parts: &mut Parts<'b>,
    ) -> Result<(), cursor::DecodeError> {
        for step in steps {
            match step {
                SourceStep::TsMs(presence) => {
                    if presence.read(cursor)? {
                        parts.commit_ms = cursor.long()?;
                    }
                }
                SourceStep::Schema(presence) => {
                    if presence.read(cursor)? {
                        parts.schema = cursor.string()?;
                    }
                }
                SourceStep::Table(presence) => {
                    if presence.read(cursor)? {
                        parts.table = cursor.string()?;
                    }
                }
                SourceStep::Skip(skip) => skip.run(&self.plan.writer, cursor)?,
            }
        }
        Ok(())
    }

    fn transaction<'b>(
        &self,
        steps: &[TransactionStep],
        cursor: &mut Cursor<'b>,
    ) -> Result<(&'b str, i64), cursor::DecodeError> {
        let (mut id, mut total_order) = ("", 0);
        for step in steps {
            match step {
                TransactionStep::Id => id = cursor.string()?,
                TransactionStep::TotalOrder => total_order = cursor.long()?,
                TransactionStep::Skip(skip) => skip.run(&self.plan.writer, cursor)?,
            }
        }
        Ok((id, total_order))
    }

    /// A row's cells. What stands in for the `unchanged` columns is not looked at: the form of their values need not hold it.
    fn row(&self, cursor: &mut Cursor<'_>, texts: &NamedTexts, unchanged: &[usize]) -> Result<Row, DecodeError> {
        let mut buffers = BUFFERS.take();
        buffers.0.clear();
        buffers.1.clear();
        let outcome = self.spans(cursor, (texts, unchanged), &mut buffers).map(|()| event::row(&buffers.0, &buffers.1));
        if buffers.0.capacity() <= KEPT_BYTES {
            BUFFERS.set(buffers);
        }
        outcome
    }

    fn spans(
        &self,
        cursor: &mut Cursor<'_>,
        (texts, unchanged): (&NamedTexts, &[usize]),
        (arena, spans): &mut (Vec<u8>, Vec<Span>),
    ) -> Result<(), DecodeError> {
        let oversized = |column: &str| DecodeError::Oversized {
            topic: self.topic.to_owned(),
            column: column.to_owned(),
            most: self.most.min(u32::MAX as usize),
        };
        for (index, column) in self.plan.columns.iter().enumerate() {
            let bytes = |source| DecodeError::Bytes { topic: self.topic.to_owned(), id: self.id, source };
            let name = &*column.shape.name;
            let found = column.read(cursor).map_err(bytes)?;
            if !unchanged.is_empty() && unchanged.contains(&index) {
                spans.push(Span::Unchanged);
                continue;
            }
            let start = arena.len();
            match (texts.get(name), found) {
                (Some(Some(text)), _) => arena.extend_from_slice(text.as_bytes()),
                (Some(None), _) | (None, None) => {
                    spans.push(Span::Null);
                    continue;
                }
                (None, Some(found)) if self.is_foreign() && column.is_placeholder(found, self.placeholder) => {
                    spans.push(Span::Unchanged);
                    continue;
                }
                (None, Some(found)) => column.append_text(found, arena, self.most).map_err(|error| match error {
                    TextError::Render(source) => {
                        DecodeError::Render { topic: self.topic.to_owned(), column: name.to_owned(), source }
                    }
                    TextError::Beyond => oversized(name),
                })?,
            }
            let (start, end) =
                u32::try_from(start).ok().zip(u32::try_from(arena.len()).ok()).ok_or_else(|| oversized(name))?;
            spans.push(Span::Text(start, end));
        }
        Ok(())
    }

    /// Whether another producer wrote the record. Ours tell a type in the schema or a position in a header.
    const fn is_foreign(&self) -> bool {
        self.plan.is_foreign && self.headers.position.is_none()
    }

    fn event(self, mut parts: Parts<'_>, shape: Arc<TableShape>) -> Result<ChangeEvent, DecodeError> {
        let is_foreign = self.is_foreign();
        let content = |problem| DecodeError::Content { topic: self.topic.to_owned(), problem };
        let op = Op::from_code(parts.op).ok_or_else(|| content("its op is unknown"))?;
        match op {
            Op::Create | Op::Update | Op::Read if parts.after.is_none() => return Err(content("it has no row after")),
            Op::Delete if parts.before.is_none() => return Err(content("it has no row before")),
            _ => {}
        }
        let position = match (parts.transaction, self.headers.position) {
            (_, Some(position)) => Some(position),
            (_, None) if is_foreign => Position::of_offset(self.offset),
            (Some((id, total_order)), None) => position_of_block(id, total_order),
            (None, None) => None,
        };
        if let Some(before) = parts.before.as_mut().filter(|_| !shape.key.is_empty()) {
            let others = before.iter_mut().enumerate().filter(|(index, _)| !shape.key.contains(index));
            others.filter(|(_, cell)| **cell == Cell::Null).for_each(|(_, cell)| *cell = Cell::Unchanged);
        }
        Ok(ChangeEvent {
            op,
            position: position.ok_or_else(|| content("it has no position"))?,
            commit_ms: parts.commit_ms,
            shape,
            before: parts.before,
            after: parts.after,
            // Nobody sends the other half of a foreign move what it lacks.
            key_move: self.headers.key_move && !is_foreign,
            moved_columns: if op == Op::Delete { parts.unchanged } else { Vec::new() },
            barrier: self.headers.barrier,
        })
    }

    fn unchanged_columns(&self) -> Result<Vec<usize>, DecodeError> {
        let index = |name: &String| self.plan.column(name).ok_or_else(|| unreadable(self.topic, header::UNCHANGED));
        self.headers.unchanged.iter().map(index).collect()
    }
}

thread_local! {
    /// A row's texts and where they lie, before their number is known; kept, unless they are as large as few are.
    static BUFFERS: std::cell::Cell<(Vec<u8>, Vec<Span>)> = const { std::cell::Cell::new((Vec::new(), Vec::new())) };
}

/// The largest texts whose room is kept, in bytes: what the threads keep is in no budget.
const KEPT_BYTES: usize = 1 << 20;

fn json<T: DeserializeOwned>(topic: &str, header: &'static str, value: &[u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(value).map_err(|_| unreadable(topic, header))
}

fn unreadable(topic: &str, header: &'static str) -> DecodeError {
    DecodeError::Header { topic: topic.to_owned(), header }
}
