//! The headers `__debezium.context.*`, which tell a record's connector to lineage tools.

use std::{
    hash::{BuildHasher, RandomState},
    sync::LazyLock,
};

use crate::{event::RecordBuf, record::scratch::push_header};

/// A run is a process, whatever number of encoders it has.
static RUN: LazyLock<String> = LazyLock::new(run_id);

/// The four headers; none if they are not wanted.
#[derive(Debug)]
pub(super) struct ContextHeaders(Vec<(&'static str, String)>);

impl ContextHeaders {
    /// Of this run.
    pub(super) fn new(wanted: bool, prefix: &str) -> Self {
        if !wanted {
            return Self(Vec::new());
        }
        Self(vec![
            ("__debezium.context.connectorLogicalName", prefix.to_owned()),
            ("__debezium.context.taskId", "0".to_owned()),
            ("__debezium.context.connectorName", "postgresql".to_owned()),
            ("__debezium.context.runId", RUN.clone()),
        ])
    }

    /// Appends them to the record that comes next.
    pub(super) fn push(&self, out: &mut RecordBuf) {
        for (name, value) in &self.0 {
            push_header(name, value.as_bytes(), out);
        }
    }
}

/// A random UUID (RFC 9562, version 4).
fn run_id() -> String {
    let [high, low] = [RandomState::new().hash_one(0), RandomState::new().hash_one(1)];
    let (third, fourth) = (high & 0x0fff | 0x4000, low >> 48 & 0x3fff | 0x8000);
    format!("{:08x}-{:04x}-{third:04x}-{fourth:04x}-{:012x}", high >> 32, high >> 16 & 0xffff, low & 0xffff_ffff_ffff)
}
