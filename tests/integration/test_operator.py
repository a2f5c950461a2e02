#!/usr/bin/python3
"""A cluster as whoever runs it meets it: made by orderctl cluster init, told where it is by --advertise. usage: test_operator.py BUILD [PART OF A TEST'S NAME]"""
import os
import shlex
import stat
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import orderdb_test as t
from cluster import Cluster, Joined, members, states, topology
from orderdb_test import equal, test, true, until


@test("behind all interfaces a node of a cluster says by --advertise and --peer-advertise where it is; without it does not start")
def _():
    with Cluster(count=1, start=False) as cluster:
        one = cluster.nodes[0]
        one.flags["listen"] = "0.0.0.0:%d" % one.port
        one.start(wait=False)
        equal(one.wait(30), 1)
        true("--advertise HOST:PORT" in one.log(), one.log_tail())
        true(not os.path.exists(one.data_dir), "nothing was made")
        one.flags["advertise"] = "localhost:%d" % one.port
        one.start()
        late = Joined(cluster, 2, join=[one], listen=":0", peer_advertise=None)
        two = late.server
        two.flags.update(listen=":%d" % two.port, peer_listen="0.0.0.0:%d" % two.peer_port, advertise=two.address, peer_advertise="localhost:%d" % two.peer_port)
        try:
            two.start(wait=False)
            until(lambda: states(one).get(2) == "JOINED", what="it has joined")
            one.orderctl("--timeout", "60", "cluster", "node", "add", "2")
            two.wait_ready()
            for n in (one, two):  # the same at either, by id
                told = until(lambda: [(x.client_address, x.peer_address) for x in topology(n).nodes if x.client_address], what="nodes have told each other")
                equal(told, [("localhost:%d" % one.port, "127.0.0.1:%d" % one.peer_port), (two.address, "127.0.0.1:%d" % two.peer_port)])
            equal(members(one), [{1: "VOTER", 2: "VOTER"}] * 3)
            one.call("CreateOrder", t.create_request(user_id="advertised"))
            true("advertised" in one.orderctl("--server", "localhost:%d" % two.port, "order", "list", "advertised", "-o", "json").stdout)
            bench = one.orderctl("bench", "create", "--seconds", "1", "-c", "1", "-i", "2")  # the C client goes to the leaders, by the addresses that it is told
            equal(bench.returncode, 0)
        finally:
            two.remove()


@test("nodes that are told different --lead-zones say so and leave leads where they are; when all have the same, leads go there")
def _():
    with Cluster(lead_hold="300ms", start=False) as cluster:
        one, two, three = cluster.nodes
        one.flags["lead_zone"] = two.flags["lead_zone"] = "zone-a"
        three.flags["lead_zone"] = "zone-c"
        cluster.start()
        for n in cluster.nodes:
            until(lambda: "another --lead-zone" in n.log(), what="each says so")
        cluster.wait_leaders()
        for partition in range(3):  # by hand they move in any case
            one.orderctl("cluster", "transfer", str(partition), "2")
        handed = lambda: [n.log().count("lead is handed over") for n in cluster.nodes]
        before = handed()
        time.sleep(5)  # more than the looks that a lead takes to go to who should have it: node 1
        equal(handed(), before)
        three.kill()
        three.flags["lead_zone"] = "zone-a"
        three.start()
        until(lambda: cluster.leaders() == {0: 1, 1: 1, 2: 1}, what="all leads are in zone-a")


def recover(*words, code=0):
    done = subprocess.run([os.path.join(t.BUILD, "orderctl"), "recover", *words], capture_output=True, text=True, timeout=120)
    equal(done.returncode, code, done.stdout + done.stderr)
    return done.stdout + done.stderr


@test("of several nodes that are left, recover --compare tells who is furthest and what the others lack: who goes on has all that was acknowledged")
def _():
    with Cluster() as cluster:
        one, two, three = cluster.nodes
        cluster.wait_leaders()
        create = lambda: [two.call("CreateOrder", t.create_request(user_id="left-%d" % i), timeout=20).order.order_id for i in range(12)]  # in all partitions
        orders = create()
        cluster.wait_equal()
        three.kill()
        orders += create()
        one.kill(), two.kill()
        files = []
        for node in (three, two):
            files.append(os.path.join(node.directory, "survivor"))
            with open(files[-1], "w") as f:
                f.write(recover("--data-dir", node.data_dir, "--inspect"))
        told = recover("--compare", *files)
        true(all(len(line) <= 80 for line in told.splitlines()), told)
        equal([line.split()[:2] for line in told.splitlines()[1:4]], [["0", "2"], ["1", "2"], ["2", "2"]])
        true("node 2: furthest in 4 of 4: it has what any of these has" in told and "node 3: furthest in " in told and "  partition 0: " in told, told)
        true("voters is here: nothing is lost" in told, "of three nodes these are a majority")
        equal(recover("--compare", two.data_dir, three.data_dir).splitlines()[1].split()[1], "2")  # directories as well
        true("there twice" in recover("--compare", files[0], files[0], code=1))
        true("line 1" in recover("--compare", cluster.key_file, code=1))
        for words in (["--compare"], ["--compare", "--data-dir", two.data_dir, files[0]], ["--inspect", "--unsafe", "--data-dir", two.data_dir], [two.data_dir], ["--inspect"]):
            recover(*words, code=2)
        recover("--data-dir", two.data_dir, "--unsafe", "--yes")
        two.start()
        equal([o.order_id for o in two.call("BatchGetOrders", t.pb.BatchGetOrdersRequest(order_ids=orders)).orders], orders)
        two.kill()
        true("not of one cluster" in recover("--compare", two.data_dir, three.data_dir, code=1))


def init(cwd, *words, code=0):
    done = subprocess.run([os.path.join(t.BUILD, "orderctl"), "cluster", "init", *words], cwd=cwd, capture_output=True, text=True, timeout=60)
    equal(done.returncode, code, done.stdout + done.stderr)
    return done.stdout + done.stderr


def commands(told):
    """The command lines that it prints, as a shell would take them."""
    return [shlex.split(line) for line in told.replace("\\\n", " ").splitlines() if line.startswith("  orderd ")]


def directory():
    return tempfile.mkdtemp(prefix="init-", dir=t.TEMP)


class Made:
    """Nodes started with just the command lines that were printed, where they were printed."""

    def __init__(self, cwd, lines):
        self.processes, self.cwd = [], cwd
        for i, words in enumerate(lines):
            equal(words[0], "orderd")
            with open(os.path.join(cwd, "log-%d" % (i + 1)), "wb") as log:
                self.processes.append(subprocess.Popen([os.path.join(t.BUILD, "orderd"), *words[1:]], cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for p in self.processes:
            p.kill()
        for p in self.processes:
            p.wait(30)
            p.stdout.close()


def founders(zones="abc", host="127.0.0.1"):
    """Ports three apart that nobody has."""
    out = []
    while len(out) < len(zones):
        port = t.free_port()
        if all(abs(port - p) > 2 for _, p in out) and 1024 < port < 65000:
            out.append(("%d=%s:%d@%s" % (len(out) + 1, host, port, zones[len(out)]), port))
    return out


@test("a cluster that is started with just what cluster init prints, or with the files that it writes, serves")
def _():
    for out in (None, "shop"):
        cwd = directory()
        made = founders()
        told = init(cwd, *[f for f, _ in made], "--cores", "1", "--data-dir", "the data", *(["--out", out] if out else []))
        true("warning" not in told, told)
        true(all(len(line) <= 80 or "--peers" in line or "--server" in line for line in told.splitlines()), told)
        key = os.path.join(cwd, out or ".", "cluster.key")
        equal(stat.S_IMODE(os.stat(key).st_mode), 0o600)
        with open(key) as f:
            equal(len(f.read()), 65)
        lines = commands(told)
        equal(len(lines), 3)
        with Made(cwd, lines) as nodes:
            for p in nodes.processes:
                true(p.stdout.readline().startswith("ready "), "it serves")
            status = next(line for line in told.splitlines() if line.startswith("  orderctl cluster status")).split()
            done = subprocess.run([os.path.join(t.BUILD, status[0]), *status[1:], "-o", "json"], capture_output=True, text=True, timeout=60)
            equal(done.returncode, 0, done.stderr)
            client = t.Client("127.0.0.1:%d" % (made[1][1] - 1))
            order = client.call("CreateOrder", t.create_request(user_id="init"), timeout=20).order.order_id
            equal(client.call("GetOrder", t.pb.GetOrderRequest(order_id=order), timeout=20).order_id, order)
            nodes_told = client.call("GetTopology").nodes
            equal([(n.zone, n.client_address) for n in nodes_told], [("abc"[i], "127.0.0.1:%d" % (port - 1)) for i, (_, port) in enumerate(made)])
            equal(len(client.call("GetTopology").partitions), 3)
            client.close()
        equal(sorted(d for d in os.listdir(cwd) if d.startswith("the data")), ["the data-1", "the data-2", "the data-3"])
        with open(key) as f:
            before = f.read()
        true("never overwritten" in init(cwd, *[f for f, _ in made], *(["--out", out] if out else []), code=1))
        with open(key) as f:
            equal(f.read(), before)


@test("cluster init refuses what orderd would, warns of what may be meant, and writes nothing then")
def _():
    cwd = directory()
    for words, part in ((["0=a"], "ID=HOST"), (["x"], "ID=HOST"), (["1=a", "1=b"], "there twice"), (["1000001=a"], "1 to 1000000"), (["1=a@"], "no zone"), (["1=a@" + "z" * 33], "33 bytes, at most 32"),
                        (["1=a@b@c"], "letters, digits"), (["1=0.0.0.0"], "where others reach"), (["1=[::]:7401"], "where others reach"), (["1=:7401"], "HOST is a name"), (["1=1.2.3"], "HOST is a name"), (["1=fd00::1"], "in brackets"),
                        (["1=a:0"], "PORT is 2 to 65534"), (["1=a:65535"], "PORT is 2 to 65534"), (["1=a:x"], "PORT is"), (["1=a", "2=a:7403"], "overlap"), (["1=127.0.0.1", "2=10.0.0.2"], "on loopback"),
                        (["1=a", "--replicas", "0"], "--replicas is 1 to 7"), (["1=a", "--replicas", "8"], "--replicas is 1 to 7"), (["1=a", "--cores", "65"], "--cores is 1 to 64"),
                        (["1=a", "--cores", "4", "--partitions", "3"], "less than --cores"), (["1=a", "--partitions", "1025"], "--partitions is 1 to 1024"), (["1=a", "-o", "json"], "not for init"), ([], "NODE"),
                        (["%d=h%d" % (i, i) for i in range(1, 9)], "NODE")):
        true(part in init(cwd, *words, code=2), words)
    for words, part in ((["1=a@x", "2=b@x", "3=c@y"], "nodes 1 and 2 share zone x"), (["1=a", "2=b@x", "3=c@y"], "1 of 3 nodes have no @ZONE"), (["1=a@x", "2=b@y"], "two replicas need each other"), (["1=a@x"], "one node"),
                        (["%d=h%d@z%d" % (i, i, i) for i in range(1, 5)], "on all 4 nodes"), (["%d=h%d@z%d" % (i, i, i) for i in range(1, 6)] + ["--replicas", "4"], "gains nothing"),
                        (["1=a@x", "2=b@y", "3=c@z", "--cores", "1", "--partitions", "4"], "no multiple"), (["1=a@x", "2=b@y", "3=c@z", "--replicas", "5"], "on all of them until more join")):
        true("warning: " in init(cwd, *words, "--dry-run") and part in " ".join(init(cwd, *words, "--dry-run").split()), words)
    true("warning" not in init(cwd, "1=a@x", "2=b@y", "3=c@z", "--dry-run"))
    told = init(cwd, "1=db1.example@a", "2=[fd00::2]:7501@b", "3=10.0.0.3@c", "--dry-run", "--data-dir", "it's")
    one, two, three = (dict(zip(w[1::2], w[2::2])) for w in commands(told))
    equal((one["--listen"], one["--peer-listen"], one["--advertise"], one["--data-dir"]), (":7400", ":7401", "db1.example:7400", "it's"))
    equal((two["--listen"], two["--peer-listen"], two["--http-listen"], two.get("--advertise")), ("[fd00::2]:7500", "[fd00::2]:7501", "127.0.0.1:7502", None))
    equal({w["--peers"] for w in (one, two, three)}, {"1=db1.example:7401,2=[fd00::2]:7501,3=10.0.0.3:7401"})
    equal(os.listdir(cwd), [])
    init(cwd, "1=a", "--key", "none/there", code=1)


if __name__ == "__main__":
    t.run(server=False)
