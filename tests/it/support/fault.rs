//! Faults of the parts: stopped and hung ones, and servers with settings of their own.

use std::{fs, path::PathBuf, process::Command};

use tempfile::TempDir;
use walrelay::cli::demo::parts::{Control, Parts};

use super::{chain, parts};

/// A part that does not work until this is dropped. Needs [`super::Access::Alone`].
pub struct Fault {
    control: Control,
    heal: [&'static str; 2],
    healed: bool,
}

impl Fault {
    /// Stops a part in an orderly way.
    pub fn stop(part: &'static str) -> Self {
        Self::begin("stop", ["start", part])
    }

    /// Hangs a part: it keeps its connections and answers nothing.
    pub fn pause(part: &'static str) -> Self {
        Self::begin("pause", ["resume", part])
    }

    /// Kills a part, as a crash does.
    pub fn kill(part: &'static str) -> Self {
        Self::begin("kill", ["start", part])
    }

    fn begin(command: &str, heal: [&'static str; 2]) -> Self {
        let control = control();
        run(&control, &[command, heal[1]], &[]).unwrap_or_else(|error| panic!("{error}"));
        Self { control, heal, healed: false }
    }

    /// The part works again when this returns.
    pub fn heal(mut self) {
        self.healed = true;
        run(&self.control, &self.heal, &[]).unwrap_or_else(|error| panic!("{error}"));
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        if !self.healed
            && let Err(error) = run(&self.control, &self.heal, &[])
        {
            eprintln!("{error}");
        }
    }
}

/// A source server with settings of its own; Kafka, registry and target are the shared ones.
pub struct PrivateParts {
    control: Control,
    /// The parts, with that source.
    pub parts: Parts,
    _folder: TempDir,
}

impl PrivateParts {
    /// Starts a source with these settings, separated by `;`.
    pub fn with_source_settings(settings: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("walrelay-it-").tempdir().expect("a folder for a private server");
        let control = Control { program: control().program, state: folder.path().join("parts") };
        let mut private = Self { parts: parts(), control, _folder: folder };
        run(&private.control, &["up", "source"], &[("PARTS_SOURCE_CONF", settings)])
            .unwrap_or_else(|error| panic!("{error}"));
        let own =
            Parts::from_file(&private.control.state.join("env")).unwrap_or_else(|error| panic!("{}", chain(&error)));
        private.parts.source = own.source;
        private
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
        let server = &self.parts.source;
        let admin =
            server.connect("postgres", "postgres", "").await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let promoted = admin.query_one("SELECT pg_promote()", &[]).await.expect("the server is a stand-by");
        assert!(promoted.get::<_, bool>(0), "the stand-by is promoted");
    }

    /// The folder with the data folders of the state's servers.
    fn data(&self) -> PathBuf {
        let root = fs::read_to_string(self.control.state.join("postgres-root")).expect("the state names its data");
        root.trim_end().into()
    }

    fn control(&self, arguments: &[&str]) {
        tokio::task::block_in_place(|| run(&self.control, arguments, &[])).unwrap_or_else(|error| panic!("{error}"));
    }
}

impl Drop for PrivateParts {
    fn drop(&mut self) {
        if let Err(error) = run(&self.control, &["reset"], &[]) {
            eprintln!("{error}");
        }
    }
}

fn control() -> Control {
    parts().control.expect("the file of addresses names WALRELAY_DEV_PARTS and WALRELAY_DEV_STATE")
}

fn run(control: &Control, arguments: &[&str], environment: &[(&str, &str)]) -> Result<(), String> {
    let output = Command::new(&control.program)
        .arg("--state")
        .arg(&control.state)
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .map_err(|error| format!("cannot run {}: {error}", control.program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(format!("{} {} failed:\n{}", control.program.display(), arguments.join(" "), String::from_utf8_lossy(&text)))
}
