//! `walrelay capture`.

use super::{half::Runner, settings};
use crate::{
    config::{self, CaptureConfig, Layers},
    error::{Error, Exit},
    kafka::ProducerSettings,
    pipeline::{
        capture::{
            self, CaptureDeps, CaptureSettings, Delivery, GapPolicy, OriginFilter, PartitionPolicy, SnapshotGuard,
            SnapshotMode, StopPolicy, UnloggedPolicy,
        },
        health::Half,
        metrics::CaptureMetrics,
    },
    record::EncoderSettings,
    source::stream::{SpoolSettings, StreamSettings},
};

/// Time that a batch of records may wait to fill; `linger.ms` of `[kafka.producer]` overrides it.
const LINGER_MS: u32 = 5;

/// Captures until a signal or a fatal error.
pub(super) async fn run(layers: &Layers) -> Result<Exit, Error> {
    let config = CaptureConfig::new(layers).map_err(Error::usage)?;
    let settings = settings(&config)?;
    let half = Runner::start(Half::Capture, &config.log, config.listen, config.silence).await?;
    let metrics = CaptureMetrics::new(&half.registry).map_err(super::half::MetricsError::from)?;
    let deps = CaptureDeps { settings, health: half.health.clone(), metrics };
    half.run(|shutdown| capture::run(deps, shutdown)).await?;
    Ok(Exit::Success)
}

fn settings(config: &CaptureConfig) -> Result<CaptureSettings, Error> {
    let (capture, kafka) = (&config.capture, &config.kafka);
    // half for what was read, half for what is on its way to the brokers
    let share = capture.memory.as_usize() / 2;
    let names = settings::topic_names(kafka, Some(&config.source.database));
    Ok(CaptureSettings {
        source: config.source.clone(),
        kafka: settings::kafka(kafka),
        producer: ProducerSettings {
            properties: kafka.producer.clone(),
            compression: kafka.compression.clone(),
            queue_bytes: share,
            linger_ms: LINGER_MS,
            transactional: None,
        },
        delivery: match capture.delivery {
            config::Delivery::AtLeastOnce => Delivery::AtLeastOnce,
            config::Delivery::ExactlyOnce => Delivery::ExactlyOnce,
        },
        commit_interval: capture.commit_interval.0,
        transaction_timeout: capture.transaction_timeout.0,
        topics: settings::topics(kafka).map_err(Error::usage)?,
        create_topics: kafka.topics.create,
        registry: settings::registry(&config.registry),
        encoder: EncoderSettings {
            prefix: kafka.prefix.clone(),
            topics: names.clone(),
            database: config.source.database.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            subjects: settings::subjects(&config.registry),
            modes: settings::modes(&config.format),
            content: settings::content(&config.format),
            masks: settings::masks(capture).map_err(Error::usage)?,
            records: settings::records(&config.format),
            placeholder: config.format.unavailable_value.clone(),
        },
        prefix: kafka.prefix.clone(),
        slot: capture.slot.clone(),
        publication: settings::publication(capture).map_err(Error::usage)?,
        snapshot: match capture.snapshot {
            config::SnapshotMode::Initial => SnapshotMode::Initial,
            config::SnapshotMode::Never => SnapshotMode::Never,
            config::SnapshotMode::Only => SnapshotMode::Only,
            config::SnapshotMode::WhenNeeded => SnapshotMode::WhenNeeded,
        },
        snapshot_connections: capture.snapshot_connections,
        snapshot_chunk_bytes: capture.snapshot_chunk_bytes.0,
        snapshot_guard: match capture.snapshot_guard {
            config::SnapshotGuard::Warn => SnapshotGuard::Warn,
            config::SnapshotGuard::Stop => SnapshotGuard::Stop,
            config::SnapshotGuard::Off => SnapshotGuard::Off,
        },
        failover: settings::failover(capture),
        on_gap: match capture.on_gap {
            // The configuration has no other word of it then.
            _ if capture.snapshot == config::SnapshotMode::WhenNeeded => GapPolicy::Resnapshot,
            config::OnGap::Stop => GapPolicy::Stop,
            config::OnGap::TrustSlot => GapPolicy::TrustSlot,
            config::OnGap::Resnapshot => GapPolicy::Resnapshot,
        },
        on_unlogged: match capture.on_unlogged {
            config::OnUnlogged::Stop => UnloggedPolicy::Stop,
            config::OnUnlogged::Continue => UnloggedPolicy::Continue,
        },
        on_partitions: match capture.on_partitions {
            config::OnPartitions::Tell => PartitionPolicy::Tell,
            config::OnPartitions::Resync => PartitionPolicy::Resync,
            config::OnPartitions::Accept => PartitionPolicy::Accept,
        },
        on_stop: match capture.on_stop {
            config::OnStop::Hold => StopPolicy::Hold,
            config::OnStop::Resync => StopPolicy::Resync,
        },
        hold_limit: capture.hold_limit.0,
        on_bad_row: settings::bad_rows(capture),
        signal_topic: capture.signal_topic.clone(),
        stream: StreamSettings {
            buffer_bytes: share,
            status_interval: capture.status_interval.0,
            receive_timeout: capture.receive_timeout.0,
            spool: SpoolSettings {
                memory: capture.spool.memory.as_usize(),
                limit: capture.spool.limit.0,
                directory: capture.spool.directory.clone(),
            },
            ..StreamSettings::default()
        },
        binary: capture.binary,
        origin: match capture.origin {
            config::Origins::Any => OriginFilter::Any,
            config::Origins::None => OriginFilter::None,
        },
        streaming: capture.streaming,
        checkpoint_interval: capture.checkpoint_interval.0,
        heartbeat_interval: capture.heartbeat_interval.0,
        source_heartbeat_interval: capture.source_heartbeat_interval.0,
        transactions: capture.transactions.then(|| names.transactions().to_owned()),
    })
}
