//! From consumed records to change events, each of the table that its topic's name tells.

use std::{future::Future, sync::Arc};

use crate::{
    avro::store::SchemaStore,
    event::{ChangeEvent, Sweep, TableShape},
    kafka::ConsumedRecord,
    lsn::Position,
    record::{DecodeError, Decoded, Decoder, TopicNames},
    schema::TableName,
    types::Placeholder,
};

/// What a record brings.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// A change of a row, or a TRUNCATE.
    Change(ChangeEvent),
    /// The end of a resync.
    Sweep {
        /// Where it stands.
        at: Position,
        /// What it says.
        sweep: Box<Sweep>,
        /// The source's table, if the topic's name tells: the record has no schema.
        table: Option<TableName>,
    },
}

/// Decodes records; each worker has its own.
pub trait Decode: Send {
    /// What the record brings; `None` if there is nothing to apply (a tombstone, a logical message).
    fn decode(&mut self, record: &ConsumedRecord)
    -> impl Future<Output = Result<Option<Incoming>, DecodeError>> + Send;
}

/// The decoder of walrelay's own records, with the store that it fetches schemas from.
#[derive(Debug)]
pub struct RecordDecoder<S> {
    decoder: Decoder,
    store: S,
    names: TopicNames,
    /// The topic and the shape that were last found to belong together.
    together: Option<(Arc<str>, Arc<TableShape>)>,
}

impl<S> RecordDecoder<S> {
    /// A decoder that knows no schema yet, with the bytes that a padded row's text may take, and what stands for values that
    /// another producer was not sent. By `names` topics are those of their tables.
    #[must_use]
    pub fn new(store: S, row_bytes: usize, placeholder: Placeholder, names: TopicNames) -> Self {
        Self { decoder: Decoder::with_placeholder(row_bytes, placeholder), store, names, together: None }
    }

    /// An error where the topic is not that of the event's table: one prefix may begin as another one's topics do, and another
    /// source's rows are not to be applied. Other producers name their topics as they like.
    fn belongs(&mut self, topic: &Arc<str>, event: &ChangeEvent) -> Result<(), DecodeError> {
        let is_known = |(known, shape): &(Arc<str>, Arc<TableShape>)| {
            Arc::ptr_eq(known, topic) && Arc::ptr_eq(shape, &event.shape)
        };
        if event.position.is_of_offset() || self.together.as_ref().is_some_and(is_known) {
            return Ok(());
        }
        let expected = self.names.of_table(&event.shape.name).ok();
        if expected.as_deref() != Some(&**topic) {
            let (read_as, table) = (self.names.table_of(topic), event.shape.name.clone());
            return Err(DecodeError::OtherTable { topic: topic.to_string(), read_as, table, expected });
        }
        self.together = Some((Arc::clone(topic), Arc::clone(&event.shape)));
        Ok(())
    }
}

impl<S: SchemaStore + Send + Sync> Decode for RecordDecoder<S> {
    async fn decode(&mut self, record: &ConsumedRecord) -> Result<Option<Incoming>, DecodeError> {
        loop {
            let headers = record.headers.iter().map(|(name, value)| (name.as_str(), &value[..]));
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            match self.decoder.decode(&record.topic, key, value, headers, record.offset)? {
                Decoded::Event(event) => {
                    self.belongs(&record.topic, &event)?;
                    return Ok(Some(Incoming::Change(event)));
                }
                Decoded::Sweep(at, sweep) => {
                    let mut readings = self.names.readings(&record.topic);
                    let table = readings.next().filter(|_| readings.next().is_none());
                    return Ok(Some(Incoming::Sweep { at, sweep, table }));
                }
                Decoded::Nothing => return Ok(None),
                Decoded::NeedsSchema(id) => self.decoder.fetch(&record.topic, id, &self.store).await?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::Op, lsn::Lsn};

    fn event(schema: &str, position: Position) -> ChangeEvent {
        let name = TableName::new(schema, "orders");
        ChangeEvent {
            op: Op::Create,
            position,
            commit_ms: 0,
            shape: Arc::new(TableShape { name, columns: Vec::new(), key: Vec::new() }),
            before: None,
            after: None,
            key_move: false,
            moved_columns: Vec::new(),
            backfilling: false,
            resync: None,
            barrier: None,
        }
    }

    #[test]
    fn an_event_belongs_to_its_table_s_topic_alone_unless_another_producer_wrote_it() {
        let names = TopicNames::of_templates("{prefix}-{schema}-{table}", "{prefix}-message", "shop", "").unwrap();
        let mut decoder = RecordDecoder::new((), 0, Placeholder::default(), names);
        let (own, other) = (Arc::from("shop-public-orders"), Arc::from("shop-eu-public-orders"));
        let at = Position { epoch: 0, commit: Lsn(1), ordinal: 1 };
        let ours = event("public", at);
        for _ in 0..2 {
            assert!(decoder.belongs(&own, &ours).is_ok());
        }
        let error = decoder.belongs(&other, &ours).unwrap_err();
        let DecodeError::OtherTable { read_as, expected, .. } = &error else { panic!("{error}") };
        assert_eq!((read_as, expected), (&Some(TableName::new("eu", "public-orders")), &Some(own.to_string())));
        assert!(decoder.belongs(&own, &event("sales", at)).is_err());
        assert!(decoder.belongs(&other, &event("public", Position::of_offset(7).unwrap())).is_ok());
    }
}
