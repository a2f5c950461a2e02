#!/usr/bin/python3
"""What TLS costs: CREATE over cleartext and over TLS, a fresh server each time, by turns.

Closed loop, 8 connections x 32 calls in flight; generator and server share the machine, and both pay for TLS. Prints a Markdown table for bench/RESULTS.md: the rate of both, and the CPU an operation, the server's and the
generator's, which a busy machine blurs less. Ends with 1 when TLS takes more than 25 % of the rate."""
import json
import os
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../tests/integration"), os.path.join(HERE, "../tests/abuse")]
import orderdb_test as t  # noqa: E402
import run as abuse  # noqa: E402

BAR = 25


def measure(o, tls):
    """The report of a fresh server."""
    more = {"tls_cert": tls[0], "tls_key": tls[1]} if tls else {}
    server = t.Server(cores=os.cpu_count(), partitions=2 * os.cpu_count(), **more)
    p = subprocess.run([os.path.join(t.BUILD, "orderctl"), "bench", "create", "--server", server.address, "-c", "8", "-i", "32", "--seconds", str(o.seconds), "--server-pid", str(server.process.pid), "-o", "json",
                        *(["--tls-ca", tls[2]] if tls else [])], stdout=subprocess.PIPE, text=True, check=True)
    server.remove()
    return json.loads(p.stdout)


def main():
    o = t.options(__doc__, runs=(3, "turns of both"), seconds=(5.0, "of each"))
    files, runs = abuse.certificates(), {"cleartext": [], "TLS": []}
    for turn in range(o.runs):
        for kind in list(runs) if turn % 2 == 0 else reversed(list(runs)):
            runs[kind].append(measure(o, files if kind == "TLS" else None))
    rate, cpu = ({kind: statistics.median(of(r) for r in runs[kind]) for kind in runs} for of in (lambda r: r["per_s"], lambda r: r["server_us"] + r["generator_us"]))
    print("| CREATE over | rate, median and each | CPU an operation: server, generator |\n|---|---|---|")
    for kind in runs:
        print("| %s | %s/s (%s) | %.1f us, %.1f us |" % (kind, f"{rate[kind]:,.0f}", ", ".join(f"{r['per_s']:,.0f}" for r in runs[kind]), *(statistics.median(r[who] for r in runs[kind]) for who in ("server_us", "generator_us"))))
    less = 100 * (1 - rate["TLS"] / rate["cleartext"])
    print("\nTLS takes %.0f %% of the rate (bar %d), and %.0f %% more CPU of both; others on the machine: %.2f cores (median)." % (
        less, BAR, 100 * (cpu["TLS"] / cpu["cleartext"] - 1), statistics.median(r["others_cores"] for kind in runs for r in runs[kind])))
    return 1 if less > BAR else 0


if __name__ == "__main__":
    sys.exit(main())
