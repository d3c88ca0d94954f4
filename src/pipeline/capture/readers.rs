//! The connections of a snapshot, and what there is to read.
//!
//! Every connection holds locks on all tables for itself. The first one waits for them; the others must not, since a statement that
//! waits for the first one's lock would stand before theirs and never come to its turn while they wait. A connection that gets no
//! lock, or that the server refuses, is done without.

use super::{Error, copied::PARTS, settings::CaptureSettings};
use crate::{
    retry::chain,
    source::{
        catalog::PublishedTable,
        chunk::Chunk,
        snapshot::{SnapshotInfo, SnapshotReader},
    },
};

/// Rows that a connection reads at a time, in bytes.
const BATCH_BYTES: usize = 1 << 20;

/// Connections that see the exported snapshot, with the chunks of its tables.
pub(super) struct Readers {
    /// One at least.
    pub(super) readers: Vec<SnapshotReader>,
    /// In the order of the tables.
    pub(super) chunks: Vec<Chunk>,
    /// What the tables occupy, out-of-line values included.
    pub(super) bytes: u64,
    /// What is known of the snapshot.
    pub(super) info: SnapshotInfo,
}

impl Readers {
    /// Locks the tables, cuts them into chunks, and connects as often as that is of use.
    pub(super) async fn open(
        settings: &CaptureSettings,
        snapshot: &str,
        tables: &[PublishedTable],
    ) -> Result<Self, Error> {
        let first = SnapshotReader::open(&settings.source, snapshot, BATCH_BYTES).await?;
        first.lock(tables).await?;
        Self::of(settings, (snapshot, first), tables).await
    }

    /// The same of a table that another connection has locked, for which a statement may wait: nobody waits for that here. `None` where one does.
    pub(super) async fn beside(
        settings: &CaptureSettings,
        snapshot: &str,
        table: &PublishedTable,
    ) -> Result<Option<Self>, Error> {
        let tables = std::slice::from_ref(table);
        let first = SnapshotReader::open(&settings.source, snapshot, BATCH_BYTES).await?;
        if !first.try_lock(tables).await? {
            return Ok(None);
        }
        Self::of(settings, (snapshot, first), tables).await.map(Some)
    }

    async fn of(
        settings: &CaptureSettings,
        (snapshot, first): (&str, SnapshotReader),
        tables: &[PublishedTable],
    ) -> Result<Self, Error> {
        first.check_unaltered(&settings.publication.name, tables).await?;
        let chunks = first.plan(tables, settings.snapshot_chunk_bytes.div_ceil(PARTS)).await?;
        let bytes = first.size(tables).await?;
        let info = first.info().clone();
        let mut readers = vec![first];
        while readers.len() < settings.snapshot_connections.min(chunks.len()) {
            match another(settings, (snapshot, &info), tables).await {
                Ok(Some(reader)) => readers.push(reader),
                Ok(None) => {
                    tracing::warn!(
                        "a statement waits for a table of the snapshot, or the address leads to another server: no further connection reads it"
                    );
                    break;
                }
                // The first one would have had any error that is not of the number of connections.
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "no further connection reads the snapshot");
                    break;
                }
            }
        }
        tracing::info!(
            tables = tables.len(),
            chunks = chunks.len(),
            bytes,
            connections = readers.len(),
            "reading the snapshot"
        );
        Ok(Self { readers, chunks, bytes, info })
    }
}

async fn another(
    settings: &CaptureSettings,
    (snapshot, info): (&str, &SnapshotInfo),
    tables: &[PublishedTable],
) -> Result<Option<SnapshotReader>, Error> {
    let reader = SnapshotReader::open(&settings.source, snapshot, BATCH_BYTES).await?;
    // Behind an address that is several servers' another one may have a snapshot of that name.
    let is_same = reader.info().visible == info.visible;
    if is_same && reader.try_lock(tables).await? { Ok(Some(reader)) } else { Ok(None) }
}
