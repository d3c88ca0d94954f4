//! Logging to standard error: for people on a terminal, above the bars there, one JSON object per line otherwise.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{
    config::LogFormat,
    pipeline::bars::{self, AboveBars},
};

/// The environment variable that overrides `log.level`.
pub const LEVEL_VARIABLE: &str = "WALRELAY_LOG";

/// Starts logging; a second call changes nothing.
///
/// `level` is a level or a list of levels by module; what cannot be parsed counts as `info`, since the configuration has
/// been judged before.
pub fn init(format: LogFormat, level: &str) {
    let overridden = std::env::var(LEVEL_VARIABLE).ok().filter(|text| !text.is_empty());
    let filter = EnvFilter::try_new(overridden.as_deref().unwrap_or(level)).unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(|| AboveBars);
    let started = if is_human(format, terminal) {
        let ansi = terminal && colours_wanted();
        registry.with(layer.compact().with_target(false).with_ansi(ansi)).try_init()
    } else {
        bars::hide();
        registry.with(layer.json().flatten_event(true).with_current_span(false)).try_init()
    };
    // refused only when a subscriber is there already
    drop(started);
}

const fn is_human(format: LogFormat, terminal: bool) -> bool {
    match format {
        LogFormat::Auto => terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    }
}

/// Whether a terminal may show colours (`NO_COLOR`, <https://no-color.org>).
#[must_use]
pub fn colours_wanted() -> bool {
    wants_colours(std::env::var_os("NO_COLOR").as_deref())
}

/// Any value but the empty one says no.
fn wants_colours(no_color: Option<&std::ffi::OsStr>) -> bool {
    no_color.is_none_or(std::ffi::OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_follows_the_terminal_unless_it_is_set() {
        assert!(is_human(LogFormat::Auto, true) && !is_human(LogFormat::Auto, false));
        assert!(is_human(LogFormat::Human, false) && !is_human(LogFormat::Json, true));
    }

    #[test]
    fn no_color_turns_colours_off_unless_it_is_empty() {
        assert!(wants_colours(None) && wants_colours(Some("".as_ref())));
        assert!(!wants_colours(Some("1".as_ref())));
    }
}
