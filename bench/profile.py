#!/usr/bin/python3
"""Where the microseconds go: CREATE, TRANSITION, GET under a closed loop, the server sampled by perf.

Needs perf (linux-perf). Prints Markdown for bench/RESULTS.md. A part's share is that of the samples with the function on the stack ("of it" rows are inside the row above);
the rest of an op is shared work: loop, mail, kernel."""
import os
import re
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/integration"))
import orderdb_test as t  # noqa: E402

# (what, functions; the first that is found counts)
PARTS = [
    ("apply: decide and write (partition_apply)", ["partition_apply"]),
    ("- of it: commands decided, rows read and gathered", ["apply_command"]),
    ("- of it: - the user's list and counts", ["userlist_insert", "userlist_move"]),
    ("- of it: - store reads, batch and tables included", ["rocks_get"]),
    ("- of it: - - of them in RocksDB", ["rocksdb_get_pinned"]),
    ("- of it: - rows put into the batch", ["rocks_batch_put"]),
    ("- of it: - hash chain (SHA-256)", ["history_chain"]),
    ("- of it: the batch into the table of recent rows", ["rocks_apply"]),
    ("queries (partition_read)", ["partition_read"]),
    ("into the log: entries built and staged (partition_stage)", ["partition_stage"]),
    ("requests: scan and unpack", ["scan_unpack"]),
    ("requests: check and encode the command", ["check_create", "check_transition"]),
    ("kernel: all system calls (sockets, log, messages)", ["entry_SYSCALL_64_after_hwframe", "do_syscall_64"]),
    ("runs written and ingested (run_thread)", ["run_thread"]),
    ("RocksDB's own threads (compaction)", ["rocksdb::ThreadPoolImpl::Impl::BGThreadWrapper"]),
]


def shares(data):
    out = subprocess.run(["perf", "report", "-i", data, "--children", "--sort", "symbol", "-g", "none", "--stdio"], capture_output=True, text=True).stdout
    found = {}
    for line in out.splitlines():
        m = re.match(r"\s*([\d.]+)%\s+[\d.]+%\s+\[[.k]\]\s+(.+?)\s*(-\s+-)?\s*$", line)
        if m:
            found.setdefault(m.group(2).strip(), float(m.group(1)))
    return found


def libraries(data):
    """Calls through libraries without frame pointers lose their callers; who burns the time shows anyway."""
    out = subprocess.run(["perf", "report", "-i", data, "--no-children", "--sort", "dso", "-g", "none", "--stdio"], capture_output=True, text=True).stdout
    rows = re.findall(r"^\s*([\d.]+)%\s+(\S+)", out, re.M)
    return ", ".join("%s %s %%" % (re.sub(r"\.so.*", "", name), share) for share, name in rows if float(share) >= 1)


def main():
    o = t.options(__doc__, seconds=(6, "of each method"), connections=(8, "of the load"), inflight=(32, "calls at a time on each"))
    if not shutil.which("perf"):
        print("perf is not installed (package linux-perf)")
        return 1
    seconds = o.seconds
    for mode in ("create", "transition", "get"):
        server = t.Server(cores=os.cpu_count(), partitions=2 * os.cpu_count())
        data = os.path.join(server.directory, "perf.data")
        load = subprocess.Popen([os.path.join(t.BUILD, "bench/load"), "--server", server.address, "--mode", mode, "--connections", str(o.connections),
                                 "--inflight", str(o.inflight), "--seconds", str(seconds + 8)], stdout=subprocess.PIPE, text=True)
        time.sleep(5)
        before, begin = server.metrics(), time.monotonic()
        cpu = t.cpu_s(server.pid)
        subprocess.run(["perf", "record", "-e", "cpu-clock", "-g", "-F", "499", "-p", str(server.pid), "-o", data, "--", "sleep", str(seconds)], capture_output=True)
        cpu, after = t.cpu_s(server.pid) - cpu, server.metrics()
        elapsed = time.monotonic() - begin
        ops = sum(after[k] - before[k] for k in after if k.startswith("orderdb_engine_ops_total"))
        syncs = sum(after[k] - before[k] for k in after if k.startswith("orderdb_log_sync_seconds_count"))
        text = load.communicate()[0]
        found = shares(data)
        us = cpu * 1e6 / ops
        print("### %s\n\n%.0f/s, %.1f us of server CPU an operation (%.2f cores), %.0f operations a sync\n" % (mode.upper(), ops / elapsed, us, cpu / elapsed, ops / syncs if syncs else 0))
        print("| part | share | us |\n|---|---|---|")
        for what, names in PARTS:
            share = next((found[n] for n in names if n in found), 0.0)
            if share >= 0.3:
                print("| %s | %.1f %% | %.1f |" % (what, share, us * share / 100))
        print("\nSelf time by library: %s\n" % libraries(data))
        own = re.search(r"p50.*", text)
        print("\nlatency at that load: %s\n" % (own.group(0) if own else "?"))
        server.remove()
    return 0


sys.exit(main())
