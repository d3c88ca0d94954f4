//! The pairs of an `hstore`: as a JSON object, or one by one.

/// The pairs of a checked text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HstoreText<'a>(&'a str);

impl<'a> HstoreText<'a> {
    /// The pairs of a text as the server writes it; `None` if it is another.
    pub(super) fn new(text: &'a str) -> Option<Self> {
        pairs(text, |_, _| {})?;
        Some(Self(text))
    }
}

impl HstoreText<'_> {
    /// Number of pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        let mut count = 0;
        let _checked = pairs(self.0, |_, _| count += 1);
        count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Calls `visit` with the key and the value of each pair; `scratch` is any buffer, its content is lost.
    pub fn each(&self, scratch: &mut Vec<u8>, mut visit: impl FnMut(&[u8], Option<&[u8]>)) {
        let _checked = pairs(self.0, |key, value| {
            scratch.clear();
            unescape(key, scratch);
            let end = scratch.len();
            unescape(value.unwrap_or_default(), scratch);
            let (key, rest) = scratch.split_at(end);
            visit(key, value.map(|_| rest));
        });
    }

    /// Appends the JSON object, without blanks, in the order of the text.
    pub fn append_json_to(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        let start = out.len();
        let _checked = pairs(self.0, |key, value| {
            if out.len() > start {
                out.push(b',');
            }
            append_json(key, out);
            out.push(b':');
            match value {
                Some(value) => append_json(value, out),
                None => out.extend_from_slice(b"null"),
            }
        });
        out.push(b'}');
    }
}

/// Appends a text without hstore's escapes.
fn unescape(escaped: &str, out: &mut Vec<u8>) {
    let mut bytes = escaped.bytes();
    while let Some(byte) = bytes.next() {
        out.push(if byte == b'\\' { bytes.next().unwrap_or(byte) } else { byte });
    }
}

/// Appends a quoted text, which is still escaped as hstore escapes it: both escapes are undone and done in one pass.
fn append_json(escaped: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut bytes = escaped.bytes();
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'\\' { bytes.next().unwrap_or(byte) } else { byte };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0C => out.extend_from_slice(b"\\f"),
            0..=0x1F => out.extend_from_slice(format!("\\u{byte:04X}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// Calls `visit` for each pair, keys and values still escaped. The server quotes both always, but for `NULL`.
fn pairs<'a>(text: &'a str, mut visit: impl FnMut(&'a str, Option<&'a str>)) -> Option<()> {
    let mut rest = text;
    while !rest.is_empty() {
        let (key, after) = quoted(rest)?;
        let after = after.strip_prefix("=>")?;
        let (value, after) = match after.strip_prefix("NULL") {
            Some(after) => (None, after),
            None => quoted(after).map(|(value, after)| (Some(value), after))?,
        };
        visit(key, value);
        rest = match after.strip_prefix(", ") {
            Some(more) if !more.is_empty() => more,
            None if after.is_empty() => after,
            _ => return None,
        };
    }
    Some(())
}

fn quoted(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('"')?;
    let mut escaped = false;
    let end = inner.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    Some((inner.get(..end)?, inner.get(end + 1..)?))
}
