#!/usr/bin/python3
"""kill -9 under load, with consumers that resume by cursor: orders = histories = events. usage: test_changes_crash.py BUILD [--kill=ROUNDS]

Each round: load for a moment, kill -9, restart (sometimes killed again while it recovers), UNKNOWN requests sent again. The consumers are never told of any of it: they come
again with the cursor that they have, until they are told to stop."""
import os
import random
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import grpc
import orderdb_test as t
from ledger import Ledger, Stub
from orderdb_test import equal, pb, stream_pb2 as stream, true


def option(name, default):
    return next((int(a.split("=")[1]) for a in sys.argv if a.startswith(name + "=")), default)


FLAGS = dict(memory_budget="512MiB", partitions=4, cores=2, log_live_size="1MiB", log_segment_size="64KiB")


class Consumer(threading.Thread):
    """dense: it is told of every event of a slot. Keeps what it was told: (slot, seq) -> bytes."""

    def __init__(self, server, dense, **request):
        super().__init__(daemon=True)
        self.server, self.dense, self.request = server, dense, request
        self.events, self.last, self.cursor = {}, {}, b""
        self.cuts, self.stopping, self.error = 0, threading.Event(), None

    def take(self, answer):
        for e in answer.events:
            last = self.last.get(e.slot, 0)
            assert e.seq == last + 1 if self.dense else e.seq > last, "%s after %d, cut %d times" % (e.event_id, last, self.cuts)
            self.last[e.slot] = e.seq
            self.events[e.slot, e.seq] = e.SerializeToString(deterministic=True)
        self.cursor = answer.cursor

    def follow(self):
        client = self.server.new_client()
        try:
            call = client.stub("ReadChanges")(stream.ReadChangesRequest(cursor=self.cursor, stop_at_end=self.stopping.is_set(), **self.request), timeout=5 * t.SLOW)
            for answer in call:
                self.take(answer)
            return True  # to the end
        except grpc.RpcError as e:
            assert e.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL), t.Failure(e)
            self.cuts += 1
            return False
        finally:
            client.close()

    def run(self):
        try:
            while not (self.follow() and self.stopping.is_set()):
                time.sleep(0.05)
        except BaseException as e:  # noqa: told to the test
            self.error = e

    def finish(self):
        """Everything that is there was told; the consumer is at its end."""
        self.stopping.set()
        self.join(60 * t.SLOW)
        if self.error:
            raise self.error
        true(not self.is_alive(), "a consumer comes to the end")
        return self


def histories(orders, stub):
    """{(order_id, version): HistoryEntry} of every order there is."""
    found = {}
    for order_id in orders:
        for e in stub.ListOrderHistory(pb.ListOrderHistoryRequest(order_id=order_id, page_size=1000), timeout=20 * t.SLOW).entries:
            found[order_id, e.version] = e
    return found


@t.test("kill -9 under load: consumers resume without a gap or a repeat; orders = histories = events")
def _():
    count, seed = option("--kill", max(2, 6 // t.SLOW)), 11
    rng = random.Random(seed)
    ledger = Ledger(pb, users=40, seed=seed)
    server = t.Server(tempfile.mkdtemp(prefix="changes-", dir=t.TEMP) + "/data", start=False, **FLAGS).start()
    whole = Consumer(server, True, payload=pb.ORDER_VIEW_FULL)
    moved = Consumer(server, False, filter='type = "TRANSITIONED"')
    one = Consumer(server, False, user_id=ledger.users[0])
    for c in (whole, moved, one):
        c.start()
    untold = []  # of two versions that no event tells of
    for n in range(count):
        finish = ledger.load(lambda: Stub(server.new_client()), None, workers=6, seed=seed * 1000 + n)
        time.sleep(rng.uniform(0.15, 0.7))
        server.kill()
        finish()
        if rng.random() < 0.3:
            server.start(wait=False)
            time.sleep(rng.uniform(0.0, 0.25))
            server.kill()
        server.start()
        ledger.settle(Stub(server.client))
        untold += t.import_untold(server, "untold-%d" % n, 10, [("pay", "PAID")])
        for order_id in untold[-10::2]:
            server.call("TransitionOrder", t.transition_request(order_id, "ship"))
    stub = Stub(server.client)
    equal(ledger.verify(stub, None, []), len(ledger.orders))
    for c in (whole, moved, one):
        c.finish()
    entries = histories([*ledger.orders, *untold], stub)
    brought = {(order_id, version) for order_id in untold for version in (1, 2)}
    true(brought <= set(entries), "what was brought is in the histories")
    told = {key: stream.ChangeEvent.FromString(raw) for key, raw in whole.events.items()}
    equal({(e.order_id, e.entry.version) for e in told.values()}, set(entries) - brought, "events = history entries, but for what was brought untold")
    for key, e in told.items():
        equal(e.entry, entries.get((e.order_id, e.entry.version)), e.event_id)
        equal((e.after.order_id, e.after.version, e.after.status, e.after.user_id), (e.order_id, e.entry.version, e.entry.to_status, e.user_id))
    equal(len({(e.order_id, e.entry.version) for e in told.values()}), len(told), "each commit once")
    latest = {}
    for (slot, seq), e in sorted(told.items()):
        latest[e.order_id] = e
    for order_id in ledger.orders:
        equal(latest[order_id].after, stub.GetOrder(pb.GetOrderRequest(order_id=order_id), timeout=20 * t.SLOW), "the last event is the order")
    equal(set(moved.events), {key for key, e in told.items() if e.type == stream.ChangeEvent.TRANSITIONED}, "by type")
    equal(set(one.events), {key for key, e in told.items() if e.user_id == ledger.users[0]}, "of one user")
    again = Consumer(server, True, payload=pb.ORDER_VIEW_FULL)
    again.start()
    equal(again.finish().events, whole.events, "what was told stays told, byte by byte")
    true(whole.cuts >= count and ledger.acknowledged >= 40 * count // t.SLOW, "void: too little happened")
    equal(server.stop(), 0)
    print("# %d kills, %d acknowledged, %d unknown, %d orders, %d events; the consumers were cut off %d times"
          % (count, ledger.acknowledged, ledger.unknown_seen, len(ledger.orders), len(told), whole.cuts + moved.cuts + one.cuts))


if __name__ == "__main__":
    t.run(server=False)
