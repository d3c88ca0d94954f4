//! The log that the source keeps for stopped tables: it is told, and there is a limit to it, behind which their changes are dropped and the
//! tables are read again when they go on (PROTOCOL, "A stopped table and one slot").

use std::time::Duration;

use super::{
    Error,
    session::Session,
    settings::StopPolicy,
    state::{StoppedTable, Update},
};
use crate::{
    schema::TableName,
    source::{request::Named, slot, wal},
};

const INTERVAL: Duration = Duration::from_secs(5);
/// What notes of the status page begin with that tell of it.
const NOTE: &str = "held: ";

/// Watches what the slot keeps for stopped tables. It is back once that is too much, and the tables' changes are dropped.
pub(super) async fn until_beyond_limit(session: &Session) -> Result<(), Error> {
    let mut is_told = false;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let held = session.tables.held();
        session.health.forget_notes(NOTE);
        if held.is_empty() {
            session.metrics.held.set(0);
            continue;
        }
        // Who needs the connection ends the session.
        let Ok(found) = slot::read(&session.client, &session.settings.slot).await else { continue };
        let Ok(end) = wal::flushed(&session.client).await else { continue };
        let flushed = session.position.flushed();
        let from = session.tables.lowest_stop().unwrap_or_default().max(flushed);
        let kept = end.0.saturating_sub(from.0);
        session.metrics.held.set(i64::try_from(kept).unwrap_or(i64::MAX));
        session.health.note(format!("{NOTE}the source keeps {kept} bytes of log, for {} stopped tables", held.len()));
        // Log that the slot keeps for others would stay.
        let safe = found.and_then(|slot| slot.safe_wal_size).filter(|_| from == flushed);
        if session.settings.on_stop != StopPolicy::Resync && !is_beyond(kept, session.settings.hold_limit, safe) {
            continue;
        }
        let (mut dropped, for_good) = sorted(session, held).await;
        // Log that is kept for another one all the same is nothing to drop changes for.
        let kept_for_good =
            for_good.iter().filter_map(|table| session.tables.stop_of(table)).map(|stop| stop.position).min();
        dropped.retain(|(_, stopped)| kept_for_good.is_none_or(|kept| stopped.position < kept));
        if !dropped.is_empty() {
            return drop_changes(session, dropped).await;
        }
        if !is_told {
            is_told = true;
            let tables = for_good.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            tracing::error!(tables, "the source keeps log for stopped tables that could not go on by being read again");
        }
    }
}

/// `safe`: what may be written before the slot is lost, where there is a limit.
fn is_beyond(kept: u64, limit: u64, safe: Option<i64>) -> bool {
    kept > limit || safe.is_some_and(|safe| kept > u64::try_from(safe).unwrap_or_default())
}

/// Tables that can be read again when they go on, and those that cannot.
async fn sorted(session: &Session, held: Vec<TableName>) -> (Vec<(TableName, StoppedTable)>, Vec<TableName>) {
    let (mut dropped, mut for_good) = (Vec::new(), Vec::new());
    for table in held {
        match session.tables.stop_of(&table) {
            Some(stopped) if !stopped.lasting && session.may_join_again(&table).await => dropped.push((table, stopped)),
            Some(_) => for_good.push(table),
            None => {}
        }
    }
    (dropped, for_good)
}

async fn drop_changes(session: &Session, tables: Vec<(TableName, StoppedTable)>) -> Result<(), Error> {
    for (table, stopped) in tables {
        let stopped = StoppedTable { dropped: true, ..stopped };
        let reason = stopped.told_as_dropped();
        session.position.record(&[Update::Stopped { table: table.to_string(), stopped }]).await?;
        session.tables.drop_changes(&table);
        tracing::error!(table = %table, reason, "the source keeps no log for a stopped table any more (capture.on_stop, capture.hold_limit)");
        session.health.stop_table(table.to_string(), reason);
    }
    Ok(())
}

/// A signal: these tables, or all that have stopped, are tried again by the next session.
pub(super) fn resume(session: &Session, tables: &[Named]) -> Result<(), &'static str> {
    let is_named = |name: &String| tables.is_empty() || tables.iter().any(|named| named.is(name));
    let stops = session.tables.stops().into_iter().map(|(name, _)| name).chain(session.tables.cuts());
    let resumed: Vec<_> = stops.filter(|name| is_named(&name.to_string())).collect();
    // What was left out is tried by every session.
    if resumed.is_empty() && !session.health.snapshot().stopped.keys().any(is_named) {
        return Err("none of the tables to go on has stopped");
    }
    let names = resumed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    tracing::info!(tables = names, "stopped tables are tried again, as a signal asks");
    session.tables.ask_to_resume(resumed);
    session.another.notify_one();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_configured_one_and_half_of_what_the_server_keeps() {
        assert!(!is_beyond(10, 10, None) && is_beyond(11, 10, None));
        assert!(!is_beyond(10, 100, Some(10)) && is_beyond(11, 100, Some(10)));
        assert!(is_beyond(1, 100, Some(-5)));
    }
}
