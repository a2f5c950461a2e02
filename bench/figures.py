#!/usr/bin/python3
"""Many small orders loaded into a fresh server: throughput by tenths, disk, writes, resident memory, restart times; and what a second core brings.
Prints a Markdown table for bench/RESULTS.md. Generator and server share the machine. Calls that the server refused because its queue or its store was full (OVERLOADED) were not applied and are told; any other failure
ends the run. Ends with 1 when a bar of an issue is missed: at 20,000,000 orders and more the last tenth must have 80 % of the first's rate, else 70 %."""
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/integration"))
import orderdb_test as t  # noqa: E402


def load(server, *arguments):
    p = subprocess.run([os.path.join(t.BUILD, "bench/load"), "--server", server.address, *map(str, arguments)], capture_output=True, text=True)
    sys.stderr.write(p.stdout + p.stderr)
    reasons = re.findall(r"^  error (.*): \d+$", p.stdout, re.M)
    assert p.returncode in (0, 1) and all(r == "8 OVERLOADED" for r in reasons) and (p.returncode == 0) == (not reasons), "the load generator failed"
    return p.stdout


def acked(out):
    return int(re.search(r"(\d+) acknowledged", out).group(1))


def written_bytes(server):
    return int(re.search(r"^write_bytes: (\d+)", open("/proc/%d/io" % server.pid).read(), re.M).group(1))


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


rows, missed = [], []


def row(what, value, bar, ok):
    rows.append("| %s | %s | %s | %s |" % (what, value, bar, "yes" if ok else "**no**"))
    if not ok:
        missed.append(what)


def cores_compared(seconds=8):
    """What a second core brings, the generator left out: CPU an operation with one core and with two, partitions the same. Two cores do 2 x one's work where an operation costs no more."""
    us = {}
    for cores in (1, 2, 1, 2):
        server = t.Server(cores=cores, partitions=4, wait_s=60)
        for mode in ("create", "get"):
            cpu = t.cpu_s(server.pid)
            n = acked(load(server, "--mode", mode, "--connections", 8, "--inflight", 16, "--seconds", seconds, *(["--prefill", 5000] if mode == "get" else [])))
            us.setdefault((mode, cores), []).append((t.cpu_s(server.pid) - cpu) * 1e6 / n)
        server.remove()
    for mode, bar in (("create", 1.5), ("get", 1.7)):
        one, two = (min(us[mode, cores]) for cores in (1, 2))
        row("two cores against one, %s" % mode, "%.2fx (%.1f us of CPU an operation on one, %.1f on two)" % (2 * one / two, one, two), ">= %.1fx" % bar, 2 * one / two >= bar)


def loaded(orders):
    bar = 80 if orders >= 20000000 else 70
    server = t.Server(cores=os.cpu_count(), partitions=2 * os.cpu_count(), wait_s=60)
    budget = server.metrics()["orderdb_memory_budget_bytes"]
    out = load(server, "--mode", "create", "--connections", 8, "--inflight", 32, "--orders", orders, "--users", orders // 10)
    rate = int(re.search(r", (\d+)/s;", out).group(1))
    request_bytes, refused, stored = int(re.search(r"(\d+) bytes a request", out).group(1)), orders - acked(out), acked(out)
    tenths = [int(x) for x in re.search(r"tenths: ([\d ]+) /s", out).group(1).split()]
    rss = server.rss_bytes()
    row("orders loaded", "%d at %d/s (tenths: %s); %d refused, OVERLOADED" % (stored, rate, " ".join(map(str, tenths)), refused), "-", True)
    row("last tenth / first tenth", "%.0f %%" % (100 * tenths[-1] / tenths[0]), ">= %d %%" % bar, tenths[-1] >= bar / 100 * tenths[0])
    row("resident memory after it", "%.0f MiB" % (rss / 2**20), "budget %.0f MiB" % (budget / 2**20), rss <= budget)
    space = disk_bytes(server.data_dir) / stored
    row("disk used", "%.0f bytes an order of %d bytes of request, log, events and history included" % (space, request_bytes), "<= 1229", space <= 1229)
    written = written_bytes(server) / stored
    row("written to disk", "%.0f bytes an order: %.1f times the request, %.1f times what is kept" % (written, written / request_bytes, written / space), "-", True)
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


def main():
    o = t.options(__doc__, orders=(5000000, "how many are loaded"), only=("all", "load, cores or all"))
    if o.only not in ("all", "load", "cores"):
        sys.exit("--only is load, cores or all")
    if o.only != "cores":
        loaded(o.orders)
    if o.only != "load":
        cores_compared()
    print("| what | measured | bar | met |\n|---|---|---|---|")
    print("\n".join(rows))
    return 1 if missed else 0


sys.exit(main())
