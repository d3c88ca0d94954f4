//! What holds the slot back, by name: the source keeps its log, and old rows of its catalogs, for as long. What an operator has to end is a
//! metric and a note, before the disk tells it.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    time::{Duration, Instant},
};

use super::{publisher::Publisher, session::Session};
use crate::{
    lsn::Lsn,
    pipeline::ack::Hold,
    source::running::{self, Owner, Running},
};

const INTERVAL: Duration = Duration::from_secs(5);
/// What lasts less is the ordinary course of things.
const LASTING: Duration = Duration::from_secs(30);
/// How many transactions are named.
const NAMED: i64 = 5;
/// What the note begins with.
const NOTE: &str = "the slot is held back: ";

/// Something that holds the slot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Holder {
    kind: &'static str,
    name: String,
    /// Of what changes all the time, which one it is, or at which position: it holds the slot only where that stays.
    at: String,
}

/// Tells what holds the slot, until it is dropped; without a publisher, while a snapshot is read. Who needs the connection ends the session.
pub(super) async fn watch(session: &Session, publisher: Option<&Publisher>) -> Infallible {
    let mut seen = BTreeMap::<Holder, Instant>::new();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let Ok(running) = running::oldest(&session.client, NAMED).await else { continue };
        let (hold, flush) = publisher.map_or((Some(Hold::Snapshot), Lsn::ZERO), |publisher| {
            publisher.deliveries().tracker(|tracker| (tracker.holder(), tracker.flush()))
        });
        let found = running.into_iter().map(of_source).chain(hold.map(|hold| of_capture(session, hold, flush)));
        let found: Vec<_> = found.collect();
        seen.retain(|holder, _| found.iter().any(|(found, ..)| found == holder));
        session.metrics.slot_holders.reset();
        session.health.forget_notes(NOTE);
        let mut notes = Vec::new();
        for (holder, since, described) in found {
            let first = *seen.entry(holder.clone()).or_insert_with(Instant::now);
            let lasts = since.unwrap_or_else(|| first.elapsed());
            if lasts < LASTING {
                continue;
            }
            let seconds = i64::try_from(lasts.as_secs()).unwrap_or(i64::MAX);
            session.metrics.slot_holders.with_label_values(&[holder.kind, &holder.name]).set(seconds);
            notes.push(format!("{described}, for {} s", lasts.as_secs()));
        }
        if !notes.is_empty() {
            session.health.note(format!("{NOTE}{}", notes.join("; ")));
        }
    }
}

/// With the time that the server tells, and for people.
type Found = (Holder, Option<Duration>, String);

fn of_source(running: Running) -> Found {
    let described = format!("by {}", running.describe());
    let (kind, name) = match running.by {
        Owner::Session { pid, .. } => ("transaction", pid.to_string()),
        Owner::Prepared { gid } => ("prepared_transaction", gid),
    };
    (Holder { kind, name, at: running.xid }, running.since, described)
}

fn of_capture(session: &Session, hold: Hold, flush: Lsn) -> Found {
    let (kind, name, described) = match hold {
        Hold::StoppedTables => {
            let tables: Vec<_> = session.tables.held().iter().map(ToString::to_string).collect();
            let tables = tables.join(", ");
            ("stopped_tables", tables.clone(), format!("by stopped tables ({tables})"))
        }
        Hold::Resync => ("resync", String::new(), "by tables that are read beside the stream".to_owned()),
        Hold::Snapshot => ("snapshot", String::new(), "by the snapshot that goes on".to_owned()),
        Hold::Delivery => (
            "delivery",
            String::new(),
            "by events that Kafka has not acknowledged, or a transaction that is sent".to_owned(),
        ),
    };
    let at = if hold == Hold::Delivery { flush.to_string() } else { String::new() };
    (Holder { kind, name, at }, None, described)
}
