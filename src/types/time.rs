//! `time`: Avro `int` of milliseconds up to three digits of precision (`io.debezium.time.Time`), else `long` of microseconds
//! (`io.debezium.time.MicroTime`), or nanoseconds (`io.debezium.time.NanoTime`); 24:00:00 is one past the last of the day. Or Kafka Connect's own type, an `int` of
//! milliseconds below a day, or a `string` in ISO 8601 (`io.debezium.time.IsoTime`): what these cannot hold travels as text besides.
//! Where consumers want Debezium's form of that, Kafka Connect's has 24:00 too, and the items of arrays have milliseconds below a day.

use serde_json::Value as Json;

use super::{
    calendar::{Clock, DAY, MICROS, fraction_digits, scan_time},
    scan::Scan,
    semantic::{Attributes, logical, named},
    special::Special,
    value::{Parsed, RenderError, ShortText, Value},
};

pub(super) const MILLIS_NAME: &str = "io.debezium.time.Time";
pub(super) const MICROS_NAME: &str = "io.debezium.time.MicroTime";
pub(super) const NANOS_NAME: &str = "io.debezium.time.NanoTime";
pub(super) const CONNECT_NAME: &str = "org.apache.kafka.connect.data.Time";
pub(super) const ISO_NAME: &str = "io.debezium.time.IsoTime";

/// How a time of day is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Millis,
    Micros,
    Nanos,
    Connect,
    Iso,
}

/// The field's schema.
pub(super) fn schema(form: Form, parameters: Attributes) -> Json {
    match form {
        Form::Millis => named("int", MILLIS_NAME, parameters),
        Form::Micros => named("long", MICROS_NAME, parameters),
        Form::Nanos => named("long", NANOS_NAME, parameters),
        Form::Connect => logical("int", "time-millis", CONNECT_NAME, parameters),
        Form::Iso => named("string", ISO_NAME, parameters),
    }
}

pub(super) fn parse(text: &[u8], form: Form, special: Special) -> Parsed<'_> {
    let Some(micros) = micros(text) else { return Parsed::Unrepresentable { stand_in: form.midnight() } };
    of_micros(micros, form, special)
}

/// A time of day in microseconds.
pub(super) fn of_micros(micros: i64, form: Form, special: Special) -> Parsed<'static> {
    match special {
        Special::Item => {
            // Java's `Time`.
            let cut = micros % (DAY * MICROS) / 1_000 * 1_000;
            of_day(cut, form).lossy_if(cut != micros)
        }
        Special::Streamed | Special::Read if form == Form::Connect && micros == DAY * MICROS => {
            Parsed::Value(Value::Int(MILLIS_OF_DAY))
        }
        Special::Besides | Special::Streamed | Special::Read => of_day(micros, form),
    }
}

/// 24:00
const MILLIS_OF_DAY: i32 = 86_400_000;

fn of_day(micros: i64, form: Form) -> Parsed<'static> {
    // Neither Kafka Connect nor Java has an hour 24.
    let of_day = micros % (DAY * MICROS);
    let value = match form {
        Form::Micros => return Parsed::Value(Value::Long(micros)),
        // A day of nanoseconds is far below what the type has.
        Form::Nanos => return Parsed::Value(Value::Long(micros * 1_000)),
        Form::Millis => millis(micros),
        Form::Connect => millis(of_day),
        Form::Iso => iso(of_day),
    };
    match (form, value) {
        (_, None) => Parsed::Unrepresentable { stand_in: form.midnight() },
        (Form::Millis, Some(_)) if micros % 1_000 != 0 => Parsed::Unrepresentable { stand_in: form.midnight() },
        (Form::Connect, Some(value)) if micros % 1_000 != 0 || micros != of_day => Parsed::Lossy(value),
        (Form::Iso, Some(value)) if micros != of_day => Parsed::Lossy(value),
        (_, Some(value)) => Parsed::Value(value),
    }
}

impl Form {
    const fn midnight(self) -> Value<'static> {
        match self {
            Self::Millis | Self::Connect => Value::Int(0),
            Self::Micros | Self::Nanos => Value::Long(0),
            Self::Iso => Value::Text("00:00:00Z"),
        }
    }
}

fn millis(micros: i64) -> Option<Value<'static>> {
    i32::try_from(micros / 1_000).ok().map(Value::Int)
}

fn iso(micros: i64) -> Option<Value<'static>> {
    let mut text = ShortText::new();
    Clock { micros, digits: fraction_digits(micros) }.append_to(&mut text)?;
    text.push("Z")?;
    Some(Value::Short(text))
}

pub(super) fn render(value: Value<'_>, form: Form, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let micros = match &value {
        Value::Int(millis) => Some(i64::from(*millis) * 1_000),
        Value::Long(nanos) if form == Form::Nanos => Some(nanos.div_euclid(1_000)),
        Value::Long(micros) => Some(*micros),
        other => other.text().and_then(|text| self::micros(text.strip_suffix('Z')?.as_bytes())),
    };
    let micros = micros.filter(|micros| (0..=DAY * MICROS).contains(micros)).ok_or(RenderError("time"))?;
    let mut text = ShortText::new();
    Clock { micros, digits: fraction_digits(micros) }.append_to(&mut text).ok_or(RenderError("time"))?;
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn micros(text: &[u8]) -> Option<i64> {
    let mut scan = Scan(text);
    let micros = scan_time(&mut scan)?;
    scan.is_at_end().then_some(micros)
}
