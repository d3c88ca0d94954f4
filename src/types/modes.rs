//! Forms of values that consumers choose between, under Debezium's names (`decimal.handling.mode` and its like).

use serde::{Deserialize, Serialize};

/// How values are written where there is a choice. Whatever it loses travels in `walrelay.text` besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Modes {
    /// `numeric` and `money`
    pub decimal: DecimalMode,
    /// `interval`
    pub interval: IntervalMode,
    /// `bytea`
    pub binary: BinaryMode,
    /// `date`, `time` and `timestamp`
    pub time: TimeMode,
    /// `hstore`
    pub hstore: HstoreMode,
    /// `numeric` without a scale
    pub trailing_zeros: TrailingZeros,
    /// `time with time zone`
    pub timetz: TimetzMode,
    /// Values beyond the field's type
    pub special_values: SpecialValues,
}

impl Modes {
    /// Debezium's defaults.
    pub const DEBEZIUM: Self = Self {
        decimal: DecimalMode::Precise,
        interval: IntervalMode::Numeric,
        binary: BinaryMode::Bytes,
        time: TimeMode::Adaptive,
        hstore: HstoreMode::Json,
        trailing_zeros: TrailingZeros::Dropped,
        timetz: TimetzMode::Utc,
        special_values: SpecialValues::Debezium,
    };
}

/// What is written for values beyond their field's type, as an infinite `date`, an overflowing `timestamp` or an array of several
/// dimensions (EVENTS, "Special values").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpecialValues {
    /// Null, where the field can be that.
    #[default]
    Null,
    /// What Debezium writes, which garbles some other values too: old dates, and times in arrays.
    Debezium,
}

/// The zeros at the end of a `numeric` that has a scale of its own, where it is an exact decimal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrailingZeros {
    /// They stay, as PostgreSQL keeps and shows them.
    #[default]
    Kept,
    /// They are dropped, as Debezium does.
    Dropped,
}

/// The form of a `time with time zone`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimetzMode {
    /// With its own offset.
    #[default]
    Offset,
    /// In UTC, as Debezium has it.
    Utc,
}

/// The form of a `date`, `time` or `timestamp` (`time.precision.mode`). Those with a time zone are strings in all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeMode {
    /// Milliseconds up to three digits of precision, else microseconds; dates as days.
    #[default]
    Adaptive,
    /// The same, but a `time` in microseconds always.
    AdaptiveTimeMicroseconds,
    /// Microseconds always; dates as days.
    Microseconds,
    /// Nanoseconds always, which reach from 1677 to 2262 in a timestamp; dates as days.
    Nanoseconds,
    /// Kafka Connect's own types, which have milliseconds; dates as days.
    Connect,
    /// `string` in ISO 8601 with a `Z`.
    Isostring,
}

/// The form of an `hstore` (`hstore.handling.mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HstoreMode {
    /// `string` with a JSON object.
    #[default]
    Json,
    /// `map` of nullable strings.
    Map,
}

/// The form of a `numeric` or `money`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecimalMode {
    /// `bytes` of logical type `decimal`, or the record `VariableScaleDecimal`.
    #[default]
    Precise,
    /// `string`
    String,
    /// `double`
    Double,
}

/// The form of an `interval`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IntervalMode {
    /// `string` in ISO 8601, months, days and time apart.
    #[default]
    String,
    /// `long`: microseconds, a month being 30.4375 days.
    Numeric,
}

/// The form of a `bytea`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BinaryMode {
    /// `bytes`
    #[default]
    Bytes,
    /// `string` in base64 (RFC 4648, section 4).
    Base64,
    /// `string` in base64 with the alphabet for URLs and file names (section 5).
    Base64UrlSafe,
    /// `string` of hexadecimal digits in lower case.
    Hex,
}

impl BinaryMode {
    /// Its name in a schema's parameters; `None` for bytes as they are.
    #[must_use]
    pub const fn encoding(self) -> Option<&'static str> {
        match self {
            Self::Bytes => None,
            Self::Base64 => Some("base64"),
            Self::Base64UrlSafe => Some("base64-url-safe"),
            Self::Hex => Some("hex"),
        }
    }

    /// The mode of such a name.
    #[must_use]
    pub fn of_encoding(name: &str) -> Option<Self> {
        [Self::Base64, Self::Base64UrlSafe, Self::Hex].into_iter().find(|mode| mode.encoding() == Some(name))
    }
}
