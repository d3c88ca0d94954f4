//! What the demo shows: lines that stay, and one live line on a terminal.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// How often the live line becomes an ordinary one where there is no terminal.
const PLAIN_PERIOD: Duration = Duration::from_secs(3);

/// Standard output and, on a terminal, a live line below it.
pub struct Screen {
    begun: Instant,
    bar: Option<ProgressBar>,
    last_plain: Option<Instant>,
}

impl Screen {
    /// Shows a live line if standard output is a terminal.
    #[must_use]
    pub fn new() -> Self {
        let bar = io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            // The template is a constant that indicatif accepts; the default style serves as well.
            if let Ok(style) = ProgressStyle::with_template("  {spinner} {wide_msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { begun: Instant::now(), bar, last_plain: None }
    }

    /// A line that stays, with the seconds since the start.
    pub fn say(&self, text: &str) {
        self.line(&format!("{:5.1} s  {text}", self.begun.elapsed().as_secs_f64()));
    }

    /// A line as it is.
    pub fn line(&self, text: &str) {
        let print = || {
            let mut out = io::stdout().lock();
            // Nobody is left to tell when standard output is gone.
            let _closed = writeln!(out, "{text}").and_then(|()| out.flush());
        };
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// What goes on at this moment.
    pub fn live(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None if self.last_plain.is_none_or(|last| last.elapsed() >= PLAIN_PERIOD) => {
                self.last_plain = Some(Instant::now());
                self.say(text);
            }
            None => {}
        }
    }

    /// Ends the live line.
    pub fn close(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}
