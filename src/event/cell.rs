//! Decoded rows: the texts of one row lie one after the other in one allocation.

use std::{fmt, hash, ops::Deref, sync::Arc};

/// One column of a decoded row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cell {
    /// SQL NULL.
    Null,
    /// Not in the event: keep what the target has.
    Unchanged,
    /// PostgreSQL text.
    Text(Text),
}

/// A decoded row: one cell per column of its [`TableShape`](super::TableShape).
pub type Row = Vec<Cell>;

/// A part of bytes that several cells share.
#[derive(Clone)]
pub struct Text {
    shared: Arc<[u8]>,
    start: u32,
    end: u32,
}

/// Where a cell's text lies among those of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// SQL NULL.
    Null,
    /// Not in the event.
    Unchanged,
    /// From one offset to before the other.
    Text(u32, u32),
}

/// The row whose texts lie in `texts`. An offset beyond them gives an empty text.
#[must_use]
pub fn row(texts: &[u8], spans: &[Span]) -> Row {
    let shared: Arc<[u8]> = texts.into();
    let cell = |span: &Span| match *span {
        Span::Null => Cell::Null,
        Span::Unchanged => Cell::Unchanged,
        Span::Text(start, end) => Cell::Text(Text { shared: Arc::clone(&shared), start, end }),
    };
    spans.iter().map(cell).collect()
}

impl Deref for Text {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.shared.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Text {}

impl hash::Hash for Text {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.escape_ascii())
    }
}

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Self {
        Self { shared: bytes.into(), start: 0, end: u32::try_from(bytes.len()).unwrap_or(u32::MAX) }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        text.as_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_equal_by_their_content() {
        let cells =
            row(b"12ab12", &[Span::Text(0, 2), Span::Null, Span::Text(4, 6), Span::Text(2, 2), Span::Unchanged]);
        assert_eq!(cells[0], cells[2]);
        assert_eq!(cells[0], Cell::Text("12".into()));
        assert_eq!(cells[3], Cell::Text("".into()));
        assert_eq!((&cells[1], &cells[4]), (&Cell::Null, &Cell::Unchanged));
        assert_eq!(format!("{:?}", cells[0]), "Text(b\"12\")");
    }
}
