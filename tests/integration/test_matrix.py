#!/usr/bin/python3
"""Every method and every field of its request, with every kind of bad value: the table is matrix.py, this walks it.

For each row: the code, the reason, the violation's path, the words and numbers of its text, the metadata. That nothing has changed is shown by the whole run: what the
shape of a request decides takes no entry of the log at all, what the state decides no seq of the user's slot, and all refused requests of a method carry one
request_id, with which a valid one succeeds at the end. What holds for any field of a type is made from the descriptors here: wrong wire types, bad UTF-8, NUL,
messages that are malformed or come twice."""
import re
import time

import matrix
import orderdb_test as t
from matrix import FIELD, LIMIT, WORLD, Any, Bad, Edge
from orderdb_test import equal, pb, true
import grpc

IN_FLIGHT = 32
CODES = matrix.statuses()
provoked = set()


# ---- fields of a message, with messages inside
def is_map(field):
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def is_many(field):
    return field.label == field.LABEL_REPEATED


def walk(message, prefix=""):
    """(path, field) of everything below; maps are leaves."""
    for field in message.fields:
        path = prefix + field.name
        yield path, field
        if field.message_type and not is_map(field):
            yield from walk(field.message_type, path + ("[]." if is_many(field) else "."))


def covered(fields, path):
    """The rules that stand for a path: its own, or those of a '.**' above it."""
    if path in fields:
        return fields[path]
    parts = path.split(".")
    for n in range(len(parts) - 1, 0, -1):
        rows = fields.get(".".join(parts[:n]) + ".**")
        if rows:
            return rows
    return []


def leaves(message):
    return [(path, f) for path, f in walk(message) if not f.message_type or is_map(f)]


# ---- a place in a request
def steps(path):
    return [(s.rstrip("[]"), s.endswith("[]")) for s in path.split(".")]


def indexed(top, path):
    """Which element each '[]' means: the last there is. Answers the path as a violation says it."""
    at, out = top, []
    for name, many in steps(path):
        if many:
            elements = getattr(at, name)
            i = max(len(elements) - 1, 0)
            out.append("%s[%d]" % (name, i))
            at = elements[i] if elements else None
        else:
            out.append(name)
            field = at.DESCRIPTOR.fields_by_name[name] if at is not None else None
            at = getattr(at, name) if field is not None and field.message_type and not is_many(field) else None
        if at is None and len(out) < len(steps(path)):
            return ".".join(out + [n + ("[0]" if m else "") for n, m in steps(path)[len(out):]])
    return ".".join(out)


def parent_of(top, path):
    at = top
    for name, many in steps(path)[:-1]:
        at = getattr(at, name)[-1] if many else getattr(at, name)
    return at


def violation_path(top, path, at):
    """What Bad.at means for a field of this request."""
    own = indexed(top, path)
    root = own.split(".")[0] + "." if path.startswith("requests[].") else ""
    if at.startswith("+"):
        return own + at[1:]
    while at.startswith(".."):
        own, at = own.rpartition(".")[0], at[3:]
        if not at:
            return own
    return root + at


# ---- wire bytes by hand: what no generated class writes
def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def tag(number, wire_type):
    return varint(number << 3 | wire_type)


def counted(data):
    return varint(len(data)) + data


def wire_with(message, path, raw):
    """The request with raw bytes at the end of the message that holds the field `path`."""
    (name, many), rest = steps(path)[0], ".".join(path.split(".")[1:])
    if not rest:
        return message.SerializeToString() + raw
    field = message.DESCRIPTOR.fields_by_name[name]
    others = type(message)()
    others.CopyFrom(message)
    others.ClearField(name)
    elements = list(getattr(message, name)) if many else [getattr(message, name)]
    if not elements:
        elements = [field.message_type._concrete_class()]
    bodies = [e.SerializeToString() for e in elements[:-1]] + [wire_with(elements[-1], rest, raw)]
    return others.SerializeToString() + b"".join(tag(field.number, 2) + counted(b) for b in bodies)


VARINT, FIXED64, LEN, FIXED32 = 0, 1, 2, 5


def wire_rows(top, path, field):
    """(kind, raw bytes, violation path, words) for any field of its type."""
    own, n = indexed(top, path), field.number
    if is_many(field):
        holder = parent_of_or_none(top, path)
        own += "[%d]" % (len(getattr(holder, field.name)) if holder is not None else 0)
    length = field.message_type or field.type in (field.TYPE_STRING, field.TYPE_BYTES)
    yield "wrong wire type", tag(n, VARINT) + b"\1" if length else tag(n, FIXED32) + b"\0" * 4, own, ["wire type"]
    if field.type == field.TYPE_STRING:
        yield "bad UTF-8", tag(n, LEN) + counted(b"a\xc3\x28"), own, ["UTF-8"]
        yield "half a character", tag(n, LEN) + counted("é".encode()[:1]), own, ["UTF-8"]
        yield "a surrogate", tag(n, LEN) + counted(b"\xed\xa0\x80"), own, ["UTF-8"]
        yield "a NUL", tag(n, LEN) + counted(b"a\0b"), own, ["NUL"]
    if is_map(field):
        for number, part in ((1, "key"), (2, "value")):
            yield "bad UTF-8 in a " + part, tag(n, LEN) + counted(tag(number, LEN) + counted(b"\xff")), own + "." + part, ["UTF-8"]
            yield "a NUL in a " + part, tag(n, LEN) + counted(tag(number, LEN) + counted(b"\0")), own + "." + part, ["NUL"]
    elif field.message_type:
        # One that is there would be given twice: the second is not looked into.
        if not is_many(field):
            yield "twice", 2 * (tag(n, LEN) + counted(b"")), own, ["more than once"]
        holder = parent_of_or_none(top, path)
        if is_many(field) or holder is None or not holder.HasField(field.name):
            yield "malformed", tag(n, LEN) + counted(b"\xff"), own, ["malformed"]


def parent_of_or_none(top, path):
    try:
        return parent_of(top, path)
    except IndexError:
        return None


# ---- asking
class Answer:
    """What a method made of a request, the same for all: refused or not, and why. Batches and imports say it of one of their requests."""

    def __init__(self, failure=None, message=None):
        self.code = self.reason = ""
        self.failure, self.message = failure, message
        if failure is not None:
            self.code, self.reason, self.violations, self.metadata, self.text = failure.code_name, failure.reason, failure.violations, failure.metadata, failure.message


class Inner(t.Failure):
    """A google.rpc.Status within an answer."""

    def __init__(self, status):
        self.status, self.code, self.message = status, status.code, status.message
        self.code_name = next(c.name for c in grpc.StatusCode if c.value[0] == status.code)
        self.reason, self.domain, self.metadata, self.violations, self.retry_delay_s = "", "", {}, [], None
        self._details()


def answer_of(name, future):
    method = t.METHODS[matrix.CALLS[name].method]
    try:
        message = method.response.FromString(future.result())
    except grpc.RpcError as e:
        return Answer(t.Failure(e))
    errors = []
    if method.name.startswith("Batch") and hasattr(message, "results"):
        errors = [r.error for r in message.results if r.WhichOneof("result") == "error"]
    elif method.name == "ImportOrders":
        errors = [r.error for r in message.rejected]
    return Answer(Inner(errors[0]), message) if errors else Answer(None, message)


class Talk:
    """A stream of one message and its half-close: the first answer, if there is one."""

    def __init__(self, call):
        self.call = call

    def result(self):
        answers = list(self.call)
        return answers[0] if answers else b""


class First:
    """A stream of answers without an end: the first one."""

    def __init__(self, call):
        self.call = call

    def result(self):
        try:
            return next(self.call)
        finally:
            self.call.cancel()


def send(client, name, wire):
    method = t.METHODS[matrix.CALLS[name].method]
    if method.name == "WatchTopology":
        return First(client.channel.unary_stream(method.path, request_serializer=None, response_deserializer=None)(wire, timeout=30 * t.SLOW))
    if method.kind == "BIDI":
        return Talk(client.channel.stream_stream(method.path, request_serializer=None, response_deserializer=None)(iter([wire]), timeout=30 * t.SLOW))
    make = client.channel.stream_unary if method.kind == "CLIENT_STREAM" else client.channel.unary_unary
    stub = make(method.path, request_serializer=None, response_deserializer=None)
    return stub.future(iter([wire]) if method.kind == "CLIENT_STREAM" else wire, timeout=30 * t.SLOW)


class Run:
    """Sends many, some at a time; collects what was not as it should be."""

    def __init__(self, client):
        self.client, self.away, self.wrong, self.count = client, [], [], 0

    def ask(self, name, what, wire, judge):
        self.away.append((name, what, send(self.client, name, wire), judge))
        self.count += 1
        if len(self.away) >= IN_FLIGHT:
            self.home(IN_FLIGHT // 2)

    def home(self, n=None):
        for name, what, future, judge in self.away[:n]:
            answer = answer_of(name, future)
            if answer.reason:
                provoked.add(answer.reason)
            try:
                judge(answer)
            except AssertionError as e:
                self.wrong.append("%s: %s: %s" % (name, what, e))
        self.away = self.away[n:] if n else []

    def end(self):
        self.home()
        print("# %d requests" % self.count)
        true(not self.wrong, "%d wrong\n%s" % (len(self.wrong), "\n".join(self.wrong)))


def words_in(words, text):
    """Numbers as whole ones."""
    for w in words:
        found = re.search(r"(?<![0-9])%s(?![0-9])" % re.escape(w), text) if re.fullmatch(r"-?\d+", w) else w in text
        true(found, "%r says nothing of %r" % (text, w))


def judge_refusal(reason, path, says, meta=()):
    def judge(a):
        true(a.failure is not None, "was answered, expected %s %s" % (reason, path))
        true(a.reason == reason and a.code in CODES[reason], "%s, expected %s %s" % (a.failure, reason, path))
        equal(a.failure.domain, "orderdb")
        if path:
            true(a.violations, "no violation: %s" % a.failure)
            equal(a.violations[0][0], path, str(a.failure))
            words_in(says, a.violations[0][1])
        else:
            equal(a.violations, [])
            words_in(says, a.text)
        for key in meta:
            true(key in a.metadata, "no metadata %s: %s" % (key, a.metadata))
    return judge


def judge_edge(a):
    true(a.code != "INVALID_ARGUMENT", "a value at the limit: %s" % a.failure)


# ---- the world before
def set_request_id(message, request_id):
    """All requests of a method carry one id; in a batch each its own, but always the same."""
    if hasattr(message, "requests"):
        for i, r in enumerate(message.requests):
            r.options.request_id = "%s-%d" % (request_id, i)
    elif hasattr(message, "options"):
        message.options.request_id = request_id


def set_dry(message):
    for r in message.requests if hasattr(message, "requests") else [message]:
        if hasattr(r, "options"):
            r.options.validate_only = True


def world(server):
    if WORLD:
        return
    WORLD["create_id"], WORLD["pay_id"], WORLD["fenced_id"] = t.request_id(), t.request_id(), t.request_id()
    WORLD["taken"] = server.call("CreateOrder", pb.CreateOrderRequest(order=matrix.full_order(client_order_no="matrix-taken"), options=pb.WriteOptions(request_id=WORLD["create_id"]))).order
    for _ in range(3):
        paid = server.call("CreateOrder", t.create_request(user_id="matrix")).order
        WORLD["paid"] = server.call("TransitionOrder", t.transition_request(paid.order_id, "pay", WORLD["pay_id"] if _ == 0 else None)).order
    WORLD["order"] = server.call("CreateOrder", t.create_request(order_=matrix.full_order())).order
    equal(server.call("GetRequestOutcome", user_id="matrix", request_id=WORLD["fenced_id"]).state, pb.RequestOutcome.NOT_APPLIED)
    WORLD["list_token"] = server.call("ListOrders", matrix.list_base()).next_page_token
    WORLD["history_token"] = server.call("ListOrderHistory", order_id=WORLD["paid"].order_id, page_size=1).next_page_token
    server.call("ApplyResource", resource=matrix.admin.Resource(limit=matrix.admin.RateLimit(name="first", scope="global", per_second=1e6, burst=10**6)))
    WORLD["resource_token"] = server.call("ListResources", page_size=1).next_page_token
    for group in ("matrix", "matrix-doomed"):
        server.call("CreateConsumerGroup", group=matrix.group_base(group))
    WORLD["group_token"] = server.call("ListConsumerGroups", page_size=1).next_page_token
    true(WORLD["list_token"] and WORLD["history_token"] and WORLD["resource_token"] and WORLD["group_token"])
    WORLD["ids"] = {name: t.request_id() for name in matrix.CALLS}


def base(name):
    message = matrix.CALLS[name].base()
    if name != "GetRequestOutcome":
        set_request_id(message, WORLD["ids"][name])
    WORLD["top"] = message
    return message


def applied(server):
    """Entries of all partitions, once what goes on behind the answers (groups on their way to partitions, rows of deleted ones) has come to rest."""
    last, since, deadline = None, time.monotonic(), time.monotonic() + 20 * t.SLOW
    while time.monotonic() - since < 0.3 and time.monotonic() < deadline:
        now = sum(r.applied_index for p in server.call("GetTopology").partitions for r in p.replicas)
        if now != last:
            last, since = now, time.monotonic()
        time.sleep(0.02)
    return last


def seq_of(server):
    """The next seq of the users' slot, by taking one."""
    return server.call("CreateOrder", t.create_request(user_id="matrix")).token.seq


def path_told(name, path):
    """Each of a batch's requests is told its own fields, but for an atomic batch, and for what no request of it is the cause of."""
    return path.partition(".")[2] if name in ("BatchCreateOrders", "BatchTransitionOrders") and path.startswith("requests[") and "." in path else path


def rows_of(kind):
    for name, call in matrix.CALLS.items():
        for path, rules in call.fields.items():
            for rule in rules:
                if isinstance(rule, kind):
                    yield name, path, rule


def spoiled(name, path, rule):
    message = base(name)
    at = violation_path(message, path, rule.at) if isinstance(rule, Bad) and rule.at else ""
    rule.spoil(parent_of(message, path), steps(path)[-1][0])
    return message, at


# ---- the tests
@t.test("matrix: every field of every built method has a row, or a reason why any value is fine")
def _():
    missing = []
    for name, call in matrix.CALLS.items():
        request = t.METHODS[call.method].request.DESCRIPTOR
        paths = {path for path, _ in walk(request)}
        missing += ["%s: %s" % (name, path) for path, _ in leaves(request) if not covered(call.fields, path)]
        for path in call.fields:
            true(re.sub(r"(\[\])?\.\*\*$", "", path) in paths, "%s has no field %s" % (name, path))
        for path, rules in call.fields.items():
            true(all(r.why for r in rules if isinstance(r, Any)))
    equal(missing, [])
    built = {m.name for m in t.METHODS.values() if m.built}
    equal({c.method for c in matrix.CALLS.values()} ^ built, set(), "built methods without a table, or the other way round")
    foreign = set(re.findall(r"^METHOD_IN\((\w+),", open(t.ROOT + "/proto/methods.tbl").read(), re.M))
    equal(foreign, set(matrix.FOREIGN))


@t.test("matrix: base requests are valid")
def _(server):
    world(server)
    for name in matrix.CALLS:
        if name != "ImportOrders":
            message = base(name)
            set_dry(message)
            a = answer_of(name, send(server.client, name, message.SerializeToString()))
            if name in matrix.OF_A_CLUSTER:
                true("single node" in str(a.failure), "%s: %s" % (name, a.failure))
            else:
                true(a.failure is None, "%s: %s" % (name, a.failure))


@t.test("matrix: what the wire decides, field by field")
def _(server):
    world(server)
    run, before = Run(server.client), applied(server)
    for name, call in matrix.CALLS.items():
        top = base(name)
        for path, field in walk(t.METHODS[call.method].request.DESCRIPTOR):
            for kind, raw, at, says in wire_rows(top, path, field):
                run.ask(name, "%s of %s" % (kind, path), wire_with(top, path, raw), judge_refusal(FIELD, at, says))
    run.end()
    equal(applied(server), before, "entries of the log")


@t.test("matrix: what the wire decides, message by message")
def _(server):
    world(server)
    run, before = Run(server.client), applied(server)
    for name, call in matrix.CALLS.items():
        wire, top = base(name).SerializeToString(), t.METHODS[call.method].request.DESCRIPTOR.name
        unknown = tag(999, LEN) + counted(b"\0" * 70000)
        for kind, raw in (("a group", tag(998, 3) + tag(998, 4)), ("half a field", tag(998, LEN) + b"\5ab"), ("field number 0", b"\0\0"), ("an endless varint", tag(998, VARINT) + b"\xff" * 11),
                          ("wire type 7", tag(998, 7)), ("half a tag", b"\xff")):
            run.ask(name, kind, wire + raw, judge_refusal(FIELD, top, ["malformed"]))
        run.ask(name, "unknown fields", wire + unknown, judge_refusal(LIMIT, top, ["65536", "unknown"]))
        if t.METHODS[call.method].kind == "UNARY":
            run.ask(name, "more than 4 MiB", b"\0" * (4 << 20) + wire, judge_refusal(LIMIT, "", ["4194304"]))
    run.end()
    equal(applied(server), before, "entries of the log")


@t.test("matrix: what the shape decides, row by row; no entry of the log")
def _(server):
    world(server)
    run, before = Run(server.client), applied(server)
    for name, path, rule in rows_of(Bad):
        if not rule.log:
            message, at = spoiled(name, path, rule)
            run.ask(name, "%s: %s" % (path, rule.kind), message.SerializeToString(), judge_refusal(rule.reason, path_told(name, at), rule.says, rule.meta))
    run.end()
    equal(applied(server), before, "entries of the log")


@t.test("matrix: all faults of a request at once, 20 of them listed")
def _(server):
    order = t.order(user_id="", item_count=30)
    for item in order.items:
        item.sku_id = ""
    f = t.refused(lambda: server.call("CreateOrder", t.create_request(order_=order)), "INVALID_ARGUMENT", "FIELD_INVALID")
    equal([field for field, _ in f.violations], ["order.user_id"] + ["order.items[%d].sku_id" % i for i in range(19)])
    equal(f.metadata, {"more_violations": "11"})


@t.test("matrix: what the state decides, row by row; no seq of the slot")
def _(server):
    world(server)
    run, before, seq = Run(server.client), server.call("ListOrders", user_id="matrix"), seq_of(server)
    for name, path, rule in rows_of(Bad):
        if rule.log:
            message, at = spoiled(name, path, rule)
            meta = list(rule.meta) + (["index"] if name.endswith("atomic") else [])
            run.ask(name, "%s: %s" % (path, rule.kind), message.SerializeToString(), judge_refusal(rule.reason, path_told(name, at), rule.says, meta))
    run.end()
    equal(seq_of(server), seq + 1)
    equal(server.call("ListOrders", user_id="matrix").total_size, before.total_size + 2)
    equal(server.call("GetOrder", order_id=WORLD["order"].order_id), WORLD["order"])


@t.test("matrix: values at the limit are fine")
def _(server):
    world(server)
    run = Run(server.client)
    for name, path, rule in rows_of(Edge):
        # Imports: the same checks as CreateOrder's, and no dry run. An atomic batch is of one user.
        if name != "ImportOrders" and not (name.endswith("atomic") and path.endswith("user_id")):
            message, _ = spoiled(name, path, rule)
            set_dry(message)
            run.ask(name, path, message.SerializeToString(), judge_edge)
    run.end()


@t.test("matrix: after all refusals the same request_ids are as new, and the orders as they were")
def _(server):
    world(server)
    equal(server.call("GetOrder", order_id=WORLD["order"].order_id), WORLD["order"])
    equal(server.call("GetOrder", order_id=WORLD["taken"].order_id), WORLD["taken"])
    users = sorted({"matrix", "another", "x" * 64})
    orders = {user: server.call("ListOrders", user_id=user).total_size for user in users}
    equal([orders[u] for u in users if u != "matrix"], [0, 0])
    version = 1
    for name in ("CreateOrder", "BatchCreateOrders, atomic", "UpdateOrder", "TransitionOrder"):
        message = base(name)
        if hasattr(message, "expected_version"):
            message.expected_version, version = version, version + 1
        a = answer_of(name, send(server.client, name, message.SerializeToString()))
        true(a.failure is None, "%s: %s" % (name, a.failure))
        done = [r.ok for r in a.message.results] if hasattr(a.message, "results") else [a.message]
        true(not any(r.replayed for r in done), name)
        equal(len(done), len(getattr(message, "requests", [0])))
    a = answer_of("ImportOrders", send(server.client, "ImportOrders", base("ImportOrders").SerializeToString()))
    equal((a.message.imported, a.message.already_there, a.message.rejected_count), (1, 0, 0))
    equal(server.call("ListOrders", user_id="matrix").total_size, orders["matrix"] + 4)
    equal(len(server.call("ListOrderHistory", order_id=WORLD["order"].order_id).entries), 3)


@t.test("matrix: methods that are not built say so to whatever is well-formed")
def _(server):
    for method in t.METHODS.values():
        if not method.built:
            f = t.refused(lambda m=method: server.call(m), "UNIMPLEMENTED", "NOT_BUILT_YET")
            true(method.name in f.message, f.message)


@t.test("matrix: the reasons that a request alone can provoke were all provoked")
def _():
    expected = {"FIELD_INVALID", "LIMIT_EXCEEDED", "INVARIANT_VIOLATED", "PAGE_TOKEN_INVALID", "ORDER_NOT_FOUND", "MACHINE_NOT_FOUND", "CLIENT_ORDER_NO_TAKEN", "STATUS_MISMATCH",
                "EDGE_NOT_DEFINED", "IDEMPOTENCY_KEY_REUSED", "REQUEST_FENCED", "VERSION_MISMATCH", "NOT_BUILT_YET", "RESOURCE_NOT_FOUND", "MACHINE_VERSION_CONFLICT", "TIMER_NOT_FOUND"}
    true(expected <= provoked, "never seen: %s" % (expected - provoked))


if __name__ == "__main__":
    t.run(cores=2, partitions=4)  # ops travel
