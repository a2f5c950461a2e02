#!/usr/bin/python3
"""Rate limits, with stock grpcio: applied while the server runs, kept to on all cores, told with the exact delay, lifted, and there again after kill -9."""
import time

import orderdb_test as t
from orderdb_test import equal, refused, true, until

admin, pb = t.admin_pb2, t.pb


def limit(name, scope, method, per_second, burst):
    return admin.Resource(limit=admin.RateLimit(name=name, scope=scope, method=method, per_second=per_second, burst=burst))


def apply(server, resource, remove=False):
    server.call("ApplyResource", resource=resource, remove=remove)


def is_limited(call, name=None):
    """None: it was let in. Else its delay in ms."""
    try:
        call()
    except t.Failure as f:
        equal((f.code_name, f.reason), ("RESOURCE_EXHAUSTED", "RATE_LIMITED"))
        true(name is None or f.metadata["limit"] == name, "limited by %s" % f.metadata)
        true(f.retry_delay_s > 0, "no delay")
        equal(int(f.trailers["grpc-retry-pushback-ms"]), round(f.retry_delay_s * 1000))
        return round(f.retry_delay_s * 1000)
    return None


def creates(server, user):
    return lambda: server.call("CreateOrder", t.create_request(user_id=user))


def lists(server, user):
    return lambda: server.call("ListOrders", user_id=user)


def limited_after(call, most):
    """How many are let in before the first that is not; a rate of 0.001 gives nothing back while the test runs."""
    for n in range(most):
        if is_limited(call) is not None:
            return n
    return most


@t.test("a user's limit: exact, others go on, lifted it is gone, and it survives kill -9")
def _(server):
    resource = limit("per-user", "user", "OrderService/CreateOrder", 0.001, 3)
    apply(server, resource)
    until(lambda: is_limited(creates(server, "alice"), "per-user") is not None)
    delay = is_limited(creates(server, "alice"))
    true(0 < delay <= 1000 * 1000, "one token takes 1000 s, not %d ms" % delay)
    for user in ("bob", "carol", "dave"):
        equal(limited_after(creates(server, user), 10), 3)
    equal(is_limited(lists(server, "alice")), None)  # another method
    server.kill()
    server.start()
    equal(limited_after(creates(server, "bob"), 10), 3)  # in force before the first client is let in; its buckets begin full
    true(is_limited(creates(server, "bob")) is not None, "let in")
    apply(server, resource, remove=True)
    until(lambda: is_limited(creates(server, "bob")) is None)
    server.restart()
    equal(limited_after(creates(server, "bob"), 10), 10)


@t.test("the delay is exact: after it the call passes")
def _(server):
    apply(server, limit("two-a-second", "user", "OrderService/ListOrders", 2, 1))
    until(lambda: is_limited(lists(server, "erin")) is not None)
    for _ in range(3):
        delay = is_limited(lists(server, "erin"))
        if delay is None:  # a slow machine: the token was back
            delay = is_limited(lists(server, "erin"))
        if delay is None:
            continue
        true(delay <= 500, "a token takes 500 ms, not %d" % delay)
        time.sleep(delay / 1000)
        equal(is_limited(lists(server, "erin")), None)
    apply(server, limit("two-a-second", "user", "", 2, 1), remove=True)
    until(lambda: limited_after(lists(server, "erin"), 20) == 20)


@t.test("a limit of the node: one bucket for all cores and connections, operators are not meant")
def _(server):
    apply(server, limit("node", "global", "OrderService/GetOrder", 0.001, 40))
    def ask():
        try:
            server.call("GetOrder", order_id=1)
        except t.Failure as f:
            return f.reason
        return ""
    until(lambda: ask() == "RATE_LIMITED")
    apply(server, limit("node", "global", "OrderService/GetOrder", 0.001, 50))  # changed: full again
    until(lambda: ask() == "ORDER_NOT_FOUND")
    seen = [ask() for _ in range(100)]
    true(seen.count("ORDER_NOT_FOUND") <= 49, "%d of 49 let in" % seen.count("ORDER_NOT_FOUND"))
    equal(seen[-1], "RATE_LIMITED")
    equal(len(server.call("GetTopology").partitions), 4)
    true(server.metrics()["orderdb_rate_limited_total"] > 0, "not counted")
    apply(server, limit("node", "global", "", 1, 1), remove=True)
    until(lambda: ask() == "ORDER_NOT_FOUND")


@t.test("batches count what is in them; each of another user by itself; a dry run counts")
def _(server):
    apply(server, limit("orders", "user", "", 0.001, 5))
    until(lambda: is_limited(lists(server, "frank")) is not None)
    batch = [t.create_request(user_id="grace") for _ in range(7)] + [t.create_request(user_id="heidi") for _ in range(2)]
    results = server.call("BatchCreateOrders", requests=batch).results
    equal([r.WhichOneof("result") for r in results],
          ["ok"] * 5 + ["error"] * 2 + ["ok"] * 2)
    true("rate limit orders" in results[5].error.message, results[5].error.message)
    refused(lambda: server.call("BatchCreateOrders", requests=[t.create_request(user_id="heidi") for _ in range(4)], atomic=True), "RESOURCE_EXHAUSTED", "RATE_LIMITED")
    equal(limited_after(creates(server, "heidi"), 10), 3)  # the refused batch took none
    def dry():
        r = t.create_request(user_id="ivan")
        r.options.validate_only = True
        server.call("CreateOrder", r)
    equal(limited_after(dry, 10), 5)
    apply(server, limit("orders", "user", "", 1, 1), remove=True)
    until(lambda: is_limited(lists(server, "grace")) is None)


@t.test("a merchant's limit; callers without a certificate are one principal")
def _(server):
    apply(server, limit("shop", "merchant", "OrderService/CreateOrder", 0.001, 2))
    until(lambda: is_limited(creates(server, "judy"), "shop") is not None)
    request = t.create_request(user_id="judy")
    request.order.merchant_id = "another"
    server.call("CreateOrder", request)
    apply(server, limit("shop", "merchant", "", 1, 1), remove=True)
    apply(server, limit("caller", "principal", "OrderService/ListOrders", 0.001, 2))
    until(lambda: is_limited(lists(server, "judy"), "caller") is not None)
    true(is_limited(lists(server, "mallory"), "caller") is not None, "another user of the same principal")
    apply(server, limit("caller", "principal", "", 1, 1), remove=True)
    until(lambda: is_limited(lists(server, "judy")) is None)


@t.test("an import waits for its tokens")
def _(server):
    apply(server, limit("imports", "global", "OrderService/*", 0.001, 1))
    until(lambda: is_limited(lists(server, "kim"), "imports") is not None)
    apply(server, limit("imports", "global", "OrderService/*", 40, 1))
    until(lambda: is_limited(lists(server, "kim")) is None)
    def requests():
        for i in range(30):
            order = t.create_request(user_id="kim").order
            order.client_order_no = "import-%d" % i
            order.create_time.FromSeconds(1700000000 + i)
            yield pb.ImportOrdersRequest(order=order)
    begun = time.monotonic()
    answer = server.call("ImportOrders", requests())
    equal((answer.imported, answer.rejected_count), (30, 0))
    true(time.monotonic() - begun > 0.6, "29 orders wait 25 ms each")
    apply(server, limit("imports", "global", "", 1, 1), remove=True)


@t.test("limits that cannot be kept to are refused")
def _(server):
    def violation(resource, reason="FIELD_INVALID"):
        f = refused(lambda: apply(server, resource), "INVALID_ARGUMENT", reason)
        return f.violations[0][0], f.violations[0][1]
    field, text = violation(limit("x", "user", "OrderService/GetOrder", 1, 1))
    equal(field, "resource.limit.method")
    true("names no user" in text and "ListOrders" in text, text)
    equal(violation(limit("x", "merchant", "OrderService/ListOrders", 1, 1))[0], "resource.limit.method")
    equal(violation(limit("x", "global", "AdminService/*", 1, 1))[0], "resource.limit.method")
    field, text = violation(limit("x", "global", "", 0.001, 10**9))
    equal(field, "resource.limit.burst")
    true("to fill" in text, text)
    for i in range(16):
        apply(server, limit("user-%d" % i, "user", "OrderService/ListOrders", 1000, 1000))
    until(lambda: len(server.call("ListResources", kind="limit").resources) == 16)
    def full():
        try:
            apply(server, limit("one-more", "user", "", 1, 1))
        except t.Failure as f:
            return f.reason == "LIMIT_EXCEEDED" and f.violations[0][0] == "resource.limit"
        apply(server, limit("one-more", "user", "", 1, 1), remove=True)
        return False
    until(full)
    apply(server, limit("user-3", "user", "OrderService/ListOrders", 2000, 1000))  # changing one is no more
    for i in range(16):
        apply(server, limit("user-%d" % i, "user", "", 1, 1), remove=True)


if __name__ == "__main__":
    t.run(cores=2, partitions=4)
