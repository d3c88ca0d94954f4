//! Prometheus metrics of both halves: the names with their units are constants, the structs hold handles that cost one
//! atomic operation to count with.
//!
//! [`TableMetrics`] are looked up once per table and kept; a label lookup per event would cost more than the event.

use std::collections::HashMap;

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{
    event::Op,
    lsn::{Lsn, Position},
    pipeline::health::Health,
    retry::Severity,
};

/// Change events that were handed to Kafka's producer, by `table` and `op` (the envelope's code).
pub const CAPTURE_EVENTS: &str = "walrelay_capture_events_total";
/// Bytes of their keys, values and headers, by `table`.
pub const CAPTURE_BYTES: &str = "walrelay_capture_bytes_total";
/// Rows that the initial snapshot has read, by `table`.
pub const CAPTURE_SNAPSHOT_ROWS: &str = "walrelay_capture_snapshot_rows_total";
/// Chunks of the initial snapshot by `table` and `state`: `planned` (all of them), and `acknowledged` by Kafka.
pub const CAPTURE_SNAPSHOT_CHUNKS: &str = "walrelay_capture_snapshot_chunks";
/// Changes of rows that could not be published and were left out, by `table` and `policy` (`dead-letter`, `skip`).
pub const CAPTURE_LEFT_OUT: &str = "walrelay_capture_rows_left_out_total";
/// Positions in the source's WAL in bytes, by `position`: [`POSITIONS`].
pub const CAPTURE_POSITION: &str = "walrelay_capture_position_bytes";
/// Heartbeats that were written into the source's log and have come back by it.
pub const CAPTURE_SOURCE_HEARTBEATS: &str = "walrelay_capture_source_heartbeats_total";
/// Bytes of log that the source keeps for the slot.
pub const CAPTURE_SLOT_RETAINED: &str = "walrelay_capture_slot_retained_bytes";
/// Bytes of log that may be written before the source invalidates the slot; −1 where nothing limits it, and before that is known.
pub const CAPTURE_SLOT_SAFE: &str = "walrelay_capture_slot_safe_bytes";
/// Transactions since the slot's `catalog_xmin`.
pub const CAPTURE_SLOT_XMIN_AGE: &str = "walrelay_capture_slot_catalog_xmin_age";
/// Seconds for which something holds the slot back, if that is long, by `kind` and `name` (a process id, a prepared transaction's gid,
/// tables).
pub const CAPTURE_SLOT_HOLDERS: &str = "walrelay_capture_slot_holder_seconds";
/// Bytes that wait in queues between the replication socket and Kafka's acknowledgement.
pub const CAPTURE_QUEUE: &str = "walrelay_capture_queue_bytes";
/// Bytes of log that the source keeps while tables are stopped.
pub const CAPTURE_HELD: &str = "walrelay_capture_held_bytes";
/// Source transactions with events that Kafka has not acknowledged yet.
pub const CAPTURE_IN_FLIGHT: &str = "walrelay_capture_in_flight_transactions";
/// Records that Kafka's producer was handed and has not reported on yet.
pub const CAPTURE_UNACKNOWLEDGED: &str = "walrelay_capture_unacknowledged_records";
/// 1 while the server is asked for transactions that are in progress, else 0.
pub const CAPTURE_STREAMING: &str = "walrelay_capture_streaming";
/// Transactions in progress that are kept in the spool.
pub const CAPTURE_IN_PROGRESS: &str = "walrelay_capture_in_progress_transactions";
/// Bytes of the spool, by `where`: `memory`, `disk`.
pub const CAPTURE_SPOOL: &str = "walrelay_capture_spool_bytes";
/// 1 under exactly-once delivery, else 0.
pub const CAPTURE_EXACTLY_ONCE: &str = "walrelay_capture_exactly_once";
/// Kafka transactions of exactly-once delivery, by `outcome`: `committed`, or `aborted` by capture itself.
pub const CAPTURE_TRANSACTIONS: &str = "walrelay_capture_kafka_transactions_total";
/// Histogram of how long commits of Kafka transactions took, in seconds.
pub const CAPTURE_COMMITS: &str = "walrelay_capture_commit_seconds";
/// Errors, by `kind`: `transient`, `definite`, `fatal`.
pub const CAPTURE_ERRORS: &str = "walrelay_capture_errors_total";

/// Change events that the target has committed, by `table` and `op`.
pub const APPLY_EVENTS: &str = "walrelay_apply_events_total";
/// Bytes of keys and values that were consumed, by `table`.
pub const APPLY_BYTES: &str = "walrelay_apply_bytes_total";
/// Commit LSN of the newest applied event in bytes, by `topic` and `partition`.
pub const APPLY_POSITION: &str = "walrelay_apply_position_bytes";
/// Offset of the next record to apply, by `topic` and `partition`.
pub const APPLY_OFFSET: &str = "walrelay_apply_offset";
/// Events that were skipped because the target had them already.
pub const APPLY_SKIPPED: &str = "walrelay_apply_skipped_total";
/// Target transactions that were committed.
pub const APPLY_BATCHES: &str = "walrelay_apply_batches_total";
/// Bytes that wait in queues between the consumer and the target's commit.
pub const APPLY_QUEUE: &str = "walrelay_apply_queue_bytes";
/// Errors, by `kind`: `transient`, `definite`, `fatal`.
pub const APPLY_ERRORS: &str = "walrelay_apply_errors_total";

/// Seconds behind the commit time of the input, by `half`; grows when nothing is heard.
pub const LAG: &str = "walrelay_lag_seconds";
/// Seconds since the last sign of life from the server, by `half`; −1 before the first.
pub const SILENCE: &str = "walrelay_silence_seconds";
/// 1 when `/readyz` says ready, else 0, by `half`.
pub const READY: &str = "walrelay_ready";
/// Number of stopped tables, by `half`.
pub const STOPPED_TABLES: &str = "walrelay_stopped_tables";
/// Seconds since the half started, by `half`.
pub const UPTIME: &str = "walrelay_uptime_seconds";
/// Always 1; the version is in the labels `version` and `half`.
pub const BUILD_INFO: &str = "walrelay_build_info";

/// Values of the label `position` of [`CAPTURE_POSITION`], in the order of the stream: newest end of WAL that the server
/// told, LSN that is recorded and sent as flushed, and the slot's own two as last read from the source.
pub const POSITIONS: [&str; 4] = ["received", "flush", "confirmed", "restart"];

const OPS: [Op; 6] = [Op::Create, Op::Update, Op::Delete, Op::Read, Op::Truncate, Op::Message];

/// The counters of one table; clones count into the same place.
#[derive(Clone, Debug)]
pub struct TableMetrics {
    events: [IntCounter; OPS.len()],
    /// Bytes of the events.
    pub bytes: IntCounter,
}

impl TableMetrics {
    fn new(events: &IntCounterVec, bytes: &IntCounterVec, table: &str) -> Self {
        Self {
            events: OPS.map(|op| events.with_label_values(&[table, op.code()])),
            bytes: bytes.with_label_values(&[table]),
        }
    }

    /// The counter of one kind of event.
    #[must_use]
    pub const fn events(&self, op: Op) -> &IntCounter {
        let [create, update, delete, read, truncate, message] = &self.events;
        match op {
            Op::Create => create,
            Op::Update => update,
            Op::Delete => delete,
            Op::Read => read,
            Op::Truncate => truncate,
            Op::Message => message,
        }
    }
}

/// Errors counted by severity.
#[derive(Clone, Debug)]
pub struct ErrorMetrics(IntCounterVec);

impl ErrorMetrics {
    /// Counts one error.
    pub fn count(&self, severity: Severity) {
        let kind = match severity {
            Severity::Transient => "transient",
            Severity::Definite => "definite",
            Severity::Fatal => "fatal",
        };
        self.0.with_label_values(&[kind]).inc();
    }
}

/// What `capture` counts.
#[derive(Clone, Debug)]
pub struct CaptureMetrics {
    events: IntCounterVec,
    bytes: IntCounterVec,
    snapshot_rows: IntCounterVec,
    snapshot_chunks: IntGaugeVec,
    left_out: IntCounterVec,
    transactions: IntCounterVec,
    /// Whether delivery is exactly once.
    pub exactly_once: IntGauge,
    /// Seconds that commits of Kafka transactions took.
    pub commit_seconds: Histogram,
    /// WAL position that the server told last.
    pub received: IntGauge,
    /// LSN that is recorded and sent as flushed.
    pub flush: IntGauge,
    /// The slot's `confirmed_flush_lsn`.
    pub confirmed: IntGauge,
    /// The slot's `restart_lsn`.
    pub restart: IntGauge,
    /// Heartbeats that came back by the source's log.
    pub source_heartbeats: IntCounter,
    /// Bytes of log that the source keeps.
    pub slot_retained: IntGauge,
    /// Bytes of log until the slot is lost; −1: no limit.
    pub slot_safe: IntGauge,
    /// Age of the slot's `catalog_xmin`.
    pub slot_xmin_age: IntGauge,
    /// What holds the slot, by `kind` and `name`.
    pub slot_holders: IntGaugeVec,
    /// Bytes in queues.
    pub queue_bytes: IntGauge,
    /// Records that wait for acknowledgements.
    pub unacknowledged: IntGauge,
    /// Transactions that wait for acknowledgements.
    pub in_flight: IntGauge,
    /// Bytes of log that the source keeps while tables are stopped.
    pub held: IntGauge,
    /// Whether transactions in progress are asked for.
    pub streaming: IntGauge,
    /// Transactions in progress.
    pub in_progress: IntGauge,
    /// Bytes of the spool in memory.
    pub spool_memory: IntGauge,
    /// Bytes of the spool on disk.
    pub spool_disk: IntGauge,
    /// Errors by severity.
    pub errors: ErrorMetrics,
}

impl CaptureMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When the registry holds metrics of these names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let position = registered(
            registry,
            IntGaugeVec::new(Opts::new(CAPTURE_POSITION, "Positions in the source's WAL in bytes."), &["position"])?,
        )?;
        let chunks = Opts::new(CAPTURE_SNAPSHOT_CHUNKS, "Chunks of the initial snapshot.");
        let [received, flush, confirmed, restart] = POSITIONS.map(|name| position.with_label_values(&[name]));
        let holders = Opts::new(CAPTURE_SLOT_HOLDERS, "Seconds for which something holds the slot back.");
        let commits = HistogramOpts::new(CAPTURE_COMMITS, "Seconds that commits of Kafka transactions took.")
            .buckets(vec![0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0]);
        let spool = Opts::new(CAPTURE_SPOOL, "Bytes kept of transactions in progress.");
        let spool = registered(registry, IntGaugeVec::new(spool, &["where"])?)?;
        Ok(Self {
            events: counters(registry, CAPTURE_EVENTS, "Change events handed to Kafka.", &["table", "op"])?,
            bytes: counters(registry, CAPTURE_BYTES, "Bytes of keys, values and headers handed to Kafka.", &["table"])?,
            snapshot_rows: counters(registry, CAPTURE_SNAPSHOT_ROWS, "Rows read by the initial snapshot.", &["table"])?,
            snapshot_chunks: registered(registry, IntGaugeVec::new(chunks, &["table", "state"])?)?,
            left_out: counters(
                registry,
                CAPTURE_LEFT_OUT,
                "Changes of rows that could not be published and were left out.",
                &["table", "policy"],
            )?,
            transactions: counters(
                registry,
                CAPTURE_TRANSACTIONS,
                "Kafka transactions of exactly-once delivery.",
                &["outcome"],
            )?,
            exactly_once: gauge(registry, CAPTURE_EXACTLY_ONCE, "1 under exactly-once delivery, else 0.")?,
            commit_seconds: registered(registry, Histogram::with_opts(commits)?)?,
            received,
            flush,
            confirmed,
            restart,
            source_heartbeats: registered(
                registry,
                IntCounter::new(CAPTURE_SOURCE_HEARTBEATS, "Heartbeats that came back by the source's log.")?,
            )?,
            slot_retained: gauge(registry, CAPTURE_SLOT_RETAINED, "Bytes of log that the source keeps for the slot.")?,
            slot_safe: gauge(
                registry,
                CAPTURE_SLOT_SAFE,
                "Bytes of log that may be written before the slot is lost; -1 without a limit.",
            )
            .inspect(|gauge| gauge.set(-1))?,
            slot_xmin_age: gauge(registry, CAPTURE_SLOT_XMIN_AGE, "Transactions since the slot's catalog_xmin.")?,
            slot_holders: registered(registry, IntGaugeVec::new(holders, &["kind", "name"])?)?,
            queue_bytes: gauge(registry, CAPTURE_QUEUE, "Bytes between the replication socket and Kafka.")?,
            unacknowledged: gauge(
                registry,
                CAPTURE_UNACKNOWLEDGED,
                "Records handed to Kafka and not yet acknowledged.",
            )?,
            in_flight: gauge(registry, CAPTURE_IN_FLIGHT, "Source transactions not yet wholly acknowledged.")?,
            held: gauge(
                registry,
                CAPTURE_HELD,
                "Bytes of log that the source keeps while tables are stopped, else 0.",
            )?,
            streaming: gauge(registry, CAPTURE_STREAMING, "1 while transactions in progress are asked for, else 0.")?,
            in_progress: gauge(registry, CAPTURE_IN_PROGRESS, "Transactions in progress that are kept.")?,
            spool_memory: spool.with_label_values(&["memory"]),
            spool_disk: spool.with_label_values(&["disk"]),
            errors: ErrorMetrics(counters(registry, CAPTURE_ERRORS, "Errors by severity.", &["kind"])?),
        })
    }

    /// The counters of a table (`schema.table`); look it up once.
    #[must_use]
    pub fn table(&self, table: &str) -> TableMetrics {
        TableMetrics::new(&self.events, &self.bytes, table)
    }

    /// The counter of Kafka transactions that ended so: `committed` or `aborted`.
    #[must_use]
    pub fn transactions(&self, outcome: &str) -> IntCounter {
        self.transactions.with_label_values(&[outcome])
    }

    /// The counter of a table's changes that were left out under a policy.
    #[must_use]
    pub fn left_out(&self, table: &str, policy: &str) -> IntCounter {
        self.left_out.with_label_values(&[table, policy])
    }

    /// The counter of a table's snapshot rows.
    #[must_use]
    pub fn snapshot_rows(&self, table: &str) -> IntCounter {
        self.snapshot_rows.with_label_values(&[table])
    }

    /// How many chunks a table's snapshot has, and how many of them Kafka has.
    pub fn snapshot_chunks(&self, table: &str, planned: i64, acknowledged: i64) {
        for (state, chunks) in [("planned", planned), ("acknowledged", acknowledged)] {
            self.snapshot_chunks.with_label_values(&[table, state]).set(chunks);
        }
    }
}

/// What `apply` counts.
#[derive(Clone, Debug)]
pub struct ApplyMetrics {
    events: IntCounterVec,
    bytes: IntCounterVec,
    position: IntGaugeVec,
    offset: IntGaugeVec,
    /// Events that the target had already.
    pub skipped: IntCounter,
    /// Committed target transactions.
    pub batches: IntCounter,
    /// Bytes in queues.
    pub queue_bytes: IntGauge,
    /// Errors by severity.
    pub errors: ErrorMetrics,
}

impl ApplyMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When the registry holds metrics of these names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let partition = ["topic", "partition"];
        let position = Opts::new(APPLY_POSITION, "Commit LSN of the newest applied event in bytes.");
        let offset = Opts::new(APPLY_OFFSET, "Offset of the next record to apply.");
        Ok(Self {
            events: counters(registry, APPLY_EVENTS, "Change events committed in the target.", &["table", "op"])?,
            bytes: counters(registry, APPLY_BYTES, "Bytes of keys and values consumed.", &["table"])?,
            position: registered(registry, IntGaugeVec::new(position, &partition)?)?,
            offset: registered(registry, IntGaugeVec::new(offset, &partition)?)?,
            skipped: registered(registry, IntCounter::new(APPLY_SKIPPED, "Events that the target had already.")?)?,
            batches: registered(registry, IntCounter::new(APPLY_BATCHES, "Committed target transactions.")?)?,
            queue_bytes: gauge(registry, APPLY_QUEUE, "Bytes between the consumer and the target's commit.")?,
            errors: ErrorMetrics(counters(registry, APPLY_ERRORS, "Errors by severity.", &["kind"])?),
        })
    }

    /// The counters of a table (`schema.table`); look it up once.
    #[must_use]
    pub fn table(&self, table: &str) -> TableMetrics {
        TableMetrics::new(&self.events, &self.bytes, table)
    }

    /// Notes how far a partition is applied: its high-water mark and the offset of its next record.
    pub fn applied(&self, topic: &str, partition: i32, mark: Position, next_offset: i64) {
        let labels = [topic, &partition.to_string()];
        self.position.with_label_values(&labels).set(lsn_value(mark.commit));
        self.offset.with_label_values(&labels).set(next_offset);
    }

    /// Forgets a partition that another process owns now, so that its stale position is not shown.
    pub fn revoked(&self, topic: &str, partition: i32) {
        let labels = [topic, &partition.to_string()];
        // absent when nothing was applied yet
        let _ = self.position.remove_label_values(&labels);
        let _ = self.offset.remove_label_values(&labels);
    }
}

/// An LSN as a gauge's value. Prometheus keeps floats: exact up to 8 PiB of WAL.
#[must_use]
pub fn lsn_value(lsn: Lsn) -> i64 {
    i64::try_from(lsn.0).unwrap_or(i64::MAX)
}

/// Registers what is derived from [`Health`] at each scrape: lag, silence, readiness, stopped tables, uptime, build info.
///
/// # Errors
/// When the registry holds these metrics of the same half already.
pub fn register_health(registry: &Registry, health: &Health) -> Result<(), prometheus::Error> {
    registry.register(Box::new(HealthCollector::new(health.clone())?))
}

struct HealthCollector {
    health: Health,
    lag: Gauge,
    silence: Gauge,
    ready: Gauge,
    stopped: Gauge,
    uptime: Gauge,
    build: GaugeVec,
}

impl HealthCollector {
    fn new(health: Health) -> Result<Self, prometheus::Error> {
        let labels = HashMap::from([("half".to_owned(), health.half().to_string())]);
        let opts = |name, help| Opts::new(name, help).const_labels(labels.clone());
        let build = GaugeVec::new(opts(BUILD_INFO, "Version of the program."), &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        Ok(Self {
            lag: Gauge::with_opts(opts(LAG, "Seconds behind the commit time of the input."))?,
            silence: Gauge::with_opts(opts(SILENCE, "Seconds since the last sign of life from the server."))?,
            ready: Gauge::with_opts(opts(READY, "1 when ready, else 0."))?,
            stopped: Gauge::with_opts(opts(STOPPED_TABLES, "Number of stopped tables."))?,
            uptime: Gauge::with_opts(opts(UPTIME, "Seconds since the start."))?,
            build,
            health,
        })
    }

    fn parts(&self) -> [&dyn Collector; 6] {
        [&self.lag, &self.silence, &self.ready, &self.stopped, &self.uptime, &self.build]
    }
}

impl Collector for HealthCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let now = self.health.snapshot();
        // before the first sign of life nobody knows the lag: it is at least as old as the process
        self.lag.set(now.lag.unwrap_or(now.uptime).as_secs_f64());
        self.silence.set(now.silent_for.map_or(-1.0, |silent| silent.as_secs_f64()));
        self.ready.set(f64::from(u8::from(now.is_ready())));
        self.stopped.set(f64::from(u32::try_from(now.stopped.len()).unwrap_or(u32::MAX)));
        self.uptime.set(now.uptime.as_secs_f64());
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    registered(registry, IntGauge::new(name, help)?)
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus::TextEncoder;

    use super::*;
    use crate::pipeline::health::Half;

    fn text(registry: &Registry) -> String {
        TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
    }

    #[test]
    fn every_metric_is_documented() {
        let page = include_str!("../../docs/operations.md");
        let registry = Registry::new();
        register_health(&registry, &Health::new(Half::Apply, Duration::from_secs(9))).unwrap();
        let capture = CaptureMetrics::new(&registry).unwrap();
        let apply = ApplyMetrics::new(&registry).unwrap();
        let _ = (capture.table("t"), capture.snapshot_rows("t"), apply.table("t"));
        capture.snapshot_chunks("t", 1, 0);
        capture.transactions("committed").inc();
        capture.slot_holders.with_label_values(&["transaction", "1"]).set(31);
        capture.left_out("t", "skip").inc();
        capture.errors.count(Severity::Fatal);
        apply.errors.count(Severity::Fatal);
        apply.applied("t", 0, Position::default(), 0);
        let families = registry.gather();
        assert_eq!(families.len(), 36);
        for family in families {
            assert!(page.contains(&format!("`{}`", family.name())), "{} is not in docs/operations.md", family.name());
        }
    }

    #[test]
    fn capture_counts_by_table_and_op() {
        let registry = Registry::new();
        let metrics = CaptureMetrics::new(&registry).unwrap();
        let orders = metrics.table("public.orders");
        for op in OPS {
            orders.events(op).inc();
        }
        orders.events(Op::Update).inc_by(2);
        orders.bytes.inc_by(100);
        metrics.restart.set(lsn_value(Lsn(42)));
        metrics.errors.count(Severity::Transient);
        let text = text(&registry);
        for line in [
            r#"walrelay_capture_events_total{op="c",table="public.orders"} 1"#,
            r#"walrelay_capture_events_total{op="u",table="public.orders"} 3"#,
            r#"walrelay_capture_events_total{op="m",table="public.orders"} 1"#,
            r#"walrelay_capture_bytes_total{table="public.orders"} 100"#,
            r#"walrelay_capture_position_bytes{position="restart"} 42"#,
            r#"walrelay_capture_errors_total{kind="transient"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_revoked_partition_is_no_longer_shown() {
        let registry = Registry::new();
        let metrics = ApplyMetrics::new(&registry).unwrap();
        let mark = Position { epoch: 0, commit: Lsn(7), ordinal: 1 };
        metrics.applied("shop.public.orders", 2, mark, 11);
        let line = r#"walrelay_apply_position_bytes{partition="2",topic="shop.public.orders"} 7"#;
        assert!(text(&registry).contains(line));
        metrics.revoked("shop.public.orders", 2);
        assert!(!text(&registry).contains("shop.public.orders"));
    }

    #[test]
    fn health_is_read_at_each_scrape() {
        let registry = Registry::new();
        let health = Health::new(Half::Apply, Duration::from_mins(1));
        register_health(&registry, &health).unwrap();
        let before = text(&registry);
        assert!(before.contains(r#"walrelay_ready{half="apply"} 0"#), "{before}");
        assert!(before.contains(r#"walrelay_silence_seconds{half="apply"} -1"#), "{before}");
        health.set_started();
        health.stop_table("public.orders", "refused");
        let after = text(&registry);
        assert!(after.contains(r#"walrelay_stopped_tables{half="apply"} 1"#), "{after}");
        assert!(after.contains(r#"walrelay_lag_seconds{half="apply"} 0"#), "{after}");
    }
}
