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

/// Calls `visit` for each item of an array's whole text, whatever its dimensions and bounds, as far as it is well-formed.
pub(super) fn each_of_any_dimension<'a>(text: &'a [u8], mut visit: impl FnMut(Item<'a>)) {
    let start = text.iter().position(|byte| *byte == b'{').unwrap_or(text.len());
    let mut rest = text.get(start..).unwrap_or_default();
    while let Some((first, after)) = rest.split_first() {
        if matches!(*first, b'{' | b'}' | DELIMITER) {
            rest = after;
            continue;
        }
        let end =
            if *first == b'"' { rest.len() } else { rest.iter().position(|byte| *byte == b'}').unwrap_or(rest.len()) };
        let mut item = rest.get(..end).unwrap_or_default();
        let Some(found) = next(&mut item) else { return };
        visit(found);
        rest = rest.get(end - item.len()..).unwrap_or_default();
    }
}

/// How many items the first dimension of an array of several has, by its text without bounds; `None` if it is another, or malformed.
pub(super) fn outer_length(braces: &[u8]) -> Option<usize> {
    if !braces.starts_with(b"{{") {
        return None;
    }
    let (mut depth, mut outer, mut quoted) = (0_usize, 1_usize, false);
    let mut bytes = braces.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if quoted => drop(bytes.next()?),
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' => depth += 1,
            b'}' => depth = depth.checked_sub(1)?,
            &DELIMITER if depth == 1 => outer += 1,
            _ => {}
        }
    }
    (depth == 0 && !quoted).then_some(outer)
}

/// The item of an array's text that has one, which is not NULL: `{5}`, `{"a b"}`. That of a `box` has commas and no quotes, since
/// its arrays have another delimiter.
#[must_use]
pub fn single_item(text: &str) -> Option<String> {
    let mut items = Vec::new();
    let braces = text.strip_prefix('{')?.strip_suffix('}')?;
    walk(braces.as_bytes(), |item| items.push(item))?;
    match items.as_slice() {
        [Item::Plain(item)] => String::from_utf8(item.to_vec()).ok(),
        [Item::Escaped(item)] => {
            let mut unescaped = Vec::new();
            unescape(item, &mut unescaped);
            String::from_utf8(unescaped).ok()
        }
        [Item::Plain(_), ..] if items.iter().all(|item| matches!(item, Item::Plain(_))) => Some(braces.to_owned()),
        _ => None,
    }
}

pub(super) fn unescape(text: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        out.extend(if *byte == b'\\' { bytes.next() } else { Some(byte) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_dimension_is_counted() {
        for (text, length) in [
            ("{{1,2},{3,4},{5,6}}", Some(3)),
            ("{{{1,2},{3,4}}}", Some(1)),
            (r#"{{"a,b","}\",{"},{NULL,c}}"#, Some(2)),
            ("{1,2}", None),
            ("{{1},{2}", None),
            ("{{1}}}", None),
            (r#"{{"a}}"#, None),
        ] {
            assert_eq!(outer_length(text.as_bytes()), length, "{text}");
        }
    }

    #[test]
    fn an_array_of_one_item_gives_it() {
        let item = |text| single_item(text);
        assert_eq!(item("{5}").as_deref(), Some("5"));
        assert_eq!(item("{(1,2),(0,0)}").as_deref(), Some("(1,2),(0,0)"));
        assert_eq!(item(r#"{"a, \"b\" \\c"}"#).as_deref(), Some(r#"a, "b" \c"#));
        assert_eq!(item(r#"{""}"#).as_deref(), Some(""));
        assert_eq!(item(r#"{"{1,2}"}"#).as_deref(), Some("{1,2}"));
        for other in ["{}", "{NULL}", "{NULL,a}", "{{a}}", "", "{\"a}"] {
            assert_eq!(item(other), None, "{other}");
        }
    }
}
