#!/usr/bin/python3
"""What an idle connection costs: N of them that have each had a call answered, and the growth of the server's resident memory divided by N.

Cleartext and TLS; the client's processes hold the connections while the server is looked at. Ends with 1 when the bar (KiB a connection) is missed or a connection was lost. Prints rows of a
Markdown table."""
import multiprocessing
import os
import resource
import ssl
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../integration"))
import h2raw as h  # noqa: E402
import orderdb_test as t  # noqa: E402
import run  # noqa: E402

PROCESSES = 4


def client(port, ca, count, number, to_parent, from_parent):
    """Opens its share from an address of its own, says how many had an answer, holds them until it is told, says how many are still there."""
    tls = None
    if ca:
        tls = ssl.create_default_context(cafile=ca)
        tls.set_alpn_protocols(["h2"])
    wires = []
    for _ in range(count):
        w = h.Wire(port, source="127.0.0.%d" % (2 + number), tls=tls, wait_s=30)
        w.send(h.request(1, h.SERVICE + "GetOrder", b"\x08\x01"))
        wires.append(w)
        # Answers are awaited a few connections later: the server is never waited for one by one.
        if len(wires) > 16:
            answered(wires[-17])
    for w in wires[-16:]:
        answered(w)
    to_parent.send(sum(w.was_answered for w in wires))
    from_parent.recv()
    for w in wires:
        for _ in w.frames(0):
            pass
    to_parent.send(sum(not w.closed for w in wires))
    for w in wires:
        w.close()


def answered(w):
    w.was_answered = w.answer(1, wait_s=20 * t.SLOW)[0].get("grpc-status") == "5"  # there is no such order
    for _ in w.frames(0):
        pass


def measure(count, tls_files):
    """(bytes of resident memory a connection, how many had an answer, how many were left at the end)"""
    flags = {"tls_cert": tls_files[0], "tls_key": tls_files[1]} if tls_files else {}
    with t.Server(cores=2, partitions=4, connections_max=count + 100, connections_per_address=count + 100, connection_rate=100000, connection_rate_per_address=100000,
                  idle_timeout="1h", **flags) as s:
        # Pools and threads of a server that has worked are not the connections'.
        run_clients(s, tls_files, 200)
        before = s.rss_bytes()
        seen = {}

        def look():
            # A connection rests two seconds after its last byte; then nothing changes any more.
            begin, last = time.monotonic(), s.rss_bytes()
            while time.monotonic() - begin < 20:
                time.sleep(3)
                last, seen["rss"] = seen.get("rss", last), s.rss_bytes()
                if seen["rss"] >= last:
                    break
            seen["open"] = s.metrics()["orderdb_connections"]
        had_answer, left = run_clients(s, tls_files, count, look)
        t.equal(seen["open"], count, "open connections")
        t.until(lambda: s.metrics()["orderdb_connections"] == 0, wait_s=30, what="all connections gone")
        return (seen["rss"] - before) / count, had_answer, left


def run_clients(s, tls_files, count, look=None):
    children = []
    for i in range(PROCESSES):
        here, there = multiprocessing.Pipe()
        share = count // PROCESSES + (i < count % PROCESSES)
        p = multiprocessing.Process(target=client, args=(s.port, tls_files[2] if tls_files else None, share, i, there, there), daemon=True)
        p.start()
        children.append((p, here))
    had_answer = sum(c.recv() for _, c in children)
    if look:
        look()
    for _, c in children:
        c.send(None)
    left = sum(c.recv() for _, c in children)
    for p, _ in children:
        p.join(30)
    return had_answer, left


def main():
    o = t.options(__doc__, connections=(10000, "so many"), bar=(32, "KiB each, at most"), only=("cleartext,TLS", "over which"))
    count, bar = o.connections, o.bar
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 1100:
        sys.exit("%d connections need a limit of open files (ulimit -n) of %d; it is %d" % (count, count + 1100, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    bad = 0
    for kind, files in (("cleartext", None), ("TLS", run.certificates())):
        if kind not in o.only.split(","):
            continue
        each, had_answer, left = measure(count, files)
        ok = each < bar * 1024 and had_answer == left == count
        bad += not ok
        print("| idle connections, %s: %d | %.1f KiB each | < %d KiB | %s |" % (kind, count, each / 1024, bar, "yes" if ok else "**no**"), flush=True)
        if had_answer != count or left != count:
            print("#   %d of %d had an answer, %d were left" % (had_answer, count, left))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
