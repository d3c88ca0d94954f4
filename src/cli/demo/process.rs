//! One half as a process of its own: started, awaited, killed, with its log in a file.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use super::{error::Error, scrape};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);

/// What a half is started with; restarts use the same.
#[derive(Clone, Debug)]
pub struct Half {
    /// `capture` or `apply`.
    pub name: &'static str,
    /// The program.
    pub program: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its log: appended to.
    pub log: PathBuf,
    /// Where it serves health and metrics, `host:port`.
    pub http: String,
}

impl Half {
    /// Starts the process; its output goes to the log.
    pub fn spawn(&self) -> Result<Process, Error> {
        let failed = |source| Error::Process { operation: "start", name: self.name.to_owned(), source };
        let log = OpenOptions::new().create(true).append(true).open(&self.log).map_err(failed)?;
        let errors = log.try_clone().map_err(failed)?;
        let child = Command::new(&self.program)
            .arg(self.name)
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(failed)?;
        Ok(Process { half: self.clone(), child })
    }
}

/// A running half. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    half: Half,
    child: Child,
}

impl Process {
    /// What it was started with.
    #[must_use]
    pub const fn half(&self) -> &Half {
        &self.half
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `/readyz` says ready; an end of the process before that is an error.
    pub async fn await_ready(&mut self, limit: Duration) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.exit_status()? {
                return Err(self.ended(status));
            }
            if scrape::is_ready(&self.half.http).await {
                return Ok(());
            }
            if begun.elapsed() > limit {
                return Err(Error::Late {
                    what: format!("readiness of {}", self.half.name),
                    seconds: limit.as_secs(),
                    log: format!("; the end of its log:\n{}", tail(&self.half.log, 20)),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The exit status, if it has ended.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.child.try_wait().map_err(|source| self.failed("watch", source))
    }

    /// An error when it has ended by itself.
    pub fn check_alive(&mut self) -> Result<(), Error> {
        match self.exit_status()? {
            Some(status) => Err(self.ended(status)),
            None => Ok(()),
        }
    }

    /// Waits for its end.
    pub async fn await_exit(&mut self, limit: Duration) -> Result<ExitStatus, Error> {
        let begun = Instant::now();
        while begun.elapsed() <= limit {
            if let Some(status) = self.exit_status()? {
                return Ok(status);
            }
            tokio::time::sleep(POLL).await;
        }
        Err(Error::Late {
            what: format!("the end of {}", self.half.name),
            seconds: limit.as_secs(),
            log: format!("; the end of its log:\n{}", tail(&self.half.log, 20)),
        })
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill_9(&mut self) -> Result<(), Error> {
        self.child.kill().and_then(|()| self.child.wait()).map_err(|source| self.failed("kill", source)).map(drop)
    }

    /// Asks it to stop (SIGTERM), and waits for its end.
    pub async fn stop(&mut self, limit: Duration) -> Result<ExitStatus, Error> {
        if let Some(status) = self.exit_status()? {
            return Ok(status);
        }
        self.signal("TERM")?;
        self.await_exit(limit).await
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) -> Result<(), Error> {
        // every shell has kill built in, while the program of that name is missing from small systems
        let outcome = Command::new("sh").args(["-c", "kill -s $0 $1", name, &self.child.id().to_string()]).status();
        match outcome {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(self.failed("signal", io::Error::other("kill failed"))),
            Err(source) => Err(self.failed("signal", source)),
        }
    }

    /// Largest resident size so far in bytes (`VmHWM`), while it runs.
    #[must_use]
    pub fn peak_memory(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.half.log, lines)
    }

    fn ended(&self, status: ExitStatus) -> Error {
        Error::Ended { name: self.half.name.to_owned(), status: status.to_string(), log: self.log_tail(20) }
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> Error {
        Error::Process { operation, name: self.half.name.to_owned(), source }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The last lines of a file; empty when it cannot be read.
#[must_use]
pub fn tail(file: &Path, lines: usize) -> String {
    let text = File::open(file).and_then(io::read_to_string).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(folder: &Path, script: &str) -> Process {
        let program = folder.join("half");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        let status = Command::new("chmod").arg("+x").arg(&program).status().unwrap();
        assert!(status.success());
        let half = Half {
            name: "capture",
            program,
            config: folder.join("none.toml"),
            log: folder.join("log"),
            http: "127.0.0.1:1".to_owned(),
        };
        half.spawn().unwrap()
    }

    #[tokio::test]
    async fn an_end_before_readiness_is_told_with_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = shell(folder.path(), "echo no such slot; exit 3");
        let error = process.await_ready(Duration::from_secs(10)).await.unwrap_err().to_string();
        assert!(error.contains("no such slot") && error.contains('3'), "{error}");
    }

    #[tokio::test]
    async fn a_killed_process_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = shell(folder.path(), "exec tail -f /dev/null");
        assert!(process.check_alive().is_ok());
        assert!(process.peak_memory().is_some());
        process.kill_9().unwrap();
        assert!(process.exit_status().unwrap().is_some());
    }

    #[tokio::test]
    async fn a_process_that_is_asked_to_stop_can_end_in_its_own_way() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = shell(folder.path(), "trap 'exit 7' TERM; echo set; while :; do :; done");
        while process.log_tail(1) != "set" {
            tokio::task::yield_now().await;
        }
        assert_eq!(process.stop(Duration::from_secs(10)).await.unwrap().code(), Some(7));
    }
}
