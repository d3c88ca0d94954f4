//! A change that cannot be published, and is left out where that is wanted (`capture.on_bad_row`).
//!
//! Only what is in the row may be left out: where the table is at fault, each further change would be. What goes to the topic of dead
//! letters belongs to the same unit of work, and the same Kafka transaction, as the change would have, so that the slot never passes
//! one that is in neither topic. Where no letter can be written, the table stops after all.

use super::{
    Error, publisher::Publisher, routes::Running, session::Session, settings::BadRowPolicy, state::Update,
    tables::Tables, transactions::Scope,
};
use crate::{
    event::{EventMeta, Op, RecordBuf, RowChange, TransactionMeta},
    lsn::Position,
    pipeline::{ack::Sequence, health::Health},
    record::{DeadLetter, Encoder, ordinals},
    retry::{Classify as _, chain},
};

/// What can be done about one that was left out.
const HINT: &str = "Have the topic take larger records (max.message.bytes), then `walrelay resync` of the table brings the row; a resync before that takes its former version from the targets";

/// The change of one row, of which nothing has been sent.
pub(super) struct BadRow<'a> {
    pub(super) running: &'a Running,
    pub(super) transaction: &'a TransactionMeta,
    pub(super) event: EventMeta,
    pub(super) change: &'a RowChange,
    /// What the change is a part of.
    pub(super) unit: Sequence,
}

impl BadRow<'_> {
    /// Leaves the change out over this error; `false`: its table has to stop.
    pub(super) async fn leave_out(
        &self,
        (session, publisher): (&Session, &Publisher),
        (scope, encoder): (&mut Scope, &mut Encoder),
        error: &Error,
    ) -> Result<bool, Error> {
        let policy = session.settings.on_bad_row;
        // Sinks count the rows without a key that a change concerns: one that is missing would stop the table there.
        if policy == BadRowPolicy::Stop || !error.is_of_values() || self.running.relation.key.is_empty() {
            return Ok(false);
        }
        let topic = &self.running.topic;
        if publisher.has(topic, scope.at()) {
            // It was left out, or published, before the session; of what was left out, the first is recorded before it is sent.
            if session.tables.lacking.lacks_rows(&self.running.relation.name) {
                self.note(session, error).await?;
            }
            return Ok(true);
        }
        let mut letters = RecordBuf::default();
        let letters_topic = publisher.dead_letters().filter(|_| policy == BadRowPolicy::DeadLetter);
        if policy == BadRowPolicy::DeadLetter {
            let Some(topic) = letters_topic else { return Ok(false) };
            if !self.letter(&chain(error)).encode(topic.max_record_bytes(), &mut letters)? {
                tracing::warn!(topic = &*topic.name, "the topic of dead letters takes no record of any use");
                return Ok(false);
            }
        }
        let gone = self.gone(encoder);
        self.note(session, error).await?;
        if let Some(topic) = letters_topic {
            publisher.send_all(scope, topic, &letters, self.unit).await?;
        }
        if let Some((change, records)) = gone {
            publisher.send_all(scope, topic, &records, self.unit).await?;
            self.running.count(&change, &records);
        }
        Ok(true)
    }

    fn letter<'a>(&'a self, error: &'a str) -> DeadLetter<'a> {
        let Self { running, transaction, change, .. } = self;
        DeadLetter { plan: &running.plan, transaction, position: self.position(), change, error }
    }

    fn position(&self) -> Position {
        let TransactionMeta { epoch, commit, .. } = *self.transaction;
        Position { epoch, commit, ordinal: self.event.ordinal }
    }

    /// Of a row that has moved to another key: that it is no longer under the former one, if that can be published. It tells no other
    /// key, since nothing comes under that.
    fn gone(&self, encoder: &mut Encoder) -> Option<(RowChange, RecordBuf)> {
        let Self { running, transaction, event, .. } = self;
        let RowChange::Update { old: Some(old), .. } = self.change else { return None };
        if ordinals(&running.plan, self.change).ok() != Some(2) {
            return None;
        }
        let (change, mut records) = (RowChange::Delete(old.clone()), RecordBuf::default());
        encoder.encode(&running.plan, transaction, *event, &change, &mut records).ok()?;
        Publisher::fits(&running.topic, &records).ok()?;
        Some((change, records))
    }

    /// Counts it, and records that its table lacks rows before the slot may pass it.
    async fn note(&self, session: &Session, error: &Error) -> Result<(), Error> {
        let (table, reason) = (&self.running.relation.name, chain(error));
        let noted = session.tables.lacking.note(table, self.position(), &reason, &session.health);
        let Some((rows, is_due)) = noted else { return Ok(()) };
        let policy = session.settings.on_bad_row.as_str();
        session.metrics.left_out(&table.to_string(), policy).inc();
        if is_due {
            tracing::warn!(
                table = %table, position = %rows.last, op = self.op().code(), error = reason,
                policy, changes = rows.count, hint = HINT, "a change is left out: no record of it can be published"
            );
            session.position.record(&[Update::BadRows(rows)]).await?;
        }
        Ok(())
    }

    const fn op(&self) -> Op {
        match self.change {
            RowChange::Read(_) => Op::Read,
            RowChange::Insert(_) => Op::Create,
            RowChange::Update { .. } => Op::Update,
            RowChange::Delete(_) => Op::Delete,
        }
    }
}

/// The sessions of this process write no dead letters from now on.
pub(super) fn give_up_letters(tables: &Tables, health: &Health, error: &Error) {
    let reason = chain(error);
    tracing::error!(error = %reason, hint = error.hint(), "no dead letters are written: a row that cannot be published stops its table");
    health.note(format!("no dead letters are written, and a row that cannot be published stops its table: {reason}"));
    tables.refuse_dead_letters();
}
