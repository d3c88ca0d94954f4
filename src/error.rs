//! The program's last word: any module's error with its exit code, printed as error, causes and help.

use std::fmt::Write as _;

use crate::retry::Classify;

/// Exit codes of all commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or stopped in an orderly way by a signal.
    Success = 0,
    /// `verify` found differences, or `check` found a problem.
    Differs = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The work cannot go on without somebody's help.
    Fatal = 3,
    /// A second signal cut an orderly stop short.
    Interrupted = 130,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error that ends the program.
#[derive(Debug)]
pub struct Error {
    exit: Exit,
    inner: Box<dyn Classify + Send + Sync>,
}

impl Error {
    /// An error of the configuration or the command line.
    pub fn usage(error: impl Classify + Send + Sync + 'static) -> Self {
        Self { exit: Exit::Usage, inner: Box::new(error) }
    }

    /// The exit code that it leads to.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        self.exit
    }

    /// The lines for standard error: what is wrong, the chain of causes, what to do about it.
    #[must_use]
    pub fn report(&self) -> String {
        let mut report = format!("error: {}\n", self.inner);
        let mut cause = self.inner.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // some libraries repeat their cause in their own text
            if !report.contains(&text) {
                writeln!(report, "cause: {text}").expect("writing to a string cannot fail");
            }
            cause = error.source();
        }
        if let Some(hint) = self.inner.hint() {
            writeln!(report, "help: {hint}").expect("writing to a string cannot fail");
        }
        report
    }
}

/// Every module's own error ends the program with [`Exit::Fatal`].
impl<E: Classify + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        Self { exit: Exit::Fatal, inner: Box::new(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::Severity;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read slot walrelay")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("connection refused")]
    struct Inner;

    impl Classify for Outer {
        fn severity(&self) -> Severity {
            Severity::Fatal
        }

        fn hint(&self) -> Option<String> {
            Some("Start the server.".to_owned())
        }
    }

    #[test]
    fn a_report_names_the_error_its_causes_and_the_remedy() {
        let error = Error::from(Outer(Inner));
        assert_eq!(
            error.report(),
            "error: cannot read slot walrelay\ncause: connection refused\nhelp: Start the server.\n"
        );
        assert_eq!(error.exit(), Exit::Fatal);
    }
}
