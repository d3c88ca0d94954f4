//! Rows in the text format of COPY (manual, "COPY", "Text Format").

use crate::event::Cell;

/// A buffer of rows for `COPY … FROM STDIN`.
#[derive(Debug, Default)]
pub struct CopyText {
    bytes: Vec<u8>,
    mid_row: bool,
}

impl CopyText {
    /// Starts the next field of the row.
    fn delimit(&mut self) {
        if self.mid_row {
            self.bytes.push(b'\t');
        }
        self.mid_row = true;
    }

    /// Appends an integer field.
    pub fn int(&mut self, value: i64) {
        self.delimit();
        self.bytes.extend_from_slice(value.to_string().as_bytes());
    }

    /// Appends a NULL field.
    pub fn null(&mut self) {
        self.delimit();
        self.bytes.extend_from_slice(b"\\N");
    }

    /// Appends a text field.
    pub fn text(&mut self, value: &[u8]) {
        self.delimit();
        let mut clean = 0;
        for (at, byte) in value.iter().enumerate() {
            let escape = match byte {
                b'\\' => b'\\',
                b'\n' => b'n',
                b'\r' => b'r',
                b'\t' => b't',
                _ => continue,
            };
            self.bytes.extend_from_slice(value.get(clean..at).unwrap_or_default());
            self.bytes.extend_from_slice(&[b'\\', escape]);
            clean = at + 1;
        }
        self.bytes.extend_from_slice(value.get(clean..).unwrap_or_default());
    }

    /// Appends a cell; what is unchanged is staged as NULL and left out by the statements.
    pub fn cell(&mut self, cell: &Cell) {
        match cell {
            Cell::Text(value) => self.text(value),
            Cell::Null | Cell::Unchanged => self.null(),
        }
    }

    /// Ends the row.
    pub fn end_row(&mut self) {
        self.bytes.push(b'\n');
        self.mid_row = false;
    }

    /// Whether no row was written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes to send.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_the_null_marker_are_escaped() {
        let mut copy = CopyText::default();
        copy.int(-1);
        copy.text(b"a\tb\nc\rd\\N");
        copy.text(b"");
        copy.cell(&Cell::Null);
        copy.text(b"\\.");
        copy.end_row();
        copy.text("ünï".as_bytes());
        copy.end_row();
        assert_eq!(copy.into_bytes(), "-1\ta\\tb\\nc\\rd\\\\N\t\t\\N\t\\\\.\nünï\n".as_bytes());
    }
}
