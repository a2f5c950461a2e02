#!/usr/bin/python3
"""The change stream's figures, beside Redis and NATS JetStream in the same run.

Prints Markdown for bench/RESULTS.md, with the machine's load while it ran; progress on stderr. What is compared takes turns, three times each; figures are medians.
- What events cost a create: server CPU against a build of the same tree that writes none (MUTANT=no_events), a third of the orders at a time.
- Catch-up: the orders of those three turns, all from the earliest to the end. Peers get as many events of 300 bytes. Readers are C on all sides (bench/follow.c, bench/peer.c), one thread.
- Acks: a group's members take and ack each of those events (bench/consume.c; Redis: XREADGROUP and XACK), until the group's lag is 0: all acks are in the log then.
- Fan-out to groups: each acks every event, one process a group, at a quarter of the peak: what each saw of the orders, and when.
- Latency, fan-out to readers, a reader that hangs: open or closed load beside live readers.
--only: these parts alone, for a machine that can't be had for six minutes; the orders are made all the same.
redis-server and nats-server (Debian packages of these names) are left out, and that is said, where they are not installed."""
import os
import re
import shutil
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/integration"))
import orderdb_test as t  # noqa: E402

TURNS = 3
EVENT_BYTES = 300  # of the peers


def say(text):
    sys.stderr.write("%6.1f s, load %.1f: %s\n" % (time.monotonic() - BEGAN, os.getloadavg()[0], text))
    LOADS.append(os.getloadavg()[0])


BEGAN, LOADS = time.monotonic(), []


def program(name):
    return os.path.join(t.BUILD, "bench", name)


def numbers(text):
    return {k: float(v) for k, v in re.findall(r"(\w+)=([\d.]+)", text)}


def run(name, *arguments):
    p = subprocess.run([program(name), *map(str, arguments)], capture_output=True, text=True)
    if p.returncode:
        raise AssertionError("%s %s: exit %d\n%s%s" % (name, arguments, p.returncode, p.stdout, p.stderr))
    return p.stdout


def load_start(server, *arguments):
    return subprocess.Popen([program("load"), "--server", server.address, "--mode", "create", "--connections", "8", "--inflight", "32", "--items", "1", *map(str, arguments)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def load_end(p):
    """(acknowledged, rate). Writes that an overloaded machine's server refuses are tried again by the generator, and are no failure here."""
    out = p.communicate()[0]
    m = re.search(r"(\d+) acknowledged in [\d.]+ s, (\d+)/s", out)
    assert m, out
    return int(m.group(1)), int(m.group(2))


def follow(server, *arguments):
    return numbers(run("follow", "--server", server.address, *arguments))


def baseline():
    """orderd of today's tree that writes no events; None: it can't be built here."""
    cc = "ccache gcc" if shutil.which("ccache") else "gcc"
    say("building a server without events")
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    p = subprocess.run(["make", "-j%d" % os.cpu_count(), "CC=" + cc, "MUTANT=no_events", "build-mutant-no_events/orderd"], cwd=t.ROOT, capture_output=True, text=True, env=env)
    return os.path.join(t.ROOT, "build-mutant-no_events", "orderd") if p.returncode == 0 else None


# ---- peers
class Peer:
    def __init__(self, name, command):
        self.name, self.port = name, t.free_port()
        self.directory = os.path.join(t.TEMP, name)
        os.makedirs(self.directory)
        self.process = subprocess.Popen([a.format(port=self.port, dir=self.directory) for a in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not self.answers():
            assert time.monotonic() < deadline, "%s does not start" % name
            time.sleep(0.05)

    def answers(self):
        try:
            t.socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            return False

    def do(self, what, events):
        return numbers(run("peer", self.name, what, self.port, events, EVENT_BYTES))

    def end(self):
        self.process.kill()
        self.process.wait()


PEERS = {
    "redis": ("redis-server", "--port {port} --bind 127.0.0.1 --dir {dir} --appendonly yes --appendfsync always --save".split() + [""]),
    "nats": ("nats-server", "-js -sd {dir} -a 127.0.0.1 -p {port}".split()),
}


def peers_start():
    return [Peer(name, [shutil.which(program_), *flags]) for name, (program_, flags) in PEERS.items() if shutil.which(program_)]


# ---- what is measured
def create_cost(orders, current, base):
    """[us of server CPU per create] of both, in turns on growing stores. The one whose turn it is not is stopped."""
    us, rates = {"with": [], "without": []}, []
    for turn in range(TURNS):
        for name, server in (("with", current), ("without", base)) if turn % 2 else (("without", base), ("with", current)):
            if not server:
                continue
            server.start()
            cpu = t.cpu_s(server.pid)
            acked, rate = load_end(load_start(server, "--orders", orders))
            us[name].append((t.cpu_s(server.pid) - cpu) * 1e6 / acked)
            if name == "with":
                rates.append(rate)
            say("creates %s events: %.1f us, %d/s" % (name, us[name][-1], rate))
            if turn < TURNS - 1 or name == "without":  # the last one goes on, with its tail in memory
                server.stop(60)
    return us, rates


def catch_up(server, peers, events):
    rows = {}
    for p in peers:
        say("%s loads %d events: %.0f/s" % (p.name, events, p.do("load", events)["rate"]))
    jobs = [("ReadChanges, SUMMARY", lambda: follow(server)), ("ReadChanges, FULL", lambda: follow(server, "--full"))]
    jobs += [(p.name, lambda p=p: p.do("read", events)) for p in peers]
    for _ in range(TURNS):
        for name, job in jobs:
            pid = next((p.process.pid for p in peers if p.name == name), server.pid)
            cpu = t.cpu_s(pid)
            r = job()
            assert r["events"] == events, (name, r)
            rate, mb = (r["rate_all"], r["mb_s_all"]) if "rate_all" in r else (r["rate"], r["mb_s"])
            rows.setdefault(name, []).append((rate, mb, (t.cpu_s(pid) - cpu) * 1e6 / events))
            say("catch-up %s: %.0f/s" % (name, rate))
    return {name: tuple(statistics.median(v[i] for v in values) for i in range(3)) for name, values in rows.items()}


def acked(server, peers, events):
    """{name: events/s read and acked by a group, medians}."""
    rows, n = {}, 0

    def group(members, key):
        nonlocal n
        n += 1
        name = "bench-%d" % n
        server.call("CreateConsumerGroup", group=t.stream_pb2.ConsumerGroup(group=name, ordering_key=key))
        began = time.monotonic()
        r = numbers(run("consume", "--server", server.address, "--group", name, "--events", events, "--members", members))
        while server.call("GetGroupLag", group=name).events:
            assert time.monotonic() < began + 60, "acks are not settled"
            time.sleep(0.05)  # asking reads each slot's position
        assert r["events"] == events and r["stale"] == 0, r
        return events / (time.monotonic() - began)

    user, none = t.stream_pb2.ConsumerGroup.USER, t.stream_pb2.ConsumerGroup.NONE
    jobs = [("a group of one member, in order by user", server.pid, lambda: group(1, user)), ("of four members, in order by user", server.pid, lambda: group(4, user)),
            ("of one member, in no order", server.pid, lambda: group(1, none))]
    jobs += [("Redis XREADGROUP and XACK", p.process.pid, lambda p=p: p.do("group", events)["rate"]) for p in peers if p.name == "redis"]
    for _ in range(TURNS):
        for name, pid, job in jobs:
            cpu = t.cpu_s(pid)
            rate = job()
            rows.setdefault(name, []).append((rate, (t.cpu_s(pid) - cpu) * 1e6 / events))
            say("acked, %s: %.0f/s" % (name, rate))
    for i in range(n):
        server.call("DeleteConsumerGroup", group="bench-%d" % (i + 1))
    time.sleep(3)  # their rows go behind the answer
    return {name: tuple(statistics.median(v[i] for v in values) for i in range(2)) for name, values in rows.items()}


def live(server, readers, rate, seconds):
    """(what the readers saw, orders acknowledged) under an open load."""
    time.sleep(0.5)
    p = subprocess.Popen([program("follow"), "--server", server.address, "--live", "--latency", "--readers", str(readers), "--seconds", str(seconds + 2)], stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    acked, _ = load_end(load_start(server, "--seconds", seconds, "--rate", rate))
    return numbers(p.communicate()[0]), acked


def group_live(server, rate, seconds):
    """What one group saw that acks everything, under an open load; medians."""
    seen = []
    for turn in range(TURNS):
        name = "live-%d" % turn
        server.call("CreateConsumerGroup", group=t.stream_pb2.ConsumerGroup(group=name, start=t.stream_pb2.ConsumerGroup.LATEST))
        p = subprocess.Popen([program("consume"), "--server", server.address, "--group", name, "--live", "--latency", "--seconds", str(seconds + 2)], stdout=subprocess.PIPE, text=True)
        time.sleep(0.5)
        made, _ = load_end(load_start(server, "--seconds", seconds, "--rate", rate))
        seen.append(numbers(p.communicate()[0]))
        assert seen[-1]["events"] == made, (seen[-1], made)
        server.call("DeleteConsumerGroup", group=name)
        say("a live group: p50 %.1f ms, p99 %.1f ms" % (seen[-1]["p50_ms"], seen[-1]["p99_ms"]))
    return [statistics.median(s[k] for s in seen) for k in ("p50_ms", "p99_ms")]


def fan_out(server, rate, seconds):
    rows = []
    for readers in (1, 4, 16):
        turns = TURNS if readers == 1 else 1
        seen = [live(server, readers, rate, seconds) for _ in range(turns)]
        behind = follow(server, "--readers", readers)
        got, acked = sum(s["events"] for s, _ in seen), sum(a for _, a in seen)
        p50, p99 = (statistics.median(s[k] for s, _ in seen) for k in ("p50_ms", "p99_ms"))
        rows.append((readers, acked / turns / seconds, got / readers / acked, p50, p99, behind["rate_each"], behind["rate_all"]))
        say("%d live readers: p50 %.1f ms, p99 %.1f ms" % (readers, p50, p99))
    return rows


def fan_groups(server, rate, seconds):
    """1, 4 and 16 groups under an open load: (groups, creates/s, of the events seen by the one that saw least, its p50 and p99, the median group's p99, acked/s by all)."""
    rows = []
    for count in (1, 4, 16):
        names = ["fan-%d-%d" % (count, i) for i in range(count)]
        for name in names:
            server.call("CreateConsumerGroup", group=t.stream_pb2.ConsumerGroup(group=name, start=t.stream_pb2.ConsumerGroup.LATEST))
        running = [subprocess.Popen([program("consume"), "--server", server.address, "--group", n, "--live", "--latency", "--seconds", str(seconds + 3)], stdout=subprocess.PIPE, text=True)
                   for n in names]
        time.sleep(1)
        made, _ = load_end(load_start(server, "--seconds", seconds, "--rate", rate))
        seen = [numbers(p.communicate()[0]) for p in running]
        least, p50, p99 = (f(s[k] for s in seen) for f, k in ((min, "events"), (max, "p50_ms"), (max, "p99_ms")))
        rows.append((count, made / seconds, least / made, p50, p99, statistics.median(s["p99_ms"] for s in seen), sum(s["events"] for s in seen) / seconds))
        for name in names:
            server.call("DeleteConsumerGroup", group=name)
        say("%d groups: all but %.1f %% seen by the slowest, p99 %.1f ms" % (count, 100 * (1 - least / made), p99))
    return rows


def hang(server, seconds):
    """Creates a second without and with a reader that takes nothing, and what it holds of an idle server's memory."""
    rates, grown = {False: [], True: []}, 0

    def hanging(seconds_):
        p = subprocess.Popen([program("follow"), "--server", server.address, "--live", "--hang", "--full", "--seconds", str(seconds_)], stdout=subprocess.DEVNULL)
        time.sleep(1)
        return p

    time.sleep(2)
    before = server.rss_bytes()
    p = hanging(2)
    grown = server.rss_bytes() - before
    p.wait()
    for turn in range(TURNS):
        for with_it in (False, True) if turn % 2 else (True, False):
            p = hanging(seconds + 2) if with_it else None
            rates[with_it].append(load_end(load_start(server, "--seconds", seconds))[1])
            if p:
                p.wait()
            say("creates beside %s: %d/s" % ("one that hangs" if with_it else "nobody", rates[with_it][-1]))
    return rates, grown


def paired(a, b):
    """By how much a is above b, in per cent: the median over the turns, so that a machine that gets busier meanwhile weighs on both."""
    return 100 * (statistics.median(x / y for x, y in zip(a, b)) - 1)


def table(head, rows):
    print("| %s |\n|%s" % (" | ".join(head), "---|" * len(head)))
    for r in rows:
        print("| %s |" % " | ".join(r))
    print()


PARTS = ("cost", "read", "ack", "live", "fan", "groups", "hang")


def parts(text):
    only = text.split(",")
    assert set(only) <= set(PARTS), "--only: some of %s" % ",".join(PARTS)
    return only


def print_read(rows):
    reference = rows["ReadChanges, SUMMARY"][0]
    table(["catch-up read", "events/s", "MB/s", "ReadChanges SUMMARY is", "CPU of the server an event"],
          [(n, "%.0f" % r, "%.0f" % mb, "%.2f x" % (reference / r), "%.2f us" % c) for n, (r, mb, c) in rows.items()])


def print_acked(groups):
    reference = next(iter(groups.values()))[0]
    table(["read and acked (bar 150,000/s, and ahead of Redis)", "events/s", "one member by user is", "CPU of the server an event"],
          [(n, "%.0f" % r, "%.2f x" % (reference / r), "%.2f us" % c) for n, (r, c) in groups.items()])


def print_fans(fans):
    table(["live readers", "creates/s", "of the events seen", "commit to delivery p50", "p99", "catch-up each", "all"],
          [("%d" % n, "%.0f" % c, "%.1f %%" % (100 * seen), "%.1f ms" % p50, "%.1f ms" % p99, "%.0f/s" % each, "%.0f/s" % all_) for n, c, seen, p50, p99, each, all_ in fans])


def print_groups(rows):
    table(["groups, each acks all", "creates/s (a quarter of the peak)", "of the events seen, least", "commit to delivery p50, worst", "p99, worst", "p99, median", "acked, all"],
          [("%d" % n, "%.0f" % c, "%.1f %%" % (100 * least), "%.1f ms" % p50, "%.1f ms" % p99, "%.1f ms" % mid, "%.0f/s" % all_) for n, c, least, p50, p99, mid, all_ in rows])


def hang_rows(hung, grown):
    return [("creates beside a reader that hangs", "%.0f/s, without %.0f/s; by turns %+.1f %%" % (statistics.median(hung[True]), statistics.median(hung[False]), paired(hung[True], hung[False])), "less than 3 % less"),
            ("memory that it holds", "%.1f MiB" % (grown / 2**20), "< 16 MiB")]


def cost_row(us):
    if not us["without"]:
        return "server CPU a create", "%.1f us" % statistics.median(us["with"]), "at most 15 % more"
    a, b = statistics.median(us["with"]), statistics.median(us["without"])
    return "server CPU a create", "%.1f us, without events %.1f us; by turns %+.1f %%" % (a, b, paired(us["with"], us["without"])), "at most 15 % more"


def main():
    global BEGAN
    o = t.options(__doc__, orders=(300000, "created, a third in each turn"), seconds=(5, "of each live load"), only=(",".join(PARTS), "of the parts"))
    only, orders, seconds = parts(o.only), o.orders // TURNS, o.seconds
    flags = {"cores": os.cpu_count(), "partitions": 2 * os.cpu_count()}
    old = baseline() if "cost" in only else None
    BEGAN = time.monotonic()
    say("begins")
    current = t.Server(start=False, **flags)
    base = t.Server(start=False, program=old, **flags) if old else None
    peers = peers_start() if "read" in only or "ack" in only else []
    more = []
    try:
        us, rates = create_cost(orders, current, base)
        peak, events = statistics.median(rates), int(follow(current)["events"])
        assert events >= orders * TURNS
        if "read" in only:
            print_read(catch_up(current, peers, events))
        if "ack" in only:
            if "read" not in only:
                for p in peers:
                    p.do("load", events)
            print_acked(acked(current, peers, events))
        if "live" in only:
            more.append(("commit to delivery, one group, %.0f creates/s (half of the peak)" % (peak / 2), "p50 %.1f ms, p99 %.1f ms" % tuple(group_live(current, peak / 2, seconds)), "p99 < 20 ms"))
        if "fan" in only:
            print_fans(fan_out(current, peak / 2, seconds))
        if "groups" in only:
            print_groups(fan_groups(current, peak / 4, seconds))
        if "hang" in only:
            more += hang_rows(*hang(current, seconds))
        if "cost" in only:
            more.append(cost_row(us))
    finally:
        for p in peers:
            p.end()
    say("done")
    if more:
        table(["what", "measured", "bar"], more)
    missing = [p for p in PEERS if p not in [x.name for x in peers]] if "read" in only or "ack" in only else []
    print("%d CPUs; load average %.1f to %.1f while it ran (%.0f s); %d orders, %d events.%s" % (
        os.cpu_count(), min(LOADS), max(LOADS), time.monotonic() - BEGAN, orders * TURNS, events, " Not installed, so left out: %s." % ", ".join(missing) if missing else ""))
    return 0


sys.exit(main())
