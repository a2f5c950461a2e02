"""What clients of a cluster did and were told, call by call, and whether a single copy of each order could have told it (linearizability).

A sort is enough where others search. A write of an order makes its next version, so versions order its writes completely, and its history names the request that made each. Put an order's
calls in the order (version; the write that made it first; then reads by their start). That is a legal run of one copy: each read shows what the write before it left, for a version's
status is compared with the history. It is also one that respects time, unless for some A that ended before B began B stands in front of A: then B's version is lower than A's, or they are equal
and B is the write. So the check is: the highest version among calls that ended before B began is at most B's, and below it if B is a write. That takes in reads of the future (A read what
B, later, wrote). A write without an answer that the history names has no end; one that it does not name was never done. Orders are independent, so each by itself is all (Herlihy, Wing: locality).

A list of a user's orders is a read of each; an order that was created before the list began must be in it."""
import bisect
import collections
import random
import threading
import time

import orderdb_test as t
from orderdb_test import pb

OK, REFUSED, UNKNOWN = "OK", "REFUSED", "UNKNOWN"
FOREVER = float("inf")
LOST = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN", "INTERNAL")  # codes that tell nothing about what was done
NEXT = {"PENDING_PAYMENT": ["pay"], "PAID": ["ship"], "SHIPPED": ["deliver", "confirm"], "DELIVERED": ["confirm"]}


class Wrong(AssertionError):
    pass


class Call:
    """kind: create, write, read, list. start, end: monotonic seconds, from the first attempt to the answer that counts. seen: of a list, {order_id: (version, status)}."""
    __slots__ = ("kind", "request_id", "order_id", "user", "start", "end", "outcome", "version", "status", "seen", "where")

    def __init__(self, kind, start=0, end=FOREVER, outcome=UNKNOWN, request_id="", order_id=0, user="", version=0, status="", seen=None, where=""):
        self.kind, self.request_id, self.order_id, self.user, self.start, self.end = kind, request_id, order_id, user, start, end
        self.outcome, self.version, self.status, self.seen, self.where = outcome, version, status, seen, where

    def __str__(self):
        return "%s of order %s version %s %s by %s, %.4f to %.4f at %s" % (self.kind, self.order_id, self.version, self.status, self.request_id or "-", self.start, self.end, self.where)


def demand(condition, text, *about):
    if not condition:
        raise Wrong(text + "".join("\n    " + str(a) for a in about))


def check_order(order_id, calls, entries):
    """calls: everything about this order. entries: [(request_id, status)] of its history, oldest first."""
    made = {}
    for i, (request_id, _) in enumerate(entries):
        if not request_id:  # a timer's doing
            continue
        demand(request_id not in made, "order %d: request %s took effect twice" % (order_id, request_id))
        made[request_id] = i + 1
    issued = {c.request_id: c for c in calls if c.kind in ("create", "write")}
    for request_id in made:
        demand(request_id in issued, "order %d: its history names a request that nobody sent: %s" % (order_id, request_id))
    points = []  # (call, version, whether it is the write)
    for c in calls:
        if c.kind in ("create", "write"):
            version = made.get(c.request_id)
            demand(c.outcome != OK or version is not None, "order %d: an acknowledged write is lost" % order_id, c)
            demand(c.outcome != OK or version == c.version, "order %d: acknowledged as version %d, its history has it as %s" % (order_id, c.version, version), c)
            demand(c.outcome != REFUSED or version is None, "order %d: refused, and done all the same" % order_id, c)
            if version is not None:
                points.append((c, version, True))
        elif c.outcome == OK:
            points.append((c, c.version, False))
        if c.outcome == OK:
            demand(1 <= c.version <= len(entries), "order %d: a version that its history does not have" % order_id, c)
            demand(c.status == entries[c.version - 1][1], "order %d: version %d is %s in its history" % (order_id, c.version, entries[c.version - 1][1]), c)
    ended = sorted((p for p in points if p[0].end < FOREVER), key=lambda p: p[0].end)
    ends, highest = [p[0].end for p in ended], []
    for p in ended:
        highest.append(p if not highest or p[1] > highest[-1][1] else highest[-1])
    for call, version, writes in points:
        before = bisect.bisect_left(ends, call.start)
        if before:
            earlier, floor, _ = highest[before - 1]
            demand(version > floor if writes else version >= floor, "order %d: a call that ended before another began knew more than it" % order_id, earlier, call)


def check(calls, histories):
    """histories: {order_id: [(request_id, status)]} of all orders that there are, of these calls' users. Raises Wrong."""
    about, created = collections.defaultdict(list), collections.defaultdict(list)
    orders_of = {}
    for order_id, entries in histories.items():
        for request_id, _ in entries:
            demand(not request_id or orders_of.get(request_id, order_id) == order_id, "request %s is in the histories of two orders" % request_id)
            orders_of[request_id] = order_id
    for c in calls:
        if c.kind == "list":
            for order_id, (version, status) in (c.seen or {}).items():
                about[order_id].append(Call("read", c.start, c.end, OK, order_id=order_id, version=version, status=status, where="a list at " + c.where))
            continue
        order_id = c.order_id or (c.request_id and orders_of.get(c.request_id)) or 0
        demand(c.outcome != OK or c.order_id in histories, "an acknowledged order is lost", c)
        if c.kind == "create" and c.outcome == OK:
            created[c.user].append(c)
        about[order_id].append(c)
    for c in about.pop(0, []):
        demand(c.outcome != OK, "an acknowledged request is in no history", c)
    for order_id, of_it in about.items():
        demand(order_id in histories, "an order was shown that nobody has", *of_it[:1])
        check_order(order_id, of_it, histories[order_id])
    for order_id in histories:
        demand(order_id in about, "order %d is there and nobody created it" % order_id)
    for c in calls:
        if c.kind == "list" and c.outcome == OK:
            for made in created[c.user]:
                demand(made.end >= c.start or made.order_id in c.seen, "a list lacks an order that was acknowledged before it began", made, c)


class Load:
    """Workers that write, read and list a few orders through all nodes, each on a node until that fails it, retrying with the same request_id. Their calls: self.calls."""

    def __init__(self, addresses, name, workers=6, attempt_s=1.5, pause_s=0.002, users=8):
        self.addresses, self.name, self.attempt_s, self.pause_s = addresses, name, attempt_s, pause_s
        self.users = ["%s-%d" % (name, i) for i in range(users)]
        self.calls, self.open, self.pool, self.errors = [], [], [], []
        self.lock, self.stopping = threading.Lock(), threading.Event()
        self.acked_at, self.pauses = time.monotonic(), [0.0]  # between acknowledged writes, the longest of each worker's
        self.threads = [threading.Thread(target=self._work, args=(i,), daemon=True) for i in range(workers)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        t.until(lambda: self.errors or len(self.pool) > 3, 30, "load runs")
        return self

    def __exit__(self, kind, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join(60 * t.SLOW)
        if kind is None and self.errors:
            raise self.errors[0]

    def acknowledged(self):
        return sum(1 for c in list(self.calls) if c.outcome == OK and c.kind in ("create", "write"))

    def goes_on(self, count=20, wait_s=30):
        """So many more writes are acknowledged."""
        n = self.acknowledged()
        t.until(lambda: self.errors or self.acknowledged() >= n + count, wait_s, "load goes on")

    def _work(self, n):
        rng, clients, at = random.Random("%s %d" % (self.name, n)), {}, n
        try:
            while not self.stopping.is_set():
                method, request, call = self._draw(rng)
                at = self._run(clients, at, method, request, call)
                self.stopping.wait(self.pause_s)
        except BaseException as e:  # noqa: a test's thread must not die silently
            self.errors.append(e)
        for c in clients.values():
            c.close()

    def _draw(self, rng):
        what, user = rng.random(), rng.choice(self.users)
        if what < 0.12 or not self.pool:
            request = t.create_request(user_id=user)
            return "CreateOrder", request, Call("create", request_id=request.options.request_id, user=user)
        order_id, user, status = rng.choice(self.pool[-12:])
        if what < 0.32 and status in NEXT:
            request = t.transition_request(order_id, rng.choice(NEXT[status]))
            return "TransitionOrder", request, Call("write", request_id=request.options.request_id, order_id=order_id)
        if what < 0.55:
            id_ = t.request_id()
            request = pb.UpdateOrderRequest(order=pb.Order(order_id=order_id, attributes={"by": id_}), update_mask={"paths": ["attributes"]}, options=pb.WriteOptions(request_id=id_))
            return "UpdateOrder", request, Call("write", request_id=id_, order_id=order_id)
        if what < 0.93:
            return "GetOrder", pb.GetOrderRequest(order_id=order_id), Call("read", order_id=order_id)
        return "ListOrders", pb.ListOrdersRequest(user_id=user, page_size=1000), Call("list", user=user)

    def _run(self, clients, at, method, request, call):
        """Until it is answered, or three nodes were asked in vain. Answers which node to go on with."""
        call.start = time.monotonic()
        with self.lock:
            self.calls.append(call)
        for _ in range(3):
            address = self.addresses[at % len(self.addresses)]
            if address not in clients:
                clients[address] = t.Client(address, [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 300)])
            if self._try(clients[address], address, method, request, call, self.attempt_s):
                return at
            at += 1
            self.stopping.wait(0.03)  # a client that backs off
        if call.kind in ("create", "write"):
            with self.lock:
                self.open.append((method, request, call))
        return at

    def _try(self, client, address, method, request, call, timeout):
        """Whether it is answered for good."""
        try:
            answer = client.call(method, request, timeout=timeout, resend=False)
        except t.Failure as f:
            if f.code_name in LOST or f.code_name == "RESOURCE_EXHAUSTED":
                if f.code_name == "RESOURCE_EXHAUSTED":
                    self.stopping.wait(0.02)
                return False
            demand(f.code_name in ("FAILED_PRECONDITION", "ABORTED") and call.kind == "write", "refused with %s" % f, call)
            call.end, call.outcome, call.where = time.monotonic(), REFUSED, address
            return True
        call.end, call.where = time.monotonic(), address
        if call.kind == "list":
            call.seen = {o.order_id: (o.version, o.status) for o in answer.orders}
        else:
            o = answer if call.kind == "read" else answer.order
            call.order_id, call.version, call.status = o.order_id, o.version, o.status
            with self.lock:
                if call.kind == "create":
                    self.pool.append((o.order_id, o.user_id, o.status))
                else:
                    self.pool[:] = [(i, u, o.status if i == o.order_id else s) for i, u, s in self.pool[-40:]]
        call.outcome = OK
        return True

    def settle(self, client, address):
        """What had no answer is sent again, until it has one: done once, or refused."""
        for method, request, call in self.open:
            t.until(lambda: self._try(client, address, method, request, call, 5), 30, "request %s is settled" % call.request_id)
        self.open.clear()
