//! The course of the demo.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::signal::unix::{SignalKind, signal};

use super::{
    error::Error,
    halves::{self, Halves},
    load::Load,
    parts::{ENV_FILE, Parts},
    screen::Screen,
    settings::Settings,
    shop,
    summary::{self, Totals},
    topics,
};

/// Long enough for a start on a loaded machine.
const LIMIT: Duration = Duration::from_mins(1);

/// Options of the demo.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// File of addresses that `dev/parts up` names
    #[arg(long, env = ENV_FILE, value_name = "FILE")]
    parts: PathBuf,
    /// How long the write load runs
    #[arg(long, default_value_t = 24, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(6..))]
    seconds: u64,
    /// Seed of the write load
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    seed: u64,
    /// Folder for the configuration and the logs [default: demo, beside the file of addresses]
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

/// Runs the demo; `true` when `verify` found both ends equal.
pub async fn run(args: Args) -> Result<bool, Error> {
    let parts = Parts::from_file(&args.parts)?;
    let beside = || args.parts.parent().unwrap_or(Path::new(".")).join("demo");
    let folder = args.folder.clone().unwrap_or_else(beside);
    let program = std::env::current_exe().map_err(|source| Error::Process {
        operation: "find the program of",
        name: "walrelay".to_owned(),
        source,
    })?;
    make_empty(&folder)?;
    let mut settings = Settings::new(&parts, shop::NAME, shop::NAME, shop::NAME);
    // The shop's audit_log has no key, and is only ever inserted into.
    settings.set("capture.unidentified", "publish");
    let mut demo = Demo { args, parts, folder, program, settings, screen: Screen::new() };
    let mut terminate = signal(SignalKind::terminate()).map_err(unheard)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unheard)?;
    // Whatever ends the demo, its halves end with it: dropping them kills them.
    let outcome = tokio::select! {
        outcome = demo.play() => outcome,
        _ = terminate.recv() => Err(Error::Interrupted),
        _ = interrupt.recv() => Err(Error::Interrupted),
    };
    demo.screen.close();
    outcome
}

fn unheard(source: io::Error) -> Error {
    Error::Process { operation: "listen for signals of", name: "demo".to_owned(), source }
}

fn make_empty(folder: &Path) -> Result<(), Error> {
    for name in ["capture.log", "apply.log"] {
        // Absent at the first run.
        let _absent = fs::remove_file(folder.join(name));
    }
    fs::create_dir_all(folder).map_err(|source| Error::Write { path: folder.to_owned(), source })
}

struct Demo {
    args: Args,
    parts: Parts,
    folder: PathBuf,
    program: PathBuf,
    settings: Settings,
    screen: Screen,
}

impl Demo {
    async fn play(&mut self) -> Result<bool, Error> {
        self.screen.say("filling the source: database shop with 7 tables");
        shop::create(&self.parts).await?;
        topics::delete_old(&self.parts.kafka).await?;
        self.screen.say("starting capture (source to Kafka) and apply (Kafka to target)");
        let mut halves = Halves::start(&self.program, &self.folder, &self.settings, LIMIT).await?;
        let (capture, apply) = (halves.capture.id(), halves.apply.id());
        self.screen.say(&format!("both are ready: process {capture} and {apply}, snapshot on its way"));
        let transactions = self.write_and_kill(&mut halves).await?;
        self.screen.say(&format!("the load has stopped after {transactions} transactions; catching up"));
        shop::await_row_counts(&self.parts, LIMIT).await?;
        let equal = self.judge(&mut halves).await?;
        halves.stop(LIMIT).await?;
        self.screen.line(&format!("\n{}", summary::guide(&self.parts, &self.settings, &self.program, &self.folder)));
        Ok(equal)
    }

    /// Keeps the load running and kills each half once under it.
    async fn write_and_kill(&mut self, halves: &mut Halves) -> Result<u64, Error> {
        let load = Load::start(&self.parts, self.args.seed).await?;
        self.screen.say("writing: inserts, updates, deletes, key moves, unchanged large values, TRUNCATE");
        let third = Duration::from_secs(self.args.seconds) / 3;
        self.watch(halves, &load, third).await?;
        self.screen.say(&format!("kill -9 {} (capture)", halves.capture.id()));
        let took = halves.capture.kill_and_restart(LIMIT).await?;
        self.screen.say(&format!(
            "capture is ready again after {:.1} s, process {}",
            took.as_secs_f64(),
            halves.capture.id()
        ));
        self.watch(halves, &load, third.saturating_sub(took)).await?;
        self.screen.say(&format!("kill -9 {} (apply)", halves.apply.id()));
        let took = halves.apply.kill_and_restart(LIMIT).await?;
        self.screen.say(&format!(
            "apply is ready again after {:.1} s, process {}",
            took.as_secs_f64(),
            halves.apply.id()
        ));
        self.watch(halves, &load, third.saturating_sub(took)).await?;
        load.stop().await
    }

    /// Shows rates and lag for a time.
    async fn watch(&mut self, halves: &mut Halves, load: &Load, time: Duration) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            halves.observe().await?;
            self.screen.live(&format!(
                "{} transactions | capture {:.0} events, {:.0}/s, lag {:.1} s | apply {:.0} events, {:.0}/s, lag {:.1} s",
                load.transactions(),
                halves.capture.events(),
                halves.capture.rate(),
                halves.capture.lag(),
                halves.apply.events(),
                halves.apply.rate(),
                halves.apply.lag(),
            ));
            if begun.elapsed() >= time {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Runs `verify`, and shows the totals beside its words.
    async fn judge(&mut self, halves: &mut Halves) -> Result<bool, Error> {
        halves.observe().await?;
        let verdict = halves::verify(&self.program, &self.folder).await?;
        let totals = Totals {
            source: shop::row_counts(&self.parts.source).await?,
            target: shop::row_counts(&self.parts.target).await?,
            records: topics::record_counts(&self.parts.kafka)?,
        };
        let equal = verdict.status.success();
        self.screen.say(&format!(
            "capture has published {:.0} events, apply has applied {:.0}; walrelay verify says:",
            halves.capture.events(),
            halves.apply.events()
        ));
        for output in [&verdict.stdout, &verdict.stderr] {
            self.screen.line(String::from_utf8_lossy(output).trim_end());
        }
        self.screen.line(&format!("\n{}", totals.table()));
        let word = if equal { "EQUAL: source and target hold the same rows" } else { "DIFFERENT: see above" };
        self.screen.say(word);
        Ok(equal)
    }
}
