//! `boolean`: text `t` or `f`, Avro `boolean`.

use super::value::{Parsed, RenderError, Value};

pub(super) fn parse(text: &[u8]) -> Parsed<'_> {
    match text {
        b"t" => Parsed::Value(Value::Boolean(true)),
        b"f" => Parsed::Value(Value::Boolean(false)),
        _ => Parsed::Unrepresentable { stand_in: Value::Boolean(false) },
    }
}

pub(super) fn render(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let Value::Boolean(value) = value else { return Err(RenderError("boolean")) };
    out.push(if value { b't' } else { b'f' });
    Ok(())
}
