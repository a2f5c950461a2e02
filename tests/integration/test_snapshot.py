#!/usr/bin/python3
"""A group that begins with a snapshot, read by a stock gRPC client that rebuilds every order while writers run and both sides are killed -9 (docs/STREAM.md).
usage: test_snapshot.py BUILD [--kill=ROUNDS]

The consumer is a process of its own (this file, --consume ADDRESS GROUP JOURNAL): it writes what it is told into its journal and acks; killed, it reads the journal and goes on."""
import base64
import json
import os
import random
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def consume(address, group, journal):
    """Without the test's own machinery: three messages, by number, so that it starts in no time."""
    import grpc
    sys.path.insert(0, os.environ["PB2"])
    import google
    google.__path__ = list(google.__path__) + [os.path.join(os.environ["PB2"], "google")]
    from orderdb.v1 import stream_pb2 as st
    import queue
    out = open(journal, "a")
    while True:
        requests = queue.Queue()
        requests.put(st.SubscribeRequest(open=st.SubscribeRequest.Open(group=group, member_id="m-1")))
        requests.put(st.SubscribeRequest(credit=st.SubscribeRequest.Credit(events=200)))
        channel = grpc.insecure_channel(address)
        try:
            call = channel.stream_stream("/orderdb.v1.StreamService/Subscribe", request_serializer=st.SubscribeRequest.SerializeToString,
                                         response_deserializer=st.SubscribeResponse.FromString)(iter(requests.get, None))
            for r in call:
                for e in r.batch.events:
                    out.write(json.dumps([e.event_id, e.type, e.order_id, e.after.version, e.after.status, len(e.after.items), e.slot, e.seq]) + "\n")
                if r.batch.events:
                    out.flush()
                    requests.put(st.SubscribeRequest(ack=st.SubscribeRequest.Ack(event_ids=[e.event_id for e in r.batch.events])))
                    requests.put(st.SubscribeRequest(credit=st.SubscribeRequest.Credit(events=len(r.batch.events))))
        except grpc.RpcError as e:
            out.flush()
            if e.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.ABORTED):
                print(e, file=sys.stderr, flush=True)
                sys.exit(1)
        requests.put(None)
        channel.close()
        time.sleep(0.1)


if sys.argv[1] == "--consume":
    consume(*sys.argv[2:5])

import orderdb_test as t  # noqa: E402
from orderdb_test import equal, pb, stream_pb2 as st, true  # noqa: E402

ROUNDS = next((int(a.split("=")[1]) for a in sys.argv if a.startswith("--kill=")), 3)
STEPS = ["pay", "ship", "deliver", "confirm"]
SNAPSHOT, CREATED = st.ChangeEvent.SNAPSHOT, st.ChangeEvent.CREATED


class Writer(threading.Thread):
    """Creates orders and moves them; what becomes of a request that was cut off is found by sending it again."""

    def __init__(self, server, number, orders):
        super().__init__(daemon=True)
        self.server, self.random, self.steps = server, random.Random(number), dict.fromkeys(orders, 0)
        self.users, self.stopping, self.error = ["writer-%d-%d" % (number, i) for i in range(10)], threading.Event(), None

    def send(self, client, method, request):
        while True:
            try:
                return client.call(method, request, timeout=5)
            except t.Failure as f:
                if f.code_name not in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNKNOWN", "INTERNAL", "CANCELLED"):
                    raise
                time.sleep(0.05)

    def run(self):
        client = t.Client(self.server.address, options=[("grpc.max_reconnect_backoff_ms", 200)])
        try:
            while not self.stopping.is_set():
                going = [o for o, n in self.steps.items() if n < len(STEPS)]
                if not going or self.random.random() < 0.2:
                    made = self.send(client, "CreateOrder", t.create_request(user_id=self.random.choice(self.users), item_count=2))
                    self.steps[made.order.order_id] = 0
                else:
                    order = self.random.choice(going)
                    self.send(client, "TransitionOrder", t.transition_request(order, STEPS[self.steps[order]]))
                    self.steps[order] += 1
        except BaseException as e:  # noqa: B902
            self.error = e
        finally:
            client.close()


class Consumer:
    def __init__(self, server, group, name="journal"):
        self.server, self.group, self.journal, self.process = server, group, os.path.join(server.directory, name), None
        self.start()

    def start(self):
        self.process = subprocess.Popen([sys.executable, os.path.abspath(__file__), "--consume", self.server.address, self.group, self.journal],
                                        env=dict(os.environ, PB2=os.path.join(t.TEMP, "pb2")))

    def kill(self):
        true(self.process.poll() is None, "the consumer has ended by itself")
        self.process.kill()
        self.process.wait()

    def events(self):
        """What it was told. The last line may be cut off: its event was not acked."""
        with open(self.journal) as f:
            lines = f.read().split("\n")
        told = []
        for line in lines[:-1]:
            try:
                told.append(json.loads(line))
            except ValueError:
                pass  # cut off by a kill, and the next line was appended to it
        return told


def lag(server, group):
    return server.call("GetGroupLag", group=group)


def until_settled(server, group, wait_s=60):
    t.until(lambda: lag(server, group).events == 0 and lag(server, group).snapshot_orders_left == 0, wait_s, "everything is settled")


def rebuild(told):
    """Every order as it was told: once as a whole, then change by change; what was told before is told again as the same."""
    orders, seen = {}, {}
    for event_id, kind, order_id, version, status, items, slot, seq in told:
        if kind == SNAPSHOT and not seq:  # of no commit: a number of its own, above every seq
            true(event_id.startswith("%d:" % slot) and int(event_id.split(":")[1]) >= 2**62, event_id)
        else:
            equal(event_id, "%d:%d" % (slot, seq))
        if event_id in seen:
            equal((kind, order_id, version, status), seen[event_id], "%s again" % event_id)
            continue
        seen[event_id] = kind, order_id, version, status
        if kind == SNAPSHOT or kind == CREATED:
            true(order_id not in orders, "%d is told twice, by %s" % (order_id, event_id))
        else:
            true(order_id in orders, "%s: a change of %d, which was not told" % (event_id, order_id))
            equal(version, orders[order_id][0] + 1, "%s: version of %d" % (event_id, order_id))
            true(seq > orders[order_id][3], "%s: seq of %d" % (event_id, order_id))
        orders[order_id] = version, status, items, seq
    return orders


def agrees(server, orders, written):
    equal(set(orders), set(written), "orders")
    ids = sorted(orders)
    for first in range(0, len(ids), 100):
        for order in server.call("BatchGetOrders", order_ids=ids[first:first + 100], read=pb.ReadOptions(view=pb.ORDER_VIEW_FULL)).orders:
            equal(orders[order.order_id][:3], (order.version, order.status, len(order.items)), "order %d" % order.order_id)


def lists_agree(server, orders, users):
    listed = [o for u in users for o in server.call("ListOrders", user_id=u, page_size=1000).orders]
    equal({o.order_id: o.status for o in listed}, {o.order_id: orders[o.order_id][1] for o in listed}, "lists")
    return len(listed)


def prepare(server, users, each):
    made = []
    for u in range(users):
        for n in range(each):
            made.append(server.call("CreateOrder", t.create_request(user_id="old-%d" % u, item_count=2)).order.order_id)
            for step in STEPS[:n % 3]:
                server.call("TransitionOrder", t.transition_request(made[-1], step))
    return made


@t.test("every order once, then its changes: rebuilt while writers run, and both sides are killed -9")
def _():
    with t.Server(cores=2, partitions=4, log_live_size="1MiB", log_segment_size="64KiB") as server:
        untold = [o for u in range(20) for o in t.import_untold(server, "untold-%d" % u, 6)]  # most slots have nothing else
        old = prepare(server, 60, 8) + untold
        server.call("CreateConsumerGroup", group=st.ConsumerGroup(group="snap", start=st.ConsumerGroup.SNAPSHOT_THEN_TAIL, payload=pb.ORDER_VIEW_FULL))
        equal(lag(server, "snap").snapshot_orders_left, len(old))
        true(lag(server, "snap").events >= len(old), "lag")
        later = prepare(server, 1, 1) + old  # of its creation nobody was told yet either
        for o in old[:40] + untold[::2]:
            step = server.call("GetOrder", order_id=o).status
            if step == "PENDING_PAYMENT":
                server.call("TransitionOrder", t.transition_request(o, "pay"))
        writers = [Writer(server, n, untold[2 * n + 1::6]) for n in range(3)]
        for w in writers:
            w.start()
        consumer = Consumer(server, "snap")
        for n in range(ROUNDS):
            before = len(consumer.events()) if os.path.exists(consumer.journal) else 0
            t.until(lambda: os.path.exists(consumer.journal) and len(consumer.events()) > before + 100, what="the consumer goes on")
            (consumer if n % 2 else server).kill()
            if n % 3 == 2:
                server.kill() if n % 2 else consumer.kill()
            if consumer.process.poll() is not None:
                consumer.start()
            if server.process is None:
                server.start()
        for w in writers:
            w.stopping.set()
        for w in writers:
            w.join(60 * t.SLOW)
            true(not w.is_alive() and w.error is None, "writer: %s" % w.error)
        until_settled(server, "snap")
        consumer.kill()
        written = set(later).union(*(w.steps for w in writers))
        told = consumer.events()
        agrees(server, rebuild(told), written)
        users = [u for w in writers for u in w.users] + ["old-%d" % n for n in range(60)] + ["untold-%d" % n for n in range(20)]
        equal(lists_agree(server, rebuild(told), users), len(written))
        kinds = [k for _, k, *_ in told]
        true(kinds.count(SNAPSHOT) >= len(old), "snapshot events")
        equal(lag(server, "snap").age.seconds, 0)
        equal(server.stop(), 0)


@t.test("a new consumer of the same orders is told the same: a summary has no items, a filter leaves orders out")
def _(server):
    made = prepare(server, 12, 3)
    server.call("CreateConsumerGroup", group=st.ConsumerGroup(group="brief", start=st.ConsumerGroup.SNAPSHOT_THEN_TAIL, filter='user_id = "old-3"'))
    consumer = Consumer(server, "brief", "brief")
    until_settled(server, "brief")
    t.until(lambda: len(consumer.events()) >= 3, what="three events")
    told = consumer.events()
    consumer.kill()
    equal(len(rebuild(told)), 3)
    true(set(rebuild(told)) < set(made), "of another user")
    true(all(e[1] == SNAPSHOT and e[5] == 0 for e in told), "whole orders")


@t.test("orderctl: create --from snapshot, lag, seek --to snapshot; out of the middle of a snapshot the way back is its beginning")
def _(server):
    prepare(server, 5, 2)
    made = server.orderctl_json("group", "create", "again", "--from", "snapshot", "--payload", "full")
    equal(made["start"], "SNAPSHOT_THEN_TAIL")
    equal(server.orderctl("group", "show", "again").stdout.count("snapshot"), 1)
    left = lag(server, "again").snapshot_orders_left
    true(left >= 10, left)
    true("%d left" % left in server.orderctl("group", "lag", "again").stdout, "lag")
    undo = os.path.join(server.directory, "undo")
    within = server.orderctl("group", "seek", "again", "--to", "latest", "--undo", undo)
    true("in the middle of a snapshot" in within.stderr, within.stderr)
    true("skipped: %d" % left in within.stdout, within.stdout)
    equal(lag(server, "again").events, 0)
    equal(server.orderctl_json("group", "seek", "again", "--cursor", undo, "--dry-run")["events_to_redeliver"], str(left))
    server.orderctl("group", "seek", "again", "--cursor", undo)
    equal(lag(server, "again").snapshot_orders_left, left)
    done = server.call("SeekConsumerGroup", group="again", start=st.ConsumerGroup.LATEST)
    true(done.within_snapshot, "it says so")
    with open(undo) as f:
        equal(base64.b64decode(f.read().strip() + "=="), done.previous_cursor)
    t.refused(lambda: server.call("ReadChanges", cursor=done.previous_cursor, stop_at_end=True), "INVALID_ARGUMENT", "CURSOR_INVALID")
    dry = server.call("SeekConsumerGroup", group="again", start=st.ConsumerGroup.SNAPSHOT_THEN_TAIL, dry_run=True)
    equal((dry.events_to_redeliver, dry.events_skipped), (left, 0))
    true(dry.previous_cursor and not dry.within_snapshot, "a cursor")
    server.orderctl("group", "seek", "again", "--to", "snapshot")
    equal(lag(server, "again").snapshot_orders_left, left)
    consumer = Consumer(server, "again", "again")
    until_settled(server, "again")
    t.until(lambda: len(consumer.events()) >= left, what="all of them")
    first = rebuild(consumer.events())
    equal(len(first), left)
    server.orderctl("group", "seek", "again", "--to", "snapshot")  # while it reads: everything once more, by the same ids
    t.until(lambda: len(consumer.events()) >= 2 * left, what="all of them again")
    consumer.kill()
    equal(rebuild(consumer.events()), first)
    server.orderctl("group", "delete", "again", "--yes")
    t.refused(lambda: lag(server, "again"), "NOT_FOUND", "GROUP_NOT_FOUND")


if __name__ == "__main__":
    t.run(cores=2, partitions=4)
