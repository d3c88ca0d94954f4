//! What is wrong with a configuration: all of it at once, each with the key, the place and the remedy.

use std::{fmt, path::PathBuf};

use crate::retry::{Classify, Severity};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The built-in default.
    Default,
    /// A line of the file, from 1.
    File {
        /// The configuration file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// The value of another key.
    Implied(&'static str),
}

impl Origin {
    /// The line, when it is a file.
    #[must_use]
    pub const fn line(&self) -> Option<usize> {
        match self {
            Self::File { line, .. } => Some(*line),
            Self::Default | Self::Environment(_) | Self::Implied(_) => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line } => write!(f, "{}:{line}", file.display()),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::Implied(setting) => f.write_str(setting),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key's dotted path.
    pub path: String,
    /// Where the value stands; `None` when it is missing.
    pub origin: Option<Origin>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        write!(f, "{} {}", self.path, self.message)
    }
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read configuration file {}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}:{line}: not valid TOML: {reason}", .file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The parser's words.
        reason: String,
    },
    /// Values are missing or wrong.
    #[error("{}", list(.0))]
    Problems(Vec<Problem>),
}

impl Classify for Error {
    fn severity(&self) -> Severity {
        Severity::Fatal
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Read { .. } => {
                "Name the file with --config or WALRELAY_CONFIG, and let this user read it.".to_owned()
            }
            Self::Syntax { .. } => "Texts need quotes; a section begins with its name in brackets.".to_owned(),
            Self::Problems(_) => {
                "Run `walrelay config` to see every value that is in effect and where it comes from.".to_owned()
            }
        })
    }
}

fn list(problems: &[Problem]) -> String {
    match problems {
        [only] => format!("the configuration has a problem: {only}"),
        several => {
            let lines: Vec<_> = several.iter().map(|problem| format!("\n  {problem}")).collect();
            format!("the configuration has {} problems:{}", several.len(), lines.concat())
        }
    }
}
