//! Tables whose rows cannot be told from each other, read again beside the stream: those without a key, and those whose keys are not told
//! apart by their bytes.
//!
//! ```text
//! stream:   … begin … low … nothing of the table … │ the next session: … low … changes that the copy does not show …
//! beside:              └─► lock, snapshot ─► barrier, every row at (low, 0) ─► recorded
//! ```
//!
//! A row that comes twice would be there twice, so neither windows nor a sweep are of use (PROTOCOL, "Snapshot that resumes, and resync"): the table
//! is emptied at the sinks, and every row comes once, at one position. Everything that the stream had delivered at the low marker is visible in the
//! snapshot. What the stream brings of the table from the begin of the resync on is kept back. When the copy is recorded the session ends, and the next
//! one begins where the resync has held the flush LSN. It publishes what the copy does not show: what commits behind the low marker in a transaction that
//! the snapshot does not see.
//!
//! A copy that is cut begins anew, with a barrier of its own.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use super::{
    Error,
    goal::is_of_table,
    initial::Copy,
    joining,
    publisher::Publisher,
    readers::Readers,
    resync::{CopyPoint, Member},
    session::Session,
};
use crate::{
    lsn::{Lsn, Position},
    retry::chain,
    source::{
        catalog::PublishedTable,
        visible::Visible,
        window::{Begun, WindowReader},
    },
};

/// How long to wait where a lock is held, or a transaction is not visible yet.
const PAUSE: Duration = Duration::from_millis(100);

/// What comes of an attempt.
enum Attempt {
    /// The connections see this point.
    Ready { table: Box<PublishedTable>, readers: Readers, until: Lsn, visible: Visible },
    /// To be tried again.
    Later,
    /// It cannot be read any more.
    Gone(String),
}

/// Copies the tables of a resync that are to be; `false` where there are none. Behind it the session has to end.
pub(super) async fn run(
    session: &Arc<Session>,
    publisher: &Arc<Publisher>,
    reader: &WindowReader,
    begin: Position,
) -> Result<bool, Error> {
    let members = session.resyncs.uncopied(begin);
    if members.is_empty() {
        return Ok(false);
    }
    let oids: Vec<_> = members.iter().map(|member| member.oid).collect();
    let publication = &session.settings.publication.name;
    let found = (reader.leaves_now(&oids).await?, reader.memberships(publication, &oids).await?);
    let crowded = session.resyncs.note_leaves(begin, found, (true, session.place()));
    session.position.record_current(|| session.resyncs.updates(&[begin])).await?;
    for (member, reason) in crowded {
        session.tell_left(&member.name, &reason);
    }
    joining::await_writers(session, begin).await?;
    for member in session.resyncs.uncopied(begin) {
        copy(session, publisher, reader, (begin, &member)).await?;
    }
    // The next session publishes what was kept back, from where the flush LSN is held on.
    session.tables.republished(Lsn::ZERO);
    session.another.notify_one();
    Ok(true)
}

async fn copy(
    session: &Arc<Session>,
    publisher: &Arc<Publisher>,
    reader: &WindowReader,
    (begin, member): (Position, &Member),
) -> Result<(), Error> {
    let name = &member.name;
    let (table, readers, at, until, visible) = loop {
        session.resyncs.unpaused().await;
        let is_in = session.resyncs.uncopied(begin).iter().any(|known| known.oid == member.oid);
        if !is_in {
            return Ok(());
        }
        session.health.heard();
        let at = low(session, reader).await?;
        match attempt(session, reader, member).await? {
            Attempt::Ready { table, readers, until, visible } => break (table, readers, at, until, visible),
            Attempt::Later => tokio::time::sleep(PAUSE).await,
            Attempt::Gone(reason) => return session.leave(name, begin..=begin, session.place(), &reason).await,
        }
    };
    // From here on the sinks lack rows of it until all have come.
    if !session.resyncs.empties(begin, member.oid) {
        return Ok(());
    }
    session.position.record_current(|| session.resyncs.updates(&[begin])).await?;
    tracing::info!(table = %name, %at, "the table is emptied at the sinks, and all its rows are read: they cannot be told from each other");
    let copied: BoxFuture<'_, Result<bool, Error>> =
        Box::pin(Copy::beside(session, publisher, at).table(readers, &table));
    match copied.await {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(error) if is_of_table(&error) => {
            return session.leave(name, begin..=begin, session.place(), &chain(&error)).await;
        }
        Err(error) => return Err(error),
    }
    session.resyncs.copied(begin, member.oid, &CopyPoint { at, until, visible });
    session.position.record_current(|| session.resyncs.updates(&[begin])).await
}

/// Asks for the stream's place, and waits until it has come there. Gives the marker's commit.
async fn low(session: &Session, reader: &WindowReader) -> Result<Lsn, Error> {
    let windows = &session.windows;
    let number = windows.want(0);
    reader.mark(&windows.low_marker(number)).await?;
    windows.delivered(number).await;
    Ok(windows.low_at())
}

/// Locks the table, takes a snapshot behind the low marker, and opens connections that see it.
async fn attempt(session: &Session, reader: &WindowReader, member: &Member) -> Result<Attempt, Error> {
    let settings = &session.settings;
    let Some(known) = session.published.iter().find(|table| table.relation.oid == member.oid) else {
        return Ok(Attempt::Gone("it is not published any more".to_owned()));
    };
    let visible = match reader.begin(known).await? {
        Begun::Reading(visible) => visible,
        Begun::Busy => return Ok(Attempt::Later),
        Begun::Gone => {
            return Ok(Attempt::Gone("it was dropped or renamed, or may not be read any more".to_owned()));
        }
    };
    let (snapshot, until) = reader.export().await?;
    let found = if session.windows.sees_all(&visible) {
        reader.catalog(&settings.publication.name, &settings.publication.keys).await?
    } else {
        None
    };
    let attempt = match found {
        None => Attempt::Later,
        Some(catalog) => {
            let table = catalog.by_oid(member.oid).cloned();
            match table.filter(|table| table.relation.name == member.name) {
                None => Attempt::Gone("it was renamed or replaced, or left the publication".to_owned()),
                Some(table) => match Readers::beside(settings, &snapshot, &table).await {
                    Ok(Some(readers)) => Attempt::Ready { table: Box::new(table), readers, until, visible },
                    Ok(None) => Attempt::Later,
                    Err(error) if is_of_table(&error) => Attempt::Gone(chain(&error)),
                    Err(error) => return Err(error),
                },
            }
        }
    };
    reader.cancel().await?;
    Ok(attempt)
}
