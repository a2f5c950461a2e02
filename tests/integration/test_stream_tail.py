#!/usr/bin/python3
"""orderctl stream tail and the C client's streams on a real server: dense per slot while a load runs, through kill -9 of the server, by cursor through stops of their own."""
import collections
import json
import os
import signal
import subprocess
import threading
import time
from datetime import datetime

import orderdb_test as t
from orderdb_test import equal, test, true

ORDERCTL = os.path.join(t.BUILD, "orderctl")


def commits(server, n, user="tail"):
    """n creates and as many payments, on some users; how many events that makes."""
    for i in range(n):
        o = server.call("CreateOrder", t.create_request(t.order(user_id="%s-%d" % (user, i % 7)))).order
        server.call("TransitionOrder", t.transition_request(o.order_id, "pay"))
    return 2 * n


def dense(lines, complete=True):
    """Each slot's seqs ascend by one, from 1 where all was read. The events."""
    events = [json.loads(line) for line in lines]
    last = collections.defaultdict(int)
    for e in events:
        slot, seq = int(e.get("slot", 0)), int(e["seq"])
        equal(e["event_id"], "%d:%d" % (slot, seq))
        if complete or slot in last:
            equal(seq, last[slot] + 1, "slot %d" % slot)
        last[slot] = seq
    return events


class Tail:
    """orderctl stream tail, running; what it printed, line by line."""

    def __init__(self, server, *arguments):
        self.lines = []
        self.process = subprocess.Popen([ORDERCTL, "--server", server.address, "stream", "tail", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)

    def until(self, n):
        t.until(lambda: len(self.lines) >= n or self.process.poll() is not None, 60 * t.SLOW, "%d lines" % n)

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)
        error = self.process.stderr.read()
        self.process.wait(30 * t.SLOW)
        self.reader.join(30)
        return error


def when(event):
    return datetime.fromisoformat(event["commit_time"])


@test("stream tail: a table that fits, JSON of one event a line, count, filter, user, from")
def _(server):
    n = commits(server, 12)
    table = server.orderctl("stream", "tail", "--stop-at-end").stdout
    true(all(len(line) <= 80 for line in table.splitlines()), table)
    equal(len(table.splitlines()), n + 2) # the heading and the day
    true("pay > PAID" in table and "+ PENDING_PAYMENT" in table, table)
    everything = dense(server.orderctl("stream", "tail", "--stop-at-end", "--format", "json").stdout.splitlines())
    equal(len(everything), n)
    one = server.orderctl("stream", "tail", "--stop-at-end", "-o", "json", "--user", "tail-3").stdout.splitlines()
    equal([json.loads(e) for e in one], [e for e in everything if e["user_id"] == "tail-3"])
    paid = server.orderctl("stream", "tail", "--stop-at-end", "-o", "json", "--filter", 'type = "TRANSITIONED" AND entry.to_status = "PAID"').stdout.splitlines()
    equal(len(paid), n // 2)
    equal(len(server.orderctl("stream", "tail", "--from", "earliest", "-o", "json", "--count", "5").stdout.splitlines()), 5)
    equal(len(server.orderctl("stream", "tail", "--from", "1h", "--stop-at-end", "-o", "json").stdout.splitlines()), n)
    later = everything[-1]["commit_time"]
    since = server.orderctl("stream", "tail", "--from", later, "--stop-at-end", "-o", "json").stdout.splitlines() # partitions come in any order
    equal(sorted(json.loads(e)["event_id"] for e in since), sorted(e["event_id"] for e in everything if when(e) >= when(everything[-1])))
    full = json.loads(server.orderctl("stream", "tail", "--from", "earliest", "--payload", "full", "-o", "json", "--count", "1").stdout)
    true(full["after"]["items"] and "items" not in everything[0]["after"])


@test("stream tail: what is wrong is told, and where")
def _(server):
    for arguments, code, words in [
        (["--filter", "typ = 3"], 1, ["FILTER_INVALID", "position: 0"]),
        (["--from", "yesterday"], 2, ["--from is earliest, now"]),
        (["--payload", "half"], 2, ["--payload is summary or full"]),
        (["--user", ""], 2, ["--user is empty"]),
        (["--format", "xml"], 2, ["--format is json, yaml or table"]),
        (["--cursor", os.path.join(t.ROOT, "Makefile")], 2, ["holds no cursor"]),
    ]:
        p = server.orderctl("stream", "tail", "--stop-at-end", *arguments, check=False)
        equal((p.returncode, p.stdout), (code, ""), p.stderr)
        for w in words:
            true(w in p.stderr, "%r is not in %s" % (w, p.stderr))
    other = os.path.join(server.directory, "user.cursor")
    server.orderctl("stream", "tail", "--stop-at-end", "--user", "tail-1", "--cursor", other)
    p = server.orderctl("stream", "tail", "--stop-at-end", "--cursor", other, check=False)
    true(p.returncode == 1 and "CURSOR_INVALID" in p.stderr, p.stderr)


@test("stream tail --cursor: stopped and begun again under load, each event once")
def _():
    server = t.Server()
    cursor = os.path.join(server.directory, "tail.cursor")
    stop, made = threading.Event(), [0]

    def load():
        while not stop.is_set():
            made[0] += commits(server, 5)

    thread = threading.Thread(target=load)
    thread.start()
    lines = []
    try:
        for _ in range(3):
            tail = Tail(server, "--from", "earliest", "--cursor", cursor, "-o", "json")
            tail.until(30)
            error = tail.interrupt()
            equal(tail.process.returncode, 130, error)
            true("goes on behind them" in error, error)
            lines += tail.lines
    finally:
        stop.set()
        thread.join()
    lines += server.orderctl("stream", "tail", "--stop-at-end", "--cursor", cursor, "-o", "json").stdout.splitlines()
    equal(len(dense(lines)), made[0])
    server.stop()


@test("stream tail: through kill -9 of the server under load, no gap and no repetition")
def _():
    server = t.Server()
    tail = Tail(server, "--from", "earliest", "-o", "json")
    for _ in range(3):
        commits(server, 20)
        server.kill()
        time.sleep(0.2)
        server.start()
    commits(server, 10)
    everything = server.orderctl("stream", "tail", "--stop-at-end", "-o", "json").stdout.splitlines()
    true(len(everything) >= 140, len(everything))
    tail.until(len(everything))
    error = tail.interrupt()
    true("trying again" in error and "the stream goes on" in error and "The last one: --from" in error, error)
    equal(len(dense(tail.lines)), len(everything))
    equal(sorted(tail.lines), sorted(line + "\n" for line in everything))
    server.stop()


if __name__ == "__main__":
    t.run()
