"""The table of test_matrix.py: for each field of each request that a built method takes, what a bad value is and how it is refused.

    CALLS[name] = Call(method, base request, {path: [rule, ...]})

A path is that of the message, repeated fields with "[]" ("order.items[].sku_id"). A Bad row says how to spoil the field in an otherwise valid request, and what is
answered: the reason (its gRPC code is that of proto/status.tbl), the violation's path (the field's own unless told), words and numbers that its text must hold. An Edge
is the last value that is fine. Any says why nothing that the type allows is refused; with a path that ends in ".**", for everything below. What holds for every
field of a type (wrong wire type, texts that are not UTF-8 or hold a NUL, messages that are malformed or given twice) has no row: test_matrix.py makes it from the
descriptors. A field without a row and without Any fails the test, so none can be forgotten.
"""
import itertools
import re
import time

import orderdb_test as t
from orderdb_test import admin_pb2 as admin, pb, stream_pb2 as stream
from google.protobuf import duration_pb2, field_mask_pb2

FIELD, LIMIT, INVARIANT = "FIELD_INVALID", "LIMIT_EXCEEDED", "INVARIANT_VIOLATED"
INT64_MAX, INT32_MAX = 2**63 - 1, 2**31 - 1


class Bad:
    """spoil(parent message, field name). at: the violation's path instead of the field's own, ".." is its parent, a leading "+" goes behind it; "": there is none.
    log: the refusal needs the state, so it takes an entry of the log. meta: keys of the metadata that must be there."""

    def __init__(self, kind, spoil, reason, says=(), at="+", log=False, meta=()):
        self.kind, self.spoil, self.reason, self.at, self.log, self.meta = kind, spoil, reason, at, log, meta
        self.says = [str(s) for s in ([says] if isinstance(says, (str, int)) else says)]


class Edge:
    def __init__(self, spoil):
        self.spoil = spoil


class Any:
    def __init__(self, why):
        self.why = why


class Call:
    """base(world): a valid request. In a write, options.request_id is the runner's. index: which element of a repeated field is spoiled (the last one there is)."""

    def __init__(self, method, base, fields):
        self.method, self.base, self.fields = method, base, fields


# ---- ways to spoil a field
def put(value):
    def spoil(parent, name):
        field = parent.DESCRIPTOR.fields_by_name[name]
        parent.ClearField(name)
        if field.message_type and field.message_type.GetOptions().map_entry:
            getattr(parent, name).update(value)
        elif field.label == field.LABEL_REPEATED:
            getattr(parent, name).extend(value)
        elif field.message_type:
            getattr(parent, name).CopyFrom(value)
        else:
            setattr(parent, name, value)
    return spoil


def clear(parent, name):
    parent.ClearField(name)


def times(n):
    """The last element n times."""
    def spoil(parent, name):
        last = getattr(parent, name)[-1]
        put([last] * n)(parent, name)
    return spoil


def add(value):
    def spoil(parent, name):
        getattr(parent, name).append(value)
    return spoil


def both(*spoils):
    def spoil(parent, name):
        for s in spoils:
            s(parent, name)
    return spoil


def beside(other, value):
    """Another field of the same message."""
    return lambda parent, _: put(value)(parent, other)


# ---- rules
def text(most, least=0, required=False):
    rows = [Bad("too long", put("x" * (most + 1)), LIMIT, [most, most + 1]), Bad("too long in bytes", put("é" * (most // 2 + 1)), LIMIT, [most]), Edge(put("x" * most))]
    if required:
        rows += [Bad("missing", clear, FIELD)]
    if least > 1:
        rows += [Bad("too short", put("x" * (least - 1)), LIMIT, [least, least - 1]), Edge(put("x" * least))]
    return rows


def assigned(value):
    return [Bad("assigned by the server", put(value), FIELD, "assigned by the server")]


def under(prefix, rules):
    return {prefix + ("." if prefix and path and not path.startswith("[") else "") + path: rows for path, rows in rules.items()}


def merged(*tables):
    out = {}
    for table in tables:
        for path, rows in table.items():
            out.setdefault(path, [])
            out[path] = out[path] + rows
    return out


# Of google.protobuf.Timestamp: the violation names the timestamp.
TIME = {
    "seconds": [Bad("before the year 1", put(-62135596801), FIELD, "0001 to 9999", at=".."), Bad("after the year 9999", put(253402300800), FIELD, "0001 to 9999", at=".."),
                Bad("far out", put(INT64_MAX), FIELD, "9999", at=".."), Bad("far back", put(-INT64_MAX - 1), FIELD, "0001", at="..")],
    "nanos": [Bad("negative", put(-1), FIELD, [0, 999999999], at=".."), Bad("a whole second", put(10**9), FIELD, [0, 999999999], at=".."), Edge(put(999999999))],
}
ANY_TIME = {"**": [Any("what holds it is refused as a whole")]}


def money(required=False, first=False):
    """first: no amount comes before it, so another currency is everybody else's fault."""
    return {
        "": [Bad("missing", clear, FIELD, "required")] if required else [],
        "currency_code": [Bad("missing", clear, FIELD, "ISO 4217"), Bad("small letters", put("cny"), FIELD, ["cny", "ISO 4217"]), Bad("no currency", put("XXX"), FIELD, "XXX"),
                          Bad("too long", put("C" * 100), FIELD, "ISO 4217")] + ([] if first else [Bad("another currency", put("USD"), INVARIANT, ["USD", "CNY"])]),
        "minor_units": [Bad("negative", put(-1), LIMIT, [-1, "at least 0"]), Bad("far below", put(-INT64_MAX - 1), LIMIT, "at least 0")],
    }


def attributes():
    return {"": [Bad("too many", put({"key-%d" % i: "v" for i in range(65)}), LIMIT, [64, 65]), Edge(put({"key-%d" % i: "v" for i in range(64)})),
                 Bad("an empty key", put({"": "v"}), FIELD, "empty key"),
                 Bad("a long key", put({"k" * 65: "v"}), LIMIT, [64, 65]), Edge(put({"k" * 64: "v" * 1024})),
                 Bad("a long value", put({"k": "v" * 1025}), LIMIT, [1024, 1025])]}


PAYMENT = merged(
    {"payment_no": text(128), "channel": text(128)}, under("amount", money()), under("pay_time", TIME))
SHIPMENT = {
    "tracking_no": text(128), "carrier": text(128),
    "sku_ids": [Bad("too many", times(501), LIMIT, [500, 501]), Edge(times(500)), Bad("an empty one", put(["a", ""]), FIELD, "required", at="+[1]"),
                Bad("a long one", put(["a", "x" * 129]), LIMIT, [128, 129], at="+[1]")],
}
ADDRESS = {"recipient": text(128), "phone": text(128), "region_code": text(128), "line": text(1024)}
# What UpdateOrder and a transition's patch may replace too.
PARTS = merged(
    {"order_type": text(128), "extension": [Bad("a large order", put(b"\0" * (1 << 20)), LIMIT, 1 << 20, at="..")],
     "payments": [Bad("too many", times(101), LIMIT, [100, 101]), Edge(times(100))], "shipments": [Bad("too many", times(101), LIMIT, [100, 101]), Edge(times(100))]},
    under("address", ADDRESS), under("payments[]", PAYMENT), under("shipments[]", SHIPMENT), under("attributes", attributes()))

ITEM = merged(
    {"sku_id": text(128, required=True), "title": text(512), "merchant_id": text(128),
     "quantity": [Bad(kind, put(value), LIMIT, ["1 to 1000000", value]) for kind, value in
                  (("none", 0), ("negative", -1), ("too many", 1000001), ("far out", INT32_MAX), ("far below", -INT32_MAX - 1))]},
    under("unit_price", money(required=True)), under("discount", money()), under("attributes", attributes()),
    {"unit_price.minor_units": [Bad("a product beyond 64 bits", put(INT64_MAX), INVARIANT, "64 bits", at="../..")],
     "discount.minor_units": [Bad("more than the line", put(10**12), INVARIANT, "sum of", at="order.items_total")]})
CONTENT = merged(
    PARTS,
    {"user_id": text(64, required=True), "merchant_id": text(128), "client_order_no": text(128), "machine": text(128),
     "items": [Bad("missing", clear, FIELD, ["required", 500]), Bad("too many", times(501), LIMIT, [500, 501])]},
    under("items[]", ITEM),
    {"items_total": [Bad("wrong sum", put(t.money(1)), INVARIANT, 5000)], "payable": [Bad("wrong sum", put(t.money(1)), INVARIANT, 5300)]},
    under("items_total", money()), under("freight", money()), under("discount_total", money()), under("payable", money()),
    {"freight.minor_units": [Bad("a sum beyond 64 bits", put(INT64_MAX), INVARIANT, "64 bits", at="order.payable")],
     "discount_total": [Bad("more than the order", both(put(t.money(10**6)), lambda parent, _: parent.ClearField("payable")), INVARIANT, "below zero", at="order.payable")]})

TIMER = pb.Timer(timer_id="t", fire_time=t.timestamp(2e9))
CREATED = merged(CONTENT, {
    "order_id": assigned(5), "status": assigned("PAID"), "version": assigned(1), "archived": assigned(True), "timers": assigned([TIMER]),
    "timers[].**": [Any("a timer is refused as a whole")], "history": assigned([pb.HistoryEntry(version=1)]), "history[].**": [Any("a history is refused as a whole")],
    "create_time": assigned(t.timestamp(1e9)), "create_time.**": ANY_TIME["**"],
    "update_time": assigned(t.timestamp(1e9)), "update_time.**": ANY_TIME["**"]})


def options(required):
    ttl = [Bad("none", put(0), LIMIT, "1 s to 30 days", at=".."), Bad("negative", put(-1), LIMIT, "1 s to 30 days", at=".."),
           Bad("31 days", put(31 * 86400), LIMIT, "30 days", at=".."), Bad("far out", put(INT64_MAX), LIMIT, "30 days", at=".."), Edge(put(30 * 86400)), Edge(put(1))]
    return merged({"": [Bad("missing", clear, FIELD, "required")] if required else []}, {
        "request_id": text(128, least=16, required=required),
        "idempotency_ttl.seconds": ttl,
        "idempotency_ttl.nanos": [Bad("negative", put(-1), LIMIT, "1 s to 30 days", at=".."), Bad("a whole second", put(10**9), LIMIT, "1 s to 30 days", at="..")],
        "validate_only": [Any("both are meant")], "operator": text(128), "reason": text(1024)})


READ = {
    "at_least.slot": [Bad("negative", put(-1), FIELD, [0, 16383]), Bad("no slot", put(16384), FIELD, [0, 16383]), Edge(put(16383))],
    "at_least.seq": [Bad("negative", put(-1), FIELD, "negative"), Edge(put(INT64_MAX))],
    "max_staleness.seconds": [Bad("negative", put(-1), FIELD, 0, at=".."), Bad("no duration", put(315576000001), FIELD, 315576000000, at=".."), Edge(put(315576000000))],
    "max_staleness.nanos": [Bad("negative", put(-1), FIELD, 0, at=".."), Bad("a whole second", put(10**9), FIELD, 999999999, at="..")],
    "view": [Bad("no view", put(3), FIELD, ["FULL", 3]), Bad("negative", put(-1), FIELD, -1)],
}
NO_ORDER = (1 << 62) + 77


def order_id(log, metadata=True):
    return [Bad("missing", clear, FIELD), Bad("negative", put(-7), FIELD, -7), Bad("no order", put(NO_ORDER), "ORDER_NOT_FOUND", log=log, at="", meta=["order_id"])]


VERSION = [Bad("negative", put(-1), LIMIT, [-1, "from 1"]), Bad("another", put(99), "VERSION_MISMATCH", at="", log=True, meta=["order_id", "status", "version"])]
PAGE_SIZE = [Bad("negative", put(-1), FIELD, -1), Bad("too large", put(1001), LIMIT, [1000, 1001]), Bad("far out", put(INT32_MAX), LIMIT, 1000), Edge(put(1000))]


def world(key):
    """A value that the server made before the run."""
    return lambda parent, name: put(WORLD[key])(parent, name)


def page_token(own, other, another_query):
    """own: a token of the base request; another_query makes that a different one. other: one of another kind of list."""
    return [Bad("malformed", put("not a token"), "PAGE_TOKEN_INVALID", "begin again"), Bad("empty inside", put("===="), "PAGE_TOKEN_INVALID"),
            Bad("long", put("A" * 5000), "PAGE_TOKEN_INVALID"), Bad("of another kind", world(other), "PAGE_TOKEN_INVALID"),
            Bad("of another query", both(world(own), another_query), "PAGE_TOKEN_INVALID"), Edge(world(own))]


# What the server holds before the run, and "top": the request that is being spoiled (test_matrix.py).
WORLD = {}


# ---- base requests: everything that may be set is
def full_order(user_id="matrix", **fields):
    o = pb.Order(user_id=user_id, merchant_id="m", order_type="t", machine="retail", items_total=t.money(5000), freight=t.money(500), discount_total=t.money(200), payable=t.money(5300),
                 address=pb.Address(recipient="r", phone="1", region_code="c", line="l"), attributes={"k": "v"}, extension=b"e", **fields)
    for i in range(2):
        o.items.add(sku_id="s%d" % i, title="t", quantity=2, unit_price=t.money(1300), discount=t.money(100), merchant_id="m", attributes={"k": "v"})
        o.payments.add(payment_no="p%d" % i, channel="c", amount=t.money(1), pay_time=t.timestamp(1e9))
        o.shipments.add(tracking_no="n%d" % i, carrier="c", sku_ids=["s0"])
    return o


def write_options(**fields):
    return pb.WriteOptions(request_id=t.request_id(), idempotency_ttl=duration_pb2.Duration(seconds=3600), operator="o", reason="r", **fields)


def read_options():
    return pb.ReadOptions(at_least=pb.CommitToken(slot=1, seq=1), max_staleness=duration_pb2.Duration(seconds=1), view=pb.ORDER_VIEW_FULL)


def create_base(**fields):
    return pb.CreateOrderRequest(order=full_order(), options=write_options(**fields))


PATCHABLE = ["order_type", "address", "payments", "shipments", "attributes", "extension"]


def change(**fields):
    return pb.Order(**{f.name: v for f, v in full_order().ListFields() if f.name in PATCHABLE}, **fields)


def transition_base(**fields):
    return pb.TransitionOrderRequest(order_id=WORLD["order"].order_id, event="pay", expected_statuses=["PENDING_PAYMENT"], expected_version=1, patch=change(),
                                     update_mask=field_mask_pb2.FieldMask(paths=PATCHABLE), options=write_options(**fields))


def timer_base():
    timer = pb.Timer(timer_id="matrix", fire_time=t.timestamp(time.time() + 3600), event="cancel", expected_statuses=["PENDING_PAYMENT"])
    return pb.SetOrderTimerRequest(order_id=WORLD["order"].order_id, timer=timer, options=write_options())


def update_base():
    return pb.UpdateOrderRequest(order=change(order_id=WORLD["order"].order_id), update_mask=field_mask_pb2.FieldMask(paths=PATCHABLE), expected_version=1, options=write_options())


def import_base():
    o = full_order(client_order_no="matrix-import", status="PAID", version=2, create_time=t.timestamp(1.6e9), update_time=t.timestamp(1.6e9 + 1))
    entry = dict(operator="o", reason="r", request_id="q", traceparent="t")
    return pb.ImportOrdersRequest(order=o, history=[
        pb.HistoryEntry(version=1, event="create", to_status="PENDING_PAYMENT", time=o.create_time, **entry),
        pb.HistoryEntry(version=2, event="pay", from_status="PENDING_PAYMENT", to_status="PAID", time=o.update_time, **entry)])


def list_base():
    return pb.ListOrdersRequest(user_id="matrix", statuses=["PAID"], create_time_from=t.timestamp(1e9), create_time_to=t.timestamp(3e9), page_size=2, read=read_options())


# ---- consumer groups
def seconds(n):
    return duration_pb2.Duration(seconds=n)


def group_base(name=None):
    return stream.ConsumerGroup(group=name or "matrix-%d" % next(NUMBERS), filter='type = "CREATED"', ordering_key=stream.ConsumerGroup.ORDER, start=stream.ConsumerGroup.AT_TIME, start_time=t.timestamp(1e9),
                                retry=stream.RetryPolicy(max_attempts=3, min_backoff=seconds(1), max_backoff=seconds(2), on_exhausted=stream.RetryPolicy.BLOCK), payload=pb.ORDER_VIEW_FULL,
                                ack_timeout=seconds(5), paused=True, key_window=2)


def span(most):
    return {"seconds": [Bad("negative", put(-1), FIELD, -1, at=".."), Bad("too long", put(most + 1), FIELD, [most, most + 1], at=".."), Bad("far out", put(INT64_MAX), FIELD, most, at="..")],
            "nanos": [Bad("negative", put(-1), FIELD, most, at=".."), Bad("a whole second", put(10**9), FIELD, most, at="..")]}


NUMBERS = itertools.count()
FILTER = [Bad("no field", put('weather = "fine"'), "FILTER_INVALID", "weather"), Bad("not whole", put("type ="), "FILTER_INVALID"), Bad("too long", put("x" * 4097), LIMIT, 4096), Edge(clear)]
FILTER_ALONE = FILTER[:2] + [Bad("too long", put("type = CREATED" + " " * 4090), "FILTER_INVALID", 4096), Edge(clear)]
NAME = [Bad("missing", clear, FIELD, 64), Bad("too long", put("x" * 65), FIELD, 64), Bad("a capital", put("Group"), FIELD, "a-z"), Bad("a dot in front", put(".x"), FIELD), Bad("two words", put("a b"), FIELD)]
GROUP_NAME = NAME + [Bad("nobody's", put("matrix-nobody"), "GROUP_NOT_FOUND", at="", meta=["group"])]
DEFINITION = merged({
    "filter": FILTER,
    "ordering_key": [Bad("none", put(4), FIELD, 4), Bad("negative", put(-1), FIELD, -1), Edge(put(3))],
    "retry.max_attempts": [Bad("negative", put(-1), FIELD, -1), Bad("too many", put(1000001), FIELD, [1000000, 1000001]), Edge(put(1000000))],
    "retry.on_exhausted": [Bad("none", put(4), FIELD, 4), Edge(put(1))],
    "payload": [Bad("no view", put(3), FIELD, 3), Edge(put(1))],
    "paused": [Any("both are meant")], "seeking_since.**": [Any("output only: it is not looked at")],
    "key_window": [Bad("negative", put(-1), FIELD, -1), Bad("too large", put(1025), FIELD, [1024, 1025]), Edge(put(1024))]},
    under("retry.min_backoff", span(86400)), under("retry.max_backoff", span(86400)), under("ack_timeout", span(7 * 86400)))
START = merged({
    "start": [Bad("none", put(5), FIELD, 5), Bad("without a time", both(put(1)), FIELD, "AT_TIME", at="group.start_time"),
              Bad("a snapshot of a time", put(4), FIELD, "AT_TIME", at="group.start_time"), Edge(both(put(4), lambda parent, _: parent.ClearField("start_time")))],
    "start_time": [Bad("missing", clear, FIELD, "AT_TIME")]}, under("start_time", TIME))


# ---- the table
CREATE = merged({"order": [Bad("missing", clear, FIELD, "required")]}, under("order", CREATED), under("options", options(required=True)), {
    "order.machine": [Bad("no machine", put("nothing@7"), "MACHINE_NOT_FOUND", at="", log=True, meta=["machine"])],
    "order.client_order_no": [Bad("taken", put("matrix-taken"), "CLIENT_ORDER_NO_TAKEN", at="", log=True, meta=["order_id", "time"])],
    "options.request_id": [Bad("used", world("create_id"), "IDEMPOTENCY_KEY_REUSED", at="", log=True, meta=["order_id", "time"]),
                           Bad("fenced", world("fenced_id"), "REQUEST_FENCED", at="", log=True)]})
NOT_LOOKED_AT = ["user_id", "merchant_id", "client_order_no", "machine", "status", "version", "archived"]


def changed(order):
    """Content that an update_mask names, of UpdateOrder's order or of a transition's patch."""
    return merged(under(order, PARTS), {
        **{order + "." + name: [Any("no mask can name it")] for name in NOT_LOOKED_AT},
        **{order + ".%s.**" % name: [Any("no mask can name it")] for name in ("items_total", "freight", "discount_total", "payable", "items[]", "timers[]", "history[]", "create_time", "update_time")},
        order + ".payments": [
            Bad("in another currency than the order", lambda parent, _: [setattr(p.amount, "currency_code", "USD") for p in parent.payments], INVARIANT, "currency", log=True)],
        "update_mask.paths": [Bad("missing", clear, FIELD, "required", at=".."), Bad("an amount", add("payable"), FIELD, "cannot be updated", at="+[6]"),
                              Bad("all", add("*"), FIELD, at="+[6]"), Bad("a part", add("address.line"), FIELD, "as a whole", at="+[6]"), Bad("empty", add(""), FIELD, at="+[6]")]})


STATE = ["order_id", "status", "version", "already_there", "winner_request_id", "winner_time"]
TRANSITION = merged(under("options", options(required=False)), changed("patch"), {
    "order_id": order_id(log=True),
    "event": text(128)[:2] + [Bad("missing", clear, FIELD, "event or a to_status"), Bad("with a to_status", beside("to_status", "PAID"), FIELD, "not both", at="to_status"),
                              Bad("no event", put("teleport"), "EDGE_NOT_DEFINED", at="", log=True, meta=["machine", "event"]),
                              Bad("not from here", put("ship"), "STATUS_MISMATCH", at="", log=True, meta=STATE)],
    "to_status": [Bad("too long", both(beside("event", ""), put("X" * 129)), LIMIT, [128, 129]),
                  Bad("no status", both(beside("event", ""), put("NOWHERE")), "EDGE_NOT_DEFINED", at="", log=True, meta=["machine", "to_status"])],
    "expected_statuses": [Bad("too many", times(65), LIMIT, [64, 65]), Edge(times(64)), Bad("an empty one", add(""), FIELD, "required", at="+[1]"),
                          Bad("a long one", add("X" * 65), LIMIT, [64, 65], at="+[1]"), Bad("no status", add("NOWHERE"), FIELD, "NOWHERE", at="+[1]", log=True)],
    "expected_version": VERSION,
    "patch": [Bad("without a mask", lambda parent, _: parent.ClearField("update_mask"), FIELD, "required", at="update_mask"), Edge(clear)],
    "patch.order_id": [Any("no mask can name it")],
    "ack.group": [Bad("missing", beside("event_id", "1:1"), FIELD, 64), Bad("a capital", both(put("Group"), beside("event_id", "1:1")), FIELD, "a-z"),
                  Bad("nobody's", both(put("matrix-nobody"), beside("event_id", "1:1")), "GROUP_NOT_FOUND", at="", meta=["group"])],
    "ack.event_id": [Bad("missing", beside("group", "matrix"), FIELD, "SLOT:SEQ"), Bad("no slot", both(put("16384:1"), beside("group", "matrix")), FIELD, "SLOT:SEQ"),
                     Bad("not in flight", both(put("1:1"), beside("group", "matrix")), "ACK_NOT_IN_FLIGHT", at="", log=True, meta=["event_id"])],
    "options.request_id": [Bad("used", world("pay_id"), "IDEMPOTENCY_KEY_REUSED", at="", log=True, meta=["order_id", "time"])]})
UPDATE = merged({"order": [Bad("missing", clear, FIELD, "required")], "order.order_id": order_id(log=True)}, changed("order"), under("options", options(required=False)), {
    "expected_version": VERSION,
    "options.request_id": [Bad("fenced", world("fenced_id"), "REQUEST_FENCED", at="", log=True)]})
ENTRY = merged({
    "version": [Bad("a gap", put(3), INVARIANT, [3, 2]), Bad("negative", put(-1), INVARIANT, -1)],
    "event": [*text(128, required=True)[:2], Bad("missing", clear, FIELD, 128), Bad("no event from there", put("ship"), INVARIANT, "PENDING_PAYMENT")],
    "from_status": [Bad("another", put("SHIPPED"), INVARIANT, "PENDING_PAYMENT"), Bad("no status", put("NOWHERE"), INVARIANT, "PENDING_PAYMENT")],
    "to_status": [Bad("missing", clear, INVARIANT, "PAID"), Bad("another", put("SHIPPED"), INVARIANT, "PAID")],
    "operator": text(128), "reason": text(1024), "request_id": text(128), "traceparent": text(128), "chain_hash": assigned(b"\0" * 32),
    "time": [Bad("missing", clear, FIELD, "required"), Bad("before the one before", put(t.timestamp(1)), INVARIANT, "before")]}, under("time", TIME))
IMPORT = merged({"order": [Bad("missing", clear, FIELD, "required")]}, under("order", CONTENT), under("history[]", ENTRY), {
    "order.order_id": assigned(5), "order.archived": assigned(True), "order.timers": assigned([TIMER]), "order.timers[].**": [Any("a timer is refused as a whole")],
    "order.history": assigned([pb.HistoryEntry(version=1)]), "order.history[].**": [Any("a history is refused as a whole")],
    "order.client_order_no": [Bad("missing", clear, FIELD, "required")],
    "order.machine": [Bad("no machine", put("nothing"), "MACHINE_NOT_FOUND", at="", meta=["machine"])],
    "order.status": [Bad("not the history's", put("SHIPPED"), INVARIANT, "PAID")],
    "order.version": [Bad("not the history's", put(7), INVARIANT, [7, 2]), Bad("negative", put(-1), INVARIANT, 2)],
    "order.create_time": [Bad("not the history's", put(t.timestamp(5)), INVARIANT, "first"),
                          Bad("missing without history", lambda parent, name: (clear(parent, name), WORLD["top"].ClearField("history")), FIELD, "required")],
    "order.update_time": [Bad("not the history's", put(t.timestamp(5)), INVARIANT, "last")],
    "history": [Bad("too many", times(1001), LIMIT, [1000, 1001])],
    "no_event": [Edge(put(True))]},
    under("order.create_time", TIME), under("order.update_time", TIME))

# Status machines are told as a whole what is wrong with them; test_machine.c has their rules one by one.
def machine_rule(*rows):
    return [Bad(kind, spoil, FIELD, at="resource.machine") for kind, spoil in rows]


def machine_base():
    states = [admin.StatusMachine.State(name="A", initial=True), admin.StatusMachine.State(name="B", terminal=True)]
    states[1].timers.add(timer_id="late").after.seconds = 5
    edge = admin.StatusMachine.Edge(event="go", to="B")
    getattr(edge, "from").append("A")
    return admin.ApplyResourceRequest(dry_run=True, resource=admin.Resource(machine=admin.StatusMachine(name="matrix", states=states, edges=[edge])))


NAME = [Bad("two words", put("a b"), FIELD, 64), Bad("too long", put("x" * 65), FIELD, 64), Edge(put("x" * 64))]
ELSEWHERE = {"**": [Any("the other call")]}
RESOURCE = merged({"resource": [Bad("missing", clear, FIELD, "required")], "dry_run": [Any("both are meant")]}, *(
    {"resource." + kind: [Bad("not built", put(message()), "NOT_BUILT_YET", at="", meta=["field"])], "resource.%s.**" % kind: [Any("refused as a whole")]}
    for kind, message in (("index", admin.IndexDefinition), ("archive", admin.ArchivePolicy), ("role", admin.Role), ("principal", admin.Principal))))

CALLS = {
    "CreateOrder": Call("CreateOrder", create_base, CREATE),
    "BatchCreateOrders": Call("BatchCreateOrders", lambda: pb.BatchCreateOrdersRequest(requests=[create_base(validate_only=True) for _ in range(2)]), merged(
        under("requests[]", CREATE), {"requests": [Bad("too many", times(1001), LIMIT, [1000, 1001])], "atomic": [Any("both are meant")]})),
    "BatchCreateOrders, atomic": Call("BatchCreateOrders", lambda: pb.BatchCreateOrdersRequest(requests=[create_base() for _ in range(2)], atomic=True), merged(
        under("requests[]", CREATE), {
            "requests": [Bad("too many", times(1001), LIMIT, [1000, 1001])], "atomic": [Any("both are meant")],
            "requests[].order.user_id": [Bad("of another user", put("another"), INVARIANT, "one user")],
            "requests[].options.request_id": [Bad("twice", lambda parent, name: put(WORLD["top"].requests[0].options.request_id)(parent, name), INVARIANT, "requests[0]")],
            "requests[].options.validate_only": [Bad("one of two", put(True), INVARIANT, "requests[0]")],
            "requests[].order.client_order_no": [
                Bad("twice", lambda parent, name: [put("same")(r.order, name) for r in WORLD["top"].requests], INVARIANT, "requests[0]")]})),
    "GetOrder": Call("GetOrder", lambda: pb.GetOrderRequest(order_id=WORLD["order"].order_id, read=read_options(), as_of=t.timestamp(3e9), history_entries=5), merged(
        {"order_id": order_id(log=False), "history_entries": [Bad("negative", put(-1), FIELD, -1), Bad("too many", put(101), LIMIT, [100, 101]), Edge(put(100)), Edge(put(0))], "as_of": [Bad("before it was", put(t.timestamp(1e9)), "ORDER_NOT_FOUND", at="", meta=["order_id"])]}, under("as_of", TIME), under("read", READ))),
    "BatchGetOrders": Call("BatchGetOrders", lambda: pb.BatchGetOrdersRequest(order_ids=[WORLD["order"].order_id, NO_ORDER], read=read_options()), merged(
        {"order_ids": [Bad("too many", times(1001), LIMIT, [1000, 1001]), Edge(times(1000)), Bad("zero", add(0), FIELD, 0, at="+[2]"), Bad("negative", add(-5), FIELD, -5, at="+[2]"),
                       Bad("far too many", times(65537), LIMIT, 65536, at="+[0]")]}, under("read", READ))),
    "ListOrders": Call("ListOrders", list_base, merged({
        "user_id": text(64, required=True),
        "statuses": [Bad("too many", times(65), LIMIT, [64, 65]), Edge(times(64)), Bad("no status", add("NOWHERE"), FIELD, "NOWHERE", at="+[1]"), Bad("an empty one", add(""), FIELD, at="+[1]"),
                     Bad("a long one", add("é" * 500), FIELD, at="+[1]")],
        "create_time_from": [Bad("after the end", put(t.timestamp(4e9)), FIELD, "create_time_to")],
        "page_size": PAGE_SIZE,
        "page_token": page_token("list_token", "history_token", lambda parent, _: parent.statuses.append("SHIPPED")),
        "page_number": [Bad("negative", put(-1), FIELD, -1), Bad("with a token", both(put(1), beside("page_token", "x")), FIELD, "not both"),
                        Edge(put(INT32_MAX))],
        "include_archived": [Any("nothing is archived yet")]}, under("create_time_from", TIME), under("create_time_to", TIME), under("read", READ))),
    "TransitionOrder": Call("TransitionOrder", transition_base, TRANSITION),
    "BatchTransitionOrders": Call("BatchTransitionOrders", lambda: pb.BatchTransitionOrdersRequest(requests=[transition_base(validate_only=True) for _ in range(2)]), merged(
        under("requests[]", TRANSITION), {"requests": [Bad("too many", times(1001), LIMIT, [1000, 1001])]})),
    "UpdateOrder": Call("UpdateOrder", update_base, UPDATE),
    "ListOrderHistory": Call("ListOrderHistory", lambda: pb.ListOrderHistoryRequest(order_id=WORLD["paid"].order_id, page_size=1, read=read_options()), merged(
        {"order_id": order_id(log=False), "page_size": PAGE_SIZE, "page_token": page_token("history_token", "list_token", lambda parent, _: setattr(parent, "order_id", WORLD["order"].order_id))}, under("read", READ))),
    "SetOrderTimer": Call("SetOrderTimer", timer_base, merged(under("options", options(required=False)), under("timer.fire_time", TIME), {
        "order_id": order_id(log=True),
        "timer": [Bad("missing", clear, FIELD, "required")],
        "timer.timer_id": [*text(64, required=True), Bad("two words", put("a b"), FIELD, "letters, digits"), Bad("a colon", put("a:b"), FIELD, "letters, digits")],
        "timer.fire_time": [Bad("missing", clear, FIELD, "required"), Bad("eleven years ahead", put(t.timestamp(time.time() + 11 * 366 * 86400)), LIMIT, "ten years", log=True),
                            Edge(put(t.timestamp(1)))],
        "timer.event": [*text(64)[:2], Bad("no event", put("teleport"), "EDGE_NOT_DEFINED", at="", log=True, meta=["machine", "event"]),
                        Bad("none, and statuses", clear, FIELD, "there is none", at="timer.expected_statuses")],
        "timer.expected_statuses": [Bad("too many", times(17), LIMIT, [16, 17]), Edge(times(16)), Bad("an empty one", add(""), FIELD, "required", at="+[1]"),
                                    Bad("a long one", add("X" * 65), LIMIT, [64, 65], at="+[1]"), Bad("no status", add("NOWHERE"), FIELD, "NOWHERE", at="+[1]", log=True),
                                    Bad("of no status of this machine", add("paid"), FIELD, "retail@1", at="+[1]", log=True)]})),
    "CancelOrderTimer": Call("CancelOrderTimer", lambda: pb.CancelOrderTimerRequest(order_id=WORLD["order"].order_id, timer_id="pay_timeout", options=write_options()), merged(
        under("options", options(required=False)), {
            "order_id": order_id(log=True),
            "timer_id": [*text(64, required=True)[:2], Bad("missing", clear, FIELD), Bad("two words", put("a b"), FIELD, "letters, digits"),
                         Bad("no timer", put("x" * 64), "TIMER_NOT_FOUND", at="", log=True, meta=["order_id", "timer_id"])]})),
    "GetRequestOutcome": Call("GetRequestOutcome", lambda: pb.GetRequestOutcomeRequest(user_id="matrix", request_id=t.request_id()), {
        "user_id": text(64, required=True), "request_id": text(128, least=16, required=True)}),
    "ImportOrders": Call("ImportOrders", import_base, IMPORT),
    "ApplyResource, limit": Call("ApplyResource", lambda: admin.ApplyResourceRequest(dry_run=True, resource=admin.Resource(limit=admin.RateLimit(
        name="matrix", scope="global", method="OrderService/CreateOrder", per_second=1e6, burst=10**6))), merged(RESOURCE, under("resource.machine", ELSEWHERE), {
            "remove": [Bad("nothing there", put(True), "RESOURCE_NOT_FOUND", at="", meta=["kind", "name"])],
            "resource.limit.name": [*NAME, Bad("missing", clear, FIELD, 64)],
            "resource.limit.scope": [Bad("no scope", put("all"), FIELD, ["global", "user"]), Bad("missing", clear, FIELD, "global"),
                                     Edge(put("user")), Edge(put("merchant")), Edge(put("principal"))],
            "resource.limit.method": [Bad("no method", put("CreateOrder"), FIELD, "OrderService/CreateOrder"), Bad("never limited", put("AdminService/ApplyResource"), FIELD, "not of AdminService"),
                                      Edge(put("OrderService/*")), Bad("too long", put("x" * 129), LIMIT, [128, 129]), Edge(clear)],
            "resource.limit.per_second": [Bad("zero", clear, FIELD, "0.001"), Bad("negative", put(-1.0), FIELD, -1), Bad("no number", put(float("nan")), FIELD), Bad("endless", put(float("inf")), FIELD),
                                          Edge(put(1e9))],
            "resource.limit.burst": [Bad("zero", clear, FIELD, 1), Bad("negative", put(-1), FIELD, -1), Bad("far out", put(INT64_MAX), FIELD, 2**40), Edge(put(2**40))]})),
    "ApplyResource, machine": Call("ApplyResource", machine_base, merged(RESOURCE, under("resource.limit", ELSEWHERE), {
        "remove": [Bad("never", put(True), FIELD, "not removed")],
        "resource.machine.name": machine_rule(("no name", clear), ("two words", put("a b")), ("too long", put("x" * 65))) + [Edge(put("x" * 64))],
        "resource.machine.version": machine_rule(("negative", put(-1))) + [Bad("not the next", put(7), "MACHINE_VERSION_CONFLICT", at="", meta=["machine", "version", "newest_version"]), Edge(put(1))],
        "resource.machine.states[].name": machine_rule(("no name", clear), ("two words", put("a b")), ("twice", put("A"))),
        "resource.machine.states[].initial": machine_rule(("two of them", put(True))),
        "resource.machine.states[].terminal": machine_rule(("no way out", clear)),
        "resource.machine.states[].timers[].timer_id": machine_rule(("no name", put(""))) + [Edge(put("t" * 64))],
        "resource.machine.states[].timers[].after.seconds": machine_rule(("negative", put(-1))),
        "resource.machine.states[].timers[].after.nanos": machine_rule(("a second", put(10**9))),
        "resource.machine.states[].timers[].event": machine_rule(("no edge", put("nothing"))),
        "resource.machine.edges[].event": machine_rule(("no name", clear), ("two words", put("a b"))) + [
            Bad("reserved: " + word, put(word), FIELD, word) for word in ("create", "import", "update", "set_timer", "cancel_timer", "timer_fired")],
        "resource.machine.edges[].from": machine_rule(("none", clear), ("no state", add("C")), ("twice", add("A"))),
        "resource.machine.edges[].to": machine_rule(("no state", put("C"))),
        "resource.machine.edges[].required_fields": machine_rule(("no field", add("weather"))),
        "resource.machine.edges[].roles": machine_rule(("not built", add("clerk")))})),
    "ListResources": Call("ListResources", lambda: admin.ListResourcesRequest(kind="", page_size=1), {
        "kind": [Bad("no kind", put("weather"), FIELD, ["machine", "limit"]), Bad("not built", put("role"), "NOT_BUILT_YET", at="", meta=["field"]), Edge(put("limit"))],
        "page_size": PAGE_SIZE,
        "page_token": page_token("resource_token", "history_token", lambda parent, _: setattr(parent, "kind", "machine"))}),
    "ReadChanges": Call("ReadChanges", lambda: stream.ReadChangesRequest(user_id="matrix-nobody", stop_at_end=True, from_time=t.timestamp(1e9), filter='type = "CREATED"', payload=pb.ORDER_VIEW_FULL), merged({
        "cursor": [Bad("short", put(b"x"), "CURSOR_INVALID"), Bad("made up", put(b"x" * 60), "CURSOR_INVALID"), Bad("long", put(b"x" * 200000), "CURSOR_INVALID")],
        "filter": [Bad("no field", put('weather = "fine"'), "FILTER_INVALID", "weather"), Bad("not whole", put("type ="), "FILTER_INVALID"), Bad("too long", put("type = CREATED" + " " * 4090), "FILTER_INVALID", 4096),
                   Edge(clear)],
        "user_id": [r for r in text(64) if not isinstance(r, Edge)] + [Edge(put("y" * 64))],
        "stop_at_end": [Any("without it the answer has no end")],
        "payload": [Bad("no view", put(3), FIELD, [0, 2, 3]), Edge(put(1))]}, under("from_time", TIME))),
    "CreateConsumerGroup": Call("CreateConsumerGroup", lambda: stream.CreateConsumerGroupRequest(group=group_base()), merged(
        {"group": [Bad("missing", clear, FIELD, "required")]}, under("group", merged({"group": NAME}, DEFINITION, START)), {
            "group.group": [Bad("taken", put("matrix"), "GROUP_EXISTS", at="", log=True, meta=["group"])]})),
    "UpdateConsumerGroup": Call("UpdateConsumerGroup", lambda: stream.UpdateConsumerGroupRequest(group=group_base("matrix"), update_mask=field_mask_pb2.FieldMask(paths=["filter", "paused"])), merged(
        {"group": [Bad("missing", clear, FIELD, "required")]}, under("group", merged({"group": GROUP_NAME}, DEFINITION)), {
            "group.start": [Any("it has begun")], "group.start_time.**": [Any("it has begun")],
            "update_mask.paths": [Bad("no field", add("weather"), FIELD, "cannot be updated", at="+[2]"), Bad("a part", add("retry.max_attempts"), FIELD, "as a whole", at="+[2]"), Bad("its name", add("group"), FIELD, at="+[2]"), Edge(clear)]})),
    "GetConsumerGroup": Call("GetConsumerGroup", lambda: stream.GetConsumerGroupRequest(group="matrix"), {"group": GROUP_NAME}),
    "ListConsumerGroups": Call("ListConsumerGroups", lambda: stream.ListConsumerGroupsRequest(page_size=1), {
        "page_size": PAGE_SIZE, "page_token": [r for r in page_token("group_token", "resource_token", clear) if not isinstance(r, Bad) or r.kind != "of another query"]}),
    "DeleteConsumerGroup": Call("DeleteConsumerGroup", lambda: stream.DeleteConsumerGroupRequest(group="matrix-doomed"), {"group": GROUP_NAME}),
    "GetGroupLag": Call("GetGroupLag", lambda: stream.GetGroupLagRequest(group="matrix"), {"group": GROUP_NAME}),
    "SeekConsumerGroup": Call("SeekConsumerGroup", lambda: stream.SeekConsumerGroupRequest(group="matrix", start=stream.ConsumerGroup.EARLIEST, dry_run=True), merged({
        "group": GROUP_NAME, "dry_run": [Any("both are meant")],
        "cursor": [Bad("short", put(b"x"), "CURSOR_INVALID"), Bad("made up", put(b"x" * 60), "CURSOR_INVALID"), Bad("long", put(b"x" * 200000), "CURSOR_INVALID")],
        "start": [Bad("none", put(0), FIELD, 0), Bad("a time", put(3), FIELD, "time"), Bad("far out", put(7), FIELD, 7), Edge(put(2)), Edge(put(4))]}, under("time", TIME))),
    "ListDeadLetters": Call("ListDeadLetters", lambda: stream.ListDeadLettersRequest(group="matrix", filter='type = "CREATED"', page_size=1), {
        "group": GROUP_NAME, "filter": FILTER_ALONE, "page_size": PAGE_SIZE, "blocked": [Any("both are meant")],
        "page_token": [r for r in page_token("group_token", "resource_token", clear) if isinstance(r, Bad) and r.kind != "of another query"]}),
    "RedriveDeadLetters": Call("RedriveDeadLetters", lambda: stream.RedriveDeadLettersRequest(group="matrix", filter='type = "CREATED"', max_per_second=1), {
        "group": GROUP_NAME, "filter": FILTER_ALONE, "dry_run": [Any("both are meant")], "blocked": [Any("both are meant")],
        "max_per_second": [Bad("negative", put(-1), FIELD, -1), Bad("too many", put(1000001), LIMIT, [1000000, 1000001]), Edge(put(1000000))]}),
    "PurgeDeadLetters": Call("PurgeDeadLetters", lambda: stream.PurgeDeadLettersRequest(group="matrix", filter='type = "CREATED"'), {
        "group": GROUP_NAME, "filter": FILTER_ALONE, "dry_run": [Any("both are meant")], "blocked": [Any("both are meant")]}),
    # What comes behind the Open: test_groups.py.
    "Subscribe": Call("Subscribe", lambda: stream.SubscribeRequest(open=stream.SubscribeRequest.Open(group="matrix", member_id="m", zone="z")), {
        "open.group": GROUP_NAME, "open.member_id": [Bad("missing", clear, FIELD), Bad("too long", put("x" * 65), LIMIT, [64, 65]), Edge(put("x" * 64))],
        "open.zone": [Bad("too long", put("x" * 65), LIMIT, [64, 65]), Edge(put("x" * 64))],
        **{name: [Bad("before an Open", put(value), FIELD, "first", at="open")] for name, value in (
            ("credit", stream.SubscribeRequest.Credit(events=1)), ("ack", stream.SubscribeRequest.Ack()), ("nack", stream.SubscribeRequest.Nack()), ("extend", stream.SubscribeRequest.Ack()))},
        **{name + ".**": [Any("behind an Open")] for name in ("credit", "ack", "nack", "extend")}}),
    "GetTopology": Call("GetTopology", lambda: admin.GetTopologyRequest(known_epoch=1), {"known_epoch": [Any("the map is told whatever one knows")]}),
    "WatchTopology": Call("WatchTopology", lambda: admin.GetTopologyRequest(known_epoch=1), {"known_epoch": [Any("the map is told whatever one knows")]}),
    "AddNode": Call("AddNode", lambda: admin.AddNodeRequest(peer_address="10.0.0.1:7401", zone="a"), {
        "peer_address": [Any("test_membership.py")], "zone": [Any("a node says its zone itself")]}),
    "DrainNode": Call("DrainNode", lambda: admin.DrainNodeRequest(node_id=1), {
        "node_id": [Bad("missing", clear, FIELD, "node"), Bad("far out", put(1000001), FIELD, 1000001)], "deadline.**": [Any("it is drained as fast as it can be")]}),
    "RemoveNode": Call("RemoveNode", lambda: admin.RemoveNodeRequest(node_id=1, dry_run=True), {
        "node_id": [Bad("missing", clear, FIELD, "node"), Bad("far out", put(1000001), FIELD, 1000001)], "dry_run": [Any("both are meant")]}),
    "TransferLeader": Call("TransferLeader", lambda: admin.TransferLeaderRequest(partition_id=1, to_node_id=1), {
        "partition_id": [Bad("none", put(-2), FIELD, -2), Bad("beyond the last", put(1024), FIELD, 1024), Edge(put(-1)), Edge(put(0))],
        "to_node_id": [Bad("missing", clear, FIELD, "node 0"), Bad("no such node", put(2), FIELD, "node 2"), Bad("far out", put(2**64 - 1), FIELD, 2**64 - 1)]}),
    "CheckIndexes": Call("CheckIndexes", lambda: admin.CheckIndexesRequest(partition_id=1, limit=10), {
        "partition_id": [Bad("negative", put(-1), FIELD, -1), Bad("beyond the last", put(1024), FIELD, 1024), Edge(put(0))],
        "position": [Bad("made up", put(b"x"), FIELD), Bad("of another partition", put(b"O" + bytes(10)), FIELD), Bad("long", put(b"R\xff\xffI" + b"x" * 600), FIELD), Edge(clear), Edge(put(b"R\xff\xffI"))],
        "limit": [Bad("negative", put(-1), FIELD, -1), Bad("too many", put(5001), LIMIT, [5000, 5001]), Edge(clear), Edge(put(5000))]}),
}

# A single node refuses them when all else is fine: test_membership.py.
OF_A_CLUSTER = {"AddNode", "DrainNode", "RemoveNode"}

# Methods of others' contracts: their tests are told here.
FOREIGN = {
    "HealthCheck": "test_grpc_surface.py", "HealthWatch": "test_grpc_surface.py",
    "Reflection": "test_grpc_surface.py, test_surface.c", "ReflectionAlpha": "test_grpc_surface.py",
}


def statuses():
    """proto/status.tbl: reason -> gRPC codes that it comes with."""
    rows = re.findall(r'^STATUS\((\w+), GRPC_(\w+), "(\w*)", (\w+)\)', open(t.ROOT + "/proto/status.tbl").read(), re.M)
    out = {}
    for _, code, reason, _ in rows:
        out.setdefault(reason, []).append(code)
    return out
