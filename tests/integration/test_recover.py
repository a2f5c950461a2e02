#!/usr/bin/python3
"""A majority that is lost for good: orderctl recover. usage: test_recover.py BUILD [PART OF A TEST'S NAME]"""
import os
import random
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import orderdb_test as t
from cluster import Cluster, Joined, members, states, topology
from orderdb_test import equal, test, true, until

USERS = ["recover-user-%d" % i for i in range(12)]


def write(node, rounds=1):
    return [node.call("CreateOrder", t.create_request(user_id=user), timeout=20).order.order_id for _ in range(rounds) for user in USERS]


def there(node, orders):
    return [o.order_id for o in node.call("BatchGetOrders", t.pb.BatchGetOrdersRequest(order_ids=orders)).orders]


def recover(data_dir, *flags, say="", code=0):
    done = subprocess.run([os.path.join(t.BUILD, "orderctl"), "recover", "--data-dir", data_dir, *flags], input=say, capture_output=True, text=True, timeout=120)
    equal(done.returncode, code, done.stdout + done.stderr)
    return done.stdout + done.stderr


def node_file(server):
    with open(os.path.join(server.data_dir, "NODE"), "rb") as f:
        return f.read()


def killed(data_dir, seconds, *flags):
    """recover --unsafe that is killed in mid-life, if it lives that long."""
    process = subprocess.Popen([os.path.join(t.BUILD, "orderd"), "recover", "--data-dir", data_dir, "--unsafe", "--yes", *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@test("two of three disks are lost: the third says what may be, goes on alone with all that it had, refuses who returns, and takes new nodes")
def _():
    with Cluster(cores=2, partitions=4) as cluster:
        one, two, three = cluster.nodes
        cluster.wait_leaders()
        kept = write(one, 5)
        until(lambda: one.call("GetTopology").epoch > 1, what="the nodes are in the meta partition")
        cluster.wait_equal()
        true("in use by another orderd" in recover(three.data_dir, code=1))
        three.kill()
        lost = write(one, 2)  # acknowledged by the two that will be lost
        one.kill(), two.kill()
        shutil.rmtree(two.data_dir)

        before = node_file(three)
        told = recover(three.data_dir)
        equal([line.split()[0] for line in told.splitlines() if line.endswith(" 1 2 3")], ["0", "1", "2", "3", "meta"])
        true("What may be lost" in told and "Nothing was changed" in told, told)
        true("nothing was changed" in recover(three.data_dir, "--unsafe", say="yes\n", code=1))
        equal(node_file(three), before)
        recover(three.data_dir, "--yes", code=2)
        recover(three.data_dir, "--unsafe", "--dry-run", code=2)
        recover(os.path.join(three.directory, "none"), code=1)
        three.start(wait=False)
        true(not three._ready.wait(2), "it waits for a majority")
        three.kill()

        for _ in range(3):
            killed(three.data_dir, random.uniform(0.1, 1.2))
        told = recover(three.data_dir, "--unsafe", say="node 3 alone\n")
        true("Done: node 3" in told or "nothing is to be done" in told, told)
        true("nothing is to be done" in recover(three.data_dir, "--unsafe", "--yes"))
        true(node_file(three) != before, "another cluster's")
        three.start()
        equal(there(three, kept), kept)
        equal(there(three, lost), [])
        kept += write(three)
        until(lambda: states(three) == {1: "REMOVED", 2: "REMOVED", 3: "UP"}, what="who is lost is removed")
        equal(members(three), [{3: "VOTER"}] * 4)

        one.start(wait=False)  # its log is longer, and its term may be higher
        until(lambda: "peer refused" in one.log() and "peer refused" in three.log(), what="both say that they are of different clusters")
        kept += write(three)
        true(not one._ready.is_set(), "alone it has no majority")
        one.kill()
        one.flags.update(peers=None, join="127.0.0.1:%d" % three.peer_port, cores=None, partitions=None)
        one.start(wait=False)  # nor by the other way
        equal(one.wait(60), 1)
        true("does not come back" in one.log(), one.log_tail())
        shutil.rmtree(one.data_dir)
        one.start(wait=False)
        equal(one.wait(60), 1)
        equal(one.log().count("does not come back"), 2)

        new = [Joined(cluster, i, join=[three]) for i in (4, 5)]
        try:
            for n in new:
                n.server.start(wait=False)
                until(lambda: states(three).get(n.id) == "JOINED", what="it has joined")
                three.orderctl("--timeout", "60", "cluster", "node", "add", str(n.id))
                n.server.wait_ready()
            equal(members(three), [{3: "VOTER", 4: "VOTER", 5: "VOTER"}] * 4)
            kept += write(new[0].server)
            three.kill()
            kept += write(new[1].server)
            three.start()
            for s in (three, new[0].server, new[1].server):
                equal(there(s, kept), kept)
                equal(there(s, lost), [])
        finally:
            for n in new:
                n.server.remove()


def held(data_dir):
    """Partitions that recover's table shows with members."""
    return [int(line.split()[0]) for line in recover(data_dir).splitlines() if line[:1].isdigit() and "none is known" not in line]


@test("replicas are on some of the nodes: who goes on alone keeps what it holds; what it does not hold begins empty when each is named, and not before")
def _():
    with Cluster(count=3, partitions=6, replicas="2", replace_after="0s") as cluster:
        one, two = cluster.nodes[:2]
        sets = until(lambda: [set(m) for m in members(one)] if all(len(m) == 2 for m in members(one)) else None, what="each partition is on two nodes")
        mine = [p for p, s in enumerate(sets) if 1 in s]
        lacking = [p for p in range(6) if p not in mine]
        for p in lacking:
            until(lambda: 'what this node had of the partition is gone" partition=%d ' % p in one.log(), what="what it does not hold is gone")
        orders = write(one, 3)
        slots = [p.slots[0] for p in topology(one).partitions]
        for n in cluster.nodes:
            n.kill()
        told = recover(one.data_dir)
        true("NOT ON THIS NODE" in told and all("\n%d " % p in told for p in lacking), told)
        true(all(len(line) <= 80 or one.data_dir in line for line in told.splitlines()), told)
        flag = told.split("--begin-empty ")[1].split()[0]
        named = [p for part in flag.split(",") for p in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)]
        equal(named, lacking)
        equal(held(one.data_dir), mine)
        before = node_file(one)
        true("%d partitions are not on this node" % len(lacking) in recover(one.data_dir, "--unsafe", "--yes", code=1))
        true("nothing was changed" in recover(one.data_dir, "--unsafe", "--yes", "--begin-empty", ",".join(map(str, lacking[1:])), code=1))
        true("partition %d, which is on this node" % mine[0] in recover(one.data_dir, "--unsafe", "--yes", "--begin-empty", "0-5", code=1))
        for bad in ("6", "1,", "x", "2-1", "-1", "1-", "1;2"):
            true("partitions as 1,4-6" in recover(one.data_dir, "--unsafe", "--yes", "--begin-empty", bad, code=1), bad)
        recover(one.data_dir, "--begin-empty", flag, code=2)
        equal(node_file(one), before)
        equal(held(one.data_dir), mine)

        for _ in range(2):
            killed(one.data_dir, random.uniform(0.1, 0.6), "--begin-empty", flag)
        recover(one.data_dir, "--unsafe", "--yes", "--begin-empty", flag)
        recover(two.data_dir, "--unsafe", "--yes", "--begin-empty", recover(two.data_dir).split("--begin-empty ")[1].split()[0])  # by itself: what it has can be read there
        kept = []
        for n, i in ((one, 1), (two, 2)):
            n.start()
            kept.append(there(n, orders))
            until(lambda: members(n) == [{i: "VOTER"}] * 6, what="it leads all partitions alone")
        equal(kept[0], [o for o in orders if any(slots[p].first <= (o >> 8 & 16383) <= slots[p].last for p in mine)])
        equal(set(kept[0] + kept[1]), set(orders))
        new = write(one)  # in all partitions, those that began empty among them
        equal(there(one, new), new)
        one.kill()
        one.start()
        equal(sorted(there(one, orders + new)), sorted(kept[0] + new))


@test("what is no cluster's, or not whole, is refused")
def _():
    with t.Server() as single:
        write(single)
        single.stop()
        true("has no majority to lose" in recover(single.data_dir, code=1))
    with Cluster(partitions=2) as cluster:
        cluster.wait_leaders()
        for n in cluster.nodes:
            n.stop()
        node = cluster.nodes[0]
        os.rename(os.path.join(node.data_dir, "part-00001"), os.path.join(node.directory, "away"))
        true("part-00001" in recover(node.data_dir, code=1))
        os.rename(os.path.join(node.directory, "away"), os.path.join(node.data_dir, "part-00001"))
        cluster.start()  # a look has changed nothing
        write(node)


@test("a cluster that was lost in its first second: rows of its nodes may not have been written yet")
def _():
    with Cluster(partitions=2) as cluster:
        cluster.wait_leaders()
        until(lambda: min(cluster.applied()[0].values()) > 1, what="an entry of each partition has come")
        for n in cluster.nodes:
            n.kill()
        node = cluster.nodes[0]
        recover(node.data_dir, "--unsafe", "--yes")
        node.start()
        write(node)
        until(lambda: node.call("GetTopology").epoch and members(node) == [{1: "VOTER"}] * 2, what="nobody else is wanted")


if __name__ == "__main__":
    t.run(server=False)
