//! The state of the replication slot, read over an ordinary connection before it is used (traps T6, T13).

use super::error::Error;
use crate::{lsn::Lsn, postgres::Client};

/// The reason of servers that give none.
const WAL_REMOVED: &str = "WAL that it needs was removed";

/// A row of `pg_replication_slots`; columns that the server's version lacks are `None` or false.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// The slot's name.
    pub name: String,
    /// Output plug-in; `None` for a physical slot.
    pub plugin: Option<String>,
    /// The database it belongs to; `None` for a physical slot.
    pub database: Option<String>,
    /// Process id of the session that uses it.
    pub active_pid: Option<i32>,
    /// `application_name` of that session, where it is visible.
    pub active_application: Option<String>,
    /// Everything below is confirmed and will not be sent again.
    pub confirmed_flush: Option<Lsn>,
    /// Where decoding starts again, at or below `confirmed_flush`.
    pub restart_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Bytes of WAL that may be written before the slot is lost; `None` when there is no limit.
    pub safe_wal_size: Option<i64>,
    /// Bytes of WAL that the slot keeps.
    pub retained_bytes: Option<i64>,
    /// How many transactions ago its `catalog_xmin` was: rows of the catalogs that were deleted since cannot be vacuumed.
    pub xmin_age: Option<i32>,
    /// Dropped at the end of its session.
    pub temporary: bool,
    /// Prepared transactions are decoded at PREPARE (trap T39).
    pub two_phase: bool,
    /// Synchronised to stand-bys (17+).
    pub failover: bool,
    /// A stand-by's copy of the primary's slot, which nobody can use before the promotion (17+).
    pub synchronised: bool,
    /// Why it was invalidated (17+; by a conflict with the primary, at a stand-by: 16).
    pub invalidation_reason: Option<String>,
}

/// What may be done with a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotVerdict {
    /// There is no such slot: create it, and take a snapshot.
    Missing,
    /// Start streaming; what is sent again below the recorded position is skipped.
    Ready {
        /// Where the server will begin at the earliest.
        confirmed_flush: Lsn,
    },
    /// Another session uses it: wait (trap T14, T17).
    InUse {
        /// Its process id.
        pid: i32,
        /// Its `application_name`, where it is visible.
        application: Option<String>,
    },
    /// WAL that it needed was removed, or it was invalidated otherwise: resync required (trap T13).
    Lost {
        /// What the server gives as the reason.
        reason: String,
    },
    /// It confirmed more than we recorded: changes between are gone for us, resync required (trap T6).
    Ahead {
        /// The slot's position.
        confirmed_flush: Lsn,
        /// Ours.
        recorded: Lsn,
    },
    /// The server is a stand-by that keeps a copy of the primary's slot for its promotion (trap T16).
    Synchronised {
        /// It outlives the promotion; a fresh copy does not before it has caught up with the primary's (trap T82).
        lasting: bool,
    },
    /// It decodes prepared transactions early, which loses rows after a restart (trap T39): drop and create it anew.
    TwoPhase,
    /// It is not ours: another plug-in, another database, physical or temporary.
    Foreign {
        /// In which way.
        reason: String,
    },
}

/// Reads a slot; `None` if it does not exist.
pub async fn read(client: &Client, name: &str) -> Result<Option<SlotState>, Error> {
    let failed = |error| Error::statement(format!("reading slot {name}"), error);
    let sql = state_query(client.server_version());
    let Some(row) = client.query_opt(&sql, &[&name]).await.map_err(failed)? else { return Ok(None) };
    let lsn = |column: &str| -> Result<Option<Lsn>, Error> {
        let text: Option<String> = row.try_get(column).map_err(failed)?;
        Ok(text.and_then(|text| text.parse().ok()))
    };
    Ok(Some(SlotState {
        name: name.to_owned(),
        confirmed_flush: lsn("confirmed_flush")?,
        restart_lsn: lsn("restart_lsn")?,
        plugin: row.try_get("plugin").map_err(failed)?,
        database: row.try_get("database").map_err(failed)?,
        active_pid: row.try_get("active_pid").map_err(failed)?,
        active_application: row.try_get("application_name").map_err(failed)?,
        wal_status: row.try_get("wal_status").map_err(failed)?,
        safe_wal_size: row.try_get("safe_wal_size").map_err(failed)?,
        retained_bytes: row.try_get("retained_bytes").map_err(failed)?,
        xmin_age: row.try_get("xmin_age").map_err(failed)?,
        temporary: row.try_get("temporary").map_err(failed)?,
        two_phase: row.try_get("two_phase").map_err(failed)?,
        failover: row.try_get("failover").map_err(failed)?,
        synchronised: row.try_get("synchronised").map_err(failed)?,
        invalidation_reason: row.try_get("invalidation_reason").map_err(failed)?,
    }))
}

/// Ends the walsender that holds a slot, if it holds it still.
///
/// # Errors
/// The role may not: it needs to be the walsender's own, or a member of `pg_signal_backend`.
pub async fn end_walsender(client: &Client, name: &str, pid: i32) -> Result<(), Error> {
    let sql =
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active_pid = $2";
    let failed = |error| Error::statement(format!("ending the walsender of slot {name}"), error);
    client.query_opt(sql, &[&name, &pid]).await.map_err(failed).map(drop)
}

fn state_query(server_version: u32) -> String {
    let from_17 = |column: &'static str, before: &'static str| if server_version >= 170_000 { column } else { before };
    format!(
        "SELECT s.plugin::text, age(s.catalog_xmin) AS xmin_age, s.database::text, s.active_pid, a.application_name, s.temporary, s.wal_status, \
                s.safe_wal_size, s.confirmed_flush_lsn::text AS confirmed_flush, s.restart_lsn::text AS restart_lsn, \
                s.two_phase, {} AS failover, {} AS synchronised, {} AS invalidation_reason, \
                pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                                     ELSE pg_current_wal_lsn() END, s.restart_lsn)::bigint AS retained_bytes \
         FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid \
         WHERE s.slot_name = $1",
        from_17("s.failover", "false"),
        // Once promoted, the server says the same of it, and lets it be used.
        from_17("s.synced AND pg_is_in_recovery()", "false"),
        match server_version {
            170_000.. => "s.invalidation_reason",
            160_000.. =>
                "CASE WHEN s.conflicting THEN 'the primary has removed rows that it needs, or lowered wal_level' END",
            _ => "NULL::text",
        },
    )
}

/// Decides what may be done with a slot.
///
/// `recorded` is the flush position of our state, if there is one; a slot below it is normal after a crash of the server
/// (trap T4). `database` is the one that is captured.
#[must_use]
pub fn assess(slot: Option<&SlotState>, database: &str, recorded: Option<Lsn>) -> SlotVerdict {
    let Some(slot) = slot else { return SlotVerdict::Missing };
    if slot.synchronised {
        return SlotVerdict::Synchronised { lasting: !slot.temporary };
    }
    if let Some(reason) = foreign(slot, database) {
        return SlotVerdict::Foreign { reason };
    }
    if let Some(reason) = lost(slot) {
        return SlotVerdict::Lost { reason };
    }
    if slot.two_phase {
        return SlotVerdict::TwoPhase;
    }
    if let Some(pid) = slot.active_pid {
        return SlotVerdict::InUse { pid, application: slot.active_application.clone() };
    }
    match (slot.confirmed_flush, recorded) {
        (Some(confirmed_flush), Some(recorded)) if confirmed_flush > recorded => {
            SlotVerdict::Ahead { confirmed_flush, recorded }
        }
        (Some(confirmed_flush), _) => SlotVerdict::Ready { confirmed_flush },
        (None, _) => SlotVerdict::Lost { reason: "it has no confirmed position".to_owned() },
    }
}

fn foreign(slot: &SlotState, database: &str) -> Option<String> {
    match (&slot.plugin, &slot.database) {
        (None, _) => Some("it is a physical slot".to_owned()),
        (Some(plugin), _) if plugin != "pgoutput" => Some(format!("its output plug-in is {plugin}, not pgoutput")),
        (_, Some(of)) if of != database => Some(format!("it belongs to database {of}, not {database}")),
        _ if slot.temporary => Some("it is temporary".to_owned()),
        _ => None,
    }
}

fn lost(slot: &SlotState) -> Option<String> {
    if let Some(reason) = &slot.invalidation_reason {
        return Some(reason.clone());
    }
    (slot.wal_status.as_deref() == Some("lost")).then(|| WAL_REMOVED.to_owned())
}

/// What keeps the server from invalidating another slot by the same reason, as a sentence behind others; nothing where no setting does.
#[must_use]
pub fn remedy(reason: &str) -> &'static str {
    match reason {
        "idle_timeout" => {
            " The slot was out of use for longer than the server allows: ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();"
        }
        "wal_removed" | WAL_REMOVED => {
            " The slot kept more log than the server allows: raise max_slot_wal_keep_size there."
        }
        _ => "",
    }
}

/// What the server has for logical replication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// `wal_level`; must be `logical`.
    pub wal_level: String,
    /// `max_replication_slots`.
    pub max_slots: i64,
    /// Slots that exist.
    pub used_slots: i64,
    /// `max_wal_senders`.
    pub max_senders: i64,
    /// Walsenders that run.
    pub used_senders: i64,
    /// The role has the REPLICATION attribute, or is a superuser.
    pub may_replicate: bool,
}

/// Reads the server's capacity for one more slot and walsender.
pub async fn capacity(client: &Client) -> Result<Capacity, Error> {
    let failed = |error| Error::statement("reading the capacity for replication", error);
    let sql = "SELECT current_setting('wal_level') AS wal_level, \
                      current_setting('max_replication_slots')::bigint AS max_slots, \
                      (SELECT count(*) FROM pg_replication_slots) AS used_slots, \
                      current_setting('max_wal_senders')::bigint AS max_senders, \
                      (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender') AS used_senders, \
                      (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user) AS may_replicate";
    let row = client.query_one(sql, &[]).await.map_err(failed)?;
    Ok(Capacity {
        wal_level: row.try_get("wal_level").map_err(failed)?,
        max_slots: row.try_get("max_slots").map_err(failed)?,
        used_slots: row.try_get("used_slots").map_err(failed)?,
        max_senders: row.try_get("max_senders").map_err(failed)?,
        used_senders: row.try_get("used_senders").map_err(failed)?,
        may_replicate: row.try_get("may_replicate").map_err(failed)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> SlotState {
        SlotState {
            name: "s".into(),
            plugin: Some("pgoutput".into()),
            database: Some("shop".into()),
            active_pid: None,
            active_application: None,
            confirmed_flush: Some(Lsn(100)),
            restart_lsn: Some(Lsn(90)),
            wal_status: Some("reserved".into()),
            safe_wal_size: None,
            retained_bytes: Some(10),
            xmin_age: Some(1),
            temporary: false,
            two_phase: false,
            failover: false,
            synchronised: false,
            invalidation_reason: None,
        }
    }

    fn verdict(change: impl FnOnce(&mut SlotState), recorded: Option<u64>) -> SlotVerdict {
        let mut slot = slot();
        change(&mut slot);
        assess(Some(&slot), "shop", recorded.map(Lsn))
    }

    #[test]
    fn a_slot_at_or_below_the_recorded_position_is_ready_and_one_above_is_a_gap() {
        // traps T4, T6
        let ready = SlotVerdict::Ready { confirmed_flush: Lsn(100) };
        assert_eq!(assess(None, "shop", None), SlotVerdict::Missing);
        assert_eq!(verdict(|_| {}, None), ready);
        assert_eq!(verdict(|_| {}, Some(100)), ready);
        assert_eq!(verdict(|_| {}, Some(200)), ready);
        let ahead = SlotVerdict::Ahead { confirmed_flush: Lsn(100), recorded: Lsn(99) };
        assert_eq!(verdict(|_| {}, Some(99)), ahead);
    }

    #[test]
    fn lost_two_phase_foreign_copied_and_used_slots_are_refused() {
        // traps T13, T14, T39, T82
        let lost = |verdict| matches!(verdict, SlotVerdict::Lost { .. });
        assert!(lost(verdict(|slot| slot.wal_status = Some("lost".into()), None)));
        assert!(lost(verdict(|slot| slot.invalidation_reason = Some("idle_timeout".into()), None)));
        assert!(lost(verdict(|slot| slot.confirmed_flush = None, None)));
        assert_eq!(verdict(|slot| slot.two_phase = true, None), SlotVerdict::TwoPhase);
        let foreign = |verdict| matches!(verdict, SlotVerdict::Foreign { .. });
        assert!(foreign(verdict(|slot| slot.plugin = None, None)));
        assert!(foreign(verdict(|slot| slot.plugin = Some("test_decoding".into()), None)));
        assert!(foreign(verdict(|slot| slot.database = Some("other".into()), None)));
        assert!(foreign(verdict(|slot| slot.temporary = true, None)));
        let copy = |temporary| {
            verdict(|slot| (slot.synchronised, slot.temporary, slot.active_pid) = (true, temporary, Some(7)), None)
        };
        assert_eq!(copy(false), SlotVerdict::Synchronised { lasting: true });
        assert_eq!(copy(true), SlotVerdict::Synchronised { lasting: false });
        let used = SlotVerdict::InUse { pid: 7, application: None };
        assert_eq!(verdict(|slot| slot.active_pid = Some(7), None), used);
    }
}
