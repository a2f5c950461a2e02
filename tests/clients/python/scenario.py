#!/usr/bin/python3
"""Debian's python3-grpcio does what SCENARIO.md says: scenario.py BUILD_DIR MODE=HOST:PORT..., certificates in $CERTS."""
import os
import sys
import threading
import uuid

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.path.insert(0, os.path.join(ROOT, "tests", "integration"))
import orderdb_test as t  # noqa: E402  message classes, decoded errors
from orderdb_test import equal, pb, refused, true  # noqa: E402
import grpc  # noqa: E402
import grpc_services as g  # noqa: E402
from google.protobuf import descriptor_pb2  # noqa: E402

CERTS = os.environ["CERTS"]
with open(os.path.join(ROOT, "examples", "service_config.json")) as f:
    CONFIG = f.read()
SERVICES = ["", "orderdb.v1.OrderService", "orderdb.v1.StreamService", "orderdb.v1.AdminService"]
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
STEPS = []


def step(name, modes=("cleartext", "tls", "mtls")):
    def register(function):
        STEPS.append((name, modes, function))
        return function
    return register


def read(name):
    with open(os.path.join(CERTS, name), "rb") as file:
        return file.read()


class World:
    def __init__(self, mode, address):
        self.mode, self.address, self.client = mode, address, self.connect(mode, address)
        self.call, self.run = self.client.call, uuid.uuid4().hex[:8]

    @staticmethod
    def connect(mode, address, ca="ca.pem", certificate=True):
        mine = mode == "mtls" and certificate
        credentials = None if mode == "cleartext" else grpc.ssl_channel_credentials(read(ca), read("client.key") if mine else None, read("client.pem") if mine else None)
        return t.Client(address, options=[("grpc.service_config", CONFIG), ("grpc.enable_retries", 1)], credentials=credentials)

    def user(self, name):
        return "python-%s-%s-%s" % (self.mode, self.run, name)

    def create(self, name, **fields):
        return self.call("CreateOrder", t.create_request(user_id=self.user(name), **fields)).order


def retail(user, number, events):
    """An order with its past, for an import."""
    at, status = 1700000000, "PENDING_PAYMENT"
    history = [pb.HistoryEntry(event="create", to_status=status, time=t.timestamp(at))]
    for event, status in events:
        at += 60
        history.append(pb.HistoryEntry(event=event, to_status=status, time=t.timestamp(at)))
    return pb.ImportOrdersRequest(order=t.order(user_id=user, client_order_no="old-%d" % number), history=history)


@step("health check")
def _(w):
    for service in SERVICES:
        equal(g.check(w.client, service), g.SERVING)
    refused(lambda: g.check(w.client, "orderdb.v1.Nothing"), "NOT_FOUND", "SERVICE_UNKNOWN")


@step("health watch")
def _(w):
    known, unknown = g.watch(w.client, "orderdb.v1.OrderService"), g.watch(w.client, "nothing")
    equal((next(known).status, next(unknown).status), (g.SERVING, g.SERVICE_UNKNOWN))
    known.cancel(), unknown.cancel()
    equal(g.failure_of(lambda: next(known)).code_name, "CANCELLED")


def reflection(w, pb_, version):
    request = pb_.ServerReflectionRequest
    services, file, nothing = g.reflect(w.client, [request(list_services="*"), request(file_containing_symbol="orderdb.v1.OrderService"),
                                                   request(file_containing_symbol="orderdb.v1.Nothing")], pb_, version)
    equal(sorted(s.name for s in services.list_services_response.service), g.SERVICES)
    files = [descriptor_pb2.FileDescriptorProto.FromString(b) for b in file.file_descriptor_response.file_descriptor_proto]
    equal(files[0].name, "orderdb/v1/order.proto")
    true({d for f in files for d in f.dependency} <= {f.name for f in files}, "all imports are there")
    equal(nothing.error_response.error_code, 5)


@step("reflection v1")
def _(w):
    reflection(w, g.reflection_v1, "v1")


@step("reflection v1alpha")
def _(w):
    reflection(w, g.reflection_v1alpha, "v1alpha")


@step("create and get")
def _(w):
    request = t.create_request(user_id=w.user("get"), item_count=3, attributes={"城市": "北京", "channel": "app"}, address=pb.Address(recipient="张三", line="x"))
    order = w.call("CreateOrder", request).order
    true(order.order_id > 1 << 53, "an id that a double cannot hold")
    got = w.call("GetOrder", order_id=order.order_id)
    equal(got, order)
    equal((got.items, got.address, got.attributes, got.payable.minor_units), (request.order.items, request.order.address, request.order.attributes, 3 * 2 * 1999 + 500))
    true(t.seconds_of(got.create_time) > 1.7e9)


@step("replay")
def _(w):
    request = t.create_request(user_id=w.user("replay"))
    first, second = w.call("CreateOrder", request), w.call("CreateOrder", request)
    equal((first.replayed, second.replayed, first.order, first.token), (False, True, second.order, second.token))
    equal(w.call("ListOrders", user_id=w.user("replay")).total_size, 1)


@step("reused id")
def _(w):
    id_ = t.request_id()
    order = w.create("reused", id_=id_)
    f = refused(lambda: w.create("reused", id_=id_, price=5), "FAILED_PRECONDITION", "IDEMPOTENCY_KEY_REUSED")
    equal(f.metadata["order_id"], str(order.order_id))


@step("violations")
def _(w):
    order = t.order(user_id="", item_count=2)
    order.items[1].quantity = 0
    f = refused(lambda: w.call("CreateOrder", t.create_request(order)), "INVALID_ARGUMENT")
    true({"order.user_id", "order.items[1].quantity"} <= {field for field, _ in f.violations}, str(f.violations))


@step("transition")
def _(w):
    order = w.create("transition")
    for version, (event, before, after) in enumerate([("pay", "PENDING_PAYMENT", "PAID"), ("ship", "PAID", "SHIPPED")], 2):
        answer = w.call("TransitionOrder", t.transition_request(order.order_id, event))
        equal((answer.order.status, answer.order.version, answer.entry.from_status, answer.entry.event), (after, version, before, event))


@step("second caller")
def _(w):
    order, pay = w.create("second"), t.request_id()
    w.call("TransitionOrder", t.transition_request(order.order_id, "pay", id_=pay))
    f = refused(lambda: w.call("TransitionOrder", t.transition_request(order.order_id, "pay")), "FAILED_PRECONDITION", "STATUS_MISMATCH")
    equal((f.metadata["status"], f.metadata["version"], f.metadata["winner_request_id"]), ("PAID", "2", pay))


@step("history")
def _(w):
    order = w.create("history")
    for event in ("pay", "ship", "deliver"):
        w.call("TransitionOrder", t.transition_request(order.order_id, event, operator="op-1", reason="因为"), metadata=[("traceparent", TRACE)])
    h = w.call("ListOrderHistory", order_id=order.order_id).entries
    equal([(e.version, e.event) for e in h], [(1, "create"), (2, "pay"), (3, "ship"), (4, "deliver")])
    equal((h[1].operator, h[1].reason, h[1].traceparent, {len(e.chain_hash) for e in h}), ("op-1", "因为", TRACE, {32}))


@step("update")
def _(w):
    order = w.create("update")

    def update(*paths):
        request = pb.UpdateOrderRequest(order=pb.Order(order_id=order.order_id, address=pb.Address(recipient="李四")), options=pb.WriteOptions(request_id=t.request_id()))
        request.update_mask.paths.extend(paths)
        return w.call("UpdateOrder", request).order
    equal((update("address").address.recipient, w.call("GetOrder", order_id=order.order_id).version), ("李四", 2))
    f = refused(lambda: update("address", "payable"), "INVALID_ARGUMENT", "FIELD_INVALID")
    equal([field for field, _ in f.violations], ["update_mask.paths[1]"])


@step("pages")
def _(w):
    ids = [w.create("pages").order_id for _ in range(25)]
    w.call("TransitionOrder", t.transition_request(ids[0], "pay"))
    walked, token, pages = [], "", 0
    while token or not pages:
        page = w.call("ListOrders", user_id=w.user("pages"), page_size=10, page_token=token)
        walked, token, pages = walked + [o.order_id for o in page.orders], page.next_page_token, pages + 1
        equal((page.total_size, dict(page.status_counts)), (25, {"PENDING_PAYMENT": 24, "PAID": 1}))
    equal((walked, pages), (sorted(ids, reverse=True), 3))
    equal([o.order_id for o in w.call("ListOrders", user_id=w.user("pages"), page_size=10, page_number=3).orders], walked[20:])
    refused(lambda: w.call("ListOrders", user_id=w.user("pages"), page_token="forged"), "INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")


@step("batches")
def _(w):
    requests = [t.create_request(user_id=w.user("batch-%d" % (i % 3))) for i in range(30)]
    requests[7].order.items[0].quantity = 0
    results = w.call("BatchCreateOrders", requests=requests).results
    equal([r.WhichOneof("result") for r in results], ["error" if i == 7 else "ok" for i in range(30)])
    equal(t.status_reason(results[7].error), ("INVALID_ARGUMENT", "LIMIT_EXCEEDED", ["order.items[0].quantity"]))
    ids = [r.ok.order.order_id for r in results if r.HasField("ok")]
    moved = w.call("BatchTransitionOrders", requests=[t.transition_request(i, e) for i in ids[:5] for e in ("pay", "pay")]).results
    equal([r.WhichOneof("result") for r in moved], ["ok", "error"] * 5)
    equal(t.status_reason(moved[1].error), ("FAILED_PRECONDITION", "STATUS_MISMATCH", []))
    got = w.call("BatchGetOrders", order_ids=ids + [5])
    equal(([o.order_id for o in got.orders], list(got.missing_ids)), (ids, [5]))
    equal([o.status for o in got.orders[:6]], ["PAID"] * 5 + ["PENDING_PAYMENT"])


@step("dry run")
def _(w):
    request = t.create_request(user_id=w.user("dry"))
    request.options.validate_only = True
    answer = w.call("CreateOrder", request)
    equal((answer.order.order_id, answer.order.status, answer.HasField("token")), (0, "PENDING_PAYMENT", False))
    equal(w.call("ListOrders", user_id=w.user("dry")).total_size, 0)


@step("outcome")
def _(w):
    known, late = t.request_id(), t.request_id()
    order = w.create("outcome", id_=known)
    o = w.call("GetRequestOutcome", user_id=w.user("outcome"), request_id=known)
    equal((o.state, o.order_id, o.version), (pb.RequestOutcome.APPLIED, order.order_id, 1))
    equal(w.call("GetRequestOutcome", user_id=w.user("outcome"), request_id=late).state, pb.RequestOutcome.NOT_APPLIED)
    refused(lambda: w.create("outcome", id_=late), "FAILED_PRECONDITION", "REQUEST_FENCED")


@step("import")
def _(w):
    requests = [retail(w.user("import"), i, [("pay", "PAID"), ("ship", "SHIPPED")][:i % 3]) for i in range(40)]
    requests[11] = retail(w.user("import"), 11, [("deliver", "DELIVERED")])
    for imported, there in ((39, 0), (0, 39)):
        answer = w.call("ImportOrders", requests)
        equal((answer.imported, answer.already_there, answer.rejected_count, answer.rejected[0].client_order_no), (imported, there, 1, "old-11"))
    equal(dict(w.call("ListOrders", user_id=w.user("import")).status_counts), {"PENDING_PAYMENT": 14, "PAID": 13, "SHIPPED": 12})


@step("unknown method")
def _(w):
    f = g.failure_of(lambda: w.client.channel.unary_unary("/orderdb.v1.OrderService/Nothing")(b"", timeout=10))
    equal((f.code_name, f.reason), ("UNIMPLEMENTED", "METHOD_UNKNOWN"))


@step("deadline")
def _(w):
    watch = g.watch(w.client, "", timeout=0.3)
    next(watch)
    equal(g.failure_of(lambda: next(watch)).code_name, "DEADLINE_EXCEEDED")
    for _ in range(10):
        true(g.failure_of(lambda: w.call("GetOrder", order_id=1 << 60, timeout=0.001)).code_name in ("DEADLINE_EXCEEDED", "NOT_FOUND"))
    equal(w.call("ListOrders", user_id=w.user("deadline")).total_size, 0)


@step("cancel")
def _(w):
    futures = [w.client.stub("ListOrders").future(pb.ListOrdersRequest(user_id=w.user("pages")), timeout=20) for _ in range(50)]
    cancelled = [f.cancel() for f in futures[::2]]
    equal([f.result().total_size for f in futures[1::2]], [25] * 25)
    equal([f.code().name for f, c in zip(futures[::2], cancelled) if c], ["CANCELLED"] * sum(cancelled))
    gate = threading.Event()

    def half():
        yield retail(w.user("cancel"), 1, [])
        gate.wait(20)
    stream = w.client.stub("ImportOrders").future(half(), timeout=20)
    t.until(lambda: w.call("ListOrders", user_id=w.user("cancel")).total_size == 1, what="the first of the stream")
    stream.cancel(), gate.set()
    equal(g.failure_of(stream.result).code_name if not stream.cancelled() else "CANCELLED", "CANCELLED")
    equal(w.call("ListOrders", user_id=w.user("cancel")).total_size, 1)


@step("large")
def _(w):
    order = t.order(user_id=w.user("large"), item_count=500, extension=os.urandom(600000))
    for item in order.items:
        item.title = "t" * 512
    for _ in range(3):
        created = w.call("CreateOrder", t.create_request(order)).order
    equal((created.items, created.extension), (order.items, order.extension))
    page = w.call("ListOrders", user_id=w.user("large"), read=pb.ReadOptions(view=pb.ORDER_VIEW_FULL))
    equal([(o.items, o.extension) for o in page.orders], [(order.items, order.extension)] * 3)


@step("too large")
def _(w):
    request = t.create_request(user_id=w.user("too-large"), extension=b"x" * (4 << 20))
    refused(lambda: w.call("CreateOrder", request), "RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")
    w.create("too-large")


@step("many at once")
def _(w):
    futures = [w.client.stub("CreateOrder").future(t.create_request(user_id=w.user("many-%d" % (i % 7))), timeout=30 * t.SLOW) for i in range(200)]
    equal(len({f.result().order.order_id for f in futures}), 200)


def gets_nowhere(client):
    try:
        f = g.failure_of(lambda: client.call("GetTopology", timeout=10))
        equal(f.code_name, "UNAVAILABLE")
    finally:
        client.close()


@step("wrong CA", modes=("tls", "mtls"))
def _(w):
    gets_nowhere(w.connect(w.mode, w.address, ca="other-ca.pem"))


@step("no certificate", modes=("mtls",))
def _(w):
    gets_nowhere(w.connect(w.mode, w.address, certificate=False))


@step("drain and restart")
def _(w):
    before, user, gate = w.create("drain"), w.user("drain-import"), threading.Event()
    watch = g.watch(w.client, "orderdb.v1.OrderService")
    equal(next(watch).status, g.SERVING)

    def slowly():
        for i in range(10):
            if i == 5:
                gate.wait(30)
            yield retail(user, i, [])
    stream = w.client.stub("ImportOrders").future(slowly(), timeout=60 * t.SLOW)
    t.until(lambda: w.call("ListOrders", user_id=user).total_size == 5, what="half of the stream")
    print("want restart %s" % w.mode, flush=True)
    equal(next(watch).status, g.NOT_SERVING)
    f = g.failure_of(lambda: next(watch))
    equal((f.code_name, f.reason), ("UNAVAILABLE", "DRAINING"))
    request = t.create_request(user_id=w.user("drain"))
    waiting = w.client.stub("CreateOrder").future(request, timeout=60 * t.SLOW)
    gate.set()
    equal(stream.result().imported, 10)
    order = waiting.result().order
    again = w.call("CreateOrder", request, timeout=60)
    equal((again.replayed, again.order), (True, order))
    equal([o.order_id for o in w.call("ListOrders", user_id=w.user("drain")).orders], [order.order_id, before.order_id])
    equal(w.call("ListOrders", user_id=user).total_size, 10)


def main():
    bad = 0
    for mode, address in (a.split("=") for a in sys.argv[2:]):
        w = World(mode, address)
        for name, modes, function in STEPS:
            if mode not in modes:
                continue
            try:
                function(w)
                print("ok %s: %s" % (mode, name), flush=True)
            except Exception as e:  # noqa: B902
                bad += 1
                line = e.__traceback__.tb_next.tb_lineno
                print("not ok %s: %s\n#   line %d: %s: %s" % (mode, name, line, type(e).__name__, str(e).replace("\n", "\n#   ")), flush=True)
        w.client.close()
    sys.exit(bad > 0)


main()
