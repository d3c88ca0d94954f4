//! `json` and `jsonb`: Avro `string` byte for byte, `io.debezium.data.Json`; never parsed, so numbers, key order and lone
//! surrogates stay as they are (trap T46).

pub(super) const NAME: &str = "io.debezium.data.Json";
