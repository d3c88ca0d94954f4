//! The log that the source keeps for stopped tables: it is told, and there is a limit to it, behind which their changes are dropped and the
//! tables are read again when they go on (PROTOCOL, "A stopped table and one slot").

use std::time::Duration;

use super::{Error, session::Session, state::Update};
use crate::{schema::TableName, source::slot};

const INTERVAL: Duration = Duration::from_secs(5);
/// What notes of the status page begin with that tell of it.
const NOTE: &str = "held: ";

/// Watches what the slot keeps while tables are stopped. It is back once that is too much, and the tables' changes are dropped.
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
        let Ok(Some(found)) = slot::read(&session.client, &session.settings.slot).await else { continue };
        let kept = found.retained_bytes.unwrap_or_default();
        session.metrics.held.set(kept);
        session.health.note(format!("{NOTE}the source keeps {kept} bytes of log, for {} stopped tables", held.len()));
        if !is_beyond(kept, session.settings.hold_limit, found.safe_wal_size) {
            continue;
        }
        let for_good: Vec<_> = held.iter().filter(|table| !session.may_join_again(table)).collect();
        if for_good.is_empty() {
            return drop_changes(session, &held).await;
        }
        if !is_told {
            is_told = true;
            let tables = for_good.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            tracing::error!(
                tables,
                "the source keeps more log for stopped tables than it should (capture.hold_limit), and these could not be read again"
            );
        }
    }
}

/// `safe`: what may be written before the slot is lost, where there is a limit.
fn is_beyond(kept: i64, limit: u64, safe: Option<i64>) -> bool {
    u64::try_from(kept).is_ok_and(|kept| kept > limit) || safe.is_some_and(|safe| kept > safe)
}

async fn drop_changes(session: &Session, tables: &[TableName]) -> Result<(), Error> {
    for table in tables {
        let Some(stopped) = session.tables.drop_changes(table) else { continue };
        let reason = stopped.told_as_dropped();
        session.position.record(&[Update::Stopped { table: table.to_string(), stopped }]).await?;
        tracing::error!(table = %table, reason, "the source keeps too much log for a stopped table (capture.hold_limit)");
        session.health.stop_table(table.to_string(), reason);
    }
    Ok(())
}

/// A signal: these tables, or all that have stopped, are tried again by the next session.
pub(super) fn resume(session: &Session, tables: &[String]) -> Result<(), &'static str> {
    let is_named = |name: &String| tables.is_empty() || tables.contains(name);
    let stops = session.tables.stops();
    let resumed: Vec<_> = stops.iter().map(|(name, _)| name).filter(|name| is_named(&name.to_string())).collect();
    // What joined and is cut, or was left out, is tried by every session.
    if resumed.is_empty() && !session.health.snapshot().stopped.keys().any(is_named) {
        return Err("none of the tables to go on has stopped");
    }
    session.tables.forget_cut(|name| is_named(&name.to_string()));
    for table in &resumed {
        session.tables.resume(table);
        session.health.resume_table(&table.to_string());
    }
    let tables = resumed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    tracing::info!(tables, "stopped tables are tried again, as a signal asks");
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
        assert!(!is_beyond(-1, 0, Some(5)));
    }
}
