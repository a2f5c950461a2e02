#!/usr/bin/python3
"""ApplyResource and ListResources, with stock grpcio: rate limits and status machines, dry runs, restarts, refusals."""
import os

import orderdb_test as t
from orderdb_test import equal, refused, true

admin = t.admin_pb2


def limit(name, per_second=5.0, burst=10, scope="global", method=""):
    return admin.Resource(limit=admin.RateLimit(name=name, scope=scope, method=method, per_second=per_second, burst=burst))


def names(server, kind="", page_size=0):
    got, token = [], ""
    while True:
        answer = server.call("ListResources", kind=kind, page_size=page_size, page_token=token)
        for r in answer.resources:
            got.append("%s@%d" % (r.machine.name, r.machine.version) if r.WhichOneof("kind") == "machine" else r.limit.name)
        token = answer.next_page_token
        if not token:
            return got


# ---- limits
@t.test("limit: applied, changed, unchanged, removed; a dry run changes nothing")
def _(server):
    dry = server.call("ApplyResource", resource=limit("checkout"), dry_run=True)
    equal(list(dry.effects), ["limit checkout would be created"])
    equal(names(server, "limit"), [])
    equal(list(server.call("ApplyResource", resource=limit("checkout")).effects), ["limit checkout created"])
    equal(list(server.call("ApplyResource", resource=limit("checkout")).effects), ["limit checkout unchanged"])
    answer = server.call("ApplyResource", resource=limit("checkout", burst=20))
    equal(list(answer.effects), ["limit checkout changed"])
    equal(answer.resource, limit("checkout", burst=20))
    equal(server.call("ListResources", kind="limit").resources[0], limit("checkout", burst=20))
    equal(list(server.call("ApplyResource", resource=limit("checkout"), remove=True, dry_run=True).effects), ["limit checkout would be removed"])
    equal(list(server.call("ApplyResource", resource=limit("checkout"), remove=True).effects), ["limit checkout removed"])
    equal(refused(lambda: server.call("ApplyResource", resource=limit("checkout"), remove=True), "NOT_FOUND", "RESOURCE_NOT_FOUND").metadata,
          {"kind": "limit", "name": "checkout"})


@t.test("limit: survives kill -9; pages")
def _(server):
    for i in range(7):
        server.call("ApplyResource", resource=limit("page-%d" % i))
    server.kill()
    server.start()
    equal(names(server, "limit", 3), ["page-%d" % i for i in range(7)])
    equal(names(server, "", 2), ["retail@1"] + ["page-%d" % i for i in range(7)])
    for i in range(7):
        server.call("ApplyResource", resource=limit("page-%d" % i), remove=True)
    server.restart()
    equal(names(server, "limit"), [])


@t.test("refusals name the field; kinds that are not built yet say so; the meta partition is no partition of the map")
def _(server):
    f = refused(lambda: server.call("ApplyResource"), "INVALID_ARGUMENT", "FIELD_INVALID")
    equal([v[0] for v in f.violations], ["resource"])
    f = refused(lambda: server.call("ApplyResource", resource=limit("a b", per_second=0, scope="all", burst=0)), "INVALID_ARGUMENT", "FIELD_INVALID")
    equal([v[0] for v in f.violations], ["resource.limit." + x for x in ("name", "scope", "per_second", "burst")])
    refused(lambda: server.call("ApplyResource", resource=admin.Resource(role=admin.Role(name="x"))), "UNIMPLEMENTED", "NOT_BUILT_YET")
    refused(lambda: server.call("ListResources", kind="role"), "UNIMPLEMENTED", "NOT_BUILT_YET")
    equal(refused(lambda: server.call("ListResources", kind="x"), "INVALID_ARGUMENT", "FIELD_INVALID").violations[0][0], "kind")
    refused(lambda: server.call("ListResources", page_token="abc"), "INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
    refused(lambda: server.call("ListResources", page_size=1001), "INVALID_ARGUMENT", "LIMIT_EXCEEDED")
    equal([p.partition_id for p in server.call("GetTopology").partitions], [0, 1, 2, 3])


# ---- machines
SHOP = """
name: shop
states:
  - {name: OPEN, initial: true, timers: [{timer_id: late, after: 30m, event: expire}]}
  - {name: PAID}
  - {name: SENT, terminal: true}
  - {name: EXPIRED, terminal: true}
edges:
  - {event: pay, from: [OPEN], to: PAID}
  - {event: send, from: [PAID], to: SENT}
  - {event: expire, from: [OPEN], to: EXPIRED}
"""


def file(server, text, name="machine.yaml"):
    path = os.path.join(server.directory, name)
    with open(path, "w") as f:
        f.write(text)
    return path


def create(server, machine, n):
    """An order of each of n users: of every partition."""
    return [server.call("CreateOrder", t.create_request(user_id="m-%s-%d" % (machine, i), order_=t.order(user_id="m-%s-%d" % (machine, i), machine=machine))).order for i in range(n)]


@t.test("machine: apply, create, transition; kill -9: all partitions still have it, orders keep their version")
def _(server):
    path = file(server, SHOP)
    equal(server.orderctl("machine", "check", path).stdout, "machine shop@1 would be created\n")
    equal(server.orderctl("machine", "apply", path, "--dry-run").stdout, "machine shop@1 would be created\n")
    refused(lambda: create(server, "shop", 1), "NOT_FOUND", "MACHINE_NOT_FOUND")
    equal(server.orderctl("machine", "apply", path).stdout, "machine shop@1 created\n")
    orders = create(server, "shop", 16)
    equal({o.machine for o in orders}, {"shop@1"})
    equal({o.status for o in orders}, {"OPEN"})
    for o in orders[:8]:
        equal(server.call("TransitionOrder", t.transition_request(o.order_id, "pay")).order.status, "PAID")
    refused(lambda: server.call("TransitionOrder", t.transition_request(orders[0].order_id, "ship")), "FAILED_PRECONDITION", "EDGE_NOT_DEFINED")
    equal(server.orderctl("machine", "apply", path).stdout, "machine shop@1 unchanged\n")
    server.kill()
    server.start()
    equal({server.call("GetOrder", order_id=o.order_id).status for o in orders}, {"OPEN", "PAID"})
    equal(server.call("TransitionOrder", t.transition_request(orders[0].order_id, "send")).order.status, "SENT")
    server.orderctl("machine", "apply", file(server, SHOP.replace("send", "dispatch")))
    equal({o.machine for o in create(server, "shop", 16)}, {"shop@2"})
    equal({o.machine for o in create(server, "shop@1", 4)}, {"shop@1"})
    equal(server.call("TransitionOrder", t.transition_request(orders[1].order_id, "send")).order.machine, "shop@1")
    equal(names(server, "machine"), ["retail@1", "shop@1", "shop@2"])
    server.restart()
    equal(names(server, "machine"), ["retail@1", "shop@1", "shop@2"])
    equal(server.call("ListOrders", user_id="m-shop-0", statuses=["SENT", "OPEN"]).total_size, 2)


@t.test("machine: events that the server has for itself are refused, by the file's check, a dry run and apply alike, naming field and word")
def _(server):
    for word in ("create", "import", "update", "set_timer", "cancel_timer", "timer_fired"):
        path = file(server, SHOP.replace("shop", "reserved").replace("send", word))
        for how in (["check"], ["apply", "--dry-run"], ["apply"]):
            p = server.orderctl("machine", how[0], path, *how[1:], check=False)
            equal((p.returncode, p.stdout), (1, ""))
            true("INVALID_ARGUMENT FIELD_INVALID" in p.stderr and "resource.machine.edges[1].event" in p.stderr and '"%s" is reserved' % word in p.stderr, p.stderr)
    true("reserved@1" not in names(server, "machine"))


@t.test("machine: what show prints can be applied again, as YAML and as JSON")
def _(server):
    for output in ("yaml", "json"):
        path = file(server, server.orderctl("machine", "show", "retail@1", "-o", output).stdout, "retail." + output)
        equal(server.orderctl("machine", "apply", path).stdout, "machine retail@1 unchanged\n")
    table = server.orderctl("machine", "show", "retail").stdout
    true(all(len(line) <= 80 for line in table.splitlines()), table)
    true("auto_confirm" in table and "15d" in table, table)
    true("retail@1" in server.orderctl("machine", "list").stdout)
    equal(server.orderctl("machine", "show", "retail@9", check=False).returncode, 1)


@t.test("machine: versions never change, and refused files say where")
def _(server):
    server.orderctl("machine", "apply", file(server, SHOP.replace("name: shop", "name: fixed\nversion: 1")))
    f = refused(lambda: server.call("ApplyResource", resource=admin.Resource(machine=admin.StatusMachine(
        name="fixed", version=1, states=[admin.StatusMachine.State(name="A", initial=True, terminal=True)]))), "FAILED_PRECONDITION", "MACHINE_VERSION_CONFLICT")
    equal(f.metadata, {"machine": "fixed", "version": "1", "newest_version": "1"})
    for text, code, says in (
            (SHOP.replace("30m", "soon"), 2, ":4: states[0].timers[0].after: not a duration"), (SHOP.replace("to: SENT", "too: SENT"), 2, ":10: edges[1].too: no such field"),
            (SHOP.replace("to: SENT", "to: NOWHERE"), 1, "NOWHERE"), (SHOP.replace("initial: true, ", ""), 1, "0 initial states"), ("name: [", 2, ":2: "), ("", 2, "empty"), ("MACHINE  STATES\nshop@1        3\n", 2, "a status machine in YAML or JSON"),
            (SHOP.replace("event: send", "event: send, roles: [clerk]"), 1, "not built yet"), (SHOP + "name: again\n", 2, ":12: name: is given twice")):
        done = server.orderctl("machine", "apply", file(server, text), check=False)
        equal(done.returncode, code, done.stderr)
        true(says in done.stderr, done.stderr)
    equal(server.orderctl("machine", "apply", "/nothing/there.yaml", check=False).returncode, 2)
    done = server.orderctl("resource", "remove", "machine", "fixed", check=False)
    true(done.returncode == 1 and "not removed" in done.stderr, done.stderr)
    true("fixed@2" not in names(server, "machine"))


@t.test("machine: check counts the live orders that a new version would leave behind")
def _(server):
    server.orderctl("machine", "apply", file(server, SHOP.replace("name: shop", "name: left")))
    orders = create(server, "left", 20)
    for o in orders[:5]:
        server.call("TransitionOrder", t.transition_request(o.order_id, "pay"))
    server.call("TransitionOrder", t.transition_request(orders[0].order_id, "send"))
    without_paid = SHOP.replace("name: shop", "name: left").replace("  - {name: PAID}\n", "").replace("  - {event: send, from: [PAID], to: SENT}\n", "").replace("to: PAID", "to: SENT")
    path = file(server, without_paid)
    equal(server.orderctl("machine", "check", path).stdout.splitlines(),
          ["machine left@2 would be created", "4 orders of left@1 in PAID keep that version: version 2 has no such status"])
    equal(names(server, "machine").count("left@2"), 0)
    ended = file(server, without_paid.replace("name: EXPIRED", "name: PAID").replace("to: EXPIRED", "to: PAID").replace("name: OPEN", "name: NEW").replace("[OPEN]", "[NEW]"), "ended.yaml")
    equal(sorted(server.orderctl("machine", "check", ended).stdout.splitlines()[1:]),
          ["15 orders of left@1 in OPEN keep that version: version 2 has no such status", "4 orders of left@1 in PAID keep that version: version 2 ends there"])
    equal(server.orderctl("machine", "apply", path).stdout.splitlines(),
          ["machine left@2 created", "4 orders of left@1 in PAID keep that version: version 2 has no such status"])
    equal(server.call("TransitionOrder", t.transition_request(orders[1].order_id, "send")).order.status, "SENT")  # pinned: nothing breaks


@t.test("orderctl resource: limits from a file")
def _(server):
    path = file(server, "limit: {name: cli, scope: user, method: OrderService/CreateOrder, per_second: 1000000, burst: 1000000}\n")
    equal(server.orderctl("resource", "apply", path, "--dry-run").stdout, "limit cli would be created\n")
    equal(server.orderctl("resource", "apply", path).stdout, "limit cli created\n")
    true("OrderService/CreateOrder" in server.orderctl("resource", "list", "limit").stdout)
    equal(server.orderctl_json("resource", "list", "limit")[0]["limit"]["name"], "cli")
    equal(server.orderctl("resource", "remove", "limit", "cli").stdout, "limit cli removed\n")
    equal(server.orderctl("resource", "remove", "limit", "cli", check=False).returncode, 1)
    equal(server.orderctl("resource", "remove", "index", "x", check=False).returncode, 2)


if __name__ == "__main__":
    t.run(cores=2, partitions=4)  # the meta partition is another core's for half of the calls
