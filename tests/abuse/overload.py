#!/usr/bin/python3
"""Open loop beyond the peak: what a server still does, and how soon it is itself again.

    overload.py [--build build] [--seconds 60] [--times 2,5,10] [--peak-seconds 60] [--connections 8] [--inflight 256]

Measures the peak (closed loop, 8 x 32 calls in flight) with the same generator on the same CPUs, offers 2, 5 and 10 times as much for a minute each, then a trickle, and prints a
table (Markdown). Before the first stage the same trickle runs on the unharmed server: a compaction makes some second of any load slow, so "normal" is what it was before. The store grows by a million orders and more meanwhile, and its peak changes with it: after each stage the peak is measured again, and the stage is held against the mean of both. A peak is measured for as long as a stage
lasts: runs are merged behind the writes, so that some seconds at full speed show what writes cost without merges, and a minute pays for most of them. About
8 minutes; `--times 10` is one stage alone. Bars: served at least 90 % of the peak; p99 of what was served at most 5 times the peak's; within 10 s after the load is gone nothing is refused any more and
no second's p99 is above twice the peak's, or above the worst second of the trickle before the overload. Exit code 1: a bar was missed. Says what was really offered: a call that falls due while all its connections' streams are taken never leaves the generator (HTTP/2's stream
limit is a part of the server's answer to overload), and is counted apart. A loaded machine makes all of it worse; the load average stands above the table.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def start(build, directory):
    p = subprocess.Popen([os.path.join(build, "orderd"), "--data-dir", directory, "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--log-level", "warn"],
                         stdout=subprocess.PIPE, text=True)
    ready = p.stdout.readline()
    if not ready.startswith("ready "):
        sys.exit("overload.py: the server does not start")
    return p, int(re.search(r"listen=\S+:(\d+)", ready).group(1)), re.search(r"http=(\S+)", ready).group(1)


def flood(options, port, seconds, rate=None, connections=None, inflight=None):
    """(totals, seconds): figures by name."""
    command = [os.path.join(options.build, "bench", "flood"), "--port", str(port), "--seconds", str(seconds), "--connections", str(connections or options.connections),
               "--inflight", str(inflight or options.inflight)] + (["--rate", str(int(rate))] if rate else [])
    p = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [{k: float(v) for k, v in re.findall(r"([a-z0-9-]+) ([\d.]+)", line)} for line in p.stdout.splitlines()]
    if p.returncode or len(rows) < 2:
        sys.exit("overload.py: flood failed: %s%s" % (p.stdout, p.stderr))
    return rows[-1], rows[:-1]


def cpu_seconds(pid):
    with open("/proc/%d/stat" % pid) as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def metric(http, name):
    with urllib.request.urlopen("http://%s/metrics" % http, timeout=30) as r:
        return sum(float(line.rsplit(" ", 1)[1]) for line in r.read().decode().splitlines() if re.match(re.escape(name) + r"[ {]", line))


def main():
    a = argparse.ArgumentParser(description="open loop beyond the peak", epilog="needs a build (make tests-built)")
    a.add_argument("--build", default=os.path.join(ROOT, "build"))
    a.add_argument("--seconds", type=int, default=60)
    a.add_argument("--peak-seconds", type=int, help="as --seconds, if not given")
    a.add_argument("--times", default="2,5,10")
    a.add_argument("--connections", type=int, default=8)
    a.add_argument("--inflight", type=int, default=256)
    options = a.parse_args()
    options.peak_seconds = options.peak_seconds or options.seconds
    directory = tempfile.mkdtemp(prefix="orderdb-overload-")
    server, port, http = start(options.build, directory)
    missed = []
    try:
        flood(options, port, 3, None, 8, 32)  # memtables and caches are no longer empty
        begun = cpu_seconds(server.pid)
        peak, _ = flood(options, port, options.peak_seconds, None, 8, 32)
        cost = (cpu_seconds(server.pid) - begun) / options.peak_seconds
        print("load average %s; peak %.0f/s, p99 %.1f ms, server %.2f cores" % (os.getloadavg()[0], peak["served"], peak["p99"], cost))
        before_trickle, rows = flood(options, port, 12, peak["served"] * 0.3, 8, 32)
        usual_p99 = max(r["p99"] for r in rows)
        print("the trickle before any overload: p99 %.1f ms, its worst second's %.1f ms" % (before_trickle["p99"], usual_p99))
        print("\n| offered | due/s | sent/s | served/s | peak/s | of the peak | refused/s | late/s | p50 ms | p99 ms | of the peak's | server cores | generator cores | normal again | p99 of the trickle |")
        print("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
        for times in (float(x) for x in options.times.split(",")):
            begun = cpu_seconds(server.pid)
            total, _ = flood(options, port, options.seconds, peak["served"] * times)
            cores = (cpu_seconds(server.pid) - begun) / options.seconds
            shed = metric(http, "orderdb_shed_queue_total")
            calm, rows = flood(options, port, 12, peak["served"] * 0.3, 8, 32)
            refused_since = metric(http, "orderdb_shed_queue_total") - shed
            again, _ = flood(options, port, options.peak_seconds, None, 8, 32)
            peak, before = again, peak
            peak_rate, peak_p99 = (before["served"] + again["served"]) / 2, (before["p99"] + again["p99"]) / 2
            back = next((i for i, r in enumerate(rows) if all(x["refused"] == 0 and x["late"] == 0 and x["p99"] <= max(2 * peak_p99, usual_p99) for x in rows[i:])), None)
            print("| %gx | %.0f | %.0f | %.0f | %.0f | %.0f %% | %.0f | %.0f | %.1f | %.1f | %.1fx | %.2f | %.2f | %s | %.1f ms |" % (
                times, total["due"], total["sent"], total["served"], peak_rate, 100 * total["served"] / peak_rate, total["refused"], total["late"], total["p50"], total["p99"],
                total["p99"] / peak_p99, cores, total["generator-cpu"], "within %d s" % (back + 1) if back is not None else "no", calm["p99"]), flush=True)
            if total["served"] < 0.9 * peak_rate:
                missed.append("%gx: served %.0f %% of the peak" % (times, 100 * total["served"] / peak_rate))
            if total["p99"] > 5 * peak_p99:
                missed.append("%gx: p99 %.1f times the peak's" % (times, total["p99"] / peak_p99))
            if back is None or back >= 10:
                missed.append("%gx: not normal within 10 s (%.0f refused since)" % (times, refused_since))
    finally:
        server.terminate()
        server.wait(60)
        shutil.rmtree(directory, ignore_errors=True)
    print("\n" + ("missed: " + "; ".join(missed) if missed else "all bars met"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
