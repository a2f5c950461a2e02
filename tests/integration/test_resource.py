#!/usr/bin/python3
"""ApplyResource and ListResources, with stock grpcio: rate limits and status machines, dry runs, restarts, refusals."""
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


if __name__ == "__main__":
    t.run(cores=2, partitions=4)  # the meta partition is another core's for half of the calls
