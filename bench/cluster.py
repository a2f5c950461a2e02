#!/usr/bin/python3
"""make bench-cluster: three orderd on this machine as one cluster.

  rates     CREATE against PostgreSQL with two synchronous standbys (ANY 1) on the same work, and PUTs of 600 bytes against three nodes of etcd, by turns; each at its best number of clients, or all at each of --clients (connections x in flight)
  failover  kill -9 of a node that leads: until writes to its partitions succeed again; what the others' writes took meanwhile
  drain     SIGTERM of a node that leads, the same
  idle      CPU of each of three nodes with 64 partitions, when nobody calls
  catchup   a follower --mib behind (1024): how fast it comes back under load, and what the leader's p99 is meanwhile

Each part takes less than two minutes and has a cluster of its own. The machine should be quiet. Peers are Debian's: postgresql, etcd-server, etcd-client (tools/setup.sh bench); one that is not there is left out, and that is said."""
import json
import math
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../tests/integration"), os.path.join(HERE, "peers")]
import orderdb_test as t  # noqa: E402
import peers as p  # noqa: E402
from cluster import Cluster  # noqa: E402

PG_BAR, ETCD_BAR, FAILOVER_S, DRAIN_S, CATCHUP_FACTOR, IDLE_PERCENT = 2.5, 1.0, 3.0, 0.2, 2.0, 2.0
BEGIN, END = "<!-- make bench-cluster: from here -->", "<!-- make bench-cluster: to here -->"


ARGS = t.options(__doc__, only=("rates,failover,drain,idle,catchup", "parts"), runs=(3, "turns"), seconds=(4.0, "of each rate"), mib=(1024, "that the follower is behind"), peers=("PostgreSQL,etcd", "beside whom"),
                 clients=("", "connections x calls in flight on each, as 8x8,8x32: all are measured, instead of the best of several"), rate=(0, "creates a second while the follower comes back; 0: 40 % of what is possible"),
                 write=(False, "the table goes into bench/RESULTS.md"))
RUNS, SECONDS, MIB = ARGS.runs, ARGS.seconds, ARGS.mib
rows, notes = [], []


def say(*words):
    print("cluster:", *words, file=sys.stderr, flush=True)


def bar(what, got, needed, met):
    rows.append((what, got, needed, {True: "yes", False: "**no**", None: "-"}[met]))
    say(what + ":", got, "(%s)" % needed if needed else "", "" if met is None else "met" if met else "MISSED")


# ---- three of each

class OrderDB:
    """gathered: the first node leads everything, so that the others are replicas and nothing else; else leads are spread."""
    clients = [(8, 8), (8, 16), (8, 32)]

    def __init__(self, gathered=False):
        self.gathered, self.name = gathered, "OrderDB, one node leads" if gathered else "OrderDB"

    def start(self):
        self.cluster = Cluster(start=False)
        for n in self.cluster.nodes:
            n.flags.update(memory_budget="1GiB", **({"lead_zone": "zone-a", "lead_hold": "1s"} if self.gathered else {}))
        self.cluster.start()
        t.until(lambda: (self.cluster.leaders() or {0: 0}).values() and (not self.gathered or set((self.cluster.leaders() or {0: 0}).values()) == {1}), 60, "leads are where they should be")
        self.pids = [n.pid for n in self.cluster.nodes]

    def command(self, *arguments):
        """Through one node, which forwards what others lead."""
        return [os.path.join(t.BUILD, "orderctl"), "bench", "create", "--server", self.cluster.nodes[0].address, "--timeout", "30", "-o", "json", *map(str, arguments)]

    def run(self, *arguments):
        return p.figures_of(self.command(*arguments))

    def begin(self, *arguments):
        return subprocess.Popen(self.command(*arguments), stdout=subprocess.PIPE, text=True)

    def stop(self):
        self.cluster.remove()


class Postgres(p.Postgres):
    """A primary and two standbys of streaming replication; a commit waits until it is on the primary's disk and one standby's."""
    clients = [(16, 1), (64, 1), (128, 1)]

    def __init__(self, top):
        super().__init__(top, t.BUILD)
        self.standbys = []

    def start(self):
        super().start()
        self.sql("ALTER SYSTEM SET shared_buffers = '2GB'", "postgres")
        bin_ = self.binaries()
        for name in ("s1", "s2"):
            home = os.path.join(self.dir, name)
            os.makedirs(home)
            if self.user and os.getuid() == 0:
                shutil.chown(home, self.user)
            self.run_as([os.path.join(bin_, "pg_basebackup"), "-h", self.dir, "-U", "bench", "-D", os.path.join(home, "data"), "-R", "-c", "fast", "-d", "application_name=" + name])
            primary = self.process
            self.spawn([os.path.join(bin_, "postgres"), "-D", os.path.join(home, "data"), "-c", "listen_addresses=", "-c", "unix_socket_directories=" + home, "-c", "shared_buffers=2GB",
                        "-c", "max_connections=300", "-c", "wal_level=logical", "-c", "max_wal_size=24GB", "-c", "fsync=on", "-c", "wal_sync_method=fdatasync",
                        "-c", "primary_conninfo=host=%s user=bench application_name=%s" % (self.dir, name)])
            self.standbys.append(self.process)
            self.process = primary
        t.until(lambda: self.sql("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", "postgres") == "2", 30, "two standbys stream")
        self.sql("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (s1, s2)'", "postgres")
        self.sql("SELECT pg_reload_conf()", "postgres")
        t.until(lambda: self.sql("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'", "postgres") == "2", 30, "a commit waits for one of them")
        self.durable()
        self.pids = None

    def tree(self):
        """All its processes."""
        mine = []
        for pid in (x for x in os.listdir("/proc") if x.isdigit()):
            try:
                if os.readlink("/proc/%s/cwd" % pid).startswith(self.dir):
                    mine.append(int(pid))
            except OSError:
                pass
        return mine

    def run(self, *arguments):
        return p.figures_of([self.driver, "create", "--socket", self.socket(), *arguments])

    def stop(self):
        primary = self.process
        for self.process in [primary] + self.standbys:
            super().stop()


class Etcd:
    name, clients = "etcd", [(8, 8), (8, 16), (8, 32)]

    def __init__(self, top):
        self.dir, self.processes = os.path.join(top, "etcd"), []

    def missing(self):
        return next((x for x in ("etcd", "etcdctl") if not shutil.which(x)), "") or ("" if os.path.exists(os.path.join(t.BUILD, "bench/peers/etcd")) else "build/bench/peers/etcd")

    def start(self):
        self.clients_at = ["127.0.0.1:%d" % t.free_port() for _ in range(3)]
        peers = ["http://127.0.0.1:%d" % t.free_port() for _ in range(3)]
        for i in range(3):
            home = os.path.join(self.dir, str(i))
            os.makedirs(home)
            self.processes.append(subprocess.Popen(
                ["etcd", "--name", "n%d" % i, "--data-dir", home, "--listen-client-urls", "http://" + self.clients_at[i], "--advertise-client-urls", "http://" + self.clients_at[i],
                 "--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", peers[i], "--initial-cluster", ",".join("n%d=%s" % x for x in enumerate(peers)),
                 "--quota-backend-bytes", str(8 << 30), "--log-level", "error", "--logger", "zap"], stdout=open(home + ".log", "wb"), stderr=subprocess.STDOUT))
        self.pids = [x.pid for x in self.processes]
        t.until(lambda: subprocess.run(["etcdctl", "--endpoints", ",".join(self.clients_at), "endpoint", "health"], env=dict(os.environ, ETCDCTL_API="3"), capture_output=True).returncode == 0, 60, "etcd is healthy")
        said = json.loads(p.output_of(["etcdctl", "--endpoints", ",".join(self.clients_at), "endpoint", "status", "-w", "json"], env=dict(os.environ, ETCDCTL_API="3")))
        self.leader = next(x["Endpoint"] for x in said if x["Status"]["leader"] == x["Status"]["header"]["member_id"])

    def run(self, *arguments):
        """At the leader, which is its best."""
        return p.figures_of([os.path.join(t.BUILD, "bench/peers/etcd"), "create", "--socket", self.leader, *arguments])

    def stop(self):
        for x in self.processes:
            x.terminate()
        for x in self.processes:
            x.wait(30)


def one(system, clients, seconds, warm=0.5):
    before, begun = p.cpu_s(system.pids or system.tree()), time.monotonic()
    each = [p.cpu_s([pid]) for pid in system.pids or []]
    r = system.run("--connections", clients[0], "--inflight", clients[1], "--seconds", seconds, "--warm-up", warm, "--seed", random.SystemRandom().randrange(1, 2**31))
    wall = time.monotonic() - begun
    r["cpu_us"] = (p.cpu_s(system.pids or system.tree()) - before) / (r["per_s"] * min(wall, seconds + warm)) * 1e6
    r["cpu_us_each"] = [(p.cpu_s([pid]) - was) / (r["per_s"] * min(wall, seconds + warm)) * 1e6 for pid, was in zip(system.pids or [], each)]
    return r


def compare(systems, clients, got):
    """What runs of each came to, beside each other."""
    def middle(name, get):
        return statistics.median(map(get, got[name]))
    for s in systems:
        each = [r["per_s"] for r in got[s.name]]
        bar("CREATE/s, three nodes, %s (%d x %d in flight)" % (s.name, *clients[s.name]), "%.0f [%.0f-%.0f], p50 %.2f ms, p99 %.2f ms, %.0f us of CPU a create, all nodes%s" % (
            statistics.median(each), min(each), max(each), middle(s.name, lambda r: r["latency"]["all"]["p50_ms"]), middle(s.name, lambda r: r["latency"]["all"]["p99_ms"]), middle(s.name, lambda r: r["cpu_us"]),
            " (%s)" % " + ".join("%.0f" % middle(s.name, lambda r: r["cpu_us_each"][i]) for i in range(3)) if s.pids else ""), "", None)
    ours = middle("OrderDB", lambda r: r["per_s"])
    for s, least in ((x, {"PostgreSQL": PG_BAR, "etcd": ETCD_BAR}[x.name]) for x in systems[2:]):
        ratio = ours / middle(s.name, lambda r: r["per_s"])
        bar("CREATE against %s, three nodes, %d and %d in flight" % (s.name, math.prod(clients["OrderDB"]), math.prod(clients[s.name])), "%.2fx" % ratio, "%gx" % least, ratio >= least)


def rates():
    top = os.path.join(t.TEMP, "peers")
    os.makedirs(top)
    os.chmod(t.TEMP, 0o755)  # the peer's user passes
    systems = [OrderDB(), OrderDB(gathered=True)]
    wanted, fixed = ARGS.peers.split(","), [tuple(map(int, c.split("x"))) for c in ARGS.clients.split(",") if c]
    for s in (x for x in (Postgres(top), Etcd(top)) if x.name in wanted):
        if s.missing():
            notes.append("%s was left out: %s is not there" % (s.name, s.missing()))
            say(notes[-1])
        else:
            systems.append(s)
    begun = []
    try:
        for s in systems:
            s.start()
            begun.append(s)
            say("started", s.name)
        got, at = {}, {}
        for s in systems:
            at[s.name] = fixed or [max(((one(s, c, 1.5)["per_s"], c) for c in s.clients))[1]]
        for turn in range(RUNS):
            for c in range(len(at["OrderDB"])):
                for s in systems[turn % len(systems):] + systems[:turn % len(systems)]:
                    r = one(s, at[s.name][c], SECONDS)
                    got.setdefault((s.name, c), []).append(r)
                    say("%-10s %d x %d %8.0f/s  p50 %.2f ms  p99 %.2f ms  %.0f us of CPU, all nodes; failed %d" % (s.name, *at[s.name][c], r["per_s"], r["latency"]["all"]["p50_ms"], r["latency"]["all"]["p99_ms"], r["cpu_us"], r["failed"]))
        for c in range(len(at["OrderDB"])):
            compare(systems, {s.name: at[s.name][c] for s in systems}, {s.name: got[s.name, c] for s in systems})
    finally:
        for s in begun:
            s.stop()


# ---- pauses

class Prober(threading.Thread):
    """One stock client of one node, one call at a time, to one partition. Never retries: what fails is a failure."""

    def __init__(self, node, user):
        super().__init__(daemon=True)
        self.client, self.user, self.answered, self.failures, self.stopping = t.Client(node.address), user, [], [], False

    def run(self):
        while not self.stopping:
            begun = time.monotonic()
            try:
                self.client.call("CreateOrder", t.create_request(user_id=self.user), timeout=10)
                self.answered.append((begun, time.monotonic()))
            except t.Failure as f:
                self.failures.append(str(f))

    def slowest_since(self, when):
        return max((end - begun for begun, end in list(self.answered) if end > when), default=0)


def pauses(what, break_node, limit_s):
    """Nodes that lead are broken one after the other; the slowest write of each partition through a node that stays, from then on."""
    cluster = Cluster()
    mine, others, failures = [], [], []
    try:
        cluster.wait_leaders(wait_s=30)
        user_of = {}
        for i in range(100):
            answer = cluster.nodes[0].call("CreateOrder", t.create_request(user_id="pause-%d" % i))
            part = next(x.partition_id for x in cluster.nodes[0].call("GetTopology").partitions if any(s.first <= answer.token.slot <= s.last for s in x.slots))
            user_of.setdefault(part, "pause-%d" % i)
        for n in range(RUNS * 2):
            leaders = cluster.wait_leaders(wait_s=30)
            victim = cluster.node(leaders[n % 3])
            stays = next(x for x in cluster.nodes if x is not victim)
            probers = {part: Prober(stays, user) for part, user in user_of.items()}
            for x in probers.values():
                x.start()
            t.until(lambda: all(len(x.answered) > 20 for x in probers.values()), 20, "load runs")
            when = time.monotonic()
            break_node(victim)
            counts = {part: len(x.answered) for part, x in probers.items()}
            t.until(lambda: all(len(x.answered) > counts[part] + 50 for part, x in probers.items()), 30, "load goes on")
            for x in probers.values():
                x.stopping = True
            for part, x in probers.items():
                x.join()
                x.client.close()
                (mine if leaders[part] == cluster.id_of(victim) else others).append(x.slowest_since(when))
                failures += x.failures
            victim.start()
            cluster.wait_equal(30)
    finally:
        cluster.remove()
    bar("%s of a leader: the slowest write to its partitions, %d of them" % (what, len(mine)), "%.0f ms in the middle, %.0f ms at most" % (statistics.median(mine) * 1000, max(mine) * 1000), "%.0f ms" % (limit_s * 1000), max(mine) < limit_s)
    if others:
        bar("the slowest write to partitions of others meanwhile", "%.0f ms in the middle, %.0f ms at most" % (statistics.median(others) * 1000, max(others) * 1000), "", None)
    bar("errors at clients of a node that stays, %s" % what, "%d" % len(failures), "0", not failures)
    notes.extend(failures[:3])


# ---- nobody calls

def idle():
    with Cluster(partitions=64, memory_budget="1200MiB") as cluster:
        cluster.wait_leaders(wait_s=30)
        time.sleep(3)
        before, begun = [t.cpu_s(n.pid) for n in cluster.nodes], time.monotonic()
        time.sleep(SECONDS * 3)
        each = [(t.cpu_s(n.pid) - was) / (time.monotonic() - begun) * 100 for n, was in zip(cluster.nodes, before)]
        bar("three nodes with 64 partitions, nobody calls, %.0f s" % (SECONDS * 3), ", ".join("%.2f" % x for x in each) + " % of a core", "%g %%" % IDLE_PERCENT, max(each) < IDLE_PERCENT)


# ---- far behind

def fill_far(cluster, mib):
    """Orders of 30 KB that don't compress, through two nodes."""
    piece, threads, each = os.urandom(30000), [], 24
    left = [mib * 2**20 // (each * len(piece))]
    lock = threading.Lock()

    def fill(n):
        client = t.Client(cluster.nodes[n % 2].address)
        while True:
            with lock:
                left[0] -= 1
                if left[0] < 0:
                    return
            requests = [t.create_request(user_id="far-%d-%d" % (left[0] % 999, i % 9), extension=os.urandom(64) + piece[64:]) for i in range(each)]
            todo = t.pb.BatchCreateOrdersRequest(requests=requests)
            while True:
                try:
                    answer = client.call("BatchCreateOrders", todo, timeout=30)
                    if not any(r.HasField("error") for r in answer.results):
                        break
                except t.Failure:
                    pass
                time.sleep(0.1)
    begun = time.monotonic()
    for n in range(3):
        threads.append(threading.Thread(target=fill, args=(n,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    say("%d MiB written while a node was away, in %.0f s" % (mib, time.monotonic() - begun))


def catchup():
    s = OrderDB()
    s.start()
    cluster = s.cluster
    try:
        behind = cluster.nodes[2]
        behind.kill()
        cluster.wait_leaders(wait_s=30)
        fill_far(cluster, MIB)
        s.pids = [n.pid for n in cluster.up()]
        rate = int(ARGS.rate or one(s, (8, 16), 2)["per_s"] * 0.4)
        load = ("--rate", rate, "--connections", 8, "--inflight", 64, "--warm-up", 0.5)
        calm = s.run(*load, "--seconds", 8, "--seed", 11)
        loader = s.begin(*load, "--seconds", 120, "--seed", 12)
        time.sleep(1)
        begun = time.monotonic()
        behind.start(wait=False)
        behind.wait_ready()

        def near():
            a = cluster.applied()
            return all(a[2].get(part, 0) + 100 > index for part, index in a[0].items()) and behind.metrics()['orderdb_snapshots_taken_total{core="0"}'] > 0
        t.until(near, 100, "it is within 100 entries of the others", step_s=0.1)
        took = time.monotonic() - begun
        loader.send_signal(signal.SIGINT)  # what it tells is of that time, and of a second before
        report = json.loads(loader.communicate(timeout=60)[0])
        got = behind.metrics().get('orderdb_snapshot_bytes_total{core="0"}', 0)
        was, now = calm["latency"]["all"]["p99_ms"], report["latency"]["all"]["p99_ms"]
        bar("a node %d MiB behind is back, at %d creates/s due" % (MIB, rate), "%.1f s, %.0f MiB/s" % (took, MIB / took), "stated", None)
        bar("creates meanwhile, p99", "%.2f ms; %.2f ms before" % (now, was), "at most %gx" % CATCHUP_FACTOR, now <= CATCHUP_FACTOR * was)
        bar("creates that failed meanwhile", "%d of %d%s" % (report["failed"], report["done"], "".join("; %d %s" % (n, text) for text, n in report["reasons"].items())), "0", not report["failed"])
        say("snapshot bytes", got)
        cluster.wait_equal(60)
    finally:
        s.stop()


def write(table):
    path = os.path.join(HERE, "RESULTS.md")
    old = open(path).read()
    text = BEGIN + "\n" + table + END
    new = old.split(BEGIN)[0] + text + old.split(END)[1] if BEGIN in old and END in old else old.rstrip("\n") + "\n\n## Three nodes\n\n" + text + "\n"
    with open(path + ".new", "w") as f:
        f.write(new)
    os.replace(path + ".new", path)


def main():
    parts = {"rates": rates, "failover": lambda: pauses("kill -9", lambda n: n.kill(), FAILOVER_S), "drain": lambda: pauses("SIGTERM", lambda n: n.stop(), DRAIN_S), "idle": idle, "catchup": catchup}
    wrong = [name for name in ARGS.only.split(",") if name not in parts]
    if wrong:
        sys.exit("--only is of %s, not %s" % (", ".join(parts), ", ".join(wrong)))
    for name in ARGS.only.split(","):
        parts[name]()
    table = "`make bench-cluster`, %s, %d CPUs, three nodes of each on them, generator too; load average %.1f at the end.\n\n| what | measured | bar | met |\n|---|---|---|---|\n" % (
        time.strftime("%Y-%m-%d"), os.cpu_count(), os.getloadavg()[0]) + "".join("| %s | %s | %s | %s |\n" % r for r in rows) + "".join("\n%s\n" % n for n in notes)
    print(table)
    if ARGS.write:
        write(table)


if __name__ == "__main__":
    main()
