#!/usr/bin/python3
"""Consumer groups through a stock gRPC client (docs/STREAM.md): delivery in order, sharing, retries, dead letters, seek, crashes."""
import queue
import socket
import struct
import threading
import time

import orderdb_test as t
from members import WAIT_S, Member, consume, duration, group, in_order, lag_is, orders, users_
from orderdb_test import pb, stream_pb2 as st
from google.protobuf import field_mask_pb2


# ---- definitions
@t.test("create, get, update, list, delete; who is not there is not found")
def _(server):
    made = group(server, "g-1", filter='type = "CREATED"', ack_timeout=duration(5), key_window=3)
    t.equal((made.group, made.ordering_key, made.start, made.retry.max_attempts, made.ack_timeout.seconds, made.key_window), ("g-1", st.ConsumerGroup.USER, st.ConsumerGroup.EARLIEST, 16, 5, 3))
    t.equal(server.call("GetConsumerGroup", group="g-1"), made)
    t.refused(lambda: group(server, "g-1"), "ALREADY_EXISTS", "GROUP_EXISTS")
    changed = server.call("UpdateConsumerGroup", group=st.ConsumerGroup(group="g-1", paused=True, key_window=9), update_mask=field_mask_pb2.FieldMask(paths=["paused"]))
    t.equal((changed.paused, changed.key_window, changed.filter), (True, 3, made.filter))
    t.equal(server.call("GetConsumerGroup", group="g-1"), changed)
    for i in range(4):
        group(server, "page-%d" % i)
    names, token = [], ""
    while True:
        page = server.call("ListConsumerGroups", page_size=2, page_token=token)
        names += [g.group for g in page.groups]
        token = page.next_page_token
        if not token:
            break
    t.equal(names, ["g-1", "page-0", "page-1", "page-2", "page-3"])
    t.refused(lambda: server.call("ListConsumerGroups", page_token="abc"), "INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
    for name in names:
        server.call("DeleteConsumerGroup", group=name)
    t.equal(len(server.call("ListConsumerGroups").groups), 0)
    for method in ("GetConsumerGroup", "DeleteConsumerGroup", "GetGroupLag"):
        t.refused(lambda: server.call(method, group="g-1"), "NOT_FOUND", "GROUP_NOT_FOUND")
    t.refused(lambda: server.call("UpdateConsumerGroup", group=st.ConsumerGroup(group="g-1")), "NOT_FOUND", "GROUP_NOT_FOUND")


@t.test("as many groups as there may be; one more is refused, one less makes room, and all of them read")
def _():
    with t.Server() as server:
        for i in range(256):
            group(server, "many-%d" % i, start=st.ConsumerGroup.LATEST)
        f = t.refused(lambda: group(server, "one-more"), "INVALID_ARGUMENT", "LIMIT_EXCEEDED")
        t.true(f.violations[0][0] == "group" and "256" in f.violations[0][1], f)
        t.refused(lambda: server.call("GetConsumerGroup", group="one-more"), "NOT_FOUND", "GROUP_NOT_FOUND")
        t.refused(lambda: group(server, "many-7"), "ALREADY_EXISTS", "GROUP_EXISTS")
        server.call("DeleteConsumerGroup", group="many-7")
        group(server, "one-more", start=st.ConsumerGroup.LATEST)
        made = orders(server, next(users_), 1)
        for name in ("many-0", "many-255", "one-more"):
            t.equal([e.order_id for e in consume(server, name, 1)], made)


# ---- delivery
@t.test("everything once, in order per user; a half-close ends with OK; nothing is left")
def _(server):
    group(server, "once", start=st.ConsumerGroup.LATEST)
    users = [next(users_) for _ in range(10)]
    expected = [o for u in users for o in orders(server, u, 5)]
    events = consume(server, "once", 50)
    t.equal(sorted(e.order_id for e in events), sorted(expected))
    in_order(events)
    t.true(all(e.delivery_attempt == 1 and e.after.user_id == e.user_id for e in events))
    lag_is(server, "once", events=0, in_flight=0, members=0)
    more = orders(server, users[0], 1)
    t.equal([e.order_id for e in consume(server, "once", 1)], more)


@t.test("credit is the limit, and one key has one event in flight")
def _(server):
    group(server, "credit", start=st.ConsumerGroup.LATEST)
    a, b = next(users_), next(users_)
    orders(server, a, 3), orders(server, b, 3)
    m = Member(server, "credit", credit=1).wait(1)
    first = m.events[0]
    lag_is(server, "credit", in_flight=1, events=6, members=1)
    m.send(credit=st.SubscribeRequest.Credit(events=10))
    m.wait(2)
    t.equal({e.user_id for e in m.events}, {a, b})
    lag_is(server, "credit", in_flight=2)
    m.ack(first)
    m.wait(3)
    t.equal(m.events[2].user_id, first.user_id)
    t.equal(m.events[2].seq, first.seq + 1)
    m.half_close()
    lag_is(server, "credit", in_flight=0, events=5, members=0)


@t.test("two members share the keys; what one held goes to the other when it leaves, no attempt counted")
def _(server):
    group(server, "two", start=st.ConsumerGroup.LATEST)
    a, b = Member(server, "two", "a"), Member(server, "two", "b")
    lag_is(server, "two", members=2)
    users = [next(users_) for _ in range(20)]
    for u in users:
        orders(server, u, 1)
    deadline = time.monotonic() + WAIT_S
    while len(a.events) + len(b.events) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    t.equal(sorted(e.user_id for e in a.events + b.events), sorted(users))
    t.true(a.events and b.events, "one has all")
    left = {e.event_id for e in a.events}
    before = len(b.events)
    a.cancel()
    b.wait(before + len(left))
    t.equal({e.event_id for e in b.events[before:]}, left)
    t.true(all(e.delivery_attempt == 1 for e in b.events))
    b.ack(*b.events)
    t.equal(b.half_close(), None)
    lag_is(server, "two", events=0)


@t.test("ack, nack and extension of what another member holds are stale and change nothing")
def _(server):
    group(server, "others", start=st.ConsumerGroup.LATEST, retry=st.RetryPolicy(max_attempts=1))
    a = Member(server, "others", "a")
    lag_is(server, "others", members=1)
    orders(server, next(users_), 1)
    held = a.wait(1).events[0]
    b = Member(server, "others", "b")
    lag_is(server, "others", members=2, in_flight=1)
    b.ack(held)
    b.nack(held, dead=True)
    b.send(extend=st.SubscribeRequest.Ack(event_ids=[held.event_id]))
    b.until(lambda: len(b.stale) == 3, "three of them stale")
    t.equal(set(b.stale), {held.event_id})
    lag_is(server, "others", members=2, in_flight=1, events=1, dead_letters=0)
    a.ack(held)
    lag_is(server, "others", in_flight=0, events=0, dead_letters=0)
    t.equal((a.half_close(), a.stale, b.half_close(), b.events), (None, [], None, []))


class Wire:
    """A server's port of its own that can be cut: the peer's kernel says that the process is gone."""

    def __init__(self, server):
        self.server, self.sockets = server, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        client, _ = self.listener.accept()
        self.listener.close()
        server = socket.create_connection(("127.0.0.1", self.server.port))
        self.sockets = [client, server]
        for a, b in ((client, server), (server, client)):
            threading.Thread(target=self._copy, args=(a, b), daemon=True).start()

    @staticmethod
    def _copy(a, b):
        try:
            while data := a.recv(65536):
                b.sendall(data)
        except OSError:
            pass

    def cut(self):
        for s in self.sockets:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.shutdown(socket.SHUT_RD)  # ends the copies, which would keep it open
            s.close()


@t.test("a connection that is cut gives back what its member held, no attempt counted")
def _(server):
    group(server, "cut", start=st.ConsumerGroup.LATEST)
    wire = Wire(server)
    lost = Member(server, "cut", "lost", client=t.Client(wire.address))
    user = next(users_)
    orders(server, user, 1)
    lost.wait(1)
    lag_is(server, "cut", members=1, in_flight=1)
    other = Member(server, "cut", "other")
    lag_is(server, "cut", members=2)
    wire.cut()
    other.wait(1)
    t.equal((other.events[0].event_id, other.events[0].delivery_attempt), (lost.events[0].event_id, 1))
    lag_is(server, "cut", members=1)
    other.ack(other.events[0])
    t.equal(other.half_close(), None)
    lost.cancel()


@t.test("a nack with a delay holds up its own key alone, and counts an attempt")
def _(server):
    group(server, "nack", start=st.ConsumerGroup.LATEST)
    slow, fast = next(users_), next(users_)
    orders(server, slow, 2), orders(server, fast, 3)
    m = Member(server, "nack").wait(2)
    first = next(e for e in m.events if e.user_id == slow)
    begun = time.monotonic()
    m.nack(first, delay=duration(0.6), error="not now")
    while sum(e.user_id == fast for e in m.events) < 3:
        n = len(m.events)
        m.ack(*[e for e in m.events if e.user_id == fast])
        m.wait(n + 1)
    m.until(lambda: sum(e.user_id == slow for e in m.events) >= 2, "the nacked one again")
    t.true(time.monotonic() - begun >= 0.55, "it came before its delay")
    again = [e for e in m.events if e.user_id == slow][1]
    t.equal((again.event_id, again.delivery_attempt), (first.event_id, 2))
    m.half_close()


@t.test("what is not acked in time comes again, the late ack is stale; an extension keeps it")
def _(server):
    group(server, "late", start=st.ConsumerGroup.LATEST, ack_timeout=duration(1))
    user, kept = next(users_), next(users_)
    orders(server, user, 1)
    m = Member(server, "late").wait(1)
    m.wait(2)
    t.equal([(e.event_id, e.delivery_attempt) for e in m.events], [(m.events[0].event_id, 1), (m.events[0].event_id, 2)])
    m.ack(m.events[1])
    m.ack(m.events[0])
    m.until(lambda: m.stale, "stale")
    t.equal(m.stale, [m.events[0].event_id])

    def extended():
        before = len(m.events)
        orders(server, kept, 1)
        event, until = m.wait(before + 1).events[before], time.monotonic() + 1.5
        while time.monotonic() < until:
            m.send(extend=st.SubscribeRequest.Ack(event_ids=[event.event_id]))
            time.sleep(0.2)
        m.ack(event)
        lag_is(server, "late", events=0)
        return len(m.events) == before + 1
    t.until(extended, what="a second and a half without another delivery")  # a machine that stops for a second breaks it, not each time
    t.equal(m.half_close(), None)


# ---- members
@t.test("the same member_id again replaces the first, whose stream ends")
def _(server):
    group(server, "twice", start=st.ConsumerGroup.LATEST)
    first = Member(server, "twice", "same")
    lag_is(server, "twice", members=1)
    orders(server, next(users_), 1)
    first.wait(1)
    second = Member(server, "twice", "same")
    first.refused("ABORTED", "MEMBER_REPLACED")
    second.wait(1)
    t.equal((second.events[0].event_id, second.events[0].delivery_attempt), (first.events[0].event_id, 1))
    second.half_close()


@t.test("a paused group gives nothing out; a deleted one ends its streams")
def _(server):
    group(server, "paused", start=st.ConsumerGroup.LATEST, paused=True)
    orders(server, next(users_), 1)
    m = Member(server, "paused")
    lag_is(server, "paused", members=1, events=1)
    time.sleep(0.2)
    t.equal(len(m.events), 0)
    server.call("UpdateConsumerGroup", group=st.ConsumerGroup(group="paused"), update_mask=field_mask_pb2.FieldMask(paths=["paused"]))
    m.wait(1)
    server.call("DeleteConsumerGroup", group="paused")
    m.refused("NOT_FOUND", "GROUP_NOT_FOUND")


@t.test("a group that filters gets what it wants, and its progress moves")
def _(server):
    group(server, "filter", start=st.ConsumerGroup.LATEST, filter='type = "TRANSITIONED" AND entry.to_status = "PAID"')
    m = Member(server, "filter")
    order_ids = orders(server, next(users_), 3)
    server.call("TransitionOrder", t.transition_request(order_ids[1], "pay"))
    m.wait(1)
    t.equal((m.events[0].order_id, m.events[0].after.status), (order_ids[1], "PAID"))
    m.ack(m.events[0])
    m.until(lambda: m.progress and m.progress[-1] >= t.seconds_of(m.events[0].commit_time), "progress")
    t.equal(m.progress, sorted(m.progress))
    m.half_close()
    t.equal(len(m.events), 1)


@t.test("what a stream may not say ends it, naming the field")
def _(server):
    group(server, "bad", start=st.ConsumerGroup.LATEST)
    Open, Credit, Ack, Nack = st.SubscribeRequest.Open, st.SubscribeRequest.Credit, st.SubscribeRequest.Ack, st.SubscribeRequest.Nack
    for fields, reason, at in (
            (dict(open_=Open(group="bad")), "FIELD_INVALID", "open.member_id"), (dict(open_=Open(group="bad", member_id="m" * 65)), "LIMIT_EXCEEDED", "open.member_id"),
            (dict(open_=Open(group="no name", member_id="m")), "FIELD_INVALID", "open.group"), (dict(open_=Open(group="bad", member_id="m", zone="z" * 65)), "LIMIT_EXCEEDED", "open.zone")):
        t.equal([f for f, _ in Member(server, "bad", credit=0, **fields).refused("INVALID_ARGUMENT", reason).violations], [at])
    Member(server, "nobody", credit=0).refused("NOT_FOUND", "GROUP_NOT_FOUND")
    for message, reason, at in (
            (dict(credit=Credit(events=0)), "FIELD_INVALID", "credit.events"), (dict(credit=Credit(events=1000001)), "FIELD_INVALID", "credit.events"),
            (dict(credit=Credit(events=999001)), "FIELD_INVALID", "credit.events"),  # with the 1,000 that it has
            (dict(ack=Ack(event_ids=["1:1", "x"])), "FIELD_INVALID", "ack.event_ids[1]"), (dict(extend=Ack(event_ids=["16384:1"])), "FIELD_INVALID", "extend.event_ids[0]"),
            (dict(ack=Ack(event_ids=["1:1"] * 10001)), "LIMIT_EXCEEDED", "ack.event_ids"), (dict(nack=Nack(event_id="1:0")), "FIELD_INVALID", "nack.event_id"),
            (dict(nack=Nack(event_id="1:1", delay=duration(-1))), "FIELD_INVALID", "nack.delay"), (dict(open=Open(group="bad", member_id="m")), "FIELD_INVALID", "open"), (dict(), "FIELD_INVALID", "msg")):
        m = Member(server, "bad")
        m.send(**message)
        t.equal([f for f, _ in m.refused("INVALID_ARGUMENT", reason).violations], [at])
    m = Member(server, "bad")
    m.ack("1:1")
    m.nack(st.ChangeEvent(event_id="2:2"))
    m.until(lambda: len(m.stale) == 2, "stale")
    t.equal(sorted(m.stale), ["1:1", "2:2"])
    m.half_close()
    lag_is(server, "bad", members=0)


@t.test("who does not read holds nobody up")
def _(server):
    group(server, "stuck", start=st.ConsumerGroup.LATEST, payload=pb.ORDER_VIEW_FULL)
    client = server.new_client(options=[("grpc.http2.lookahead_bytes", 65536)])
    requests = queue.Queue()
    requests.put(st.SubscribeRequest(open=st.SubscribeRequest.Open(group="stuck", member_id="stuck")))
    requests.put(st.SubscribeRequest(credit=st.SubscribeRequest.Credit(events=100000)))
    call = client.stub("Subscribe")(iter(requests.get, None))  # and nobody reads
    group(server, "reads", start=st.ConsumerGroup.LATEST)
    users = [next(users_) for _ in range(300)]
    for u in users:
        server.call("CreateOrder", t.create_request(user_id=u, item_count=40))
    t.equal(len(consume(server, "reads", 300)), 300)
    call.cancel()
    requests.put(None)
    client.close()
    t.equal(len(consume(server, "stuck", 300, "other")), 300)


# ---- acks in transitions
@t.test("a transition acks its event in the same commit, alone and in a batch; both or neither")
def _(server):
    group(server, "acks", start=st.ConsumerGroup.LATEST, filter='type = "CREATED"', key_window=4)
    user, other = next(users_), next(users_)
    a, b, c = orders(server, user, 3)
    orders(server, other, 1)
    m = Member(server, "acks").wait(4)
    events = {e.order_id: e for e in m.events}
    ref = lambda e, name="acks": pb.AckRef(group=name, event_id=e.event_id)  # noqa: E731
    dry = t.transition_request(a, "pay", ack=ref(events[a]))
    dry.options.validate_only = True
    t.equal(server.call("TransitionOrder", dry).order.status, "PAID")
    lag_is(server, "acks", in_flight=4)
    request = t.transition_request(a, "pay", ack=ref(events[a]))
    t.equal(server.call("TransitionOrder", request).order.status, "PAID")
    lag_is(server, "acks", in_flight=3)
    t.true(server.call("TransitionOrder", request).replayed, "the same request again")
    foreign = next(e for e in m.events if e.user_id == other)
    for e in (events[a], foreign):  # settled already; of another user's slot
        f = t.refused(lambda: server.call("TransitionOrder", t.transition_request(b, "pay", ack=ref(e))), "FAILED_PRECONDITION", "ACK_NOT_IN_FLIGHT")
        t.equal(f.metadata["event_id"], e.event_id)
    t.refused(lambda: server.call("TransitionOrder", t.transition_request(b, "pay", ack=ref(events[b], "acks-2"))), "NOT_FOUND", "GROUP_NOT_FOUND")
    t.equal(server.call("GetOrder", order_id=b).status, "PENDING_PAYMENT")
    f = t.refused(lambda: server.call("TransitionOrder", t.transition_request(b, "ship", ack=ref(events[b]))), "FAILED_PRECONDITION", "STATUS_MISMATCH")
    lag_is(server, "acks", in_flight=3)
    done = server.call("BatchTransitionOrders", requests=[t.transition_request(b, "pay", ack=ref(events[b])), t.transition_request(c, "pay", ack=ref(events[a])), t.transition_request(c, "pay", ack=ref(events[c], "nobody"))])
    t.equal([t.status_reason(r.error)[1] if r.HasField("error") else r.ok.order.status for r in done.results], ["PAID", "ACK_NOT_IN_FLIGHT", "GROUP_NOT_FOUND"])
    m.ack(events[c], foreign)
    t.equal(m.half_close(), None)
    lag_is(server, "acks", events=0, in_flight=0)
    server.call("DeleteConsumerGroup", group="acks")
    group(server, "acks")
    t.refused(lambda: server.call("TransitionOrder", t.transition_request(c, "pay", ack=ref(events[c]))), "FAILED_PRECONDITION", "ACK_NOT_IN_FLIGHT")


# ---- dead letters
def letters(server, name, **fields):
    """All of them, in pages of 2."""
    found, token = [], ""
    while True:
        page = server.call("ListDeadLetters", group=name, page_size=2, page_token=token, **fields)
        t.true(len(page.letters) <= 2, "a page is too long")
        found += page.letters
        token = page.next_page_token
        if not token:
            return found


@t.test("attempts that are used up make one dead letter; list, filter, redrive, purge, with dry runs")
def _(server):
    group(server, "dead", start=st.ConsumerGroup.LATEST, retry=st.RetryPolicy(max_attempts=2, min_backoff=duration(0.01), max_backoff=duration(0.02)))
    group(server, "other", start=st.ConsumerGroup.LATEST)
    users = [next(users_) for _ in range(5)]
    for u in users:
        orders(server, u, 2)
    m, done = Member(server, "dead"), 0
    while done < 15:  # the first of each user fails twice, the second is fine
        m.wait(done + 1)
        for e in m.events[done:]:
            first = e.event_id == next(x.event_id for x in m.events if x.user_id == e.user_id)
            m.nack(e, error="broken: " + e.user_id) if first else m.ack(e)
            done += 1
    lag_is(server, "dead", events=0, in_flight=0, dead_letters=5)
    found = letters(server, "dead")
    t.equal(sorted(d.event.user_id for d in found), sorted(users))
    t.equal([(d.event.slot, d.event.seq) for d in found], sorted((d.event.slot, d.event.seq) for d in found))
    t.true(all(d.attempts == 2 and d.error == "broken: " + d.event.user_id and not d.key_parked and d.dead_time.seconds for d in found), found)
    one = 'user_id = "%s"' % users[0]
    t.equal([d.event.user_id for d in letters(server, "dead", filter=one)], [users[0]])
    t.equal(len(letters(server, "other")), 0)
    t.refused(lambda: server.call("ListDeadLetters", group="dead", filter=one, page_token=server.call("ListDeadLetters", group="dead", page_size=1).next_page_token), "INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
    t.refused(lambda: server.call("ListDeadLetters", group="dead", filter="user_id ="), "INVALID_ARGUMENT", "FILTER_INVALID")
    t.equal(server.call("RedriveDeadLetters", group="dead", dry_run=True).redriven, 5)
    t.equal(server.call("PurgeDeadLetters", group="dead", filter=one, dry_run=True).purged, 1)
    t.equal(len(letters(server, "dead")), 5)
    t.equal(server.call("PurgeDeadLetters", group="dead", filter=one).purged, 1)
    t.equal(server.call("RedriveDeadLetters", group="dead", max_per_second=1000).redriven, 4)
    m.wait(19)
    t.equal(sorted(e.user_id for e in m.events[15:]), sorted(users[1:]))
    t.true(all(e.delivery_attempt == 1 for e in m.events[15:]), "a redriven letter begins anew")
    m.ack(*m.events[15:])
    t.equal(m.half_close(), None)
    lag_is(server, "dead", events=0, dead_letters=0)
    t.equal(len(letters(server, "dead")), 0)
    for method in ("ListDeadLetters", "RedriveDeadLetters", "PurgeDeadLetters"):
        t.refused(lambda: server.call(method, group="nobody"), "NOT_FOUND", "GROUP_NOT_FOUND")
    server.call("DeleteConsumerGroup", group="other")


@t.test("nack dead makes a dead letter at once; PARK keeps the key back until the redrive")
def _(server):
    group(server, "park", start=st.ConsumerGroup.LATEST, retry=st.RetryPolicy(on_exhausted=st.RetryPolicy.DEAD_LETTER_AND_PARK_KEY))
    user, other = next(users_), next(users_)
    orders(server, user, 2), orders(server, other, 2)
    m = Member(server, "park").wait(2)
    first = next(e for e in m.events if e.user_id == user)
    m.nack(first, dead=True, error="never")
    m.ack(*[e for e in m.events if e.user_id == other])
    m.wait(3)
    m.ack(m.events[2])
    lag_is(server, "park", dead_letters=1, in_flight=0)
    t.equal([(d.event.event_id, d.key_parked, d.error) for d in letters(server, "park")], [(first.event_id, True, "never")])
    t.true(all(e.user_id == other for e in m.events if e is not first), "a parked key went on")
    t.equal(server.call("RedriveDeadLetters", group="park").redriven, 1)
    m.wait(4)
    t.equal(m.events[3].event_id, first.event_id)
    m.ack(m.events[3])
    m.wait(5)
    t.equal((m.events[4].user_id, m.events[4].seq), (user, first.seq + 1))
    m.ack(m.events[4])
    t.equal(m.half_close(), None)
    lag_is(server, "park", events=0, dead_letters=0, blocked_keys=0)


@t.test("orders that had no event: a snapshot tells each once, by an id of its own, to be acked, nacked, killed, redriven, sought")
def _(server):
    start, park = st.ConsumerGroup.SNAPSHOT_THEN_TAIL, st.RetryPolicy.DEAD_LETTER_AND_PARK_KEY
    user = "quiet-%s" % next(users_)
    one = 'user_id = "%s"' % user
    ids = t.import_untold(server, user, 4)
    group(server, "quiet", start=start, filter=one, payload=pb.ORDER_VIEW_FULL, retry=st.RetryPolicy(on_exhausted=park, min_backoff=duration(0.01)))
    t.equal(server.call("GetGroupLag", group="quiet").snapshot_orders_left >= 4, True)
    m = Member(server, "quiet").wait(1)
    first = m.events[0]
    t.equal((first.type, first.seq, first.order_id, first.after), (st.ChangeEvent.SNAPSHOT, 0, min(ids), server.call("GetOrder", order_id=min(ids))))
    t.true(int(first.event_id.split(":")[1]) >= 2**62, first.event_id)
    m.nack(first)
    m.wait(2)
    t.equal((m.events[1].event_id, m.events[1].delivery_attempt), (first.event_id, 2))
    m.nack(m.events[1], dead=True, error="never")
    lag_is(server, "quiet", dead_letters=1)
    server.call("TransitionOrder", t.transition_request(first.order_id, "pay"))
    t.equal([(d.event.event_id, d.event.seq, d.key_parked, d.error) for d in letters(server, "quiet")], [(first.event_id, 0, True, "never")])
    lag_is(server, "quiet", events=0, in_flight=0, dead_letters=1)  # the rest of the key waits behind it as letters: orders, and the change
    t.equal(m.half_close(), None)
    server.kill()  # nothing but rows is left of it
    server.start()
    t.equal(server.call("RedriveDeadLetters", group="quiet").redriven, 1)
    m = Member(server, "quiet")
    for n in range(5):  # the orders, and behind them the change
        m.wait(n + 1)
        if n == 1:  # with a transition of the order itself, which takes a seq then
            ack = pb.AckRef(group="quiet", event_id=m.events[1].event_id)
            server.call("TransitionOrder", t.transition_request(m.events[1].order_id, "pay", ack=ack))
            t.refused(lambda: server.call("TransitionOrder", t.transition_request(m.events[1].order_id, "ship", ack=ack)), "FAILED_PRECONDITION", "ACK_NOT_IN_FLIGHT")
        else:
            m.ack(m.events[n])
    m.wait(6)
    m.ack(m.events[5])
    t.equal([e.order_id for e in m.events[:4]], sorted(ids))
    t.equal([(e.order_id, e.seq, e.after.version) for e in m.events[4:6]], [(m.events[0].order_id, 1, 2), (m.events[1].order_id, 2, 2)])
    lag_is(server, "quiet", events=0, in_flight=0, dead_letters=0, blocked_keys=0, snapshot_orders_left=0)
    seen = m.events[:]
    server.call("SeekConsumerGroup", group="quiet", start=start)
    for n in range(6, 10):  # as they are now: two have a seq
        m.wait(n + 1)
        m.ack(m.events[n])
    again = {e.order_id: (e.event_id, e.seq, e.after.version) for e in m.events[6:]}
    t.equal([again[i] for i in sorted(ids)], [("%d:1" % first.slot, 1, 2), ("%d:2" % first.slot, 2, 2), (seen[2].event_id, 0, 1), (seen[3].event_id, 0, 1)])
    t.equal(m.half_close(), None)
    lag_is(server, "quiet", events=0, in_flight=0, snapshot_orders_left=0)
    server.call("SeekConsumerGroup", group="quiet", start=st.ConsumerGroup.EARLIEST)  # the stream alone: their changes
    t.equal([e.seq for e in consume(server, "quiet", 2)], [1, 2])
    lag_is(server, "quiet", events=0)


# ---- seek
@t.test("BLOCK: orderctl dlq lists, redrives and purges blocked keys, one or all")
def _(server):
    group(server, "block", start=st.ConsumerGroup.LATEST, retry=st.RetryPolicy(on_exhausted=st.RetryPolicy.BLOCK))
    users = [next(users_) for _ in range(3)]
    first = {u: orders(server, u, 2)[0] for u in users}
    m = Member(server, "block").wait(3)
    for e in m.events[:3]:
        m.nack(e, dead=True, error="no stock")
    lag_is(server, "block", blocked_keys=3, events=6, dead_letters=0)
    listed = server.orderctl_json("dlq", "list", "block", "--blocked")
    t.equal(sorted(d["event"]["user_id"] for d in listed), sorted(users))
    t.true(all(d["blocked"] and d["error"] == "no stock" and d["attempts"] == 1 for d in listed), listed)
    t.equal(sorted(int(d["event"]["order_id"]) for d in listed), sorted(first.values()))
    t.true("blocked" in server.orderctl("dlq", "list", "block", "--blocked").stdout, "table")
    t.equal(server.orderctl_json("dlq", "list", "block"), [])
    page = server.call("ListDeadLetters", group="block", blocked=True, page_size=2)
    rest = server.call("ListDeadLetters", group="block", blocked=True, page_size=2, page_token=page.next_page_token)
    t.equal((len(page.letters), len(rest.letters), rest.next_page_token), (2, 1, ""))
    t.refused(lambda: server.call("ListDeadLetters", group="block", page_token=page.next_page_token), "INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")
    t.refused(lambda: server.call("RedriveDeadLetters", group="block", blocked=True, max_per_second=5), "INVALID_ARGUMENT", "FIELD_INVALID")
    one = 'user_id = "%s"' % users[0]
    t.equal(server.call("RedriveDeadLetters", group="block", blocked=True, filter=one, dry_run=True).redriven, 1)
    t.equal(server.orderctl_json("dlq", "redrive", "block", "--blocked", "--filter", one)["redriven"], "1")
    m.wait(4)
    t.equal((m.events[3].order_id, m.events[3].delivery_attempt), (first[users[0]], 1))
    m.ack(m.events[3])
    m.wait(5)
    t.equal(m.events[4].user_id, users[0])
    m.ack(m.events[4])
    t.equal(server.orderctl("dlq", "purge", "block", "--blocked", "--filter", 'user_id = "%s"' % users[1], "--yes").stdout, "1 blocked key goes on without the event that blocked it\n")
    m.wait(6)
    t.true(m.events[5].user_id == users[1] and m.events[5].order_id != first[users[1]], "the one behind it")
    m.ack(m.events[5])
    lag_is(server, "block", blocked_keys=1, events=2)
    t.equal(server.call("PurgeDeadLetters", group="block", blocked=True).purged, 1)
    m.wait(7).ack(m.events[6])
    t.equal(m.half_close(), None)
    lag_is(server, "block", blocked_keys=0, events=0)


@t.test("seek: the dry run counts what then happens, previous_cursor undoes it")
def _(server):
    group(server, "seek", start=st.ConsumerGroup.LATEST)
    users = [next(users_) for _ in range(4)]
    for u in users:
        orders(server, u, 1)
    early = consume(server, "seek", 4)
    middle = max(t.seconds_of(e.commit_time) for e in early) + 0.001
    time.sleep(0.01)
    for u in users:
        orders(server, u, 1)
    late = consume(server, "seek", 4)
    t.true(min(t.seconds_of(e.commit_time) for e in late) >= middle, "clock")
    lag_is(server, "seek", events=0)
    seek = lambda **to: server.call("SeekConsumerGroup", group="seek", **to)  # noqa: E731
    dry = seek(time=t.timestamp(middle), dry_run=True)
    t.equal((dry.events_to_redeliver, dry.events_skipped), (4, 0))
    t.equal(lag_is(server, "seek", events=0).events, 0)
    done = seek(time=t.timestamp(middle))
    t.equal((done.events_to_redeliver, done.events_skipped), (4, 0))
    lag_is(server, "seek", events=4)
    back = seek(cursor=done.previous_cursor, dry_run=True)
    t.equal((back.events_to_redeliver, back.events_skipped), (0, 4))
    t.equal(sorted(e.event_id for e in consume(server, "seek", 4)), sorted(e.event_id for e in late))
    lag_is(server, "seek", events=0)  # the acks are durable
    undone = seek(time=t.timestamp(middle))
    seek(cursor=undone.previous_cursor)
    lag_is(server, "seek", events=0)
    all_ = seek(start=st.ConsumerGroup.EARLIEST)
    t.true(all_.events_to_redeliver >= 8, all_)
    m = Member(server, "seek").wait(4)  # a seek while it reads: what it holds is taken back, and it goes on
    seek(start=st.ConsumerGroup.LATEST)
    new = orders(server, users[0], 1)
    m.until(lambda: m.events[-1].order_id == new[0], "the new order")
    m.ack(m.events[-1])
    t.equal(m.half_close(), None)
    lag_is(server, "seek", events=0)
    t.refused(lambda: seek(), "INVALID_ARGUMENT", "FIELD_INVALID")
    t.refused(lambda: seek(start=st.ConsumerGroup.AT_TIME), "INVALID_ARGUMENT", "FIELD_INVALID")
    t.refused(lambda: seek(cursor=b"abc"), "INVALID_ARGUMENT", "CURSOR_INVALID")
    t.refused(lambda: server.call("SeekConsumerGroup", group="nobody", start=st.ConsumerGroup.EARLIEST), "NOT_FOUND", "GROUP_NOT_FOUND")


@t.test("seek: kill -9 in the middle moves nothing or all, and says so while it goes on")
def _():
    with t.Server(cores=2, partitions=8) as server:
        group(server, "cut", start=st.ConsumerGroup.LATEST)
        all_ = sum(len(orders(server, next(users_), 2)) for _ in range(30))
        lag_is(server, "cut", events=all_)
        at_end = False

        def seek(client, start):
            try:
                client.call("SeekConsumerGroup", group="cut", start=start, timeout=5)
            except t.Failure as f:
                t.true(f.code_name in ("UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED"), f)

        for delay in (0.0, 0.001, 0.002, 0.004, 0.006, 0.01):
            start = st.ConsumerGroup.EARLIEST if at_end else st.ConsumerGroup.LATEST
            call = threading.Thread(target=seek, args=(t.Client(server.address), start))
            call.start()
            time.sleep(delay)
            server.kill()
            call.join()
            server.start()
            t.until(lambda: not server.call("GetConsumerGroup", group="cut").HasField("seeking_since"), WAIT_S, "the seek is over")
            left = server.call("GetGroupLag", group="cut").events
            t.true(left in (0, all_), "%d of %d: some partitions have moved" % (left, all_))
            at_end = left == 0
        server.call("SeekConsumerGroup", group="cut", start=st.ConsumerGroup.LATEST)
        lag_is(server, "cut", events=0)
        t.true("seek " not in server.orderctl("group", "show", "cut").stdout, "nothing goes on")


@t.test("lag and seek count what the filter wants, whether anybody has looked at it or not")
def _(server):
    group(server, "paid", start=st.ConsumerGroup.LATEST, filter='type = "TRANSITIONED" AND entry.to_status = "PAID"')
    ids = [o for _ in range(4) for o in orders(server, next(users_), 2)]
    lag = server.call("GetGroupLag", group="paid")
    t.equal((lag.events, lag.age.seconds, lag.age.nanos, lag.estimated), (0, 0, 0, False))
    for o in ids[::2]:
        server.call("TransitionOrder", t.transition_request(o, "pay"))
    lag = server.call("GetGroupLag", group="paid")
    t.equal((lag.events, lag.estimated), (4, False))
    t.true(lag.age.nanos > 0, lag)
    seek = lambda **to: server.call("SeekConsumerGroup", group="paid", **to)  # noqa: E731
    dry = seek(start=st.ConsumerGroup.LATEST, dry_run=True)
    t.equal((dry.events_to_redeliver, dry.events_skipped, dry.estimated), (0, 4, False))
    consume(server, "paid", 4)
    lag_is(server, "paid", events=0)
    hour = t.timestamp(time.time() - 3600)
    t.until(lambda: seek(start=st.ConsumerGroup.LATEST, dry_run=True).events_skipped == 0, WAIT_S, "the acks are durable")
    t.true(seek(time=hour, dry_run=True).events_to_redeliver >= 4, "the same hour")
    whole = seek(start=st.ConsumerGroup.EARLIEST, dry_run=True)
    answers = server.call("ReadChanges", stop_at_end=True, filter='type = "TRANSITIONED" AND entry.to_status = "PAID"')
    t.equal(whole.events_to_redeliver, sum(len(a.events) for a in answers))
    server.call("DeleteConsumerGroup", group="paid")


# ---- crash
@t.test("kill -9 in the middle: nothing is lost, what comes again was in flight or acked in the last second")
def _():
    with t.Server(cores=1, partitions=2) as server:
        group(server, "crash")
        users = [next(users_) for _ in range(20)]
        expected = {o for u in users for o in orders(server, u, 5)}
        m = Member(server, "crash")
        done = 0
        while done < 50:
            m.wait(done + 1)
            new = m.events[done:]
            done += len(new)
            m.ack(*new)
        lag_is(server, "crash", in_flight=min(20, 100 - done))
        server.kill()
        m.until(lambda: m.ended, "the end")
        t.equal(m.error.code_name, "UNAVAILABLE")
        m.cancel()
        server.start()
        t.equal([g.group for g in server.call("ListConsumerGroups").groups], ["crash"])
        m2 = Member(server, "crash", "m-2")
        seen = {e.event_id for e in m.events}
        done = 0
        while len({e.order_id for e in m.events + m2.events}) < 100 or server.call("GetGroupLag", group="crash").events:
            with m2.changed:
                m2.changed.wait_for(lambda: len(m2.events) > done, 0.5)
            new = m2.events[done:]
            done += len(new)
            m2.ack(*new)
        t.equal({e.order_id for e in m.events + m2.events}, expected)
        in_order(m2.events)
        again = [e for e in m2.events if e.event_id in seen]
        t.true(len(again) <= len(seen), "more came again than had gone out")
        t.equal(m2.half_close(), None)
        t.equal(server.stop(), 0)


@t.test("groups that read behind the tail, from the store, get every event once; a member with nothing to do costs nothing")
def _():
    with t.Server(cores=2, partitions=4) as server:
        made = set()
        for i in range(30):
            answer = server.call("BatchCreateOrders", requests=[t.create_request(user_id="reader-%d-%d" % (i, k)) for k in range(100)])
            made |= {r.ok.order.order_id for r in answer.results}
        t.equal(len(made), 3000)
        t.equal(server.stop(), 0)  # with it the tail goes
        server.start()
        for i in range(4):
            name = "store-%d" % i
            group(server, name, ordering_key=st.ConsumerGroup.ORDER)
            events = consume(server, name, len(made), credit=100000)
            t.equal((len(events), {e.order_id for e in events}), (len(made), made), name)
            in_order(events)
        lag_is(server, "store-0", events=0)
        t.equal(server.stop(), 0)
        server.start()
        m = Member(server, "store-0")
        lag_is(server, "store-0", members=1)
        def rests():
            before = server.cpu_s()
            time.sleep(2)
            return server.cpu_s() - before < 0.25 * t.SLOW
        t.until(rests, what="two seconds without an event take no CPU")  # at first what the start has left to do may
        t.equal((m.half_close(), len(m.events)), (None, 0))


@t.test("a server that shuts down ends its streams with UNAVAILABLE, DRAINING")
def _():
    with t.Server(cores=2, partitions=4) as server:
        group(server, "drain")
        m = Member(server, "drain")
        lag_is(server, "drain", members=1)
        t.equal(server.stop(), 0)
        m.refused("UNAVAILABLE", "DRAINING")


# ---- definitions that were half written
def half_made(server, name, cut):
    """Creates a group, and cuts the call off as soon as the authority has it: cut(future). true: some partition has it not."""
    client = server.new_client()
    future = client.stub("CreateConsumerGroup").future(st.CreateConsumerGroupRequest(group=st.ConsumerGroup(group=name)))
    while name not in [g.group for g in server.call("ListConsumerGroups", page_size=1000).groups]:
        t.true(not future.done() or future.exception() is None, "the create was refused")
    cut(future)
    client.close()
    try:
        server.call("GetGroupLag", group=name)  # asks every partition
        return False
    except t.Failure as f:
        t.equal(f.reason, "GROUP_NOT_FOUND")
        return True


def whole(server, name):
    def asked():
        try:
            return server.call("GetGroupLag", group=name)
        except t.Failure as f:
            t.equal(f.reason, "GROUP_NOT_FOUND")
            return None
    t.until(asked, WAIT_S, "every partition has the group")


@t.test("a create that is cut off half way is finished by the node, and one that a kill -9 cut off when it starts again")
def _():
    with t.Server(cores=1, partitions=64) as server:
        halves = []
        for n in range(40):
            if half_made(server, "half-%d" % n, lambda future: future.cancel()):
                halves.append("half-%d" % n)
                if len(halves) == 2:
                    break
        t.true(halves, "no create was cut off half way in 40 tries")
        for name in halves:
            whole(server, name)
        orders(server, "half", 3)
        t.equal(len(consume(server, halves[0], 3)), 3)

        def killed(future):
            server.kill()
            future.cancel()
            server.start()
        half_made(server, "half-killed", killed)  # whatever was written of it
        whole(server, "half-killed")
        t.equal(len(consume(server, "half-killed", 3)), 3)
        t.equal(server.stop(), 0)


if __name__ == "__main__":
    t.run(cores=2, partitions=4)
