#!/usr/bin/python3
"""The spine's figures: many small orders loaded into a fresh server; throughput by tenths, resident memory, restart times. usage: bench/figures.py BUILD [--orders=5000000]

Prints a Markdown table for bench/RESULTS.md. Generator and server share the machine. Ends with 1 when a bar of the issue is missed."""
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/integration"))
import orderdb_test as t  # noqa: E402


def option(name, default):
    return next((int(a.split("=")[1]) for a in sys.argv if a.startswith("--%s=" % name)), default)


def load(server, *arguments):
    p = subprocess.run([os.path.join(t.BUILD, "bench/load"), "--server", server.address, *map(str, arguments)], capture_output=True, text=True)
    sys.stderr.write(p.stdout + p.stderr)
    assert p.returncode == 0, "the load generator failed"
    return p.stdout


def restart_s(server):
    """From exec to the first answer."""
    begin = time.monotonic()
    server.start(wait=False)
    while True:
        try:
            t.Client(server.address).call("ListOrders", user_id="nobody", timeout=1)
            return time.monotonic() - begin
        except t.Failure:
            time.sleep(0.02)


def disk_bytes(directory):
    return sum(os.stat(os.path.join(d, f)).st_blocks * 512 for d, _, files in os.walk(directory) for f in files)


def main():
    orders = option("orders", 5000000)
    rows, missed = [], []

    def row(what, value, bar, ok):
        rows.append("| %s | %s | %s | %s |" % (what, value, bar, "yes" if ok else "**no**"))
        if not ok:
            missed.append(what)

    server = t.Server(cores=os.cpu_count(), partitions=2 * os.cpu_count(), wait_s=60)
    budget = server.metrics()["orderdb_memory_budget_bytes"]
    out = load(server, "--mode", "create", "--connections", 8, "--inflight", 32, "--orders", orders, "--users", orders // 10)
    rate = int(re.search(r", (\d+)/s;", out).group(1))
    tenths = [int(x) for x in re.search(r"tenths: ([\d ]+) /s", out).group(1).split()]
    rss = server.rss_bytes()
    row("orders loaded", "%d at %d/s (tenths: %s)" % (orders, rate, " ".join(map(str, tenths))), "-", True)
    row("last tenth / first tenth", "%.0f %%" % (100 * tenths[-1] / tenths[0]), ">= 70 %", tenths[-1] >= 0.7 * tenths[0])
    row("resident memory after it", "%.0f MiB" % (rss / 2**20), "budget %.0f MiB" % (budget / 2**20), rss <= budget)
    row("disk used", "%.0f bytes an order, log included" % (disk_bytes(server.data_dir) / orders), "-", True)
    begin = time.monotonic()
    assert server.stop(60) == 0
    row("SIGTERM to exit", "%.2f s" % (time.monotonic() - begin), "< 15 s", time.monotonic() - begin < 15)
    clean = restart_s(server)
    row("clean restart to first answer", "%.2f s" % clean, "< 3 s", clean < 3)
    worst = 0.0
    for _ in range(3):
        p = subprocess.Popen([os.path.join(t.BUILD, "bench/load"), "--server", server.address, "--mode", "create", "--connections", "8", "--inflight", "32", "--seconds", "30"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(12)
        server.kill()
        p.wait()
        worst = max(worst, restart_s(server))
    row("restart after kill -9 under load to first answer, worst of 3", "%.2f s" % worst, "< 10 s", worst < 10)
    server.remove()
    print("| what | measured | bar | met |\n|---|---|---|---|")
    print("\n".join(rows))
    return 1 if missed else 0


sys.exit(main())
