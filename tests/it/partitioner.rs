//! Which partition a record lies in: the one that Java's producers choose by its key, so that topics can be joined.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::Scenario;

/// The hash of Java's default partitioner (`org.apache.kafka.common.utils.Utils.murmur2`).
fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let length = u32::try_from(key.len()).expect("a key is short");
    let mut hash = 0x9747_b28c ^ length;
    let (words, rest) = key.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(M);
        word ^= word >> 24;
        hash = hash.wrapping_mul(M) ^ word.wrapping_mul(M);
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| tail << 8 | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(M);
    hash ^ hash >> 15
}

fn partition_in_java(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & 0x7fff_ffff).cast_signed() % partitions
}

/// Kafka's own test of its hash (`UtilsTest.testMurmur2`).
#[test]
fn the_hash_is_that_of_java() {
    for (key, hash) in [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ("abc", 479_470_107),
    ] {
        assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
    }
}

/// Partitions in which records with a key lie, with the lengths of the keys' bytes modulo four.
fn assert_javas_choice(scenario: &Scenario, table: &str, partitions: i32) -> (BTreeSet<i32>, BTreeSet<usize>) {
    let (mut used, mut lengths, mut keys) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
    for record in scenario.topics().read(table) {
        // A truncate is in every partition.
        let Some(key) = record.key else { continue };
        assert_eq!(record.partition, partition_in_java(&key, partitions), "the partition of {key:?} in {table}");
        used.insert(record.partition);
        lengths.insert(key.len() % 4);
        *keys.entry(key).or_insert(0) += 1;
    }
    assert!(keys.len() > 150, "{} keys in {table}", keys.len());
    (used, lengths)
}

/// Trap T52: rows of a snapshot, changes, moved keys and tombstones lie where Java would put them; the schema's id is a
/// part of the bytes that count.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_lies_in_the_partition_that_javas_default_partitioner_gives_its_key() {
    let mut scenario = Scenario::new("partitioner").await;
    scenario.settings.set(
        "kafka.topics.tables",
        toml::Table::from_iter([("public.codes".to_owned(), toml::Value::from("partitions = 7"))]),
    );
    scenario
        .source(
            "CREATE TABLE things (id int PRIMARY KEY, n int);
             CREATE TABLE codes (code text, id bigint, n int, PRIMARY KEY (code, id));
             INSERT INTO things SELECT i, 0 FROM generate_series(1, 100) i;
             INSERT INTO codes SELECT repeat('ä', i % 9) || i, i * i * i, 0 FROM generate_series(1, 100) i",
        )
        .await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    scenario
        .source(
            "INSERT INTO things SELECT i, 0 FROM generate_series(-200000, -199901) i;
             INSERT INTO codes SELECT md5(i::text), i, 0 FROM generate_series(1, 100) i;
             UPDATE things SET n = 1 WHERE id % 2 = 0; UPDATE codes SET n = 1 WHERE id % 2 = 0;
             UPDATE things SET id = id + 100000 WHERE id % 3 = 0; UPDATE codes SET id = -id WHERE id % 3 = 0;
             DELETE FROM things WHERE id % 5 = 0; DELETE FROM codes WHERE id % 5 = 0",
        )
        .await;
    scenario.await_equal("things").await;
    scenario.await_equal("codes").await;
    assert_eq!(assert_javas_choice(&scenario, "public.things", 3).0, BTreeSet::from([0, 1, 2]));
    let (used, lengths) = assert_javas_choice(&scenario, "public.codes", 7);
    assert_eq!(
        (used.len(), lengths.len()),
        (7, 4),
        "every partition, and every length of what follows the last whole word"
    );
}
