#!/usr/bin/python3
"""A stock grpcio client: the change stream without a group. usage: test_changes.py BUILD [PART OF A NAME]"""
import collections
import os
import subprocess
import threading
import time

import faultrig
import orderdb_test as t
from members import Member, group
from orderdb_test import equal, pb, refused, stream_pb2 as stream, test, true

CREATED, TRANSITIONED, UPDATED, IMPORTED = (stream.ChangeEvent.Type.Value(n) for n in ("CREATED", "TRANSITIONED", "UPDATED", "IMPORTED"))


def created(server, **fields):
    o = t.order(user_id=fields.pop("user_id"), item_count=fields.pop("item_count", 1))
    o.MergeFrom(pb.Order(**fields))
    return server.call("CreateOrder", t.create_request(o)).order


def read(server, **fields):
    """Everything until the end: (events, the last cursor)."""
    answers = server.call("ReadChanges", stop_at_end=True, timeout=60, **fields)
    true(answers and answers[-1].cursor, "the last message has a cursor")
    return [e for a in answers for e in a.events], answers[-1].cursor


def gapless(events, since=None):
    last = dict(since or {})
    for e in events:
        equal(e.event_id, "%d:%d" % (e.slot, e.seq))
        equal(e.seq, last.get(e.slot, 0) + 1, "slot %d" % e.slot)
        last[e.slot] = e.seq
    return last


def gapless_from_any(events):
    """From wherever a slot begins."""
    begin = {}
    for e in events:
        begin.setdefault(e.slot, e.seq - 1)
    gapless(events, begin)
    return events


@test("every commit is an event that says what was done and what the order then was")
def _(server):
    o = created(server, user_id="ev-1", item_count=2, merchant_id="m7")
    paid = server.call("TransitionOrder", t.transition_request(o.order_id, "pay", operator="bob", reason="card"))
    changed = server.call("UpdateOrder", order=pb.Order(order_id=o.order_id, attributes={"k": "v"}), update_mask={"paths": ["attributes"]},
                          options=pb.WriteOptions(request_id=t.request_id()))
    events, _ = read(server, user_id="ev-1", payload=pb.ORDER_VIEW_FULL)
    equal([e.type for e in events], [CREATED, TRANSITIONED, UPDATED])
    equal([e.after for e in events], [o, paid.order, changed.order])
    equal([(e.order_id, e.user_id, e.merchant_id) for e in events], [(o.order_id, "ev-1", "m7")] * 3)
    equal(events[1].entry, paid.entry)
    equal((events[1].entry.operator, events[1].entry.reason, events[1].entry.from_status, events[1].entry.to_status), ("bob", "card", "PENDING_PAYMENT", "PAID"))
    equal([list(e.changed.paths) for e in events], [[], ["status", "timers"], ["attributes"]])
    equal([e.seq for e in events], [1, paid.token.seq, changed.token.seq])
    history = server.call("ListOrderHistory", order_id=o.order_id).entries
    equal([e.entry for e in events], list(history))
    summary, _ = read(server, user_id="ev-1")
    equal([(len(e.after.items), e.after.status, e.after.merchant_id) for e in summary], [(0, s, "m7") for s in ("PENDING_PAYMENT", "PAID", "PAID")])


@test("refused, replayed and tried writes leave no event; an import leaves one")
def _(server):
    request = t.create_request(user_id="ev-2")
    o = server.call("CreateOrder", request).order
    true(server.call("CreateOrder", request).replayed)
    refused(lambda: server.call("TransitionOrder", t.transition_request(o.order_id, "ship")), "FAILED_PRECONDITION", "STATUS_MISMATCH")
    server.call("TransitionOrder", order_id=o.order_id, event="pay", options=pb.WriteOptions(request_id=t.request_id(), validate_only=True))
    past = t.order(user_id="ev-2", client_order_no="ev-2-import")
    server.call("ImportOrders", [pb.ImportOrdersRequest(order=past, history=[
        pb.HistoryEntry(event="create", to_status="PENDING_PAYMENT", time=t.timestamp(1.5e9)), pb.HistoryEntry(event="pay", to_status="PAID", time=t.timestamp(1.5e9 + 60))])])
    events, _ = read(server, user_id="ev-2")
    equal([(e.type, e.entry.event) for e in events], [(CREATED, "create"), (IMPORTED, "pay")])
    true(events[1].commit_time.seconds > 1.7e9, "commit_time is of the import")


@test("an import that asks for no event is told by none; what follows is told, with dense seqs")
def _():
    with t.Server(cores=2) as server:
        users = ["ev-quiet-%d" % i for i in range(6)]
        ids = {u: t.import_untold(server, u, 5, [("pay", "PAID")] if n % 2 else []) for n, u in enumerate(users)}
        events, cursor = read(server)
        equal(events, [], "nothing was told")
        again = pb.ImportOrdersRequest(order=t.order(user_id=users[0], client_order_no="untold-1", create_time=t.timestamp(1)))
        equal(server.call("ImportOrders", [again]).already_there, 1)
        moved = {o: "ship" if n % 2 else "pay" for n, u in enumerate(users) for o in ids[u][:3]}
        for i, (o, event) in enumerate(moved.items()):
            server.call("TransitionOrder", t.transition_request(o, event))
            if i == 7:
                server.kill()
                server.start()
        t.import_untold(server, users[0], 1)
        told, _ = read(server, cursor=cursor, payload=pb.ORDER_VIEW_FULL)
        whole, _ = read(server, payload=pb.ORDER_VIEW_FULL)
        equal(sorted(e.event_id for e in told), sorted(e.event_id for e in whole), "from the start, and behind the cursor of nothing")
        gapless(whole)
        equal({e.order_id: e.entry.event for e in whole}, moved)
        equal(len(whole), len(moved))
        for e in whole:
            equal(e.after, server.call("GetOrder", order_id=e.order_id))
        brought = {o: 2 if n % 2 else 1 for n, u in enumerate(users) for o in ids[u]}
        for o, versions in brought.items():  # orders = histories, and behind what was brought = events
            history = server.call("ListOrderHistory", order_id=o).entries
            equal([h.version for h in history], list(range(1, versions + (o in moved) + 1)))
            equal([e.entry for e in whole if e.order_id == o], list(history[versions:]))
        equal(server.call("ListOrders", user_id=users[0]).total_size, 6)


@test("filters run in the server")
def _(server):
    users = ["ev-3-%d" % i for i in range(20)]
    ids = [created(server, user_id=u, merchant_id="m%d" % (i % 2)).order_id for i, u in enumerate(users)]
    for i in ids[:10]:
        server.call("TransitionOrder", t.transition_request(i, "pay"))
    events, cursor = read(server, filter='user_id : "ev" AND type = "TRANSITIONED" AND entry.to_status = "PAID" AND merchant_id = "m1"')
    mine = [e for e in events if e.order_id in ids]
    equal(sorted(e.order_id for e in mine), sorted(ids[1:10:2]))
    again, _ = read(server, cursor=cursor)
    equal([e for e in again if e.order_id in ids], [], "what the filter left out is behind the cursor too")
    f = refused(lambda: server.call("ReadChanges", filter='weather = "fine"'), "INVALID_ARGUMENT", "FILTER_INVALID")
    equal(f.violations[0][0], "filter")


@test("large orders are told whole, by every version")
def _(server):
    o = created(server, user_id="ev-4", extension=b"x" * 300000)
    for value in (b"y" * 500000, b"z"):
        server.call("UpdateOrder", order=pb.Order(order_id=o.order_id, extension=value), update_mask={"paths": ["extension"]}, options=pb.WriteOptions(request_id=t.request_id()))
    server.call("TransitionOrder", t.transition_request(o.order_id, "pay"))
    events, _ = read(server, user_id="ev-4", payload=pb.ORDER_VIEW_FULL)
    equal([(len(e.after.extension), e.after.extension[:1], e.after.version) for e in events], [(300000, b"x", 1), (500000, b"y", 2), (1, b"z", 3), (1, b"z", 4)])
    equal([len(e.after.extension) for e in read(server, user_id="ev-4")[0]], [0] * 4)


@test("a cursor goes on without a gap and without a repeat, whatever was read when")
def _(server):
    before, cursor = read(server)
    last = gapless(before)
    total = len(before)
    for round_ in range(3):
        for i in range(30):
            created(server, user_id="ev-5-%d" % i)
        more, cursor = read(server, cursor=cursor)
        last = gapless(more, last)
        total += len(more)
        true(len(more) >= 30)
    equal(len(read(server)[0]), total)
    equal(read(server, cursor=cursor)[0], [])
    equal(read(server, cursor=cursor, from_time=t.timestamp(1))[0], [], "a cursor outranks a time")
    refused(lambda: server.call("ReadChanges", cursor=cursor, user_id="ev-5-1", stop_at_end=True), "INVALID_ARGUMENT", "CURSOR_INVALID")
    bent = bytearray(cursor)
    bent[len(bent) // 2] ^= 1
    f = refused(lambda: server.call("ReadChanges", cursor=bytes(bent), stop_at_end=True), "INVALID_ARGUMENT", "CURSOR_INVALID")
    true("cause" in f.metadata)
    group(server, "home", start=stream.ConsumerGroup.LATEST)
    with t.Server(cores=1) as other:  # of the same shape, with a key of its own
        created(other, user_id="ev-5-1")
        foreign = read(other)[1]
    refused(lambda: server.call("ReadChanges", cursor=foreign, stop_at_end=True), "INVALID_ARGUMENT", "CURSOR_INVALID")
    refused(lambda: server.call("SeekConsumerGroup", group="home", cursor=foreign), "INVALID_ARGUMENT", "CURSOR_INVALID")
    server.call("DeleteConsumerGroup", group="home")


@test("from a time: what was committed then or later, exactly; in the future: what will be")
def _(server):
    created(server, user_id="ev-6")
    o = created(server, user_id="ev-6")
    created(server, user_id="ev-6")
    events, cursor = read(server, user_id="ev-6", from_time=o.create_time)
    equal([e.seq for e in events], [2, 3])
    equal(read(server, user_id="ev-6", from_time=t.timestamp(time.time() + 3600))[0], [])
    equal([e.order_id for e in read(server, from_time=o.create_time)[0] if e.user_id == "ev-6"], [e.order_id for e in events])
    equal(read(server, user_id="ev-6", cursor=cursor)[0], [])


@test("who reads along is told at once, and of every write once, from two connections")
def _(server):
    _, cursor = read(server)
    streams = [server.new_client() for _ in range(2)]
    calls = [c.stub("ReadChanges")(stream.ReadChangesRequest(cursor=cursor), timeout=60 * t.SLOW) for c in streams]
    want, got, delays = 200, [[], []], []
    sent = {}

    def follow(k):
        for answer in calls[k]:
            for e in answer.events:
                got[k].append(e)
                if e.order_id in sent:
                    delays.append(time.monotonic() - sent[e.order_id])
            if len(got[k]) >= want:
                return

    threads = [threading.Thread(target=follow, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    ids = []
    for i in range(want):
        ids.append(created(server, user_id="ev-7-%d" % (i % 40)).order_id)
        sent[ids[-1]] = time.monotonic()
    for thread in threads:
        thread.join(30 * t.SLOW)
        true(not thread.is_alive(), "everything was told")
    for call in calls:
        call.cancel()
    for events in got:
        equal(collections.Counter(e.order_id for e in events), collections.Counter(ids))
    for c in streams:
        c.close()


@test("a reader that stops reading holds up nobody, and reads on later")
def _(server):
    o = t.order(user_id="ev-8", extension=b"x" * 7000)
    _, cursor = read(server)
    c = server.new_client()
    call = c.stub("ReadChanges")(stream.ReadChangesRequest(cursor=cursor, payload=pb.ORDER_VIEW_FULL), timeout=60 * t.SLOW)
    requests = [t.create_request(pb.Order.FromString(o.SerializeToString().replace(b"ev-8", b"ev8%d" % (i % 10)))) for i in range(1500)]
    before = server.rss_bytes()
    for k in range(0, len(requests), 50):
        for r in server.call("BatchCreateOrders", requests=requests[k:k + 50]).results:
            true(r.HasField("ok"), r.error)
    true(server.rss_bytes() - before < t.SLOW * (128 << 20), "10 MiB that nobody takes lie in no queue")
    got = []
    for answer in call:
        got += answer.events
        if len(got) >= len(requests):
            break
    call.cancel()
    c.close()
    equal(len(got), len(requests))
    last = {}
    for e in got:
        true(last.get(e.slot, e.seq - 1) == e.seq - 1, "gapless")
        last[e.slot] = e.seq


@test("kill -9: what was told stays told, and a cursor goes on")
def _():
    with t.Server() as s:
        for i in range(300):
            created(s, user_id="ev-9-%d" % (i % 30))
        first, cursor = read(s, payload=pb.ORDER_VIEW_FULL)
        equal(len(first), 300)
        s.kill()
        s.start()
        again, _ = read(s, payload=pb.ORDER_VIEW_FULL)
        equal(sorted((e.slot, e.seq, e.SerializeToString(deterministic=True)) for e in again), sorted((e.slot, e.seq, e.SerializeToString(deterministic=True)) for e in first))
        for i in range(50):
            created(s, user_id="ev-9-%d" % (i % 30))
        more, _ = read(s, cursor=cursor)
        equal(len(more), 50)
        gapless(more, gapless(first))


@test("retention: a short one lets go, and a reader behind it is told what it has missed")
def _():
    with t.Server(stream_retention="2s") as s:
        group(s, "behind")
        for i in range(5):
            created(s, user_id="ev-10")
        events, cursor = read(s)
        equal(len(events), 5)
        _, early = read(s, user_id="ev-10")
        missed = [created(s, user_id="ev-10-%d" % i) for i in range(8)]  # of both partitions
        missed_slots = {(o.order_id >> 8) % 16384 for o in missed}
        created(s, user_id="ev-11")  # an entry behind, or there is nothing to keep

        def gone():
            created(s, user_id="ev-11")
            return len(read(s, user_id="ev-10")[0]) == 0
        t.until(gone, wait_s=40, step_s=1, what="retention")
        equal(read(s, user_id="ev-10", cursor=early)[0], [], "nothing was missed: all of it had been read")
        f = refused(lambda: read(s, cursor=cursor), "OUT_OF_RANGE", "CURSOR_EXPIRED")
        told = {int(r.split(":")[0]) for r in f.metadata["missing"].split(",")}
        true(missed_slots <= told, "slots %s were missed, told are %s" % (sorted(missed_slots), f.metadata))
        true(min(told) < 8192 <= max(told), "of both partitions")
        true(len(told) <= int(f.metadata["missing_slots"]) <= len(missed_slots) + 1, f.metadata)
        f = Member(s, "behind").refused("OUT_OF_RANGE", "CURSOR_EXPIRED")  # a group that nobody has read, likewise
        told = {int(r.split(":")[0]) for r in f.metadata["missing"].split(",")}
        true(missed_slots <= told and min(told) < 8192 <= max(told), "slots %s were missed, told are %s" % (sorted(missed_slots), f.metadata))
        true(len(told) <= int(f.metadata["missing_slots"]) <= len(missed_slots) + 2, f.metadata)
        start, _ = read(s)
        true(all(e.user_id != "ev-10" for e in start))
        true(start and start[0].seq > 1, "it begins at the earliest kept")


@test("retention: events take no more than their share of the disk, the oldest go first, and readers and seeks are told")
def _():
    if os.geteuid() != 0:
        t.skip("needs root: a small file system of its own")
    disk = faultrig.Tmpfs("400m")
    try:
        with t.Server(disk.dir + "/data", stream_disk_share=1, disk_reserve="16MiB", log_segment_size="1MiB", memory_budget="256MiB") as s:  # 4 MiB of events
            group(s, "behind")
            first = created(s, user_id="ev-13")
            _, cursor = read(s)

            def gone():
                p = subprocess.run([os.path.join(t.BUILD, "bench/load"), "--server", s.address, "--mode", "create", "--orders", "4000", "--items", "3"], capture_output=True, text=True)
                true(p.returncode == 0, p.stdout + p.stderr)
                return len(read(s, user_id="ev-13")[0]) == 0
            t.until(gone, wait_s=60, step_s=1, what="retention")
            equal(s.call("GetOrder", order_id=first.order_id), first)  # orders stay
            for lost in (lambda: read(s, cursor=cursor), lambda: s.call("SeekConsumerGroup", group="behind", cursor=cursor)):
                f = refused(lost, "OUT_OF_RANGE", "CURSOR_EXPIRED")
                true(int(f.metadata["missing_slots"]) > 20 and len(f.metadata["missing"].split(",")) == 20, f.metadata)
            Member(s, "behind").refused("OUT_OF_RANGE", "CURSOR_EXPIRED")

            def out():  # the way: to what is kept now, unless more of it goes in that moment
                s.call("SeekConsumerGroup", group="behind", start=stream.ConsumerGroup.EARLIEST)
                m = Member(s, "behind")
                m.until(lambda: m.ended or len(m.events) >= 100, "events")
                m.cancel()
                return len(m.events) >= 100
            t.until(out, wait_s=60, what="events that are kept")
            kept = gapless_from_any(read(s)[0])
            true(kept, "the newest are kept")
            s.restart()
            true(len(gapless_from_any(read(s)[0])) <= len(kept), "what was let go stays so")
    finally:
        disk.close()


@test("a drain ends the stream with UNAVAILABLE; as many streams as are allowed")
def _():
    with t.Server(streams_max=2, cores=1) as s:
        created(s, user_id="ev-12")
        c = s.new_client()
        calls = [c.stub("ReadChanges")(stream.ReadChangesRequest()) for _ in range(2)]
        for call in calls:
            true(next(call).events)
        refused(lambda: s.call("ReadChanges", stop_at_end=True), "RESOURCE_EXHAUSTED", "OVERLOADED")
        ended = []

        def wait(call):
            try:
                for _ in call:
                    pass
            except Exception as e:
                ended.append(t.Failure(e).reason)
        threads = [threading.Thread(target=wait, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        s.stop()
        for thread in threads:
            thread.join(20)
        equal(ended, ["DRAINING"] * 2)
        c.close()


if __name__ == "__main__":
    t.run()
