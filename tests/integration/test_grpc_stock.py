#!/usr/bin/python3
"""A stock gRPC client (Debian's python3-grpcio) drives every method of the contract: those that are built for real, the others must say so."""
import threading
import time

import grpc

import orderdb_test as t
from orderdb_test import METHODS, equal, pb, refused, test, true

PATH_TO_DELIVERED = [("pay", "PAID"), ("ship", "SHIPPED"), ("deliver", "DELIVERED"), ("confirm", "COMPLETED")]


def created(server, **fields):
    return server.call("CreateOrder", t.create_request(**fields)).order


# ---- CreateOrder
@test("create: answers the order with id, status, version, times, token")
def _(server):
    before = time.time()
    request = t.create_request(user_id="stock-1", item_count=3, client_order_no="no-1", attributes={"channel": "app", "城市": "北京"},
                               address=pb.Address(recipient="张三", phone="1", region_code="110000", line="x"))
    answer = server.call("CreateOrder", request)
    order = answer.order
    true(order.order_id > 0, "order_id")
    equal((order.status, order.version, order.machine, order.user_id), ("PENDING_PAYMENT", 1, "retail@1", "stock-1"))
    true(before - 1 <= t.seconds_of(order.create_time) <= time.time() + 1, "create_time")
    equal(order.items, request.order.items)
    equal(dict(order.attributes), {"channel": "app", "城市": "北京"})
    equal(order.address.recipient, "张三")
    equal(answer.replayed, False)
    true(answer.token.seq >= 1 and 0 <= answer.token.slot < 16384, "token")
    equal(answer.token.slot, order.order_id >> 8 & 16383, "slot in the id")


@test("create: the same request_id answers the first answer, replayed")
def _(server):
    request = t.create_request(user_id="stock-2")
    first, second = server.call("CreateOrder", request), server.call("CreateOrder", request)
    equal((first.replayed, second.replayed), (False, True))
    equal(first.order, second.order)
    equal(first.token, second.token)
    equal(server.call("ListOrders", user_id="stock-2").total_size, 1)


@test("create: the same request_id with another request is IDEMPOTENCY_KEY_REUSED")
def _(server):
    id_ = t.request_id()
    order = server.call("CreateOrder", t.create_request(id_=id_, user_id="stock-3")).order
    f = refused(lambda: server.call("CreateOrder", t.create_request(id_=id_, user_id="stock-3", price=5)), "FAILED_PRECONDITION", "IDEMPOTENCY_KEY_REUSED")
    true(str(order.order_id) in f.metadata.values(), "first order id in %s" % f.metadata)


@test("create: a client_order_no is taken once")
def _(server):
    order = created(server, user_id="stock-4", client_order_no="A")
    f = refused(lambda: created(server, user_id="stock-4", client_order_no="A"), "ALREADY_EXISTS", "CLIENT_ORDER_NO_TAKEN")
    true(str(order.order_id) in f.metadata.values(), "first order id in %s" % f.metadata)
    created(server, user_id="stock-4-other", client_order_no="A")


@test("create: every violation is named with its path")
def _(server):
    order = t.order(user_id="stock-5", item_count=2)
    order.items[1].quantity = 0
    order.items[0].title = "x" * 513
    f = refused(lambda: server.call("CreateOrder", t.create_request(order)), "INVALID_ARGUMENT")
    fields = [field for field, _ in f.violations]
    true(any("items[1].quantity" in x for x in fields) and any("items[0].title" in x for x in fields), "violations %s" % f.violations)
    true(any("512" in d and "513" in d for _, d in f.violations), "limit and actual in %s" % f.violations)
    equal(server.call("ListOrders", user_id="stock-5").total_size, 0, "nothing refused changes anything")


@test("create: sums, currencies, ids are checked")
def _(server):
    wrong_sum = t.order(user_id="stock-6")
    wrong_sum.payable.minor_units += 1
    refused(lambda: server.call("CreateOrder", t.create_request(wrong_sum)), "INVALID_ARGUMENT", "INVARIANT_VIOLATED")
    mixed = t.order(user_id="stock-6")
    mixed.freight.currency_code = "USD"
    refused(lambda: server.call("CreateOrder", t.create_request(mixed)), "INVALID_ARGUMENT")
    refused(lambda: created(server, user_id="stock-6", currency="ABC"), "INVALID_ARGUMENT")
    refused(lambda: created(server, user_id=""), "INVALID_ARGUMENT")
    refused(lambda: created(server, user_id="u" * 65), "INVALID_ARGUMENT")
    refused(lambda: server.call("CreateOrder", t.create_request(id_="short", user_id="stock-6")), "INVALID_ARGUMENT")
    refused(lambda: server.call("CreateOrder", pb.CreateOrderRequest()), "INVALID_ARGUMENT")
    equal(server.call("ListOrders", user_id="stock-6").total_size, 0)


@test("create: bytes that are no message are refused")
def _(server):
    raw = server.client.channel.unary_unary(METHODS["CreateOrder"].path, request_serializer=bytes, response_deserializer=bytes)

    def send(bytes_):
        try:
            return raw(bytes_, timeout=10)
        except grpc.RpcError as e:
            raise t.Failure(e) from None
    for junk in (b"\xff" * 20, b"\x0a\x05abc", b"\x0a" * 5000, bytes([0x0a, 0x04, 0x12, 0x02, 0xc3, 0x28])):  # the last: bad UTF-8 in user_id
        refused(lambda: send(junk), "INVALID_ARGUMENT")
    refused(lambda: send(b"\0" * (4 << 20 | 1)), "RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")


# ---- GetOrder
@test("get: full, summary, missing, malformed")
def _(server):
    order = created(server, user_id="stock-7", item_count=2)
    got = server.call("GetOrder", order_id=order.order_id)
    equal(got, order)
    summary = server.call("GetOrder", order_id=order.order_id, read=pb.ReadOptions(view=pb.ORDER_VIEW_SUMMARY))
    equal((len(summary.items), summary.status, summary.payable), (0, order.status, order.payable))
    refused(lambda: server.call("GetOrder", order_id=order.order_id + 1), "NOT_FOUND", "ORDER_NOT_FOUND")
    refused(lambda: server.call("GetOrder", order_id=0), "INVALID_ARGUMENT")
    refused(lambda: server.call("GetOrder", order_id=-5), "INVALID_ARGUMENT")


@test("get: as of a time: status, version, update time as they were then")
def _(server):
    answer = server.call("ImportOrders", [import_request("stock-as-of", "as-of", PATH_TO_DELIVERED)])
    equal(answer.imported, 1)
    order = server.call("ListOrders", user_id="stock-as-of").orders[0]

    def then(seconds, **fields):
        return server.call("GetOrder", order_id=order.order_id, as_of=t.timestamp(seconds), **fields)
    start = 1700000000
    refused(lambda: then(start - 1), "NOT_FOUND", "ORDER_NOT_FOUND")
    states = [("PENDING_PAYMENT", 1)] + [(to, v) for v, (_, to) in enumerate(PATH_TO_DELIVERED, 2)]
    for i, (status, version) in enumerate(states):
        for after in (0, 1, 3599):
            got = then(start + 3600 * i + after)
            equal((got.status, got.version, t.seconds_of(got.update_time), t.seconds_of(got.create_time)), (status, version, start + 3600 * i, start))
            equal(len(got.items), 1)
    equal(then(time.time() + 1e6), server.call("GetOrder", order_id=order.order_id))
    equal(len(then(start, read=pb.ReadOptions(view=pb.ORDER_VIEW_SUMMARY)).items), 0)
    request = pb.GetOrderRequest(order_id=order.order_id)
    request.as_of.nanos = -1
    f = refused(lambda: server.call("GetOrder", request), "INVALID_ARGUMENT", "FIELD_INVALID")
    equal([field for field, _ in f.violations], ["as_of"])


@test("get: a read with the commit token of a write sees it")
def _(server):
    answer = server.call("CreateOrder", t.create_request(user_id="stock-8"))
    got = server.call("GetOrder", order_id=answer.order.order_id, read=pb.ReadOptions(at_least=answer.token))
    equal(got.order_id, answer.order.order_id)


# ---- TransitionOrder
@test("transition: the whole way, each answer with its history entry")
def _(server):
    order = created(server, user_id="stock-9")
    status = order.status
    for version, (event, to) in enumerate(PATH_TO_DELIVERED, 2):
        answer = server.call("TransitionOrder", t.transition_request(order.order_id, event, operator="op-1", reason="because"))
        equal((answer.order.status, answer.order.version, answer.replayed), (to, version, False))
        e = answer.entry
        equal((e.version, e.event, e.from_status, e.to_status, e.operator, e.reason), (version, event, status, to, "op-1", "because"))
        status = to
    refused(lambda: server.call("TransitionOrder", t.transition_request(order.order_id, "pay")), "FAILED_PRECONDITION", "STATUS_MISMATCH")


@test("transition: by target, where one edge alone leads there")
def _(server):
    order = created(server, user_id="stock-10")
    request = pb.TransitionOrderRequest(order_id=order.order_id, to_status="PAID", options=pb.WriteOptions(request_id=t.request_id()))
    equal(server.call("TransitionOrder", request).entry.event, "pay")


@test("transition: replay answers the first answer, also when the order has moved on")
def _(server):
    order = created(server, user_id="stock-11")
    pay = t.transition_request(order.order_id, "pay")
    first = server.call("TransitionOrder", pay)
    server.call("TransitionOrder", t.transition_request(order.order_id, "ship"))
    again = server.call("TransitionOrder", pay)
    equal((again.replayed, again.order.status, again.order.version, again.entry), (True, "PAID", 2, first.entry))
    equal(server.call("GetOrder", order_id=order.order_id).status, "SHIPPED")


@test("transition: STATUS_MISMATCH tells status, version and the winner")
def _(server):
    order = created(server, user_id="stock-12")
    pay = t.transition_request(order.order_id, "pay")
    server.call("TransitionOrder", pay)
    f = refused(lambda: server.call("TransitionOrder", t.transition_request(order.order_id, "pay")), "FAILED_PRECONDITION", "STATUS_MISMATCH")
    equal((f.metadata.get("status"), f.metadata.get("version"), f.metadata.get("winner_request_id")), ("PAID", "2", pay.options.request_id))


@test("transition: expected statuses and version, unknown events, unknown orders")
def _(server):
    order = created(server, user_id="stock-13")
    call = server.call
    refused(lambda: call("TransitionOrder", t.transition_request(order.order_id, "pay", expected_statuses=["SHIPPED"])), "FAILED_PRECONDITION", "STATUS_MISMATCH")
    refused(lambda: call("TransitionOrder", t.transition_request(order.order_id, "pay", expected_version=7)), "ABORTED", "VERSION_MISMATCH")
    refused(lambda: call("TransitionOrder", t.transition_request(order.order_id, "fly")), "FAILED_PRECONDITION", "EDGE_NOT_DEFINED")
    refused(lambda: call("TransitionOrder", t.transition_request(order.order_id + 1, "pay")), "NOT_FOUND", "ORDER_NOT_FOUND")
    refused(lambda: call("TransitionOrder", t.transition_request(0, "pay")), "INVALID_ARGUMENT")
    equal(call("GetOrder", order_id=order.order_id).version, 1, "nothing refused changes anything")
    call("TransitionOrder", t.transition_request(order.order_id, "pay", expected_statuses=["PENDING_PAYMENT"], expected_version=1))


@test("transition: of racing callers one wins")
def _(server):
    order = created(server, user_id="stock-14")
    results = []

    def race():
        try:
            results.append(server.call("TransitionOrder", t.transition_request(order.order_id, "pay")).order.status)
        except t.Failure as f:
            results.append(f.reason)
    threads = [threading.Thread(target=race) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal(sorted(results), ["PAID"] + ["STATUS_MISMATCH"] * 15)


# ---- ListOrders, ListOrderHistory
@test("list: newest first, counts, statuses, tokens, page numbers")
def _(server):
    ids = [created(server, user_id="stock-15").order_id for _ in range(25)]
    for i in ids[::5]:
        server.call("TransitionOrder", t.transition_request(i, "pay"))
    page = server.call("ListOrders", user_id="stock-15", page_size=10)
    equal([o.order_id for o in page.orders], sorted(ids, reverse=True)[:10])
    equal((page.total_size, dict(page.status_counts)), (25, {"PENDING_PAYMENT": 20, "PAID": 5}))
    walked, token = [], ""
    while True:
        page = server.call("ListOrders", user_id="stock-15", page_size=7, page_token=token)
        walked += [o.order_id for o in page.orders]
        token = page.next_page_token
        if not token:
            break
    equal(walked, sorted(ids, reverse=True))
    page = server.call("ListOrders", user_id="stock-15", page_size=10, page_number=3)
    equal([o.order_id for o in page.orders], sorted(ids, reverse=True)[20:])
    paid = server.call("ListOrders", user_id="stock-15", statuses=["PAID"])
    equal(([o.order_id for o in paid.orders], paid.total_size), (sorted(ids[::5], reverse=True), 5))
    equal(server.call("ListOrders", user_id="nobody").total_size, 0)


@test("list: forged tokens and negative sizes are typed refusals")
def _(server):
    created(server, user_id="stock-16"), created(server, user_id="stock-16")
    token = server.call("ListOrders", user_id="stock-16", page_size=1).next_page_token
    forged = token[:-2] + ("AA" if token[-2:] != "AA" else "BB")
    refused(lambda: server.call("ListOrders", user_id="stock-16", page_size=1, page_token=forged), "INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
    refused(lambda: server.call("ListOrders", user_id="stock-15", page_size=1, page_token=token), "INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
    refused(lambda: server.call("ListOrders", user_id="stock-16", page_token="not a token"), "INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
    refused(lambda: server.call("ListOrders", user_id="stock-16", page_size=-1), "INVALID_ARGUMENT")
    refused(lambda: server.call("ListOrders", user_id="stock-16", page_number=-1), "INVALID_ARGUMENT")
    refused(lambda: server.call("ListOrders"), "INVALID_ARGUMENT")


@test("history: gapless, oldest first, a chain of hashes")
def _(server):
    order = created(server, user_id="stock-17")
    for event, _ in PATH_TO_DELIVERED:
        server.call("TransitionOrder", t.transition_request(order.order_id, event), metadata=[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")])
    h = server.call("ListOrderHistory", order_id=order.order_id).entries
    equal([e.version for e in h], [1, 2, 3, 4, 5])
    equal([e.event for e in h], ["create", "pay", "ship", "deliver", "confirm"])
    equal([e.from_status for e in h][1:], [e.to_status for e in h][:-1])
    true(len({bytes(e.chain_hash) for e in h}) == 5 and all(len(e.chain_hash) >= 16 for e in h), "chain hashes")
    equal(h[1].traceparent, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    walked, token = [], ""
    while True:
        page = server.call("ListOrderHistory", order_id=order.order_id, page_size=2, page_token=token)
        walked += page.entries
        token = page.next_page_token
        if not token:
            break
    equal(walked, list(h))
    refused(lambda: server.call("ListOrderHistory", order_id=order.order_id + 1), "NOT_FOUND", "ORDER_NOT_FOUND")


# ---- ImportOrders
def import_request(user, number, events, start=1700000000):
    at, status, history = start, "PENDING_PAYMENT", []
    history.append(pb.HistoryEntry(version=1, event="create", to_status=status, time=t.timestamp(at)))
    for event, to in events:
        at += 3600
        history.append(pb.HistoryEntry(version=len(history) + 1, event=event, from_status=status, to_status=to, time=t.timestamp(at)))
        status = to
    order = t.order(user_id=user, client_order_no="import-%s" % number, status=status, create_time=t.timestamp(start), update_time=t.timestamp(at))
    return pb.ImportOrdersRequest(order=order, history=history)


@test("import: with history and original times, twice changes nothing, rejections are named")
def _(server):
    requests = [import_request("stock-18-%d" % (i % 7), i, PATH_TO_DELIVERED[:i % 5], 1700000000 + i) for i in range(300)]
    requests.insert(100, import_request("stock-18-0", "bad", [("deliver", "DELIVERED")]))
    for expected in ((300, 0), (0, 300)):
        answer = server.call("ImportOrders", requests)
        equal((answer.imported, answer.already_there, answer.rejected_count), (*expected, 1), str(answer)[:300])
        equal([r.client_order_no for r in answer.rejected], ["import-bad"])
        true(answer.rejected[0].error.code == 3 and answer.rejected[0].error.message, "the rejection's status")
    total = sum(server.call("ListOrders", user_id="stock-18-%d" % u).total_size for u in range(7))
    equal(total, 300)
    order = next(o for o in server.call("ListOrders", user_id="stock-18-4", page_size=100).orders if o.client_order_no == "import-4")
    equal((order.status, t.seconds_of(order.create_time)), ("COMPLETED", 1700000004.0))
    h = server.call("ListOrderHistory", order_id=order.order_id).entries
    equal([t.seconds_of(e.time) for e in h], [1700000004.0 + 3600 * i for i in range(5)])


@test("import: a name too long to be shown whole is cut between characters")
def _(server):
    answer = server.call("ImportOrders", [import_request("stock-18-long", "号" * 60, []), import_request("stock-18-long", "after", [])])
    equal((answer.imported, answer.rejected_count), (1, 1), str(answer)[:300])
    equal(answer.rejected[0].client_order_no, "import-" + "号" * 40)


@test("import: large orders are taken as memory allows")
def _():
    base = import_request("stock-18-large", "large-00000", [])
    for k in range(300):
        base.order.items.add(sku_id="s%d" % k, title="t" * 500, quantity=1, unit_price=t.money(0), attributes={"k%d" % j: "v" for j in range(20)})
    raw, answers = base.SerializeToString(), []

    def load(server, n):
        client = server.new_client()
        send = client.channel.stream_unary("/orderdb.v1.OrderService/ImportOrders", request_serializer=lambda b: b, response_deserializer=pb.ImportOrdersResponse.FromString)
        try:
            answers.append(send((raw.replace(b"large-00000", b"large-%05d" % (n * 100 + i)) for i in range(30)), timeout=60 * t.SLOW).imported)
        except grpc.RpcError as e:
            answers.append(e.details())
        client.close()

    with t.Server(cores=1, partitions=1, memory_budget="256MiB") as server:
        threads = [threading.Thread(target=load, args=(server, n)) for n in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        equal(answers, [30] * 8)


@test("batch get, topology: of a node of many partitions")
def _():
    with t.Server(cores=1, partitions=160, wait_s=300) as server:  # each partition's store is made with some twenty syncs, one after the other
        ids = [created(server, user_id="many-%d" % i).order_id for i in range(400)]
        slots = len({(i >> 8 & 16383) * 160 // 16384 for i in ids})
        true(slots > 120, "%d partitions" % slots)
        orders = server.call("BatchGetOrders", order_ids=ids).orders
        equal([o.order_id for o in orders], ids)
        equal(len(server.call("GetTopology").partitions), 160)


@test("import: an empty stream")
def _(server):
    answer = server.call("ImportOrders", [])
    equal((answer.imported, answer.already_there, answer.rejected_count), (0, 0, 0))


# ---- AdminService
@test("topology: this node, all slots once")
def _(server):
    topology = server.call("GetTopology")
    equal(len(topology.nodes), 1)
    equal(topology.nodes[0].client_address, server.address)
    ranges = sorted((r.first, r.last) for p in topology.partitions for r in p.slots)
    equal((ranges[0][0], ranges[-1][1]), (0, 16383))
    true(all(a[1] + 1 == b[0] for a, b in zip(ranges, ranges[1:])), "ranges %s" % ranges)
    true(sum(p.orders for p in topology.partitions) > 0, "orders")


# ---- what is not built yet, and what is not there
def not_built(name):
    @test("%s: UNIMPLEMENTED, NOT_BUILT_YET" % name)
    def _(server):
        f = refused(lambda: server.call(name), "UNIMPLEMENTED", "NOT_BUILT_YET")
        m = METHODS[name]
        equal(f.message, "%s/%s is not built yet" % (m.service, m.name))


for _name, _method in METHODS.items():
    if not _method.built:
        not_built(_name)


@test("an unknown method: UNIMPLEMENTED, METHOD_UNKNOWN")
def _(server):
    def call():
        try:
            server.client.channel.unary_unary("/orderdb.v1.OrderService/Nothing", request_serializer=bytes, response_deserializer=bytes)(b"", timeout=10)
        except grpc.RpcError as e:
            raise t.Failure(e) from None
    equal(refused(call, "UNIMPLEMENTED", "METHOD_UNKNOWN").message, "no method /orderdb.v1.OrderService/Nothing")


# ---- the transport
@test("compression is refused with what would be accepted")
def _(server):
    stub = server.client.stub("GetOrder")
    try:
        stub(pb.GetOrderRequest(order_id=1 << 40), timeout=10, compression=grpc.Compression.Gzip)
    except grpc.RpcError as e:
        equal(e.code(), grpc.StatusCode.UNIMPLEMENTED)
        return
    t.skip("this client sent it uncompressed")


@test("a deadline that is over at once is DEADLINE_EXCEEDED, and the server goes on")
def _(server):
    for _ in range(20):
        try:
            server.client.stub("CreateOrder")(t.create_request(user_id="stock-19"), timeout=0.0001)
        except grpc.RpcError as e:
            equal(e.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
    created(server, user_id="stock-19")


@test("cancelled calls leave nothing behind")
def _(server):
    futures = [server.client.stub("ListOrders").future(pb.ListOrdersRequest(user_id="stock-15"), timeout=10) for _ in range(50)]
    for f in futures[::2]:
        f.cancel()
    for f in futures[1::2]:
        equal(f.result().total_size, 25)
    t.until(lambda: server.metrics().get("orderdb_calls_in_flight") == 0, what="no call in flight")


@test("200 calls at once on one connection, and 20 connections")
def _(server):
    stub = server.client.stub("CreateOrder")
    futures = [stub.future(t.create_request(user_id="stock-20-%d" % (i % 10)), timeout=30 * t.SLOW) for i in range(200)]
    equal(len({f.result().order.order_id for f in futures}), 200)
    clients = [server.new_client() for _ in range(20)]
    for i, c in enumerate(clients):
        equal(c.call("ListOrders", user_id="stock-20-%d" % (i % 10)).total_size, 20)
        c.close()


@test("an answer of 1 MiB and more comes whole")
def _(server):
    big = t.order(user_id="stock-21", item_count=500, attributes={"k%d" % i: "v" * 900 for i in range(60)})
    for item in big.items:
        item.title = "t" * 512
    order = server.call("CreateOrder", t.create_request(big)).order
    equal(server.call("GetOrder", order_id=order.order_id).items, big.items)
    for _ in range(3):
        server.call("CreateOrder", t.create_request(big))
    page = server.call("ListOrders", user_id="stock-21", read=pb.ReadOptions(view=pb.ORDER_VIEW_FULL))
    equal((len(page.orders), page.orders[0].items), (4, big.items))


@test("SIGTERM: GOAWAY, the call in flight finishes, exit 0; all is there after a restart")
def _(server):
    ids = [created(server, user_id="stock-22").order_id for _ in range(10)]
    stream = [import_request("stock-22-i", i, PATH_TO_DELIVERED[:3]) for i in range(50)]
    gate = threading.Event()
    answers = []

    def slowly():
        for r in stream[:25]:
            yield r
        gate.wait(10)
        for r in stream[25:]:
            yield r

    def send():
        try:
            answers.append(server.call("ImportOrders", slowly()))
        except t.Failure as f:
            answers.append(f)
    sender = threading.Thread(target=send)
    sender.start()
    t.until(lambda: server.call("ListOrders", user_id="stock-22-i").total_size == 25, what="half of the import")
    stopper = threading.Thread(target=lambda: answers.append(server.stop()))
    stopper.start()
    time.sleep(1)
    gate.set()
    sender.join(20)
    stopper.join(20)
    true(0 in answers, "exit code in %s" % answers)
    imported = [a for a in answers if not isinstance(a, int)]
    true(imported and (isinstance(imported[0], t.Failure) and imported[0].code_name == "UNAVAILABLE" or imported[0].imported == 50), str(imported))
    server.start()
    equal([o.order_id for o in server.call("ListOrders", user_id="stock-22").orders], sorted(ids, reverse=True))


if __name__ == "__main__":
    t.run(cores=2, partitions=4, queue_target="5s")  # ops travel; nothing is shed, however slow the disk is
