//! What happens to tables, and what is to come of it.

/// What becomes of a table.
pub enum Outcome {
    /// It goes on, and these columns are equal at both ends.
    Arrives(&'static str),
    /// It stops for a reason; once the target is changed by hand, it goes on by the operator's word, and with this last change
    /// at the source these columns are equal.
    Stops { reason: &'static str, remedy: &'static str, last: &'static str, columns: &'static str },
    /// It stops for this reason, and nothing but a new snapshot helps.
    StopsForGood(&'static str),
}

use Outcome::{Arrives, Stops, StopsForGood};

/// A table and what is done to it; `$t` stands for its name.
pub struct Case {
    pub name: &'static str,
    /// Which of the two tables there are.
    pub when: &'static [&'static str],
    /// What both ends need before.
    pub both: &'static str,
    /// The table's definition behind its name.
    pub table: &'static str,
    /// The first three rows.
    pub rows: &'static str,
    pub change: &'static str,
    pub outcome: Outcome,
}

pub const BOTH: &[&str] = &["live", "down"];

const PLAIN: &str = "(id int PRIMARY KEY, n int, t text)";
const ROWS: &str = "(1, 1, 'one'), (2, 2, 'two'), (3, 3, 'three')";

/// Unchanged rows have to get what new columns say, and rows of one transaction the columns of their time.
pub const CASES: &[Case] = &[
    Case {
        name: "columns",
        when: &["live"],
        both: "",
        table: "(id int PRIMARY KEY, n int NOT NULL, v varchar(5), p numeric(4,2), t text NOT NULL)",
        rows: "(1, 1, 'a', 1.25, 'one'), (2, 2, 'b', 2.25, 'two'), (3, 3, 'c', 3.25, 'three')",
        change: "ALTER TABLE $t ADD COLUMN c int; INSERT INTO $t VALUES (4, 4, 'd', 4.25, 'four', 4); UPDATE $t SET c = 1 WHERE id = 1;
                 ALTER TABLE $t DROP COLUMN t, ALTER v TYPE varchar(9), ALTER p TYPE numeric(8,2); UPDATE $t SET v = 'new' WHERE id = 2;
                 BEGIN; ALTER TABLE $t ALTER n DROP NOT NULL; UPDATE $t SET n = NULL WHERE id = 1; ALTER TABLE $t ADD COLUMN m text NOT NULL DEFAULT ''; COMMIT;
                 UPDATE $t SET n = 0 WHERE n IS NULL; ALTER TABLE $t ALTER n SET NOT NULL, ALTER v TYPE text; INSERT INTO $t VALUES (5, 5, 'e', 5.25, 5, 'five')",
        outcome: Arrives("id, n, v, p, c, m"),
    },
    Case {
        name: "defaults",
        when: BOTH,
        both: "",
        table: PLAIN,
        rows: ROWS,
        change: "ALTER TABLE $t ADD COLUMN c int NOT NULL DEFAULT 5, ADD COLUMN d text DEFAULT E'it''s \"d\", {\\\\}',
                   ADD COLUMN e timestamptz DEFAULT now(), ADD COLUMN f int[] DEFAULT '{1,NULL}', ADD COLUMN g numeric(9,3) DEFAULT 1;
                 INSERT INTO $t (id) VALUES (4); UPDATE $t SET c = 9, d = NULL WHERE id = 1; DELETE FROM $t WHERE id = 2;
                 ALTER TABLE $t ALTER c SET DEFAULT 6, ADD COLUMN h int; INSERT INTO $t (id) VALUES (5)",
        outcome: Arrives("id, n, t, c, d, e, f, g, h"),
    },
    Case {
        name: "within",
        when: BOTH,
        both: "",
        table: PLAIN,
        rows: ROWS,
        change: "BEGIN; INSERT INTO $t VALUES (4, 4, 'four'); UPDATE $t SET n = 0 WHERE id = 1;
                 ALTER TABLE $t ADD COLUMN c int DEFAULT 5; UPDATE $t SET c = 1 WHERE id = 4; INSERT INTO $t VALUES (5, 5, 'five', 7);
                 ALTER TABLE $t DROP COLUMN t, ADD COLUMN d text DEFAULT 'd'; DELETE FROM $t WHERE id = 3; INSERT INTO $t VALUES (6, 6, 6, 'six');
                 COMMIT; UPDATE $t SET n = n + 1 WHERE id = 2",
        outcome: Arrives("id, n, c, d"),
    },
    Case {
        name: "keyless",
        when: &["live"],
        both: "",
        table: "(n int, t text); ALTER TABLE $t REPLICA IDENTITY FULL",
        rows: "(1, 'one'), (1, 'one'), (2, 'two')",
        change: "BEGIN; UPDATE $t SET t = 'new' WHERE n = 2; ALTER TABLE $t ADD COLUMN c int DEFAULT 5; INSERT INTO $t VALUES (4, 'four', 4);
                 DELETE FROM $t WHERE ctid = (SELECT min(ctid) FROM $t WHERE n = 1); COMMIT; UPDATE $t SET c = 6 WHERE n = 2",
        outcome: Arrives("n, t, c"),
    },
    Case {
        name: "identity",
        when: BOTH,
        both: "",
        table: PLAIN,
        rows: "(1, 1, (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 300) i)), (2, 2, (SELECT string_agg(md5((-i)::text), '') FROM generate_series(1, 300) i)), (3, 3, NULL)",
        change: "UPDATE $t SET n = 10 WHERE id = 1; BEGIN; ALTER TABLE $t REPLICA IDENTITY FULL; UPDATE $t SET n = 20 WHERE id = 2;
                 DELETE FROM $t WHERE id = 3; COMMIT; ALTER TABLE $t REPLICA IDENTITY DEFAULT; UPDATE $t SET n = n + 1, id = id + 10;
                 ALTER TABLE $t REPLICA IDENTITY FULL; UPDATE $t SET n = n + 1",
        outcome: Arrives("id, n, t"),
    },
    Case {
        name: "labels",
        when: BOTH,
        both: "CREATE TYPE $t_mood AS ENUM ('sad', 'glad'); CREATE DOMAIN $t_feeling AS $t_mood",
        table: "(id int PRIMARY KEY, m $t_mood, f $t_feeling, a $t_mood[])",
        rows: "(1, 'sad', 'sad', '{sad}'), (2, 'glad', 'glad', '{{glad},{NULL}}'), (3, NULL, NULL, NULL)",
        change: "ALTER TYPE $t_mood ADD VALUE 'ok' BEFORE 'glad'; INSERT INTO $t VALUES (4, 'ok', 'sad', '{sad,ok}');
                 ALTER TYPE $t_mood ADD VALUE 'it''s, \"so\"'; UPDATE $t SET a = ARRAY['it''s, \"so\"']::$t_mood[], f = 'ok' WHERE id = 1;
                 INSERT INTO $t VALUES (5, 'it''s, \"so\"', 'glad', NULL); BEGIN; INSERT INTO $t VALUES (6, 'sad', 'sad', '{sad}');
                 ALTER TYPE $t_mood ADD VALUE 'late'; DELETE FROM $t WHERE id = 2; COMMIT; INSERT INTO $t VALUES (7, 'late', 'late', '{late}')",
        outcome: Arrives("id, m, f, a"),
    },
    Case {
        name: "types",
        when: &["live"],
        both: "CREATE TYPE $t_pair AS (a int, b text); CREATE DOMAIN $t_small AS int",
        table: "(id int PRIMARY KEY, p $t_pair, ps $t_pair[], n $t_small)",
        rows: "(1, '(1,x)', '{\"(1,x)\"}', 1), (2, '(,)', NULL, 2), (3, NULL, NULL, NULL)",
        change: "ALTER TYPE $t_pair ADD ATTRIBUTE c numeric; INSERT INTO $t VALUES (4, '(4,y,1.50)', '{\"(1,x,2)\"}', 4); UPDATE $t SET id = 10 WHERE id = 1;
                 ALTER TABLE $t ADD COLUMN m $t_small DEFAULT 7; ALTER DOMAIN $t_small ADD CHECK (VALUE < 100);
                 INSERT INTO $t VALUES (5, NULL, NULL, 99); UPDATE $t SET n = 5 WHERE id = 2",
        outcome: Arrives("id, p, ps, n, m"),
    },
    Case {
        name: "renamed",
        when: &["down"],
        both: "",
        table: PLAIN,
        rows: ROWS,
        change: "UPDATE $t SET t = 'new' WHERE id = 1; ALTER TABLE $t RENAME COLUMN n TO m; INSERT INTO $t VALUES (4, 4, 'four')",
        outcome: Stops {
            reason: "column n was renamed to m",
            remedy: "ALTER TABLE $t RENAME COLUMN n TO m",
            last: "UPDATE $t SET t = 'last' WHERE id IN (1, 4)",
            columns: "id, m, t",
        },
    },
    Case {
        name: "to_and_fro",
        when: &["down"],
        both: "",
        table: PLAIN,
        rows: ROWS,
        change: "ALTER TABLE $t RENAME COLUMN n TO m; UPDATE $t SET m = 5 WHERE id = 1; ALTER TABLE $t RENAME COLUMN m TO n;
                 UPDATE $t SET n = 6 WHERE id = 2; ALTER TABLE $t RENAME COLUMN n TO m; INSERT INTO $t VALUES (4, 4, 'four')",
        outcome: Stops {
            reason: "column n was renamed to m",
            remedy: "ALTER TABLE $t RENAME COLUMN n TO m",
            last: "UPDATE $t SET t = 'last'",
            columns: "id, m, t",
        },
    },
    Case {
        name: "relabelled",
        when: BOTH,
        both: "CREATE TYPE $t_mood AS ENUM ('sad', 'glad')",
        table: "(id int PRIMARY KEY, m $t_mood, t text)",
        rows: "(1, 'sad', 'one'), (2, 'glad', 'two'), (3, NULL, NULL)",
        change: "UPDATE $t SET t = 'new' WHERE id = 1; ALTER TYPE $t_mood RENAME VALUE 'glad' TO 'happy'; INSERT INTO $t VALUES (4, 'happy', 'four')",
        outcome: Stops {
            reason: "label 'glad' of column m's enumeration was renamed",
            remedy: "ALTER TYPE $t_mood RENAME VALUE 'glad' TO 'happy'",
            last: "UPDATE $t SET t = 'last' WHERE id = 4",
            columns: "id, m, t",
        },
    },
    Case {
        name: "relabelled_key",
        when: &["live"],
        both: "CREATE TYPE $t_mood AS ENUM ('sad', 'glad')",
        table: "(m $t_mood PRIMARY KEY, t text)",
        rows: "('sad', 'one'), ('glad', 'two')",
        change: "ALTER TYPE $t_mood RENAME VALUE 'glad' TO 'happy'; UPDATE $t SET t = 'new'",
        outcome: StopsForGood("label 'glad' of column m's enumeration was renamed"),
    },
    Case {
        name: "generated",
        when: BOTH,
        both: "",
        table: "(id int PRIMARY KEY, n int, g int GENERATED ALWAYS AS (n * 2) STORED, t text)",
        rows: "(1, 1, DEFAULT, 'one'), (2, 2, DEFAULT, 'two'), (3, 3, DEFAULT, 'three')",
        change: "UPDATE $t SET n = 5 WHERE id = 1; ALTER TABLE $t ADD COLUMN c int DEFAULT 5; INSERT INTO $t (id, n, t, c) VALUES (4, 4, 'four', 4); UPDATE $t SET n = 6 WHERE id = 2",
        outcome: Arrives("id, n, t, c"),
    },
    Case {
        name: "recreated",
        when: BOTH,
        both: "",
        table: "(id int PRIMARY KEY, t text, n int)",
        rows: "(1, 'one', 1), (2, 'two', 2), (3, 'three', 3)",
        change: "UPDATE $t SET n = 5 WHERE id = 1; ALTER TABLE $t DROP COLUMN n; ALTER TABLE $t ADD COLUMN n int; INSERT INTO $t VALUES (4, 'four', 4)",
        outcome: Stops {
            reason: "column n was dropped and added again",
            remedy: "",
            last: "UPDATE $t SET t = 'last'",
            columns: "id, t, n",
        },
    },
    Case {
        name: "retyped",
        when: BOTH,
        both: "",
        table: PLAIN,
        rows: ROWS,
        change: "BEGIN; UPDATE $t SET n = 5 WHERE id = 1; ALTER TABLE $t ALTER n TYPE bigint USING n * 2; INSERT INTO $t VALUES (4, 4, 'four'); COMMIT",
        outcome: Stops {
            reason: "the type of column n changed, and all rows were rewritten",
            remedy: "ALTER TABLE $t ALTER n TYPE bigint USING n * 2",
            last: "UPDATE $t SET t = 'last' WHERE id IN (1, 4)",
            columns: "id, n, t",
        },
    },
    Case {
        name: "filled",
        when: &["live"],
        both: "",
        table: PLAIN,
        rows: ROWS,
        change: "ALTER TABLE $t ADD COLUMN c int GENERATED BY DEFAULT AS IDENTITY; INSERT INTO $t VALUES (4, 4, 'four')",
        outcome: Stops {
            reason: "column c was added, and all rows were rewritten",
            remedy: "ALTER TABLE $t ADD COLUMN c int; UPDATE $t SET c = id",
            last: "UPDATE $t SET t = 'last' WHERE id = 4",
            columns: "id, n, t, c",
        },
    },
    Case {
        name: "rekeyed",
        when: BOTH,
        both: "",
        table: "(id int PRIMARY KEY, n int NOT NULL, t text); ALTER TABLE $t REPLICA IDENTITY FULL",
        rows: ROWS,
        change: "UPDATE $t SET t = 'new' WHERE id = 1; ALTER TABLE $t DROP CONSTRAINT $t_pkey, ADD PRIMARY KEY (n); INSERT INTO $t VALUES (1, 4, 'behind')",
        outcome: StopsForGood("the key of table public.$t changed"),
    },
    Case {
        name: "moved",
        when: BOTH,
        both: "",
        table: PLAIN,
        rows: ROWS,
        change: "ALTER TABLE $t RENAME TO $t_away; INSERT INTO $t_away VALUES (4, 4, 'behind')",
        outcome: StopsForGood("table public.$t was renamed"),
    },
    Case {
        name: "rekeyed_within",
        when: BOTH,
        both: "",
        table: "(id int PRIMARY KEY, n int NOT NULL, t text)",
        rows: ROWS,
        change: "BEGIN; INSERT INTO $t VALUES (4, 4, 'four'); UPDATE $t SET t = 'new' WHERE id = 1; ALTER TABLE $t DROP CONSTRAINT $t_pkey, ADD PRIMARY KEY (n);
                 INSERT INTO $t VALUES (1, 5, 'behind'); UPDATE $t SET t = 'behind' WHERE n = 4; DELETE FROM $t WHERE n = 2; COMMIT",
        outcome: StopsForGood("the key of table public.$t changed"),
    },
    Case {
        name: "widened_key",
        when: BOTH,
        both: "",
        table: "(id int PRIMARY KEY, n int NOT NULL, t text); ALTER TABLE $t REPLICA IDENTITY FULL",
        rows: ROWS,
        change: "BEGIN; UPDATE $t SET t = 'new' WHERE id = 1; ALTER TABLE $t DROP CONSTRAINT $t_pkey, ADD PRIMARY KEY (id, n);
                 INSERT INTO $t VALUES (1, 5, 'behind'); COMMIT",
        outcome: StopsForGood("the key of table public.$t changed"),
    },
    Case {
        name: "identified",
        when: BOTH,
        both: "",
        table: "(id int PRIMARY KEY, n int NOT NULL UNIQUE, t text)",
        rows: ROWS,
        change: "UPDATE $t SET t = 'new' WHERE id = 1; BEGIN; UPDATE $t SET n = 20 WHERE id = 2; ALTER TABLE $t REPLICA IDENTITY USING INDEX $t_n_key;
                 UPDATE $t SET t = 'behind' WHERE id = 2; INSERT INTO $t VALUES (4, 4, 'behind'); COMMIT",
        outcome: StopsForGood("the key of table public.$t changed"),
    },
    Case {
        name: "unidentified",
        when: BOTH,
        both: "",
        table: PLAIN,
        rows: ROWS,
        change: "ALTER TABLE $t REPLICA IDENTITY NOTHING; INSERT INTO $t VALUES (4, 4, 'four'); ALTER TABLE $t REPLICA IDENTITY DEFAULT; UPDATE $t SET n = 10 WHERE id = 1;
                 BEGIN; UPDATE $t SET id = 20 WHERE id = 2; ALTER TABLE $t REPLICA IDENTITY NOTHING; INSERT INTO $t VALUES (5, 5, 'five');
                 ALTER TABLE $t REPLICA IDENTITY FULL; DELETE FROM $t WHERE id = 3; UPDATE $t SET t = 'new' WHERE id = 5; COMMIT",
        outcome: Arrives("id, n, t"),
    },
    Case {
        name: "domains",
        when: BOTH,
        both: "CREATE DOMAIN $t_small AS int CONSTRAINT low CHECK (VALUE < 100)",
        table: "(id int PRIMARY KEY, n $t_small, t text)",
        rows: ROWS,
        change: "ALTER DOMAIN $t_small SET DEFAULT 5; INSERT INTO $t (id) VALUES (4); ALTER DOMAIN $t_small DROP DEFAULT; INSERT INTO $t (id) VALUES (5);
                 ALTER DOMAIN $t_small DROP CONSTRAINT low; INSERT INTO $t VALUES (6, 600, 'six'); ALTER DOMAIN $t_small ADD CONSTRAINT high CHECK (VALUE < 1000);
                 UPDATE $t SET n = 999 WHERE id = 6; UPDATE $t SET n = 0 WHERE n IS NULL; ALTER DOMAIN $t_small SET NOT NULL; INSERT INTO $t VALUES (7, 7, 'seven');
                 DELETE FROM $t WHERE id = 5; ALTER DOMAIN $t_small DROP NOT NULL; UPDATE $t SET n = NULL WHERE id = 1;
                 BEGIN; INSERT INTO $t VALUES (8, 8, 'eight'); ALTER DOMAIN $t_small SET DEFAULT 9; INSERT INTO $t (id) VALUES (9); ALTER DOMAIN $t_small DROP CONSTRAINT high;
                 INSERT INTO $t VALUES (10, 5000, 'ten'); UPDATE $t SET n = 1 WHERE n IS NULL; ALTER DOMAIN $t_small SET NOT NULL; UPDATE $t SET n = 3000 WHERE id = 3;
                 ALTER DOMAIN $t_small DROP NOT NULL; UPDATE $t SET n = NULL WHERE id = 4; ALTER DOMAIN $t_small DROP DEFAULT; INSERT INTO $t (id) VALUES (11); COMMIT",
        outcome: Arrives("id, n, t"),
    },
    Case {
        name: "domain_default",
        when: BOTH,
        both: "CREATE DOMAIN $t_five AS int DEFAULT 5",
        table: PLAIN,
        rows: ROWS,
        change: "BEGIN; UPDATE $t SET t = 'new' WHERE id = 1; ALTER TABLE $t ADD COLUMN c $t_five; INSERT INTO $t VALUES (4, 4, 'four', 4); UPDATE $t SET n = 20 WHERE id = 2;
                 COMMIT; ALTER DOMAIN $t_five SET DEFAULT 6; INSERT INTO $t (id) VALUES (5); ALTER DOMAIN $t_five DROP DEFAULT; INSERT INTO $t (id) VALUES (6)",
        outcome: Arrives("id, n, t, c"),
    },
    Case {
        name: "domain_filled",
        when: BOTH,
        both: "CREATE DOMAIN $t_five AS int DEFAULT 5 CHECK (VALUE < 9)",
        table: PLAIN,
        rows: ROWS,
        change: "UPDATE $t SET t = 'new' WHERE id = 1; ALTER TABLE $t ADD COLUMN c $t_five; INSERT INTO $t VALUES (4, 4, 'four', 4)",
        outcome: Stops {
            reason: "column c was added, and all rows were rewritten",
            remedy: "ALTER TABLE $t ADD COLUMN c $t_five",
            last: "UPDATE $t SET t = 'last' WHERE id = 4",
            columns: "id, n, t, c",
        },
    },
    Case {
        name: "widened",
        when: BOTH,
        both: "",
        table: "(id int PRIMARY KEY, v varchar(5), p numeric(4,2), b varbit(3), t text)",
        rows: "(1, 'a', 1.25, B'001', 'one'), (2, 'b', 2.25, B'', 'two'), (3, 'c', 3.25, NULL, 'three')",
        change: "UPDATE $t SET v = 'new' WHERE id = 1; ALTER TABLE $t ALTER v TYPE varchar(9), ALTER p TYPE numeric(8,2), ALTER b TYPE varbit(9);
                 INSERT INTO $t VALUES (4, 'ninechars', 123456.78, B'010101010', 'four'); BEGIN; UPDATE $t SET p = 99.99, b = B'01' WHERE id = 2;
                 ALTER TABLE $t ALTER v TYPE text, ALTER p TYPE numeric(12,2), ALTER b TYPE varbit; INSERT INTO $t VALUES (5, 'more than nine', 1234567890.12, B'0000000000000', 'five');
                 COMMIT; UPDATE $t SET v = v || ' and more', p = p + 1e9 WHERE id = 3",
        outcome: Arrives("id, v, p, b, t"),
    },
    Case {
        name: "nullness",
        when: BOTH,
        both: "",
        table: "(id int PRIMARY KEY, n int NOT NULL, t text)",
        rows: ROWS,
        change: "ALTER TABLE $t ALTER n DROP NOT NULL; INSERT INTO $t VALUES (4, NULL, 'four'); UPDATE $t SET n = NULL WHERE id = 1; UPDATE $t SET n = 0 WHERE n IS NULL;
                 ALTER TABLE $t ALTER n SET NOT NULL, ALTER t SET NOT NULL; UPDATE $t SET n = 5 WHERE id = 2;
                 BEGIN; INSERT INTO $t VALUES (5, 5, 'five'); ALTER TABLE $t ALTER n DROP NOT NULL, ALTER t DROP NOT NULL; INSERT INTO $t VALUES (6, NULL, NULL);
                 UPDATE $t SET n = NULL WHERE id = 3; DELETE FROM $t WHERE id = 2; COMMIT; ALTER TABLE $t ADD COLUMN c int; INSERT INTO $t VALUES (7, NULL, NULL, 7)",
        outcome: Arrives("id, n, t, c"),
    },
];

/// Both ends' change where the target cannot follow by itself.
pub const BY_HAND: &[(&str, &str)] = &[
    ("types", "ALTER TYPE $t_pair ADD ATTRIBUTE c numeric"),
    ("domains", "ALTER DOMAIN $t_small DROP CONSTRAINT low"),
    ("widened", "ALTER TABLE $t ALTER v TYPE text, ALTER p TYPE numeric(12,2), ALTER b TYPE varbit"),
];
