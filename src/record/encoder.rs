//! Events into records.

use std::{ops::Range, sync::Arc};

use crate::{
    avro::{
        content::{Content, OwnHeaders, Parameters, Tombstones, TotalOrder, TransactionId, Truncates},
        encode,
        flat::{Deletes, Part as EnvelopePart, Records},
        schema::{self, Schema},
        store::SchemaStore,
        subject::{Part, SubjectNaming},
        wire,
    },
    event::{Barrier, EventMeta, OldTuple, Op, RecordBuf, RecordSpans, RowChange, Sweep, TransactionMeta, Tuple},
    lsn::Position,
    record::{
        context::ContextHeaders,
        error::EncodeError,
        flat::{Envelope, Written},
        header, key,
        key_form::{self, KeyDraft, KeyForm},
        mask::Masks,
        plan::{MessagePlan, Plan, PlanColumn, RegisteredSchema, codecs, read_columns},
        row::{self, RowSource},
        scratch::{Scratch, push_chosen_header, push_header},
        source::{SourceConstants, append_position, append_resync, is_streamed},
        tail::Tail,
        topic::TopicNames,
    },
    schema::Relation,
    types::{Codec, Modes, Placeholder},
};

/// What all events of one capture have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderSettings {
    /// The source block's `name`.
    pub prefix: String,
    /// The topics' names.
    pub topics: TopicNames,
    /// The source database, the source block's `db`.
    pub database: String,
    /// The source block's `version`.
    pub version: String,
    /// How subjects are named.
    pub subjects: SubjectNaming,
    /// The forms of values.
    pub modes: Modes,
    /// What is said around them.
    pub content: Content,
    /// What stands for values that the server did not send.
    pub placeholder: Placeholder,
    /// What is published in place of some columns.
    pub masks: Masks,
    /// What records' values are.
    pub records: Records,
}

impl EncoderSettings {
    /// Whether events of this kind are published.
    #[must_use]
    pub fn have(&self, op: Op) -> bool {
        self.records.have(op) && (op != Op::Truncate || self.content.truncates != Truncates::Skipped)
    }
}

/// Writes change events as records. Holds buffers that it reuses: in steady state no event allocates.
#[derive(Debug)]
pub struct Encoder {
    settings: EncoderSettings,
    context: ContextHeaders,
    tail: Tail,
    scratch: Scratch,
}

/// A logical message (`pg_logical_emit_message`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// Its prefix.
    pub prefix: &'a str,
    /// Its content.
    pub content: &'a [u8],
    /// Whether it belongs to its transaction; if not, it has no position.
    pub transactional: bool,
}

/// One event before it is written: what the envelope says of it.
#[derive(Clone, Copy)]
struct Event<'a> {
    plan: &'a Plan,
    transaction: &'a TransactionMeta,
    own: EventMeta,
    op: Op,
    before: Option<RowSource<'a>>,
    after: Option<RowSource<'a>>,
}

impl Encoder {
    /// An encoder for one capture.
    #[must_use]
    pub fn new(settings: EncoderSettings) -> Self {
        let context = ContextHeaders::new(settings.content.context_headers, &settings.prefix);
        Self { settings, context, tail: Tail::default(), scratch: Scratch::default() }
    }

    /// Registers the relation's schemas and compiles its plan. To be called before the first event of a relation version.
    /// `kept` is the key form of the topic, if it has records: keys go on in its forms of values.
    ///
    /// # Errors
    /// The registry's, or the table has no legal topic name.
    pub async fn prepare<S: SchemaStore>(
        &mut self,
        relation: &Relation,
        kept: Option<&KeyForm>,
        store: &S,
    ) -> Result<Arc<Plan>, EncodeError> {
        let topic = self.settings.topics.of_table(&relation.name)?;
        let (relation, masks) = self.settings.masks.plan(relation)?;
        let relation = &*relation;
        let codecs = codecs(relation, self.settings.modes, self.settings.content);
        let KeyDraft { columns: key, schema, modes: key_modes, digits: key_digits, one_partition, .. } =
            KeyDraft::new(&topic, relation, (self.settings.modes, self.settings.content), kept);
        let key_schema = match schema {
            Some(schema) => Some(self.register(store, &topic, Part::Key, schema).await?),
            None => None,
        };
        let value_schema = self.value_schema(&topic, relation, &codecs)?;
        let value_schema = self.register(store, &topic, Part::Value, value_schema).await?;
        let columns = self.plan_columns(relation, &codecs);
        let read = read_columns(&columns);
        let is_written = |(index, _): &(usize, _)| columns.get(*index).is_some_and(|column| !column.is_omitted);
        let required = columns.iter().enumerate().filter(|(_, column)| column.is_required() && !column.is_key);
        let labelled = codecs.iter().enumerate().filter(|(_, codec)| codec.has_labels());
        Ok(Arc::new(Plan {
            required: required.filter(|(_, column)| !column.is_omitted).map(|(index, _)| index).collect(),
            labelled: labelled.filter(is_written).map(|(index, _)| index).collect(),
            columns,
            read,
            table: relation.name.clone(),
            topic: topic.into(),
            key_schema,
            value_schema,
            source: self.source(&relation.name.schema, &relation.name.table),
            one_partition,
            key_modes,
            key_digits,
            key,
            masks,
        }))
    }

    fn plan_columns(&self, relation: &Relation, codecs: &[Codec]) -> Vec<PlanColumn> {
        let EncoderSettings { content, placeholder, .. } = &self.settings;
        let column = |(index, codec)| PlanColumn::of(relation, index, codec, *content, placeholder);
        codecs.iter().enumerate().filter_map(column).collect()
    }

    fn value_schema(&self, topic: &str, relation: &Relation, codecs: &[Codec]) -> Result<Schema, EncodeError> {
        let content = self.settings.content;
        let Records::Flat(flat) = &self.settings.records else {
            return Ok(schema::envelope(topic, relation, codecs, content));
        };
        let taken = |field| EncodeError::FieldTaken { table: relation.name.clone(), field };
        schema::flat(topic, relation, codecs, content, flat).map_err(taken)
    }

    /// Whether the keys of this relation version lie where those of the topic's records do; also if [`Self::prepare`] refuses its masks. The registry's id of the schema
    /// is not known before it is registered.
    #[must_use]
    pub fn keeps_keys(&self, relation: &Relation, kept: &KeyForm) -> bool {
        let topic = self.settings.topics.of_table(&relation.name);
        let forms = (self.settings.modes, self.settings.content);
        let Ok((relation, masks)) = self.settings.masks.plan(relation) else { return true };
        topic.is_ok_and(|topic| KeyDraft::new(&topic, &relation, forms, Some(kept)).masked(&masks).keeps(kept))
    }

    /// Whether the rows of this relation version are not told apart by bytes of their keys, where its topic has keys of this form, if any: they lie in
    /// one partition.
    #[must_use]
    pub fn tells_no_rows_apart(&self, relation: &Relation, kept: Option<&KeyForm>) -> bool {
        let Ok((relation, _)) = self.settings.masks.plan(relation) else { return relation.key.is_empty() };
        kept.is_some_and(|kept| kept.one_partition) || key_form::lies_in_one_partition(&relation, self.settings.modes)
    }

    /// Registers the schemas of logical messages.
    ///
    /// # Errors
    /// The registry's.
    pub async fn prepare_messages<S: SchemaStore>(&mut self, store: &S) -> Result<Arc<MessagePlan>, EncodeError> {
        let topic = self.settings.topics.messages().to_owned();
        let key = self.register(store, &topic, Part::Key, schema::message_key()).await?;
        let value = self.register(store, &topic, Part::Value, schema::message_value()).await?;
        Ok(Arc::new(MessagePlan {
            topic: topic.into(),
            key_prefix: key.prefix,
            key_schema: (key.id, key.json),
            value_prefix: value.prefix,
            source: self.source("", ""),
        }))
    }

    /// Appends the records of a row change: insert, update and snapshot row one, delete its event and a tombstone, an update
    /// that moves the key a delete with tombstone and a create. Answers how many ordinals it takes: 2 for a key move, else 1.
    /// On an error `out` is as before.
    ///
    /// # Errors
    /// The row cannot be encoded; nothing is cut or left out.
    pub fn encode(
        &mut self,
        plan: &Plan,
        meta: &TransactionMeta,
        event: EventMeta,
        change: &RowChange,
        out: &mut RecordBuf,
    ) -> Result<u64, EncodeError> {
        let mark = (out.bytes.len(), out.records.len(), out.headers.len());
        let taken = self.encode_change(plan, meta, event, &plan.masks.change(change), out);
        if taken.is_err() {
            out.bytes.truncate(mark.0);
            out.records.truncate(mark.1);
            out.headers.truncate(mark.2);
        }
        taken
    }

    /// Appends one partition's copy of a TRUNCATE, or of the barrier before a new snapshot generation (ordinal 0); without a
    /// barrier it does not say which copies it has. Flat records have no form for it, as with Debezium's transformation, a TRUNCATE
    /// may be left out, and without walrelay's headers nothing tells a new snapshot from a TRUNCATE: then nothing is appended.
    pub fn encode_truncate(
        &mut self,
        plan: &Plan,
        meta: &TransactionMeta,
        event: EventMeta,
        barrier: Option<&Barrier>,
        partition: i32,
        out: &mut RecordBuf,
    ) {
        let has_headers = self.settings.content.own_headers == OwnHeaders::Written;
        // Nothing else tells of a new snapshot, so those that `truncates` leaves out are the stream's.
        let is_wanted = if event.ordinal > 0 { self.settings.have(Op::Truncate) } else { has_headers };
        if !is_wanted || !self.settings.records.have(Op::Truncate) {
            return;
        }
        let start = out.bytes.len();
        out.bytes.extend_from_slice(&plan.value_schema.prefix);
        encode::null(&mut out.bytes);
        encode::null(&mut out.bytes);
        self.append_rest(
            &Event { plan, transaction: meta, own: event, op: Op::Truncate, before: None, after: None },
            out,
        );
        let value = start..out.bytes.len();
        let first = out.headers.len();
        if let Some(barrier) = barrier.filter(|_| has_headers) {
            push_header(header::BARRIER, &header::barrier(barrier), out);
        }
        self.push_position(meta, event, out);
        self.context.push(out);
        let headers = first..out.headers.len();
        out.records.push(RecordSpans { key: None, value: Some(value), headers, partition: Some(partition) });
    }

    /// Appends one partition's copy of a resync's end: a record without key and value, which other consumers take for nothing. Without
    /// walrelay's headers there is no form for it, and nothing is appended; nor are events told to be of a resync then.
    pub fn encode_sweep(&mut self, at: Position, sweep: &Sweep, partition: i32, out: &mut RecordBuf) {
        if self.settings.content.own_headers == OwnHeaders::LeftOut {
            return;
        }
        let first = out.headers.len();
        push_header(header::SWEEP, &header::sweep(sweep), out);
        append_position(at, &mut self.scratch.value);
        push_header(header::POSITION, &self.scratch.value, out);
        self.context.push(out);
        let headers = first..out.headers.len();
        out.records.push(RecordSpans { key: None, value: None, headers, partition: Some(partition) });
    }

    /// Appends the record of a logical message.
    pub fn encode_message(
        &mut self,
        plan: &MessagePlan,
        meta: &TransactionMeta,
        event: EventMeta,
        message: &LogicalMessage<'_>,
        out: &mut RecordBuf,
    ) {
        let start = out.bytes.len();
        out.bytes.extend_from_slice(&plan.key_prefix);
        encode::optional_string(Some(message.prefix), &mut out.bytes);
        let key = start..out.bytes.len();
        let bytes = &mut out.bytes;
        bytes.extend_from_slice(&plan.value_prefix);
        encode::string(Op::Message.code(), bytes);
        encode::optional_long(Some(event.processed_ns.div_euclid(1_000_000)), bytes);
        self.tail.append_source(&plan.source, meta, &event, bytes);
        if message.transactional && self.settings.content.transaction.is_written(true) {
            self.tail.append_transaction(self.settings.content.transaction_id, meta, &event, bytes);
        } else {
            encode::null(bytes);
        }
        encode::optional_string(Some(message.prefix), bytes);
        encode::present(bytes);
        encode::bytes(message.content, bytes);
        let value = key.end..out.bytes.len();
        let first = out.headers.len();
        if message.transactional {
            self.push_position(meta, event, out);
        }
        // Debezium's have no headers of the context: its messages come from elsewhere than its rows.
        let headers = first..out.headers.len();
        out.records.push(RecordSpans { key: Some(key), value: Some(value), headers, partition: None });
    }

    fn encode_change(
        &mut self,
        plan: &Plan,
        meta: &TransactionMeta,
        event: EventMeta,
        change: &RowChange,
        out: &mut RecordBuf,
    ) -> Result<u64, EncodeError> {
        self.scratch.unchanged.clear();
        let simple = |op, before, after| Event { plan, transaction: meta, own: event, op, before, after };
        match change {
            RowChange::Read(tuple) => {
                let row = RowSource::new(plan, tuple, None)?;
                self.append_single(simple(Op::Read, None, Some(row)), row, out)?;
            }
            RowChange::Insert(tuple) => {
                let row = RowSource::new(plan, tuple, None)?;
                self.append_single(simple(Op::Create, None, Some(row)), row, out)?;
            }
            RowChange::Delete(old) => {
                let row = RowSource::new(plan, old.tuple(), None)?;
                let key = self.append_single(simple(Op::Delete, Some(row), None), row, out)?;
                self.append_tombstone(plan, key, None, out);
            }
            RowChange::Update { old, new } => return self.append_update(simple, old.as_ref(), new, out),
        }
        Ok(1)
    }

    fn append_update<'a>(
        &mut self,
        event: impl Fn(Op, Option<RowSource<'a>>, Option<RowSource<'a>>) -> Event<'a>,
        old: Option<&'a OldTuple>,
        new: &'a Tuple,
        out: &mut RecordBuf,
    ) -> Result<u64, EncodeError> {
        let plan = event(Op::Update, None, None).plan;
        let after = RowSource::new(plan, new, old.map(OldTuple::tuple))?;
        row::append_unchanged_names(plan, after, &mut self.scratch.unchanged);
        let Some(old) = old else {
            self.append_single(event(Op::Update, None, Some(after)), after, out)?;
            return Ok(1);
        };
        let before = RowSource::new(plan, old.tuple(), None)?;
        let old_key = self.append_key(plan, before, out)?;
        let new_key = self.append_key(plan, after, out)?;
        let same = out.bytes[old_key.clone()] == out.bytes[new_key.clone()];
        if same && !row::differs_beyond_key_bytes(plan, before, after) {
            out.bytes.truncate(old_key.start);
            let full = matches!(old, OldTuple::Full(_)).then_some(before);
            self.append_single(event(Op::Update, full, Some(after)), after, out)?;
            return Ok(1);
        }
        self.append_move(
            event(Op::Delete, Some(before), None),
            event(Op::Create, None, Some(after)),
            old_key,
            new_key,
            out,
        )?;
        Ok(2)
    }

    /// Delete, tombstone and create of a key move; each tells the other's key (trap T28).
    fn append_move(
        &mut self,
        delete: Event<'_>,
        mut create: Event<'_>,
        old_key: Range<usize>,
        new_key: Range<usize>,
        out: &mut RecordBuf,
    ) -> Result<(), EncodeError> {
        create.own.ordinal += 1;
        if self.settings.content.total_order == TotalOrder::Delivered || self.settings.have(Op::Delete) {
            create.own.total_order += 1;
            create.own.collection_order += 1;
        }
        let mut texts = std::mem::take(&mut self.scratch.moved_keys);
        let moved = self.append_moved((delete, create), (old_key, new_key), &mut texts, out);
        self.scratch.moved_keys = texts;
        moved
    }

    fn append_moved(
        &mut self,
        (delete, create): (Event<'_>, Event<'_>),
        (old_key, new_key): (Range<usize>, Range<usize>),
        [old_json, new_json]: &mut [Vec<u8>; 2],
        out: &mut RecordBuf,
    ) -> Result<(), EncodeError> {
        let (plan, converter) = (delete.plan, self.settings.content.header_converter);
        for (row, json) in [(delete.before, &mut *old_json), (create.after, &mut *new_json)] {
            json.clear();
            if let Some(row) = row {
                key::append_text(converter, plan, row, &mut self.scratch.value, json)?;
            }
        }

        let first = out.headers.len();
        push_header(header::NEW_KEY, new_json, out);
        self.context.push(out);
        self.append_event(delete, Some(old_key.clone()), first, out)?;
        self.append_tombstone(plan, Some(old_key), Some(new_json), out);

        let first = out.headers.len();
        push_header(header::OLD_KEY, old_json, out);
        self.context.push(out);
        self.append_event(create, Some(new_key), first, out)
    }

    /// A record without a value, unless consumers want none, or none where the event has no key (trap T54; a null key has nothing to
    /// compact). The new key is told where the row has moved.
    fn append_tombstone(&self, plan: &Plan, key: Option<Range<usize>>, new_key: Option<&[u8]>, out: &mut RecordBuf) {
        let first = out.headers.len();
        let operations = match &self.settings.records {
            Records::Envelope => &[][..],
            Records::Flat(flat) if flat.deletes == Deletes::RewriteWithTombstone => &flat.headers,
            Records::Flat(_) => return,
        };
        let Content { tombstones, keyless_tombstones, .. } = self.settings.content;
        if tombstones == Tombstones::Never || key.is_none() && !keyless_tombstones {
            return;
        }
        if let Some(new_key) = new_key {
            push_header(header::NEW_KEY, new_key, out);
        }
        self.context.push(out);
        for operation in operations.iter().filter(|metadata| metadata.part == EnvelopePart::Op) {
            push_chosen_header(&operation.name, Op::Delete.code().as_bytes(), out);
        }
        let (headers, partition) = (first..out.headers.len(), plan.one_partition.then_some(0));
        out.records.push(RecordSpans { key, value: None, headers, partition });
    }

    /// Key and event of a change that stays one event; answers where the key lies.
    fn append_single(
        &mut self,
        event: Event<'_>,
        row: RowSource<'_>,
        out: &mut RecordBuf,
    ) -> Result<Option<Range<usize>>, EncodeError> {
        let key = self.append_key(event.plan, row, out)?;
        let key = event.plan.key_schema.is_some().then_some(key);
        let first = out.headers.len();
        self.context.push(out);
        self.append_event(event, key.clone(), first, out)?;
        Ok(key)
    }

    fn append_key(
        &mut self,
        plan: &Plan,
        row: RowSource<'_>,
        out: &mut RecordBuf,
    ) -> Result<Range<usize>, EncodeError> {
        let start = out.bytes.len();
        key::append(plan, row, &mut self.scratch.value, &mut out.bytes)?;
        Ok(start..out.bytes.len())
    }

    /// Appends value and out-of-band headers, and the record; headers from `first_header` on are its own already.
    fn append_event(
        &mut self,
        event: Event<'_>,
        key: Option<Range<usize>>,
        first_header: usize,
        out: &mut RecordBuf,
    ) -> Result<(), EncodeError> {
        let value = if let Records::Flat(flat) = &self.settings.records {
            let EncoderSettings { version, prefix, database, content, .. } = &self.settings;
            let Event { plan, transaction, own, op, .. } = event;
            let envelope = Envelope { plan, transaction, own, op, version, prefix, database, content: *content };
            match envelope.append_flat(flat, event.before, event.after, &mut self.scratch, out)? {
                Written::Row(value) => Some(value),
                Written::Tombstone => None,
                Written::Nothing => return Ok(()),
            }
        } else {
            Some(self.append_value(event, out)?)
        };
        if self.settings.content.own_headers == OwnHeaders::Written {
            self.scratch.push_headers(out);
            if event.own.backfilling && !self.scratch.unchanged.is_empty() {
                push_header(header::BACKFILLING, b"true", out);
            }
            if let Some(resync) = event.own.resync {
                append_resync(resync, &mut self.scratch.value);
                push_header(header::RESYNC, &self.scratch.value, out);
            }
        }
        self.push_position(event.transaction, event.own, out);
        let partition = event.plan.one_partition.then_some(0);
        let headers = first_header..out.headers.len();
        out.records.push(RecordSpans { key, value, headers, partition });
        Ok(())
    }

    fn append_value(&mut self, event: Event<'_>, out: &mut RecordBuf) -> Result<Range<usize>, EncodeError> {
        let Scratch { value: scratch, text_before, text_after, .. } = &mut self.scratch;
        text_before.clear();
        text_after.clear();
        let start = out.bytes.len();
        let bytes = &mut out.bytes;
        bytes.extend_from_slice(&event.plan.value_schema.prefix);
        for (row, texts) in [(event.before, text_before), (event.after, text_after)] {
            match row {
                Some(row) => {
                    encode::present(bytes);
                    row::append(event.plan, event.plan.columns_of(event.op), row, texts, scratch, bytes)?;
                }
                None => encode::null(bytes),
            }
        }
        self.append_rest(&event, out);
        Ok(start..out.bytes.len())
    }

    /// The envelope's fields behind its rows.
    fn append_rest(&mut self, event: &Event<'_>, out: &mut RecordBuf) {
        let Event { plan, transaction, own, op, .. } = event;
        self.tail.append(self.settings.content, &plan.source, transaction, (own, *op), &mut out.bytes);
    }

    /// The position of an event without a transaction block, or whose block or schema does not tell that it is ours.
    fn push_position(&mut self, meta: &TransactionMeta, event: EventMeta, out: &mut RecordBuf) {
        let Content { transaction, transaction_id, total_order, parameters, own_headers, .. } = self.settings.content;
        if own_headers == OwnHeaders::LeftOut {
            return;
        }
        let tells = self.settings.records == Records::Envelope
            && parameters == Parameters::All
            && transaction_id == TransactionId::Commit
            && total_order == TotalOrder::Delivered;
        if tells && transaction.is_written(is_streamed(meta, &event)) {
            return;
        }
        let position = Position { epoch: meta.epoch, commit: meta.commit, ordinal: event.ordinal };
        append_position(position, &mut self.scratch.value);
        push_header(header::POSITION, &self.scratch.value, out);
    }

    async fn register<S: SchemaStore>(
        &self,
        store: &S,
        topic: &str,
        part: Part,
        schema: Schema,
    ) -> Result<RegisteredSchema, EncodeError> {
        let subject = self.settings.subjects.subject(topic, part, &schema.name);
        let id = store.register(&subject, &schema.json).await?;
        Ok(RegisteredSchema { id, prefix: wire::prefix(id), json: schema.json })
    }

    fn source(&self, schema: &str, table: &str) -> SourceConstants {
        let EncoderSettings { prefix, database, version, .. } = &self.settings;
        SourceConstants::new(version, prefix, database, schema, table)
    }
}
