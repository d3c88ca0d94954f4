//! The source: server settings, the role, the slot, and the publication.

use std::time::Duration;

use tokio_postgres::Row;

use super::{
    deps::SourceDeps,
    failover,
    finding::{Finding, Findings, Part},
    tables::{self, Rights},
};
use crate::{
    postgres::{self, Client},
    retry::Classify as _,
    schema::{TableName, quote_identifier, quote_literal},
    source::{
        self,
        catalog::{self, PublishedTable},
        publication::{self, PublicationSpec, SignalTable},
        recovery, running,
        slot::{self, SlotState, SlotVerdict},
        unidentified::Unidentified,
    },
};

const OLDEST_VERSION: u32 = 140_000;
/// From which age on a transaction is told.
const LONG_TRANSACTION: Duration = Duration::from_mins(10);

/// The findings, and the tables that capture will publish.
pub(super) async fn check(deps: &SourceDeps) -> (Vec<Finding>, Vec<PublishedTable>) {
    let mut findings = Findings::new(Part::Source);
    let tables = match catalog::connect(&deps.settings, "walrelay check").await {
        Ok(client) => {
            let version = client.server_version();
            findings
                .ok(client.address().to_owned(), format!("answers; PostgreSQL {}.{}", version / 10_000, version % 100));
            let tables = look(&client, deps, &mut findings).await;
            client.close().await;
            tables
        }
        Err(error) => {
            findings.failed(deps.settings.address(), &error);
            Vec::new()
        }
    };
    (findings.into_list(), tables)
}

async fn look(client: &Client, deps: &SourceDeps, findings: &mut Findings) -> Vec<PublishedTable> {
    if client.server_version() < OLDEST_VERSION {
        findings.problem("version", "is older than PostgreSQL 14", "Upgrade the server.");
    }
    let slot = match slot::read(client, &deps.slot).await {
        Ok(slot) => slot,
        Err(error) => {
            findings.failed(format!("slot {}", deps.slot), &error);
            return Vec::new();
        }
    };
    match Server::read(client).await {
        Ok(server) => {
            server.settings(findings, slot.as_ref());
            server.timeouts(findings, deps.silence);
            server.role(findings, &deps.settings.user);
        }
        Err(error) => findings.failed("server settings", &error),
    }
    judge_slot(findings, deps, slot.as_ref());
    if let Err(error) = failover::judge(client, findings, deps, slot.as_ref()).await {
        findings.failed("failover", &error);
    }
    if let Err(error) = oldest_transaction(client, findings, slot.is_none()).await {
        findings.failed("transactions", &error);
    }
    match judge_tables(client, findings, deps, slot.is_some()).await {
        Ok(tables) => tables,
        Err(error) => {
            findings.failed("tables", &error);
            Vec::new()
        }
    }
}

async fn judge_tables(
    client: &Client,
    findings: &mut Findings,
    deps: &SourceDeps,
    begun: bool,
) -> Result<Vec<PublishedTable>, source::Error> {
    let wanted = publication::wanted(client, &deps.publication).await?;
    let tables = tables::read(client, &deps.publication, &wanted).await?;
    let rights = Rights::read(client, &tables).await?;
    let published = publication::published(client, &deps.publication.name).await?;
    let is_chosen = |table: &TableName| match deps.publication.unidentified {
        Unidentified::Refuse => false,
        Unidentified::Full => !begun && !published.contains(table),
        Unidentified::Publish => true,
    };
    let chosen = wanted.iter().filter(|table| is_chosen(table)).cloned().collect();
    rights.judge(findings, &tables, (&deps.settings.user, &chosen));
    tables::judge_masks(findings, &deps.masks, &tables);
    judge_publication(client, findings, deps, tables.iter().all(|table| rights.owns(table)), begun).await?;
    if let Some(table) = &deps.publication.signal_table {
        judge_signal_table(client, findings, &deps.publication, table).await?;
    }
    Ok(tables)
}

/// What the server says of itself and the role, in one row.
struct Server {
    wal_level: String,
    slots: (i64, i64),
    senders: (i64, i64),
    encoding: String,
    replication: bool,
    keep_size_mb: i64,
    sender_timeout_ms: i64,
    idle_slot_timeout: Option<String>,
    in_recovery: bool,
    feedback: bool,
    version: i32,
}

impl Server {
    async fn read(client: &Client) -> Result<Self, postgres::Error> {
        let doing = "reading the server's settings";
        // a managed service grants replication through a role instead of the attribute
        let sql = "SELECT current_setting('wal_level') AS wal_level, \
            current_setting('max_replication_slots')::bigint AS max_slots, \
            (SELECT count(*) FROM pg_replication_slots) AS slots, \
            current_setting('max_wal_senders')::bigint AS max_senders, \
            (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender') AS senders, \
            (SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()) AS encoding, \
            (SELECT rolreplication OR rolsuper OR EXISTS (SELECT 1 FROM pg_roles g WHERE g.rolname = 'rds_replication' \
                AND pg_has_role(r.oid, g.oid, 'MEMBER')) FROM pg_roles r WHERE rolname = current_user) AS replication, \
            (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS keep_size, \
            (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_sender_timeout') AS sender_timeout, \
            current_setting('idle_replication_slot_timeout', true) AS idle_slot_timeout, \
            pg_is_in_recovery() AS in_recovery, current_setting('hot_standby_feedback')::boolean AS feedback, \
            current_setting('server_version_num')::int AS version";
        let failed = |error| postgres::Error::statement(doing, error);
        let row = client.query_one(sql, &[]).await.map_err(failed)?;
        Self::from_row(&row).map_err(failed)
    }

    fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            wal_level: row.try_get("wal_level")?,
            slots: (row.try_get("slots")?, row.try_get("max_slots")?),
            senders: (row.try_get("senders")?, row.try_get("max_senders")?),
            encoding: row.try_get("encoding")?,
            replication: row.try_get("replication")?,
            keep_size_mb: row.try_get("keep_size")?,
            sender_timeout_ms: row.try_get("sender_timeout")?,
            idle_slot_timeout: row.try_get("idle_slot_timeout")?,
            in_recovery: row.try_get("in_recovery")?,
            feedback: row.try_get("feedback")?,
            version: row.try_get("version")?,
        })
    }

    /// What a stand-by lacks to be captured from.
    fn stands_by(&self, findings: &mut Findings) {
        let subject = "recovery";
        if self.version < 160_000 {
            findings.problem(
                subject,
                "the server is a stand-by, whose log can be decoded from PostgreSQL 16 on",
                "Capture from the primary.",
            );
        } else if self.feedback {
            let message = "the server is a stand-by: the publication is made at its primary, no table is read again, and a snapshot that is cut starts over";
            findings.ok(subject, message);
        } else {
            findings.warning(
                subject,
                "hot_standby_feedback is off: the primary may remove rows of its catalog that the slot of this stand-by needs, and the slot is lost",
                "ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf(); and give it a physical slot (primary_slot_name).",
            );
        }
    }

    fn settings(&self, findings: &mut Findings, slot: Option<&SlotState>) {
        if self.wal_level == "logical" {
            findings.ok("wal_level", "logical");
        } else {
            findings.problem(
                "wal_level",
                format!("is {}: the WAL lacks what logical decoding needs", self.wal_level),
                "ALTER SYSTEM SET wal_level = 'logical'; then restart the server.",
            );
        }
        if self.in_recovery {
            self.stands_by(findings);
        }
        room(findings, "max_replication_slots", self.slots, slot.is_some());
        room(findings, "max_wal_senders", self.senders, slot.is_some_and(|slot| slot.active_pid.is_some()));
        if self.encoding == "UTF8" {
            findings.ok("encoding", "UTF8");
        } else {
            // trap T46: Avro strings are UTF-8; the server converts, except from SQL_ASCII
            let convertible = self.encoding != "SQL_ASCII";
            let remedy = "Move the data to a database with encoding UTF8.";
            let message = format!("is {}", self.encoding);
            if convertible {
                findings.warning("encoding", format!("{message}: the server converts every value"), remedy);
            } else {
                findings.problem("encoding", format!("{message}: texts may not be valid UTF-8"), remedy);
            }
        }
        self.limits(findings);
    }

    fn limits(&self, findings: &mut Findings) {
        if self.keep_size_mb < 0 {
            findings.warning(
                "max_slot_wal_keep_size",
                "is unlimited: while capture is down the WAL grows until the disk is full",
                "ALTER SYSTEM SET max_slot_wal_keep_size = '100GB'; SELECT pg_reload_conf(); or watch the slot's \
                 retained bytes. Beyond the limit the slot is lost and a new snapshot is needed.",
            );
        } else {
            findings.ok("max_slot_wal_keep_size", format!("{} MB; beyond that the slot is lost", self.keep_size_mb));
        }
    }

    fn timeouts(&self, findings: &mut Findings, silence: Duration) {
        // an idle server sends a keepalive after half of its timeout
        let keepalive = Duration::from_millis(self.sender_timeout_ms.unsigned_abs() / 2);
        if keepalive >= silence {
            findings.warning(
                "health.silence",
                format!("is {} s: an idle server is silent for {} s", silence.as_secs(), keepalive.as_secs()),
                "Set health.silence above half of the server's wal_sender_timeout.",
            );
        }
        match self.sender_timeout_ms {
            0 => findings.warning(
                "wal_sender_timeout",
                "is off: after a network cut the slot stays in use for ever",
                "ALTER SYSTEM SET wal_sender_timeout = '60s'; SELECT pg_reload_conf();",
            ),
            short @ 1..5_000 => findings.warning(
                "wal_sender_timeout",
                format!("is {short} ms: a short stall ends the connection"),
                "ALTER SYSTEM SET wal_sender_timeout = '60s'; SELECT pg_reload_conf();",
            ),
            fine => findings.ok("wal_sender_timeout", format!("{} s", fine / 1000)),
        }
        if let Some(timeout) = self.idle_slot_timeout.as_deref().filter(|timeout| *timeout != "0") {
            findings.warning(
                "idle_replication_slot_timeout",
                format!("is {timeout}: the slot is lost when capture is down, or its first snapshot takes, longer"),
                "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();",
            );
        }
    }

    fn role(&self, findings: &mut Findings, user: &str) {
        let subject = format!("role {user}");
        if self.replication {
            findings.ok(subject, "may replicate");
        } else {
            findings.problem(
                subject,
                "lacks the REPLICATION attribute",
                format!(
                    "ALTER ROLE {0} REPLICATION; (Amazon RDS: GRANT rds_replication TO {0};)",
                    quote_identifier(user)
                ),
            );
        }
    }
}

/// Room for one more, unless ours is among those in use.
fn room(findings: &mut Findings, setting: &str, (used, most): (i64, i64), ours: bool) {
    if used < most || ours {
        findings.ok(setting, format!("{used} of {most} in use"));
    } else {
        findings.problem(
            setting,
            format!("all {most} are in use"),
            format!("ALTER SYSTEM SET {setting} = {}; then restart the server, or drop what is unused.", most + 5),
        );
    }
}

fn judge_slot(findings: &mut Findings, deps: &SourceDeps, state: Option<&SlotState>) {
    let subject = format!("slot {}", deps.slot);
    let drop =
        format!("SELECT pg_drop_replication_slot({}); capture then takes a new snapshot.", quote_literal(&deps.slot));
    match slot::assess(state, &deps.settings.database, None) {
        SlotVerdict::Missing => findings.ok(subject, "does not exist; capture creates it and takes a snapshot"),
        SlotVerdict::Ready { confirmed_flush } | SlotVerdict::Ahead { confirmed_flush, .. } => {
            let kept = state.and_then(|state| state.retained_bytes).unwrap_or(0) / (1 << 20);
            findings.ok(subject, format!("confirmed up to {confirmed_flush}, keeps {kept} MiB of WAL"));
        }
        SlotVerdict::InUse { pid, application } => findings.warning(
            subject,
            format!("is in use by process {pid} ({})", application.as_deref().unwrap_or("unknown")),
            "Nothing, if that is the running capture; a second one waits as a hot stand-by.",
        ),
        SlotVerdict::Synchronised { lasting: true } => {
            findings.ok(subject, "is kept here as a copy of the primary's, for a promotion of this stand-by");
        }
        // trap T82
        SlotVerdict::Synchronised { lasting: false } => findings.warning(
            subject,
            "is kept here as a copy that a promotion would lose: it has not caught up with the primary's yet",
            "Wait until capture has confirmed something that was written after the copy was made.",
        ),
        SlotVerdict::Lost { reason } => findings.problem(subject, format!("is lost: {reason}"), drop),
        SlotVerdict::TwoPhase => findings.problem(subject, "decodes prepared transactions at PREPARE", drop),
        SlotVerdict::Foreign { reason } => {
            findings.problem(subject, format!("is not ours: {reason}"), "Set capture.slot to another name.");
        }
    }
}

/// Traps T12 and T25: an old transaction keeps the creation of a slot waiting.
async fn oldest_transaction(client: &Client, findings: &mut Findings, slot_missing: bool) -> Result<(), source::Error> {
    let Some(oldest) = running::oldest(client, 1).await?.pop() else { return Ok(()) };
    if let Some(since) = oldest.since.filter(|since| *since > LONG_TRANSACTION) {
        let effect =
            if slot_missing { "the slot cannot be created before it ends" } else { "the WAL since then is kept" };
        findings.warning(
            "transactions",
            format!("{} has been open for {} s: {effect}", oldest.describe(), since.as_secs()),
            format!("End it: {}", oldest.remedy()),
        );
    }
    Ok(())
}

/// Asks for the publication as capture would, but without the right to change anything.
async fn judge_publication(
    client: &Client,
    findings: &mut Findings,
    deps: &SourceDeps,
    owns_all: bool,
    begun: bool,
) -> Result<(), source::Error> {
    // A stream that goes on takes in tables that can be read beside it, and no others.
    let unidentified = if begun { Unidentified::Refuse } else { deps.publication.unidentified };
    let look = PublicationSpec { create: false, unidentified, ..deps.publication.clone() };
    let subject = format!("publication {}", look.name);
    let error = match publication::ensure(client, &look).await {
        Err(error) if error.is_of_shape() || matches!(error, source::Error::Unidentified { .. }) => {
            findings.problem(subject, error.to_string(), error.hint().unwrap_or_default());
            return Ok(());
        }
        Err(error) => error,
        Ok(report) => {
            if let Some(reason) = report.unjudged {
                findings.warning(subject.clone(), reason, "Compare them by hand: SELECT * FROM pg_publication_tables;");
            }
            findings.ok(subject, format!("holds all {} tables", report.tables.len()));
            return Ok(());
        }
    };
    let creation = "$1 <> '' AND has_database_privilege(current_database(), 'CREATE')";
    let ownership = "EXISTS (SELECT 1 FROM pg_publication WHERE pubname = $1 AND pg_has_role(pubowner, 'USAGE'))";
    let (right, sql, done) = match &error {
        source::Error::PublicationMissing { sql, .. } => (creation, sql, "creates it"),
        source::Error::PublicationLacks { sql, .. } if begun => (
            ownership,
            sql,
            "adds them while it runs, and reads their rows beside the stream (not with capture.snapshot = \"never\")",
        ),
        source::Error::PublicationLacks { sql, .. } => (ownership, sql, "adds them"),
        source::Error::PublicationOptions { sql, .. } => (ownership, sql, "sets them"),
        _ => return Err(error),
    };
    let may = owns_all && holds(client, right, &look.name).await?;
    if recovery::is_stand_by(client).await? {
        findings.problem(subject, error.to_string(), format!("At the primary, as owner of the tables: {sql}"));
    } else if !may || !deps.publication.create {
        findings.problem(subject, error.to_string(), format!("As owner of the tables: {sql}"));
    } else {
        let mended =
            if sql.starts_with("ALTER TABLE") { ", behind REPLICA IDENTITY FULL of tables without a key" } else { "" };
        findings.ok(subject, format!("{error}; capture {done}{mended}"));
    }
    Ok(())
}

/// Whether rows of the signal table come to capture.
async fn judge_signal_table(
    client: &Client,
    findings: &mut Findings,
    spec: &PublicationSpec,
    table: &TableName,
) -> Result<(), source::Error> {
    let subject = format!("signal table {table}");
    let quoted = table.quoted();
    match publication::look_for_signals(client, spec, table).await? {
        SignalTable::Published => findings.ok(subject, format!("is in publication {}", spec.name)),
        SignalTable::Added | SignalTable::Joins => findings.ok(subject, "is captured, and published as the others"),
        SignalTable::Lacking { sql } if spec.create => {
            let ownership = "EXISTS (SELECT 1 FROM pg_publication WHERE pubname = $1 AND pg_has_role(pubowner, 'USAGE')) \
                OR NOT EXISTS (SELECT 1 FROM pg_publication WHERE pubname = $1)";
            if holds(client, ownership, &spec.name).await? {
                findings
                    .ok(subject, format!("is not in publication {} yet; capture adds it when it starts", spec.name));
            } else {
                findings.problem(
                    subject,
                    format!("is not in publication {}", spec.name),
                    format!("As its owner: {sql}"),
                );
            }
        }
        SignalTable::Lacking { sql } => {
            findings.problem(subject, format!("is not in publication {}: its rows ask for nothing", spec.name), sql);
        }
        SignalTable::Missing => findings.problem(
            subject,
            "does not exist",
            format!("CREATE TABLE {quoted} (id varchar(42) PRIMARY KEY, type varchar(32) NOT NULL, data text);"),
        ),
        SignalTable::Keyless => findings.problem(
            subject,
            "has no primary key: published, the source would refuse updates and deletes of its rows",
            format!("ALTER TABLE {quoted} ADD PRIMARY KEY (id);"),
        ),
    }
    Ok(())
}

/// Whether a condition over the publication's name (`$1`) holds.
async fn holds(client: &Client, condition: &str, publication: &str) -> Result<bool, postgres::Error> {
    let failed = |error| postgres::Error::statement("reading the rights on the publication", error);
    let row = client.query_one(&format!("SELECT {condition}"), &[&publication]).await;
    row.and_then(|row| row.try_get(0)).map_err(failed)
}
