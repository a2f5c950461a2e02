"""A workload that remembers every answer, and the checks that what was acknowledged is there.

Outcomes: OK (acknowledged), REFUSED (typed, no effect), UNKNOWN (cut connection, deadline): settled by sending the same request again with the
same request_id. The rules checked are I1, I2, I3, I8, I9, I22, I24 of the invariants: nothing lost, nothing twice, one answer to a request for ever, nothing
made up, history gapless and chained, counts equal lists, client order numbers unique."""
import hashlib
import random
import struct
import threading
import time

import grpc
import orderdb_test as t

PATHS = {
    "PENDING_PAYMENT": ["pay", "cancel"],
    "PAID": ["ship", "ship_part", "refund_request"],
    "PARTIALLY_SHIPPED": ["ship"],
    "SHIPPED": ["deliver", "confirm"],
    "DELIVERED": ["confirm"],
    "REFUNDING": ["refund"],
}


class Stub:
    """stub.CreateOrder(request, timeout=...) on a channel of its own. What is refused for overload is sent again for as long as timeout says."""

    def __init__(self, client):
        self.client = client
        self.methods = {}

    def __getattr__(self, name):
        methods = self.__dict__["methods"]
        if name not in methods:
            stub = self.__dict__["client"].stub(name)
            methods[name] = lambda request, timeout: t.resent(lambda: stub(request, timeout=timeout), timeout)
        return methods[name]


class Order:
    __slots__ = ("order_id", "user", "version", "status", "client_order_no", "request_ids", "asked")

    def __init__(self, order, request):
        self.order_id = order.order_id
        self.user = order.user_id
        self.version = order.version
        self.status = order.status
        self.client_order_no = order.client_order_no
        self.request_ids = {order.version: request.options.request_id}  # of acknowledged commits
        self.asked = request.order


class Ledger:
    def __init__(self, pb, users=40, seed=1):
        self.pb = pb  # orderdb.v1.order_pb2
        self.users = ["user-%d-%d" % (seed, i) for i in range(users)]
        self.orders = {}  # order_id -> Order
        self.by_user = {u: [] for u in self.users}
        self.unknown = []  # (request, order or None)
        self.answers = []  # (request, order_id, version) of acknowledged ones
        self.issued = set()  # every request_id there is
        self.lock = threading.Lock()
        self.acknowledged = 0
        self.refused = 0
        self.unknown_seen = 0
        self.failures = []  # what the unknown ones failed with
        self.next = 0
        self.seed = seed

    # ---- requests
    def request_id(self):
        with self.lock:
            self.next += 1
            rid = "ledger-%d-%012d" % (self.seed, self.next)
            self.issued.add(rid)
            return rid

    def create_request(self, rng):
        pb = self.pb
        rid = self.request_id()
        r = pb.CreateOrderRequest()
        o = r.order
        o.user_id = rng.choice(self.users)
        o.merchant_id = "m%d" % rng.randrange(50)
        o.client_order_no = "no-" + rid
        total = 0
        for i in range(rng.randrange(1, 4)):
            it = o.items.add()
            it.sku_id = "sku-%d" % rng.randrange(1000)
            it.title = "thing %d" % rng.randrange(1000)
            it.quantity = rng.randrange(1, 5)
            it.unit_price.currency_code = "EUR"
            it.unit_price.minor_units = rng.randrange(1, 100000)
            total += it.quantity * it.unit_price.minor_units
        for m in (o.items_total, o.payable):
            m.currency_code = "EUR"
            m.minor_units = total
        r.options.request_id = rid
        return r

    def transition_request(self, rng, order):
        r = self.pb.TransitionOrderRequest()
        r.order_id = order.order_id
        r.event = rng.choice(PATHS[order.status])
        r.options.request_id = self.request_id()
        return r

    # ---- answers
    def record(self, request, answer):
        with self.lock:
            self.acknowledged += 1
            rid = request.options.request_id
            o = answer.order
            self.answers.append((request, o.order_id, o.version))
            known = self.orders.get(o.order_id)
            if known is None:
                assert o.version == 1, "first answer about %d at version %d" % (o.order_id, o.version)
                known = self.orders[o.order_id] = Order(o, request)
                self.by_user[o.user_id].append(known)
                return known
            old = known.request_ids.setdefault(o.version, rid)
            assert old == rid, "version %d of %d acknowledged to %s and %s" % (o.version, o.order_id, old, rid)
            if o.version > known.version:
                known.version = o.version
                known.status = o.status
            return known

    def send(self, stub, request, order=None, timeout=5, again=False):
        """again: one whose fate is unknown. To be refused for overload says nothing of what became of it the first time."""
        method = stub.CreateOrder if order is None else stub.TransitionOrder
        try:
            return self.record(request, method(request, timeout=timeout))
        except grpc.RpcError as e:
            code = e.code()
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL) or (again and code == grpc.StatusCode.RESOURCE_EXHAUSTED):
                with self.lock:
                    self.unknown_seen += 1
                    self.failures.append("%s %s" % (code.name, e.details()))
                    self.unknown.append((request, order))
            elif code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED):
                with self.lock:
                    self.refused += 1
            else:
                assert code != grpc.StatusCode.NOT_FOUND, "acknowledged order %d is lost" % order.order_id
                raise
            return None

    def load(self, connect, seconds, workers=8, seed=0):
        """Workers send until told to stop; the server may die meanwhile. Returns a stop function."""
        stop = threading.Event()
        errors = []

        def work(n):
            rng = random.Random(seed * 1000 + n)
            stub = connect()
            mine = []
            try:
                while not stop.is_set():
                    if mine and rng.random() < 0.5:
                        order = rng.choice(mine)
                        if order.status not in PATHS:
                            mine.remove(order)
                            continue
                        if self.send(stub, self.transition_request(rng, order), order) is None:
                            mine.remove(order)  # its status is not known now
                    else:
                        order = self.send(stub, self.create_request(rng))
                        if order is None:
                            time.sleep(0.02)
                        else:
                            mine.append(order)
                            if len(mine) > 50:
                                mine.pop(0)
            except Exception as e:  # noqa: a test's thread must not die silently
                errors.append(e)

        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(workers)]
        for thread in threads:
            thread.start()

        def finish():
            stop.set()
            for thread in threads:
                thread.join(30)
            if errors:
                raise errors[0]

        if seconds is None:
            return finish
        time.sleep(seconds)
        finish()
        return None

    # ---- after a fault
    def settle(self, stub):
        """Sends every UNKNOWN request again: it must come to one effect or a typed refusal; and once more: to the same answer."""
        unknown, self.unknown = self.unknown, []
        for request, order in unknown:
            for attempt in range(150):
                before, answered = self.unknown_seen, len(self.answers)
                self.send(stub, request, order, again=True)
                if self.unknown_seen == before:
                    break
                self.unknown.pop()
                time.sleep(0.1)
            else:
                raise AssertionError("request %s never settled" % request.options.request_id)
            if len(self.answers) > answered:
                self.again(stub, *self.answers[-1])

    def again(self, stub, request, order_id, version):
        """An acknowledged request, sent again, gets its first answer."""
        method = stub.TransitionOrder if hasattr(request, "event") else stub.CreateOrder
        try:
            got = method(request, timeout=20)
        except grpc.RpcError as e:
            assert e.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED), "acknowledged request %s is now refused: %s" % (request.options.request_id, e.details())
            raise
        assert (got.order.order_id, got.order.version, got.replayed) == (order_id, version, True), "%s was answered order %d version %d, now order %d version %d%s" % (
            request.options.request_id, order_id, version, got.order.order_id, got.order.version, "" if got.replayed else ", not as a replay")

    def again_some(self, stub, rng, count):
        for request, order_id, version in self.answers[-count:] + rng.sample(self.answers, min(count, len(self.answers))):
            self.again(stub, request, order_id, version)

    def verify(self, stub, users=None, orders=None):
        """Everything (or a sample) against the server. Returns how many orders were compared."""
        pb = self.pb
        compared = 0
        for user in users if users is not None else self.users:
            listed, token = {}, ""
            total = counts = None
            while True:
                page = stub.ListOrders(pb.ListOrdersRequest(user_id=user, page_size=1000, page_token=token), timeout=20)
                total, counts = page.total_size, dict(page.status_counts)
                for o in page.orders:
                    assert o.order_id not in listed, "order %d listed twice" % o.order_id
                    listed[o.order_id] = o
                token = page.next_page_token
                if not token:
                    break
            mine = self.by_user[user]
            missing = [o.order_id for o in mine if o.order_id not in listed]
            assert not missing, "%d acknowledged orders of %s are lost, the first %d" % (len(missing), user, missing[0])
            asked = {request.order.client_order_no for request, order in self.unknown if order is None}
            made_up = {i for i in set(listed) - {o.order_id for o in mine} if listed[i].client_order_no not in asked}
            assert not made_up, "%d orders of %s that nobody asked for: %s" % (len(made_up), user, sorted(made_up)[:3])
            assert total == len(listed), "total_size %d, listed %d" % (total, len(listed))
            by_status = {}
            for o in listed.values():
                by_status[o.status] = by_status.get(o.status, 0) + 1
            assert {k: v for k, v in counts.items() if v} == by_status, "status_counts %s, listed %s" % (counts, by_status)
            for o in mine:
                got = listed[o.order_id]
                assert got.version >= o.version, "order %d is listed at version %d, acknowledged %d" % (o.order_id, got.version, o.version)
                assert got.client_order_no == o.client_order_no
                compared += 1
        for o in orders if orders is not None else list(self.orders.values()):
            self.verify_history(stub, o)
        return compared

    def verify_history(self, stub, order):
        try:
            got = stub.GetOrder(self.pb.GetOrderRequest(order_id=order.order_id), timeout=20)
        except grpc.RpcError as e:
            assert e.code() != grpc.StatusCode.NOT_FOUND, "acknowledged order %d of %s is lost" % (order.order_id, order.user)
            raise
        assert got.version >= order.version, "order %d is at version %d, acknowledged %d" % (order.order_id, got.version, order.version)
        asked = order.asked
        assert list(got.items) == list(asked.items) and got.payable == asked.payable and got.merchant_id == asked.merchant_id, "order %d is not what was asked for" % order.order_id
        h = stub.ListOrderHistory(self.pb.ListOrderHistoryRequest(order_id=order.order_id, page_size=1000), timeout=20).entries
        assert [e.version for e in h] == list(range(1, got.version + 1)), "history of %d: %s" % (order.order_id, [e.version for e in h])
        assert h[-1].to_status == got.status
        previous = bytes(32)
        for i, e in enumerate(h):
            assert i == 0 or e.from_status == h[i - 1].to_status
            previous = chain_hash(previous, order.order_id, e)
            assert previous == e.chain_hash, "chain hash of %d version %d" % (order.order_id, e.version)
        for version, rid in order.request_ids.items():
            assert h[version - 1].request_id == rid, "version %d of %d belongs to %s, acknowledged to %s" % (version, order.order_id, h[version - 1].request_id, rid)
        rids = [e.request_id for e in h if e.request_id]
        assert len(rids) == len(set(rids)), "a request took effect twice on %d" % order.order_id
        assert self.issued.issuperset(rids), "the history of %d names requests that nobody sent: %s" % (order.order_id, sorted(set(rids) - self.issued))


def chain_hash(previous, order_id, e):
    """As docs/API.md says; computed from the public answer alone."""
    us = e.time.seconds * 1000000 + e.time.nanos // 1000
    data = previous + struct.pack(">qqq", order_id, e.version, us)
    for text in (e.event, e.from_status, e.to_status, e.operator, e.reason, e.request_id, e.traceparent):
        raw = text.encode()
        data += struct.pack(">I", len(raw)) + raw
    return hashlib.sha256(data).digest()
