-- Rows for the initial snapshot, the odd ones among them: special numbers, dates out of range, empty and quoted text.
SET ROLE walrelay;

INSERT INTO customers (email, name, country, born, active, score, tags, preferences)
SELECT 'customer' || n || '@example.org', 'Customer ' || n, (ARRAY['DE', 'FR', 'PL'])[n % 3 + 1],
    DATE '1950-01-01' + n * 17, n % 7 <> 0, n * 0.1, ARRAY['tag ' || n % 5, 'a"b'],
    jsonb_build_object('newsletter', n % 2 = 0)
FROM generate_series(1, 1000) AS n;

UPDATE customers SET born = 'infinity', score = 'NaN', tags = ARRAY[NULL, 'NULL', ''] WHERE id = 1;
UPDATE customers SET born = '0044-03-15 BC', name = E'tab\there, newline\nhere, back\\slash' WHERE id = 2;

INSERT INTO orders (customer_id, status, amount, note, created)
SELECT n % 1000 + 1, (enum_range(NULL::order_status))[n % 4 + 1], n * 1.01, nullif('note ' || n, 'note 7'),
    TIMESTAMPTZ '2024-02-29 23:59:59.999999+00' + n * INTERVAL '7 minutes'
FROM generate_series(1, 3000) AS n;

INSERT INTO order_lines (order_id, line, sku_code, quantity, price, discount)
SELECT o, l, 'SKU-' || (o * 7 + l) % 900, l + o % 5, o % 100 + 0.2500, CASE WHEN l = 1 THEN 0.1 END
FROM generate_series(1, 3000) AS o, generate_series(1, 3) AS l;

INSERT INTO documents (title, body, checksum, revised)
SELECT 'Document ' || n, repeat(md5(n::text), 300), decode(md5(n::text), 'hex'), TIMESTAMP '2020-01-01' + n * INTERVAL '1 day'
FROM generate_series(1, 200) AS n;

INSERT INTO notes (customer_id, body, remind_at, source)
SELECT n, repeat(md5('note ' || n), 200), TIME '00:00' + n * INTERVAL '5 minutes', json_build_object('by', 'import', 'n', n)
FROM generate_series(1, 200) AS n;

INSERT INTO audit_log (actor, action, detail)
SELECT 'import', 'create', jsonb_build_object('customer', n) FROM generate_series(1, 500) AS n;

INSERT INTO carts (customer_id, items)
SELECT n, jsonb_build_array(jsonb_build_object('sku', 'SKU-' || n, 'quantity', 1)) FROM generate_series(1, 100) AS n;
