//! Event keys: canonical bytes for the partitioner and the comparison of old and new, text for Debezium's headers.

use std::{fmt::Display, io::Write as _};

use crate::{
    avro::{content::HeaderConverter, encode, name::escape},
    event::Datum,
    record::{
        error::EncodeError,
        header::append_json_string,
        plan::Plan,
        row::{RowSource, with_key_value},
    },
    types::{BinaryMode, Value, append_encoded, append_nulls},
};

/// Appends the framed key; nothing for a table without one.
pub(super) fn append(
    plan: &Plan,
    row: RowSource<'_>,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    if let Some(schema) = &plan.key_schema {
        out.extend_from_slice(&schema.prefix);
    }
    for column in &plan.key {
        if let Datum::Text(text) = row.datum(column.index)
            && let Ok(Some(value)) = column.codec.parse_simple(text)
        {
            encode::simple(value, out);
        } else {
            with_key_value(plan, row, column, |value| encode::value(&value, scratch, out))?;
        }
    }
    Ok(())
}

/// Appends the key as a converter of Kafka Connect writes a struct without its schema.
pub(super) fn append_text(
    converter: HeaderConverter,
    plan: &Plan,
    row: RowSource<'_>,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let mut separator = b'{';
    for column in &plan.key {
        out.push(std::mem::replace(&mut separator, b','));
        append_json_string(&escape(&column.name), out);
        out.push(b':');
        with_key_value(plan, row, column, |value| match converter {
            HeaderConverter::Json => append_json_value(value, scratch, out),
            HeaderConverter::Simple => column.codec.append_connect_text(value, scratch, out),
        })?;
    }
    out.extend_from_slice(if plan.key.is_empty() { b"{}" } else { b"}" });
    Ok(())
}

fn append_json_value(value: Value<'_>, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
    scratch.clear();
    match value {
        Value::Boolean(value) => append_plain(value, out),
        Value::Int(value) => append_plain(value, out),
        Value::Long(value) => append_plain(value, out),
        Value::Float(value) => append_float(f64::from(value), value, scratch, out),
        Value::Double(value) => append_float(value, value, scratch, out),
        Value::Text(value) => append_json_string(value, out),
        Value::Short(value) => append_json_string(value.as_str(), out),
        Value::Bytes(bytes) => {
            bytes.append_to(scratch);
            append_base64(scratch, out);
        }
        Value::Encoded(bytes, mode) => {
            out.push(b'"');
            bytes.append_encoded_to(mode, scratch, out);
            out.push(b'"');
        }
        Value::Array(array) => {
            let mut separator = b'[';
            array.each(|item| {
                out.push(std::mem::replace(&mut separator, b','));
                match item {
                    Some(item) => append_json_value(item, scratch, out),
                    None => out.extend_from_slice(b"null"),
                }
            });
            out.extend_from_slice(if separator == b'[' { b"[]" } else { b"]" });
        }
        Value::Nulls(count) => append_nulls(count, out),
        Value::Hstore(pairs) => {
            pairs.append_json_to(scratch);
            append_json_string(&String::from_utf8_lossy(scratch), out);
        }
        Value::Map(pairs) => {
            let mut separator = b'{';
            pairs.each(scratch, |key, value| {
                out.push(std::mem::replace(&mut separator, b','));
                append_json_string(&String::from_utf8_lossy(key), out);
                out.push(b':');
                match value {
                    Some(value) => append_json_string(&String::from_utf8_lossy(value), out),
                    None => out.extend_from_slice(b"null"),
                }
            });
            out.extend_from_slice(if separator == b'{' { b"{}" } else { b"}" });
        }
        Value::Bits(bits) => {
            bits.append_to(scratch);
            append_base64(scratch, out);
        }
        Value::Point { x, y } => {
            for (name, number) in [(&b"{\"x\":"[..], x), (b",\"y\":", y)] {
                out.extend_from_slice(name);
                append_plain(number, out);
            }
            out.push(b'}');
        }
        Value::Decimal(unscaled) => {
            unscaled.append_to(scratch);
            append_base64(scratch, out);
        }
        Value::VariableScaleDecimal { scale, unscaled } => {
            unscaled.append_to(scratch);
            out.extend_from_slice(b"{\"scale\":");
            append_plain(scale, out);
            out.extend_from_slice(b",\"value\":");
            append_base64(scratch, out);
            out.push(b'}');
        }
    }
}

fn append_plain(value: impl serde::Serialize, out: &mut Vec<u8>) {
    serde_json::to_writer(out, &value).expect("a number is serializable and a vector never fails to be written");
}

/// JSON has no NaN and no infinities; Jackson quotes them.
fn append_float(number: f64, own: impl Display, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
    if number.is_nan() {
        return append_json_string("NaN", out);
    }
    if number.is_infinite() {
        return append_json_string(if number > 0.0 { "Infinity" } else { "-Infinity" }, out);
    }
    // A float's shortest digits, which are not those of the same number as a double.
    write!(scratch, "{own}").expect("a vector never fails to be written");
    let shortest = std::str::from_utf8(scratch).ok().and_then(|text| text.parse().ok());
    append_plain(shortest.unwrap_or(number), out);
}

fn append_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    append_encoded(bytes, BinaryMode::Base64, out);
    out.push(b'"');
}
