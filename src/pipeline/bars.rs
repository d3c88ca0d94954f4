//! The progress bars of this process on its terminal.
//!
//! There is one terminal, so there is one set of them; what else is written to it stands above. Where standard error is no terminal,
//! or its lines are for machines, there are none.

use std::{
    io::{self, Write},
    sync::OnceLock,
};

use indicatif::{MultiProgress, ProgressDrawTarget};

/// All bars.
pub fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(MultiProgress::new)
}

/// From now on there are none.
pub fn hide() {
    bars().set_draw_target(ProgressDrawTarget::hidden());
}

/// Standard error above the bars. Whole lines are to be written.
#[derive(Clone, Copy, Debug)]
pub struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bars().suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
