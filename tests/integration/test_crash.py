#!/usr/bin/python3
"""kill -9 and power cuts under load. usage: test_crash.py BUILD [--kill=ROUNDS] [--power=ROUNDS] [PART OF A TEST'S NAME]

Each round: load for a moment, the fault at a random instant, restart (sometimes a second fault while it recovers), UNKNOWN requests sent again, then some users' lists, the
newest histories and some others compared with the ledger; at the end everything."""
import glob
import os
import random
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import faultrig
import orderdb_test as t
from ledger import Ledger, Stub


def option(name, default):
    return next((int(a.split("=")[1]) for a in sys.argv if a.startswith(name + "=")), default)


HISTORIES_MAX = 1500
ROUNDS = 25  # of each kind, as part of the suite; `make crash` has more
# A small log: segments roll over, tables are flushed, and the log is trimmed and its files recycled in every few rounds.
FLAGS = dict(memory_budget="512MiB", partitions=4, cores=2, log_live_size="1MiB", log_segment_size="64KiB")


def server_on(directory, program=None):
    return t.Server(directory, start=False, program=program, **FLAGS)


def check_some(ledger, server, rng):
    """What the last round touched, and a sample of the rest."""
    stub = Stub(server.client)
    ledger.settle(stub)
    orders = list(ledger.orders.values())
    recent = orders[-60:] + rng.sample(orders, min(40, len(orders)))
    users = {o.user for o in orders[-5:]} | set(rng.sample(ledger.users, 5))
    ledger.verify(stub, sorted(users), recent)
    ledger.again_some(stub, rng, 20)


def check_all(ledger, server, rng):
    """Every list, and with them every order's version and status; HISTORIES_MAX histories."""
    stub = Stub(server.client)
    orders = list(ledger.orders.values())
    assert ledger.verify(stub, None, rng.sample(orders, min(HISTORIES_MAX, len(orders)))) == len(orders)
    ledger.again_some(stub, rng, 500)


def rounds(name, program, count, directory, fault, seed, restart_bound_s, after=lambda: None):
    """Returns the ledger, after everything in it was found."""
    rng = random.Random(seed)
    ledger = Ledger(t.pb, users=60, seed=seed)
    server = server_on(directory, program).start()
    slowest = 0.0
    for n in range(count):
        finish = ledger.load(lambda: Stub(server.new_client()), None, workers=6, seed=seed * 1000 + n)
        time.sleep(rng.uniform(0.15, 0.7))
        fault(server)
        finish()
        after()
        if rng.random() < 0.3:  # again while it recovers
            server.start(wait=False)
            time.sleep(rng.uniform(0.0, 0.25))
            fault(server)
            after()
        begin = time.time()
        server.start()
        slowest = max(slowest, time.time() - begin)
        check_some(ledger, server, rng)
    check_all(ledger, server, rng)
    assert server.stop() == 0, "a drained server exits with 0"
    server.start()  # from what the drain flushed
    check_all(ledger, server, rng)
    assert server.stop() == 0
    assert slowest < restart_bound_s * t.SLOW, "restart took %.1f s" % slowest
    print("# %s: %d rounds, %d acknowledged, %d refused, %d unknown, %d orders, slowest restart %.2f s"
          % (name, count, ledger.acknowledged, ledger.refused, ledger.unknown_seen, len(ledger.orders), slowest))
    return ledger


def kill_rounds(count):
    top = tempfile.mkdtemp(prefix="kill-", dir=t.TEMP)
    ledger = rounds("kill -9", None, count, top + "/data", lambda s: s.kill(), 1, 10)
    assert ledger.acknowledged >= 40 * count // t.SLOW and ledger.unknown_seen >= count, "void: too little happened"


def power_rounds(program, count, seed):
    rig = faultrig.PowerRig(t.BUILD)
    rng = random.Random(seed)
    lost = spoilt = 0

    def cut(server):
        nonlocal lost
        rig.cut(server.kill, rng.randrange(1 << 30), rng.choice((0, 0, rng.randrange(100), 100)))
        lost += len(rig.unsynced)

    def spoil():
        """Now and then what was not synced of the log comes back as zeros or garbage."""
        nonlocal spoilt
        for segment in glob.glob(rig.mount + "/data/core-*/log/*.seg"):
            if rng.random() < 0.8:
                spoilt += rig.spoil(segment, rng)

    try:
        ledger = rounds("power cut", program, count, rig.mount + "/data", cut, seed, 15, spoil)
        print("#   %d blocks were not synced when the power went, %d of the log's were spoilt" % (lost, spoilt))
        return ledger, lost, spoilt
    finally:
        for server in t._servers:
            server.kill()
        rig.close()


@t.test("kill -9 under load: nothing lost, nothing twice")
def _():
    kill_rounds(option("--kill", ROUNDS // t.SLOW))


@t.test("power cut under load: nothing lost, nothing twice")
def _():
    if faultrig.unusable():
        t.skip(faultrig.unusable())
    count = option("--power", ROUNDS // t.SLOW)
    ledger, lost, spoilt = power_rounds(None, count, 2)
    assert ledger.acknowledged >= 40 * count // t.SLOW and ledger.unknown_seen >= count and lost >= count // t.SLOW, "void: too little happened"
    assert spoilt > 0 or count < 20, "void: no block of the log was under way"


@t.test("power cut catches a mutant that acknowledges before the sync")
def _():
    """A server that lies about its syncs must lose something within a few cuts, or this test proves nothing."""
    if faultrig.unusable():
        t.skip(faultrig.unusable())
    program = "build-mutant-ack_before_sync/orderd"
    subprocess.run(["make", "-s", "-j2", "MUTANT=ack_before_sync", program], cwd=t.ROOT, check=True, stdout=subprocess.DEVNULL)
    for seed in range(5):
        try:
            power_rounds(os.path.join(t.ROOT, program), 4, 100 + seed)
        except AssertionError as e:
            print("#   caught: %s" % str(e).splitlines()[0])
            return
    raise AssertionError("a server that acknowledges before the sync passed")


@t.test("SIGTERM under load: exit 0 within 15 s, nothing acknowledged is lost, calls under way are answered")
def _():
    rng = random.Random(5)
    ledger = Ledger(t.pb, users=20, seed=5)
    server = server_on(tempfile.mkdtemp(prefix="term-", dir=t.TEMP) + "/data").start()
    slowest = 0.0
    for n in range(4):
        ledger.failures.clear()
        finish = ledger.load(lambda: Stub(server.new_client()), None, workers=6, seed=500 + n)
        time.sleep(0.6)
        begin = time.time()
        code = server.stop(15)
        slowest = max(slowest, time.time() - begin)
        finish()
        assert code == 0, "exit %s" % code
        # "GOAWAY received": the client's library had the call waiting when it heard, and never sent it.
        cut_off = [f for f in ledger.failures if "ailed to connect" not in f and "DRAINING" not in f and "GOAWAY received" not in f]
        assert not cut_off, "calls under way were cut off: %s" % cut_off[:3]
        server.start()
        check_some(ledger, server, rng)
    check_all(ledger, server, rng)
    server.kill()
    print("# SIGTERM: %d acknowledged, %d unknown, slowest %.2f s" % (ledger.acknowledged, ledger.unknown_seen, slowest))


if __name__ == "__main__":
    t.run(server=False)
