#!/usr/bin/python3
"""orderctl bench and bench/bench.py against a real server: every work runs, its figures add up, what it wrote is there. Rates are not judged."""
import glob
import json
import os
import re
import subprocess
import sys

import orderdb_test as t

POPULATION, FRESH = 400, 20000  # more transitions than a fast machine makes in the time


def bench(server, *arguments, code=0):
    p = subprocess.run([os.path.join(t.BUILD, "orderctl"), "bench", "--server", server.address, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    t.equal(p.returncode, code, p.stdout + p.stderr)
    return p


def figures(server, work, *arguments, code=0):
    return json.loads(bench(server, work, "--seconds", 1, "--warm-up", 0.2, "--population", POPULATION, "--fresh", FRESH, "--server-pid", server.process.pid,
                            "--timeout", 30, "-c", 2, "-i", 4, "-o", "json", *arguments, code=code).stdout)


@t.test("fill makes the population")
def _(server):
    r = figures(server, "create", "--fill")
    t.equal(r["done"], POPULATION)
    for user in range(POPULATION // 200):
        t.equal(server.call("ListOrders", user_id="u%09d" % user).total_size, 200)


@t.test("each work runs, and is counted by kind")
def _(server):
    for work in ("create", "get", "list", "transition"):
        r = figures(server, work)
        t.true(r["done"] > 0 and r["failed"] == 0, str(r))
        t.true(r["latency"][work]["count"] > 0 and r["latency"]["all"]["count"] == r["latency"][work]["count"], str(r))
        t.true(0 < r["latency"]["all"]["p50_ms"] <= r["latency"]["all"]["p99_ms"] <= r["latency"]["all"]["max_ms"], str(r))
        t.true(r["used_up"] or abs(r["done"] / r["seconds"] - r["per_s"]) <= 1 + 0.01 * r["per_s"], str(r))


@t.test("a mix has all four in its shares")
def _(server):
    r = figures(server, "mixed")
    counts = [r["latency"][w]["count"] for w in ("create", "transition", "get", "list")]
    t.true(r["failed"] == 0 and all(counts), str(r))
    t.equal(sum(counts), r["latency"]["all"]["count"])


@t.test("an open loop counts every call that was due")
def _(server):
    r = figures(server, "create", "--rate", 200, "--zipf", 0.99)
    t.equal(r["latency"]["all"]["count"], 200)
    r = figures(server, "create", "--rate", 1000000, "-c", 1, "-i", 1)
    t.equal(r["latency"]["all"]["count"], 1000000)
    t.true(r["unsent"] > 500000, str(r))


@t.test("the words are those of the figures")
def _(server):
    p = bench(server, "create", "--seconds", 0.3, "--server-pid", server.process.pid)
    for word in ("connections x", "p99", "CPU an operation", "other work on the machine"):
        t.true(word in p.stdout, p.stdout)


@t.test("wrong use is told, and a server that is not there")
def _(server):
    for arguments in (("gets",), ("create", "--rate", "fast"), ("create", "-c", 0), ("create", "-c", -1), ("get", "--population", 0), ("create", "--population", 7)):
        t.true("orderctl bench" in bench(server, *arguments, code=2).stderr, str(arguments))
    p = subprocess.run([os.path.join(t.BUILD, "orderctl"), "bench", "create", "--server", "127.0.0.1:%d" % t.free_port(), "--seconds", "0.3", "--warm-up", "0"],
                       capture_output=True, text=True, timeout=60)
    t.equal(p.returncode, 3, p.stdout + p.stderr)


@t.test("make bench without peers: it starts a server of its own, and prints the table")
def _():
    p = subprocess.run([sys.executable, os.path.join(t.ROOT, "bench/bench.py"), t.BUILD, "--quick", "--only", "create", "--peers", "", "--seconds", "0.5", "--population", "400"],
                       capture_output=True, text=True, timeout=120)
    t.equal(p.returncode, 0, p.stderr)
    for part in ("| CREATE | OrderDB |", "CREATE p50 with 1 in flight", "of 2 bars met"):
        t.true(part in p.stdout, p.stdout)
    p = subprocess.run([sys.executable, os.path.join(t.ROOT, "bench/bench.py"), t.BUILD, "--only", "creates"], capture_output=True, text=True, timeout=20)
    t.true(p.returncode == 2 and "creates" in p.stderr, p.stderr)


@t.test("every script and every make target says what it does, and does nothing else when asked")
def _():
    for path in sorted(p for pattern in ("bench/*.py", "tests/abuse/*.py", "tests/perf/*.py", "tests/integration/test_[cz]*.py") for p in glob.glob(os.path.join(t.ROOT, pattern)) if os.access(p, os.X_OK)):
        p = subprocess.run([path, "--help"], capture_output=True, text=True, timeout=60)
        t.equal((p.returncode, p.stderr), (0, ""), path)
        t.true("usage" in p.stdout or "BUILD" in p.stdout, p.stdout)
    texts = "".join(open(os.path.join(t.ROOT, name)).read() for name in ("Makefile", "tools/install.mk"))
    targets = {w for line in re.findall(r"^\.PHONY: (.*)$", texts, re.M) for w in line.split()} - {"FORCE"}
    told = subprocess.run(["make", "-s", "-C", t.ROOT, "help"], capture_output=True, text=True, check=True).stdout
    t.equal(targets - set(re.findall(r"^  make (\S+)", told, re.M)), set(), "not in make help")
    t.equal([line for line in told.splitlines() if len(line) > 80], [])


@t.test("the table takes the place of the one before it")
def _():
    sys.path.insert(0, os.path.join(t.ROOT, "bench"))
    import bench as b
    b.HERE = os.path.join(t.TEMP, "results")
    os.mkdir(b.HERE)
    path = os.path.join(b.HERE, "RESULTS.md")
    with open(path, "w") as f:
        f.write("# Results\n\nwords\n")
    for text in ("one", "two"):
        b.write_results("%s\n%s\n%s\n" % (b.BEGIN, text, b.END))
        with open(path, "a") as f:
            f.write("behind %s\n" % text)
    t.equal(open(path).read(), "# Results\n\nwords\n\n## Side by side with PostgreSQL, MariaDB and Redis\n\n%s\ntwo\n%s\nbehind one\nbehind two\n" % (b.BEGIN, b.END))


if __name__ == "__main__":
    t.run()
