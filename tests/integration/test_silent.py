#!/usr/bin/python3
"""A peer that is lost without a word: the member of a group sits behind a cable that is pulled (a network namespace of the test's own and a veth). Its leases come back all the same,
long before ack_timeout, and no attempt is counted. Needs root; says loudly when it is skipped.

The member behind the cable is this file, --member ADDRESS GROUP."""
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def member(address, group):
    import grpc
    import queue
    sys.path.insert(0, os.environ["PB2"])
    import google
    google.__path__ = list(google.__path__) + [os.path.join(os.environ["PB2"], "google")]
    from orderdb.v1 import stream_pb2 as st
    requests = queue.Queue()
    requests.put(st.SubscribeRequest(open=st.SubscribeRequest.Open(group=group, member_id="behind-the-cable")))
    requests.put(st.SubscribeRequest(credit=st.SubscribeRequest.Credit(events=1000)))
    call = grpc.insecure_channel(address).stream_stream("/orderdb.v1.StreamService/Subscribe", request_serializer=st.SubscribeRequest.SerializeToString,
                                                        response_deserializer=st.SubscribeResponse.FromString)(iter(requests.get, None))
    for r in call:
        for e in r.batch.events:
            print(e.event_id, flush=True)


if sys.argv[1] == "--member":
    member(*sys.argv[2:4])
    sys.exit(0)

import orderdb_test as t  # noqa: E402
from orderdb_test import equal, stream_pb2 as st, true  # noqa: E402
from members import Member, duration, group, lag_is, orders  # noqa: E402


class Cable:
    """A namespace at the other end of a veth; pull() takes that end down, and nobody is told."""

    def __init__(self):
        n = os.getpid() % 60000
        self.space, self.here, self.there = "odb-%d" % n, "odbh%d" % n, "odbt%d" % n
        net = "10.231.%d.%d" % (n // 64 % 256, n % 64 * 4)
        self.base, last = net.rsplit(".", 1)
        self.address, self.other = "%s.%d" % (self.base, int(last) + 1), "%s.%d" % (self.base, int(last) + 2)
        if os.geteuid() != 0:
            t.skip("NOT ROOT: a network namespace can't be made, so a cable can't be pulled")
        made = subprocess.run(["ip", "netns", "add", self.space], capture_output=True, text=True)
        if made.returncode:
            t.skip("NO NETWORK NAMESPACES HERE: " + made.stderr.strip())
        try:
            self.ip("link", "add", self.here, "type", "veth", "peer", "name", self.there, "netns", self.space)
            self.ip("addr", "add", self.address + "/30", "dev", self.here)
            self.ip("link", "set", self.here, "up")
            self.ip("-n", self.space, "addr", "add", self.other + "/30", "dev", self.there)
            self.ip("-n", self.space, "link", "set", self.there, "up")
            self.ip("-n", self.space, "link", "set", "lo", "up")
        except AssertionError as e:
            self.remove()
            t.skip("NO VETH HERE: %s" % e)

    def ip(self, *arguments):
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
        true(done.returncode == 0, "ip %s: %s" % (" ".join(arguments), done.stderr.strip()))

    def pull(self):
        self.ip("-n", self.space, "link", "set", self.there, "down")

    def run(self, *command, **more):
        return subprocess.Popen(["ip", "netns", "exec", self.space, *command], **more)

    def remove(self):
        subprocess.run(["ip", "netns", "del", self.space], capture_output=True)
        subprocess.run(["ip", "link", "del", self.here], capture_output=True)


@t.test("a cable is pulled: leases come back within seconds, without an attempt, and the member is gone")
def _():
    cable = Cable()
    server = t.Server(start=False)
    server.flags["listen"] = "0.0.0.0:%d" % server.port
    lost = None
    try:
        server.start()
        group(server, "silent", ack_timeout=duration(600))
        ids = sorted(orders(server, "silent-%d" % u, 1)[0] for u in range(20))
        lost = cable.run(sys.executable, os.path.abspath(__file__), "--member", "%s:%d" % (cable.address, server.port), "silent", stdout=subprocess.PIPE, text=True,
                         env=dict(os.environ, PB2=os.path.join(t.TEMP, "pb2")))
        for _ in ids:
            true(lost.stdout.readline(), "the member behind the cable has ended")
        lag_is(server, "silent", in_flight=20, members=1)
        cable.pull()
        pulled = time.monotonic()
        other = Member(server, "silent", "here").wait(20)
        print("# leases were back after %.1f s" % (time.monotonic() - pulled), flush=True)
        true(lost.poll() is None, "the member behind the cable has ended by itself")
        equal(sorted(e.order_id for e in other.events), ids)
        equal({e.delivery_attempt for e in other.events}, {1})
        lag_is(server, "silent", members=1)
        other.ack(*other.events)
        lag_is(server, "silent", events=0)
        equal(other.half_close(), None)
        equal(server.stop(), 0)
    finally:
        if lost:
            lost.kill()
        server.remove()
        cable.remove()


if __name__ == "__main__":
    t.run(server=False)
