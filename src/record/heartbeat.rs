//! Heartbeats: records without an event, by which consumers see that capture lives.

use super::{encoder::EncoderSettings, error::EncodeError, own_topic};
use crate::{
    avro::{
        encode,
        schema::{self, Schema},
        store::SchemaStore,
        subject::Part,
        wire,
    },
    event::{RecordBuf, RecordSpans},
};

/// How the heartbeats of one capture are written, under Debezium's schemas and topic name.
#[derive(Debug)]
pub struct Heartbeat {
    key: Vec<u8>,
    value_prefix: [u8; wire::PREFIX_LENGTH],
}

impl Heartbeat {
    /// The topic: `__debezium-heartbeat.<prefix>`.
    #[must_use]
    pub fn topic(prefix: &str) -> String {
        format!("{}{prefix}", own_topic::HEARTBEAT)
    }

    /// Registers the schemas.
    ///
    /// # Errors
    /// The registry's.
    pub async fn prepare<S: SchemaStore>(settings: &EncoderSettings, store: &S) -> Result<Self, EncodeError> {
        let topic = Self::topic(&settings.prefix);
        let subject = |part, schema: &Schema| settings.subjects.subject(&topic, part, &schema.name);
        let (key, value) = (schema::heartbeat_key(), schema::heartbeat_value());
        let key_id = store.register(&subject(Part::Key, &key), &key.json).await?;
        let value_id = store.register(&subject(Part::Value, &value), &value.json).await?;
        let mut key = wire::prefix(key_id).to_vec();
        encode::string(&settings.prefix, &mut key);
        Ok(Self { key, value_prefix: wire::prefix(value_id) })
    }

    /// Appends a heartbeat of a time in milliseconds since the Unix epoch.
    pub fn encode(&self, ts_ms: i64, out: &mut RecordBuf) {
        let start = out.bytes.len();
        out.bytes.extend_from_slice(&self.key);
        let key = start..out.bytes.len();
        out.bytes.extend_from_slice(&self.value_prefix);
        encode::long(ts_ms, &mut out.bytes);
        let (value, headers) = (key.end..out.bytes.len(), out.headers.len()..out.headers.len());
        out.records.push(RecordSpans { key: Some(key), value: Some(value), headers, partition: Some(0) });
    }
}
