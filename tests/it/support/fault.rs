//! Parts of a test's own: stopped, killed and hung ones, and servers with settings of their own.

use std::{fs, path::PathBuf, process::Command};

use tempfile::TempDir;
use walrelay::cli::demo::parts::{Control, Parts};

use super::{chain, parts};

/// What a part's server is started with, each time.
type Environment = Vec<(&'static str, String)>;

/// The slot at a source that its stand-by uses.
pub const STAND_BY_SLOT: &str = "standby";

/// A part that does not work until this is dropped.
pub struct Fault {
    control: Control,
    environment: Environment,
    heal: [String; 2],
    healed: bool,
}

impl Fault {
    fn begin((control, environment): (&Control, &Environment), command: &str, heal: &str, part: &str) -> Self {
        run(control, &[command, part], environment).unwrap_or_else(|error| panic!("{error}"));
        let (control, environment) = (control.clone(), environment.clone());
        Self { control, environment, heal: [heal, part].map(str::to_owned), healed: false }
    }

    /// The part works again when this returns.
    pub fn heal(mut self) {
        self.end().unwrap_or_else(|error| panic!("{error}"));
    }

    fn end(&mut self) -> Result<(), String> {
        self.healed = true;
        run(&self.control, &self.heal.each_ref().map(String::as_str), &self.environment)
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        if !self.healed
            && let Err(error) = self.end()
        {
            eprintln!("{error}");
        }
    }
}

/// One part or two that are the test's own, so that no other test misses them; the rest are the shared ones.
pub struct PrivateParts {
    control: Control,
    /// The parts, with those.
    pub parts: Parts,
    /// The one that faults are about.
    part: &'static str,
    environment: Environment,
    _folder: TempDir,
}

impl PrivateParts {
    /// Starts a source with these settings, separated by `;`.
    pub fn with_source_settings(settings: &str) -> Self {
        Self::up("source", vec![("PARTS_SOURCE_CONF", settings.to_owned())])
    }

    /// The same, and a broker.
    pub fn with_source_settings_and_kafka(settings: &str) -> Self {
        Self::up_all(&["source", "kafka"], vec![("PARTS_SOURCE_CONF", settings.to_owned())])
    }

    /// A source with these settings, of this version of PostgreSQL, or the one that the tests are run on where that is later.
    pub fn with_source_of(version: u32, settings: &str) -> Self {
        let chosen = std::env::var("PARTS_PG_VERSION").ok().and_then(|chosen| chosen.parse().ok());
        let version = chosen.unwrap_or(version).max(version).to_string();
        Self::up("source", vec![("PARTS_PG_VERSION", version), ("PARTS_SOURCE_CONF", settings.to_owned())])
    }

    /// Starts a stand-by of the source, which is stopped for that and started again. It takes the log from slot
    /// [`STAND_BY_SLOT`].
    pub async fn stand_by(&self, settings: &str) -> Self {
        self.take_image();
        let (source, Parts { user, password, .. }) = (&self.parts.source, &self.parts);
        let sql = format!("SELECT pg_create_physical_replication_slot('{STAND_BY_SLOT}')");
        let admin =
            source.connect("postgres", "postgres", "").await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        admin.batch_execute(&sql).await.expect("the source takes a slot for its stand-by");
        let conninfo = format!(
            "host={} port={} user={user} password={password} dbname=postgres application_name=standby",
            source.host, source.port
        );
        let settings = format!(
            "primary_conninfo = '{conninfo}'; primary_slot_name = '{STAND_BY_SLOT}'; hot_standby_feedback = on; \
             wal_retrieve_retry_interval = '100ms'; wal_receiver_status_interval = '1s'; {settings}"
        );
        let image = self.data().join("image").to_string_lossy().into_owned();
        let version = self.environment.iter().find(|(name, _)| *name == "PARTS_PG_VERSION").cloned();
        let own = [("PARTS_SOURCE_CONF", settings), ("PARTS_SOURCE_IMAGE", image)];
        let environment = own.into_iter().chain(version).collect();
        tokio::task::block_in_place(|| Self::up("source", environment))
    }

    /// Promotes the stand-by.
    pub async fn promote(&self) {
        let server = &self.parts.source;
        let admin =
            server.connect("postgres", "postgres", "").await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let promoted = admin.query_one("SELECT pg_promote()", &[]).await.expect("the server is a stand-by");
        assert!(promoted.get::<_, bool>(0), "the stand-by is promoted");
    }

    /// Kills the part, which does not come back.
    pub fn kill_for_good(&self) {
        self.control(&["kill", self.part]);
    }

    /// Kills one of these parts, as a crash does, and starts it again.
    pub fn crash(&self, part: &'static str) {
        self.control(&["kill", part]);
        self.control(&["start", part]);
    }

    /// Starts a broker.
    pub fn with_kafka() -> Self {
        Self::up("kafka", Vec::new())
    }

    /// Starts three brokers: topics have a replica on each, and two must have a record before it is acknowledged.
    pub fn with_three_brokers() -> Self {
        Self::up("kafka", vec![("PARTS_KAFKA_NODES", "3".to_owned())])
    }

    /// Kills one of several brokers, as a crash does.
    pub fn kill_broker(&self, id: i32) -> Fault {
        let part = if id == 1 { "kafka".to_owned() } else { format!("kafka{id}") };
        Fault::begin((&self.control, &self.environment), "kill", "start", &part)
    }

    /// Starts a registry.
    pub fn with_registry() -> Self {
        Self::up("registry", Vec::new())
    }

    /// Stops the part in an orderly way.
    pub fn stop(&self) -> Fault {
        Fault::begin((&self.control, &self.environment), "stop", "start", self.part)
    }

    /// Hangs the part: it keeps its connections and answers nothing.
    pub fn pause(&self) -> Fault {
        Fault::begin((&self.control, &self.environment), "pause", "resume", self.part)
    }

    /// Kills the part, as a crash does.
    pub fn kill(&self) -> Fault {
        Fault::begin((&self.control, &self.environment), "kill", "start", self.part)
    }

    fn up(part: &'static str, environment: Environment) -> Self {
        Self::up_all(&[part], environment)
    }

    fn up_all(own: &[&'static str], environment: Environment) -> Self {
        let folder = tempfile::Builder::new().prefix("walrelay-it-").tempdir().expect("a folder for private parts");
        let control = Control { program: control().program, state: folder.path().join("parts") };
        let mut private = Self { parts: parts(), control, part: own[0], environment, _folder: folder };
        run(&private.control, &[&["up"], own].concat(), &private.environment).unwrap_or_else(|error| panic!("{error}"));
        let addresses =
            Parts::from_file(&private.control.state.join("env")).unwrap_or_else(|error| panic!("{}", chain(&error)));
        for part in own {
            match *part {
                "kafka" => private.parts.kafka.clone_from(&addresses.kafka),
                "registry" => private.parts.registry.clone_from(&addresses.registry),
                _ => private.parts.source = addresses.source.clone(),
            }
        }
        private
    }

    /// The source starts again with a certificate of another authority, whose file has the same name.
    pub fn replace_certificates(&self) {
        self.control(&["stop", "source"]);
        let folder = self.control.state.join("tls");
        fs::remove_dir_all(&folder).expect("the folder of the certificates can be removed");
        self.control(&["up", "source"]);
    }

    /// The file of the authority that has signed the source's certificate.
    pub fn authority(&self) -> PathBuf {
        self.control.state.join("tls/ca.crt")
    }

    /// Stops the source, copies its data, slots included, and starts it again. Connections to it end.
    pub fn take_image(&self) {
        self.control(&["stop", "source"]);
        let data = self.data();
        let copied = Command::new("cp").arg("-a").arg(data.join("source")).arg(data.join("image")).status();
        assert!(copied.is_ok_and(|status| status.success()), "the source's data can be copied");
        self.control(&["start", "source"]);
    }

    /// The image takes the source's place, as a stand-by that has heard of nothing since, and is promoted.
    pub async fn promote_image(&self) {
        self.control(&["stop", "source"]);
        let data = self.data();
        let swap =
            |from: &str, to: &str| fs::rename(data.join(from), data.join(to)).expect("the folder can be renamed");
        swap("source", "former");
        swap("image", "source");
        fs::write(data.join("source/standby.signal"), "").expect("the data folder can be written");
        self.control(&["start", "source"]);
        self.promote().await;
    }

    /// The folder with the data folders of the state's servers.
    fn data(&self) -> PathBuf {
        let root = fs::read_to_string(self.control.state.join("postgres-root")).expect("the state names its data");
        root.trim_end().into()
    }

    fn control(&self, arguments: &[&str]) {
        tokio::task::block_in_place(|| run(&self.control, arguments, &self.environment))
            .unwrap_or_else(|error| panic!("{error}"));
    }
}

impl Drop for PrivateParts {
    fn drop(&mut self) {
        if let Err(error) = run(&self.control, &["reset"], &self.environment) {
            eprintln!("{error}");
        }
    }
}

fn control() -> Control {
    parts().control.expect("the file of addresses names WALRELAY_DEV_PARTS and WALRELAY_DEV_STATE")
}

fn run(control: &Control, arguments: &[&str], environment: &Environment) -> Result<(), String> {
    let output = Command::new(&control.program)
        .arg("--state")
        .arg(&control.state)
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .output()
        .map_err(|error| format!("cannot run {}: {error}", control.program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(format!("{} {} failed:\n{}", control.program.display(), arguments.join(" "), String::from_utf8_lossy(&text)))
}
