//! Schemas, tables and columns whose names have any character that PostgreSQL allows: from a seed, and the odd ones by hand.
//!
//! `WALRELAY_NAMES_SEED` asks for others.

use std::collections::BTreeSet;

use walrelay::{cli::demo::random::Random, record::TopicNames, schema::TableName};

use crate::support::Scenario;

/// PostgreSQL's limit of a name, in bytes.
const LONGEST: usize = 63;
/// Letters that mean something to SQL, COPY, Avro, JSON, topics, globs, regular expressions or templates, and such of two to
/// four bytes.
const LETTERS: [&str; 58] = [
    "\"",
    "'",
    "\\",
    "%",
    "$",
    "$1",
    "%s",
    "%%",
    "{",
    "}",
    "{table}",
    "[",
    "]",
    "(",
    ")",
    "*",
    "?",
    "+",
    "|",
    "^",
    ".",
    "..",
    ",",
    ":",
    ";",
    "/",
    "//",
    "-",
    "--",
    "_",
    "__",
    "_u",
    "_u002e",
    "_x",
    "_x5F_",
    "#",
    "&",
    "<",
    ">",
    "=",
    "!",
    "~",
    "`",
    "@",
    " ",
    "\t",
    "\n",
    "\r",
    "\u{1}",
    "\u{1f}",
    "\u{7f}",
    "\u{85}",
    "\u{a0}",
    "\u{feff}",
    "é",
    "中",
    "😀",
    "\u{10ffff}",
];
const PLAIN: &[u8] = b"abcXYZ0123456789";
/// Names that are odd as a whole.
const ODD: [&str; 22] = [
    "1st", "007", ".", "..", "...", "a", "A", "\u{e4}", "\u{c4}", "a\u{308}", " ", "\n", "\\.", "NULL", "select", "id",
    "before", "__op", "%", "\"\"", "$$", "-1",
];

/// Makes names.
struct Names(Random);

impl Names {
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.0.below(bound as u64)).expect("it is below a usize")
    }

    fn letter(&mut self) -> String {
        match self.below(3) {
            0 => char::from(PLAIN[self.below(PLAIN.len())]).to_string(),
            1 => LETTERS[self.below(LETTERS.len())].to_owned(),
            _ => loop {
                let number = u32::try_from(self.0.below(0x11_0000)).expect("it is below a u32");
                if let Some(character) = char::from_u32(number).filter(|character| *character != '\0') {
                    break character.to_string();
                }
            },
        }
    }

    /// A name of at most so many bytes, and one at least.
    fn name(&mut self, longest: usize) -> String {
        let (mut name, length) = (self.letter(), 1 + self.below(longest));
        loop {
            let letter = self.letter();
            if name.len() + letter.len() > length {
                break name;
            }
            name.push_str(&letter);
        }
    }

    /// Different names: `count` of any letters behind the odd ones.
    fn columns(&mut self, count: usize) -> Vec<String> {
        let mut names: Vec<String> = ODD.iter().map(|name| (*name).to_owned()).collect();
        names.extend([&"x".repeat(LONGEST), &"X".repeat(LONGEST), &"\u{10ffff}".repeat(15)].map(String::clone));
        names.extend((0..count).map(|_| self.name(LONGEST)));
        let mut known = BTreeSet::new();
        names.into_iter().filter(|name| known.insert(name.clone())).collect()
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Tables whose topics Kafka takes: it has no two names that differ only in points and underscores.
fn tables(names: &mut Names, prefix: &str) -> Vec<TableName> {
    let topics = TopicNames::new(prefix);
    let schemas: Vec<String> =
        ["public", "a", "A", "1.", "%\"\n"].map(str::to_owned).into_iter().chain([names.name(20)]).collect();
    let long = ["y".repeat(LONGEST), "Y".repeat(LONGEST), "\u{10ffff}".repeat(15)];
    let all = ODD.iter().map(|name| (*name).to_owned()).chain(long);
    let all: Vec<String> = all.chain((0..24).map(|_| names.name(40))).collect();
    let mut taken = BTreeSet::new();
    let tables =
        all.iter().enumerate().map(|(number, name)| TableName::new(&*schemas[number % schemas.len()], &**name));
    tables.filter(|table| topics.of_table(table).is_ok_and(|topic| taken.insert(topic.replace('.', "_")))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_any_characters_arrive() {
    let seed = std::env::var("WALRELAY_NAMES_SEED").map_or(1, |text| text.parse().expect("a number"));
    println!("WALRELAY_NAMES_SEED={seed}");
    let mut names = Names(Random::new(seed));
    let scenario = Scenario::new("names").await;
    let tables = tables(&mut names, &scenario.name);
    assert!(tables.len() > 40, "{tables:?}");
    let schemas: BTreeSet<_> = tables.iter().map(|table| &*table.schema).filter(|schema| *schema != "public").collect();
    for schema in schemas {
        scenario.source(&format!("CREATE SCHEMA {}", quoted(schema))).await;
    }
    let sql = |table: &TableName| format!("{}.{}", quoted(&table.schema), quoted(&table.table));
    let mut with_columns = Vec::new();
    for (number, table) in tables.iter().enumerate() {
        let mut columns: Vec<String> = names.columns(8).iter().map(|name| quoted(name)).collect();
        let count = columns.len();
        columns.rotate_left(number % count);
        // Values that need their columns' names beside the row: NaN in `walrelay.text`, text that is not sent in `walrelay.unchanged`.
        let types = ["int", "numeric(9,2)", "text"];
        let types = columns.iter().enumerate().map(|(number, name)| format!("{name} {}", types[number % 3]));
        let body = types.collect::<Vec<_>>().join(", ");
        let key = format!("{}, {}", columns[0], columns[3 + 2 * (number % 2)]);
        scenario.source(&format!("CREATE TABLE {} ({body}, PRIMARY KEY ({key}))", sql(table))).await;
        with_columns.push((sql(table), columns));
    }
    let insert = async |from: usize| {
        for (table, columns) in &with_columns {
            let values = (0..columns.len())
                .map(|number| ["i", "'NaN'", "repeat(md5(i::text), 3)"][number % 3])
                .collect::<Vec<_>>();
            let values = values.join(", ");
            let text = format!("INSERT INTO {table} SELECT {values} FROM generate_series({from}, {from} + 2) i");
            scenario.source(&text).await;
        }
    };
    insert(1).await;
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    insert(10).await;
    for (table, columns) in &with_columns {
        let large = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 900) i)";
        let (first, text, number) = (&columns[0], &columns[2], &columns[6]);
        scenario.source(&format!("UPDATE {table} SET {text} = {large} WHERE {first} IN (10, 11)")).await;
        scenario.source(&format!("UPDATE {table} SET {number} = 99 WHERE {first} IN (10, 11)")).await;
        scenario
            .source(&format!(
                "DELETE FROM {table} WHERE {first} = 1; UPDATE {table} SET {first} = -2 WHERE {first} = 2"
            ))
            .await;
    }
    for (table, ..) in &with_columns {
        scenario.await_equal(table).await;
    }
    scenario.verify();
}
