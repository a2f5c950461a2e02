#!/usr/bin/python3
"""A server that is offered more than it can do: it goes on, refuses with a delay, lets operators in, and is itself again afterwards. No timing is asserted; for figures: tests/abuse/overload.py."""
import os
import subprocess

import orderdb_test as t
from orderdb_test import equal, true, until

FLOOD = os.path.join(t.BUILD, "bench", "flood")


def flood(server, seconds, *more):
    return subprocess.Popen([FLOOD, "--port", server.address.rsplit(":", 1)[1], "--seconds", str(seconds), *more], stdout=subprocess.PIPE, text=True)


@t.test("a flood is shed; operators and reads get through; what is admitted is done; then nothing is refused any more")
def _(server):
    p = flood(server, 4 * t.SLOW, "--rate", "200000")
    until(lambda: server.metrics()["orderdb_shed_queue_total"] > 0, wait_s=4, what="calls are shed")
    until(lambda: server.metrics()["orderdb_connection_streams"] < 256, wait_s=4, what="connections are told to keep fewer calls in flight")
    seen = {"topology": 0, "reads": 0, "refused": 0, "created": 0}
    while p.poll() is None:
        seen["topology"] += len(server.call("GetTopology").partitions) == 4
        server.call("ListOrders", user_id="nobody")
        seen["reads"] += 1
        equal(server.http("/healthz")[0], 200)
        try:
            server.call("CreateOrder", t.create_request(user_id="in-the-flood"))
            seen["created"] += 1
        except t.Failure as f:
            equal((f.code_name, f.reason), ("RESOURCE_EXHAUSTED", "OVERLOADED"))
            true(f.retry_delay_s >= 0.1, "a delay of %s s" % f.retry_delay_s)
            equal(int(f.trailers["grpc-retry-pushback-ms"]), round(f.retry_delay_s * 1000))
            seen["refused"] += 1
    out = p.stdout.read()
    equal(p.returncode, 0, out)
    true(seen["topology"] and seen["reads"], str(seen))
    until(lambda: server.metrics()["orderdb_calls_in_flight"] == 0, what="the flood is over")
    shed = server.metrics()["orderdb_shed_queue_total"]
    for _ in range(50):
        server.call("CreateOrder", t.create_request(user_id="after"))
    equal(server.metrics()["orderdb_shed_queue_total"], shed)
    until(lambda: server.metrics()["orderdb_connection_streams"] == 256, what="they may have all of them again")
    equal(server.call("ListOrders", user_id="in-the-flood").total_size, seen["created"])


if __name__ == "__main__":
    t.run(cores=2, partitions=4, queue_target="1ms")
