-- The order work on MariaDB: one procedure a write, one statement a read, one round trip and one commit each. Rows as in postgres.sql.
CREATE TABLE orders (
  order_id bigint NOT NULL AUTO_INCREMENT PRIMARY KEY, user_id bigint NOT NULL, merchant_id int NOT NULL, status smallint NOT NULL, version int NOT NULL,
  created_us bigint NOT NULL, updated_us bigint NOT NULL, items_total bigint NOT NULL, freight bigint NOT NULL, payable bigint NOT NULL, recipient varchar(200) NOT NULL,
  KEY orders_user (user_id, created_us), KEY orders_status (status, created_us)
) ENGINE=InnoDB DEFAULT CHARSET=latin1;
CREATE TABLE items (
  order_id bigint NOT NULL, line smallint NOT NULL, sku int NOT NULL, quantity int NOT NULL, price bigint NOT NULL, title varchar(64) NOT NULL,
  PRIMARY KEY (order_id, line), KEY items_sku (sku, order_id)
) ENGINE=InnoDB DEFAULT CHARSET=latin1;
CREATE TABLE history (
  order_id bigint NOT NULL, version int NOT NULL, from_status smallint, to_status smallint NOT NULL, at_us bigint NOT NULL, event varchar(32) NOT NULL, PRIMARY KEY (order_id, version)
) ENGINE=InnoDB DEFAULT CHARSET=latin1;
CREATE TABLE idempotency (`key` varchar(64) CHARACTER SET latin1 COLLATE latin1_bin NOT NULL PRIMARY KEY, order_id bigint NOT NULL) ENGINE=InnoDB;
CREATE TABLE events (event_id bigint NOT NULL AUTO_INCREMENT PRIMARY KEY, order_id bigint NOT NULL, payload varchar(600) NOT NULL) ENGINE=InnoDB DEFAULT CHARSET=latin1;

DELIMITER //
CREATE FUNCTION event_text(id bigint, u bigint, m int, s smallint, v int, at_us bigint, pay bigint, what varchar(32)) RETURNS varchar(600) CHARSET latin1 DETERMINISTIC NO SQL
  RETURN CONCAT('{"type":"', what, '","order_id":', id, ',"user_id":', u, ',"merchant_id":', m, ',"status":', s, ',"version":', v, ',"time_us":', at_us,
    ',"payable":{"currency":"CNY","minor_units":', pay, '},"source":"orders","schema":"orders.v1.OrderChanged","trace":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}') //

CREATE PROCEDURE order_create(k varchar(64), u bigint, m int, freight_ bigint, pay bigint, r varchar(200),
                              s1 int, q1 int, p1 bigint, t1 varchar(64), s2 int, q2 int, p2 bigint, t2 varchar(64), s3 int, q3 int, p3 bigint, t3 varchar(64))
BEGIN
  DECLARE id bigint DEFAULT 0;
  DECLARE now_us bigint DEFAULT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS INT);
  DECLARE EXIT HANDLER FOR 1062 BEGIN
    ROLLBACK;
    SELECT order_id FROM idempotency WHERE `key` = k;
  END;
  START TRANSACTION;
  INSERT INTO orders VALUES (NULL, u, m, 0, 1, now_us, now_us, pay - freight_, freight_, pay, r);
  SET id = LAST_INSERT_ID();
  INSERT INTO idempotency VALUES (k, id);
  INSERT INTO items VALUES (id, 1, s1, q1, p1, t1), (id, 2, s2, q2, p2, t2), (id, 3, s3, q3, p3, t3);
  INSERT INTO history VALUES (id, 1, NULL, 0, now_us, 'create');
  INSERT INTO events VALUES (NULL, id, event_text(id, u, m, 0, 1, now_us, pay, 'ORDER_CREATED'));
  COMMIT;
  SELECT id;
END //

-- The next status of five, and from the last to the first again, so that any order can take any number.
CREATE PROCEDURE order_transition(id bigint)
BEGIN
  DECLARE now_us bigint DEFAULT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS INT);
  DECLARE u, pay bigint;
  DECLARE m, v int;
  DECLARE s, n smallint;
  SELECT status, user_id, merchant_id, payable, version + 1 INTO s, u, m, pay, v FROM orders WHERE order_id = id;
  SET n = (s + 1) MOD 5;
  START TRANSACTION;
  UPDATE orders SET status = n, version = v, updated_us = now_us WHERE order_id = id AND status = s AND version = v - 1;
  IF ROW_COUNT() = 1 THEN
    INSERT INTO history VALUES (id, v, s, n, now_us, 'step');
    INSERT INTO events VALUES (NULL, id, event_text(id, u, m, n, v, now_us, pay, 'ORDER_STATUS_CHANGED'));
  ELSE
    SET v = 0;
  END IF;
  COMMIT;
  SELECT v;
END //
DELIMITER ;
