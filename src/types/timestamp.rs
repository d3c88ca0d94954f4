//! `timestamp`: Avro `long` since 1970-01-01 00:00, milliseconds up to three digits of precision (`io.debezium.time.Timestamp`),
//! else microseconds (`io.debezium.time.MicroTimestamp`); or Kafka Connect's own type, milliseconds, or a `string` in ISO 8601
//! (`io.debezium.time.IsoTimestamp`).
//!
//! Infinities are Debezium's sentinels. A real timestamp that equals a sentinel, or whose microseconds overflow (from 294247 on),
//! travels as text (trap T43), beside Debezium's number where consumers want that. So does then one in an array that Java's older
//! classes take for another.

use serde_json::Value as Json;

use super::{
    calendar::{MICROS, Moment, fraction_digits, scan_moment},
    hybrid,
    moment::{append, iso, scan_iso},
    semantic::{Attributes, logical, named},
    special::Special,
    value::{Parsed, RenderError, Value},
};

pub(super) const MILLIS_NAME: &str = "io.debezium.time.Timestamp";
pub(super) const MICROS_NAME: &str = "io.debezium.time.MicroTimestamp";
pub(super) const NANOS_NAME: &str = "io.debezium.time.NanoTimestamp";
pub(super) const CONNECT_NAME: &str = "org.apache.kafka.connect.data.Timestamp";
pub(super) const ISO_NAME: &str = "io.debezium.time.IsoTimestamp";

/// Milliseconds that stand for `infinity`: what the PostgreSQL JDBC driver makes of it.
const INFINITY_MILLIS: i64 = 9_223_372_036_825_200;
/// Milliseconds that stand for `-infinity`.
const MINUS_INFINITY_MILLIS: i64 = -9_223_372_036_832_400;

/// How a timestamp is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Millis,
    Micros,
    Nanos,
    /// Milliseconds, under Kafka Connect's name; what they lose travels besides.
    Connect,
    Iso,
}

impl Form {
    /// How many of its units a second has; a string's infinities are told in milliseconds.
    const fn per_second(self) -> i64 {
        match self {
            Self::Millis | Self::Connect | Self::Iso => 1_000,
            Self::Micros => MICROS,
            Self::Nanos => 1_000 * MICROS,
        }
    }

    /// In nanoseconds, which do not reach the driver's, Debezium has the ends of the type.
    const fn infinities(self) -> (i64, i64) {
        if matches!(self, Self::Nanos) {
            return (i64::MIN, i64::MAX);
        }
        let factor = self.per_second() / 1_000;
        (MINUS_INFINITY_MILLIS * factor, INFINITY_MILLIS * factor)
    }
}

/// The field's schema.
pub(super) fn schema(form: Form, parameters: Attributes) -> Json {
    match form {
        Form::Millis => named("long", MILLIS_NAME, parameters),
        Form::Micros => named("long", MICROS_NAME, parameters),
        Form::Nanos => named("long", NANOS_NAME, parameters),
        Form::Connect => logical("long", "timestamp-millis", CONNECT_NAME, parameters),
        Form::Iso => named("string", ISO_NAME, parameters),
    }
}

pub(super) fn parse(text: &[u8], unit: Form, special: Special) -> Parsed<'_> {
    if unit == Form::Iso {
        return parse_iso(text, special);
    }
    let (low, high) = unit.infinities();
    match text {
        b"infinity" => return Parsed::Value(Value::Long(high)),
        b"-infinity" => return Parsed::Value(Value::Long(low)),
        _ => {}
    }
    let Some(real) = scan_moment(text, false) else { return Parsed::Unrepresentable { stand_in: Value::Long(0) } };
    let written = as_item(real, special);
    of_moment(written, unit, special).lossy_if(written != real)
}

/// What Debezium takes a moment for.
fn as_item(moment: Moment, special: Special) -> Moment {
    if special == Special::Item { hybrid::reread_moment(moment) } else { moment }
}

/// A moment, in the forms that are a number.
pub(super) fn of_moment(Moment { seconds, micros }: Moment, unit: Form, special: Special) -> Parsed<'static> {
    let (low, high) = unit.infinities();
    let fraction = micros * unit.per_second() / MICROS;
    let exact = fraction * MICROS / unit.per_second() == micros;
    match seconds.checked_mul(unit.per_second()).and_then(|whole| whole.checked_add(fraction)) {
        Some(number) if exact && number != low && number != high => Parsed::Value(Value::Long(number)),
        Some(number) if unit == Form::Connect || exact && special.is_debezium() => Parsed::Lossy(Value::Long(number)),
        // In nanoseconds it writes null too.
        None if special.is_debezium() && unit != Form::Nanos => {
            // Its seconds stop at the end of the range, then the fraction is added.
            Parsed::Lossy(Value::Long(seconds.saturating_mul(unit.per_second()).wrapping_add(fraction)))
        }
        _ => {
            let wrapped = seconds.wrapping_mul(unit.per_second()).wrapping_add(fraction);
            Parsed::Unrepresentable { stand_in: Value::Long(wrapped) }
        }
    }
}

/// What Debezium has for an infinity that is the default of a column: the ends of Java's dates and times, which overflow; in
/// milliseconds, where Java tells that they do, nothing.
pub(super) fn infinite_default(text: &str, form: Form) -> Option<Value<'static>> {
    /// 999999999-12-31 23:59:59 and its nanoseconds, and -999999999-01-01 00:00:00.
    const ENDS: [(i64, i64); 2] = [(31_556_889_864_403_199, 999_999_999), (-31_557_014_167_219_200, 0)];
    let is_low = text.starts_with('-');
    let (seconds, nanos) = ENDS[usize::from(is_low)];
    Some(match form {
        Form::Micros => Value::Long(seconds.saturating_mul(MICROS).wrapping_add(nanos / 1_000)),
        Form::Iso if is_low => Value::Text("-999999999-01-01T00:00:00Z"),
        Form::Iso => Value::Text("+999999999-12-31T23:59:59.999999999Z"),
        Form::Millis | Form::Nanos | Form::Connect => return None,
    })
}

/// The infinities as moments: what the JDBC driver makes of them, in Debezium's strings.
fn iso_infinities() -> (Moment, Moment) {
    let (low, high) = Form::Iso.infinities();
    let moment = |millis: i64| Moment { seconds: millis.div_euclid(1_000), micros: millis.rem_euclid(1_000) * 1_000 };
    (moment(low), moment(high))
}

fn parse_iso(text: &[u8], special: Special) -> Parsed<'_> {
    let (low, high) = iso_infinities();
    let (real, is_infinite) = match text {
        b"infinity" => (Some(high), true),
        b"-infinity" => (Some(low), true),
        _ => (scan_moment(text, false), false),
    };
    let written = real.and_then(|real| {
        let moment = if is_infinite { real } else { as_item(real, special) };
        let iso = Parsed::Value(Value::Short(iso(moment, fraction_digits(moment.micros))?));
        Some(iso.lossy_if(!is_infinite && (moment == low || moment == high || moment != real)))
    });
    written.unwrap_or(Parsed::Unrepresentable { stand_in: Value::Text("1970-01-01T00:00:00Z") })
}

fn render_iso(value: &Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let moment = value.text().and_then(|text| scan_iso(text.as_bytes())).ok_or(RenderError("timestamp"))?;
    let (low, high) = iso_infinities();
    if moment == low || moment == high {
        out.extend_from_slice(if moment == low { b"-infinity" } else { b"infinity" });
        return Ok(());
    }
    append(moment, "", out)
}

pub(super) fn render(value: Value<'_>, unit: Form, out: &mut Vec<u8>) -> Result<(), RenderError> {
    if unit == Form::Iso {
        return render_iso(&value, out);
    }
    let Value::Long(number) = value else { return Err(RenderError("timestamp")) };
    let (low, high) = unit.infinities();
    if number == low || number == high {
        out.extend_from_slice(if number == low { b"-infinity" } else { b"infinity" });
        return Ok(());
    }
    let seconds = number.div_euclid(unit.per_second());
    let micros = number.rem_euclid(unit.per_second()) * MICROS / unit.per_second();
    append(Moment { seconds, micros }, "", out)
}
