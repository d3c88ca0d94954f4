//! What apply's decoder can make of Debezium's values: the source's text, less what is lost under each of Debezium's modes.

use std::fs;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use walrelay::{
    schema::Column,
    types::{Codec, ColumnType, DecimalMode, Modes, TypeKind, append_item},
};

/// A variant's settings, by Debezium's names of the modes.
pub struct Forms {
    pub time: String,
    pub decimal: String,
    pub binary: String,
    pub interval: String,
    pub hstore: String,
    pub placeholder: String,
    /// Schemas tell the source's types.
    pub typed: bool,
    /// Types that Debezium does not know are bytes.
    pub unknown: bool,
}

impl Forms {
    /// Those of a recording's file.
    pub fn of(name: &str) -> Self {
        let path = format!("{}/tests/golden/recorded/{name}.properties", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(path).unwrap();
        let said = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let of = |key: &str, default: &str| said(key).unwrap_or(default).to_owned();
        Self {
            time: of("time.precision.mode", "adaptive"),
            decimal: of("decimal.handling.mode", "precise"),
            binary: of("binary.handling.mode", "bytes"),
            interval: of("interval.handling.mode", "numeric"),
            hstore: of("hstore.handling.mode", "json"),
            placeholder: of("unavailable.value.placeholder", "__debezium_unavailable_value"),
            typed: said("column.propagate.source.type").is_some(),
            unknown: said("include.unknown.datatypes") == Some("true"),
        }
    }
}

/// What arrives of a value.
#[derive(Debug)]
pub enum Arrival {
    /// It is taken for one that was not sent.
    Unchanged,
    Null,
    Text(String),
    /// Any text of this number.
    Double(String),
}

impl From<Option<String>> for Arrival {
    fn from(text: Option<String>) -> Self {
        text.map_or(Self::Null, Self::Text)
    }
}

/// What arrives of a text.
pub fn expected(ty: &ColumnType, text: &str, forms: &Forms) -> Arrival {
    if let TypeKind::Domain(base) = &ty.kind {
        return expected(base, text, forms);
    }
    if ty.oid == 17 && forms.binary == "bytes" && forms.placeholder.strip_prefix("hex:") == text.strip_prefix("\\x") {
        return Arrival::Unchanged;
    }
    if !ty.is_known_to_debezium() {
        return Arrival::Text(octets_of_unknown(ty, text));
    }
    match &ty.kind {
        TypeKind::Array(element) => Arrival::Text(array(text, |item| item_of(element, item, forms))),
        TypeKind::Extension(name) if &**name == "hstore" && forms.hstore == "json" && !forms.typed => {
            Arrival::Text(json_of(text))
        }
        TypeKind::Base if ty.oid == 1700 && forms.decimal == "double" => Arrival::Double(text.to_owned()),
        TypeKind::Base if ty.oid == 790 && forms.decimal == "double" => Arrival::Double(amount(text)),
        TypeKind::Base => of_base(ty, text, forms).into(),
        _ => Arrival::Text(text.to_owned()),
    }
}

/// The same of an array's item.
fn item_of(element: &ColumnType, text: &str, forms: &Forms) -> Option<String> {
    match expected(element, text, forms) {
        // Debezium reads it through Java's `Time`.
        Arrival::Text(time) if element.oid == 1083 => Some(cut(&time, 3)),
        Arrival::Text(text) => Some(text),
        Arrival::Double(number) => Some(number.parse::<f64>().unwrap().to_string()),
        Arrival::Null => None,
        Arrival::Unchanged => panic!("an item is the placeholder"),
    }
}

/// The digits of an amount of money.
fn amount(text: &str) -> String {
    text.replace(['$', ','], "")
}

fn of_base(ty: &ColumnType, text: &str, forms: &Forms) -> Option<String> {
    let special = ["NaN", "Infinity", "-Infinity"].iter().position(|special| *special == text);
    Some(match (ty.oid, &*forms.decimal, &*forms.time) {
        (16, ..) => if text == "t" { "1" } else { "0" }.to_owned(),
        (17, ..) => encoded(text, &forms.binary),
        // It has no items.
        (22, ..) => "{}".to_owned(),
        (1700, "precise", _) if special.is_some() => return None,
        (1700, "precise", _) if ty.typmod < 0 && text.contains('.') => {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        (1700, "string", _) => {
            special.map_or(text, |at| ["NAN", "POSITIVE_INFINITY", "NEGATIVE_INFINITY"][at]).to_owned()
        }
        (790, ..) => amount(text),
        (1083 | 1114, _, "connect") => cut(text, 3),
        (1083, _, "isostring") if text == "24:00:00" => "00:00:00".to_owned(),
        (1114, _, "nanoseconds") if !text.ends_with("infinity") && !(1678..2262).contains(&year(text)) => return None,
        (1114, _, time) => wrapped(ty, text, time).unwrap_or(text).to_owned(),
        (1266, ..) => in_utc(text),
        (1186, ..) => interval(text, &forms.interval),
        (1562, ..) if ty.typmod < 0 => text.trim_start_matches('0').to_owned(),
        // Nothing tells it from a bit string of that length.
        (1562, ..) if ty.typmod > 1 => format!("{text:0>width$}", width = usize::try_from(ty.typmod).unwrap()),
        _ => text.to_owned(),
    })
}

/// What arrives of NULL: the default, which Kafka Connect reads in its place.
pub fn without_value(column: &Column, forms: &Forms) -> Arrival {
    // JSON has no such number, and Debezium's schema none of Avro's defaults.
    if let (700 | 701, Some(default)) =
        (column.ty.oid, column.default.as_deref().filter(|text| text.contains("nfinity")))
    {
        return default.split('\'').nth(1).map(str::to_owned).into();
    }
    // An infinite default is a number of days or microseconds that stands for it.
    match (&*column.name, column.default.as_deref(), &*forms.time) {
        ("d", Some("'infinity'::date"), _) => return Arrival::Text("466210-05-14".to_owned()),
        ("ts", Some(default), "adaptive") if default.contains("infinity") => {
            return Arrival::Text("290309-12-21 19:59:06.22419 BC".to_owned());
        }
        (_, Some(default), _) if default.contains("infinity") => return Arrival::Null,
        _ => {}
    }
    let decimal = match &*forms.decimal {
        "string" => DecimalMode::String,
        "double" => DecimalMode::Double,
        _ => DecimalMode::Precise,
    };
    let codec = Codec::of_column(&column.ty, Modes { decimal, ..Modes::default() });
    let default = column.default.as_deref().and_then(|default| codec.default_text(&column.ty, default));
    default.map_or(Arrival::Null, |default| expected(&column.ty, &default, forms))
}

/// What arrives where an update left a value alone.
pub fn unsent(ty: &ColumnType, forms: &Forms) -> Arrival {
    let element = if let TypeKind::Array(element) = &ty.kind { element.oid } else { ty.oid };
    let is_lost = match element {
        17 if element == ty.oid => forms.binary.starts_with("base64"),
        17 => forms.binary != "bytes",
        1700 => forms.decimal != "string",
        1082 => matches!(&*forms.time, "connect" | "isostring"),
        1114 => true,
        _ => false,
    };
    if is_lost { Arrival::Null } else { Arrival::Unchanged }
}

/// The digits of a fraction behind so many are dropped, and zeros at its end.
fn cut(text: &str, digits: usize) -> String {
    let Some((whole, fraction)) = text.split_once('.') else { return text.to_owned() };
    let kept = fraction.get(..digits).unwrap_or(fraction).trim_end_matches('0');
    if kept.is_empty() { whole.to_owned() } else { format!("{whole}.{kept}") }
}

fn year(text: &str) -> i32 {
    if text.ends_with("BC") { 0 } else { text.split('-').next().unwrap().parse().unwrap() }
}

/// Microseconds beyond a long wrap round, in Debezium or in the clock that it reads.
fn wrapped(ty: &ColumnType, text: &str, time: &str) -> Option<&'static str> {
    let in_micros = time == "microseconds" || time.starts_with("adaptive") && !(0..=3).contains(&ty.typmod);
    match text {
        _ if !in_micros => None,
        "294276-12-31 23:59:59" => Some("294247-01-10 04:00:54.775807"),
        "294276-12-31 23:59:59.999" => Some("290309-12-21 19:59:06.223191 BC"),
        "294276-12-31 23:59:59.999999" => Some("290309-12-21 19:59:06.22419 BC"),
        _ => None,
    }
}

fn in_utc(text: &str) -> String {
    let sign_at = text.rfind(['+', '-']).unwrap();
    let (clock, offset) = text.split_at(sign_at);
    let (whole, fraction) = clock.split_once('.').map_or((clock, String::new()), |(w, f)| (w, format!(".{f}")));
    let seconds = |text: &str| {
        let parts = text.split(':').map(|part| part.parse::<i64>().unwrap());
        parts.zip([3600, 60, 1]).map(|(part, weight)| part * weight).sum::<i64>()
    };
    let offset = seconds(&offset[1..]) * if offset.starts_with('-') { -1 } else { 1 };
    let utc = (seconds(whole) - offset).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}{fraction}+00", utc / 3600, utc / 60 % 60, utc % 60)
}

/// As microseconds, or in ISO 8601 with all its parts.
fn interval(text: &str, mode: &str) -> String {
    let (mut years, mut months, mut days, mut micros) = (0_i64, 0_i64, 0_i64, 0_i64);
    let mut words = text.split(' ').peekable();
    while let Some(word) = words.next() {
        if word.contains(':') {
            let (negative, clock) = (word.starts_with('-'), word.trim_start_matches(['+', '-']));
            let (whole, fraction) = clock.split_once('.').unwrap_or((clock, ""));
            let parts: Vec<i64> = whole.split(':').map(|part| part.parse().unwrap()).collect();
            let fraction: i64 = format!("{fraction:0<6}").parse().unwrap();
            micros = (parts[0] * 3600 + parts[1] * 60 + parts[2]) * 1_000_000 + fraction;
            micros = if negative { -micros } else { micros };
            continue;
        }
        let number: i64 = word.parse().unwrap();
        match words.next().unwrap().trim_end_matches('s') {
            "year" => years = number,
            "mon" => months = number,
            _ => days = number,
        }
    }
    if mode == "string" {
        let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
        let sign = if micros < 0 && seconds % 60 == 0 && fraction != 0 { "-" } else { "" };
        let fraction = if fraction == 0 {
            String::new()
        } else {
            format!(".{:06}", fraction.abs()).trim_end_matches('0').to_owned()
        };
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        return format!("P{years}Y{months}M{days}DT{hours}H{minutes}M{sign}{seconds}{fraction}S");
    }
    // A month is 30.4375 days.
    let month: i128 = 2_629_800_000_000;
    let all = i128::from(years * 12 + months) * month + i128::from(days) * 86_400_000_000 + i128::from(micros);
    let all = i64::try_from(all).unwrap_or(i64::MAX);
    let sign = if all < 0 { "-" } else { "" };
    format!("{sign}{}.{:06} seconds", all.abs() / 1_000_000, all.abs() % 1_000_000)
}

fn encoded(text: &str, mode: &str) -> String {
    let digits = text.strip_prefix("\\x").unwrap();
    let octets = crate::recorded::bytes(digits);
    match mode {
        "base64" => STANDARD.encode(octets),
        "base64-url-safe" => URL_SAFE.encode(octets),
        "hex" => digits.to_owned(),
        _ => text.to_owned(),
    }
}

/// A JSON object of an `hstore`: the recorded ones have nothing in them to be escaped.
fn json_of(text: &str) -> String {
    let pairs = text.replace("\"=>", "\":").replace(", \"", ",\"");
    format!("{{{}}}", pairs.replace(":NULL", ":null"))
}

/// The octets of the text that the JDBC driver has for a value; of the geometric types it is one of doubles.
fn octets_of_unknown(ty: &ColumnType, text: &str) -> String {
    let hex = |text: &str| format!("\\x{}", crate::oracle::hex(text.as_bytes()));
    match &ty.kind {
        TypeKind::Array(_) => array(text, |item| Some(hex(item))),
        _ if matches!(ty.oid, 601..=604 | 628 | 718) => {
            let mut doubles = String::new();
            let mut letters = text.chars().peekable();
            while let Some(letter) = letters.next() {
                doubles.push(letter);
                if letter.is_ascii_digit() && !letters.peek().is_some_and(char::is_ascii_digit) {
                    doubles.push_str(".0");
                }
            }
            hex(&doubles)
        }
        _ => hex(text),
    }
}

/// An array of one dimension with its items turned into others.
fn array(text: &str, item: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::from("{");
    let inner = text.strip_prefix('{').unwrap().strip_suffix('}').unwrap();
    let (mut items, mut current, mut quoted, mut was_quoted, mut escaped) =
        (Vec::new(), String::new(), false, false, false);
    for letter in inner.chars() {
        match letter {
            _ if std::mem::take(&mut escaped) => current.push(letter),
            '\\' => escaped = true,
            '"' => (quoted, was_quoted) = (!quoted, true),
            ',' if !quoted => items.push((std::mem::take(&mut current), std::mem::take(&mut was_quoted))),
            _ => current.push(letter),
        }
    }
    if !inner.is_empty() {
        items.push((current, was_quoted));
    }
    for (number, (text, was_quoted)) in items.iter().enumerate() {
        if number > 0 {
            out.push(',');
        }
        match Some(text).filter(|text| *was_quoted || *text != "NULL").and_then(|text| item(text)) {
            None => out.push_str("NULL"),
            Some(item) => {
                let mut quoted = Vec::new();
                append_item(item.as_bytes(), &mut quoted);
                out.push_str(std::str::from_utf8(&quoted).unwrap());
            }
        }
    }
    out.push('}');
    out
}
