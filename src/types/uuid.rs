//! `uuid`: Avro `string` as PostgreSQL writes it, `io.debezium.data.Uuid`.

pub(super) const NAME: &str = "io.debezium.data.Uuid";
