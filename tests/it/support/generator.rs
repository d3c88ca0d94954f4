//! Types and random values of them, made by the server: each type has a SQL function that returns another value at each call.

use std::fmt::Write;

use walrelay::cli::demo::random::Random;

/// What every generator may use: texts with all that has to be quoted somewhere, numbers of all sizes, bounds of ranges;
/// and a comparison by the type's own equality, which some types have not.
const HELPERS: &str = r#"
    CREATE FUNCTION pick(VARIADIC choices text[]) RETURNS text LANGUAGE sql VOLATILE
        AS $$ SELECT choices[1 + floor(random() * cardinality(choices))::int] $$;
    CREATE FUNCTION words() RETURNS text LANGUAGE sql VOLATILE AS $$
        SELECT coalesce(string_agg(pick('a', 'B', ' ', '"', '''', '\', '{', '}', '(', ')', ',', ';', '=', E'\n', E'\t', 'NULL', 'é', '中', '😀',
            chr(1), chr(127), '%', '<', '&', '__debezium_unavailable_value'), ''), '') FROM generate_series(1, floor(random() * 9)::int) $$;
    CREATE FUNCTION wide() RETURNS float8 LANGUAGE sql VOLATILE
        AS $$ SELECT CASE WHEN random() < 0.2 THEN pick('0', '-0', 'NaN', 'Infinity', '-Infinity', '5e-324', '1.7976931348623157e308', '0.1')::float8
            ELSE (random() - 0.5) * 10 ^ (random() * 60 - 30) END $$;
    CREATE FUNCTION finite() RETURNS float8 LANGUAGE sql VOLATILE AS $$ SELECT ((random() - 0.5) * 10 ^ (random() * 12 - 6))::float8 $$;
    CREATE FUNCTION bounds() RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT pick('[]', '[)', '(]', '()') $$;
    CREATE FUNCTION differ(a text, type text, b anyelement) RETURNS boolean LANGUAGE plpgsql AS $$
        DECLARE different boolean; BEGIN EXECUTE format('SELECT %L::%s IS DISTINCT FROM $1', a, type) INTO different USING b;
        RETURN different; EXCEPTION WHEN undefined_function THEN RETURN false; END $$;
    CREATE FUNCTION octets(n int) RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT substr(md5(random()::text) || md5(random()::text), 1, n * 2) $$;
"#;

/// A type with the function that makes random values of it.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Name of its function, `gen_…`.
    pub function: String,
    /// The type as SQL.
    pub sql: String,
    /// Whether values can be put into a range and an index.
    pub ordered: bool,
}

/// Built-in types with the expression of a random value, and whether they are ordered; NULL for those that no client can
/// write.
const BUILT_IN: &[(&str, &str, bool)] = &[
    ("bool", "random() < 0.5", true),
    ("bytea", "decode(octets(floor(random() * 20)::int), 'hex')", true),
    ("char", "pick('a', '', '\"', 'é')::\"char\"", true),
    ("name", "substr(words(), 1, 20)::name", true),
    (
        "int8",
        "CASE WHEN random() < 0.2 THEN pick('9223372036854775807', '-9223372036854775808', '0')::int8 ELSE ((random() - 0.5) * 1.8e19)::int8 END",
        true,
    ),
    ("int2", "((random() - 0.5) * 65535)::int2", true),
    ("int2vector", "pick('', '1', '1 -2 3')::int2vector", false),
    (
        "int4",
        "CASE WHEN random() < 0.2 THEN pick('2147483647', '-2147483648', '0')::int4 ELSE ((random() - 0.5) * 4294967294)::int4 END",
        true,
    ),
    ("regproc", "pick('-', 'now', 'pg_backend_pid')::regproc", false),
    ("text", "words()", true),
    ("oid", "(floor(random() * 4294967295)::int8)::oid", true),
    ("tid", "format('(%s,%s)', floor(random() * 4294967295)::int8, floor(random() * 65535)::int)::tid", false),
    ("xid", "(floor(random() * 4294967295)::int8)::text::xid", false),
    ("cid", "(floor(random() * 4294967295)::int8)::text::cid", false),
    ("oidvector", "pick('', '1', '1 2 4294967295')::oidvector", false),
    (
        "json",
        "pick('null', '{\"a\": 1,  \"a\":[ ]}', '\"\\ud800\"', '1e400', json_build_object(words(), words())::text)::json",
        false,
    ),
    ("xml", "format('<a b=\"%s\">x</a>', floor(random() * 99))::xml", false),
    ("pg_node_tree", "NULL::pg_node_tree", false),
    ("point", "point(wide(), wide())", false),
    ("lseg", "lseg(point(finite(), finite()), point(wide(), finite()))", false),
    ("path", "pick('[(0,0),(1,1)]', '((0,0),(1,1),(2,0))', format('[(%s,%s)]', wide(), wide()))::path", false),
    ("box", "box(point(finite(), finite()), point(finite(), finite()))", false),
    ("polygon", "polygon(box(point(finite(), finite()), point(finite(), finite())))", false),
    ("line", "format('{%s,1,%s}', finite(), finite())::line", false),
    (
        "float4",
        "CASE WHEN random() < 0.3 THEN pick('0', '-0', 'NaN', 'Infinity', '-Infinity', '1e-45', '3.4028235e38')::float4 ELSE finite()::float4 END",
        true,
    ),
    ("float8", "wide()", true),
    ("circle", "circle(point(finite(), finite()), abs(finite()))", false),
    (
        "money",
        "CASE WHEN random() < 0.2 THEN pick('92233720368547758.07', '-92233720368547758.08', '0')::money ELSE (finite() * 1000)::numeric::money END",
        true,
    ),
    ("macaddr", "octets(6)::macaddr", true),
    (
        "inet",
        "CASE WHEN random() < 0.5 THEN format('%s.%s.0.1/%s', floor(random() * 255), floor(random() * 255), floor(random() * 33))::inet ELSE pick('::1', '2001:db8::/32', '::ffff:1.2.3.4')::inet END",
        true,
    ),
    (
        "cidr",
        "network(format('%s.%s.0.1/%s', floor(random() * 255), floor(random() * 255), floor(random() * 33))::inet)::cidr",
        true,
    ),
    ("macaddr8", "octets(8)::macaddr8", true),
    ("aclitem", "pick('=r/postgres', 'postgres=arwdDxt/postgres', 'postgres=r*/postgres')::aclitem", false),
    ("bpchar", "words()::bpchar", true),
    ("varchar", "words()::varchar", true),
    (
        "date",
        "CASE WHEN random() < 0.2 THEN pick('infinity', '-infinity', '4713-01-01 BC', '5874897-12-31')::date ELSE date '2000-01-01' + ((random() - 0.5) * 2000000)::int END",
        true,
    ),
    ("time", "CASE WHEN random() < 0.1 THEN time '24:00' ELSE time '00:00' + random() * interval '24 h' END", true),
    (
        "timestamp",
        "CASE WHEN random() < 0.2 THEN pick('infinity', '-infinity', '4713-01-01 00:00 BC', '294276-12-31 23:59:59.999999')::timestamp ELSE timestamp '2000-01-01' + (random() - 0.5) * interval '3000 years' END",
        true,
    ),
    (
        "timestamptz",
        "CASE WHEN random() < 0.2 THEN pick('infinity', '-infinity', '0001-01-01 00:00+00 BC', '294276-12-31 23:59:59.999999+00')::timestamptz ELSE timestamptz '2000-01-01 00:00+00' + (random() - 0.5) * interval '3000 years' END",
        true,
    ),
    (
        "interval",
        "CASE WHEN random() < 0.2 THEN pick('0', '-178000000 years', '-2562047788:00:54.775807', '-00:00:00.000001', '1 mon -1 days 00:00:00.999999', '-1 mon 1 day -00:00:00.999999', '178956970 years 7 mons -2147483648 days 2562047788:00:54.775807', '-178956970 years -8 mons 2147483647 days -00:00:00.5')::interval ELSE make_interval(((random() - 0.5) * 99)::int, ((random() - 0.5) * 30)::int, 0, ((random() - 0.5) * 90)::int, 0, 0, finite()) END",
        true,
    ),
    ("timetz", "(pick('24:00', '00:00:00.000001', '23:59:59.5') || pick('+00', '-15:59:59', '+05:30'))::timetz", true),
    ("bit", "pick('0', '1')::bit(1)", true),
    (
        "varbit",
        "substring(pick('', '0001', '1000000000000000001')::varbit || (floor(random() * 65535)::int)::bit(16) from 1 for floor(random() * 20)::int)::varbit",
        true,
    ),
    (
        "numeric",
        "CASE WHEN random() < 0.3 THEN pick('0', '0.000', 'NaN', 'Infinity', '-Infinity', '1e1000', '-1e-1000', '1.500', repeat('7', 1000), '-' || repeat('123456789', 99) || '.' || repeat('9', 109), '0.' || repeat('0', 16382) || '1')::numeric ELSE finite()::numeric * 10 ^ (floor(random() * 80) - 40)::numeric END",
        true,
    ),
    ("refcursor", "words()::refcursor", false),
    ("regprocedure", "pick('-', 'now()', 'abs(integer)')::regprocedure", false),
    ("regoper", "pick('0', '||/')::regoper", false),
    ("regoperator", "pick('0', '+(integer,integer)')::regoperator", false),
    ("regclass", "CASE WHEN random() < 0.5 THEN '-'::regclass ELSE 'pg_class'::regclass END", false),
    ("regtype", "pick('-', 'integer', 'timestamp with time zone')::regtype", false),
    ("regrole", "pick('-', 'postgres')::regrole", false),
    ("regnamespace", "pick('-', 'pg_catalog')::regnamespace", false),
    ("regconfig", "pick('-', 'english')::regconfig", false),
    ("regdictionary", "pick('-', 'simple')::regdictionary", false),
    ("regcollation", "pick('-', '\"C\"')::regcollation", false),
    ("uuid", "gen_random_uuid()", true),
    ("pg_lsn", "('0/0'::pg_lsn + floor(random() * 1e15)::numeric)", true),
    ("tsvector", "to_tsvector('simple', words()) || to_tsvector('english', 'the quick ''fox''')", false),
    ("gtsvector", "NULL::gtsvector", false),
    ("tsquery", "pick('', 'a & !b', '''x y'' <-> z:*A', 'a | (b & c)')::tsquery", false),
    (
        "jsonb",
        "pick('null', '{\"n\": 1e400, \"t\": \"ü\"}', '[]', jsonb_build_object(words(), words())::text)::jsonb",
        false,
    ),
    ("jsonpath", "pick('$', '$.\"a\"[*] ? (@ > 1)')::jsonpath", false),
    ("txid_snapshot", "pick('10:20:10,14,15', '1:1:')::txid_snapshot", false),
    ("pg_snapshot", "pick('10:20:10,14,15', '1:1:')::pg_snapshot", false),
    ("xid8", "(floor(random() * 1e18)::int8)::text::xid8", false),
    ("int4range", "range of ((random() - 0.5) * 99999)::int4", false),
    ("numrange", "range of finite()::numeric", false),
    ("tsrange", "range of timestamp '2000-01-01' + random() * interval '9 years'", false),
    ("tstzrange", "range of timestamptz '2000-01-01 00:00+00' + random() * interval '9 years'", false),
    ("daterange", "range of date '2000-01-01' + (random() * 9999)::int", false),
    ("int8range", "range of ((random() - 0.5) * 1e15)::int8", false),
    ("int4multirange", "int4multirange(gen_int4range(), gen_int4range())", false),
    ("nummultirange", "nummultirange(gen_numrange())", false),
    ("tsmultirange", "tsmultirange(gen_tsrange(), gen_tsrange())", false),
    ("tstzmultirange", "tstzmultirange(gen_tstzrange())", false),
    ("datemultirange", "pick('{}', '{[2024-01-01,2024-02-01),[2025-01-01,)}')::datemultirange", false),
    ("int8multirange", "int8multirange(gen_int8range())", false),
    ("pg_ndistinct", "NULL::pg_ndistinct", false),
    ("pg_dependencies", "NULL::pg_dependencies", false),
    ("pg_mcv_list", "NULL::pg_mcv_list", false),
    ("pg_brin_bloom_summary", "NULL::pg_brin_bloom_summary", false),
    ("pg_brin_minmax_multi_summary", "NULL::pg_brin_minmax_multi_summary", false),
];

/// The types that a table's column can have, as the catalog lists them: no pseudo-types, and no arrays, which have cases of
/// their own.
pub const COLUMN_TYPES: &str = "SELECT string_agg(typname, ' ' ORDER BY oid) FROM pg_type t WHERE typnamespace = 'pg_catalog'::regnamespace \
    AND typtype IN ('b', 'd', 'e', 'r', 'm') AND typisdefined \
    AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)";

/// Types with modifiers, and of extensions: SQL and the expression of a random value.
const FURTHER: &[(&str, &str, bool)] = &[
    ("character(5)", "words()::character(5)", true),
    ("character varying(10)", "words()::character varying(10)", true),
    ("bit(17)", "(floor(random() * 65535)::int)::bit(17)", true),
    ("bit(1)", "pick('0', '1')::bit(1)", true),
    ("bit varying(10)", "pick('', '0', '0001', '1111111111')::bit varying(10)", true),
    ("bit varying(1)", "pick('', '0', '1')::bit varying(1)", true),
    ("numeric(12,2)", "pick('NaN', '0', '0.10', finite()::numeric::text)::numeric(12,2)", true),
    ("numeric(5,-2)", "(finite() * 10)::numeric(5,-2)", true),
    ("numeric(3,5)", "(random() / 1000)::numeric(3,5)", true),
    ("time(3)", "gen_time()::time(3)", true),
    ("time(0) with time zone", "gen_timetz()::time(0) with time zone", true),
    (
        "timestamp(3)",
        "pick('infinity', '-infinity', '1969-12-31 23:59:59.9996', '4713-01-01 00:00 BC', '294276-12-31 23:59:59.999')::timestamp(3)",
        true,
    ),
    (
        "timestamp(0) with time zone",
        "pick('infinity', '1969-12-31 23:59:59.5+00', '2024-02-29 12:00+02')::timestamp(0) with time zone",
        true,
    ),
    ("interval year to month", "make_interval(((random() - 0.5) * 99)::int, 1)::interval year to month", true),
    ("interval second(2)", "make_interval(secs => finite())::interval second(2)", true),
    ("hstore", "hstore(ARRAY[words(), words(), words()], ARRAY[words(), NULL, words()])", false),
    ("ltree", "pick('', 'Top', 'Top.Science.Astronomy')::ltree", true),
    ("citext", "words()::citext", true),
    ("mood", "pick('sad', 'very happy', 'q\"uo,te', 'NULL', '', E'\\\\\\n{}', 'é, 😀')::mood", true),
    ("lquery", "pick('*.a.*', 'Top.*{1,2}.!b')::lquery", false),
    ("ltxtquery", "pick('a & !b', 'Europe | x*')::ltxtquery", false),
    ("cube", "pick('(0)', '(1,2),(-3.5,4)', '(NaN,1)', '(1e300)')::cube", true),
    ("seg", "pick('1.50', '~1.2', '1 .. 2', '5 ..', '<3.000')::seg", true),
    ("isbn13", "pick('978-0-393-04002-9', '978-3-16-148410-0')::isbn13", true),
    ("lo", "pick('1', '4294967295')::lo", true),
    ("pruned", "ROW(gen_int4(), gen_numeric())::pruned", false),
];

/// Types that were made, and the statements that made them.
pub struct Generator {
    random: Random,
    /// The types so far, but those that only a server can write.
    pub types: Vec<Generated>,
    /// Built-in types that only a server can write: a column can have them, and holds NULL.
    pub unwritable: Vec<&'static str>,
    /// Statements for both ends.
    pub definitions: String,
    /// Statements for the source.
    pub functions: String,
}

impl Generator {
    /// All built-in types, some with modifiers and some of extensions.
    pub fn new(seed: u64) -> Self {
        let mut generator = Self {
            random: Random::new(seed),
            types: Vec::new(),
            unwritable: Vec::new(),
            definitions: "CREATE EXTENSION hstore; CREATE EXTENSION ltree; CREATE EXTENSION citext; \
                          CREATE EXTENSION cube; CREATE EXTENSION seg; CREATE EXTENSION isn; CREATE EXTENSION lo; \
                          CREATE TYPE mood AS ENUM ('sad', 'very happy', 'q\"uo,te', 'NULL', '', E'\\\\\\n{}', 'é, 😀'); \
                          CREATE TYPE pruned AS (a int, b text, c numeric); ALTER TYPE pruned DROP ATTRIBUTE b;"
                .to_owned(),
            functions: HELPERS.to_owned(),
        };
        for (name, value, ordered) in BUILT_IN {
            if value.starts_with("NULL") {
                generator.unwritable.push(name);
                continue;
            }
            let value = match value.strip_prefix("range of ") {
                Some(bound) => range(name, bound),
                None => (*value).to_owned(),
            };
            generator.add(&format!("gen_{name}"), &format!("pg_catalog.\"{name}\""), &value, *ordered);
        }
        for (number, (sql, value, ordered)) in FURTHER.iter().enumerate() {
            generator.add(&format!("gen_further_{number}"), sql, value, *ordered);
        }
        generator
    }

    /// The same for a server before 15.
    pub fn before_15(mut self) -> Self {
        for sql in self.types.iter_mut().map(|ty| &mut ty.sql).chain([&mut self.definitions, &mut self.functions]) {
            *sql = super::before_15(sql);
        }
        self
    }

    /// Names of the built-in types that have a case.
    pub fn built_in() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, ..)| *name)
    }

    fn add(&mut self, function: &str, sql: &str, value: &str, ordered: bool) {
        // A function that may be inlined would be called once for a whole column.
        let _written = writeln!(
            self.functions,
            "CREATE FUNCTION {function}() RETURNS {sql} LANGUAGE plpgsql VOLATILE AS $gen$ BEGIN RETURN {value}; END $gen$;"
        );
        self.types.push(Generated { function: function.to_owned(), sql: sql.to_owned(), ordered });
    }

    /// An array of every type.
    pub fn add_arrays(&mut self) {
        for (number, item) in self.types.clone().into_iter().enumerate() {
            self.add_array(&format!("gen_array_{number}"), &item);
        }
    }

    fn add_array(&mut self, function: &str, item: &Generated) {
        let (array, next) = (format!("{}[]", item.sql), format!("{}()", item.function));
        let value = format!(
            "CASE floor(random() * 6)::int WHEN 0 THEN '{{}}'::{array} WHEN 1 THEN ARRAY[{next}]::{array} \
             WHEN 2 THEN ARRAY[ARRAY[{next}, {next}], ARRAY[{next}, NULL]]::{array} \
             WHEN 3 THEN ('[-1:0]=' || ARRAY[{next}, {next}]::{array}::text)::{array} \
             ELSE ARRAY[{next}, NULL, {next}]::{array} END"
        );
        self.add(function, &array, &value, false);
    }

    /// So many types that are made of others: domains, composites, ranges, multiranges, arrays.
    pub fn add_nested(&mut self, count: usize) {
        for number in 0..count {
            let part = self.any(false);
            let (function, name) = (format!("gen_nested_{number}"), format!("nested_{number}"));
            let next = format!("{}()", part.function);
            match self.random.below(4) {
                0 => {
                    self.define(&format!("CREATE DOMAIN {name} AS {}", part.sql));
                    self.add(&function, &name, &format!("{next}::{name}"), part.ordered);
                }
                1 => {
                    let other = self.any(false);
                    self.define(&format!("CREATE TYPE {name} AS (a {}, \"b c\" {})", part.sql, other.sql));
                    let value = format!("ROW({next}, CASE WHEN random() < 0.8 THEN {}() END)::{name}", other.function);
                    self.add(&function, &name, &value, false);
                }
                2 => {
                    let part = self.any(true);
                    self.define(&format!("CREATE TYPE {name} AS RANGE (subtype = {})", part.sql));
                    self.add(&function, &name, &range(&name, &format!("{}()", part.function)), true);
                    let multirange = format!("{name}_multirange");
                    let value = format!("{multirange}({function}())");
                    self.add(&format!("gen_many_{number}"), &multirange, &value, false);
                }
                _ if part.sql.ends_with("[]") => {
                    self.define(&format!("CREATE DOMAIN {name} AS {}", part.sql));
                    self.add(&function, &name, &format!("{next}::{name}"), false);
                }
                _ => self.add_array(&function, &part),
            }
        }
    }

    fn define(&mut self, statement: &str) {
        self.definitions.push_str(statement);
        self.definitions.push_str(";\n");
    }

    fn any(&mut self, ordered: bool) -> Generated {
        let fitting: Vec<&Generated> = self.types.iter().filter(|ty| ty.ordered || !ordered).collect();
        let place = self.random.below(fitting.len() as u64);
        fitting[usize::try_from(place).expect("few types")].clone()
    }
}

/// The expression of a random range whose bounds an expression gives; unbounded on either side now and then.
fn range(name: &str, bound: &str) -> String {
    format!(
        "(SELECT CASE WHEN random() < 0.1 THEN 'empty'::{name} WHEN random() < 0.1 THEN {name}(NULL, b) WHEN random() < 0.1 THEN {name}(a, NULL) \
         ELSE {name}(least(a, b), greatest(a, b), bounds()) END FROM (SELECT {bound} AS a, {bound} AS b) s)"
    )
}
