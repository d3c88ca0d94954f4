//! Kafka: the producer of change events, the consumer of `apply`, topics, and the transactional state topic.
//!
//! Nothing here knows what a record means. Reports and partitions are handed to the wiring through callbacks and channels
//! that are bounded in bytes.

mod consumer;
mod context;
mod error;
mod producer;
mod reader;
mod recovery;
#[cfg(test)]
mod scripted;
mod settings;
mod state;
mod tail;
mod topic;
mod topic_id;
mod transaction;
mod unpolled;

pub use consumer::{
    ConsumedRecord, Consumer, ConsumerEvent, ConsumerHandle, ConsumerSettings, StartOffset, Subscription,
    TopicPartition,
};
pub use error::Error;
pub use producer::{Delivery, DeliveryObserver, Producer, ProducerSettings, Transactional};
pub use reader::{PartitionReader, PartitionRecord};
pub use settings::Settings;
pub use state::{StateEntry, StateTopic};
pub use tail::ends_of_records;
pub use topic::{Admin, TopicDescription, TopicSettings};
pub use transaction::fence;
