#!/usr/bin/python3
"""Three real processes as one cluster. usage: test_cluster.py BUILD [PART OF A TEST'S NAME]"""
import os
import shutil
import signal
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from google.protobuf import duration_pb2, field_mask_pb2

import members
import orderdb_test as t
from cluster import Cluster, run
from orderdb_test import equal, test, true, until

USERS = ["cluster-user-%d" % i for i in range(24)]
FAILOVER_S = 10  # a guard against hanging on a busy machine; the figure (3 s) is told, and held on a quiet one


class Writer:
    """Creates and pays orders, each request tried with its request_id at one node after another until it is answered for good. Remembers what was acknowledged."""

    def __init__(self, cluster):
        self.cluster, self.clients, self.acked, self.slowest_s = cluster, {}, {}, 0

    def client(self, node):
        if node not in self.clients:
            self.clients[node] = t.Client(node.address)
        return self.clients[node]

    def call(self, method, request, first=0, wait_s=60):
        begun, tries = time.monotonic(), first
        while True:
            node = self.cluster.nodes[tries % len(self.cluster.nodes)]
            tries += 1
            try:
                answer = self.client(node).call(method, request, timeout=2)
                self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
                return answer
            except t.Failure as f:
                if f.code_name not in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                    raise
                true(time.monotonic() - begun < wait_s * t.SLOW, "no answer within %d s: %s" % (wait_s, f))
                if tries % len(self.cluster.nodes) == first % len(self.cluster.nodes):
                    threading.Event().wait(0.05)  # everybody has been asked: as a client that backs off

    def create(self, user, first=0):
        order = self.call("CreateOrder", t.create_request(user_id=user), first).order
        self.acked[order.order_id] = order.version
        return order

    def pay(self, order, first=0):
        paid = self.call("TransitionOrder", t.transition_request(order.order_id, "pay"), first).order
        self.acked[order.order_id] = paid.version
        return paid

    def check_all(self, first=0):
        for order_id, version in self.acked.items():
            order = self.call("GetOrder", t.pb.GetOrderRequest(order_id=order_id), first)
            true(order.version >= version, "order %d has version %d, acknowledged was %d" % (order_id, order.version, version))


@test("three nodes elect leaders, and say who and where they are")
def _(cluster):
    leaders = cluster.wait_leaders()
    equal(len(leaders), 3)
    for node in cluster.nodes:
        equal(cluster.wait_leaders(node), leaders if cluster.leaders() == leaders else cluster.wait_leaders(node))
    topology = cluster.nodes[0].call("GetTopology")
    equal([(n.node_id, n.state, n.client_address, n.zone) for n in topology.nodes],
          [(i + 1, "UP", n.address, "zone-" + "abc"[i]) for i, n in enumerate(cluster.nodes)])
    equal([n.peer_address for n in topology.nodes], ["127.0.0.1:%d" % n.peer_port for n in cluster.nodes])
    equal([[r.node_id for r in p.replicas] for p in topology.partitions], [[1, 2, 3]] * 3)
    true("zone-b" in cluster.nodes[2].orderctl("status").stdout)
    version = topology.nodes[0].version
    for n in cluster.nodes:  # each has told the others what it runs
        until(lambda: [x.version for x in n.call("GetTopology").nodes] == [version] * 3 and version, what="the version of all")


@test("what is written is on every node, and each node knows who leads")
def _(cluster):
    w = Writer(cluster)
    for i, user in enumerate(USERS):
        w.pay(w.create(user, i), i)
    w.check_all()
    cluster.wait_equal()
    equal([sum(p.orders for p in n.call("GetTopology").partitions) for n in cluster.nodes], [len(USERS)] * 3)


@test("any node serves any call, lists and batches of all partitions among them; a plain client sees no NOT_LEADER")
def _(cluster):
    cluster.wait_leaders()
    for node in cluster.nodes:
        orders = [node.call("CreateOrder", t.create_request(user_id=u)).order for u in USERS]
        got = node.call("BatchGetOrders", t.pb.BatchGetOrdersRequest(order_ids=[o.order_id for o in orders]))
        equal([o.order_id for o in got.orders], [o.order_id for o in orders])
        paid = node.call("BatchTransitionOrders", t.pb.BatchTransitionOrdersRequest(requests=[t.transition_request(o.order_id, "pay") for o in orders]))
        equal([r.ok.order.status for r in paid.results], ["PAID"] * len(orders))
        equal(len({r.ok.entry.chain_hash for r in paid.results}), len(orders))
        made = node.call("BatchCreateOrders", t.pb.BatchCreateOrdersRequest(atomic=True, requests=[t.create_request(user_id=USERS[0]) for _ in range(3)]))
        equal(len({r.ok.order.order_id for r in made.results}), 3)
        for o in orders:
            page = node.call("ListOrders", user_id=o.user_id, page_size=5)
            true(o.order_id in [x.order_id for x in page.orders], "its own list")
            equal([e.event for e in node.call("ListOrderHistory", order_id=o.order_id).entries][1:], ["pay"])
        again = t.create_request(user_id=USERS[1])
        first = node.call("CreateOrder", again)
        equal((first.replayed, node.call("CreateOrder", again).replayed), (False, True))
        for other in cluster.nodes:
            f = t.refused(lambda: other.call("TransitionOrder", t.transition_request(orders[0].order_id, "pay")), "FAILED_PRECONDITION", "STATUS_MISMATCH")
            equal((f.metadata["status"], f.metadata["already_there"]), ("PAID", "true"), "a refusal's details travel")
    true(sum(n.metrics()["orderdb_forward_served_total"] for n in cluster.nodes) > len(USERS), "calls were forwarded")


@test("a group's lag, seek and dead letters, asked at any node, are of all partitions")
def _(cluster):
    cluster.wait_leaders()
    st, nodes = t.stream_pb2, cluster.nodes
    nodes[0].call("CreateConsumerGroup", group=st.ConsumerGroup(group="anywhere", start=st.ConsumerGroup.LATEST))
    for u in USERS:
        nodes[1].call("CreateOrder", t.create_request(user_id=u))
    for n, other in zip(nodes, nodes[1:] + nodes[:1]):
        equal(n.call("GetGroupLag", group="anywhere").events, len(USERS))
        equal(n.call("SeekConsumerGroup", group="anywhere", start=st.ConsumerGroup.LATEST, dry_run=True).events_skipped, len(USERS))
        moved = n.call("SeekConsumerGroup", group="anywhere", start=st.ConsumerGroup.LATEST)
        equal((moved.events_skipped, other.call("GetGroupLag", group="anywhere").events), (len(USERS), 0))
        back = other.call("SeekConsumerGroup", group="anywhere", cursor=moved.previous_cursor)
        equal((back.events_to_redeliver, n.call("GetGroupLag", group="anywhere").events), (len(USERS), len(USERS)))
        equal(len(n.call("ListDeadLetters", group="anywhere", filter='type = "CREATED"').letters), 0)
        equal(n.call("RedriveDeadLetters", group="anywhere").redriven, 0)
        equal(n.call("PurgeDeadLetters", group="anywhere").purged, 0)
    nodes[2].call("DeleteConsumerGroup", group="anywhere")


@test("a member at any node gets the events of all partitions, once each and in order; several at several nodes share them; dead letters are reached from anywhere")
def _(cluster):
    cluster.wait_leaders()
    st, nodes = t.stream_pb2, cluster.nodes
    members.group(nodes[0], "reach", start=st.ConsumerGroup.LATEST)
    for n in nodes:
        expected = [o for u in USERS for o in members.orders(n, u, 2)]
        events = members.consume(n, "reach", len(expected))
        equal(sorted(e.order_id for e in events), sorted(expected))
        members.in_order(events)
        equal({e.delivery_attempt for e in events}, {1})
        members.lag_is(nodes[0], "reach", events=0, in_flight=0, members=0)
    # one event at a time, whichever partition it is of; the stream that was opened later stays, at whatever node
    for u in USERS:
        members.orders(nodes[0], u, 1)
    first = members.Member(nodes[1], "reach", "same", credit=1).wait(1)
    m = members.Member(nodes[2], "reach", "same", credit=1)
    first.refused("ABORTED", "MEMBER_REPLACED")
    for i in range(len(USERS)):
        m.wait(i + 1)
        m.ack(m.events[i])
        m.send(credit=st.SubscribeRequest.Credit(events=1))
    equal((len({e.order_id for e in m.events}), m.half_close()), (len(USERS), None))
    # two share; one is gone without a word, what it held goes to the other
    a, b = members.Member(nodes[0], "reach", "a"), members.Member(nodes[1], "reach", "b")
    members.lag_is(nodes[2], "reach", members=2)
    for u in USERS:
        members.orders(nodes[2], u, 1)
    until(lambda: len(a.events) + len(b.events) == len(USERS), 20, "all has come")
    true(a.events and b.events, "both have some")
    a.cancel()
    b.wait(len(USERS))
    equal({e.delivery_attempt for e in b.events}, {1}, "no attempt was counted")
    b.nack(b.events[0], dead=True, error="no")
    b.ack(*b.events[1:])
    members.lag_is(nodes[0], "reach", dead_letters=1, events=0)
    for n in nodes:
        letters = n.call("ListDeadLetters", group="reach", filter='type = "CREATED"').letters
        equal([(x.event.event_id, x.error) for x in letters], [(b.events[0].event_id, "no")])
    for n in nodes:
        equal(n.call("RedriveDeadLetters", group="reach", dry_run=True).redriven, 1)
    equal(nodes[0].call("RedriveDeadLetters", group="reach").redriven, 1)
    b.wait(len(USERS) + 1)
    b.ack(b.events[-1])
    members.lag_is(nodes[1], "reach", dead_letters=0, events=0)
    equal(b.half_close(), None)
    nodes[1].call("DeleteConsumerGroup", group="reach")


@test("a member outlives the leaders that it reads from: kill -9 of each loses nothing, keeps the order, and counts no attempt")
def _(cluster):
    cluster.wait_leaders()
    st, w, node = t.stream_pb2, Writer(cluster), cluster.nodes[0]
    members.group(node, "outlives", start=st.ConsumerGroup.LATEST)
    m = members.Member(node, "outlives", credit=100000)
    acked, stop, made = [0], threading.Event(), []

    def consume():
        while not stop.is_set():
            with m.changed:
                m.changed.wait_for(lambda: len(m.events) > acked[0], 0.1)
                new = m.events[acked[0]:]
            if new:
                acked[0] += len(new)
                m.ack(*new)
    consumer = threading.Thread(target=consume)
    consumer.start()
    for victim in cluster.nodes[1:]:
        for i in range(3):
            for u in USERS:
                made.append(w.create(u).order_id)
            if i == 0:
                victim.kill()
        victim.start()
        cluster.wait_leaders()
    m.until(lambda: {e.order_id for e in m.events} == set(made), "every order has come")
    members.lag_is(node, "outlives", events=0, in_flight=0)
    stop.set()
    consumer.join()
    equal(m.half_close(), None)
    first = {}
    for e in m.events:
        first.setdefault(e.event_id, e)
    members.in_order(first.values())
    equal({e.delivery_attempt for e in m.events}, {1})
    node.call("DeleteConsumerGroup", group="outlives")


@test("a limit, a machine, groups: set at one node, known to all")
def _(cluster):
    cluster.wait_leaders()
    admin, nodes = t.admin_pb2, cluster.nodes
    for i, n in enumerate(nodes):
        limit = admin.Resource(limit=admin.RateLimit(name="limit-%d" % i, scope="global", method="OrderService/GetOrder", per_second=1e6, burst=1000000))
        equal(list(n.call("ApplyResource", resource=limit).effects), ["limit limit-%d created" % i])
        machine = n.call("ListResources", kind="machine").resources[0].machine
        machine.name, machine.version = "machine-%d" % i, 0
        answer = n.call("ApplyResource", resource=admin.Resource(machine=machine))
        equal(answer.resource.machine.version, 1)
        for user in USERS[:6]:  # of every partition, at once
            equal(n.call("CreateOrder", t.create_request(user_id=user, machine="machine-%d@1" % i)).order.machine, "machine-%d@1" % i)
        n.call("CreateConsumerGroup", group=t.stream_pb2.ConsumerGroup(group="group-%d" % i))
    for n in nodes:
        equal(sorted(r.limit.name for r in n.call("ListResources", kind="limit").resources), ["limit-0", "limit-1", "limit-2"])
        equal(sorted(g.group for g in n.call("ListConsumerGroups").groups), ["group-0", "group-1", "group-2"])
    nodes[2].call("ApplyResource", resource=admin.Resource(limit=admin.RateLimit(name="none", scope="global", method="OrderService/GetRequestOutcome", per_second=0.001, burst=1)))

    def limited():
        try:
            nodes[0].call("GetRequestOutcome", user_id="u", request_id=t.request_id())
            return False
        except t.Failure as f:
            return f.reason == "RATE_LIMITED"
    until(limited, what="a limit that was set at node 3 holds at node 1")


@test("the change stream is whole, read from any node, and goes on at another")
def _(cluster):
    cluster.wait_equal()
    events, cursor = [], b""
    for node in cluster.nodes:
        seen = set()
        for answer in node.call("ReadChanges", stop_at_end=True):
            seen.update((e.slot, e.seq) for e in answer.events)
            cursor = answer.cursor
        events.append(seen)
    true(len(events[0]) > 2 * len(USERS), "there are some")
    equal([len(e) for e in events], [len(events[0])] * 3)
    order = cluster.nodes[0].call("CreateOrder", t.create_request(user_id=USERS[0])).order
    for node in cluster.nodes:  # a cursor of the last one, everywhere
        found = until(lambda: [e.order_id for a in node.call("ReadChanges", cursor=cursor, stop_at_end=True) for e in a.events], what="the next event")
        equal(found, [order.order_id])


@test("kill -9 of a leader: writes go on, nothing is lost, and it comes back and catches up")
def _(cluster):
    w = Writer(cluster)
    orders = [w.create(user) for user in USERS]
    victim = cluster.node(cluster.wait_leaders()[0])
    w.slowest_s = 0
    victim.kill()
    survivor = next(n for n in cluster.up() if n is not victim)
    for i, order in enumerate(orders):
        if i % 2:
            w.pay(order, i)
        else:  # a stock client without retries, of one node alone: it waits for the new leader, and sees no error
            begun = time.monotonic()
            equal(survivor.call("TransitionOrder", t.transition_request(order.order_id, "pay"), timeout=10).order.status, "PAID")
            w.slowest_s = max(w.slowest_s, time.monotonic() - begun)
        w.create(USERS[i], i)
    true(w.slowest_s < FAILOVER_S * t.SLOW, "the slowest write took %.1f s" % w.slowest_s)
    w.check_all()
    print("# writes went on after %.2f s" % w.slowest_s)
    victim.start()
    cluster.wait_equal()
    equal(len({sum(p.orders for p in n.call("GetTopology").partitions) for n in cluster.nodes}), 1)
    w.check_all()
    true(cluster.nodes[0].metrics()["orderdb_peer_frames_bad_total"] == 0, "frames were refused")


def led_by(cluster, node_id):
    """A user whose partition that node leads."""
    topology = cluster.nodes[0].call("GetTopology")
    slots = [(s.first, s.last) for p in topology.partitions if p.leader_node_id == node_id for s in p.slots]
    for user in ("led-%d" % i for i in range(1000)):
        order = cluster.nodes[0].call("CreateOrder", t.create_request(user_id=user)).order
        slot = order.order_id >> 8 & 0x3fff
        if any(first <= slot <= last for first, last in slots):
            return order
    raise AssertionError("node %d leads nothing" % node_id)


@test("a leader that was stopped for a while shows nothing old when it goes on")
def _(cluster):
    stopped = cluster.node(cluster.wait_leaders()[0])
    order = led_by(cluster, cluster.id_of(stopped))
    others = [i for i, n in enumerate(cluster.nodes) if n is not stopped]
    get, answers, bounds = t.pb.GetOrderRequest(order_id=order.order_id), [], [None, duration_pb2.Duration()]
    clients = [t.Client(stopped.address) for _ in range(8)]
    for c in clients:
        c.call("GetOrder", get)  # connected, and then in the sockets of one that does not run

    def read(client, bound):
        try:
            answers.append(client.call("GetOrder", t.pb.GetOrderRequest(order_id=order.order_id, read=t.pb.ReadOptions(max_staleness=bound)), timeout=60).version)
        except t.Failure as f:
            answers.append(f)
    stopped.process.send_signal(signal.SIGSTOP)
    try:
        until(lambda: (cluster.leaders(cluster.nodes[others[0]]) or {}).get(0) not in (None, 0, cluster.id_of(stopped)), what="another leads")
        client = t.Client(cluster.nodes[others[1]].address)
        equal(client.call("TransitionOrder", t.transition_request(order.order_id, "pay"), timeout=30).order.version, 2)
        threads = [threading.Thread(target=read, args=(c, bounds[i % 2])) for i, c in enumerate(clients)]
        for thread in threads:
            thread.start()
        threading.Event().wait(0.3)  # they are sent; nothing tells when
    finally:
        stopped.process.send_signal(signal.SIGCONT)
    for thread in threads:
        thread.join()
    equal(answers, [2] * len(clients))
    cluster.wait_equal()


@test("a read that says how old it may be, or names a write, is answered by the node that it comes to")
def _(cluster):
    leader = cluster.node(cluster.wait_leaders()[0])
    order = led_by(cluster, cluster.id_of(leader))
    other = next(n for n in cluster.nodes if n is not leader)
    second, now = duration_pb2.Duration(seconds=30), duration_pb2.Duration()

    def followed():
        return sum(n.metrics()['orderdb_engine_reads_followed_total{core="0"}'] for n in cluster.nodes)
    before = followed()
    for i in range(3):
        paid = leader.call("UpdateOrder", order=t.pb.Order(order_id=order.order_id, attributes={"n": str(i)}), update_mask=field_mask_pb2.FieldMask(paths=["attributes"]),
                           options=t.pb.WriteOptions(request_id=t.request_id()))
        for bound in (t.pb.ReadOptions(max_staleness=now), t.pb.ReadOptions(at_least=paid.token), t.pb.ReadOptions(at_least=paid.token, max_staleness=second)):
            equal(other.call("GetOrder", order_id=order.order_id, read=bound).version, paid.order.version)
            equal(other.call("BatchGetOrders", order_ids=[order.order_id], read=bound).orders[0].version, paid.order.version)
            equal(len(other.call("ListOrderHistory", order_id=order.order_id, read=bound).entries), paid.order.version)
            equal(other.call("ListOrders", user_id=order.user_id, read=bound).orders[0].version, paid.order.version)
    true(followed() >= before + 12, "the leader was asked, not read from")
    served = leader.metrics()["orderdb_forward_served_total"]
    for _ in range(5):
        other.call("GetOrder", order_id=order.order_id, read=t.pb.ReadOptions(max_staleness=second))
    true(leader.metrics()["orderdb_forward_served_total"] < served + 5, "its own replica is young enough")
    ahead = t.pb.ReadOptions(at_least=t.pb.CommitToken(slot=paid.token.slot, seq=paid.token.seq + 1000))
    for n in cluster.nodes:
        t.refused(lambda: n.call("GetOrder", order_id=order.order_id, read=ahead), "INVALID_ARGUMENT", "FIELD_INVALID")


@test("a node that is stopped hands over what it leads: no error at the others, no election to wait for")
def _(cluster):
    w = Writer(cluster)
    victim = cluster.node(cluster.wait_leaders()[1])
    survivor = next(n for n in cluster.nodes if n is not victim)
    stop, failures, done = threading.Event(), [], []

    def write():
        client = t.Client(survivor.address)
        while not stop.is_set():
            for user in USERS[:6]:
                try:
                    client.call("CreateOrder", t.create_request(user_id=user), timeout=10)
                    done.append(user)
                except t.Failure as f:
                    failures.append(f)
        client.close()
    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: len(done) > 30, what="load runs")
    equal(victim.stop(), 0)
    leaders = cluster.leaders(survivor)
    true(leaders and cluster.id_of(victim) not in leaders.values(), "the leads were handed over before it stopped: %s" % leaders)
    count = len(done)
    until(lambda: len(done) > count + 30, what="load goes on")
    stop.set()
    for thread in threads:
        thread.join()
    equal(failures, [])
    victim.start()
    cluster.wait_equal()
    w.check_all()


@test("a log that has been filled many times over goes on; a disk that is lost comes back by itself")
def _(cluster):
    w, victim = Writer(cluster), cluster.nodes[1]
    users = ["filling-%d" % i for i in range(60)]
    for n in range(20):  # of 200 KiB: twice what the log may take
        requests = [t.create_request(user_id=u, extension=b"x" * 3000) for u in users]
        end = time.monotonic() + 30 * t.SLOW
        while True:  # the log is at its limit until a flush is done: clients send again what was refused
            answer = w.call("BatchCreateOrders", t.pb.BatchCreateOrdersRequest(requests=requests), n)
            refused = [r.error.message for r in answer.results if r.HasField("error")]
            if not refused or time.monotonic() > end or not all("no flush has covered" in m for m in refused):
                break
            time.sleep(0.1)
        equal(refused, [])
        w.acked.update((r.ok.order.order_id, 1) for r in answer.results)
    true(all(n.metrics()['orderdb_log_live_bytes{core="0"}'] <= 2 << 20 for n in cluster.nodes), "the log is bounded")
    victim.kill()
    shutil.rmtree(victim.data_dir)
    victim.start()
    cluster.wait_equal()
    true(victim.metrics()['orderdb_snapshots_taken_total{core="0"}'] > 0, "it got snapshots")
    w.check_all(1)


@test("without a majority nothing is acknowledged, and all goes on when there is one")
def _(cluster):
    w = Writer(cluster)
    order = w.create(USERS[0])
    for n in cluster.nodes[1:]:
        n.kill()
    request = t.transition_request(order.order_id, "pay")
    def answer(timeout):
        try:
            cluster.nodes[0].call("TransitionOrder", request, timeout=timeout)
        except t.Failure as f:
            return f
        raise AssertionError("acknowledged by one of three")
    f = answer(10 * t.SLOW)
    if f.reason != "NO_QUORUM":  # it is in the log of a leader that did not know yet that it is alone: nobody can tell
        equal(f.code_name, "DEADLINE_EXCEEDED")
        f = answer(10 * t.SLOW)
    equal((f.code_name, f.metadata["voters"], f.metadata["reachable"], f.retry_delay_s), ("UNAVAILABLE", "3", "1", 1))
    began = time.monotonic()
    equal(answer(60).reason, "NO_QUORUM")
    true(time.monotonic() - began < 30, "who comes later does not wait")
    for n in cluster.nodes[1:]:
        n.start(wait=False)
    for n in cluster.nodes[1:]:
        n.wait_ready()
    equal(w.call("TransitionOrder", request).order.status, "PAID")  # the same request: done once
    equal(w.call("GetOrder", t.pb.GetOrderRequest(order_id=order.order_id)).version, order.version + 1)
    cluster.wait_equal()


@test("strangers at the peer port are turned away, and cost nothing")
def _(cluster):
    node = cluster.nodes[0]
    before = node.metrics()
    for bytes_ in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, b"\xff" * 100, struct.pack("<IBBHI", 1 << 30, 5, 0, 0, 0), struct.pack("<IBBHI", 600, 1, 0, 0, 0)):
        with socket.create_connection(("127.0.0.1", node.peer_port), timeout=10) as s:
            s.sendall(bytes_)
            equal(s.recv(1), b"", "what %r is answered" % bytes_[:10])
    with socket.create_connection(("127.0.0.1", node.peer_port), timeout=20 * t.SLOW) as s:
        equal(s.recv(1), b"", "who says nothing")  # within the handshake's time
    equal(node.metrics()["orderdb_peer_links"], before["orderdb_peer_links"])


@test("who is told otherwise does not get in: another key, other partitions, other replicas, a single node's data, another id")
def _(cluster):
    peers = cluster.nodes[0].flags["peers"]
    other_key = os.path.join(t.TEMP, "other-key")
    with open(other_key, "wb") as f:
        f.write(b"x" * 40)
    base = dict(cores=1, memory_budget="512MiB", cluster_key_file=cluster.key_file, node_id=3, peers=peers)
    for flags, why in ((dict(partitions=3, cluster_key_file=other_key), "another cluster"), (dict(partitions=4), "other --cores or --partitions"), (dict(partitions=3, replicas=2), "another --replicas")):
        node3 = cluster.nodes[2]
        node3.kill()
        with t.Server(start=False, **{**base, **flags}) as stranger:
            stranger.peer_port = node3.peer_port
            stranger.start(wait=False)
            until(lambda: "peer refused" in cluster.nodes[0].log() and why in cluster.nodes[0].log(), what="node 1 says: " + why)
            true(stranger.ready_line is None, "it must not serve")
            stranger.kill()
        node3.start()
    node3.stop()
    for flags, why in ((dict(peers=None, node_id=None, cluster_key_file=None), "is node 3 of a cluster"), (dict(node_id=2), "not that of --node-id 2"), (dict(cluster_key_file=other_key), "another cluster")):
        with t.Server(node3.data_dir, start=False, **{**base, "partitions": 3, **flags}) as again:
            again.start(wait=False)
            equal(again.wait(), 1)
            true(why in again.log(), again.log())
    node3.start()
    with t.Server(memory_budget="512MiB") as single:
        single.stop()
        single.flags.update({**base, "partitions": 2})
        single.start(wait=False)
        equal(single.wait(), 1)
        true("was made by a single node" in single.log(), single.log())
    cluster.wait_leaders()


@test("nodes stop one after the other, and start again with all there was")
def _(cluster):
    w = Writer(cluster)
    for user in USERS[:6]:
        w.create(user)
    equal([n.stop() for n in cluster.nodes], [0, 0, 0])
    cluster.start()
    w.check_all()
    cluster.wait_equal()


def main():
    with Cluster(log_live_size="2MiB", log_segment_size="64KiB") as cluster:
        run(cluster)


if __name__ == "__main__":
    main()
