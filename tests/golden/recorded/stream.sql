-- What is told beside rows: transactions, messages, truncates, tables that are left out. Rows up to the line "-- streamed" are read by the snapshot.
CREATE TABLE s_one (id int PRIMARY KEY, v text);
CREATE TABLE s_two (id int PRIMARY KEY, v text);
CREATE TABLE s_none (v text);
CREATE TABLE s_full (id int PRIMARY KEY, v text); ALTER TABLE s_full REPLICA IDENTITY FULL;
CREATE TABLE s_gone (n int, v text); ALTER TABLE s_gone REPLICA IDENTITY FULL;
CREATE TABLE left_out (id int PRIMARY KEY, v text);
CREATE TABLE left_out_too (id int PRIMARY KEY, v text);
INSERT INTO s_one VALUES (1, 'snapshot'), (2, 'snapshot');
INSERT INTO s_none VALUES ('snapshot');
INSERT INTO left_out VALUES (1, 'snapshot');
-- streamed
INSERT INTO s_one VALUES (3, 'single');
BEGIN; INSERT INTO s_one VALUES (4, 'first'); INSERT INTO s_two VALUES (4, 'second'); UPDATE s_one SET v = 'third' WHERE id = 4; UPDATE s_one SET id = 5 WHERE id = 4; DELETE FROM s_two; COMMIT;
BEGIN; INSERT INTO left_out VALUES (2, 'empty'); INSERT INTO left_out_too VALUES (2, 'empty'); COMMIT;
BEGIN; INSERT INTO left_out VALUES (3, 'mixed'); INSERT INTO s_one VALUES (6, 'mixed'); INSERT INTO left_out_too VALUES (3, 'mixed'); INSERT INTO s_two VALUES (6, 'mixed'); COMMIT;
BEGIN; INSERT INTO s_one VALUES (7, 'rolled back'); ROLLBACK;
CREATE TABLE later_but_empty (id int);
SELECT pg_logical_emit_message(true, 'golden', 'alone in its transaction'); SELECT pg_logical_emit_message(false, 'golden', 'outside of any');
BEGIN; INSERT INTO s_one VALUES (8, 'beside a message'); SELECT pg_logical_emit_message(true, 'golden', 'inside'); SELECT pg_logical_emit_message(false, 'golden', 'outside, while one runs'); INSERT INTO s_two VALUES (8, 'beside a message'); COMMIT;
BEGIN; INSERT INTO left_out VALUES (9, 'beside a message'); SELECT pg_logical_emit_message(true, 'golden', 'all that is published'); COMMIT;
TRUNCATE s_two;
BEGIN; INSERT INTO s_one VALUES (10, 'before truncate'); TRUNCATE s_one, s_two; INSERT INTO s_two VALUES (10, 'behind truncate'); COMMIT;
BEGIN; TRUNCATE s_one, left_out; COMMIT;
TRUNCATE left_out, left_out_too;
INSERT INTO s_none VALUES ('no key'); INSERT INTO s_full VALUES (1, 'full'); UPDATE s_full SET v = 'changed'; UPDATE s_full SET id = 2; DELETE FROM s_full;
INSERT INTO s_gone VALUES (1, 'first'), (1, 'second'); UPDATE s_gone SET v = 'third' WHERE v = 'first'; DELETE FROM s_gone;
