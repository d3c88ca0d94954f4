//! What writers do: tables, and random statements on them with the events that each row of theirs becomes.

use walrelay::cli::demo::random::Random;

use super::ledger::Counts;

/// Keys of rows that are there at the begin, and of those that come.
pub const KEYS: u64 = 1500;

/// A table of the model.
pub struct Table {
    pub name: &'static str,
    /// The columns of its key.
    pub key: &'static [&'static str],
    /// A row's key, from a number `i`.
    values: &'static str,
    /// What the key of a row becomes when it moves alone, to a number `$to` that must be free.
    moved: &'static str,
    is_free: &'static str,
    /// The same for some rows at once.
    moved_together: &'static str,
    /// Which rows have numbers in a range.
    number: &'static str,
    /// Whether ALTER TABLE and VACUUM write its rows anew. Such a table gets no column with a default, since the
    /// rewrite makes the catalog forget the value of earlier rows (docs/operations.md, what the log does not tell).
    pub is_rewritten: bool,
    /// Whether it goes from one replica identity to the other. Where it stays FULL, each change tells what the one
    /// before has left.
    pub changes_identity: bool,
}

/// Integer key; composite key with a text; REPLICA IDENTITY FULL; partitions between which rows move.
pub const TABLES: [Table; 4] = [
    Table {
        name: "items",
        key: &["id"],
        values: "i",
        moved: "id = $to",
        is_free: "id = $to",
        moved_together: "id = -1 - id",
        number: "id",
        is_rewritten: false,
        changes_identity: true,
    },
    Table {
        name: "notes",
        key: &["b", "a"],
        values: "i, 'k' || i % 7",
        moved: "a = $to, b = 'moved é'",
        is_free: "a = $to AND b = 'moved é'",
        moved_together: "b = b || '+'",
        number: "a",
        is_rewritten: true,
        changes_identity: true,
    },
    Table {
        name: "files",
        key: &["id"],
        values: "i",
        moved: "id = $to",
        is_free: "id = $to",
        moved_together: "id = -1 - id",
        number: "id",
        is_rewritten: false,
        changes_identity: false,
    },
    Table {
        name: "parted",
        key: &["id", "part"],
        values: "i, i % 3",
        moved: "id = $to",
        is_free: "id = $to AND part = parted.part",
        moved_together: "part = (part + 1) % 3",
        number: "id",
        is_rewritten: true,
        changes_identity: false,
    },
];

/// The tables at the source. `began` is a position before the transaction's commit.
pub const AT_SOURCE: &str = "
    CREATE TABLE items (id int PRIMARY KEY, tx bigint NOT NULL, n int, body text, v varchar(9));
    CREATE TABLE notes (a int, b text, tx bigint NOT NULL, n int, body text, PRIMARY KEY (b, a));
    CREATE TABLE files (id int PRIMARY KEY, tx bigint NOT NULL, n int, body text, v varchar(9));
    ALTER TABLE files REPLICA IDENTITY FULL;
    CREATE TABLE parted (id int, part int, tx bigint NOT NULL, n int, body text, PRIMARY KEY (id, part))
        PARTITION BY LIST (part);
    CREATE TABLE parted_0 PARTITION OF parted FOR VALUES IN (0);
    CREATE TABLE parted_1 (body text, n int, part int NOT NULL, tx bigint NOT NULL, id int NOT NULL);
    ALTER TABLE parted ATTACH PARTITION parted_1 FOR VALUES IN (1);
    CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
    CREATE TABLE ledger (tx bigint PRIMARY KEY, xid bigint NOT NULL, began bigint NOT NULL, events text NOT NULL)";

/// Those of the target whose columns must have room for what the source's types become: types stay as they are there.
pub const AT_TARGET: &str = "
    CREATE TABLE items (id int PRIMARY KEY, tx bigint, n int, body text, v text);
    CREATE TABLE notes (a int, b text, tx bigint, n bigint, body text, PRIMARY KEY (b, a));
    CREATE TABLE files (id int PRIMARY KEY, tx bigint, n int, body text, v text);
    CREATE TABLE parted (id int, part int, tx bigint, n bigint, body text, PRIMARY KEY (id, part))";

/// What becomes of a statement's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// So many events of each row.
    Rows(u64),
    Truncate,
    /// A message of the transaction.
    Message,
}

/// A statement with what it does, to the tables of these numbers.
pub struct Statement {
    pub sql: String,
    pub tables: Vec<usize>,
    pub effect: Effect,
}

/// Text that TOAST stores out of line and cannot compress.
fn large(random: &mut Random) -> String {
    let salt = random.below(1_000_000);
    format!("(SELECT string_agg(md5(concat_ws(' ', i, k, {salt})), '') FROM generate_series(1, 90) k)")
}

/// Fills a table; every third row is large.
pub fn fill(table: &Table, random: &mut Random) -> String {
    let (name, values, large) = (table.name, table.values, large(random));
    let columns = columns_of_key(table);
    format!(
        "INSERT INTO {name} ({columns}, tx, n, body) SELECT {values}, 0, i % 10,
         CASE WHEN i % 3 = 0 THEN {large} ELSE 'first' END FROM generate_series(1, {KEYS}) i"
    )
}

/// A last transaction, by whose rows everybody hears of the columns that the tables have in the end.
pub fn last() -> String {
    let number = 1_000_000;
    let insert = |table: &Table| {
        let (name, columns, values) = (table.name, columns_of_key(table), table.values);
        format!("INSERT INTO {name} ({columns}, tx, n) SELECT {values}, {number}, 0 FROM (SELECT {number} i) one")
    };
    let counts: Counts = TABLES.iter().map(|table| (table.name.to_owned(), 1)).collect();
    let rows: Vec<_> = TABLES.iter().map(insert).chain([in_ledger(number, &counts)]).collect();
    format!("BEGIN; {}; COMMIT", rows.join("; "))
}

/// What the writer of a transaction counted.
pub fn in_ledger(tx: u64, counts: &Counts) -> String {
    let events = serde_json::to_string(counts).expect("JSON");
    let xid = "pg_current_xact_id()::text::bigint & 4294967295";
    let began = "(pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint";
    format!("INSERT INTO ledger VALUES ({tx}, {xid}, {began}, '{events}')")
}

/// As the values of a new row are ordered.
fn columns_of_key(table: &Table) -> &'static str {
    match table.name {
        "notes" => "a, b",
        "parted" => "id, part",
        _ => "id",
    }
}

fn one_of<'a, T>(random: &mut Random, items: &'a [T]) -> &'a T {
    let index = usize::try_from(random.below(items.len() as u64)).expect("a small number");
    &items[index]
}

/// A statement of a transaction.
pub fn statement(random: &mut Random, tx: u64) -> Statement {
    let number = usize::try_from(random.below(TABLES.len() as u64)).expect("a small number");
    let rows = |sql: String, each| Statement { sql, tables: vec![number], effect: Effect::Rows(each) };
    let table = &TABLES[number];
    match random.below(1000) {
        0..220 => rows(insert(table, random, tx, 1, 4), 1),
        220..520 => rows(update(table, random, tx, "n = n + 1"), 1),
        520..580 => rows(update_large(table, random, tx), 1),
        580..620 => rows(update(table, random, tx, "body = NULL, n = NULL"), 1),
        620..700 => rows(move_one(table, random, tx), 2),
        700..760 => rows(update(table, random, tx, table.moved_together), 2),
        760..900 => rows(delete(table, random), 1),
        900..970 => message(tx, random),
        970..975 => rows(insert(table, random, tx, 300, 1200), 1),
        975..979 => rows(update_many(table, random, tx), 1),
        979..982 => truncate(random),
        _ => rows(update(table, random, tx, "body = body || '.'"), 1),
    }
}

/// Inserts rows, or takes what is there for it.
fn insert(table: &Table, random: &mut Random, tx: u64, least: u64, most: u64) -> String {
    let (name, key, values) = (table.name, columns_of_key(table), table.values);
    let rows = least + random.below(most - least + 1);
    let (from, n, all) = (random.below(KEYS), random.below(100), table.key.join(", "));
    let body = if rows < 10 && random.below(3) == 0 { large(random) } else { format!("'small {n}'") };
    let conflict = match random.below(2) {
        0 => "NOTHING".to_owned(),
        _ => "UPDATE SET n = excluded.n, tx = excluded.tx".to_owned(),
    };
    format!(
        "INSERT INTO {name} ({key}, tx, n, body) SELECT {values}, {tx}, {n}, {body}
         FROM generate_series({from}, {from} + {rows} - 1) i ON CONFLICT ({all}) DO {conflict}"
    )
}

/// Some neighbours, on either side of zero.
fn some(table: &Table, random: &mut Random, rows: u64) -> String {
    let (from, number) = (random.below(KEYS + KEYS / 4), table.number);
    let sign = if random.below(6) == 0 { "-1 - " } else { "" };
    format!("{sign}{number} BETWEEN {from} AND {}", from + random.below(rows))
}

fn update(table: &Table, random: &mut Random, tx: u64, set: &str) -> String {
    format!("UPDATE {} SET {set}, tx = {tx} WHERE {}", table.name, some(table, random, 6))
}

fn update_large(table: &Table, random: &mut Random, tx: u64) -> String {
    let (from, number) = (random.below(KEYS), table.number);
    let body = large(random).replace("ws(' ', i,", &format!("ws(' ', {number},"));
    format!("UPDATE {} SET body = {body}, tx = {tx} WHERE {number} BETWEEN {from} AND {from} + 1", table.name)
}

fn update_many(table: &Table, random: &mut Random, tx: u64) -> String {
    format!("UPDATE {} SET n = 0, tx = {tx} WHERE {}", table.name, some(table, random, KEYS))
}

fn move_one(table: &Table, random: &mut Random, tx: u64) -> String {
    let (from, name, number) = (random.below(KEYS), table.name, table.number);
    let to = (KEYS + random.below(KEYS)).to_string();
    let (moved, free) = (table.moved.replace("$to", &to), table.is_free.replace("$to", &to));
    format!(
        "UPDATE {name} SET {moved}, tx = {tx} WHERE {number} = {from}
         AND NOT EXISTS (SELECT FROM {name} other WHERE {free})"
    )
}

fn delete(table: &Table, random: &mut Random) -> String {
    format!("DELETE FROM {} WHERE {}", table.name, some(table, random, 4))
}

fn message(tx: u64, random: &mut Random) -> Statement {
    let sql = format!("SELECT pg_logical_emit_message(true, 'model', '{tx} {}')", random.below(1000));
    Statement { sql, tables: Vec::new(), effect: Effect::Message }
}

fn truncate(random: &mut Random) -> Statement {
    let first = usize::try_from(random.below(TABLES.len() as u64)).expect("a small number");
    let mut tables = vec![first];
    if random.below(3) == 0 {
        tables.push((first + 1) % TABLES.len());
    }
    let names: Vec<_> = tables.iter().map(|number| TABLES[*number].name).collect();
    Statement { sql: format!("TRUNCATE {}", names.join(", ")), tables, effect: Effect::Truncate }
}

/// Columns that were added to a table, by name, and whether they have a default.
pub type Added = Vec<(String, bool)>;

/// A change of a table's definition, with what becomes of the columns that were added to it.
///
/// Left out is what stops a table by contract (docs/operations.md, what the log does not tell): a renamed column, a
/// name that is used again, another key. Types change with `capture.on_unlogged = "continue"`, to ones that have the
/// same values.
pub fn definition(random: &mut Random, number: usize, tx: u64, serial: u64, added: &Added) -> (Vec<String>, Added) {
    let (table, mut next) = (&TABLES[number], added.clone());
    let name = table.name;
    let alter = |what: String| vec![format!("ALTER TABLE {name} {what}")];
    let statements = match random.below(12) {
        0..2 => {
            next.push((format!("c_{serial}"), false));
            alter(format!("ADD COLUMN c_{serial} {}", one_of(random, &["int", "text"])))
        }
        2..5 if !table.is_rewritten => {
            next.push((format!("c_{serial}"), true));
            let column = *one_of(random, &["int NOT NULL DEFAULT 5", "text DEFAULT 'it''s'", "bigint DEFAULT -1"]);
            alter(format!("ADD COLUMN c_{serial} {column}"))
        }
        // The value that earlier rows have in a dropped column is in no catalog, so those with a default stay.
        2..5 => match next.iter().position(|(_, has_default)| !has_default) {
            Some(index) => alter(format!("DROP COLUMN {}", next.remove(index).0)),
            None => alter("ALTER n DROP NOT NULL".to_owned()),
        },
        5 => vec![
            format!("UPDATE {name} SET n = 0, tx = {tx} WHERE n IS NULL"),
            format!("ALTER TABLE {name} ALTER n SET NOT NULL"),
        ],
        6 => alter("ALTER n DROP NOT NULL".to_owned()),
        7..9 if table.is_rewritten => alter(format!("ALTER n TYPE {}", one_of(random, &["int", "bigint"]))),
        7..9 => alter(format!("ALTER v TYPE varchar({})", 9 + serial)),
        _ if table.changes_identity => alter(format!("REPLICA IDENTITY {}", one_of(random, &["DEFAULT", "FULL"]))),
        _ => match next.iter().position(|(_, has_default)| !has_default) {
            Some(index) => alter(format!("DROP COLUMN {}", next.remove(index).0)),
            None => alter("ALTER n DROP NOT NULL".to_owned()),
        },
    };
    (statements, next)
}

/// Fills the columns that were added, of some rows.
pub fn update_added(random: &mut Random, number: usize, tx: u64, added: &Added) -> Option<Statement> {
    let (column, _) = added.last()?;
    let table = &TABLES[number];
    let value = random.below(100);
    let sql = update(table, random, tx, &format!("{column} = '{value}'"));
    Some(Statement { sql, tables: vec![number], effect: Effect::Rows(1) })
}

/// Writes all rows of a table to another file.
pub fn rewrite(random: &mut Random) -> String {
    format!("VACUUM FULL {}", one_of(random, &["notes", "parted_0", "parted_1", "parted_2"]))
}
