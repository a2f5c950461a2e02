#!/usr/bin/python3
"""kill -9 and power cuts under load. usage: test_crash.py BUILD [--kill=ROUNDS] [--power=ROUNDS] [PART OF A TEST'S NAME]

Each round: load for a moment, the fault at a random instant, restart (sometimes a second fault while it recovers), UNKNOWN requests sent again, then every user's list and a
sample of histories compared with the ledger; at the end everything."""
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


FLAGS = dict(memory_budget="512MiB", partitions=4, cores=2)


def server_on(directory, program=None):
    return t.Server(directory, start=False, program=program, **FLAGS)


def check_all(ledger, server, rng, sample):
    stub = Stub(server.client)
    ledger.settle(stub)
    users = ledger.users if sample is None else rng.sample(ledger.users, min(sample, len(ledger.users)))
    orders = list(ledger.orders.values())
    histories = orders[-150:] + (rng.sample(orders, min(100, len(orders))) if sample is not None else orders)
    return ledger.verify(stub, users, histories)


def rounds(name, program, count, directory, fault, seed, restart_bound_s):
    """Returns the ledger, after everything in it was found."""
    rng = random.Random(seed)
    ledger = Ledger(t.pb, users=30, seed=seed)
    server = server_on(directory(), program).start()
    slowest = 0.0
    for n in range(count):
        finish = ledger.load(lambda: Stub(server.new_client()), None, workers=6, seed=seed + n)
        time.sleep(rng.uniform(0.15, 0.7))
        fault(server)
        finish()
        server = server_on(directory(), program)
        if rng.random() < 0.25:  # again while it recovers
            server.start(wait=False)
            time.sleep(rng.uniform(0.0, 0.25))
            fault(server)
            server = server_on(directory(), program)
        begin = time.time()
        server.start()
        slowest = max(slowest, time.time() - begin)
        check_all(ledger, server, rng, 10)
    check_all(ledger, server, rng, None)
    assert server.stop() == 0, "a drained server exits with 0"
    assert slowest < restart_bound_s * t.SLOW, "restart took %.1f s" % slowest
    print("# %s: %d rounds, %d acknowledged, %d refused, %d unknown, %d orders, slowest restart %.2f s"
          % (name, count, ledger.acknowledged, ledger.refused, ledger.unknown_seen, len(ledger.orders), slowest))
    return ledger


def kill_rounds(count):
    top = tempfile.mkdtemp(prefix="kill-", dir=t.TEMP)
    ledger = rounds("kill -9", None, count, lambda: top + "/data", lambda s: s.kill(), 1, 10)
    assert ledger.acknowledged >= 40 * count and ledger.unknown_seen >= count, "void: too little happened"


def power_rounds(program, count, seed):
    rig = faultrig.PowerRig()

    def cut(server):
        rig.cut(server.pid)
        server.kill()  # reaps it

    try:
        return rounds("power cut", program, count, lambda: rig.mount + "/data", cut, seed, 15)
    finally:
        for server in t._servers:
            server.kill()
        rig.close()


@t.test("kill -9 under load: nothing lost, nothing twice")
def _():
    kill_rounds(option("--kill", 50 // t.SLOW))


@t.test("power cut under load: nothing lost, nothing twice")
def _():
    if faultrig.unusable():
        t.skip(faultrig.unusable())
    ledger = power_rounds(None, option("--power", 50 // t.SLOW), 2)
    assert ledger.unknown_seen > 0, "void: no request was under way at a cut"


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


if __name__ == "__main__":
    t.run(server=False)
