//! The ledger of traps: each trap of replication that capture can fall into is named by a test, in a comment inside the test or right
//! above it (`// trap T7`, `/// Traps T6, T7 and T9 to T11`).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// The traps of capture: its slot, the snapshot, rows and definitions, and Kafka with the registry.
const OF_CAPTURE: [(u16, u16); 2] = [(1, 41), (48, 59)];

/// Those that no test needs to name, with the reason.
const EXCEPTIONS: [(u16, &str); 0] = [];

/// What begins a test.
const ATTRIBUTES: [&str; 2] = ["#[test]", "#[tokio::test"];

#[test]
fn each_trap_of_capture_is_named_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests"] {
        super::collect(root, &root.join(folder), &mut files);
    }
    let mut named = BTreeMap::<u16, BTreeSet<String>>::new();
    for (file, text) in &files {
        for (test, traps) in tests(text) {
            for trap in traps {
                named.entry(trap).or_default().insert(format!("{file}: {test}"));
            }
        }
    }
    let problems = judge(&named);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

fn judge(named: &BTreeMap<u16, BTreeSet<String>>) -> Vec<String> {
    let exceptions: BTreeMap<u16, &str> = EXCEPTIONS.into();
    let mut problems = Vec::new();
    for trap in OF_CAPTURE.into_iter().flat_map(|(first, last)| first..=last) {
        match (named.get(&trap), exceptions.get(&trap)) {
            (None, None) => problems.push(format!("trap T{trap} is named by no test")),
            (Some(tests), Some(reason)) => {
                problems.push(format!("trap T{trap} is an exception ({reason}), and {tests:?} name it"));
            }
            _ => {}
        }
    }
    problems
}

/// The tests of a file with the traps that their comments name.
fn tests(text: &str) -> Vec<(String, BTreeSet<u16>)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut tests = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if !ATTRIBUTES.iter().any(|attribute| line.trim_start().starts_with(attribute)) {
            continue;
        }
        let is_above = |line: &&&str| ["//", "#["].iter().any(|begin| line.trim_start().starts_with(begin));
        let first = at - lines[..at].iter().rev().take_while(is_above).count();
        let Some(head) = lines[at..].iter().position(|line| line.contains("fn ")) else { continue };
        let head = at + head;
        let indent = lines[head].len() - lines[head].trim_start().len();
        let end = format!("{}}}", &lines[head][..indent]);
        let length = lines[head..].iter().position(|line| *line == end).unwrap_or_default();
        let comments = lines[first..=head + length].iter().filter_map(|line| line.split_once("//"));
        let traps = comments.flat_map(|(_, comment)| numbers(comment)).collect();
        let name = lines[head].split("fn ").nth(1).and_then(|rest| rest.split('(').next()).unwrap_or_default();
        tests.push((name.to_owned(), traps));
    }
    tests
}

/// The numbers behind `trap` or `traps` in a comment; `to` between two of them stands for all between.
fn numbers(comment: &str) -> BTreeSet<u16> {
    let (mut numbers, mut is_list, mut is_range, mut last) = (BTreeSet::new(), false, false, 0);
    for word in comment.split_whitespace() {
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let number = bare.strip_prefix('T').and_then(|digits| digits.parse::<u16>().ok());
        match (bare.to_ascii_lowercase().as_str(), number) {
            ("trap" | "traps", _) => (is_list, is_range) = (true, false),
            ("to", _) if is_list => is_range = true,
            ("and", _) if is_list => {}
            (_, Some(number)) if is_list => {
                numbers.extend(if is_range { last..=number } else { number..=number });
                (last, is_range) = (number, false);
            }
            _ => is_list = false,
        }
    }
    numbers
}

#[test]
fn the_ledger_finds_what_comments_name() {
    let of = |comment: &str| numbers(comment).into_iter().collect::<Vec<_>>();
    assert_eq!(of("Traps T6, T7 and T9 to T11: a slot that is gone"), [6, 7, 9, 10, 11]);
    assert_eq!(of("whatever it is (trap T33). Trap T24."), [24, 33]);
    assert_eq!(of("a trap for T5 is none"), [0_u16; 0]);
    let text = [
        "/// Trap T1.",
        "#[test]",
        "fn one() {",
        "    // trap T2",
        "}",
        "/// Trap T3.",
        "fn helper() {}",
        "    /// Trap T4.",
        "    #[tokio::test(flavor = \"x\")]",
        "    async fn two() {",
        "        if true {",
        "        } // traps T5, T6",
        "    }",
        "    // trap T7",
    ];
    let found: Vec<_> =
        tests(&text.join("\n")).into_iter().map(|(name, traps)| (name, traps.into_iter().collect())).collect();
    assert_eq!(found, [("one".to_owned(), vec![1, 2]), ("two".to_owned(), vec![4, 5, 6])]);
}
