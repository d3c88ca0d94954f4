//! What a check found, as data: the terminal and JSON are two views of it.

use serde::Serialize;

use crate::retry::{Classify, chain};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, with a risk that the remedy removes.
    Warning,
    /// It will not work.
    Problem,
}

/// Which system was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The source PostgreSQL.
    Source,
    /// The Kafka cluster.
    Kafka,
    /// The schema registry.
    Registry,
    /// The target PostgreSQL.
    Target,
}

impl Part {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Kafka => "kafka",
            Self::Registry => "registry",
            Self::Target => "target",
        }
    }
}

/// One fact with its verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where.
    pub part: Part,
    /// What was looked at: a setting, a role, a table, a topic.
    pub subject: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub message: String,
    /// The SQL or setting that fixes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// Collects the findings about one part.
#[derive(Debug)]
pub(super) struct Findings {
    part: Part,
    list: Vec<Finding>,
}

impl Findings {
    pub(super) const fn new(part: Part) -> Self {
        Self { part, list: Vec::new() }
    }

    pub(super) fn ok(&mut self, subject: impl Into<String>, message: impl Into<String>) {
        self.push(subject.into(), Verdict::Ok, message.into(), None);
    }

    pub(super) fn warning(
        &mut self,
        subject: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.push(subject.into(), Verdict::Warning, message.into(), Some(remedy.into()));
    }

    pub(super) fn problem(
        &mut self,
        subject: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.push(subject.into(), Verdict::Problem, message.into(), Some(remedy.into()));
    }

    /// A probe that failed: the error with its causes, and its own hint.
    pub(super) fn failed(&mut self, subject: impl Into<String>, error: &dyn Classify) {
        self.push(subject.into(), Verdict::Problem, chain(error), error.hint());
    }

    /// How many problems there are so far.
    pub(super) fn problems(&self) -> usize {
        self.list.iter().filter(|finding| finding.verdict == Verdict::Problem).count()
    }

    /// How many findings there are so far.
    pub(super) const fn count(&self) -> usize {
        self.list.len()
    }

    pub(super) fn into_list(self) -> Vec<Finding> {
        self.list
    }

    fn push(&mut self, subject: String, verdict: Verdict, message: String, remedy: Option<String>) {
        self.list.push(Finding { part: self.part, subject, verdict, message, remedy });
    }
}
