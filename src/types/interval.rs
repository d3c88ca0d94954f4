//! `interval`: Avro `string` in ISO 8601 with every field, `P1Y2M3DT4H5M6.78S` (`io.debezium.time.Interval`); its months, days and
//! time stay apart, as PostgreSQL keeps them.

use std::fmt::Write;

use super::{
    scan::Scan,
    value::{Parsed, RenderError, ShortText, Value},
};

pub(super) const NAME: &str = "io.debezium.time.Interval";

/// Years, months, days, hours, minutes, whole seconds; those of the time share one sign.
#[derive(Default)]
struct Fields {
    years: i64,
    months: i64,
    days: i64,
    time: Option<Time>,
}

struct Time {
    negative: bool,
    hours: i64,
    minutes: i64,
    seconds: i64,
    micros: i64,
}

/// Reads the text of `IntervalStyle = postgres`. Infinities (PostgreSQL 17) have no form in ISO 8601.
pub(super) fn parse(text: &[u8]) -> Parsed<'_> {
    let stand_in = match text {
        b"infinity" => "infinity",
        b"-infinity" => "-infinity",
        _ => match scan(text).and_then(|fields| iso(&fields)) {
            Some(iso) => return Parsed::Value(Value::Short(iso)),
            None => "P0D",
        },
    };
    Parsed::Unrepresentable { stand_in: Value::Text(stand_in) }
}

/// Connect name of an interval in microseconds.
pub(super) const MICROS_NAME: &str = "io.debezium.time.MicroDuration";

const MICROS_PER_DAY: i128 = 86_400_000_000;
/// 30.4375 days, as Debezium has it: 365.25 / 12.
const MICROS_PER_MONTH: i128 = 2_629_800_000_000;

/// Microseconds, which tell months, days and time no longer apart, as far as they fit.
pub(super) fn parse_micros(text: &[u8]) -> Parsed<'_> {
    let Some(fields) = scan(text) else {
        let extreme = if text == b"-infinity" { i64::MIN } else { i64::MAX };
        return Parsed::Lossy(Value::Long(if text.ends_with(b"infinity") { extreme } else { 0 }));
    };
    let time = fields.time.as_ref().map_or(0, |time| {
        let seconds = (time.hours * 60 + time.minutes) * 60 + time.seconds;
        let micros = i128::from(seconds) * 1_000_000 + i128::from(time.micros);
        if time.negative { -micros } else { micros }
    });
    let months = i128::from(fields.years) * 12 + i128::from(fields.months);
    let micros = months * MICROS_PER_MONTH + i128::from(fields.days) * MICROS_PER_DAY + time;
    let nearest = if micros < 0 { i64::MIN } else { i64::MAX };
    Parsed::Lossy(Value::Long(i64::try_from(micros).unwrap_or(nearest)))
}

pub(super) fn render_micros(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let Value::Long(micros) = value else { return Err(RenderError("interval")) };
    let sign = if micros < 0 { "-" } else { "" };
    let micros = micros.unsigned_abs();
    let text = format!("{sign}{}.{:06} seconds", micros / 1_000_000, micros % 1_000_000);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// PostgreSQL reads ISO 8601, with a sign at each field.
pub(super) fn render(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let text = match &value {
        Value::Text(text) => text,
        Value::Short(text) => text.as_str(),
        _ => return Err(RenderError("interval")),
    };
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn scan(text: &[u8]) -> Option<Fields> {
    let mut fields = Fields::default();
    let mut rest = Scan(text);
    while !rest.is_at_end() {
        let negative = rest.skip(b'-').is_some();
        let _ = rest.skip(b'+');
        let number = long(&mut rest)?;
        if rest.skip(b':').is_some() {
            fields.time = Some(clock(&mut rest, negative, number)?);
            return rest.is_at_end().then_some(fields);
        }
        rest.skip(b' ')?;
        let place = unit(&mut rest, &mut fields)?;
        *place = if negative { -number } else { number };
        if !rest.is_at_end() {
            rest.skip(b' ')?;
        }
    }
    (!text.is_empty()).then_some(fields)
}

fn unit<'f>(scan: &mut Scan<'_>, fields: &'f mut Fields) -> Option<&'f mut i64> {
    let place = if scan.skip_text("year").is_some() {
        &mut fields.years
    } else if scan.skip_text("mon").is_some() {
        &mut fields.months
    } else {
        scan.skip_text("day")?;
        &mut fields.days
    };
    let _ = scan.skip(b's');
    Some(place)
}

fn clock(scan: &mut Scan<'_>, negative: bool, hours: i64) -> Option<Time> {
    let minutes = scan.two_digits()?;
    scan.skip(b':')?;
    let seconds = scan.two_digits()?;
    Some(Time { negative, hours, minutes, seconds, micros: scan.fraction_micros()? })
}

/// A number of up to eighteen digits: hours go beyond nine.
fn long(scan: &mut Scan<'_>) -> Option<i64> {
    let digits = scan.digits();
    let number = std::str::from_utf8(digits).ok()?;
    (digits.len() <= 18).then(|| number.parse().ok()).flatten()
}

fn iso(fields: &Fields) -> Option<ShortText> {
    let zero = Time { negative: false, hours: 0, minutes: 0, seconds: 0, micros: 0 };
    let Time { negative, hours, minutes, seconds, micros } = fields.time.as_ref().unwrap_or(&zero);
    let sign = |number: &i64| if *negative && *number != 0 { "-" } else { "" };
    let mut text = ShortText::new();
    write!(text, "P{}Y{}M{}DT", fields.years, fields.months, fields.days).ok()?;
    write!(text, "{}{hours}H{}{minutes}M", sign(hours), sign(minutes)).ok()?;
    write!(text, "{}{seconds}", sign(&(seconds + micros))).ok()?;
    if *micros != 0 {
        let digits = usize::from(super::calendar::fraction_digits(*micros));
        let fraction = micros / 10_i64.pow(u32::try_from(6 - digits).ok()?);
        write!(text, ".{fraction:0digits$}").ok()?;
    }
    text.write_str("S").ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        match parse(text.as_bytes()) {
            Parsed::Value(Value::Short(iso)) => iso.as_str().to_owned(),
            _ => "unrepresentable".to_owned(),
        }
    }

    #[test]
    fn every_field_is_written_with_its_own_sign() {
        assert_eq!(of("1 year 2 mons 3 days 04:05:06.789012"), "P1Y2M3DT4H5M6.789012S");
        assert_eq!(of("-1 years -2 mons +3 days -04:05:06.789012"), "P-1Y-2M3DT-4H-5M-6.789012S");
        assert_eq!(of("00:00:00"), "P0Y0M0DT0H0M0S");
        assert_eq!(of("-00:00:00.5"), "P0Y0M0DT0H0M-0.5S");
        assert_eq!(of("1 day -00:00:01"), "P0Y0M1DT0H0M-1S");
        assert_eq!(of("-178000000 years -11 mons -2147483648 days -2562047788:00:54.775808").len(), 54);
    }

    #[test]
    fn microseconds_have_months_of_30_4375_days_and_an_end() {
        let micros = |text: &str| match parse_micros(text.as_bytes()) {
            Parsed::Lossy(Value::Long(micros)) => micros,
            other => panic!("{other:?}"),
        };
        assert_eq!(micros("1 year 2 mons 3 days 04:05:06.789012"), 37_091_106_789_012);
        assert_eq!(micros("-1 days -00:00:00.000001"), -86_400_000_001);
        assert_eq!((micros("178000000 years"), micros("-178000000 years")), (i64::MAX, i64::MIN));
        let mut text = Vec::new();
        render_micros(Value::Long(-86_400_000_001), &mut text).unwrap();
        assert_eq!(text, b"-86400.000001 seconds");
    }

    #[test]
    fn what_is_no_interval_of_this_notation_travels_as_text() {
        for text in ["infinity", "", "1", "1 fortnight", "1 year ", "01:00", "01:00:00 1 day"] {
            assert_eq!(of(text), if text == "1 year " { "P1Y0M0DT0H0M0S" } else { "unrepresentable" }, "{text}");
        }
    }
}
