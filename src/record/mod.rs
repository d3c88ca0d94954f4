//! Change events as Kafka records: [`Encoder`] writes keys, values and headers by a compiled [`Plan`], [`Decoder`] reads them
//! back by the schemas that their writer registered.
//!
//! ```text
//! relation ──prepare──► Plan ─┐                         ┌─ key, value: 0x00 id Avro
//! RowChange (text) ───────────┴─► Encoder ─► RecordBuf ─┤
//!                                                       └─ headers: what Avro cannot hold, what was not sent
//! record ─► Decoder (plan per pair of schema ids) ─► EventView (borrowed) ─► ChangeEvent (text)
//! ```
//!
//! Both hot paths are synchronous; the registry is asked only in [`Encoder::prepare`] and [`Decoder::fetch`], through the seam
//! [`SchemaStore`](crate::avro::store::SchemaStore).

pub use beyond::Beyond;
pub use changed_row::{ChangedRow, PartialRow, ordinals};
pub use column_plan::Found;
pub use dead_letter::DeadLetter;
pub use decoder::{Decoded, Decoder, View};
pub use encoder::{Encoder, EncoderSettings, LogicalMessage};
pub use error::{DecodeError, EncodeError};
pub use heartbeat::Heartbeat;
pub use key_form::KeyForm;
pub use mask::{MaskError, Masks};
pub use own_topic::{is_own_topic, own_topic_patterns, position_topic, state_topic};
pub use plan::{MessagePlan, Plan};
pub use topic::{TopicNameError, TopicNames};
pub use topic_routes::RouteError;
pub use topic_template::TemplateError;
pub use transaction::{EventCounts, TransactionRecords};
pub use view::{EventView, RowView};

mod beyond;
mod changed_row;
mod column_plan;
mod context;
mod dead_letter;
mod decode_plan;
mod decoder;
mod encoder;
mod error;
mod flat;
mod form;
pub mod header;
mod header_reader;
mod heartbeat;
mod key;
mod key_form;
mod mask;
mod own_topic;
mod parts;
mod place;
mod plan;
mod render;
mod row;
mod scratch;
mod shared_run;
mod source;
mod tail;
mod topic;
mod topic_escape;
mod topic_routes;
mod topic_template;
mod transaction;
mod view;
