//! Names and contents of the records' headers (EVENTS, "Out-of-band headers").

use crate::event::{Barrier, Sweep};

/// Columns of the row after that PostgreSQL did not send: a JSON array of names.
pub const UNCHANGED: &str = "walrelay.unchanged";
/// Columns whose Avro type cannot hold their value, or not all of it: JSON `{"before": {column: text}, "after": {…}}`, empty parts
/// left out. A null in place of a text is NULL in a field that cannot be null.
pub const TEXT: &str = "walrelay.text";
/// The position, `epoch:commit LSN:ordinal` in decimal, where the value has no transaction block, or its schema does not tell
/// that walrelay wrote it. A logical message outside of a transaction has none.
pub const POSITION: &str = "walrelay.pos";
/// The barrier that an op `t` is part of: JSON of [`Barrier`].
pub const BARRIER: &str = "walrelay.barrier";
/// On an event that lacks columns, while rows of its table that were there before it are still to come: `true`. Its row may be one of
/// them, and comes whole then.
pub const BACKFILLING: &str = "walrelay.backfilling";
/// On every event of a table that a resync reads, from the resync's begin to its end: the resync's name
/// ([`Resync`](crate::event::Resync)).
pub const RESYNC: &str = "walrelay.resync";
/// The end of a resync, on a record that has neither key nor value, and [`POSITION`]: JSON of [`Sweep`].
pub const SWEEP: &str = "walrelay.sweep";
/// On the delete and the tombstone of a key move: the new key as JSON.
pub const NEW_KEY: &str = "__debezium.newkey";
/// On the create of a key move: the old key as JSON.
pub const OLD_KEY: &str = "__debezium.oldkey";

/// The content of [`BARRIER`].
pub(super) fn barrier(barrier: &Barrier) -> Vec<u8> {
    serde_json::to_vec(barrier).expect("texts and numbers are serializable")
}

/// The content of [`SWEEP`].
pub(super) fn sweep(sweep: &Sweep) -> Vec<u8> {
    serde_json::to_vec(sweep).expect("texts and numbers are serializable")
}

/// Appends `"name"` to a JSON array or object that is being built without its brackets.
pub(super) fn append_json_item(name: &str, out: &mut Vec<u8>) {
    if !out.is_empty() {
        out.push(b',');
    }
    append_json_string(name, out);
}

/// Appends a JSON string.
pub(super) fn append_json_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a string is serializable and a vector never fails to be written");
}
