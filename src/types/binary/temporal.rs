//! Dates and times, counted from 2000-01-01.

use super::{error::BinaryError, number, reader::Reader};
use crate::types::{
    calendar::{Clock, DAY, MICROS, Moment, PgDate, fraction_digits},
    moment,
    value::ShortText,
};

/// Days from 1970-01-01 to 2000-01-01.
pub(super) const EPOCH_DAYS: i64 = 10_957;

pub(super) fn date(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    let days = reader.i32()?;
    if matches!(days, i32::MIN | i32::MAX) {
        out.extend_from_slice(infinity(days < 0));
        return Ok(());
    }
    let days = i64::from(days) + EPOCH_DAYS;
    let date = PgDate::from_days(days);
    let mut text = ShortText::new();
    date.append_to(&mut text).and_then(|()| text.push(date.era())).ok_or(BinaryError::Bytes("date"))?;
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn infinity(is_negative: bool) -> &'static [u8] {
    if is_negative { b"-infinity" } else { b"infinity" }
}

pub(super) fn time(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    clock(reader.i64()?, out)
}

fn clock(micros: i64, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    let wrong = BinaryError::Bytes("time");
    if !(0..=DAY * MICROS).contains(&micros) {
        return Err(wrong);
    }
    let mut text = ShortText::new();
    Clock { micros, digits: fraction_digits(micros) }.append_to(&mut text).ok_or(wrong)?;
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// A time, and how many seconds its zone is west of Greenwich.
pub(super) fn timetz(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    clock(reader.i64()?, out)?;
    let west = reader.i32()?;
    out.push(if west <= 0 { b'+' } else { b'-' });
    let seconds = u64::from(west.unsigned_abs());
    number::digits(seconds / 3_600, 2, out)?;
    if !seconds.is_multiple_of(3_600) {
        out.push(b':');
        number::digits(seconds / 60 % 60, 2, out)?;
    }
    if !seconds.is_multiple_of(60) {
        out.push(b':');
        number::digits(seconds % 60, 2, out)?;
    }
    Ok(())
}

pub(super) fn timestamp(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    at(reader.i64()?, "", out)
}

/// The session's time zone is pinned to UTC.
pub(super) fn timestamptz(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    at(reader.i64()?, "+00", out)
}

fn at(micros: i64, suffix: &str, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    if matches!(micros, i64::MIN | i64::MAX) {
        out.extend_from_slice(infinity(micros < 0));
        return Ok(());
    }
    let seconds = micros.div_euclid(MICROS) + EPOCH_DAYS * DAY;
    Ok(moment::append(Moment { seconds, micros: micros.rem_euclid(MICROS) }, suffix, out)?)
}

/// Microseconds, days, months, in the notation of `IntervalStyle = postgres`: what is not zero, each with its sign. The least
/// and the greatest are infinities from PostgreSQL 17 on, and as finite as all before: their text is the server's to choose.
pub(super) fn interval(reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), BinaryError> {
    let (micros, days, months) = (reader.i64()?, reader.i32()?, reader.i32()?);
    if matches!((micros, days, months), (i64::MIN, i32::MIN, i32::MIN) | (i64::MAX, i32::MAX, i32::MAX)) {
        return Err(BinaryError::Bytes("interval with one text in all versions"));
    }
    let start = out.len();
    let mut after_negative = false;
    for (value, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if value == 0 {
            continue;
        }
        if out.len() > start {
            out.push(b' ');
        }
        out.extend_from_slice(if value < 0 {
            b"-"
        } else if after_negative {
            b"+"
        } else {
            b""
        });
        number::digits(value.unsigned_abs().into(), 1, out)?;
        out.push(b' ');
        out.extend_from_slice(unit.as_bytes());
        out.extend_from_slice(if value == 1 { b"" } else { b"s" });
        after_negative = value < 0;
    }
    if out.len() > start && micros == 0 {
        return Ok(());
    }
    if out.len() > start {
        out.push(b' ');
    }
    out.extend_from_slice(if micros < 0 {
        b"-"
    } else if after_negative {
        b"+"
    } else {
        b""
    });
    let (seconds, fraction) = (micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000);
    number::digits(seconds / 3_600, 2, out)?;
    out.push(b':');
    number::digits(seconds / 60 % 60, 2, out)?;
    out.push(b':');
    number::digits(seconds % 60, 2, out)?;
    if fraction > 0 {
        out.push(b'.');
        number::digits(fraction, 6, out)?;
        while let [.., b'0'] = out.as_slice() {
            out.pop();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text((micros, days, months): (i64, i32, i32)) -> Result<String, BinaryError> {
        let bytes = [&micros.to_be_bytes()[..], &days.to_be_bytes(), &months.to_be_bytes()].concat();
        let mut out = Vec::new();
        interval(&mut Reader::new(&bytes), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn an_interval_that_only_some_versions_take_for_infinite_has_no_text() {
        for extreme in [(i64::MIN, i32::MIN, i32::MIN), (i64::MAX, i32::MAX, i32::MAX)] {
            assert!(text(extreme).is_err(), "{extreme:?}");
        }
        let next = text((i64::MIN, i32::MIN, i32::MIN + 1)).unwrap();
        assert_eq!(next, "-178956970 years -7 mons -2147483648 days -2562047788:00:54.775808");
        assert_eq!(text((i64::MAX, i32::MAX, 14)).unwrap(), "1 year 2 mons 2147483647 days 2562047788:00:54.775807");
    }
}
