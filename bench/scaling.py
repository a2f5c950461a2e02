#!/usr/bin/python3
"""What a second core brings: the server's CPU an operation with --cores 1 and with --cores 2, in turns.

The machine has two CPUs and the generator needs one of them, so rates can't tell. CPU an operation can: n cores that each spend c us on one do n/c a us, if they have nothing but that to do. So the gain is
2 x c(one core) / c(two cores), at full load, with the same number of partitions; runs and compactions are in both. Prints a Markdown table for bench/RESULTS.md; exit 1: a bar is missed."""
import os
import statistics
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../tests/integration"), os.path.join(HERE, "peers")]
import orderdb_test as t  # noqa: E402
import peers  # noqa: E402

PARTITIONS = 4
BARS = {"get": 1.7, "list": 1.7, "create": 1.5, "transition": 1.5}
CLIENTS = ("--connections", 8, "--inflight", 32)


def bench(server, work, *more):
    return peers.figures_of([os.path.join(t.BUILD, "orderctl"), "bench", work, "--server", server.address, "--server-pid", server.process.pid, "--timeout", 30, "-o", "json", *CLIENTS, *more])


def measure(cores, o):
    """{work: report} of a fresh server."""
    server = t.Server(cores=cores, partitions=PARTITIONS)
    population, seconds = ("--population", o.population), ("--seconds", o.seconds, "--warm-up", 0.5)
    bench(server, "create", "--fill", *population)
    found = {work: bench(server, work, *population, *seconds, "--fresh", 60000) for work in BARS}
    server.remove()
    return found


def main():
    o = t.options(__doc__, runs=(3, "turns of both"), seconds=(2.0, "of each work"), population=(20000, "orders there are before"))
    runs = {1: [], 2: []}
    for turn in range(o.runs):
        for cores in (1, 2) if turn % 2 == 0 else (2, 1):
            runs[cores].append(measure(cores, o))
    failed = False
    print("| work | one core: us an operation, rate | two cores | a second core brings | bar | met |\n|---|---|---|---|---|---|")
    for work, bar in BARS.items():
        us = {cores: [r[work]["server_us"] for r in runs[cores]] for cores in runs}
        rate = {cores: statistics.median(r[work]["per_s"] for r in runs[cores]) for cores in runs}
        told = ["%.1f (%s), %s/s" % (statistics.median(us[c]), ", ".join("%.1f" % u for u in us[c]), f"{rate[c]:,.0f}") for c in (1, 2)]
        gain = 2 * statistics.median(us[1]) / statistics.median(us[2])
        failed |= gain < bar
        print("| %s | %s | %s | %.2fx | %.1fx | %s |" % (work.upper(), *told, gain, bar, "yes" if gain >= bar else "**no**"))
    print("\nOthers on the machine: %.2f cores (median). Generator: %.1f us an operation." % tuple(
        statistics.median(r[work][name] for c in runs for r in runs[c] for work in BARS) for name in ("others_cores", "generator_us")))
    return 1 if failed else 0


sys.exit(main())
