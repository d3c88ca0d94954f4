//! From consumed records to change events.

use std::future::Future;

use crate::{
    avro::store::SchemaStore,
    event::ChangeEvent,
    kafka::ConsumedRecord,
    record::{DecodeError, Decoded, Decoder},
    types::Placeholder,
};

/// Decodes records; each worker has its own.
pub trait Decode: Send {
    /// The record's event; `None` if it has none to apply (a tombstone, a logical message).
    fn decode(
        &mut self,
        record: &ConsumedRecord,
    ) -> impl Future<Output = Result<Option<ChangeEvent>, DecodeError>> + Send;
}

/// The decoder of walrelay's own records, with the store that it fetches schemas from.
#[derive(Debug)]
pub struct RecordDecoder<S> {
    decoder: Decoder,
    store: S,
}

impl<S> RecordDecoder<S> {
    /// A decoder that knows no schema yet, with the bytes that a padded row's text may take, and what stands for values that
    /// another producer was not sent.
    #[must_use]
    pub fn new(store: S, row_bytes: usize, placeholder: Placeholder) -> Self {
        Self { decoder: Decoder::with_placeholder(row_bytes, placeholder), store }
    }
}

impl<S: SchemaStore + Send + Sync> Decode for RecordDecoder<S> {
    async fn decode(&mut self, record: &ConsumedRecord) -> Result<Option<ChangeEvent>, DecodeError> {
        loop {
            let headers = record.headers.iter().map(|(name, value)| (name.as_str(), &value[..]));
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            match self.decoder.decode(&record.topic, key, value, headers, record.offset)? {
                Decoded::Event(event) => return Ok(Some(event)),
                Decoded::Nothing => return Ok(None),
                Decoded::NeedsSchema(id) => self.decoder.fetch(&record.topic, id, &self.store).await?,
            }
        }
    }
}
