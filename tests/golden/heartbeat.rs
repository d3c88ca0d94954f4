//! Heartbeats are Debezium's, byte for byte but for the ids of the schemas.

use serde_json::Value as Json;
use walrelay::{event::RecordBuf, record::Heartbeat};

use crate::{
    oracle,
    support::{MemoryStore, Owned, data, now, settings},
};

#[test]
fn heartbeats_equal_debezium_s() {
    let golden: Json = serde_json::from_str(&data("heartbeat")).unwrap();
    let store = MemoryStore::default();
    let heartbeat = now(Heartbeat::prepare(&settings("gdefault"), &store)).unwrap();
    assert_eq!(Heartbeat::topic("gdefault"), "__debezium-heartbeat.gdefault");
    let schemas = store.0.lock().unwrap().clone();
    for (part, (subject, schema)) in ["key", "value"].into_iter().zip(&schemas) {
        assert_eq!(subject, &format!("__debezium-heartbeat.gdefault-{part}"));
        assert_eq!(serde_json::from_str::<Json>(schema).unwrap(), golden[part]);
    }
    for event in golden["events"].as_array().unwrap() {
        let mut out = RecordBuf::default();
        heartbeat.encode(event["value"]["ts_ms"].as_i64().unwrap(), &mut out);
        let record = Owned::from(out.iter().next().unwrap());
        // A zero byte and four bytes of id come first.
        let body = |bytes: &Option<Vec<u8>>| oracle::hex(&bytes.as_ref().unwrap()[5..]);
        assert_eq!(body(&record.key), event["key_hex"].as_str().unwrap()[10..]);
        assert_eq!(body(&record.value), event["value_hex"].as_str().unwrap()[10..]);
        assert_eq!((record.partition, record.headers.len()), (Some(0), event["headers"].as_array().unwrap().len()));
    }
}
