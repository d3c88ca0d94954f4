//! What both halves have in common: logging, health, metrics, the HTTP server, and an orderly stop.

use std::{net::SocketAddr, time::Duration};

use prometheus::Registry;

use super::shutdown;
use crate::{
    config::Log,
    error::Error,
    http::Server,
    pipeline::{
        health::{Half, Health},
        metrics,
    },
    retry::{Classify, Severity},
    telemetry,
};

/// Metrics were registered twice.
#[derive(Debug, thiserror::Error)]
#[error("cannot register metrics")]
pub(super) struct MetricsError(#[from] prometheus::Error);

impl Classify for MetricsError {
    fn severity(&self) -> Severity {
        Severity::Fatal
    }
}

/// A half that is about to run.
pub(super) struct Runner {
    /// Its health, for the pipeline to write.
    pub(super) health: Health,
    /// Its metrics.
    pub(super) registry: Registry,
    server: Option<Server>,
}

impl Runner {
    /// Starts logging and binds the HTTP address.
    pub(super) async fn start(
        half: Half,
        log: &Log,
        listen: Option<SocketAddr>,
        silence: Duration,
    ) -> Result<Self, Error> {
        telemetry::init(log.format, &log.level);
        let health = Health::new(half, silence);
        let registry = Registry::new();
        metrics::register_health(&registry, &health).map_err(MetricsError)?;
        let server = match listen {
            Some(address) => Some(Server::bind(address).await?),
            None => None,
        };
        let address = server.as_ref().map(Server::address);
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            http = address.map_or_else(|| "off".to_owned(), |address| format!("http://{address}/")),
            "{half} starts"
        );
        Ok(Self { health, registry, server })
    }

    /// Runs the half until it ends by itself or by a signal; serves HTTP meanwhile.
    pub(super) async fn run<W, E>(self, work: impl FnOnce(shutdown::Requested) -> W) -> Result<(), Error>
    where
        W: Future<Output = Result<(), E>>,
        E: Classify + Send + Sync + 'static,
    {
        let half = self.health.half();
        let work = work(shutdown::requested()?);
        let (health, registry) = (self.health, self.registry);
        let pages = async {
            match self.server {
                Some(server) => server.run(health, registry).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            outcome = work => outcome?,
            outcome = pages => outcome?,
        }
        tracing::info!("{half} has stopped");
        Ok(())
    }
}
