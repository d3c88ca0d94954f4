//! The spool against a model in memory.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{lsn::Lsn, source::spool::file::BLOCK};

const MEMORY: usize = 256 << 10;

/// What happens to one of a few transactions.
#[derive(Clone, Debug)]
enum Happening {
    /// A message of a subtransaction, of so many bytes.
    Message(u32, u32, usize),
    RollBack(u32, u32),
    Forget(u32),
    Commit(u32),
    Settle,
}

fn happening() -> impl Strategy<Value = Happening> {
    let (xid, sub) = (0..5_u32, 0..4_u32);
    let len = prop_oneof![6 => 0..300_usize, 3 => 0..40_000_usize, 1 => 0..200_000_usize];
    prop_oneof![
        20 => (xid.clone(), sub.clone(), len).prop_map(|(xid, sub, len)| Happening::Message(xid, sub, len)),
        2 => (xid.clone(), sub).prop_map(|(xid, sub)| Happening::RollBack(xid, sub)),
        1 => xid.clone().prop_map(Happening::Forget),
        2 => xid.prop_map(Happening::Commit),
        5 => Just(Happening::Settle),
    ]
}

/// A transaction of the model: its messages, each with the subtransaction, and which of these are rolled back.
#[derive(Default)]
struct Model {
    messages: Vec<(u32, u64, Vec<u8>)>,
    rolled_back: Vec<u32>,
}

fn spool(memory: usize, limit: u64) -> (tempfile::TempDir, Spool) {
    let folder = tempfile::tempdir().unwrap();
    let settings = SpoolSettings { memory, limit, directory: Some(folder.path().to_owned()) };
    (folder, Spool::new(settings))
}

/// All messages of a transaction that count, as they are read; the tests' messages begin with their subtransaction.
fn read(spool: &mut Spool, mut stored: Stored) -> Vec<(u64, Vec<u8>)> {
    let (mut buffer, mut messages) = (BytesMut::new(), Vec::new());
    loop {
        while let Some(kept) = entry::take(&mut buffer) {
            let sub = u32::from_be_bytes(kept.data[..4].try_into().unwrap());
            if !stored.is_rolled_back(sub) {
                messages.push((kept.wal_start.0, kept.data[4..].to_vec()));
            }
        }
        let wanted = entry::size(&buffer).unwrap_or(1).max(buffer.len() + 1);
        spool.read(&mut stored, &mut buffer, wanted).unwrap();
        if buffer.len() < wanted {
            assert!(buffer.is_empty(), "an entry is cut off");
            return messages;
        }
    }
}

fn append(spool: &mut Spool, xid: u32, sub: u32, number: u64, content: &[u8]) -> bool {
    let data = [&sub.to_be_bytes()[..], content].concat();
    spool.append(xid, Entry { wal_start: Lsn(number), arrival: number, data: &data })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_transaction_comes_back_as_it_went_without_what_was_rolled_back(
        happenings in proptest::collection::vec(happening(), 0..120),
    ) {
        // trap T38
        let (_folder, mut spool) = spool(MEMORY, 64 << 20);
        let mut model = BTreeMap::<u32, Model>::new();
        for (number, happening) in (0..).zip(happenings) {
            match happening {
                Happening::Message(xid, sub, len) => {
                    if !spool.is_open(xid) {
                        spool.begin(xid);
                    }
                    let content = vec![u8::try_from(number % 251).unwrap(); len];
                    prop_assert!(append(&mut spool, xid, sub, number, &content));
                    model.entry(xid).or_default().messages.push((sub, number, content));
                }
                Happening::RollBack(xid, sub) => {
                    prop_assert_eq!(spool.roll_back(xid, sub), model.contains_key(&xid));
                    if let Some(model) = model.get_mut(&xid) {
                        model.rolled_back.push(sub);
                    }
                }
                Happening::Forget(xid) => {
                    spool.forget(xid);
                    model.remove(&xid);
                }
                Happening::Commit(xid) => {
                    let stored = spool.take(xid);
                    prop_assert_eq!(stored.is_some(), model.contains_key(&xid));
                    let Some((stored, model)) = stored.zip(model.remove(&xid)) else { continue };
                    let rolled_back = model.rolled_back;
                    let expected: Vec<_> = model.messages.into_iter()
                        .filter(|(sub, ..)| !rolled_back.contains(sub))
                        .map(|(_, number, content)| (number, content))
                        .collect();
                    prop_assert!(read(&mut spool, stored) == expected);
                }
                Happening::Settle => {
                    spool.settle().unwrap();
                    prop_assert!(spool.held().memory <= MEMORY);
                }
            }
            prop_assert_eq!(spool.held().transactions, model.len());
        }
        for xid in model.keys() {
            spool.forget(*xid);
        }
        prop_assert_eq!(spool.held(), Held::default());
    }
}

#[test]
fn open_transactions_that_are_too_much_for_the_disk_are_told_and_stay_whole() {
    // trap T80
    let (_folder, mut spool) = spool(2 * BLOCK, 4 * BLOCK as u64);
    let content = vec![7; BLOCK];
    spool.begin(1);
    let mut appended = 0;
    let full = loop {
        assert!(append(&mut spool, 1, 0, appended, &content));
        appended += 1;
        if let Err(problem) = spool.settle() {
            break problem;
        }
    };
    assert!(matches!(full, Problem::Full { bytes, source: None, .. } if bytes == 4 * BLOCK as u64), "{full}");
    let stored = spool.take(1).unwrap();
    assert_eq!(u64::try_from(read(&mut spool, stored).len()).unwrap(), appended);
}

#[test]
fn the_bookkeeping_of_many_small_transactions_is_bounded_too() {
    let (_folder, mut spool) = spool(1 << 20, 1 << 30);
    let mut xid = 0;
    let full = loop {
        spool.begin(xid);
        assert!(append(&mut spool, xid, 0, 0, b"small"));
        xid += 1;
        if let Err(problem) = spool.settle() {
            break problem;
        }
        assert!(xid < 10_000, "nothing bounds them");
    };
    assert!(matches!(full, Problem::Full { .. }), "{full}");
    let (_folder, mut spool) = self::spool(1 << 20, 1 << 30);
    spool.begin(1);
    let rolled_back = (0..1_000_000).find(|subxid| !spool.roll_back(1, *subxid) || spool.settle().is_err());
    assert!(rolled_back.is_some_and(|number| number < 300_000), "{rolled_back:?}");
}

#[test]
fn a_spool_that_needs_no_disk_touches_none() {
    let settings = SpoolSettings { directory: Some("/nowhere".into()), ..SpoolSettings::default() };
    assert!(matches!(settings.probe(), Err(Problem::Io { .. })));
    let mut spool = Spool::new(settings);
    spool.begin(1);
    assert!(append(&mut spool, 1, 0, 5, b"content"));
    spool.settle().unwrap();
    let stored = spool.take(1).unwrap();
    assert_eq!(read(&mut spool, stored), [(5, b"content".to_vec())]);
}

#[test]
fn subtransactions_with_messages_are_known_until_they_are_told_of() {
    let (_folder, mut spool) = spool(1 << 20, 1 << 30);
    spool.begin(1);
    let message = |spool: &mut Spool, xid: u32| {
        let data = [&b"I"[..], &xid.to_be_bytes()].concat();
        assert!(spool.append(1, Entry { wal_start: Lsn(0), arrival: 0, data: &data }));
    };
    // Two of them take turns, as the transaction itself does with them.
    for turn in 0..1000 {
        message(&mut spool, turn % 4);
        message(&mut spool, 1);
    }
    assert!(spool.roll_back(1, 2));
    assert!(spool.roll_back(1, 9));
    assert!(spool.held().memory < 200_000, "{:?}", spool.held());
    let mut stored = spool.take(1).unwrap();
    assert_eq!(stored.untold(), [0, 3]);
    stored.roll_back_too(&[0]);
    assert_eq!([0, 1, 2, 3].map(|xid| stored.is_rolled_back(xid)), [true, false, true, false]);
    assert_eq!(stored.untold(), [3]);
}
