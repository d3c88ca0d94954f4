//! `point`: the record `io.debezium.data.geometry.Point` {x, y, wkb, srid}; wkb is the little-endian well-known binary, srid null.

use serde_json::{Value as Json, json};

use super::{
    float,
    semantic::Attributes,
    value::{Parsed, RenderError, Value},
};

pub(super) const NAME: &str = "io.debezium.data.geometry.Point";

pub(super) fn parse(text: &[u8]) -> Parsed<'_> {
    coordinates(text).map_or(Parsed::Unrepresentable { stand_in: Value::Point { x: 0.0, y: 0.0 } }, |(x, y)| {
        Parsed::Value(Value::Point { x, y })
    })
}

pub(super) fn render(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let Value::Point { x, y } = value else { return Err(RenderError("point")) };
    out.push(b'(');
    float::render(Value::Double(x), out)?;
    out.push(b',');
    float::render(Value::Double(y), out)?;
    out.push(b')');
    Ok(())
}

pub(super) fn schema(parameters: Attributes) -> Json {
    let mut schema = Attributes::new();
    schema.insert("type".into(), json!("record"));
    schema.insert("name".into(), json!("Point"));
    schema.insert("namespace".into(), json!("io.debezium.data.geometry"));
    let optional = |name: &str, ty: &str| json!({"name": name, "type": ["null", ty], "default": null});
    let double = |name: &str| json!({"name": name, "type": "double"});
    let fields = json!([double("x"), double("y"), optional("wkb", "bytes"), optional("srid", "int")]);
    schema.insert("fields".into(), fields);
    schema.insert("connect.doc".into(), json!("Geometry (POINT)"));
    schema.insert("connect.version".into(), json!(1));
    if !parameters.is_empty() {
        schema.insert("connect.parameters".into(), Json::Object(parameters));
    }
    schema.insert("connect.name".into(), json!(NAME));
    Json::Object(schema)
}

/// A point in well-known binary: byte order, geometry type 1, coordinates.
pub(crate) fn well_known_binary(x: f64, y: f64) -> [u8; 21] {
    let mut wkb = [0; 21];
    wkb[..5].copy_from_slice(&[1, 1, 0, 0, 0]);
    wkb[5..13].copy_from_slice(&x.to_le_bytes());
    wkb[13..].copy_from_slice(&y.to_le_bytes());
    wkb
}

fn coordinates(text: &[u8]) -> Option<(f64, f64)> {
    let inner = std::str::from_utf8(text).ok()?.strip_prefix('(')?.strip_suffix(')')?;
    let (x, y) = inner.split_once(',')?;
    Some((x.parse().ok()?, y.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_come_back_to_the_last_bit() {
        for (x, y) in [(1.5, -2.0), (-0.0, 1e-10), (1e300, f64::INFINITY), (f64::MIN_POSITIVE, f64::NEG_INFINITY)] {
            let mut text = Vec::new();
            render(Value::Point { x, y }, &mut text).unwrap();
            let (again_x, again_y) = coordinates(&text).unwrap();
            assert_eq!((again_x.to_bits(), again_y.to_bits()), (x.to_bits(), y.to_bits()));
        }
        assert!(coordinates(b"(NaN,1)").unwrap().0.is_nan());
    }
}
