//! Whether a failover keeps the slot: as far as the primary shows it, or as the stand-by is set up (trap T16; manual, "Replication
//! Slot Synchronization").

use std::collections::BTreeMap;

use super::{deps::SourceDeps, finding::Findings};
use crate::{
    pipeline::capture::{FAILOVER_SLOTS_SINCE, FailoverSlot},
    postgres::{self, Client},
    source::{self, recovery, slot::SlotState},
};

const SUBJECT: &str = "failover";

/// What the server is set up for, seen from here.
pub(super) async fn judge(
    client: &Client,
    findings: &mut Findings,
    deps: &SourceDeps,
    slot: Option<&SlotState>,
) -> Result<(), source::Error> {
    if client.server_version() < FAILOVER_SLOTS_SINCE {
        if deps.failover == FailoverSlot::On {
            findings.problem(
                "capture.failover",
                "is on: servers before PostgreSQL 17 have no failover slots",
                "Set [capture] failover = \"auto\".",
            );
        }
        return Ok(());
    }
    if deps.failover == FailoverSlot::Off {
        findings.ok(SUBJECT, "stand-bys are not to keep the slot (capture.failover)");
        return Ok(());
    }
    if recovery::is_stand_by(client).await? {
        StandBy::read(client).await?.judge(findings);
        return Ok(());
    }
    if slot.is_some_and(|slot| !slot.failover) && deps.failover == FailoverSlot::Auto {
        findings.warning(
            SUBJECT,
            "the slot was made without FAILOVER: stand-bys do not keep it, and their promotion needs a new snapshot",
            "Set [capture] failover = \"on\" and restart capture, which alters it; or \"off\", where that is meant.",
        );
        return Ok(());
    }
    Primary::read(client).await?.judge(findings, slot.is_some());
    Ok(())
}

/// A physical slot of the primary.
struct Physical {
    name: String,
    active: bool,
    lost: bool,
    feedback: Feedback,
}

/// What a stand-by tells its primary of rows that it needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Feedback {
    /// Nothing (`hot_standby_feedback` is off).
    None,
    /// Those of its queries.
    Queries,
    /// Those of logical slots too, such as copies of the primary's.
    Slots,
}

/// What a primary shows of its stand-bys.
struct Primary {
    slots: Vec<Physical>,
    /// `synchronized_standby_slots`.
    awaited: Vec<String>,
}

impl Primary {
    async fn read(client: &Client) -> Result<Self, postgres::Error> {
        let failed = |error| postgres::Error::statement("reading the stand-bys' slots", error);
        let sql = "SELECT slot_name::text, active, wal_status = 'lost' OR invalidation_reason IS NOT NULL, \
                          xmin IS NOT NULL, catalog_xmin IS NOT NULL \
                   FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary ORDER BY 1";
        let mut slots = Vec::new();
        for row in client.query(sql, &[]).await.map_err(failed)? {
            let feedback = match (row.try_get(3).map_err(failed)?, row.try_get(4).map_err(failed)?) {
                (_, true) => Feedback::Slots,
                (true, false) => Feedback::Queries,
                (false, false) => Feedback::None,
            };
            slots.push(Physical {
                name: row.try_get(0).map_err(failed)?,
                active: row.try_get(1).map_err(failed)?,
                lost: row.try_get::<_, Option<bool>>(2).map_err(failed)?.unwrap_or(false),
                feedback,
            });
        }
        let sql = "SELECT array(SELECT trim(n) FROM unnest(string_to_array(current_setting('synchronized_standby_slots'), ',')) n)";
        let row = client.query_one(sql, &[]).await.map_err(failed)?;
        Ok(Self { slots, awaited: row.try_get(0).map_err(failed)? })
    }

    fn judge(&self, findings: &mut Findings, has_slot: bool) {
        let before = findings.count();
        self.judge_awaited(findings);
        if self.slots.is_empty() && self.awaited.is_empty() {
            findings.ok(SUBJECT, "no stand-by has a slot here: there is none that keeps capture's");
            return;
        }
        // Others may belong to archives.
        let is_meant = |slot: &&Physical| self.awaited.is_empty() || self.awaited.contains(&slot.name);
        for slot in self.slots.iter().filter(is_meant).filter(|slot| slot.active && slot.feedback == Feedback::None) {
            findings.warning(
                SUBJECT,
                format!("the stand-by at slot {} gives no feedback, without which it synchronises no slots", slot.name),
                "There: ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf();",
            );
        }
        if has_slot && !self.slots.iter().any(|slot| slot.feedback == Feedback::Slots) {
            findings.warning(
                SUBJECT,
                "no stand-by tells of a copy of a slot: none keeps capture's yet",
                "There: ALTER SYSTEM SET sync_replication_slots = on; SELECT pg_reload_conf(); walrelay check with source.host at \
                 the stand-by tells what else it lacks.",
            );
        }
        if findings.count() == before {
            let names: Vec<_> = self.slots.iter().map(|slot| slot.name.as_str()).collect();
            findings.ok(
                SUBJECT,
                format!("stand-bys keep the slot (slots here: {}); look at each of them too", names.join(", ")),
            );
        }
    }

    fn judge_awaited(&self, findings: &mut Findings) {
        let known: BTreeMap<_, _> = self.slots.iter().map(|slot| (slot.name.as_str(), slot)).collect();
        if self.awaited.is_empty() {
            if let Some(slot) = self.slots.first() {
                findings.warning(
                    SUBJECT,
                    "synchronized_standby_slots names no slot: capture may publish what a stand-by lacks, and its promotion then \
                     needs a new snapshot",
                    format!("ALTER SYSTEM SET synchronized_standby_slots = '{}'; SELECT pg_reload_conf();", slot.name),
                );
            }
            return;
        }
        for name in &self.awaited {
            let state = match known.get(name.as_str()) {
                None => "does not exist",
                Some(slot) if slot.lost => "is lost",
                Some(slot) if !slot.active => "has no stand-by connected",
                Some(_) => continue,
            };
            findings.problem(
                SUBJECT,
                format!("slot {name} of synchronized_standby_slots {state}: the server sends capture nothing new meanwhile"),
                "Connect its stand-by, or take the name out: ALTER SYSTEM SET synchronized_standby_slots = '…'; SELECT pg_reload_conf();",
            );
        }
    }
}

/// How a stand-by is set up to keep slots.
struct StandBy {
    sync: bool,
    feedback: bool,
    slot: String,
    /// `None` where the role may not see it.
    conninfo: Option<String>,
}

impl StandBy {
    async fn read(client: &Client) -> Result<Self, postgres::Error> {
        let failed = |error| postgres::Error::statement("reading the stand-by's settings", error);
        let sql = "SELECT current_setting('sync_replication_slots')::bool, current_setting('hot_standby_feedback')::bool, \
                          current_setting('primary_slot_name'), \
                          (SELECT setting FROM pg_settings WHERE name = 'primary_conninfo')";
        let row = client.query_one(sql, &[]).await.map_err(failed)?;
        Ok(Self {
            sync: row.try_get(0).map_err(failed)?,
            feedback: row.try_get(1).map_err(failed)?,
            slot: row.try_get(2).map_err(failed)?,
            conninfo: row.try_get(3).map_err(failed)?,
        })
    }

    fn judge(&self, findings: &mut Findings) {
        let before = findings.count();
        let mut lacks = |lacks: bool, what: &str, remedy: &str| {
            if lacks {
                findings.warning(SUBJECT, format!("{what}: this stand-by keeps no slots of its primary"), remedy);
            }
        };
        let reload = "SELECT pg_reload_conf();";
        lacks(
            !self.sync,
            "sync_replication_slots is off",
            &format!("ALTER SYSTEM SET sync_replication_slots = on; {reload}"),
        );
        lacks(
            !self.feedback,
            "hot_standby_feedback is off",
            &format!("ALTER SYSTEM SET hot_standby_feedback = on; {reload}"),
        );
        lacks(
            self.slot.is_empty(),
            "primary_slot_name is not set",
            "Make a physical slot at the primary (SELECT pg_create_physical_replication_slot('…');) and name it in primary_slot_name here.",
        );
        let without = self.conninfo.as_ref().is_some_and(|info| !info.contains("dbname"));
        lacks(without, "primary_conninfo has no dbname", "Add dbname=postgres to primary_conninfo.");
        if findings.count() == before {
            let rest = if self.conninfo.is_some() {
                ""
            } else {
                "; primary_conninfo, which this role may not see, needs a dbname"
            };
            findings.ok(SUBJECT, format!("this stand-by is set up to keep slots of its primary{rest}"));
        }
    }
}
