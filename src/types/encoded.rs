//! Texts of another producer that stand for something else, bytes in an encoding or a decimal, into PostgreSQL's text of it.
//!
//! A schema that another producer registered does not tell such texts from others, so this happens where the column is known that
//! they are for.

use super::{
    array::append_item,
    array_scan::{Item, unescape, walk},
    bytea, decimal_form,
    modes::BinaryMode,
    value::{RenderError, Value},
};

/// What a text stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A `bytea`, written so; never [`BinaryMode::Bytes`].
    Bytes(BinaryMode),
    /// A `numeric`, whose special values have Debezium's words.
    Decimal,
}

/// What a column's texts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodedText {
    /// What they stand for.
    pub meaning: Meaning,
    /// The texts are items of an array.
    pub in_array: bool,
}

impl EncodedText {
    /// Appends PostgreSQL's text of the value, or of an array of them, in place of the text that stands for it.
    ///
    /// # Errors
    /// The text, or an item of it, is not in the encoding.
    pub fn append_decoded(self, text: &[u8], out: &mut Vec<u8>) -> Result<(), RenderError> {
        if !self.in_array {
            return append(text, self.meaning, out);
        }
        let start = out.len();
        match (self.append_array(text, out), self.meaning) {
            // Of several dimensions, or with bounds: no word of Debezium's is in these.
            (Err(_), Meaning::Decimal) => {
                out.truncate(start);
                out.extend_from_slice(text);
                Ok(())
            }
            (outcome, _) => outcome,
        }
    }

    fn append_array(self, text: &[u8], out: &mut Vec<u8>) -> Result<(), RenderError> {
        let failed = RenderError("array");
        let items = text.strip_prefix(b"{").and_then(|items| items.strip_suffix(b"}")).ok_or(failed)?;
        let (mut plain, mut decoded, mut separator) = (Vec::new(), Vec::new(), None);
        let mut all = Ok(());
        out.push(b'{');
        walk(items, |item| {
            out.extend(separator.replace(b','));
            let text = match item {
                Item::Null => return out.extend_from_slice(b"NULL"),
                Item::Plain(text) => text,
                Item::Escaped(text) => {
                    unescape(text, &mut plain);
                    &plain
                }
            };
            decoded.clear();
            match append(text, self.meaning, &mut decoded) {
                Ok(()) => append_item(&decoded, out),
                Err(error) => all = Err(error),
            }
        })
        .ok_or(failed)?;
        out.push(b'}');
        all
    }
}

fn append(text: &[u8], meaning: Meaning, out: &mut Vec<u8>) -> Result<(), RenderError> {
    match meaning {
        Meaning::Bytes(mode) => {
            let text = std::str::from_utf8(text).map_err(|_| RenderError("bytea"))?;
            bytea::render_encoded(Value::Text(text), mode, out)
        }
        Meaning::Decimal => {
            out.extend_from_slice(decimal_form::of_debezium(text));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(mode: BinaryMode, in_array: bool, text: &str) -> Option<String> {
        let mut out = Vec::new();
        let outcome = EncodedText { meaning: Meaning::Bytes(mode), in_array }.append_decoded(text.as_bytes(), &mut out);
        outcome.ok().map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn texts_become_bytes() {
        for (mode, text) in
            [(BinaryMode::Base64, "+/8A"), (BinaryMode::Base64UrlSafe, "-_8A"), (BinaryMode::Hex, "fbff00")]
        {
            assert_eq!(decoded(mode, false, text).as_deref(), Some("\\xfbff00"));
            assert_eq!(decoded(mode, false, "").as_deref(), Some("\\x"));
            let array = format!("{{{text},NULL,\"{text}\",\"\"}}");
            let all = r#"{"\\xfbff00",NULL,"\\xfbff00","\\x"}"#;
            assert_eq!(decoded(mode, true, &array).as_deref(), Some(all));
            assert_eq!(decoded(mode, true, "{}").as_deref(), Some("{}"));
            for bad in ["*", "\\x00", "{}"] {
                assert_eq!(decoded(mode, false, bad), None, "{bad}");
            }
            for bad in ["{*}", "{fb", "fbff00", "{fbff00,\"*\"}"] {
                assert_eq!(decoded(mode, true, bad), None, "{bad}");
            }
        }
    }

    #[test]
    fn words_become_special_values() {
        let decimal = |in_array, text: &str| {
            let mut out = Vec::new();
            EncodedText { meaning: Meaning::Decimal, in_array }.append_decoded(text.as_bytes(), &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        for (text, value) in
            [("NAN", "NaN"), ("POSITIVE_INFINITY", "Infinity"), ("NEGATIVE_INFINITY", "-Infinity"), ("-1.50", "-1.50")]
        {
            assert_eq!(decimal(false, text), value);
        }
        for other in ["{{1,2},{3,4}}", "[0:1]={1,2}"] {
            assert_eq!(decimal(true, other), other);
        }
        assert_eq!(decimal(true, "{NAN,NULL,1.5,POSITIVE_INFINITY}"), "{NaN,NULL,1.5,Infinity}");
    }
}
