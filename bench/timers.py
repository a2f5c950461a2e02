#!/usr/bin/python3
"""Order timers in numbers: many that are due at once beside honest load, and many that are pending.

Due: orders with a timer are created, and the server started anew; callers create at a fixed rate, alone, on a store at rest. It is down while all timers come due, starts, and fires
them while callers create at that rate; then the same load once more, behind the drain, whose runs and compactions go on. --orders=0: without what follows.
Pending: orders of a status with 8 timers of 30 days; memory, then restarts. Prints Markdown tables for bench/RESULTS.md. Generator and server share the machine."""
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/integration"))
import orderdb_test as t  # noqa: E402

admin = t.admin_pb2
DAY = 86400


def load(server, *arguments):
    p = subprocess.run([os.path.join(t.BUILD, "bench/load"), "--server", server.address, *map(str, arguments)], capture_output=True, text=True)
    sys.stderr.write(p.stdout + p.stderr)
    assert " acknowledged in " in p.stdout, "the load generator failed"  # refused for overload is no failure here
    return p.stdout


def figure(server, name):
    return sum(value for key, value in server.metrics().items() if key.split("{")[0] == name)


def next_retail(server, timers):
    """The default machine's next version: unpaid orders have these timers, (id, seconds, event)."""
    retail = [r.machine for r in server.call("ListResources", kind="machine").resources if r.machine.name == "retail"][-1]
    retail.version += 1
    state = next(s for s in retail.states if s.initial)
    del state.timers[:]
    for timer_id, after_s, event in timers:
        state.timers.add(timer_id=timer_id, event=event).after.seconds = after_s
    server.call("ApplyResource", resource=admin.Resource(machine=retail))


def start_s(server):
    """From exec to the first answer."""
    begin = time.monotonic()
    server.start(wait=False)
    while True:
        try:
            t.Client(server.address).call("ListOrders", user_id="nobody", timeout=1)
            return time.monotonic() - begin
        except t.Failure:
            time.sleep(0.02)


def p99_ms(out):
    return float(re.search(r"create .* p99 ([\d.]+) ms", out).group(1))


def creates(rate, seconds, seed):
    return "--mode", "create", "--connections", 8, "--inflight", 64, "--rate", rate, "--seconds", seconds, "--seed", seed


def due(count, rate, seconds):
    server = t.Server(cores=os.cpu_count(), partitions=2 * os.cpu_count(), wait_s=60)
    after_s = max(20, count // 20000) + 2 * seconds  # longer than it takes to create them on a slow machine
    next_retail(server, [("pay_timeout", after_s, "pay_timeout")])
    load(server, "--mode", "create", "--connections", 8, "--inflight", 32, "--orders", count, "--users", max(1000, count // 10))
    created = time.monotonic()
    next_retail(server, [("pay_timeout", 30 * DAY, "pay_timeout")])  # of the loads that follow
    assert server.stop(60) == 0
    start_s(server)
    os.sync()  # at rest is the disk, too
    time.sleep(2)
    rest = load(server, *creates(rate, seconds, 6))
    fired_early = figure(server, "orderdb_timers_fired_total")
    assert server.stop(60) == 0
    time.sleep(max(0.0, created + after_s + 1 - time.monotonic()))
    start_s(server)
    begin = time.monotonic()
    beside = subprocess.Popen([os.path.join(t.BUILD, "bench/load"), "--server", server.address, *map(str, creates(rate, seconds, 7))], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    drained, loaded, fired = None, None, 0
    while drained is None or loaded is None:
        time.sleep(0.05)
        if drained is None and figure(server, "orderdb_timers_fired_total") >= 0.999 * count and figure(server, "orderdb_timers_lag_seconds") == 0:
            drained, fired = time.monotonic() - begin, figure(server, "orderdb_timers_fired_total")
        if loaded is None and beside.poll() is not None:
            loaded = beside.stdout.read()
            sys.stderr.write(loaded)
        assert time.monotonic() - begin < 600, "it never ended"
    behind = load(server, *creates(rate, seconds, 8))
    print("| timers due at once | %d (%d had fired before) |" % (fired, fired_early))
    print("| all fired after | %.1f s, %.0f/s, beside %d creates/s%s |" % (drained, fired / drained, rate, "" if drained >= seconds else ", which went on for %.1f s: too few timers" % (seconds - drained)))
    print("| p99 of the creates: on a store at rest, beside them, behind them | %.2f ms, %.2f ms, %.2f ms |" % (p99_ms(rest), p99_ms(loaded), p99_ms(behind)))
    server.remove()


def pending(orders):
    server = t.Server(cores=os.cpu_count(), partitions=2 * os.cpu_count(), wait_s=60)
    next_retail(server, [("remind-%d" % i, 30 * DAY + i, "") for i in range(8)])
    rss = server.rss_bytes()
    load(server, "--mode", "create", "--connections", 8, "--inflight", 32, "--orders", orders, "--users", orders // 10)
    print("| timers pending | %d, of %d orders |" % (figure(server, "orderdb_timers_pending"), orders))
    print("| resident memory: empty, with them; budget | %.0f MiB, %.0f MiB; %.0f MiB |" % (rss / 2**20, server.rss_bytes() / 2**20, server.metrics()["orderdb_memory_budget_bytes"] / 2**20))
    assert server.stop(60) == 0
    print("| restart to the first answer | %.2f s |" % start_s(server))
    print("| resident memory after it | %.0f MiB |" % (server.rss_bytes() / 2**20))
    time.sleep(1)
    server.kill()
    print("| and after kill -9 | %.2f s |" % start_s(server))
    server.remove()


if __name__ == "__main__":
    args = t.options(__doc__, due=(1000000, "timers that come due while it is down; 0: without"), orders=(1250000, "with 8 timers each; 0: without"), rate=(3000, "creates a second beside"), seconds=(20, "of each such load"))
    print("| what | measured |\n|---|---|")
    if args.due:
        due(args.due, args.rate, args.seconds)
    if args.orders:
        pending(args.orders)
