#!/usr/bin/python3
"""A server that is offered more than it can do: it goes on, refuses with a delay, lets operators in, and is itself again afterwards. No timing is asserted; for figures: tests/abuse/overload.py."""
import os
import subprocess

import orderdb_test as t
from orderdb_test import equal, true, until

STREAMS_MAX = 256 # calls-per-connection
FLOOD = os.path.join(t.BUILD, "bench", "flood")


def flood(server, seconds, *more):
    return subprocess.Popen([FLOOD, "--port", server.address.rsplit(":", 1)[1], "--seconds", str(seconds), *more], stdout=subprocess.PIPE, text=True)


@t.test("a flood is shed; operators and reads get through; what is admitted is done; then nothing is refused any more")
def _(server):
    p = flood(server, 4 * t.SLOW, "--rate", "200000")
    until(lambda: server.metrics()["orderdb_shed_queue_total"] > 0, wait_s=4, what="calls are shed")
    seen = {"topology": 0, "reads": 0, "refused": 0, "created": 0}
    while p.poll() is None:
        seen["topology"] += len(server.call("GetTopology").partitions) == 4
        server.call("ListOrders", user_id="nobody")
        seen["reads"] += 1
        equal(server.http("/healthz")[0], 200)
        try:
            server.call("CreateOrder", t.create_request(user_id="in-the-flood"), resend=False)
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
    equal(server.call("ListOrders", user_id="in-the-flood").total_size, seen["created"])


# So many calls at once (64 x 256) that writes wait for longer than an eighth of the target on any machine, and more of them are inside than it does in a third of it.
@t.test("while writes wait connections are told to keep fewer calls in flight; then they may have all of them again")
def _(_):
    server = t.Server(cores=2, partitions=4, queue_target="%dms" % (50 * t.SLOW))
    streams = lambda: server.metrics()["orderdb_connection_streams"]
    equal(streams(), STREAMS_MAX)
    p = flood(server, 3 * t.SLOW, "--rate", "200000", "--connections", "64")
    least = STREAMS_MAX
    while p.poll() is None:
        least = min(least, streams())
    equal(p.returncode, 0, p.stdout.read())
    true(least < STREAMS_MAX, "connections were told to keep fewer calls in flight")
    until(lambda: streams() == STREAMS_MAX, what="they may have all of them again")
    server.stop()


if __name__ == "__main__":
    t.run(cores=2, partitions=4, queue_target="1ms")
