#!/usr/bin/env python3
"""make bench: the order work on OrderDB and its peers, side by side, and what the figures are worth. docs/BENCH.md says what is compared.

Every system gets a fresh directory on a real disk, the same population and the same draws, one after the other in turns: never two at once. Its best number of clients is found
first, for each work. Figures are medians of the runs. The table goes to bench/RESULTS.md between its marks (not with --quick, unless --write) and to stdout.
Exit 0: it ran, whatever came out; with --strict 1 when a bar is missed. 2: it could not run."""
import argparse
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "peers"))
import peers as p  # noqa: E402

WORK = ["create", "transition", "get", "list", "mixed"]
WRITES = ["create", "transition", "mixed"]  # what indexes cost
# OrderDB against each, in the same run; None: told, not judged.
BARS = {
    "create": {"PostgreSQL": 4, "Redis": 2, "MariaDB": 4},
    "transition": {"PostgreSQL": 4, "Redis": 2, "MariaDB": 4},
    "get": {"PostgreSQL": 4, "Redis": None, "MariaDB": 4},
    "list": {"PostgreSQL": 3, "Redis": None, "MariaDB": 3},
    "mixed": {"PostgreSQL": 4, "Redis": None, "MariaDB": 4},
}
P99_MS, P50_US = 10, 400
NOT_QUIET = 0.1  # cores of others on the machine: a figure (the median of its runs) above it is of a busy machine, and it is said
REST_CORES, REST_SECONDS_MAX = 0.05, 15  # a run begins when the machine does no more than that, or has had so long to come to rest
FRESH_REST_SECONDS = 5  # and so long between the making of orders, which OrderDB alone uses up, and their transitions
RUN_NOT_QUIET = 0.5  # the same of a single run of ours: latency's tails are made by few runs
BEGIN, END = "<!-- make bench: from here -->", "<!-- make bench: to here -->"
SECONDS_MAX = 1800


def say(*words):
    print("bench:", *words, file=sys.stderr, flush=True)


def free_ports(n):
    held = [socket.socket() for _ in range(n)]
    for s in held:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


class OrderDB:
    """Our own server, with the face of a peer."""
    name, indexes = "OrderDB", True
    clients = [(8, 8), (8, 16), (8, 32)]

    def __init__(self, top, build):
        self.dir, self.build, self.process = os.path.join(top, "orderdb"), build, None
        self.fsync, self.version = "fdatasync of the Raft log, one for all that waits", ""
        self.fresh, self.rest = 20000, 0  # orders made for transitions, and seconds that it has before these begin

    def start(self):
        os.makedirs(self.dir)
        client, peer, http = free_ports(3)
        self.address, self.http = "127.0.0.1:%d" % client, "127.0.0.1:%d" % http
        self.process = subprocess.Popen([os.path.join(self.build, "orderd"), "--data-dir", os.path.join(self.dir, "data"), "--listen", self.address, "--http-listen", self.http,
                                         "--peer-listen", "127.0.0.1:%d" % peer], stdout=subprocess.DEVNULL, stderr=open(os.path.join(self.dir, "log"), "wb"))
        end = time.monotonic() + 60
        while True:
            try:
                if urllib.request.urlopen("http://%s/readyz" % self.http, timeout=1).status == 200:
                    break
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > end:
                raise p.PeerError("orderd did not start: " + open(os.path.join(self.dir, "log")).read()[-1000:])
            time.sleep(0.05)
        self.version = p.output_of([os.path.join(self.build, "orderd"), "--version"]).split("\n")[0].split()[-1]

    def relax(self):
        pass  # it is loaded as it serves: durably

    durable = relax

    def drop_indexes(self):
        pass

    def run(self, work, *arguments):
        return p.figures_of([os.path.join(self.build, "orderctl"), "bench", work, "--server", self.address, "--server-pid", self.process.pid, "--fresh", self.fresh, "--rest", self.rest,
                             "--timeout", 30, "-o", "json", *arguments])

    stop_signal = signal.SIGTERM
    stop = p.Peer.stop

    def check(self):
        said = json.loads(p.output_of([os.path.join(self.build, "orderctl"), "status", "--server", self.address, "-o", "json"]))
        return "OrderDB: %s orders" % f"{sum(int(x.get('orders', 0)) for x in said.get('partitions', [])):,}"


class Bench:
    def __init__(self, options, top):
        self.o, self.top = options, top
        self.began = time.monotonic()
        self.systems = [OrderDB(top, options.build)] + [p.PEERS[k](top, options.build) for k in options.peers]
        self.best = {}     # (work, contestant) -> (connections, inflight)
        self.results = {}  # (work, contestant, all indexes) -> [report]
        self.seed = random.SystemRandom().randrange(1, 2**31)
        self.others, self.notes, self.latency = [], [], {}  # others: (cores, of whom, what the run was)
        self.rests, self.rested = {s.name: 0 for s in self.systems}, 0  # CPU seconds of each between runs; how long that was

    # A contestant is a system and how it is talked to.
    def contestants(self):
        for s in self.systems:
            yield s.name, s
            if s.name == "Redis":
                yield "Redis, pipelined", s

    def candidates(self, name, s):
        return s.pipelined_clients if name == "Redis, pipelined" else s.clients

    def one(self, s, work, clients, seconds, warm, *more):
        if time.monotonic() - self.began > SECONDS_MAX:
            raise p.PeerError("not done after %d minutes" % (SECONDS_MAX // 60))
        self.seed += 1
        r = s.run(work, "--population", self.o.population, "--seed", self.seed, "--connections", clients[0], "--inflight", clients[1], "--seconds", seconds, "--warm-up", warm, "--zipf", self.o.zipf, *more)
        if "--fill" not in more:
            self.others.append((r["others_cores"], s.name, "%s of %s, %d x %d%s" % (work.upper(), s.name, *clients, ", a try" if seconds < self.o.seconds else "")))
        if r["used_up"]:
            self.notes.append("a run of %s %s ended after %.1f s for want of orders" % (s.name, work.upper(), r["seconds"]))
        return r

    def come_to_rest(self):
        """What a system still does after a run of its own (merges, checkpoints, purging) is not to fall into another's."""
        if self.o.quick:
            return
        began, before = time.monotonic(), {s.name: p.cpu_s(p.tree(s.process.pid)) for s in self.systems}
        while p.busy_cores(0.3) > REST_CORES and time.monotonic() - began < REST_SECONDS_MAX:
            pass
        self.rested += time.monotonic() - began
        for s in self.systems:
            self.rests[s.name] += p.cpu_s(p.tree(s.process.pid)) - before[s.name]

    def setup(self):
        for s in self.systems:
            say("starting", s.name)
            s.start()
            s.relax()
            r = self.one(s, "create", s.clients[min(1, len(s.clients) - 1)], 1, 0, "--fill")
            s.durable()
            say("%s %s: %d orders made at %d/s" % (s.name, s.version, r["done"], r["per_s"]))
            if r["done"] != self.o.population:
                raise p.PeerError("%s: the population is not there" % s.name)

    def find_best(self, work):
        for name, s in self.contestants():
            tries = self.candidates(name, s)
            if self.o.quick:
                self.best[work, name] = tries[len(tries) // 2]
            else:
                rates = [(self.one(s, work, c, 2, 0.5), c) for c in tries]
                self.best[work, name] = max(rates, key=lambda x: x[0]["per_s"])[1]
                if s.name == "OrderDB":  # enough orders that transitions can be made of
                    s.rest = FRESH_REST_SECONDS
                    s.fresh = max(20000, min(500000, int(max(x[0]["per_s"] for x in rates) * (self.o.seconds + 2) * 0.3)))
            say("%s, %s: %d x %d" % (work, name, *self.best[work, name]))

    def compare(self, work, all_indexes):
        for turn in range(self.o.runs):
            order = list(self.contestants())
            for name, s in order[turn % len(order):] + order[:turn % len(order)]:  # each comes first once
                self.come_to_rest()
                r = self.one(s, work, self.best[work, name], self.o.seconds, self.o.warm)
                self.results.setdefault((work, name, all_indexes), []).append(r)
                say("%-10s %-16s %9.0f/s  p50 %.2f ms  p99 %.2f ms  server %.1f us  generator %.1f us  others %.2f cores%s" % (
                    work, name, r["per_s"], r["latency"]["all"]["p50_ms"], r["latency"]["all"]["p99_ms"], r["server_us"], r["generator_us"], r["others_cores"],
                    "  FAILED %d" % r["failed"] if r["failed"] else ""))

    def measure_latency(self):
        """Of OrderDB's CREATE: at half of its peak, and alone."""
        peak = self.median("create", "OrderDB", True)
        for name, clients, more in (("half", self.best["create", "OrderDB"], ("--rate", "%d" % (peak / 2))), ("alone", (1, 1), ())):
            self.latency[name] = []
            for _ in range(self.o.runs):
                self.come_to_rest()
                self.latency[name].append(self.one(self.systems[0], "create", clients, self.o.seconds, self.o.warm, *more))
                say("create, %s: p50 %.3f ms  p99 %.2f ms" % (name, *(self.latency[name][-1]["latency"]["all"][x] for x in ("p50_ms", "p99_ms"))))

    def run(self):
        self.setup()
        for work in self.o.only:
            self.find_best(work)
            self.compare(work, True)
            if work == "create":  # right behind the peak that it is half of
                self.measure_latency()
        if not self.o.quick and len(self.systems) > 1:
            for s in self.systems:
                s.drop_indexes()
            for work in [w for w in self.o.only if w in WRITES]:
                self.compare(work, False)
        self.notes += [s.check() for s in self.systems]

    def stop(self):
        for s in self.systems:
            s.stop()

    # ---- figures
    def rates(self, *key):
        return [r["per_s"] for r in self.results[key]]

    def median(self, *key):
        return statistics.median(self.rates(*key))

    def middle(self, key, *path):
        values = []
        for r in self.results[key]:
            for name in path:
                r = r[name]
            values.append(r)
        return statistics.median(values)

    def cpu_us(self, *key):
        """Of both sides, a call; at least a little, where nothing was seen."""
        return max(0.1, self.middle(key, "server_us") + self.middle(key, "generator_us"))

    def quiet(self):
        """(Whether the figures are of a quiet machine, a sentence.) Each figure is the median of its runs, so one disturbed run of a peer moves none of them; where half of a figure's runs were disturbed,
        or the whole, it does, and so may a single bad run of ours."""
        middle, (worst, _, run) = statistics.median(x[0] for x in self.others), max(self.others)
        said = "Beside server and generator other work took %.2f cores (median of %d runs), at most %.2f: %s" % (middle, len(self.others), worst, run)
        busy = ["%s of %s%s: %.2f" % (key[0].upper(), key[1], "" if key[2] else " without its indexes", self.middle(key, "others_cores")) for key in self.results if self.middle(key, "others_cores") > NOT_QUIET]
        busy += ["CREATE of OrderDB, %s: %.2f" % (name, x) for name, runs in self.latency.items() for x in [statistics.median(r["others_cores"] for r in runs)] if x > NOT_QUIET]
        busy += ["a run of %s: %.2f" % (run, x) for x, name, run in self.others if name == "OrderDB" and x > RUN_NOT_QUIET]
        return middle <= NOT_QUIET and not busy, said + ("; above %.1f (a run of ours: %.1f): %s." % (NOT_QUIET, RUN_NOT_QUIET, "; ".join(busy)) if busy else ".")

    def bars(self):
        """[(what, figure, bar, met)]"""
        rows = []
        for work in self.o.only:
            for peer, bar in BARS[work].items():
                names = [n for n, _ in self.contestants() if n.split(",")[0] == peer]
                if not names or bar is None:
                    continue
                best = max(names, key=lambda n: self.median(work, n, True))
                ratio = self.median(work, "OrderDB", True) / self.median(work, best, True)
                rows.append(("%s against %s" % (work.upper(), best), "%.2fx" % ratio, "%dx" % bar, ratio >= bar))
        if self.latency:
            p99 = statistics.median(r["latency"]["all"]["p99_ms"] for r in self.latency["half"])
            p50 = statistics.median(r["latency"]["all"]["p50_ms"] * 1000 for r in self.latency["alone"])
            due = self.latency["half"][0]["due_per_s"]
            rows.append(("CREATE p99 at half of the peak (%s/s due)" % f"{due:,.0f}", "%.2f ms" % p99, "under %d ms" % P99_MS, p99 < P99_MS))
            rows.append(("CREATE p50 with 1 in flight", "%.0f us" % p50, "under %d us" % P50_US, p50 < P50_US))
        return rows


# ---- the table

def table_rows(b):
    for all_indexes in (True, False):
        for work in b.o.only:
            for name, s in b.contestants():
                key = (work, name, all_indexes)
                if key not in b.results:
                    continue
                ours, mine = b.median(work, "OrderDB", all_indexes), b.rates(*key)
                ratio = "" if name == "OrderDB" else "%.2fx" % (ours / statistics.median(mine))
                by_cpu = "" if name == "OrderDB" else "%.1fx" % (b.cpu_us(*key) / b.cpu_us(work, "OrderDB", all_indexes))
                bar = BARS[work].get(name.split(",")[0]) if all_indexes else None
                clients = b.best[work, name]
                yield [work.upper() if name == "OrderDB" else "", name, "%s [%s-%s]" % tuple(f"{x:,.0f}" for x in (statistics.median(mine), min(mine), max(mine))), ratio,
                       "%dx" % bar if bar else "", by_cpu, "%d x %d" % clients, "%d" % (clients[0] * clients[1]), "%.2f" % b.middle(key, "latency", "all", "p50_ms"),
                       "%.2f" % b.middle(key, "latency", "all", "p99_ms"), "%.1f" % b.middle(key, "server_us"), "%.1f" % b.middle(key, "generator_us"),
                       "%.2f + %.2f" % (b.middle(key, "server_cores"), b.middle(key, "generator_cores")), str(sum(r["failed"] for r in b.results[key])),
                       "" if name == "OrderDB" else "all" if all_indexes else "user + time alone"]


HEADS = ["work", "system", "calls/s, median [of the runs]", "OrderDB is", "bar", "by CPU", "connections x depth", "in flight", "p50 ms", "p99 ms", "server us", "generator us",
         "cores: server + generator", "failed", "indexes of the peer"]


def markdown(b):
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "an unknown CPU")
    out = [BEGIN, "`make bench%s`, %s, version %s: %d CPUs (%s), %d GiB, Linux %s, data on %s. Generator and server share the CPUs. %d run%s of %g s each, in turns, after %g s of warming up." % (
        " BENCH=quick" if b.o.quick else "", time.strftime("%Y-%m-%d"), b.systems[0].version, os.cpu_count(), cpu, p.memory_bytes() // 2**30, os.uname().release, filesystem(b.top),
        b.o.runs, "s" if b.o.runs > 1 else "", b.o.seconds, b.o.warm), ""]
    quiet, said = b.quiet()
    out += [said if quiet else "**The machine was not quiet**, so rates and ratios of this table prove nothing. " + said, ""]
    if b.o.quick:
        out += ["A quick look: one run each, one number of clients. For figures to be quoted, `make bench`.", ""]
    if b.o.zipf:
        out += ["Users create after Zipf's law, exponent %g." % b.o.zipf, ""]
    out += ["Each answer after the disk has it: " + "; ".join("%s %s, %s" % (s.name, s.version, s.fsync) for s in b.systems) + ".", "",
            "Population: %s orders, 200 of each user, the same everywhere; all of it fits in memory. All keep indexes by user + time, status + time and SKU; OrderDB one by merchant too, and exact "
            "totals of the user's list. Rows of a peer without its two show what they cost it." % f"{b.o.population:,}", "",
            "| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    out += ["| " + " | ".join(row) + " |" for row in table_rows(b)]
    if b.rested:
        out += ["", "Before each run the machine came to rest (at most %d s; %.0f s in all). What the systems did meanwhile is in no row; in CPU seconds: %s." % (
            REST_SECONDS_MAX, b.rested, ", ".join("%s %.0f" % x for x in b.rests.items()))]
    bars = b.bars()
    out += ["", "| bar | measured | needed | met |", "|---|---|---|---|"] + ["| %s | %s | %s | %s |" % (what, got, bar, "yes" if met else "**no**") for what, got, bar, met in bars]
    met = sum(r[3] for r in bars)
    out += ["", "%d of %d bars met. Ratios are to the faster way of talking to a peer. Counted afterwards: %s." % (met, len(bars), "; ".join(b.notes)), END]
    return "\n".join(out) + "\n", met == len(bars)


def write_results(text):
    path = os.path.join(HERE, "RESULTS.md")
    old = open(path).read()
    if BEGIN in old and END in old:
        head, rest = old.split(BEGIN, 1)
        new = head + text.rstrip("\n") + rest.split(END, 1)[1]
    else:
        new = old.rstrip("\n") + "\n\n## Side by side with PostgreSQL, MariaDB and Redis\n\n" + text
    with open(path + ".new", "w") as f:
        f.write(new)
    os.replace(path + ".new", path)


# ---- where and what

def filesystem(path):
    return p.output_of(["findmnt", "-n", "-o", "FSTYPE", "-T", path]).strip()


def place(asked):
    """A directory on a real disk: memory syncs nothing."""
    for top in [asked] if asked else [os.environ.get("TMPDIR", "/tmp"), "/var/tmp", os.path.dirname(HERE)]:
        if os.path.isdir(top) and os.access(top, os.W_OK) and filesystem(top) not in ("tmpfs", "ramfs", ""):
            return tempfile.mkdtemp(prefix="orderdb-bench-", dir=top)
    sys.exit("bench: no directory on a real disk; name one with --dir")


def options_read():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("build", metavar="BUILD", help="the directory of the built programs")
    a.add_argument("--quick", action="store_true", help="a look in two or three minutes, nothing written")
    a.add_argument("--only", default=",".join(WORK), help="of the work (default: %(default)s)")
    a.add_argument("--peers", default=",".join(p.PEERS), help="beside whom (default: %(default)s)")
    a.add_argument("--runs", type=int, help="of each (default: 3, quick 1)")
    a.add_argument("--seconds", type=float, help="of a run (default: 5, quick 2)")
    a.add_argument("--population", type=int, help="orders there are before (default: 200000, quick 20000)")
    a.add_argument("--zipf", type=float, default=0, help="how unevenly users create (default: evenly)")
    a.add_argument("--dir", help="on the disk that is to be measured (default: one is looked for)")
    a.add_argument("--write", action=argparse.BooleanOptionalAction, help="the table goes into bench/RESULTS.md (default: where all was measured)")
    a.add_argument("--strict", action="store_true", help="exit code 1 when a bar is missed")
    o = a.parse_args()
    o.build = os.path.abspath(o.build)
    o.runs = o.runs or (1 if o.quick else 3)
    o.seconds = o.seconds or (2 if o.quick else 5)
    o.warm = 0.5 if o.quick else 1
    o.population = (o.population or (20000 if o.quick else 200000)) // 200 * 200
    o.only = [w for w in o.only.split(",") if w]
    o.peers = [k for k in o.peers.split(",") if k]
    for wrong in [w for w in o.only if w not in WORK] + [k for k in o.peers if k not in p.PEERS]:
        a.error("%s is neither of %s nor of %s" % (wrong, ", ".join(WORK), ", ".join(p.PEERS)))
    if o.write is None:
        o.write = not o.quick and o.only == WORK and len(o.peers) == len(p.PEERS)
    return o


def main():
    o = options_read()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    top = place(o.dir)
    os.chmod(top, 0o755)  # a peer's own user must get in
    b = Bench(o, top)
    try:
        for s in b.systems[1:]:
            if s.missing():
                raise p.PeerError("%s: %s is missing; make bench installs and builds it" % (s.name, s.missing()))
        b.run()
        text, all_met = markdown(b)
    except (p.PeerError, OSError, subprocess.SubprocessError) as e:
        print("bench: %s" % e, file=sys.stderr)
        return 2
    finally:
        b.stop()
        shutil.rmtree(top, ignore_errors=True)
    print(text)
    if o.write:
        write_results(text)
        say("written to bench/RESULTS.md")
    say("%.0f s" % (time.monotonic() - b.began))
    return 1 if o.strict and not all_met else 0


if __name__ == "__main__":
    sys.exit(main())
