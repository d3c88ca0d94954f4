//! `date`: Avro `int` of days since 1970-01-01, `io.debezium.time.Date` or Kafka Connect's own, or `string` in ISO 8601
//! (`io.debezium.time.IsoDate`).
//!
//! Infinities travel as text, beside Debezium's sentinels where consumers want these; in a key they stand as the ends of the int,
//! which no date reaches (trap T43).

use serde_json::Value as Json;

use super::{
    calendar::{IsoDate, PgDate, days_from_civil, scan_date, scan_era, scan_iso_date},
    modes::SpecialValues,
    scan::Scan,
    semantic::{Attributes, logical, named},
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

/// What Debezium writes for infinities: its driver's sentinels, cut to an int. No date is that early.
const DEBEZIUM_INFINITY: i32 = -2_147_472_692;
const DEBEZIUM_MINUS_INFINITY: i32 = -2_147_472_691;

/// The field's schema.
pub(super) fn schema(form: Form, parameters: Attributes) -> Json {
    match form {
        Form::Days => named("int", NAME, parameters),
        Form::Connect => logical("int", "date", CONNECT_NAME, parameters),
        Form::Iso => named("string", ISO_NAME, parameters),
    }
}

pub(super) fn parse(text: &[u8], form: Form, special: SpecialValues) -> Parsed<'_> {
    if form == Form::Iso {
        return parse_iso(text);
    }
    let stand_in = match text {
        b"infinity" if special == SpecialValues::Debezium => return Parsed::Lossy(Value::Int(DEBEZIUM_INFINITY)),
        b"-infinity" if special == SpecialValues::Debezium => {
            return Parsed::Lossy(Value::Int(DEBEZIUM_MINUS_INFINITY));
        }
        b"infinity" => i32::MAX,
        b"-infinity" => i32::MIN,
        _ => match days(text) {
            Some(days) => return of_days(days),
            None => 0,
        },
    };
    Parsed::Unrepresentable { stand_in: Value::Int(stand_in) }
}

/// A date as days since 1970-01-01, in the forms that are a number.
pub(super) const fn of_days(days: i32) -> Parsed<'static> {
    Parsed::Value(Value::Int(days))
}

fn parse_iso(text: &[u8]) -> Parsed<'_> {
    let iso = days(text).and_then(|days| {
        let mut iso = ShortText::new();
        IsoDate::from_days(i64::from(days)).append_to(&mut iso)?;
        iso.push("Z")?;
        Some(iso)
    });
    match (iso, std::str::from_utf8(text)) {
        (Some(iso), _) => Parsed::Value(Value::Short(iso)),
        (None, Ok(text @ ("infinity" | "-infinity"))) => Parsed::Unrepresentable { stand_in: Value::Text(text) },
        (None, _) => Parsed::Unrepresentable { stand_in: Value::Text("1970-01-01Z") },
    }
}

/// Appends what [`Form::Iso`] wrote.
fn render_iso(value: &Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
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
    match days {
        DEBEZIUM_INFINITY => out.extend_from_slice(b"infinity"),
        DEBEZIUM_MINUS_INFINITY => out.extend_from_slice(b"-infinity"),
        _ => return render_days(days, out),
    }
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
