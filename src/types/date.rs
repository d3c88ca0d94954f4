//! `date`: Avro `int` of days since 1970-01-01, `io.debezium.time.Date` or Kafka Connect's own, or `string` in ISO 8601
//! (`io.debezium.time.IsoDate`).
//!
//! Infinities travel as text, beside Debezium's sentinels where consumers want these; so do then the dates of which Debezium has
//! another day in snapshots and arrays. In a key infinities stand as the ends of the int,
//! which no date reaches (trap T43).

use serde_json::Value as Json;

use super::{
    calendar::{IsoDate, PgDate, days_from_civil, scan_date, scan_era, scan_iso_date},
    hybrid,
    scan::Scan,
    semantic::{Attributes, logical, named},
    special::Special,
    value::{Parsed, RenderError, ShortText, Value},
};

pub(super) const NAME: &str = "io.debezium.time.Date";
pub(super) const CONNECT_NAME: &str = "org.apache.kafka.connect.data.Date";
pub(super) const ISO_NAME: &str = "io.debezium.time.IsoDate";

/// How a date is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Days,
    /// Days, under Kafka Connect's name.
    Connect,
    Iso,
}

/// What Debezium writes for an infinity: its driver's sentinels, as days that are cut to an int, and as the date that they are. No
/// date of PostgreSQL's is one of them.
struct Infinity {
    days: i32,
    iso: &'static str,
}

/// In the stream: the infinity, and the one below all dates.
const STREAMED: [Infinity; 2] = [
    Infinity { days: -2_147_472_692, iso: "-5877611-06-21Z" },
    Infinity { days: -2_147_472_691, iso: "-5877611-06-22Z" },
];
/// In snapshots and arrays.
const TAKEN_APART: [Infinity; 2] = [
    Infinity { days: -622_191_234, iso: "+292278994-08-16Z" },
    Infinity { days: -625_821_272, iso: "+292269055-12-02Z" },
];
/// As defaults of columns: the ends of Java's dates.
const DEFAULTS: [Infinity; 2] = [
    Infinity { days: 169_560_311, iso: "+999999999-12-31Z" },
    Infinity { days: -170_999_002, iso: "-999999999-01-01Z" },
];
/// The earliest date that PostgreSQL has, 4714-11-24 BC.
const EARLIEST: i32 = -2_440_588;
/// PostgreSQL's texts of the two.
const INFINITIES: [&str; 2] = ["infinity", "-infinity"];

/// The field's schema.
pub(super) fn schema(form: Form, parameters: Attributes) -> Json {
    match form {
        Form::Days => named("int", NAME, parameters),
        Form::Connect => logical("int", "date", CONNECT_NAME, parameters),
        Form::Iso => named("string", ISO_NAME, parameters),
    }
}

pub(super) fn parse(text: &[u8], form: Form, special: Special) -> Parsed<'_> {
    if special.is_debezium() {
        return parse_as_debezium(text, form, special);
    }
    if form == Form::Iso {
        return parse_iso(text);
    }
    let stand_in = match text {
        b"infinity" => i32::MAX,
        b"-infinity" => i32::MIN,
        _ => match days(text) {
            Some(days) => return of_days(days),
            None => 0,
        },
    };
    Parsed::Unrepresentable { stand_in: Value::Int(stand_in) }
}

fn parse_as_debezium(text: &[u8], form: Form, special: Special) -> Parsed<'_> {
    let (infinities, is_taken_apart) = match special {
        Special::Read | Special::Item => (&TAKEN_APART, true),
        Special::Streamed | Special::Besides => (&STREAMED, false),
    };
    let unreadable = if form == Form::Iso { Value::Text(IN_PLACE_OF_NONE) } else { Value::Int(0) };
    let none = Parsed::Unrepresentable { stand_in: unreadable };
    let Some(real) = days(text) else {
        return of_infinity(text, infinities, form).map_or(none, Parsed::Lossy);
    };
    let written = if is_taken_apart { hybrid::local(i64::from(real)) } else { Some(i64::from(real)) };
    let Some(written) = written.and_then(|days| i32::try_from(days).ok()) else { return none };
    let parsed = match form {
        Form::Iso => iso(written).map_or(none, |iso| Parsed::Value(Value::Short(iso))),
        Form::Days | Form::Connect => of_days(written),
    };
    parsed.lossy_if(written != real)
}

fn of_infinity(text: &[u8], infinities: &[Infinity; 2], form: Form) -> Option<Value<'static>> {
    let known = INFINITIES.iter().zip(infinities).find(|(infinity, _)| infinity.as_bytes() == text);
    known.map(|(_, Infinity { days, iso })| if form == Form::Iso { Value::Text(iso) } else { Value::Int(*days) })
}

/// What Debezium has for an infinity that is the default of a column.
pub(super) fn infinite_default(text: &str, form: Form) -> Option<Value<'static>> {
    of_infinity(text.as_bytes(), &DEFAULTS, form)
}

/// A date as days since 1970-01-01, in the forms that are a number.
pub(super) const fn of_days(days: i32) -> Parsed<'static> {
    Parsed::Value(Value::Int(days))
}

/// What stands in a required string for a text that is no date.
const IN_PLACE_OF_NONE: &str = "1970-01-01Z";

fn iso(days: i32) -> Option<ShortText> {
    let mut iso = ShortText::new();
    IsoDate::from_days(i64::from(days)).append_to(&mut iso)?;
    iso.push("Z")?;
    Some(iso)
}

fn parse_iso(text: &[u8]) -> Parsed<'_> {
    match (days(text).and_then(iso), std::str::from_utf8(text)) {
        (Some(iso), _) => Parsed::Value(Value::Short(iso)),
        (None, Ok(text @ ("infinity" | "-infinity"))) => Parsed::Unrepresentable { stand_in: Value::Text(text) },
        (None, _) => Parsed::Unrepresentable { stand_in: Value::Text(IN_PLACE_OF_NONE) },
    }
}

/// PostgreSQL's text of one of Debezium's infinities.
fn infinity(is_it: impl Fn(&Infinity) -> bool) -> Option<&'static str> {
    let known = STREAMED.iter().zip(INFINITIES).chain(TAKEN_APART.iter().zip(INFINITIES));
    known.into_iter().find(|(infinity, _)| is_it(infinity)).map(|(_, text)| text)
}

/// Appends what [`Form::Iso`] wrote.
fn render_iso(value: &Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let far = value.text().filter(|text| text.starts_with(['+', '-']));
    if let Some(text) = far.and_then(|text| infinity(|known| known.iso == text)) {
        out.extend_from_slice(text.as_bytes());
        return Ok(());
    }
    let days = value.text().and_then(|text| {
        let mut scan = Scan(text.as_bytes());
        let days = scan_iso_date(&mut scan)?;
        scan.skip(b'Z')?;
        scan.is_at_end().then_some(days)
    });
    render_days(days.and_then(|days| i32::try_from(days).ok()).ok_or(RenderError("date"))?, out)
}

pub(super) fn render(value: Value<'_>, form: Form, out: &mut Vec<u8>) -> Result<(), RenderError> {
    if form == Form::Iso {
        return render_iso(&value, out);
    }
    let Value::Int(days) = value else { return Err(RenderError("date")) };
    let known = if days < EARLIEST { infinity(|known| known.days == days) } else { None };
    let Some(text) = known else { return render_days(days, out) };
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn render_days(days: i32, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let date = PgDate::from_days(i64::from(days));
    let mut text = ShortText::new();
    let written = date.append_to(&mut text).and_then(|()| text.push(date.era()));
    written.ok_or(RenderError("date"))?;
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn days(text: &[u8]) -> Option<i32> {
    let mut scan = Scan(text);
    let (year, month, day) = scan_date(&mut scan)?;
    let year = scan_era(&mut scan, year);
    if !scan.is_at_end() {
        return None;
    }
    i32::try_from(days_from_civil(year, month, day)).ok()
}
