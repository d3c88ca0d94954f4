//! Values as people write them: sizes (`64MiB`), periods (`5s`), bounds that may be `unlimited`, and secrets.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};

/// A number of bytes: an integer, or text with a unit (`B`, `kB`, `KiB`, `MB`, `MiB`, `GB`, `GiB`, `TB`, `TiB`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A length of time: text of a whole number and a unit (`ms`, `s`, `m`, `h`, `d`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// A bound that may be absent: a value, or `unlimited`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound<T>(pub Option<T>);

/// A password; never shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

/// The text is not such a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(&'static str);

const SIZE: ParseError = ParseError("a size is a number of bytes or a text like \"64MiB\"");
const PERIOD: ParseError = ParseError("a period is a text like \"500ms\", \"10s\", \"5m\", \"2h\" or \"7d\"");

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];
const PERIOD_UNITS_MS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl ByteSize {
    /// As a length in memory.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        quantity(text, &SIZE_UNITS).map(Self).ok_or(SIZE)
    }
}

impl FromStr for Period {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        quantity(text, &PERIOD_UNITS_MS).map(|ms| Self(Duration::from_millis(ms))).ok_or(PERIOD)
    }
}

impl<T: FromStr> FromStr for Bound<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        if text == "unlimited" { Ok(Self(None)) } else { text.parse().map(Some).map(Self) }
    }
}

/// A whole number and one of the units; `None` when it is anything else or too large.
fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = unit.trim_start();
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Bytes(u64),
            Text(String),
        }
        match Form::deserialize(deserializer).map_err(|_| D::Error::custom(SIZE))? {
            Form::Bytes(bytes) => Ok(Self(bytes)),
            Form::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Bound<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form<T> {
            Unlimited(Unlimited),
            Value(T),
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Unlimited {
            Unlimited,
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::Unlimited(Unlimited::Unlimited) => Self(None),
            Form::Value(value) => Self(Some(value)),
        })
    }
}

impl Secret {
    /// Wraps a secret text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one call that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!("64MiB".parse(), Ok(ByteSize(64 << 20)));
        assert_eq!("1 GB".parse(), Ok(ByteSize(1_000_000_000)));
        for bad in ["", "64", "MiB", "-1B", "1.5MiB", "64Mib", "99999999TiB", "1MiB!"] {
            assert_eq!(bad.parse::<ByteSize>(), Err(SIZE), "{bad:?}");
        }
    }

    #[test]
    fn periods_are_read_with_their_units() {
        assert_eq!("200ms".parse(), Ok(Period(Duration::from_millis(200))));
        assert_eq!("7d".parse(), Ok(Period(Duration::from_hours(168))));
        for bad in ["", "5", "s", "5 sec", "1h30m"] {
            assert_eq!(bad.parse::<Period>(), Err(PERIOD), "{bad:?}");
        }
    }

    #[test]
    fn bounds_may_be_unlimited() {
        assert_eq!("unlimited".parse(), Ok(Bound::<ByteSize>(None)));
        assert_eq!("1KiB".parse(), Ok(Bound(Some(ByteSize(1024)))));
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "********");
    }
}
