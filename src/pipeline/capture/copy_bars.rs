//! The bars of a snapshot: one of all of it, and one of each table that is under way.

use std::{collections::BTreeMap, time::Duration};

use indicatif::{FormattedDuration, HumanCount, MultiProgress, ProgressBar, ProgressStyle};

use super::figures::Figures;

/// More tables than that have none of their own.
const MOST_TABLES: usize = 8;
/// A whole bar: hundredths of the bytes.
const WHOLE: u64 = 100;

/// The bars; they are gone when it is dropped.
pub(super) struct CopyBars {
    bars: MultiProgress,
    all: ProgressBar,
    /// By the table's number.
    tables: BTreeMap<usize, ProgressBar>,
}

impl CopyBars {
    /// `None` where nobody would see them.
    pub(super) fn new(bars: &MultiProgress) -> Option<Self> {
        if bars.is_hidden() {
            return None;
        }
        let all = bars.add(bar("snapshot"));
        Some(Self { bars: bars.clone(), all, tables: BTreeMap::new() })
    }

    /// Shows how far all of it has come, at which pace and for how long yet, and each table that is under way.
    pub(super) fn show<'a>(
        &mut self,
        (all, pace, left): (Figures, u64, Option<Duration>),
        tables: impl Iterator<Item = (usize, &'a str, Figures)>,
    ) {
        let left = left.map_or_else(String::new, |left| format!(", {} left", FormattedDuration(left)));
        self.all.set_position(all.percent());
        self.all.set_message(format!("{} rows, {} rows/s{left}", HumanCount(all.rows), HumanCount(pace)));
        for (index, name, figures) in tables {
            let [chunks, read] = figures.chunks;
            if figures.rows == 0 || read >= chunks {
                self.drop_table(index);
                continue;
            }
            if self.tables.len() >= MOST_TABLES && !self.tables.contains_key(&index) {
                continue;
            }
            let shown = self.tables.entry(index).or_insert_with(|| self.bars.add(bar(name)));
            shown.set_position(figures.percent());
            shown.set_message(format!("{} rows, {read} of {chunks} chunks", HumanCount(figures.rows)));
        }
    }

    fn drop_table(&mut self, index: usize) {
        if let Some(bar) = self.tables.remove(&index) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
    }
}

impl Drop for CopyBars {
    fn drop(&mut self) {
        for index in self.tables.keys().copied().collect::<Vec<_>>() {
            self.drop_table(index);
        }
        self.all.finish_and_clear();
        self.bars.remove(&self.all);
    }
}

fn bar(name: &str) -> ProgressBar {
    // The template is a constant that indicatif accepts; the default style serves as well.
    let style = ProgressStyle::with_template("{prefix:24!} {bar:30} {percent:>3} %  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(WHOLE).with_style(style.progress_chars("##-")).with_prefix(name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use indicatif::{ProgressDrawTarget, TermLike};

    use super::*;

    /// What was written last to a terminal.
    #[derive(Clone, Debug, Default)]
    struct Screen(Arc<Mutex<String>>);

    impl Screen {
        fn take(&self) -> String {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            120
        }

        fn move_cursor_up(&self, _lines: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _lines: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _columns: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _columns: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, line: &str) -> io::Result<()> {
            self.write_str(line)?;
            self.write_str("\n")
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    const fn figures(rows: u64, read: u64) -> Figures {
        Figures { rows, chunks: [4, read], bytes: [400, read * 100] }
    }

    #[test]
    fn the_whole_and_the_tables_under_way_are_shown_until_they_are_through() {
        let screen = Screen::default();
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(screen.clone()), u8::MAX);
        let mut shown = CopyBars::new(&MultiProgress::with_draw_target(target)).expect("a terminal");
        let all = (figures(1_234_567, 1), 1500, Some(Duration::from_secs(90)));
        let tables = [(0, "public.orders", figures(1000, 2)), (1, "public.items", figures(0, 0))];
        shown.show(all, tables.into_iter());
        let text = screen.take();
        assert!(text.contains("1,234,567 rows, 1,500 rows/s, 00:01:30 left"), "{text}");
        assert!(text.contains("25 %") && text.contains("50 %"), "{text}");
        assert!(text.contains("public.orders") && text.contains("1,000 rows, 2 of 4 chunks"), "{text}");
        assert!(!text.contains("public.items"), "it has not begun: {text}");

        shown.show(all, [(0, "public.orders", figures(2000, 4)), (1, "public.items", figures(7, 1))].into_iter());
        assert_eq!(shown.tables.keys().collect::<Vec<_>>(), [&1]);
        shown.show(all, (2..100).map(|index| (index, "public.one_of_many", figures(1, 1))));
        assert_eq!(shown.tables.len(), MOST_TABLES);
    }

    #[test]
    fn there_are_none_where_nobody_sees_them() {
        assert!(CopyBars::new(&MultiProgress::with_draw_target(ProgressDrawTarget::hidden())).is_none());
    }
}
