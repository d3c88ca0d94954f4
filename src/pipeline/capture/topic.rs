//! A topic that records go to, as it is while a session runs.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicUsize, Ordering},
};

use super::topics::DataTopic;

/// A topic that records go to.
#[derive(Debug)]
pub(super) struct Topic {
    /// Its index in the tokens of deliveries.
    pub(super) index: usize,
    /// Its name.
    pub(super) name: Arc<str>,
    /// Its id, where the broker gives one.
    pub(super) id: Option<String>,
    /// Its partitions.
    pub(super) partitions: i32,
    /// Largest record batch that it takes, in bytes.
    max_message_bytes: AtomicUsize,
    /// Per partition: offset of the last acknowledged record plus one; −1 while nothing is known.
    ends: Vec<AtomicI64>,
}

impl Topic {
    /// Room that a record batch's framing may take beside the record itself.
    pub(super) const FRAMING_BYTES: usize = 256;

    pub(super) fn new(index: usize, topic: &DataTopic) -> Self {
        Self {
            index,
            name: topic.name.as_str().into(),
            id: topic.id.clone(),
            partitions: i32::try_from(topic.ends.len()).unwrap_or(i32::MAX),
            max_message_bytes: AtomicUsize::new(topic.max_message_bytes),
            ends: topic.ends.iter().map(|end| AtomicI64::new(*end)).collect(),
        }
    }

    /// Largest record that it takes, in bytes.
    pub(super) fn max_record_bytes(&self) -> usize {
        self.max_message_bytes.load(Ordering::Relaxed).saturating_sub(Self::FRAMING_BYTES)
    }

    /// Name and partition count, as barriers have them.
    pub(super) fn label(&self) -> (String, i32) {
        (self.name.to_string(), self.partitions)
    }

    /// Next offset of each partition, as far as records are acknowledged.
    pub(super) fn ends(&self) -> Vec<i64> {
        self.ends.iter().map(|end| end.load(Ordering::Acquire)).collect()
    }

    /// A record behind which the partition ends is acknowledged.
    pub(super) fn came(&self, partition: usize, end: i64) {
        if let Some(known) = self.ends.get(partition) {
            known.fetch_max(end, Ordering::AcqRel);
        }
    }

    /// The partition's records end there, whatever its log's end is.
    pub(super) fn ends_at(&self, partition: usize, end: i64) {
        if let Some(known) = self.ends.get(partition) {
            known.store(end, Ordering::Release);
        }
    }

    /// It takes record batches of so many bytes from now on; gives what it took before.
    pub(super) fn takes(&self, max_message_bytes: usize) -> usize {
        self.max_message_bytes.swap(max_message_bytes, Ordering::Relaxed)
    }
}
