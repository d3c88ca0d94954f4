//! The rows of windows: what is read beside the stream, published where the stream comes to the window's high marker.

use std::sync::Arc;

use super::{
    Error,
    bad_row::BadRow,
    clock::now_ns,
    described::{body_of, has_columns},
    routes::Route,
    stream::Streamer,
    windows::{BroughtUp, Closed, Fate, Outcome},
};
use crate::{
    event::{EventMeta, RecordBuf, RowChange, SnapshotMark},
    lsn::Lsn,
    record::{ChangedRow, EncodeError},
    schema::Relation,
};

impl Streamer {
    /// Publishes the rows of a window, as they are here. The server may not describe the table again, so what the stream goes by is as before.
    pub(super) async fn window(&mut self, lsn: Lsn, closed: Closed) -> Result<Outcome, Error> {
        let table = Arc::clone(&closed.rows.table);
        let former = match self.routes.find(table.relation.oid) {
            Some(Route::Running(running)) if !has_columns(&running.relation, &table.relation) => Arc::clone(running),
            _ => return self.rows(lsn, closed).await,
        };
        let outcome = self.rows(lsn, closed).await;
        self.routes.put_back(former);
        outcome
    }

    async fn rows(&mut self, lsn: Lsn, closed: Closed) -> Result<Outcome, Error> {
        let windows = Arc::clone(&self.session.windows);
        let table = Arc::clone(&closed.rows.table);
        let (relation, oid, resync) = (&table.relation, table.relation.oid, closed.rows.resync);
        let Some(commit) = self.open.as_ref().map(|open| open.meta.commit) else { return Ok(Outcome::Void) };
        if !windows.is_open(oid) {
            return Ok(Outcome::Stopped);
        }
        if !matches!(self.routes.find(oid), Some(Route::Running(running)) if has_columns(&running.relation, relation)) {
            self.announce(relation).await?;
        }
        let running = match self.routes.find(oid) {
            Some(Route::Running(running)) if has_columns(&running.relation, relation) => Arc::clone(running),
            // Its description in the stream is another: the catalog of the next window's time tells more.
            Some(Route::Running(_)) => return Ok(Outcome::Void),
            _ => {
                windows.stop(oid, "its changes cannot be published");
                return Ok(Outcome::Stopped);
            }
        };
        let keys =
            closed.rows.rows.iter().map(|row| ChangedRow::key(&running.plan, row)).collect::<Result<Vec<_>, _>>();
        let keys = match keys {
            Ok(keys) if Closed::are_told_apart(&keys) => keys,
            Ok(_) => return self.stop_window(oid, &Error::SameKeys { table: relation.name.to_string() }, resync).await,
            Err(error @ EncodeError::Binary { .. }) => return Err(error.into()),
            Err(error) => return self.stop_window(oid, &error.into(), resync).await,
        };
        let Some(BroughtUp { rows, gone }) = closed.bring_up(keys) else { return Ok(Outcome::Void) };
        let counter = self.session.metrics.snapshot_rows(&relation.name.to_string());
        let mut count = 0;
        for (number, (key, row)) in rows.into_iter().enumerate() {
            match self.row((lsn, resync), oid, RowChange::Read(row)).await? {
                Fate::Published => {
                    counter.inc();
                    count += 1;
                }
                Fate::LeftOut => {}
                Fate::Stopped => return Ok(Outcome::Stopped),
            }
            windows.paid(oid, std::iter::once(&*key));
            if number % 256 == 255 {
                self.session.health.heard();
                tokio::task::yield_now().await;
            }
        }
        windows.paid(oid, gone.iter().map(|key| &**key));
        Ok(Outcome::Published(commit, count))
    }

    async fn stop_window(&mut self, relation: u32, error: &Error, resync: bool) -> Result<Outcome, Error> {
        let position = self.open.as_ref().map(|open| open.position(open.ordinal + 1)).unwrap_or_default();
        self.give_up(relation, position, error, resync).await?;
        Ok(Outcome::Stopped)
    }

    /// Rows may come before the stream has told of their table: it is announced as the server would do it.
    async fn announce(&mut self, relation: &Relation) -> Result<(), Error> {
        let Some(open) = &self.open else { return Ok(()) };
        let position = open.position(open.ordinal + 1);
        self.boundaries.announce(relation.oid, &relation.name);
        self.routes.announce(body_of(relation), position, &mut self.encoder, &self.publisher).await
    }

    /// Publishes a row of a window.
    async fn row(&mut self, (lsn, for_resync): (Lsn, bool), relation: u32, change: RowChange) -> Result<Fate, Error> {
        self.admit(relation, &change, for_resync).await?;
        if !self.session.windows.is_open(relation) {
            return Ok(Fate::Stopped);
        }
        let (Some(Route::Running(running)), Some(open)) = (self.routes.find(relation), &mut self.open) else {
            return Ok(Fate::Stopped);
        };
        let ordinal = open.ordinal + 1;
        let numbers = EventMeta {
            ordinal,
            total_order: ordinal,
            collection_order: open.next(relation).1,
            ..EventMeta::default()
        };
        let resync = self.session.resyncs.of(relation, open.position(ordinal)).map(|labelled| labelled.resync);
        let event = EventMeta { lsn, processed_ns: now_ns(), snapshot: SnapshotMark::Incremental, resync, ..numbers };
        self.records.clear();
        let encoded = self.encoder.encode(&running.plan, &open.meta, event, &change, &mut self.records);
        open.took(relation, 1);
        let position = open.position(ordinal);
        let mut scope = self.publisher.enter(Some(position)).await;
        let sent = match encoded {
            Ok(_) => self.publisher.send(&mut scope, &running.topic, &self.records, open.unit).await,
            Err(error) => Err(error.into()),
        };
        let fate = match sent {
            Ok(_) => {
                running.count(&change, &self.records);
                Fate::Published
            }
            Err(error) if error.is_of_one_row() => {
                // The row may be larger than all others.
                self.records = RecordBuf::default();
                let row = BadRow { running, transaction: &open.meta, event, change: &change, unit: open.unit };
                let way = (&*self.session, &*self.publisher);
                if row.leave_out(way, (&mut scope, &mut self.encoder), &error).await? {
                    Fate::LeftOut
                } else {
                    self.give_up(relation, position, &error, for_resync).await?;
                    Fate::Stopped
                }
            }
            Err(error) => return Err(error),
        };
        scope.done(ordinal);
        Ok(fate)
    }
}
