-- The order work on PostgreSQL: one function a write, one statement a read, one round trip and one commit each.
-- The same rows as OrderDB keeps: an order of 11 fields, three items, history, a unique idempotency key, a change event of about 300 bytes.
CREATE SEQUENCE order_ids;
CREATE TABLE orders (
  order_id bigint PRIMARY KEY, user_id bigint NOT NULL, merchant_id int NOT NULL, status smallint NOT NULL, version int NOT NULL,
  created_us bigint NOT NULL, updated_us bigint NOT NULL, items_total bigint NOT NULL, freight bigint NOT NULL, payable bigint NOT NULL, recipient text NOT NULL
) WITH (fillfactor = 90);
CREATE INDEX orders_user ON orders (user_id, created_us DESC);
CREATE INDEX orders_status ON orders (status, created_us);
CREATE TABLE items (order_id bigint NOT NULL, line smallint NOT NULL, sku int NOT NULL, quantity int NOT NULL, price bigint NOT NULL, title text NOT NULL, PRIMARY KEY (order_id, line));
CREATE INDEX items_sku ON items (sku, order_id);
CREATE TABLE history (order_id bigint NOT NULL, version int NOT NULL, from_status smallint, to_status smallint NOT NULL, at_us bigint NOT NULL, event text NOT NULL, PRIMARY KEY (order_id, version));
CREATE TABLE idempotency (key text PRIMARY KEY, order_id bigint NOT NULL);
CREATE TABLE events (event_id bigserial PRIMARY KEY, order_id bigint NOT NULL, payload text NOT NULL);

CREATE FUNCTION event_text(id bigint, u bigint, m int, s smallint, v int, at_us bigint, pay bigint, what text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT '{"type":"' || what || '","order_id":' || id || ',"user_id":' || u || ',"merchant_id":' || m || ',"status":' || s || ',"version":' || v || ',"time_us":' || at_us ||
    ',"payable":{"currency":"CNY","minor_units":' || pay || '},"source":"orders","schema":"orders.v1.OrderChanged","trace":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}'
$$;

CREATE FUNCTION order_create(k text, u bigint, m int, freight bigint, pay bigint, r text,
                             s1 int, q1 int, p1 bigint, t1 text, s2 int, q2 int, p2 bigint, t2 text, s3 int, q3 int, p3 bigint, t3 text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE id bigint := nextval('order_ids'); now_us bigint := extract(epoch FROM clock_timestamp()) * 1000000;
BEGIN
  INSERT INTO idempotency VALUES (k, id) ON CONFLICT DO NOTHING;
  IF NOT FOUND THEN
    RETURN (SELECT i.order_id FROM idempotency i WHERE i.key = k);
  END IF;
  INSERT INTO orders VALUES (id, u, m, 0, 1, now_us, now_us, pay - freight, freight, pay, r);
  INSERT INTO items VALUES (id, 1, s1, q1, p1, t1), (id, 2, s2, q2, p2, t2), (id, 3, s3, q3, p3, t3);
  INSERT INTO history VALUES (id, 1, NULL, 0, now_us, 'create');
  INSERT INTO events (order_id, payload) VALUES (id, event_text(id, u, m, 0::smallint, 1, now_us, pay, 'ORDER_CREATED'));
  RETURN id;
END $$;

-- The next status of five, and from the last to the first again, so that any order can take any number.
CREATE FUNCTION order_transition(id bigint) RETURNS int LANGUAGE plpgsql AS $$
DECLARE now_us bigint := extract(epoch FROM clock_timestamp()) * 1000000; s smallint; n smallint; u bigint; m int; pay bigint; v int;
BEGIN
  SELECT status INTO s FROM orders WHERE order_id = id;
  n := (s + 1) % 5;
  UPDATE orders SET status = n, version = version + 1, updated_us = now_us WHERE order_id = id AND status = s RETURNING user_id, merchant_id, payable, version INTO u, m, pay, v;
  IF NOT FOUND THEN
    RETURN 0;
  END IF;
  INSERT INTO history VALUES (id, v, s, n, now_us, 'step');
  INSERT INTO events (order_id, payload) VALUES (id, event_text(id, u, m, n, v, now_us, pay, 'ORDER_STATUS_CHANGED'));
  RETURN v;
END $$;
