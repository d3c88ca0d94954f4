-- What the transformation ExtractNewRecordState makes of events. Rows up to the line "-- streamed" are read by the snapshot.
CREATE TABLE f_row (id int PRIMARY KEY, v text, nn text NOT NULL, n numeric(10,2), ts timestamptz, a int[]);
CREATE TABLE f_full (id int PRIMARY KEY, v text, nn text NOT NULL); ALTER TABLE f_full REPLICA IDENTITY FULL;
CREATE TABLE f_nokey (v text); ALTER TABLE f_nokey REPLICA IDENTITY FULL;
CREATE TABLE f_toast (id int PRIMARY KEY, n int, t text, tnn text NOT NULL); ALTER TABLE f_toast ALTER t SET STORAGE EXTERNAL, ALTER tnn SET STORAGE EXTERNAL;
INSERT INTO f_row VALUES (1, 'snapshot', 'nn', 1.50, '2024-02-29 12:34:56.789012+00', '{1,null}');
INSERT INTO f_nokey VALUES ('snapshot');
-- streamed
INSERT INTO f_row VALUES (2, null, 'nn', null, null, null); UPDATE f_row SET v = 'changed' WHERE id = 2; UPDATE f_row SET id = 3 WHERE id = 2; DELETE FROM f_row WHERE id = 3;
INSERT INTO f_full VALUES (1, 'v', 'nn'); UPDATE f_full SET v = 'changed'; UPDATE f_full SET id = 2; DELETE FROM f_full;
INSERT INTO f_nokey VALUES ('stream'); UPDATE f_nokey SET v = 'changed' WHERE v = 'stream'; DELETE FROM f_nokey WHERE v = 'snapshot';
INSERT INTO f_toast VALUES (1, 1, repeat('t', 1200), repeat('n', 1200)); UPDATE f_toast SET n = 2; DELETE FROM f_toast;
BEGIN; INSERT INTO f_row VALUES (4, 'first of two', 'nn', null, null, null); DELETE FROM f_row WHERE id = 1; COMMIT;
TRUNCATE f_full; SELECT pg_logical_emit_message(true, 'golden', 'a message');
