//! A column's default as a schema has it: what Debezium makes of the default's expression, which it does not evaluate.
//!
//! The expression is that of `pg_get_expr`. A call stands for a value that is made at each insert, and gives the type's own
//! stand-in; else the first literal in quotes counts, or the expression itself where it has none. Columns of arrays, domains and
//! types of extensions have no default, nor have those of the built-in types that are not named here
//! (`PostgresDefaultValueConverter`).

use std::borrow::Cow;

use serde_json::Value as Json;

use super::{
    codec::{Codec, Family},
    column::{ColumnType, TypeKind},
    date,
    decimal_form::Origin,
    numeric, timestamp,
    value::{Parsed, Value},
};

/// Expressions without parentheses whose value is made at each insert.
const CURRENT: [&str; 5] = ["current_timestamp", "current_time", "current_date", "localtime", "localtimestamp"];
/// As a default of a date or a timestamp neither is its value: Debezium has the ends of Java's types.
const INFINITIES: [&str; 2] = ["infinity", "-infinity"];
/// How the NULL of a type begins.
const NULL: &str = "NULL::";

/// What an expression says.
#[derive(Debug, PartialEq, Eq)]
enum Said<'a> {
    /// Its value is made at each insert.
    Made,
    /// A literal.
    Text(Cow<'a, str>),
}

impl Codec {
    /// The default that the schema has for a column of a type, as PostgreSQL's text; `None` if it has none.
    #[must_use]
    pub fn default_text(&self, ty: &ColumnType, expression: &str) -> Option<String> {
        let text = match &ty.kind {
            TypeKind::Base => base_text(ty, expression)?,
            TypeKind::Enum(_) => label(expression)?,
            TypeKind::Domain(_) | TypeKind::Array(_) | TypeKind::Extension(_) => return None,
        };
        let has_json = self.default_value(&text).is_some_and(|value| json(&value).is_some());
        has_json.then_some(text)
    }

    /// The value of a text that [`Self::default_text`] gave.
    #[must_use]
    pub fn default_value<'a>(&'a self, text: &'a str) -> Option<Value<'a>> {
        // A record cannot be a default in Kafka Connect.
        if matches!(self.0, Family::VariableScaleDecimal(_) | Family::Point) {
            return None;
        }
        match &self.0 {
            Family::Date(form, special) if INFINITIES.contains(&text) => {
                return date::infinite_default(text, *form).filter(|_| special.is_debezium());
            }
            Family::Timestamp(form, special) if INFINITIES.contains(&text) => {
                return timestamp::infinite_default(text, *form).filter(|_| special.is_debezium());
            }
            _ => {}
        }
        match self.parse(text.as_bytes()) {
            Ok(Parsed::Value(value) | Parsed::Lossy(value)) => Some(value),
            Ok(Parsed::Unrepresentable { .. }) | Err(_) => None,
        }
    }

    /// The text of what stands in a field that cannot be null and has no default, where the type's modifier decides it: the zero of
    /// a scale.
    #[must_use]
    pub fn zero_text(&self, ty: &ColumnType) -> Option<String> {
        if !matches!(self.0, Family::DecimalText(Origin::Declared)) {
            return None;
        }
        decimal(ty.below_domains().typmod, "0")
    }

    /// The same value as it stands in a schema.
    #[must_use]
    pub fn default_json(&self, text: &str) -> Option<Json> {
        json(&self.default_value(text)?)
    }
}

/// A value in JSON as Avro has defaults (specification, "Complex Types", `default`): bytes are characters below 256.
fn json(value: &Value<'_>) -> Option<Json> {
    let characters = |bytes: Vec<u8>| Json::String(bytes.into_iter().map(char::from).collect());
    let mut bytes = Vec::new();
    Some(match *value {
        Value::Boolean(value) => Json::Bool(value),
        Value::Int(value) => Json::from(value),
        Value::Long(value) => Json::from(value),
        // The shortest digits of a float are not those of the double that is next to it.
        Value::Float(value) => Json::from(value.to_string().parse::<f64>().ok().filter(|value| value.is_finite())?),
        Value::Double(value) => Json::from(Some(value).filter(|value| value.is_finite())?),
        Value::Text(value) => Json::from(value),
        Value::Short(ref value) => Json::from(value.as_str()),
        Value::Bits(bits) => {
            bits.append_to(&mut bytes);
            characters(bytes)
        }
        Value::Decimal(unscaled) => {
            unscaled.append_to(&mut bytes);
            characters(bytes)
        }
        Value::Bytes(_)
        | Value::Encoded(..)
        | Value::Array(_)
        | Value::Nulls(_)
        | Value::Hstore(_)
        | Value::Map(_)
        | Value::Point { .. }
        | Value::VariableScaleDecimal { .. } => return None,
    })
}

/// The default of a built-in type (`pg_type.dat`).
fn base_text(ty: &ColumnType, expression: &str) -> Option<String> {
    let made = match ty.oid {
        16 => "false",
        20 | 21 | 23 => "0",
        700 | 701 | 1700 => "0.0",
        25 | 142 | 1042 | 1043 => "",
        114 | 3802 => "{}",
        2950 => "00000000-0000-0000-0000-000000000000",
        1082 => "1970-01-01",
        1083 | 1186 => "00:00:00",
        1114 => "1970-01-01 00:00:00",
        1184 => "1970-01-01 00:00:00+00",
        1560 => "00",
        1562 => "0",
        _ => return None,
    };
    let is_text = made.is_empty() || made == "{}";
    let text = match said(if is_text { expression } else { expression.trim() })? {
        Said::Made => Cow::Borrowed(made),
        Said::Text(text) => text,
    };
    match ty.oid {
        16 => Some(if text.eq_ignore_ascii_case("true") { "t" } else { "f" }.to_owned()),
        20 | 21 | 23 => whole(ty.oid, &text),
        700 | 701 => text.parse::<f64>().ok().map(|_| text.into_owned()),
        1700 => decimal(ty.typmod, &text),
        // No more than NaN is a number, an infinity is a moment for the readers of a schema.
        1184 if text.ends_with("infinity") => None,
        2950 => Some(text.to_ascii_lowercase()).filter(|text| is_uuid(text)),
        // One bit is a boolean, and more are none.
        1560 if ty.typmod == 1 && text.len() != 1 => None,
        _ => Some(text.into_owned()),
    }
}

fn said(expression: &str) -> Option<Said<'_>> {
    if is_call(expression) || CURRENT.iter().any(|name| expression.eq_ignore_ascii_case(name)) {
        return Some(Said::Made);
    }
    if !expression.contains('\'') {
        return (!expression.starts_with(NULL)).then_some(Said::Text(expression.into()));
    }
    literal(expression).map(Said::Text)
}

/// Whether it begins with a name and parentheses, which close in the same line.
fn is_call(expression: &str) -> bool {
    let inner = expression.strip_prefix('(').unwrap_or(expression);
    let is_name = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '.');
    let arguments = inner.trim_start_matches(is_name);
    let line = arguments.split(['\n', '\r']).next().unwrap_or_default();
    arguments.len() < inner.len() && line.starts_with('(') && line.contains(')')
}

/// The first literal in quotes; `None` if it does not end.
fn literal(expression: &str) -> Option<Cow<'_, str>> {
    let (_, begun) = expression.split_once('\'')?;
    let mut quotes = begun.match_indices('\'').map(|(at, _)| at).peekable();
    while let Some(at) = quotes.next() {
        if quotes.peek() != Some(&(at + 1)) {
            return Some(begun[..at].replace("''", "'").into());
        }
        quotes.next();
    }
    None
}

/// The label of an enumeration: a single literal that is cast to it.
fn label(expression: &str) -> Option<String> {
    let (literal, _) = expression.rsplit_once("::")?;
    let label = literal.strip_prefix('\'')?.strip_suffix('\'')?.replace("''", "\0");
    (!label.contains('\'')).then(|| label.replace('\0', "'"))
}

fn whole(oid: u32, text: &str) -> Option<String> {
    let number: i64 = text.parse().ok()?;
    let fits = match oid {
        21 => i16::try_from(number).is_ok(),
        23 => i32::try_from(number).is_ok(),
        _ => true,
    };
    fits.then(|| number.to_string())
}

/// Digits up to the declared scale; more have no place in it.
fn decimal(typmod: i32, text: &str) -> Option<String> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let is_digits = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let Some((_, scale)) = numeric::precision_and_scale(typmod) else { return Some(text.to_owned()) };
    let zeros = (scale as usize).checked_sub(fraction.len())?;
    let point = if fraction.is_empty() && zeros > 0 && !text.contains('.') { "." } else { "" };
    Some(format!("{text}{point}{}", "0".repeat(zeros)))
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts.iter().all(|part| part.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{DecimalMode, IntervalMode, Modes, SpecialValues, TimeMode};

    const NUMERIC_10_2: i32 = (10 << 16 | 2) + 4;

    fn default_in(modes: Modes, oid: u32, typmod: i32, expression: &str) -> Option<Json> {
        let ty = ColumnType::base(oid, typmod, "any");
        let codec = Codec::of_column(&ty, modes);
        codec.default_json(&codec.default_text(&ty, expression)?)
    }

    fn default(oid: u32, typmod: i32, expression: &str) -> Option<Json> {
        default_in(Modes::default(), oid, typmod, expression)
    }

    #[test]
    fn literals_are_values_of_their_type() {
        for (oid, typmod, expression, value) in [
            (16, -1, "true", Json::from(true)),
            (16, -1, "(1 = 1)", Json::from(false)),
            (21, -1, "'-5'::integer", Json::from(-5)),
            (20, -1, "'9223372036854775807'::bigint", Json::from(i64::MAX)),
            (700, -1, "1.1", Json::from(1.1)),
            (701, -1, "'-2.5'::numeric", Json::from(-2.5)),
            (1700, NUMERIC_10_2, "5", Json::from("\u{1}\u{f4}")),
            (1700, NUMERIC_10_2, "'-0.5'::numeric", Json::from("\u{ce}")),
            (25, -1, "'it''s'::text", Json::from("it's")),
            (25, -1, "('a'::text || 'b'::text)", Json::from("a")),
            (1043, 24, "5", Json::from("5")),
            (3802, -1, "'{\"a\": 1}'::jsonb", Json::from("{\"a\": 1}")),
            (1082, -1, "'2020-02-29'::date", Json::from(18321)),
            (1083, -1, "'12:34:56.5'::time without time zone", Json::from(45_296_500_000_i64)),
            (1114, 3, "'1970-01-01 00:00:01'::timestamp without time zone", Json::from(1000)),
            (1184, -1, "'2020-01-01 00:00:00+00'::timestamp with time zone", Json::from("2020-01-01T00:00:00.000000Z")),
            (1186, -1, "'1 day 02:00:00'::interval", Json::from("P0Y0M1DT2H0M0S")),
            (1560, 1, "'1'::\"bit\"", Json::from(true)),
            (1560, 10, "'1000000001'::\"bit\"", Json::from("\u{1}\u{2}")),
        ] {
            assert_eq!(default(oid, typmod, expression), Some(value), "{oid}: {expression}");
        }
    }

    #[test]
    fn what_is_made_at_each_insert_has_a_stand_in() {
        for (oid, typmod, expression, value) in [
            (23, -1, "nextval('t_id_seq'::regclass)", Json::from(0)),
            (2950, -1, "gen_random_uuid()", Json::from("00000000-0000-0000-0000-000000000000")),
            (1114, -1, "(now() + '1 day'::interval)", Json::from(0)),
            (1082, -1, "CURRENT_DATE", Json::from(0)),
            (1184, 3, "CURRENT_TIMESTAMP(3)", Json::from("1970-01-01T00:00:00.000Z")),
            (1700, NUMERIC_10_2, "random()", Json::from("\0")),
            (25, -1, "upper('a'::text)", Json::from("")),
            (114, -1, "json_build_object()", Json::from("{}")),
            (1562, 9, "f()", Json::from("")),
        ] {
            assert_eq!(default(oid, typmod, expression), Some(value), "{oid}: {expression}");
        }
    }

    #[test]
    fn what_debezium_does_not_read_is_no_default() {
        for (oid, typmod, expression) in [
            (23, -1, "(1 + 1)"),
            (23, -1, "'4294967296'::bigint"),
            (1114, -1, "'infinity'::timestamp without time zone"),
            (1184, -1, "'-infinity'::timestamp with time zone"),
            (1700, -1, "1.5"),
            (1700, NUMERIC_10_2, "1.239"),
            (1700, NUMERIC_10_2, "'NaN'::numeric"),
            (701, -1, "'Infinity'::double precision"),
            (25, -1, "NULL::character varying"),
            (23, -1, "NULL::integer"),
            (1114, -1, "(CURRENT_TIMESTAMP - '1 day'::interval)"),
            (2950, -1, "'no uuid'::text"),
            (1560, 1, "f()"),
            (17, -1, "'\\x00'::bytea"),
            (19, -1, "'n'::name"),
            (1266, -1, "'00:00:00+00'::time with time zone"),
            (25, -1, "'never ends"),
            (25, -1, ""),
        ] {
            let found = default(oid, typmod, expression);
            assert!(found.is_none() || expression.is_empty(), "{oid}: {expression} gives {found:?}");
        }
    }

    #[test]
    fn an_infinity_is_a_default_only_as_debezium_has_it() {
        let debezium = Modes { special_values: SpecialValues::Debezium, ..Modes::default() };
        for (oid, expression, theirs) in [
            (1082, "'infinity'::date", Some(Json::from(169_560_311))),
            (1082, "'-infinity'::date", Some(Json::from(-170_999_002))),
            (1114, "'infinity'::timestamp without time zone", Some(Json::from(-9_223_372_036_853_775_810_i64))),
            (1184, "'-infinity'::timestamp with time zone", None),
            (25, "'-infinity'::text", Some(Json::from("-infinity"))),
        ] {
            assert_eq!(default_in(debezium, oid, -1, expression), theirs, "{expression}");
            let ours = theirs.filter(|_| oid == 25);
            assert_eq!(default_in(Modes::default(), oid, -1, expression), ours, "{expression}");
        }
    }

    #[test]
    fn defaults_have_the_forms_of_values() {
        let modes = |decimal, interval, time| Modes { decimal, interval, time, ..Modes::default() };
        let texts = modes(DecimalMode::String, IntervalMode::Numeric, TimeMode::Isostring);
        assert_eq!(default_in(texts, 1700, NUMERIC_10_2, "5"), Some("5.00".into()));
        assert_eq!(default_in(texts, 1700, -1, "1.5"), Some("1.5".into()));
        let zero = |modes, typmod| {
            let ty = ColumnType::base(1700, typmod, "any");
            Codec::of_column(&ty, modes).zero_text(&ty)
        };
        assert_eq!(zero(texts, NUMERIC_10_2), Some("0.00".into()));
        assert_eq!((zero(texts, -1), zero(Modes::default(), NUMERIC_10_2)), (None, None));
        assert_eq!(default_in(texts, 1186, -1, "'00:00:01'::interval"), Some(1_000_000.into()));
        assert_eq!(default_in(texts, 1082, -1, "'2020-02-29'::date"), Some("2020-02-29Z".into()));
        let numbers = modes(DecimalMode::Double, IntervalMode::String, TimeMode::Connect);
        assert_eq!(default_in(numbers, 1700, NUMERIC_10_2, "5"), Some(5.0.into()));
        assert_eq!(default_in(numbers, 1114, -1, "now()"), Some(0.into()));
    }

    #[test]
    fn a_label_is_what_is_cast_to_the_enumeration() {
        let own = |kind| ColumnType { oid: 20_000, typmod: -1, sql: "public.mood".into(), kind };
        let mood = own(TypeKind::Enum(vec!["so, so".into()]));
        let default = |ty: &ColumnType, expression| Codec::of_column(ty, Modes::default()).default_text(ty, expression);
        assert_eq!(default(&mood, "'so, so'::public.mood"), Some("so, so".into()));
        assert_eq!(default(&mood, "'it''s'::public.mood"), Some("it's".into()));
        assert_eq!(default(&mood, "'a'::text || 'b'::public.mood"), None);
        assert_eq!(default(&mood, "f()"), None);
        assert_eq!(default(&mood, "lower('A'::text)::public.mood"), None);
        let domain = own(TypeKind::Domain(ColumnType::base(23, -1, "integer").into()));
        assert_eq!(default(&domain, "5"), None);
        let array = own(TypeKind::Array(ColumnType::base(23, -1, "integer").into()));
        assert_eq!(default(&array, "'{}'::integer[]"), None);
    }
}
