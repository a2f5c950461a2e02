#!/usr/bin/python3
"""Three real nodes in three zones, and what breaks zones, under clients whose calls are written down. usage: test_zones.py BUILD [--rounds=N] [PART OF A TEST'S NAME]

Each test: load through all nodes, a fault, load goes on where it can, the fault is mended; then everything that clients saw is held against what there is (history.py: linearizable by order; zones.py: acknowledged
= there once, histories gapless and chained, events dense, equal to histories, and the same on all nodes, lists and counts agree). Needs root and network namespaces; what can't be had is skipped, loudly."""
import os
import random
import shutil
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import faultrig
import history
import orderdb_test as t
from history import Call
from orderdb_test import equal, pb, test, true, until
from zones import Network, Zones

ROUNDS = next((int(a.split("=")[1]) for a in sys.argv if a.startswith("--rounds=")), 1)
STOPPED_S = 2.5  # well beyond two election timeouts (0.7 s, to 1.4 s)
_made = {}  # clusters, by kind: made when a test first wants one


def cluster(kind):
    """On a network of their own; on disks whose power can be cut; with a proxy on each connection between nodes. One at a time."""
    if kind in _made:
        return _made[kind]
    close_all()
    if kind == "network":
        network = Network()
        try:
            _made[kind] = Zones(network)
        except BaseException:
            network.remove()
            raise
    elif kind == "disks":
        if faultrig.unusable():
            t.skip("NO DISKS THAT CAN FAIL: " + faultrig.unusable())
        _made[kind] = Zones(on_disks=True)
    elif kind == "clocks":
        if t.SLOW > 1:
            t.skip("a sanitizer's build takes no preloaded clock")
        _made[kind] = Zones(clocks=True)
    else:
        _made[kind] = Zones(proxies=True)
    return _made[kind]


def close_all():
    for zones in _made.values():
        zones.remove()
        if zones.network:
            zones.network.remove()
    _made.clear()


def rounds(name):
    """Of a test: (number, chance of its own), as often as --rounds says."""
    for n in range(ROUNDS):
        yield n, random.Random("%s %d" % (name, n))


# ---- the checker itself

def sane():
    """Calls and histories that are right: a create, two writes, reads beside and after them, one write without an answer that was done, one that was not, one refused."""
    calls = [Call("create", 0, 1, "OK", "a", 7, "u", 1, "NEW"), Call("write", 2, 4, "OK", "b", 7, version=2, status="PAID"), Call("read", 3, 5, "OK", order_id=7, version=1, status="NEW"),
             Call("read", 3, 3.5, "OK", order_id=7, version=2, status="PAID"), Call("write", 6, request_id="c", order_id=7), Call("read", 7, 8, "OK", order_id=7, version=3, status="SHIPPED"),
             Call("write", 6, request_id="d", order_id=7), Call("write", 8, 9, "REFUSED", "e", 7), Call("list", 9, 10, "OK", user="u", seen={7: (3, "SHIPPED")})]
    return calls, {7: [("a", "NEW"), ("b", "PAID"), ("c", "SHIPPED")]}


@test("the checker passes what is right, and catches each kind of wrong")
def _():
    history.check(*sane())

    def caught(what, change):
        calls, histories = sane()
        change(calls, histories)
        try:
            history.check(calls, histories)
        except history.Wrong as e:
            true(what in str(e), "caught as %s, not as %s" % (e, what))
            return
        raise AssertionError("not caught: %s" % what)

    def put(i, **fields):
        return lambda calls, _: [setattr(calls[i], k, v) for k, v in fields.items()]
    caught("an acknowledged write is lost", lambda _, h: h[7].__setitem__(1, ("d", "PAID")))
    caught("an acknowledged order is lost", lambda _, h: h.clear())
    caught("took effect twice", lambda _, h: h[7].append(("b", "PAID")))
    caught("two orders", lambda _, h: h.update({8: [("a", "NEW")]}))
    caught("nobody sent", lambda _, h: h[7].append(("x", "PAID")))
    caught("refused, and done", lambda _, h: h[7].append(("e", "PAID")))
    caught("its history has it as 2", put(1, version=3, status="SHIPPED"))
    caught("version 2 is PAID", put(3, status="NEW"))
    caught("knew more", lambda c, _: c.append(Call("read", 8.5, 9, "OK", order_id=7, version=2, status="PAID")))  # stale
    caught("knew more", put(5, start=5, end=5.5))  # of the future: before the write of version 3 was sent
    caught("knew more", put(8, seen={7: (2, "PAID")}))  # a stale list
    caught("lacks an order", put(8, seen={}))


# ---- processes

@test("kill -9 of one node after another, under load")
def _():
    zones = cluster("network")
    for n, rng in rounds("kill"):
        with zones.load("kill") as load:
            for _ in range(3):
                victim = zones.nodes[rng.randrange(3)]
                victim.kill()
                load.goes_on()
                if rng.random() < 0.3:  # again while it recovers
                    victim.start(wait=False)
                    time.sleep(rng.uniform(0, 0.3))
                    victim.kill()
                victim.start()
                load.goes_on(5)
        zones.check(load)


@test("a wiped disk returns under its old id, under load")
def _():
    zones = cluster("network")
    for n, rng in rounds("wipe"):
        with zones.load("wipe") as load:
            victim = zones.nodes[rng.randrange(3)]
            victim.kill()
            shutil.rmtree(victim.data_dir)
            load.goes_on(10)
            victim.start(wait=False)
            load.goes_on(10)
            victim.wait_ready()
            load.goes_on()
        zones.check(load)


@test("a stock client of one node alone survives the death of another: no error")
def _():
    zones = cluster("network")
    for n, rng in rounds("stock"):
        victim = zones.leader(n % 3)
        mine = zones.nodes[(victim + 1) % 3]
        client, failures, done, stop = t.Client(mine.address), [], [], threading.Event()

        def write():
            while not stop.is_set():
                try:
                    o = client.call("CreateOrder", t.create_request(user_id="stock-%d" % (len(done) % 9)), timeout=15).order
                    done.append((o.order_id, client.call("TransitionOrder", t.transition_request(o.order_id, "pay"), timeout=15).order.version))
                except t.Failure as f:
                    failures.append(str(f))
        threads = [threading.Thread(target=write) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: len(done) > 20, what="load runs")
        zones.nodes[victim].kill()
        count = len(done)
        until(lambda: len(done) > count + 60, what="load goes on")
        stop.set()
        for thread in threads:
            thread.join()
        client.close()
        equal(failures, [])
        for order_id, version in done:
            equal(mine.call("GetOrder", order_id=order_id).version, version)
        zones.nodes[victim].start()
        zones.wait_equal(60)


@test("a leader that is stopped for longer than an election takes does not serve a stale read when it wakes")
def _():
    zones = cluster("network")
    for n, rng in rounds("stop"):
        with zones.load("stop") as load:
            victim = zones.leader(n % 3)
            survivor, client = zones.nodes[(victim + 1) % 3], t.Client(zones.nodes[victim].address)
            order = zones.create_in(n % 3, "sleeper-%d" % n, survivor)
            get = client.stub("GetOrder")
            get(pb.GetOrderRequest(order_id=order.order_id))  # it is connected
            os.kill(zones.nodes[victim].pid, signal.SIGSTOP)
            try:
                early = get.future(pb.GetOrderRequest(order_id=order.order_id), timeout=30 * t.SLOW)
                paid = survivor.call("TransitionOrder", t.transition_request(order.order_id, "pay"), timeout=15).order
                late = [get.future(pb.GetOrderRequest(order_id=order.order_id), timeout=30 * t.SLOW) for _ in range(20)]
                load.goes_on()
                if rng.random() < 0.5:
                    time.sleep(STOPPED_S)
            finally:
                os.kill(zones.nodes[victim].pid, signal.SIGCONT)
            equal({f.result().version for f in late}, {paid.version}, "what was read behind the write")
            true(early.result().version in (order.version, paid.version))
            client.close()
            load.goes_on()
        zones.check(load)


# ---- networks

@test("a zone is cut off, its leaders with it: the others go on, and it comes back")
def _():
    zones = cluster("network")
    for n, rng in rounds("zone"):
        with zones.load("zone") as load:
            victim = zones.leader(n % 3)
            zones.network.unplug(victim)
            try:
                load.goes_on()
                if rng.random() < 0.5:
                    time.sleep(rng.uniform(0, 5))  # beyond what a connection may be silent
            finally:
                zones.network.plug(victim)
            load.goes_on()
        zones.check(load)


@test("a leader that its peers can't hear, and one that can't hear them, while clients reach all: no stale answer, no write that is lost")
def _():
    zones = cluster("network")
    for n, rng in rounds("one way"):
        with zones.load("way") as load:
            for mute in (True, False):
                victim = zones.leader(rng.randrange(3))
                others = [i for i in range(3) if i != victim]
                pairs = [(victim, i) if mute else (i, victim) for i in others[:rng.choice((1, 2, 2))]]
                for pair in pairs:
                    zones.network.mute(*pair)
                try:
                    load.goes_on(60)
                finally:
                    for pair in pairs:
                        zones.network.unmute(*pair)
                load.goes_on()
        zones.check(load)


@test("nodes that reach the third and not each other")
def _():
    zones = cluster("network")
    for n, rng in rounds("between"):
        with zones.load("between") as load:
            a, b = rng.sample(range(3), 2)
            zones.network.mute(a, b)
            zones.network.mute(b, a)
            try:
                load.goes_on(100)
            finally:
                zones.network.unmute(a, b)
                zones.network.unmute(b, a)
            load.goes_on()
        zones.check(load)


@test("a thin link: what a zone can't take does not hold up the others")
def _():
    zones = cluster("network")
    for n, rng in rounds("thin"):
        with zones.load("thin") as load:
            victim = rng.randrange(3)
            zones.network.thin(victim, rng.choice(("256kbit", "1mbit")))
            try:
                load.goes_on(100)
            finally:
                zones.network.thin(victim, None)
            load.goes_on()
        zones.check(load)


@test("connections between nodes that are slow, that are reset, that swallow what goes one way")
def _():
    zones = cluster("proxies")
    for n, rng in rounds("proxy"):
        with zones.load("proxy") as load:
            for fault in ("delay", "reset", "swallow", "thin"):
                proxies = rng.sample(zones.proxies, rng.choice((1, 2)))
                for p in proxies:
                    if fault == "delay":
                        p.delay_s = rng.uniform(0.02, 0.15)
                    elif fault == "swallow":
                        p.swallow = rng.choice(("up", "down"))
                    elif fault == "thin":
                        p.bytes_per_s = 60000
                for _ in range(5 if fault == "reset" else 0):
                    for p in proxies:
                        p.reset()
                    time.sleep(rng.uniform(0.05, 0.2))
                load.goes_on(40)
                if fault == "swallow" and rng.random() < 0.7:
                    time.sleep(3.5)  # beyond what a connection may be silent: both ends let go of it
                for p in proxies:
                    p.mend()
                load.goes_on(10)
        zones.check(load)


# ---- disks

@test("the power of all three fails at one instant, under load")
def _():
    zones = cluster("disks")
    for n, rng in rounds("power"):
        with zones.load("power") as load:
            for _ in range(2):
                zones.cut_power(rng)
                zones.start()
                load.goes_on(10)
        zones.check(load)


@test("a disk is full on one node: the others go on, and so does it when there is room")
def _():
    zones = cluster("disks")
    for n, rng in rounds("full"):
        with zones.load("full") as load:
            victim = rng.randrange(3)
            filler = os.path.join(zones.rigs[victim].mount, "filler")
            full(filler)
            try:
                load.goes_on(150)
            finally:
                os.unlink(filler)
            if not zones.nodes[victim].running():  # a log or votes that can't be written end a node: it says why
                true("No space left" in zones.nodes[victim].log(), zones.nodes[victim].log_tail())
                zones.nodes[victim].kill()
                zones.nodes[victim].start()
            load.goes_on()
        zones.check(load)


def full(path):
    """A file that takes what room there is."""
    with open(path, "wb", buffering=0) as f:
        size = 16 << 20
        while size >= 4096:
            try:
                os.posix_fallocate(f.fileno(), f.tell(), size)
                f.seek(0, os.SEEK_END)
            except OSError:
                size //= 2


# ---- clocks

@test("wall clocks leap, one node's and then all, back and forth: nothing is lost, and time in a history does not go back")
def _():
    zones = cluster("clocks")
    for n, rng in rounds("clock"):
        with zones.load("clock") as load:
            for nodes in ([zones.leader(n % 3)], range(3), [rng.randrange(3)]):
                for i in nodes:
                    zones.clocks[i].step(rng.choice((-86400, -3600, -5, 5, 3600, 86400)))
                load.goes_on(60)
            zones.nodes[rng.randrange(3)].kill()
            load.goes_on()
            for node in zones.nodes:
                if node.process is None:
                    node.start()
        zones.check(load)


if __name__ == "__main__":
    import atexit
    atexit.register(close_all)
    t.run(server=False)
