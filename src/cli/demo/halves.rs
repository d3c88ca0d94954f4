//! Both halves as processes, what they have done so far, and how to kill one and start it again.

use std::{
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, Instant},
};

use super::{
    error::Error,
    process::{Half, Process},
    scrape::Samples,
    settings::Settings,
};
use crate::pipeline::metrics;

/// Both halves of the demo.
pub struct Halves {
    /// Source to Kafka.
    pub capture: Watched,
    /// Kafka to target.
    pub apply: Watched,
}

/// A half and its counters.
pub struct Watched {
    process: Process,
    counter: &'static str,
    /// Events of earlier processes, and of this one as last seen.
    earlier: f64,
    current: f64,
    lag: f64,
    rate: f64,
    seen: Instant,
}

impl Halves {
    /// Starts both and waits until they are ready.
    pub async fn start(program: &Path, folder: &Path, settings: &Settings, limit: Duration) -> Result<Self, Error> {
        let config = folder.join("walrelay.toml");
        settings.write(&config)?;
        let half = |name, http: &str| Half {
            name,
            program: program.to_owned(),
            config: config.clone(),
            log: folder.join(format!("{name}.log")),
            http: settings.text(http).to_owned(),
        };
        let mut halves = Self {
            capture: Watched::start(&half("capture", "http.capture"), metrics::CAPTURE_EVENTS)?,
            apply: Watched::start(&half("apply", "http.apply"), metrics::APPLY_EVENTS)?,
        };
        halves.capture.process.await_ready(limit).await?;
        halves.apply.process.await_ready(limit).await?;
        Ok(halves)
    }

    /// Looks at both; one that has ended by itself is an error.
    pub async fn observe(&mut self) -> Result<(), Error> {
        self.capture.observe().await?;
        self.apply.observe().await
    }

    /// Asks both to stop, apply first.
    pub async fn stop(&mut self, limit: Duration) -> Result<(), Error> {
        self.apply.process.stop(limit).await?;
        self.capture.process.stop(limit).await.map(drop)
    }
}

impl Watched {
    fn start(half: &Half, counter: &'static str) -> Result<Self, Error> {
        let process = half.spawn()?;
        Ok(Self { process, counter, earlier: 0.0, current: 0.0, lag: 0.0, rate: 0.0, seen: Instant::now() })
    }

    /// `kill -9`, a start, and readiness again.
    pub async fn kill_and_restart(&mut self, limit: Duration) -> Result<Duration, Error> {
        self.observe().await?;
        let begun = Instant::now();
        self.process.kill_9()?;
        self.earlier += self.current;
        self.current = 0.0;
        self.process = self.process.half().spawn()?;
        self.process.await_ready(limit).await?;
        self.seen = Instant::now();
        Ok(begun.elapsed())
    }

    async fn observe(&mut self) -> Result<(), Error> {
        self.process.check_alive()?;
        // A page that is not served at this moment leaves the last figures.
        if let Ok(samples) = Samples::fetch(&self.process.half().http).await {
            let events = samples.sum(self.counter);
            let seconds = self.seen.elapsed().as_secs_f64().max(0.001);
            self.rate = (events - self.current).max(0.0) / seconds;
            (self.current, self.lag, self.seen) = (events, samples.sum(metrics::LAG), Instant::now());
        }
        Ok(())
    }

    /// Events through this half, as its own metrics tell, over all its processes.
    #[must_use]
    pub fn events(&self) -> f64 {
        self.earlier + self.current
    }

    /// Events a second between the last two looks.
    #[must_use]
    pub const fn rate(&self) -> f64 {
        self.rate
    }

    /// Seconds behind the commit time of its input.
    #[must_use]
    pub const fn lag(&self) -> f64 {
        self.lag
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

/// Runs `walrelay verify` to its end.
pub async fn verify(program: &Path, folder: &Path) -> Result<Output, Error> {
    let config: PathBuf = folder.join("walrelay.toml");
    let mut command = tokio::process::Command::new(program);
    command.arg("verify").arg("--config").arg(config);
    command.output().await.map_err(|source| Error::Process { operation: "run", name: "verify".to_owned(), source })
}
