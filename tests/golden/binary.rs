//! Bytes from anywhere, read as values in binary.

use std::sync::Arc;

use proptest::prelude::*;
use walrelay::{
    avro::encode,
    types::{BinaryCodec, Codec, ColumnType, Modes, Parsed, TimeMode, TypeKind, Value},
};

/// Everything built in that is read in binary, and arrays of it.
fn types() -> Vec<ColumnType> {
    let scalars = (16..6_000).map(|oid| ColumnType::base(oid, -1, ""));
    let decimals = [(12 << 16 | 2) + 4, (5 << 16 | 0x7FE) + 4].map(|typmod| ColumnType::base(1700, typmod, ""));
    let mut types: Vec<_> = scalars.chain(decimals).filter(|ty| BinaryCodec::of_column(ty).is_some()).collect();
    let array = |ty: &ColumnType| ColumnType { kind: TypeKind::Array(Arc::new(ty.clone())), ..ty.clone() };
    let arrays: Vec<_> = types.iter().map(array).collect();
    types.extend(arrays.into_iter().filter(|ty| BinaryCodec::of_column(ty).is_some()));
    types.push(ColumnType { kind: TypeKind::Extension("hstore".into()), ..ColumnType::base(20_000, -1, "") });
    types
}

fn avro(value: Value<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode::value(&value, &mut Vec::new(), &mut out);
    out
}

/// Short counts and lengths are likelier to lead somewhere.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => Just(0_u8), 2 => 0..5_u8, 1 => any::<u8>(), 1 => Just(0xFF)];
    prop_oneof![prop::collection::vec(any::<u8>(), 0..24), prop::collection::vec(byte, 0..64)]
}

proptest! {
    /// Trap T46.
    #[test]
    fn no_bytes_lead_astray_and_the_straight_way_ends_where_the_text_does(bytes in bytes()) {
        for ty in types() {
            let binary = BinaryCodec::of_column(&ty).unwrap();
            let mut text = Vec::new();
            let has_text = binary.append_text(&bytes, &mut text).is_ok();
            for time in [TimeMode::Adaptive, TimeMode::Connect] {
                let codec = Codec::of_column(&ty, Modes { time, ..Modes::default() });
                let Some(Parsed::Value(direct)) = codec.parse_binary(&bytes, &binary) else { continue };
                prop_assert!(has_text, "{ty:?}");
                let by_text = match codec.parse(&text) {
                    Ok(Parsed::Value(value)) => value,
                    other => panic!("{ty:?}: {other:?}"),
                };
                prop_assert_eq!(avro(direct), avro(by_text), "{:?}", ty);
            }
        }
    }
}
