//! The items of an array's text (manual, "Array Input and Output Syntax").

/// What separates items; only `box` has another delimiter, and its arrays travel as text.
pub(super) const DELIMITER: u8 = b',';

/// One item as it stands in the text.
pub(super) enum Item<'a> {
    Null,
    Plain(&'a [u8]),
    /// Quoted, with backslashes before what follows them.
    Escaped(&'a [u8]),
}

/// What an item's turn brings; `None` ends a malformed text.
fn next<'a>(rest: &mut &'a [u8]) -> Option<Item<'a>> {
    if let Some(quoted) = rest.strip_prefix(b"\"") {
        let (mut end, mut escaped) = (0, false);
        loop {
            match quoted.get(end)? {
                b'"' => break,
                b'\\' => (end, escaped) = (end + 2, true),
                _ => end += 1,
            }
        }
        let text = quoted.get(..end)?;
        *rest = quoted.get(end + 1..)?;
        return Some(if escaped { Item::Escaped(text) } else { Item::Plain(text) });
    }
    let end = rest.iter().position(|byte| *byte == DELIMITER).unwrap_or(rest.len());
    let (text, after) = rest.split_at(end);
    *rest = after;
    let odd = text.is_empty() || text.iter().any(|byte| b"{}\"\\".contains(byte));
    (!odd).then_some(if text == b"NULL" { Item::Null } else { Item::Plain(text) })
}

/// Calls `visit` for each item; how many there were, or `None` if the text is malformed.
pub(super) fn walk<'a>(items: &'a [u8], mut visit: impl FnMut(Item<'a>)) -> Option<usize> {
    let mut rest = items;
    let mut count = 0;
    if rest.is_empty() {
        return Some(0);
    }
    loop {
        visit(next(&mut rest)?);
        count += 1;
        match rest {
            [] => return Some(count),
            [DELIMITER, after @ ..] => rest = after,
            _ => return None,
        }
    }
}

pub(super) fn unescape(text: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        out.extend(if *byte == b'\\' { bytes.next() } else { Some(byte) });
    }
}
