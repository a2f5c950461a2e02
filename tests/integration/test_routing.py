#!/usr/bin/python3
"""Clients that know where leaders are: WatchTopology, the trailers of calls that were passed on, and the C client that goes by both. usage: test_routing.py BUILD [PART OF A TEST'S NAME]"""
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "abuse"))
import grpc

import h2raw
import orderdb_test as t
from cluster import Cluster, run
from orderdb_test import equal, test, true, until


class Watch:
    """A WatchTopology that is read by a thread of its own."""

    def __init__(self, client):
        self.call, self.messages, self.end = client.stub("WatchTopology")(t.admin_pb2.GetTopologyRequest()), queue.Queue(), None
        self.last = None
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        try:
            for m in self.call:
                self.messages.put(m)
        except grpc.RpcError as e:
            self.end = t.Failure(e)

    def next(self, wait_s=30):
        self.last = self.messages.get(timeout=wait_s * t.SLOW)
        return self.last

    def until(self, holds, what):
        """The newest message so far, or the first one after it, of which it holds."""
        for _ in range(200):
            if self.last is not None and holds(self.last):
                return self.last
            try:
                self.next()
            except queue.Empty:
                break
        raise AssertionError("no message of the topology says: " + what)

    def cancel(self):
        self.call.cancel()
        self.thread.join(30 * t.SLOW)


def leaders_of(topology):
    return {p.partition_id: p.leader_node_id for p in topology.partitions}


def transfer(node, to):
    """Partition 0 to that node. Who leads since a moment ago, or was away, may not have heard of it yet, and refuses: a client asks again."""
    def done():
        try:
            node.call("TransferLeader", partition_id=0, to_node_id=to)
            return True
        except t.Failure as f:
            if (f.code_name, f.reason) != ("UNAVAILABLE", "NOT_LEADER"):
                raise
    until(done, what="node %d takes the lead" % to)


def user_of(node, topology, leader):
    """A user whose partition `leader` leads: the slot stands in the order's id."""
    slots = [(r.first, r.last) for p in topology.partitions if p.leader_node_id == leader for r in p.slots]
    for i in range(1000):
        user = "routing-%d" % i
        slot = node.call("CreateOrder", t.create_request(user_id=user)).order.order_id >> 8 & 16383
        if any(first <= slot <= last for first, last in slots):
            return user
    raise AssertionError("no user is led by node %d" % leader)


@test("WatchTopology of a single node: what is, and the end with its drain")
def _(cluster):
    with t.Server() as server:
        watch, client = Watch(server.client), server.client
        m, whole = watch.next(), server.call("GetTopology")
        equal([(p.partition_id, p.leader_node_id, list(p.slots)) for p in m.partitions], [(p.partition_id, p.leader_node_id, list(p.slots)) for p in whole.partitions])
        equal([(n.node_id, n.client_address, n.state) for n in m.nodes], [(n.node_id, server.address, "UP") for n in whole.nodes])
        equal(m.epoch, whole.epoch)
        server.call("CreateOrder", t.create_request())
        true(watch.messages.empty(), "nothing that matters to it has changed")
        server.process.terminate()
        equal([n.state for n in watch.next().nodes], ["DRAINING"])
        watch.thread.join(30 * t.SLOW)
        equal((watch.end.code_name, watch.end.reason), ("UNAVAILABLE", "DRAINING"))
        server.stop()


@test("WatchTopology tells who leads after a transfer, after a kill -9, and that the node is back")
def _(cluster):
    leaders = cluster.wait_leaders()
    old = leaders[0]
    to = old % 3 + 1
    asked = cluster.node(to)
    watch = Watch(asked.client)
    first = watch.next()
    equal(leaders_of(first), leaders)
    equal([[r.node_id for r in p.replicas] for p in first.partitions], [[1, 2, 3]] * 3)
    transfer(asked, to)
    m = watch.until(lambda m: m.partitions[0].leader_node_id == to, "node %d leads partition 0" % to)
    true(m.partitions[0].term > first.partitions[0].term, "a higher term")
    cluster.node(old).kill()
    watch.until(lambda m: m.nodes[old - 1].state == "DOWN", "node %d is down" % old)
    watch.until(lambda m: all(i not in (0, old) for i in leaders_of(m).values()), "others lead everything")
    cluster.node(old).start()
    watch.until(lambda m: m.nodes[old - 1].state == "UP", "node %d is up" % old)
    watch.cancel()
    until(lambda: asked.metrics().get("orderdb_calls_in_flight") == 0, what="no call in flight")


@test("a watcher that reads nothing for a while gets what was on its way, and then the newest alone")
def _(cluster):
    cluster.wait_leaders()
    node = cluster.nodes[0]
    until(lambda: node.call("GetTopology").epoch > 1, what="the rows of nodes are there: their coming is news, too")
    wire = h2raw.Wire(node.port, first=((h2raw.INITIAL_WINDOW_SIZE, 0),))
    wire.send(h2raw.request(1, "/orderdb.v1.AdminService/WatchTopology"))
    true(any(f.type == h2raw.HEADERS for f in wire.frames(2)), "the call has begun")
    for to in (1, 2, 3, 1, 2):  # each is news
        transfer(node, to)
        true(not any(f.type == h2raw.DATA for f in wire.frames(0.15)), "no byte beyond the window")
    wire.send(h2raw.window_update(1, 1 << 20))
    body = b"".join(f.payload for f in wire.frames(1) if f.type == h2raw.DATA)
    messages = []
    while body:
        length = int.from_bytes(body[1:5], "big")
        messages.append(t.admin_pb2.Topology.FromString(body[5:5 + length]))
        body = body[5 + length:]
    equal(len(messages), 2)
    equal(leaders_of(messages[-1]), cluster.leaders(node))
    wire.close()
    until(lambda: node.metrics().get("orderdb_calls_in_flight") == 0, what="no call in flight")


@test("a call that was passed on says who the leader is; one that was not says nothing")
def _(cluster):
    cluster.wait_leaders()
    topology = cluster.nodes[0].call("GetTopology")
    for leader in set(leaders_of(topology).values()):
        user = user_of(cluster.nodes[0], topology, leader)
        for node in cluster.nodes:
            answer, call = node.client.stub("CreateOrder").with_call(t.create_request(user_id=user), timeout=20 * t.SLOW)
            trailers = dict(call.trailing_metadata())
            if cluster.id_of(node) == leader:
                true(not any(k.startswith("orderdb-leader") for k in trailers), str(trailers))
            else:
                equal(trailers["orderdb-leader"], str(leader))
                equal(trailers["orderdb-leader-address"], next(n.client_address for n in topology.nodes if n.node_id == leader))
                true(int(trailers["orderdb-topology-epoch"]) >= topology.epoch, str(trailers))
            try:
                node.call("TransitionOrder", t.transition_request(answer.order.order_id, "no-such-event"))
            except t.Failure as f:
                equal(f.trailers.get("orderdb-leader"), None if cluster.id_of(node) == leader else str(leader))


class Calls:
    """bench/calls against the cluster, in the background: the client library with retries and routes."""

    def __init__(self, servers, *flags, seconds=6):
        command = [os.path.join(t.BUILD, "bench/calls"), "--server", ",".join(servers), "--seconds", str(seconds), *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(self):
        """Its figures. Whatever it was refused fails the test."""
        out, err = self.process.communicate(timeout=180 * t.SLOW)
        equal((self.process.returncode, err), (0, ""))
        return {k: float(v) for k, v in (word.split("=") for word in out.split() if "=" in word)}


def asked(cluster):
    """How many ops nodes have passed on so far."""
    return sum(n.metrics()["orderdb_forward_asked_total"] for n in cluster.up())


@test("C client: calls go to the leaders, whichever nodes it was told of")
def _(cluster):
    cluster.wait_leaders()
    for servers, flags in (([n.address for n in cluster.nodes], []), ([cluster.nodes[1].address], ["--routed"])):
        before = asked(cluster)
        figures = Calls(servers, *flags, seconds=2).end()
        passed_on = asked(cluster) - before
        true(figures["calls"] > 500, str(figures))
        true(passed_on < figures["calls"] / 50 + 40 and figures["forwarded"] < figures["calls"] / 50 + 40, "%s, %d ops passed on" % (figures, passed_on))
        equal((figures["attempts"], figures["ejections"]), (figures["calls"], 0))


@test("bench/load goes to the leaders, too")
def _(cluster):
    cluster.wait_leaders()
    load = subprocess.run([os.path.join(t.BUILD, "bench/load"), "--server", cluster.nodes[0].address, "--routed", "--mode", "mixed", "--prefill", "300", "--seconds", "1"],
                          capture_output=True, text=True, timeout=60 * t.SLOW)
    equal((load.returncode, load.stderr), (0, ""))
    forwarded = re.search(r"routed: (\d+) answers by way of another node, 0 times", load.stdout)
    true(forwarded and int(forwarded[1]) < 200, load.stdout)


@test("C client: a leader is killed with -9 under load, and comes back: no error, and calls go straight again")
def _(cluster):
    leaders = cluster.wait_leaders()
    victim = cluster.node(leaders[0])
    before = asked(cluster) - victim.metrics()["orderdb_forward_asked_total"]
    load = Calls([n.address for n in cluster.nodes], seconds=10)
    until(lambda: sum(p.orders for p in cluster.nodes[leaders[0] % 3].call("GetTopology").partitions) > 300, what="some load")
    victim.kill()
    until(lambda: all(i != cluster.id_of(victim) for i in (cluster.leaders(cluster.up()[0]) or {0: cluster.id_of(victim)}).values()), what="others lead")
    victim.start()
    figures = load.end()
    passed_on = asked(cluster) - before
    print("#   %s, %d ops passed on" % (figures, passed_on))
    true(figures["ejections"] > 0, str(figures))
    true(figures["attempts"] <= figures["calls"] * 1.1, str(figures))
    true(figures["forwarded"] < figures["calls"] / 10 + 100, str(figures))


@test("C client: a leader that is stopped (SIGSTOP) is given up after a ping, and its calls go elsewhere")
def _(cluster):
    victim = cluster.node(cluster.wait_leaders()[0])
    load = Calls([n.address for n in cluster.nodes], seconds=8)
    until(lambda: victim.metrics()["orderdb_calls_in_flight"] > 0, what="the load has begun")
    victim.process.send_signal(signal.SIGSTOP)
    time.sleep(4)  # it is a pause that is tested
    victim.process.send_signal(signal.SIGCONT)
    figures = load.end()
    print("#   %s" % figures)
    true(figures["ejections"] > 0, str(figures))
    true(figures["attempts"] <= figures["calls"] * 1.1 + 16, str(figures))


@test("C client, blocking: orderctl is given several nodes, of which the first is dead")
def _(cluster):
    dead = cluster.nodes[2]
    dead.kill()
    listed = subprocess.run([os.path.join(t.BUILD, "orderctl"), "--server", ",".join([dead.address] + [n.address for n in cluster.nodes[:2]]), "cluster", "status"],
                            capture_output=True, text=True, timeout=60 * t.SLOW)
    equal((listed.returncode, listed.stderr), (0, ""))
    true("zone-a" in listed.stdout, listed.stdout)
    dead.start()
    cluster.wait_leaders()


@test("a stock client that knows one node alone survives the death of another, without a retry of its own")
def _(cluster):
    leaders = cluster.wait_leaders()
    victim = cluster.node(leaders[0])
    node = cluster.node(leaders[0] % 3 + 1)
    orders, killed = [], threading.Event()
    killer = threading.Thread(target=lambda: (until(lambda: len(orders) > 30, what="some orders"), victim.kill(), killed.set()))
    killer.start()
    after = 0
    while after < 60:
        order = node.call("CreateOrder", t.create_request(user_id="stock-%d" % len(orders)), timeout=30).order
        orders.append((order.order_id, node.call("TransitionOrder", t.transition_request(order.order_id, "pay"), timeout=30).order.version))
        after += killed.is_set()
    killer.join()
    for order_id, version in orders:
        equal(node.call("GetOrder", t.pb.GetOrderRequest(order_id=order_id), timeout=30).version, version)
    victim.start()
    cluster.wait_leaders()


@test("C client over TLS: a leader is killed with -9, no error")
def _(_cluster):
    certs = os.path.join(t.TEMP, "certs")
    os.makedirs(certs)
    subprocess.run([os.path.join(t.ROOT, "tests/lib/certs.sh"), certs], check=True)
    with open(os.path.join(certs, "ca.pem"), "rb") as f:
        credentials = grpc.ssl_channel_credentials(f.read())
    with Cluster(tls_cert=os.path.join(certs, "server.pem"), tls_key=os.path.join(certs, "server.key")) as cluster:
        client = t.Client(cluster.nodes[0].address, credentials=credentials)
        leaders = until(lambda: (lambda found: all(found.values()) and found)(leaders_of(client.call("GetTopology"))), what="leaders")
        load = Calls([n.address for n in cluster.nodes], "--tls-ca", os.path.join(certs, "ca.pem"), seconds=6)
        until(lambda: sum(p.orders for p in client.call("GetTopology").partitions) > 100, what="some load")
        cluster.node(leaders[0]).kill()
        client.close()
        figures = load.end()
        true(figures["ejections"] > 0, str(figures))


if __name__ == "__main__":
    with Cluster() as c:
        run(c)
