//! Dead letters: what they keep of a change, and that they fit whatever their topic takes.

use bytes::Bytes;
use serde_json::{Value as Json, json};
use walrelay::{
    event::{Datum, OldTuple, RecordBuf, RowChange, Tuple},
    lsn::{Lsn, Position},
    record::{DeadLetter, Plan},
    schema::{Column, ReplicaIdentity},
};

use crate::support::{Pipe, column, relation, texts, transaction};

const ERROR: &str = "a record of 9 bytes does not fit topic p.public.t, which takes 8";

fn columns() -> Vec<Column> {
    vec![
        column("id", 23, -1, "integer"),
        column("v", 25, -1, "text"),
        column("w", 25, -1, "text"),
        column("b", 17, -1, "bytea"),
    ]
}

fn plan(identity: ReplicaIdentity) -> std::sync::Arc<Plan> {
    Pipe::new("p").plan(&relation(identity, 1, columns()))
}

/// Key and value of the letter, if there is one.
fn letter(plan: &Plan, change: &RowChange, limit: usize) -> Option<(Option<Vec<u8>>, Json)> {
    let (meta, mut records) = (transaction(), RecordBuf::default());
    let position = Position { epoch: 2, commit: Lsn(77), ordinal: 5 };
    let letter = DeadLetter { plan, transaction: &meta, position, change, error: ERROR };
    let is_written = letter.encode(limit, &mut records).unwrap();
    assert_eq!(is_written, records.iter().len() == 1);
    let record = records.iter().next()?;
    assert!(record.size() <= limit, "{} bytes, and {limit} are taken", record.size());
    assert_eq!(record.partition, record.key.is_none().then_some(0));
    Some((record.key.map(<[u8]>::to_vec), serde_json::from_slice(record.value.unwrap()).unwrap()))
}

fn row() -> Tuple {
    let mut row = texts(&[Some("7"), Some("it's \"v\""), None, None]);
    row[3] = Datum::Binary(Bytes::from_static(&[0, 255]));
    row
}

#[test]
fn a_letter_tells_the_change_with_its_values_as_text() {
    let plan = plan(ReplicaIdentity::Full);
    let (key, value) = letter(&plan, &RowChange::Insert(row()), 10_000).unwrap();
    assert_eq!(key.unwrap()[5..], [14]);
    let meta = transaction();
    let expected = json!({
        "schema": "public", "table": "t", "op": "c", "position": "2:77:5", "commit_us": meta.commit_us,
        "transaction": meta.xid, "error": ERROR, "after": {"id": "7", "v": "it's \"v\"", "w": null, "b": "\\x00ff"},
    });
    assert_eq!(value, expected);
    let mut new = row();
    (new[1], new[2]) = (Datum::Text(Bytes::from_static(b"\xffv")), Datum::Unchanged);
    let update = |old| RowChange::Update { old, new: new.clone() };
    let (_, value) = letter(&plan, &update(None), 10_000).unwrap();
    let after = json!({"id": "7", "v": {"base64": "/3Y="}, "w": {"unsent": true}, "b": "\\x00ff"});
    assert_eq!((&value["op"], value.get("before"), &value["after"]), (&json!("u"), None, &after));
    // What was not sent of the row is in the whole one before it.
    let (_, value) =
        letter(&plan, &update(Some(OldTuple::Full(texts(&[Some("7"), None, Some("w"), None])))), 10_000).unwrap();
    assert_eq!((&value["before"]["v"], &value["after"]["w"]), (&Json::Null, &json!("w")));
    let key = OldTuple::Key(texts(&[Some("8"), None, None, None]));
    let (_, value) = letter(&plan, &RowChange::Delete(key), 10_000).unwrap();
    assert_eq!((&value["op"], &value["before"], value.get("after")), (&json!("d"), &json!({"id": "8"}), None));
    let (_, value) = letter(&plan, &RowChange::Read(row()), 10_000).unwrap();
    assert_eq!(value["op"], "r");
}

/// The largest go first, and a value that is cut tells how large it was.
#[test]
fn values_are_cut_from_the_largest_on_until_the_letter_fits() {
    let plan = plan(ReplicaIdentity::Full);
    let (v, w) = ("v".repeat(3_000), "w".repeat(1_000));
    let row = texts(&[Some("7"), Some(&v), Some(&w), Some("\\x00")]);
    let after = |limit| letter(&plan, &RowChange::Insert(row.clone()), limit).unwrap().1["after"].clone();
    assert_eq!(after(10_000)["v"], json!(v));
    assert_eq!(after(4_000), json!({"id": "7", "v": {"cut": 3000}, "w": w, "b": "\\x00"}));
    assert_eq!(after(1_000), json!({"id": "7", "v": {"cut": 3000}, "w": {"cut": 1000}, "b": "\\x00"}));
}

/// Whatever the topic takes, from the least on that says where the change is.
#[test]
fn a_letter_never_is_larger_than_its_topic_takes() {
    let plan = plan(ReplicaIdentity::Full);
    let wide = "\u{1}\"é".repeat(60);
    let old = OldTuple::Full(texts(&[Some("6"), Some(&wide), Some("x"), Some("\\x00")]));
    let new = texts(&[Some("7"), Some("short"), Some(&wide), Some(&format!("\\x{}", "00".repeat(90)))]);
    let change = RowChange::Update { old: Some(old), new };
    let mut written = 0;
    for limit in 0..2_500 {
        let Some((key, value)) = letter(&plan, &change, limit) else {
            assert_eq!(written, 0, "none at {limit}, though less has room for one");
            continue;
        };
        written += 1;
        assert_eq!(value["position"], "2:77:5");
        assert!(key.is_some() || value.get("after").is_none(), "the key goes last");
    }
    assert!(written > 2_200, "{written}");
}

#[test]
fn a_value_that_is_longer_than_any_letter_is_not_even_written() {
    let plan = plan(ReplicaIdentity::Default);
    let mut row = row();
    row[1] = Datum::Text(Bytes::from(vec![b'v'; 50_000_000]));
    row[3] = Datum::Binary(Bytes::from(vec![0; 1_000_000]));
    let (_, value) = letter(&plan, &RowChange::Insert(row), 5_000).unwrap();
    assert_eq!(value["after"], json!({"id": "7", "v": {"cut": 50_000_000}, "w": null, "b": {"cut": 2_000_002}}));
}
