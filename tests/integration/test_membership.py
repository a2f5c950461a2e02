#!/usr/bin/python3
"""Leads and members of a cluster of real processes: who leads, leads that are moved and that spread. usage: test_membership.py BUILD [PART OF A TEST'S NAME]"""
import json
import os
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import orderdb_test as t
from cluster import Cluster, Joined, members, run, states, topology
from orderdb_test import equal, test, true, until
from zones import Zones

USERS = ["member-user-%d" % i for i in range(12)]


def fill(cluster):
    for user in USERS:
        cluster.nodes[0].call("CreateOrder", t.create_request(user_id=user))


FENCED = "member-request-fenced"


def fence(node):
    for user in USERS:
        equal(node.call("GetRequestOutcome", user_id=user, request_id=FENCED).state, t.pb.RequestOutcome.NOT_APPLIED)


def still_fenced(node):
    for user in USERS:
        late = t.create_request(user_id=user, id_=FENCED)
        t.refused(lambda: node.call("CreateOrder", late), "FAILED_PRECONDITION", "REQUEST_FENCED")


class Load:
    """Creates by a few clients of one node, without retries but where the log is at its limit, which is small in some clusters: what fails is remembered."""

    def __init__(self, node, threads=2):
        self.failures, self.done, self._stop = [], 0, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(node.address,), daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self, address):
        client = t.Client(address)
        while not self._stop.is_set():
            for user in USERS:
                try:
                    client.call("CreateOrder", t.create_request(user_id=user), timeout=10)
                    self.done += 1
                except t.Failure as f:
                    self.failures.append(f)
        client.close()

    def goes_on(self):
        before = self.done
        until(lambda: self.done > before + 20 or self.failures, what="load goes on")

    def end(self):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        equal(self.failures, [])


@test("a topology asked at any node knows how far each replica is, and in which term")
def _(cluster):
    cluster.wait_leaders()
    fill(cluster)
    cluster.wait_equal()

    def whole():
        seen = [topology(n) for n in cluster.nodes]
        return seen if all(r.applied_index > 0 for s in seen for p in s.partitions for r in p.replicas) else None
    seen = until(whole, what="every node could ask every leader")
    for s in seen:
        equal([p.leader_node_id for p in s.partitions], [p.leader_node_id for p in seen[0].partitions])
        equal([p.term for p in s.partitions], [p.term for p in seen[0].partitions])
        true(all(p.term > 0 for p in s.partitions), "terms")
        equal([p.orders for p in s.partitions], [p.orders for p in seen[0].partitions])
        equal({r.role for p in s.partitions for r in p.replicas}, {"VOTER"})
    text = cluster.nodes[1].orderctl("cluster", "status").stdout
    true("zone-c" in text and "3 nodes, 0 down; 3 partitions, 0 without a leader" in text, text)


@test("a node that is down is seen, with what it lacks, and nobody waits long for it")
def _(cluster):
    victim = cluster.nodes[2]
    for p in range(3):
        cluster.nodes[0].orderctl("cluster", "transfer", str(p), "1")
    victim.kill()
    fill(cluster)
    until(lambda: [n.state for n in topology(cluster.nodes[1]).nodes] == ["UP", "UP", "DOWN"], what="its state is told")
    seen = topology(cluster.nodes[1])
    for p in seen.partitions:
        own = {r.node_id: r.applied_index for r in p.replicas}
        true(own[3] < own[1], "node 3 lacks entries: %s" % own)
    true("1 down" in cluster.nodes[1].orderctl("cluster", "status").stdout)
    f = t.refused(lambda: cluster.nodes[0].call("TransferLeader", partition_id=0, to_node_id=3), "UNAVAILABLE", "NOT_LEADER")
    true("not connected" in f.message, f.message)
    victim.start()
    cluster.wait_equal()


@test("a lead is moved under load without an error, asked at any node")
def _(cluster):
    cluster.wait_leaders()
    load = Load(cluster.nodes[0])
    for asked, to in ((0, 2), (1, 3), (2, 1), (0, 1), (1, 2)):
        done = json.loads(cluster.nodes[asked].orderctl("cluster", "transfer", "1", str(to), "-o", "json").stdout)
        equal(int(done["partitions"][1]["leader_node_id"]), to)
        load.goes_on()
    cluster.nodes[0].orderctl("cluster", "transfer", "meta", "2")
    load.goes_on()
    load.end()
    cluster.wait_equal()


@test("a transfer that makes no sense is refused, and changes nothing")
def _(cluster):
    cluster.wait_leaders()
    before = [p.term for p in topology(cluster.nodes[0]).partitions]
    for request, part in ((dict(partition_id=3, to_node_id=1), "partition_id"), (dict(partition_id=-2, to_node_id=1), "partition_id"), (dict(partition_id=0, to_node_id=4), "to_node_id"),
                          (dict(partition_id=0), "to_node_id")):
        f = t.refused(lambda: cluster.nodes[1].call("TransferLeader", **request), "INVALID_ARGUMENT", "FIELD_INVALID")
        true(any(v[0] == part for v in f.violations), f.violations)
    leader = cluster.wait_leaders()[0]
    cluster.nodes[2].call("TransferLeader", partition_id=0, to_node_id=leader)  # it leads already
    equal([p.term for p in topology(cluster.nodes[0]).partitions], before)
    equal(cluster.nodes[0].orderctl("cluster", "transfer", "x", "1", check=False).returncode, 2)


def spread(cluster):
    """Partition p and node p + 1: with three of each, by turns."""
    leaders = cluster.leaders()
    return leaders == {0: 1, 1: 2, 2: 3}


@test("leads spread over the nodes, come back to one that was gone, and then stay")
def _(_cluster):
    with Cluster(lead_hold="500ms") as cluster:
        until(lambda: spread(cluster), what="leads are spread")
        load = Load(cluster.nodes[0])
        cluster.nodes[2].stop()
        until(lambda: 3 not in (cluster.leaders(cluster.nodes[0]) or {2: 3}).values(), what="others lead")
        load.goes_on()
        cluster.nodes[2].start()
        until(lambda: spread(cluster), what="leads are spread again")
        load.goes_on()
        load.end()

        def seen():
            return sum(n.log().count("lead is handed over") for n in cluster.nodes), [p.term for p in topology(cluster.nodes[0]).partitions]

        def rests():  # the meta partition's lead, which is not among those of the map, may be the last to move
            before = seen()
            threading.Event().wait(3)  # several looks
            return before == seen()
        until(rests, what="leads stay where they are")


@test("leads go to the zone that is to have them, and elsewhere while it is gone")
def _(_cluster):
    with Cluster(lead_hold="500ms", lead_zone="zone-b") as cluster:
        until(lambda: cluster.leaders() == {0: 2, 1: 2, 2: 2}, what="all leads are in zone-b")
        cluster.nodes[1].kill()
        until(lambda: set((cluster.leaders(cluster.nodes[0]) or {0: 2}).values()) <= {1, 3}, what="the other zones lead")
        cluster.nodes[1].start()
        until(lambda: cluster.leaders() == {0: 2, 1: 2, 2: 2}, what="all leads are in zone-b again")


@test("a node joins, is added, and has everything; a dead one is removed; what is removed stops and stays out")
def _(_cluster):
    with Cluster(log_live_size="2MiB", log_segment_size="64KiB", replicas="7") as cluster:
        a, b, c = cluster.nodes
        cluster.wait_leaders()
        fill(cluster)
        fence(a)
        other = Joined(cluster, 5, replicas="6").server.start(wait=False)
        equal(other.wait(60), 1)
        true("another --replicas" in other.log(), other.log_tail())
        other.remove()
        late = Joined(cluster, 4, replicas="7", replace_after="9m").server.start(wait=False)
        try:
            until(lambda: all(states(n).get(4) == "JOINED" for n in cluster.nodes), what="it has joined")
            equal(members(a), [{1: "VOTER", 2: "VOTER", 3: "VOTER"}] * 3)
            load = Load(a)
            b.orderctl("--timeout", "60", "cluster", "node", "add", "4")
            equal(members(a), [{1: "VOTER", 2: "VOTER", 3: "VOTER", 4: "VOTER"}] * 3)
            true("another --replace-after" in a.log() and "theirs_ms=540000 ours_ms=600000" in a.log())
            late.wait_ready()
            load.goes_on()
            equal(states(late)[4], "UP")
            c.kill()
            load.goes_on()
            for flags, code, words in (((), 2, "say --yes"), (("--dry-run",), 0, "node 3 hands over what it leads")):
                p = a.orderctl("cluster", "node", "remove", "3", *flags, check=False)
                true(p.returncode == code and words in p.stdout + p.stderr, p.stdout + p.stderr)
            equal(states(a)[3], "DOWN")  # nothing was done
            a.orderctl("--timeout", "60", "cluster", "node", "remove", "3", "--yes")
            until(lambda: members(a) == [{1: "VOTER", 2: "VOTER", 4: "VOTER"}] * 3, what="the dead one is a member of nothing")
            load.end()
            equal(states(a)[3], "REMOVED")
            for p in range(3):
                a.orderctl("cluster", "transfer", str(p), "4")
            fill(cluster)
            until(lambda: len({sum(p.orders for p in topology(n).partitions) for n in (a, b, late)}) == 1, what="all have the same")
            still_fenced(late)  # by who leads now, and has it from others
            c.start(wait=False)  # it does not know yet
            equal(c.wait(60), 1)
            true("was removed from the cluster" in c.log(), c.log_tail())
            for n in (a, late):  # all are there again after a stop of all: nobody needs who was removed
                n.kill()
            b.kill()
            for n in (a, b, late):
                n.start(wait=False)
            for n in (a, b, late):
                n.wait_ready()
            fill(cluster)
            still_fenced(a)
            f = t.refused(lambda: a.call("AddNode", peer_address="127.0.0.1:%d" % c.peer_port), "NOT_FOUND", "NODE_NOT_FOUND")
            equal(f.metadata["peer_address"], "127.0.0.1:%d" % c.peer_port)
            f = t.refused(lambda: b.call("DrainNode", node_id=3), "FAILED_PRECONDITION", "NODE_STATE")
            equal((f.metadata["node_id"], f.metadata["state"]), ("3", "REMOVED"))
            f = t.refused(lambda: b.call("RemoveNode", node_id=9), "NOT_FOUND", "NODE_NOT_FOUND")
            equal(f.metadata["node_id"], "9")
        finally:
            late.remove()


@test("a node that drains leads nothing, and stays a member; added again, it leads again; removed, it stops")
def _(_cluster):
    with Cluster(lead_hold="500ms") as cluster:
        until(lambda: spread(cluster), what="leads are spread")
        load = Load(cluster.nodes[0])
        cluster.nodes[2].orderctl("--timeout", "30", "cluster", "node", "drain", "2")
        until(lambda: 2 not in (cluster.leaders() or {0: 2}).values(), what="it leads nothing")
        load.goes_on()
        equal(states(cluster.nodes[0])[2], "DRAINING")
        equal([len(m) for m in members(cluster.nodes[0])], [3] * 3)
        cluster.nodes[0].orderctl("cluster", "node", "add", "2")
        until(lambda: spread(cluster), what="leads are spread again")
        cluster.nodes[2].orderctl("--timeout", "60", "cluster", "node", "remove", "2", "--yes")  # it lives, and leads
        equal(cluster.nodes[1].wait(30), 1)
        true("was removed from the cluster" in cluster.nodes[1].log(), cluster.nodes[1].log_tail())
        equal(members(cluster.nodes[0]), [{1: "VOTER", 3: "VOTER"}] * 3)
        load.goes_on()
        load.end()


@test("a node that leaves, and hears nothing while the meta partition lets go of it, hears of it later: what it leads goes to others")
def _(_cluster):
    """Nobody sends a node anything of a partition that it is not in any more, so its own replica of the nodes' rows says for ever that it is to stay."""
    with Zones(proxies=True, lead_hold="500ms", election_timeout="3s") as cluster:
        until(lambda: spread(cluster), what="leads are spread")
        until(lambda: all(states(n) == {1: "UP", 2: "UP", 3: "UP"} for n in cluster.nodes), what="all know of all")
        to_second, between = cluster.proxies[0], cluster.proxies[2]  # the lower id dials
        to_second.swallow, between.swallow = "up", "down"
        try:
            cluster.nodes[2].orderctl("cluster", "node", "remove", "2", "--yes", "--no-wait")
            until(lambda: any('members change" partition=meta step=remove node=2 ' in n.log() for n in cluster.nodes), step_s=0.01, what="the meta partition lets go of it")
        finally:
            to_second.mend()
            between.mend()
        cluster.nodes[2].orderctl("--timeout", "60", "cluster", "node", "remove", "2", "--yes")
        equal(cluster.nodes[1].wait(30), 1)
        equal(members(cluster.nodes[0]), [{1: "VOTER", 3: "VOTER"}] * 3)


@test("who may not join is told why")
def _(cluster):
    until(lambda: cluster.nodes[0].call("GetTopology").epoch > 1, what="the nodes are in the meta partition")
    late = Joined(cluster, 2)  # an id that a member has
    try:
        late.server.start(wait=False)
        equal(late.server.wait(60), 1)
        true("member already" in late.server.log(), late.server.log_tail())
        late.server.flags["node_id"], late.server.flags["peer_listen"] = 5, "0.0.0.0:%d" % late.server.peer_port
        late.server.start(wait=False)
        equal(late.server.wait(60), 1)
        true("can reach" in late.server.log(), late.server.log_tail())
        other = os.path.join(t.TEMP, "key-other-%s" % t.request_id())
        with open(other, "wb") as f:
            f.write(os.urandom(40))
        late.server.flags.update(peer_listen="127.0.0.1:%d" % late.server.peer_port, cluster_key_file=other)
        late.server.start(wait=False)
        equal(late.server.wait(60), 1)
        true("has another --cluster-key-file" in late.server.log(), late.server.log_tail())
    finally:
        late.server.remove()


def held(node):
    """Of each partition, the nodes that vote in it, once no others are members."""
    seen = members(node)
    return [set(m) for m in seen] if all(m and set(m.values()) == {"VOTER"} for m in seen) else None


def settled(node, count=3):
    """Each partition has so many members, all voters, and leads are known."""
    seen = held(node)
    return seen if seen and all(len(m) == count for m in seen) else None


def feed(node):
    """All events that there are, as (slot, seq)."""
    out = []
    for m in node.call("ReadChanges", stop_at_end=True, filter='type = "CREATED"', timeout=60):
        out += [(e.slot, e.seq) for e in m.events]
    return sorted(out)


@test("of four nodes each partition is on three; any of them serves all; one that is killed is replaced, and gets replicas again when it is back")
def _(_cluster):
    with Cluster(count=4, partitions=6, replace_after="3s", lead_hold="500ms") as cluster:
        nodes = cluster.nodes
        sets = until(lambda: settled(nodes[0]), what="three hold each partition")
        true(len(set(map(tuple, map(sorted, sets)))) > 1, "all nodes hold something: %s" % sets)
        fill(cluster)
        for n in nodes:  # also of what it does not hold
            orders = [n.call("ListOrders", user_id=u) for u in USERS]
            true(all(len(o.orders) == 1 for o in orders))
            until(lambda n=n: settled(n) == sets, what="the same is told at any node")
        for i, n in enumerate(nodes):
            gone = [p for p, held in enumerate(sets) if i + 1 not in held]
            until(lambda: all('what this node had of the partition is gone" partition=%d ' % p in n.log() for p in gone), what="what node %d does not hold is gone" % (i + 1))
            until(lambda: not [name for name in os.listdir(n.data_dir) if name.endswith(".gone")], what="and its files")
        until(lambda: [len(feed(n)) for n in nodes] == [len(USERS)] * 4, what="every node tells every event")
        load = Load(nodes[0])
        victim = nodes[3]
        victim.kill()
        until(lambda: states(nodes[0])[4] == "LOST", what="it is lost")
        true("4 nodes, 0 down, 1 lost; 6 partitions" in nodes[0].orderctl("cluster", "status").stdout, "and said to be")
        until(lambda: settled(nodes[0]) == [{1, 2, 3}] * 6, what="the others hold all")
        load.goes_on()
        true(all(n.call("ListOrders", user_id=u).orders for n in nodes[:3] for u in USERS), "the data is whole and served")
        victim.start()
        until(lambda: states(nodes[0])[4] == "UP", what="it is back")
        until(lambda: settled(nodes[0]) == sets, what="it holds what it held")
        load.goes_on()
        load.end()
        until(lambda: len({str(feed(n)) for n in nodes}) == 1, what="all nodes tell the same stream")


def main():
    with Cluster() as cluster:
        run(cluster)


if __name__ == "__main__":
    main()
