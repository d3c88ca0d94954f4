//! Values of every type that the path must carry unchanged, among them those that other tools lose.

/// A column with its type and values worth sending, as the type's input text.
pub struct Kind {
    /// The column's name.
    pub column: &'static str,
    /// Its type as SQL.
    pub sql: &'static str,
    /// The values.
    pub values: &'static [&'static str],
}

const fn kind(column: &'static str, sql: &'static str, values: &'static [&'static str]) -> Kind {
    Kind { column, sql, values }
}

/// What both ends must have for the types below.
pub const TYPES: &str = "
    CREATE EXTENSION hstore;
    CREATE EXTENSION ltree;
    CREATE EXTENSION citext;
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'very happy');
    CREATE TYPE pair AS (label text, amount numeric);
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE DOMAIN tag AS text;
    CREATE DOMAIN price AS numeric(8,3);
    CREATE DOMAIN cheap AS price CHECK (VALUE < 10);
    CREATE DOMAIN flags AS bit(3);
    CREATE DOMAIN cash AS money;
    CREATE DOMAIN attributes AS hstore;
    CREATE DOMAIN moods AS mood[];";

const LARGE: &str =
    "123456789012345678901234567890123456789012345678901234567890.12345678901234567890123456789012345678901";

/// One column per type; traps T43, T44, T45, T46.
pub const KINDS: &[Kind] = &[
    kind("a_bool", "boolean", &["t", "f"]),
    kind("a_int2", "smallint", &["0", "-32768", "32767"]),
    kind("a_int4", "integer", &["0", "-2147483648", "2147483647"]),
    kind("a_int8", "bigint", &["0", "-9223372036854775808", "9223372036854775807"]),
    kind("a_float4", "real", &["0", "-0", "NaN", "Infinity", "-Infinity", "1e-45", "3.4028235e38", "0.1"]),
    kind(
        "a_float8",
        "double precision",
        &["-0", "NaN", "Infinity", "-Infinity", "5e-324", "1.7976931348623157e308", "0.1"],
    ),
    kind(
        "a_numeric",
        "numeric",
        &["0", "0.00", "NaN", "Infinity", "-Infinity", "1e1000", "-1e-1000", "123.4500", LARGE],
    ),
    kind("a_money_like", "numeric(12,2)", &["0.00", "-0.01", "9999999999.99", "NaN"]),
    kind("a_hundreds", "numeric(5,-2)", &["0", "12300", "-9999900"]),
    kind(
        "a_text",
        "text",
        &["", "NULL", "\\N", "tab\tline\nback\\slash 'quote' \"double\"", "ä€😀", "__debezium_unavailable_value"],
    ),
    kind("a_varchar", "varchar(10)", &["", "ten chars!", "é"]),
    kind("a_char", "char(5)", &["", "ab", "five5"]),
    kind("a_bytea", "bytea", &["", "\\x00ff00", "\\x5c6e"]),
    kind("a_date", "date", &["2000-01-01", "infinity", "-infinity", "0044-03-15 BC", "4713-01-01 BC", "5874897-12-31"]),
    kind("a_time", "time", &["00:00", "24:00", "23:59:59.999999"]),
    kind("a_time_ms", "time(3)", &["00:00:00.001", "24:00"]),
    kind(
        "a_stamp",
        "timestamp",
        &["1970-01-01", "infinity", "-infinity", "4713-01-01 00:00 BC", "294276-12-31 23:59:59.999999"],
    ),
    kind("a_stamp_ms", "timestamp(3)", &["1969-12-31 23:59:59.999", "infinity", "2024-02-29 12:00:00.5"]),
    kind(
        "a_stamptz",
        "timestamptz",
        &["1970-01-01 00:00+02", "infinity", "-infinity", "0001-01-01 00:00+00 BC", "294276-12-31 23:59:59.999999+00"],
    ),
    kind("a_uuid", "uuid", &["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-4fff-bfff-ffffffffffff"]),
    kind("a_json", "json", &["null", "{\"a\": 1, \"a\": 2,  \"b\":[ ]}", "\"\\ud800\""]),
    kind("a_jsonb", "jsonb", &["null", "{\"n\": 1e400, \"t\": \"ü\"}", "[]"]),
    kind("an_enum", "mood", &["sad", "very happy"]),
    kind("a_domain", "positive", &["1", "2147483647"]),
    kind("a_text_domain", "tag", &["", "x"]),
    kind("a_price", "price", &["12345.678", "NaN", "0.000"]),
    kind("a_cheap_price", "cheap", &["9.999", "-1.500"]),
    kind("a_flags_domain", "flags", &["000", "101"]),
    kind("a_cash_domain", "cash", &["0", "-0.01"]),
    kind("a_hstore_domain", "attributes", &["", "a=>1,\"b c\"=>NULL"]),
    kind("an_array_domain", "moods", &["{}", "{sad,NULL,\"very happy\"}"]),
    kind("a_composite", "pair", &["(,)", "(\"a,\"\"b\",1.50)"]),
    kind("an_array", "int[]", &["{}", "{NULL,1}", "{{1,2},{3,4}}", "[0:1]={7,8}"]),
    kind("a_text_array", "text[]", &["{}", "{\"\",\"NULL\",NULL,\"a,b\\\"c\"}"]),
    kind("a_bool_array", "boolean[]", &["{t,f,NULL}"]),
    kind("an_int2_array", "smallint[]", &["{-32768,NULL}"]),
    kind("an_int8_array", "bigint[]", &["{9223372036854775807,-9223372036854775808}"]),
    kind("an_oid_array", "oid[]", &["{4294967295}"]),
    kind("a_float4_array", "real[]", &["{NaN,Infinity,-0,0.1}"]),
    kind("a_float8_array", "double precision[]", &["{NaN,-Infinity,-0,5e-324}"]),
    kind("a_numeric_array", "numeric[]", &["{NaN,1.500,NULL}", "{1e1000,-Infinity}", "{}"]),
    kind("a_price_array", "numeric(10,2)[]", &["{1.10,-2.20,NULL}", "{NaN,0.00}"]),
    kind("a_varchar_array", "varchar(9)[]", &["{x,\"a b\",\"\\\\\"}"]),
    kind("a_char_array", "char(3)[]", &["{a,\"bc \"}"]),
    kind("a_bytea_array", "bytea[]", &["{\"\\\\x00ff\",\"\"}"]),
    kind("a_date_array", "date[]", &["{2024-02-29,infinity,\"0044-03-15 BC\"}"]),
    kind("a_time_array", "time[]", &["{24:00,00:00:00.000001}"]),
    kind("a_timetz_array", "timetz[]", &["{24:00:00+05:30}"]),
    kind("a_stamp_array", "timestamp[]", &["{infinity,1970-01-01}", "{\"294276-12-31 23:59:59.999999\"}"]),
    kind("a_stamptz_array", "timestamptz(3)[]", &["{-infinity,\"1970-01-01 00:00+02\"}"]),
    kind("a_json_array", "json[]", &["{\"{\\\"a\\\": [1,  2]}\",NULL}"]),
    kind("a_jsonb_array", "jsonb[]", &["{null,\"\\\"x\\\"\",NULL}"]),
    kind("a_uuid_array", "uuid[]", &["{00000000-0000-0000-0000-000000000000}"]),
    kind("an_enum_array", "mood[]", &["{}", "{sad,NULL,\"very happy\"}", "{{sad},{ok}}"]),
    kind("a_domain_array", "positive[]", &["{1,NULL,3}"]),
    kind("an_inet_array", "inet[]", &["{10.0.0.1/8,::1}"]),
    kind("a_range_array", "tstzrange[]", &["{\"[2024-01-01 00:00+00,)\",empty}"]),
    kind("a_bit_array", "bit(3)[]", &["{101,000}"]),
    kind("a_money_array", "money[]", &["{1.5,-0.01}"]),
    kind("an_interval_array", "interval[]", &["{\"1 mon -2 days\"}"]),
    kind("a_point_array", "point[]", &["{\"(1,2)\"}"]),
    kind("a_box_array", "box[]", &["{(1,2),(0,0);(3,4),(1,1)}"]),
    kind("a_composite_array", "pair[]", &["{\"(\\\"a,b\\\",1.5)\",NULL}"]),
    kind("an_hstore", "hstore", &["", "a=>1,n=>NULL", "\"q\\\"\\\\\"=>\"é, =>\""]),
    kind("an_hstore_array", "hstore[]", &["{\"a=>1\"}"]),
    kind("an_ltree", "ltree", &["", "Top.Science"]),
    kind("a_citext", "citext", &["", "CiText"]),
    kind("a_name", "name", &["", "a_name"]),
    kind("a_byte", "\"char\"", &["", "x"]),
    kind("an_int2vector", "int2vector", &["1 2", ""]),
    kind(
        "an_interval",
        "interval",
        &[
            "0",
            "1 mon -2 days +03:00:00.000001",
            "-178000000 years",
            "1 year -1 mon",
            "-00:00:00.000001",
            "-2147483648 days -2562047788:00:54.775807",
            "PT-2562047788H0M-54.775808S",
            "100000:00:59.9",
        ],
    ),
    kind("an_inet", "inet", &["10.0.0.1/8", "::1"]),
    kind("a_bit", "bit(3)", &["000", "101"]),
    kind("a_wide_bit", "bit(17)", &["00000000000000000", "10000000000000001", "01111111100000000"]),
    kind("one_bit", "bit(1)", &["0", "1"]),
    kind("at_most_one_bit", "varbit(1)", &["", "0", "1"]),
    kind("a_varbit", "varbit", &["", "0001", "00000000000", "1000000000"]),
    kind("a_money", "money", &["0", "-0.01", "92233720368547758.07", "-92233720368547758.08"]),
    kind("an_oid", "oid", &["0", "4294967295"]),
    kind("a_range", "int4range", &["empty", "[1,5)", "(,)"]),
    kind("a_multirange", "int4multirange", &["{}", "{[1,3),[5,)}"]),
    kind("a_point", "point", &["(0,-0)", "(1e300,NaN)", "(Infinity,1e-10)", "(0.1,123456789012345680)"]),
    kind("a_timetz", "timetz", &["24:00:00+05:30", "00:00:00-15:59:59", "12:00:00.5+00", "12:00:00-03"]),
    kind("a_box", "box", &["(1,2),(0,0)"]),
    kind("a_path", "path", &["[(0,0),(1,1)]", "((0,0),(1,1),(2,0))"]),
    kind("a_polygon", "polygon", &["((0,0),(1,1),(2,0))"]),
    kind("a_line", "line", &["{0,1,0}"]),
    kind("a_segment", "lseg", &["[(1,2),(3,4)]"]),
    kind("a_circle", "circle", &["<(0,0),0>"]),
    kind("a_query", "tsquery", &["'a' & !'b'", ""]),
    kind("a_jsonpath", "jsonpath", &["$.\"a\"[*]"]),
    kind("an_xid", "xid8", &["0", "18446744073709551615"]),
    kind("a_mac", "macaddr", &["08:00:2b:01:02:03"]),
    kind("a_mac8", "macaddr8", &["08:00:2b:01:02:03:04:05"]),
    kind("a_cidr", "cidr", &["10.0.0.0/8", "2001:db8::/32"]),
    kind("a_lsn", "pg_lsn", &["0/0", "FFFFFFFF/FFFFFFFF"]),
    kind("a_vector", "tsvector", &["", "'a':1A 'b c':2"]),
    kind("a_xml", "xml", &["<a>1</a>", "text"]),
];

/// The columns as they stand in CREATE TABLE.
pub fn definitions() -> String {
    KINDS.iter().map(|kind| format!("{} {}", kind.column, kind.sql)).collect::<Vec<_>>().join(", ")
}

/// How many rows show every value; row 0 is all NULL.
pub fn rows() -> usize {
    1 + KINDS.iter().map(|kind| kind.values.len()).max().unwrap_or_default()
}

/// The SQL values of a row, in column order.
pub fn row(number: usize) -> Vec<String> {
    let literal = |kind: &Kind| {
        let value = number.checked_sub(1).and_then(|index| kind.values.get(index % kind.values.len()));
        value.map_or_else(|| "NULL".to_owned(), |text| format!("'{}'::{}", text.replace('\'', "''"), kind.sql))
    };
    KINDS.iter().map(literal).collect()
}

/// SET clauses that give a row the values of another.
pub fn assignments(number: usize) -> String {
    let pairs = KINDS.iter().zip(row(number));
    pairs.map(|(kind, value)| format!("{} = {value}", kind.column)).collect::<Vec<_>>().join(", ")
}
