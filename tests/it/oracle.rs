//! PostgreSQL as the oracle: values of every type that a column can have, made by the server, go both ways to the target and are
//! the same there by their text and by the server's own comparison.
//!
//! `WALRELAY_ORACLE_SEED` and `WALRELAY_ORACLE_ROWS` ask for other and for more of them.

use std::collections::BTreeSet;

use walrelay::{
    schema::TableName,
    source::{catalog, key_columns::KeyColumns},
    types::{BinaryCodec, ColumnType},
};

use crate::support::{
    PrivateParts, Scenario,
    generator::{COLUMN_TYPES, Generated, Generator},
};

/// Columns of one table: a row of the largest values must fit a page.
const WIDTH: usize = 40;
/// Nested types.
const NESTED: usize = 60;

fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// A table with its columns' types.
struct Table {
    name: String,
    types: Vec<Generated>,
}

impl Table {
    /// Every third cannot be null.
    fn columns(&self) -> String {
        let not_null = |number| if number % 3 == 0 { " NOT NULL" } else { "" };
        let columns =
            self.types.iter().enumerate().map(|(number, ty)| format!("c{number} {}{}", ty.sql, not_null(number)));
        columns.collect::<Vec<_>>().join(", ")
    }

    fn rows(&self, from: u64, to: u64) -> String {
        let values = self.types.iter().enumerate().map(|(number, ty)| match number % 3 {
            0 => format!("{}()", ty.function),
            _ => format!("CASE WHEN random() < 0.9 THEN {}() END", ty.function),
        });
        let values = values.collect::<Vec<_>>().join(", ");
        format!("INSERT INTO {} SELECT i, {values} FROM generate_series({from}, {to}) i", self.name)
    }

    fn changes(&self) -> String {
        let set = self.types.iter().enumerate().map(|(number, ty)| format!("c{number} = {}()", ty.function));
        format!("UPDATE {} SET {}", self.name, set.collect::<Vec<_>>().join(", "))
    }

    /// Waits until both ends have the same, or names the first column that differs.
    async fn judge(&self, scenario: &Scenario) {
        let equal = scenario.becomes_equal(&self.name).await;
        let numbers = 0..self.types.len();
        let texts =
            numbers.clone().map(|n| format!("CASE WHEN c{n} IS DISTINCT FROM NULL THEN format('%s', c{n}) END"));
        let texts = texts.collect::<Vec<_>>().join(", ");
        let rows = format!("SELECT json_agg(json_build_array(id, {texts}) ORDER BY id)::text FROM {}", self.name);
        let [source, target] = [scenario.source_value(&rows).await, scenario.target_value(&rows).await];
        let target = target.unwrap_or_default();
        let [of_source, of_target] = [source.as_deref().unwrap_or_default(), &target].map(columns);
        assert!(of_source.len() > self.types.len(), "{} has no rows", self.name);
        for (number, ty) in self.types.iter().enumerate() {
            assert_eq!(of_source.get(number + 1), of_target.get(number + 1), "{} of {}", ty.sql, self.name);
        }
        assert_eq!(of_source, of_target, "rows of {}", self.name);
        let differs = self.types.iter().enumerate();
        let differs =
            differs.map(|(n, ty)| format!("count(*) FILTER (WHERE differ(e ->> {}, '{}', t.c{n}))", n + 1, ty.sql));
        let differs = differs.collect::<Vec<_>>().join(", ");
        let rows = target.replace('\'', "''");
        let counts = format!(
            "SELECT json_build_array({differs})::text FROM json_array_elements('{rows}'::json) e \
             JOIN {} t ON t.id = (e ->> 0)::int",
            self.name
        );
        let counts = scenario.source_value(&counts).await.unwrap_or_default();
        let counts: Vec<u64> = serde_json::from_str(&counts).unwrap_or_else(|error| panic!("{error}: {counts}"));
        for (ty, count) in self.types.iter().zip(counts) {
            assert_eq!(count, 0, "{} of {}", ty.sql, self.name);
        }
        assert!(equal, "{} differs", self.name);
    }
}

/// The columns of rows that are arrays of texts.
fn columns(rows: &str) -> Vec<Vec<serde_json::Value>> {
    let rows: Vec<Vec<serde_json::Value>> = serde_json::from_str(rows).unwrap_or_default();
    let width = rows.first().map_or(0, Vec::len);
    (0..width).map(|number| rows.iter().map(|row| row[number].clone()).collect()).collect()
}

/// Traps T43 to T46.
#[tokio::test(flavor = "multi_thread")]
async fn values_of_every_type_that_a_column_can_have_are_the_same_at_the_target() {
    let private = PrivateParts::with_registry();
    let log = judge_all(&private, "oracle", &[], |_| true).await;
    assert!(log.contains(r#"format="text""#) && !log.contains(r#"format="binary""#), "{log}");
}

/// Of the types that are read in binary; with the others the server is asked for text.
#[tokio::test(flavor = "multi_thread")]
async fn values_that_come_in_binary_are_the_same_at_the_target() {
    let private = PrivateParts::with_registry();
    let forms = [("format.decimal", "string"), ("format.time", "isostring"), ("format.hstore", "map")];
    let is_read = |ty: &ColumnType| BinaryCodec::of_column(ty).is_some();
    let (plain, formed) =
        tokio::join!(judge_all(&private, "binary", &[], is_read), judge_all(&private, "formed", &forms, is_read));
    for log in [plain, formed] {
        assert!(log.contains(r#"format="binary""#) && !log.contains(r#"format="text""#), "{log}");
    }
}

/// Forms that lose something lose nothing on the way to the target.
#[tokio::test(flavor = "multi_thread")]
async fn values_are_the_same_in_whatever_form_consumers_want_them() {
    let private = PrivateParts::with_registry();
    let strings = [
        ("format.decimal", "string"),
        ("format.interval", "numeric"),
        ("format.binary", "hex"),
        ("format.time", "connect"),
        ("format.hstore", "map"),
    ];
    let doubles = [("format.decimal", "double"), ("format.binary", "base64-url-safe"), ("format.time", "isostring")];
    // Debezium names no type as PostgreSQL does, so the target has its tables; and a hstore looks like json.
    let all = ("format.unknown_types", "text");
    let debezium = [("format.compatibility", "debezium"), ("format.parameters", "source-type"), all];
    // A map is none.
    let bare = [("format.compatibility", "debezium"), ("format.hstore", "map"), all];
    tokio::join!(
        judge_all(&private, "strings", &strings, |_| true),
        judge_all(&private, "doubles", &doubles, |_| true)
    );
    tokio::join!(judge_all(&private, "debezium", &debezium, |_| true), judge_all(&private, "bare", &bare, |_| true));
}

/// The types of a generator that are `wanted`.
async fn wanted(scenario: &Scenario, types: &[Generated], wanted: fn(&ColumnType) -> bool) -> Vec<Generated> {
    let columns = types.iter().enumerate().map(|(number, ty)| format!("c{number} {}", ty.sql)).collect::<Vec<_>>();
    scenario.source(&format!("CREATE TABLE probe ({})", columns.join(", "))).await;
    let probe = TableName::new("public", "probe");
    let client = catalog::connect(&scenario.source_settings(), "walrelay test").await.unwrap();
    let catalog = catalog::preview(&client, std::slice::from_ref(&probe), &KeyColumns::default()).await.unwrap();
    scenario.source("DROP TABLE probe").await;
    let columns = &catalog.by_name(&probe).unwrap().relation.columns;
    let fitting = types.iter().zip(columns).filter(|(_, column)| wanted(&column.ty));
    fitting.map(|(ty, _)| ty.clone()).collect()
}

/// Makes a value that a column has its default, for all columns of a table but the first.
fn defaults(table: &str) -> String {
    format!(
        "DO $do$ DECLARE c text; v text; BEGIN \
           FOR c IN SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 1 LOOP \
             EXECUTE format('SELECT min(%I::text) FROM {table}', c) INTO v; \
             BEGIN EXECUTE format('ALTER TABLE {table} ALTER %I SET DEFAULT %L', c, v); \
             EXCEPTION WHEN feature_not_supported THEN NULL; /* of regrole */ \
             END; \
           END LOOP; END $do$"
    )
}

/// Values of all wanted types, on both paths; what capture logged. The registry is the test's own: its database is locked for
/// minutes where many large schemas come at once.
async fn judge_all(
    private: &PrivateParts,
    name: &str,
    settings: &[(&str, &str)],
    is_wanted: fn(&ColumnType) -> bool,
) -> String {
    let (seed, rows) = (setting("WALRELAY_ORACLE_SEED", 1), setting("WALRELAY_ORACLE_ROWS", 24));
    println!("WALRELAY_ORACLE_SEED={seed}");
    let mut scenario = Scenario::on(&private.parts, name).await;
    for (key, value) in settings {
        scenario.settings.set(key, *value);
    }
    // Debezium's forms lose what they have; the others have them anyway.
    scenario.settings.set("format.own_headers", true);
    let listed = scenario.source_value(COLUMN_TYPES).await.expect("types");
    let without_case: BTreeSet<&str> = listed.split(' ').collect();
    let without_case: Vec<_> = without_case.difference(&Generator::built_in().collect()).copied().collect();
    assert!(without_case.is_empty(), "types without a case: {without_case:?}");

    let mut generator = Generator::new(seed);
    generator.add_arrays();
    generator.add_nested(NESTED);
    if scenario.is_source_before(150_000).await {
        generator = generator.before_15();
    }
    println!("{}", generator.definitions);
    scenario.both(&generator.definitions).await;
    scenario.source(&generator.functions).await;
    scenario.source(&format!("SELECT setseed({}::float8 / 1000)", seed % 1000)).await;
    let columns = generator.unwritable.iter().map(|name| format!("c_{name} pg_catalog.{name}"));
    let columns = columns.filter(|_| is_wanted(&ColumnType::base(0, -1, ""))).collect::<Vec<_>>();
    let columns = std::iter::once("id int PRIMARY KEY".to_owned()).chain(columns).collect::<Vec<_>>().join(", ");
    scenario.source(&format!("CREATE TABLE unwritable ({columns}); INSERT INTO unwritable VALUES (1)")).await;
    let types = wanted(&scenario, &generator.types, is_wanted).await;
    let chunks = types.chunks(WIDTH).enumerate();
    let tables: Vec<Table> =
        chunks.map(|(number, types)| Table { name: format!("values_{number}"), types: types.to_vec() }).collect();
    for table in &tables {
        let create = format!("CREATE TABLE {} (id int PRIMARY KEY, {})", table.name, table.columns());
        if settings.contains(&("format.compatibility", "debezium")) {
            scenario.both(&create).await;
        } else {
            scenario.source(&create).await;
        }
        scenario.source(&table.rows(1, rows)).await;
        if settings.contains(&("format.compatibility", "debezium")) {
            // NULL is written as the default then.
            scenario.source(&defaults(&table.name)).await;
        }
    }
    let (_capture, _apply) = (scenario.capture().await, scenario.apply().await);
    for table in &tables {
        table.judge(&scenario).await;
    }
    for table in &tables {
        scenario.source(&format!("{}; {}", table.changes(), table.rows(rows + 1, 2 * rows))).await;
    }
    for table in &tables {
        table.judge(&scenario).await;
    }
    for table in &tables {
        scenario.source(&format!("DELETE FROM {} WHERE id % 2 = 0", table.name)).await;
        scenario.await_equal(&table.name).await;
    }
    scenario.await_equal("unwritable").await;
    scenario.verify();
    scenario.log_text("capture")
}
