#!/usr/bin/python3
"""A stock grpcio client: batches, updates, patches, dry runs, outcomes. usage: test_grpc_batch.py BUILD [PART OF A NAME]"""
import grpc

import orderdb_test as t
from orderdb_test import METHODS, equal, pb, refused, test, true


def created(server, **fields):
    return server.call("CreateOrder", t.create_request(**fields)).order


# ---- BatchGetOrders
@test("batch get: in the order of the ids, each once, missing ones named, views")
def _(server):
    orders = [created(server, user_id="stock-bg-%d" % (i % 40), item_count=2) for i in range(100)]
    ids = [o.order_id for o in orders]
    asked = ids[::-1] + [ids[0] + 1, ids[3], ids[7] + 5]
    got = server.call("BatchGetOrders", order_ids=asked)
    equal(list(got.orders), orders[::-1])
    equal(list(got.missing_ids), [ids[0] + 1, ids[7] + 5])
    summary = server.call("BatchGetOrders", order_ids=ids[:2], read=pb.ReadOptions(view=pb.ORDER_VIEW_SUMMARY))
    equal([(o.order_id, len(o.items), o.payable) for o in summary.orders], [(o.order_id, 0, o.payable) for o in orders[:2]])
    empty = server.call("BatchGetOrders")
    equal((len(empty.orders), len(empty.missing_ids)), (0, 0))


@test("batch get: too many, malformed, too large")
def _(server):
    f = refused(lambda: server.call("BatchGetOrders", order_ids=[5, 0, -1]), "INVALID_ARGUMENT", "FIELD_INVALID")
    equal([field for field, _ in f.violations], ["order_ids[1]", "order_ids[2]"])
    f = refused(lambda: server.call("BatchGetOrders", order_ids=range(1, 1002)), "INVALID_ARGUMENT", "LIMIT_EXCEEDED")
    equal([field for field, _ in f.violations], ["order_ids"])
    equal(len(server.call("BatchGetOrders", order_ids=range(1 << 40, (1 << 40) + 1000)).missing_ids), 1000)
    ids = []
    for i in range(6):
        big = t.order(user_id="stock-bg-big-%d" % i, extension=b"x" * 900000)
        ids.append(server.call("CreateOrder", t.create_request(big)).order.order_id)
    equal(len(server.call("BatchGetOrders", order_ids=ids[:4]).orders), 4)
    f = refused(lambda: server.call("BatchGetOrders", order_ids=ids), "INVALID_ARGUMENT", "LIMIT_EXCEEDED")
    equal([field for field, _ in f.violations], ["order_ids"])
    equal(len(server.call("BatchGetOrders", order_ids=ids, read=pb.ReadOptions(view=pb.ORDER_VIEW_SUMMARY)).orders), 6)


# ---- BatchCreateOrders, BatchTransitionOrders
def results_of(answer):
    """Each result as its order, or as (code name, reason, metadata, fields)."""
    out = []
    for r in answer.results:
        if r.HasField("ok"):
            out.append(r.ok.order)
            continue
        info = next(t.error_details_pb2.ErrorInfo.FromString(d.value) for d in r.error.details if d.type_url.endswith("ErrorInfo"))
        bad = [t.error_details_pb2.BadRequest.FromString(d.value) for d in r.error.details if d.type_url.endswith("BadRequest")]
        equal(info.domain, "orderdb")
        true(r.error.code and r.error.message, "a status with code and message")
        out.append((info.reason, dict(info.metadata), [v.field for b in bad for v in b.field_violations]))
    return out


@test("batch create: a result for each request, in their order; retried it replays")
def _(server):
    requests = [t.create_request(user_id="stock-bc-%d" % (i % 9), item_count=2, client_order_no="bc-%d" % i) for i in range(120)]
    requests[5].order.items[1].quantity = 0
    requests[50].order.client_order_no = "bc-41"  # of the same user
    requests[60].options.request_id = requests[51].options.request_id
    requests[70].CopyFrom(requests[61])
    first = server.call("BatchCreateOrders", requests=requests)
    results = results_of(first)
    equal(len(results), 120)
    equal(results[5], ("FIELD_INVALID" if results[5][0] == "FIELD_INVALID" else "LIMIT_EXCEEDED", {}, ["order.items[1].quantity"]))
    equal((results[50][0], results[50][1]["order_id"]), ("CLIENT_ORDER_NO_TAKEN", str(results[41].order_id)))
    equal((results[60][0], results[60][1]["order_id"]), ("IDEMPOTENCY_KEY_REUSED", str(results[51].order_id)))
    equal((results[70], first.results[70].ok.replayed), (results[61], True))
    good = [i for i in range(120) if i not in (5, 50, 60)]
    for i in good:
        equal((results[i].user_id, results[i].client_order_no, results[i].status), (requests[i].order.user_id, requests[i].order.client_order_no, "PENDING_PAYMENT"))
        equal(results[i].items, requests[i].order.items)
        equal(first.results[i].ok.token.slot, results[i].order_id >> 8 & 16383)
    equal(list(server.call("BatchGetOrders", order_ids=[results[i].order_id for i in good if i != 70]).orders), [results[i] for i in good if i != 70])
    again = server.call("BatchCreateOrders", requests=requests)
    equal(results_of(again)[:5], results[:5])
    true(all(again.results[i].ok.replayed for i in good), "replayed")
    equal([again.results[i].ok.order for i in good], [results[i] for i in good])
    equal(len(server.call("BatchCreateOrders").results), 0)
    f = refused(lambda: server.call("BatchCreateOrders", requests=[requests[0]] * 1001), "INVALID_ARGUMENT", "LIMIT_EXCEEDED")
    equal([field for field, _ in f.violations], ["requests"])


@test("batch create: a thousand, in one call")
def _(server):
    requests = [t.create_request(user_id="stock-bk-%d" % (i % 3)) for i in range(1000)]
    results = results_of(server.call("BatchCreateOrders", requests=requests))
    equal([r.user_id for r in results], [r.order.user_id for r in requests])
    for u in range(3):  # of one user in the order of the request
        ids = [r.order_id for r in results if r.user_id == "stock-bk-%d" % u]
        equal(ids, sorted(ids))


@test("batch create: atomic: all or none, and who refused")
def _(server):
    def batch(user, n=20, **fields):
        return [t.create_request(user_id=user, item_count=2, **fields) for _ in range(n)]
    requests = batch("stock-ba", 200)
    first = server.call("BatchCreateOrders", requests=requests, atomic=True)
    orders = results_of(first)
    equal([o.items for o in orders], [r.order.items for r in requests])
    equal([o.order_id for o in orders], sorted(o.order_id for o in orders))
    equal([r.ok.token.seq for r in first.results], list(range(first.results[0].ok.token.seq, first.results[0].ok.token.seq + 200)))
    server.call("TransitionOrder", t.transition_request(orders[3].order_id, "pay"))
    again = server.call("BatchCreateOrders", requests=requests, atomic=True)
    true(all(r.ok.replayed for r in again.results), "replayed")
    equal(results_of(again), orders)
    equal(list(server.call("BatchGetOrders", order_ids=[o.order_id for o in orders[4:]]).orders), orders[4:])

    def refused_batch(change, *expected):
        requests = batch("stock-bb")
        change(requests)
        f = refused(lambda: server.call("BatchCreateOrders", requests=requests, atomic=True), *expected)
        equal(server.call("ListOrders", user_id="stock-bb").total_size, 0, "nothing is there")
        return f

    def set_machine(requests):
        requests[7].order.machine = "nothing"

    def set_user(requests):
        requests[7].order.user_id = "stock-bc"

    def set_id(requests):
        requests[7].options.request_id = requests[2].options.request_id

    def set_quantity(requests):
        requests[7].order.items[1].quantity = -1
    equal(refused_batch(set_machine, "NOT_FOUND", "MACHINE_NOT_FOUND").metadata["index"], "7")
    equal([x for x, _ in refused_batch(set_user, "INVALID_ARGUMENT", "INVARIANT_VIOLATED").violations], ["requests[7].order.user_id"])
    equal([x for x, _ in refused_batch(set_id, "INVALID_ARGUMENT", "INVARIANT_VIOLATED").violations], ["requests[7].options.request_id"])
    equal([x for x, _ in refused_batch(set_quantity, "INVALID_ARGUMENT", "LIMIT_EXCEEDED").violations], ["requests[7].order.items[1].quantity"])
    mixed = batch("stock-ba")
    mixed[4].CopyFrom(requests[0])
    f = refused(lambda: server.call("BatchCreateOrders", requests=mixed, atomic=True), "FAILED_PRECONDITION", "IDEMPOTENCY_KEY_REUSED")
    equal((f.metadata["index"], f.metadata["order_id"]), ("4", str(orders[0].order_id)))
    equal(server.call("ListOrders", user_id="stock-ba").total_size, 200)
    equal(len(server.call("BatchCreateOrders", atomic=True).results), 0)
    huge = batch("stock-bb", 3)
    for r in huge:
        r.order.extension = b"x" * 900000
    refused(lambda: server.call("BatchCreateOrders", requests=huge, atomic=True), "INVALID_ARGUMENT", "LIMIT_EXCEEDED")
    equal(len(results_of(server.call("BatchCreateOrders", requests=huge[:2], atomic=True))), 2)


@test("batch transition: each on its own, several on one order one after the other")
def _(server):
    orders = [created(server, user_id="stock-bt-%d" % (i % 5)) for i in range(50)]
    requests = [t.transition_request(o.order_id, "pay", operator="op", reason="why") for o in orders]
    requests.append(t.transition_request(orders[0].order_id, "ship"))
    requests.append(t.transition_request(orders[0].order_id, "pay"))
    requests.append(t.transition_request(orders[0].order_id + 1, "pay"))
    requests.append(t.transition_request(0, "pay"))
    answer = server.call("BatchTransitionOrders", requests=requests)
    results = results_of(answer)
    equal([(o.order_id, o.status, o.version) for o in results[:50]], [(o.order_id, "PAID", 2) for o in orders])
    e = answer.results[7].ok.entry
    equal((e.version, e.event, e.from_status, e.to_status, e.operator, e.reason), (2, "pay", "PENDING_PAYMENT", "PAID", "op", "why"))
    equal((results[50].status, results[50].version), ("SHIPPED", 3))
    equal((results[51][0], results[51][1]["status"], results[51][1]["winner_request_id"]), ("STATUS_MISMATCH", "SHIPPED", requests[50].options.request_id))
    equal((results[52][0], results[53][0], results[53][2]), ("ORDER_NOT_FOUND", "FIELD_INVALID", ["order_id"]))
    again = server.call("BatchTransitionOrders", requests=requests)
    true(all(r.ok.replayed for r in again.results[:51]), "replayed")
    equal([r.ok.order for r in again.results[:51]], results[:51])
    equal([r.ok.entry for r in again.results[:51]], [r.ok.entry for r in answer.results[:51]])


@test("batch transition: an answer is never too large: orders are cut down to their share")
def _(server):
    big = [created(server, user_id="stock-bx-%d" % i, extension=b"x" * 900000) for i in range(8)]
    small = created(server, user_id="stock-bx")
    answer = server.call("BatchTransitionOrders", requests=[t.transition_request(o.order_id, "pay") for o in big + [small]])
    orders = results_of(answer)
    equal([(len(o.extension), len(o.items), o.status, o.payable) for o in orders[:8]], [(0, 0, "PAID", big[0].payable)] * 8)
    equal(len(orders[8].items), 1)
    one = server.call("BatchTransitionOrders", requests=[t.transition_request(big[0].order_id, "ship")])
    equal(len(one.results[0].ok.order.extension), 900000)
    text = {"k%d" % i: "v" * 1000 for i in range(60)}
    wide = created(server, user_id="stock-by", attributes=text)
    requests = [t.transition_request(wide.order_id + 1, "pay") for _ in range(999)] + [t.transition_request(wide.order_id, "pay")]
    answer = server.call("BatchTransitionOrders", requests=requests)
    true(answer.ByteSize() <= 4 << 20, "bytes of the answer")
    last = answer.results[999].ok.order
    equal((last.order_id, last.status, last.version, last.machine, len(last.attributes), last.user_id), (wide.order_id, "PAID", 2, "retail@1", 0, ""))


# ---- UpdateOrder
@test("update: named fields change, older answers and older times stay as they were")
def _(server):
    create = t.create_request(user_id="stock-up", item_count=2, attributes={"a": "1", "b": "2"}, address=pb.Address(line="old"))
    order = server.call("CreateOrder", create).order

    def update(*paths, expected_version=0, validate_only=False, **fields):
        return pb.UpdateOrderRequest(order=pb.Order(order_id=order.order_id, **fields), update_mask={"paths": paths}, expected_version=expected_version,
                                     options=pb.WriteOptions(request_id=t.request_id(), operator="op", validate_only=validate_only))
    dry = server.call("UpdateOrder", update("attributes", attributes={"c": "3"}, validate_only=True))
    equal((dict(dry.order.attributes), dry.order.version, dry.HasField("token")), ({"c": "3"}, 2, False))
    equal(server.call("GetOrder", order_id=order.order_id), order)
    first = update("address", "attributes", address=pb.Address(line="new"), attributes={"c": "3"}, order_type="not named")
    answer = server.call("UpdateOrder", first)
    changed = answer.order
    equal((changed.version, changed.status, changed.address.line, dict(changed.attributes), changed.order_type), (2, "PENDING_PAYMENT", "new", {"c": "3"}, order.order_type))
    equal((changed.items, changed.payable, answer.replayed, answer.HasField("token")), (order.items, order.payable, False, True))
    pay = t.transition_request(order.order_id, "pay")
    paid = server.call("TransitionOrder", pay).order
    server.call("UpdateOrder", update("address", expected_version=3))
    now = server.call("GetOrder", order_id=order.order_id)
    equal((now.version, now.status, now.HasField("address"), dict(now.attributes)), (4, "PAID", False, {"c": "3"}))
    again = server.call("UpdateOrder", first)
    equal((again.replayed, again.order, again.token), (True, changed, answer.token))
    equal(server.call("CreateOrder", create).order, order)
    equal(server.call("TransitionOrder", pay).order, paid)
    h = server.call("ListOrderHistory", order_id=order.order_id).entries
    equal([(e.event, e.from_status, e.to_status) for e in h[1:]], [("update", "PENDING_PAYMENT", "PENDING_PAYMENT"), ("pay", "PENDING_PAYMENT", "PAID"), ("update", "PAID", "PAID")])
    for e, was in zip(h, (order, changed, paid, now)):
        equal(server.call("GetOrder", pb.GetOrderRequest(order_id=order.order_id, as_of=e.time)).address, was.address)
    f = refused(lambda: server.call("UpdateOrder", update("address", "status", "payable")), "INVALID_ARGUMENT", "FIELD_INVALID")
    equal([field for field, _ in f.violations], ["update_mask.paths[1]", "update_mask.paths[2]"])
    refused(lambda: server.call("UpdateOrder", update("address", expected_version=2)), "ABORTED", "VERSION_MISMATCH")
    missing = update("address")
    missing.order.order_id += 1
    refused(lambda: server.call("UpdateOrder", missing), "NOT_FOUND", "ORDER_NOT_FOUND")
    dollars = update("payments", payments=[pb.PaymentRef(payment_no="1", amount=pb.Money(currency_code="USD", minor_units=1))])
    refused(lambda: server.call("UpdateOrder", dollars), "INVALID_ARGUMENT", "INVARIANT_VIOLATED")
    outcome = server.call("GetRequestOutcome", user_id="stock-up", request_id=first.options.request_id)
    equal((outcome.state, outcome.order_id, outcome.version), (pb.RequestOutcome.APPLIED, order.order_id, 2))
    lost = update("address")
    equal(server.call("GetRequestOutcome", user_id="stock-up", request_id=lost.options.request_id).state, pb.RequestOutcome.NOT_APPLIED)
    refused(lambda: server.call("UpdateOrder", lost), "FAILED_PRECONDITION", "REQUEST_FENCED")


# ---- TransitionOrder's patch
def patched(order_id, event, *paths, request_id=None, validate_only=False, **fields):
    r = t.transition_request(order_id, event, id_=request_id)
    r.options.validate_only = validate_only
    r.patch.CopyFrom(pb.Order(**fields))
    r.update_mask.paths.extend(paths)
    return r


@test("patch: in the commit of the transition; replays, older versions and older times stay exact")
def _(server):
    create = t.create_request(user_id="stock-pt", item_count=2, attributes={"a": "1"}, address=pb.Address(line="old"), extension=b"old")
    order = server.call("CreateOrder", create).order
    payment = pb.PaymentRef(payment_no="p1", channel="card", amount=order.payable)
    dry = server.call("TransitionOrder", patched(order.order_id, "pay", "payments", payments=[payment], validate_only=True))
    equal((list(dry.order.payments), dry.order.status, dry.order.version, dry.HasField("token")), ([payment], "PAID", 2, False))
    equal(server.call("GetOrder", order_id=order.order_id), order)
    pay = patched(order.order_id, "pay", "payments", "attributes", payments=[payment], attributes={"b": "2"}, order_type="not named")
    answer = server.call("TransitionOrder", pay)
    paid = answer.order
    equal((paid.status, paid.version, list(paid.payments), dict(paid.attributes)), ("PAID", 2, [payment], {"b": "2"}))
    equal((paid.items, paid.address, paid.extension, paid.order_type), (order.items, order.address, order.extension, order.order_type))
    equal((answer.entry.event, answer.entry.version, answer.replayed, answer.token.seq > 0), ("pay", 2, False, True))
    ship = patched(order.order_id, "ship", "shipments", "extension", shipments=[pb.ShipmentRef(tracking_no="n1", sku_ids=["sku-0"])])
    shipped = server.call("TransitionOrder", ship).order
    equal((shipped.status, shipped.version, shipped.shipments[0].tracking_no, shipped.extension), ("SHIPPED", 3, "n1", b""))
    equal(list(shipped.payments), [payment])
    delivered = server.call("TransitionOrder", t.transition_request(order.order_id, "deliver")).order
    equal((delivered.version, delivered.shipments), (4, shipped.shipments))
    again = server.call("TransitionOrder", pay)
    equal((again.replayed, again.order, again.entry, again.token), (True, paid, answer.entry, answer.token))
    equal(server.call("TransitionOrder", ship).order, shipped)
    equal(server.call("CreateOrder", create).order, order)
    h = server.call("ListOrderHistory", order_id=order.order_id).entries
    equal([(e.version, e.event) for e in h], [(1, "create"), (2, "pay"), (3, "ship"), (4, "deliver")])
    for e, was in zip(h, (order, paid, shipped, delivered)):
        equal(server.call("GetOrder", pb.GetOrderRequest(order_id=order.order_id, as_of=e.time)), was)
    other = patched(order.order_id, "pay", "payments", "attributes", payments=[payment], attributes={"b": "3"}, request_id=pay.options.request_id)
    refused(lambda: server.call("TransitionOrder", other), "FAILED_PRECONDITION", "IDEMPOTENCY_KEY_REUSED")
    outcome = server.call("GetRequestOutcome", user_id="stock-pt", request_id=pay.options.request_id)
    equal((outcome.state, outcome.version), (pb.RequestOutcome.APPLIED, 2))


@test("patch: of racing callers the winner's alone is there")
def _(server):
    for i in range(15):
        order = created(server, user_id="stock-pr-%d" % i, extension=b"none")
        racers = [patched(order.order_id, "pay", "extension", extension=b"racer %d" % k) for k in range(6)]
        calls = [server.client.stub("TransitionOrder").future(r, timeout=20 * t.SLOW) for r in racers]
        won, lost = [], 0
        for k, c in enumerate(calls):
            try:
                won.append((k, c.result().order))
            except grpc.RpcError as e:
                f = t.Failure(e)
                equal((f.reason, f.metadata["already_there"]), ("STATUS_MISMATCH", "true"))
                lost += 1
        equal((len(won), lost), (1, 5))
        now = server.call("GetOrder", order_id=order.order_id)
        equal((now, now.extension, now.version), (won[0][1], b"racer %d" % won[0][0], 2))
        entry = server.call("ListOrderHistory", order_id=order.order_id).entries[-1]
        equal(entry.request_id, racers[won[0][0]].options.request_id)


@test("patch: in batches; the answer to each shows the version that it made")
def _(server):
    orders = [created(server, user_id="stock-pb-%d" % (i % 5), extension=b"old") for i in range(20)]
    requests = [patched(o.order_id, "pay", "extension", extension=b"paid") for o in orders]
    requests += [patched(o.order_id, "ship", "extension", "address", extension=b"shipped", address=pb.Address(line="new")) for o in orders[:10]]
    requests += [patched(orders[0].order_id, "pay", "extension", extension=b"too late"), patched(orders[1].order_id, "deliver", "payable")]
    answer = server.call("BatchTransitionOrders", requests=requests)
    results = results_of(answer)
    equal([(o.status, o.version, o.extension) for o in results[:20]], [("PAID", 2, b"paid")] * 20)
    equal([(o.status, o.version, o.extension, o.address.line) for o in results[20:30]], [("SHIPPED", 3, b"shipped", "new")] * 10)
    equal((results[30][0], results[31][0], results[31][2]), ("STATUS_MISMATCH", "FIELD_INVALID", ["update_mask.paths[0]"]))
    again = server.call("BatchTransitionOrders", requests=requests)
    true(all(r.ok.replayed for r in again.results[:30]), "replayed")
    equal(results_of(again)[:30], results[:30])


# ---- validate_only
@test("validate_only: the answer that would be, the refusals that would be, and nothing changes")
def _(server):
    create = t.create_request(user_id="stock-vo", item_count=2, client_order_no="vo")
    create.options.validate_only = True
    for _ in range(2):
        answer = server.call("CreateOrder", create)
        equal((answer.order.order_id, answer.order.status, answer.order.version, answer.replayed), (0, "PENDING_PAYMENT", 1, False))
        equal((answer.order.items, answer.order.machine), (create.order.items, "retail@1"))
        true(not answer.HasField("token"), "no token")
    equal(server.call("ListOrders", user_id="stock-vo").total_size, 0)
    create.options.validate_only = False
    order = server.call("CreateOrder", create).order  # the id is not used up
    create.options.validate_only = True
    answer = server.call("CreateOrder", create)
    equal((answer.replayed, answer.order), (True, order))
    again = t.create_request(user_id="stock-vo", client_order_no="vo")
    again.options.validate_only = True
    equal(refused(lambda: server.call("CreateOrder", again), "ALREADY_EXISTS", "CLIENT_ORDER_NO_TAKEN").metadata["order_id"], str(order.order_id))
    again.order.items[0].quantity = 0
    refused(lambda: server.call("CreateOrder", again), "INVALID_ARGUMENT")

    pay, ship = (t.transition_request(order.order_id, e) for e in ("pay", "ship"))
    pay.options.validate_only = ship.options.validate_only = True
    answer = server.call("TransitionOrder", pay)
    equal((answer.order.order_id, answer.order.status, answer.order.version), (order.order_id, "PAID", 2))
    equal((answer.entry.event, answer.entry.version, answer.HasField("token")), ("pay", 2, False))
    refused(lambda: server.call("TransitionOrder", ship), "FAILED_PRECONDITION", "STATUS_MISMATCH")
    pay.expected_version = 9
    refused(lambda: server.call("TransitionOrder", pay), "ABORTED", "VERSION_MISMATCH")
    equal(server.call("GetOrder", order_id=order.order_id), order)
    equal(len(server.call("ListOrderHistory", order_id=order.order_id).entries), 1)


@test("validate_only: in batches, each on its own; atomic, all together")
def _(server):
    requests = [t.create_request(user_id="stock-vb") for _ in range(30)]
    for r in requests[::2]:
        r.options.validate_only = True
    f = refused(lambda: server.call("BatchCreateOrders", requests=requests, atomic=True), "INVALID_ARGUMENT", "INVARIANT_VIOLATED")
    equal(f.violations[0][0], "requests[1].options.validate_only")
    answer = server.call("BatchCreateOrders", requests=requests)
    equal([r.ok.order.order_id == 0 for r in answer.results], [True, False] * 15)
    equal([r.ok.HasField("token") for r in answer.results], [False, True] * 15)
    equal(server.call("ListOrders", user_id="stock-vb").total_size, 15)
    dry = [t.create_request(user_id="stock-vb") for _ in range(30)]
    for r in dry:
        r.options.validate_only = True
    answer = server.call("BatchCreateOrders", requests=dry, atomic=True)
    equal([(r.ok.order.order_id, r.ok.order.status, r.ok.order.items) for r in answer.results], [(0, "PENDING_PAYMENT", r.order.items) for r in dry])
    dry[3].order.machine = "nothing"
    equal(refused(lambda: server.call("BatchCreateOrders", requests=dry, atomic=True), "NOT_FOUND", "MACHINE_NOT_FOUND").metadata["index"], "3")
    equal(server.call("ListOrders", user_id="stock-vb").total_size, 15)
    pay = t.transition_request(answer.results[0].ok.order.order_id or requests[1].order.order_id or 1, "pay")
    pay.options.validate_only = True
    equal(results_of(server.call("BatchTransitionOrders", requests=[pay]))[0][0], "ORDER_NOT_FOUND")


# ---- GetRequestOutcome
@test("outcome: APPLIED with order and version; NOT_APPLIED is final")
def _(server):
    create = t.create_request(user_id="stock-ro")
    order = server.call("CreateOrder", create).order
    pay = t.transition_request(order.order_id, "pay")
    server.call("TransitionOrder", pay)

    def outcome(request_id, user="stock-ro"):
        o = server.call("GetRequestOutcome", user_id=user, request_id=request_id)
        return pb.RequestOutcome.State.Name(o.state), o.order_id, o.version
    equal(outcome(create.options.request_id), ("APPLIED", order.order_id, 1))
    equal(outcome(pay.options.request_id), ("APPLIED", order.order_id, 2))
    late = t.create_request(user_id="stock-ro")
    equal(outcome(late.options.request_id), ("NOT_APPLIED", 0, 0))
    equal(outcome(late.options.request_id), ("NOT_APPLIED", 0, 0))
    refused(lambda: server.call("CreateOrder", late), "FAILED_PRECONDITION", "REQUEST_FENCED")
    ship = t.transition_request(order.order_id, "ship")
    equal(outcome(ship.options.request_id), ("NOT_APPLIED", 0, 0))
    refused(lambda: server.call("TransitionOrder", ship), "FAILED_PRECONDITION", "REQUEST_FENCED")
    equal(server.call("GetOrder", order_id=order.order_id).status, "PAID")
    equal(server.call("ListOrders", user_id="stock-ro").total_size, 1)
    f = refused(lambda: server.call("GetRequestOutcome"), "INVALID_ARGUMENT", "FIELD_INVALID")
    equal([field for field, _ in f.violations], ["user_id", "request_id"])


@test("outcome: races with its write; what it says stays true")
def _(server):
    for i in range(30):
        create = t.create_request(user_id="stock-rr-%d" % i)
        writing = server.client.stub("CreateOrder").future(create, timeout=20 * t.SLOW)
        o = server.call("GetRequestOutcome", user_id="stock-rr-%d" % i, request_id=create.options.request_id)
        try:
            written = writing.result().order.order_id
        except grpc.RpcError as e:
            equal(t.Failure(e).reason, "REQUEST_FENCED")
            written = 0
        equal((o.state == pb.RequestOutcome.APPLIED, o.order_id), (written != 0, written))
        equal(server.call("ListOrders", user_id="stock-rr-%d" % i).total_size, int(written != 0))


if __name__ == "__main__":
    t.run(cores=2, partitions=4)  # ops travel
