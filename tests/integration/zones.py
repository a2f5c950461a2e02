"""A cluster in network namespaces of its own, one node in each, with a bridge between them; what breaks it; and what must be true of it afterwards."""
import collections
import os
import struct
import subprocess
import time

import faultrig
import history
import orderdb_test as t
from cluster import Cluster
from ledger import chain_hash
from orderdb_test import pb, stream_pb2, true
from proxy import Proxy


class Network:
    """Three namespaces, each on a veth to one bridge, whose address is the test's own. Root. Nothing of netem or netfilter is needed."""

    def __init__(self, count=3):
        if os.geteuid() != 0:
            t.skip("NOT ROOT: network namespaces can't be made, so no zone can be cut")
        n = os.getpid() % 30000
        self.bridge, self.names = "odbz%d" % n, ["odb-z%d-%d" % (n, i) for i in range(count)]
        self.ports = ["odz%d-%d" % (n, i) for i in range(count)]
        self.base = "10.%d.%d" % (232 + n // 250 // 100, n // 250 % 100 + n % 2 * 100)
        made = subprocess.run(["ip", "netns", "add", self.names[0]], capture_output=True, text=True)
        if made.returncode:
            t.skip("NO NETWORK NAMESPACES HERE: " + made.stderr.strip())
        try:
            for name in self.names[1:]:
                self.ip("netns", "add", name)
            self.ip("link", "add", self.bridge, "type", "bridge")
            self.ip("addr", "add", self.base + ".254/24", "dev", self.bridge)
            self.ip("link", "set", self.bridge, "up")
            for i, (name, port) in enumerate(zip(self.names, self.ports)):
                self.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
                self.ip("link", "set", port, "master", self.bridge, "up")
                self.ip("-n", name, "addr", "add", self.address(i) + "/24", "dev", "eth0")
                self.ip("-n", name, "link", "set", "eth0", "up")
                self.ip("-n", name, "link", "set", "lo", "up")
        except AssertionError as e:
            self.remove()
            t.skip("NO BRIDGE OR VETH HERE: %s" % e)

    def ip(self, *arguments):
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
        true(done.returncode == 0, "ip %s: %s" % (" ".join(arguments), done.stderr.strip()))

    def address(self, i):
        return "%s.%d" % (self.base, i + 1)

    def unplug(self, i):
        """The zone is gone, for everybody."""
        self.ip("link", "set", self.ports[i], "down")

    def plug(self, i):
        self.ip("link", "set", self.ports[i], "up")

    def mute(self, i, j):
        """Nothing that node i sends reaches node j any more; what j sends reaches i. i is told a link address of j's that nobody has."""
        self.ip("-n", self.names[i], "neigh", "replace", self.address(j), "lladdr", "02:00:00:00:de:ad", "nud", "permanent", "dev", "eth0")

    def unmute(self, i, j):
        self.ip("-n", self.names[i], "neigh", "del", self.address(j), "dev", "eth0")

    def thin(self, i, rate):
        """What reaches node i, and what leaves it, is no more than that: rate as tc has it; None: as before."""
        for where in (["-n", self.names[i]], "eth0"), ([], self.ports[i]):
            word = ["replace", "dev", where[1], "root", "tbf", "rate", rate, "burst", "16kb", "latency", "200ms"] if rate else ["del", "dev", where[1], "root"]
            done = subprocess.run(["tc", *where[0], "qdisc", *word], capture_output=True, text=True)
            if done.returncode:
                t.skip("NO TBF HERE: " + done.stderr.strip())

    def remove(self):
        for port in self.ports:  # with it goes its other end, at once; a namespace goes some time later
            subprocess.run(["ip", "link", "del", port], capture_output=True)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)


class Clock:
    """Of one server: its wall clock, as preload/wallclock.c has it."""

    def __init__(self):
        self.path = os.path.join(t.TEMP, "clock-%s" % t.request_id())
        with open(self.path, "wb") as f:
            f.write(bytes(8))
        self.env = {"LD_PRELOAD": os.path.join(t.BUILD, "tests/integration/preload/wallclock.so"), "WALLCLOCK": self.path}

    def step(self, seconds):
        with open(self.path, "r+b") as f:
            f.write(struct.pack("q", seconds * 10**9))  # off by this from now on


class Zones(Cluster):
    """network: each node in its namespace; without: on loopback. on_disks: each node's data on a disk whose power can be cut, and that is small. proxies: one on each connection between nodes.
    clocks: each node's wall clock can be set."""

    def __init__(self, network=None, on_disks=False, proxies=False, clocks=False, **flags):
        super().__init__(start=False, log_live_size="2MiB", log_segment_size="64KiB", **flags)
        self.network, self.rigs, self.proxies, self.fresh = network, [], [], []
        self.clocks = [Clock() for _ in self.nodes] if clocks else []
        for n, c in zip(self.nodes, self.clocks):
            n.env = c.env
        self.told = [{} for _ in self.nodes]  # of each node: (slot, seq) -> what ReadChanges told
        self.cursors, self.checked = [b""] * len(self.nodes), 0
        try:
            for i, n in enumerate(self.nodes):
                if network:
                    n.prefix = ["ip", "netns", "exec", network.names[i]]
                    n.address, n.http_address = "%s:%d" % (network.address(i), n.port), "%s:%d" % (network.address(i), n.http_port)
                    n.flags["peer_listen"] = "%s:%d" % (network.address(i), n.peer_port)
                if on_disks:
                    self.rigs.append(faultrig.PowerRig(t.BUILD, image_mib=768, tmpfs_mib=1024))
                    n.data_dir = os.path.join(self.rigs[i].mount, "data")
            for i, n in enumerate(self.nodes):
                at = [m.flags["peer_listen"] if network else "127.0.0.1:%d" % m.peer_port for m in self.nodes]
                if proxies:  # the lower id dials
                    for j in range(i + 1, len(self.nodes)):
                        self.proxies.append(Proxy(("127.0.0.1", self.nodes[j].peer_port)))
                        at[j] = "127.0.0.1:%d" % self.proxies[-1].port
                n.flags["peers"] = ",".join("%d=%s" % (j + 1, a) for j, a in enumerate(at))
            self.start()
        except BaseException:
            self.remove()
            raise

    def remove(self):
        super().remove()
        for proxy in self.proxies:
            proxy.close()
        for rig in self.rigs:
            rig.close()

    def cut_power(self, rng):
        """Of all nodes, within some milliseconds; of what was not synced some blocks survive by chance, or none."""
        for rig in self.rigs:
            rig.power_off(rng.randrange(1 << 30), rng.choice((0, 0, rng.randrange(100), 100)))
        for n in self.nodes:
            n.kill()
        for rig in self.rigs:
            rig.power_on()

    def load(self, name, **more):
        return history.Load([n.address for n in self.nodes], "%s-%d" % (name, self.checked), **more)

    def leader(self, partition=0, of=None):
        """Index of the node that leads."""
        return self.wait_leaders(of, 30)[partition] - 1

    def create_in(self, partition, name, through):
        """An order of that partition."""
        for i in range(200):
            answer = through.call("CreateOrder", t.create_request(user_id="%s-%d-%d" % (name, partition, i)))
            p = next(p for p in through.call("GetTopology").partitions if any(s.first <= answer.token.slot <= s.last for s in p.slots))
            if p.partition_id == partition:
                return answer.order
        raise AssertionError("no user of partition %d" % partition)

    def check(self, load):
        """All nodes are up and nothing is broken any more. Everything that load saw, against everything that there is now."""
        self.checked += 1
        self.wait_leaders(wait_s=30)
        load.settle(self.nodes[0].client, self.nodes[0].address)
        self.wait_equal(60)
        for i, n in enumerate(self.nodes):
            self._read_changes(i, n)
        for told in self.told[1:]:
            true(told == self.told[0], "nodes tell different events")
        orders = self._orders(load)
        mine = {}
        for e in (stream_pb2.ChangeEvent.FromString(raw) for raw in self.fresh):
            if e.user_id in load.users:
                mine.setdefault(e.order_id, []).append(e)
        true(set(mine) == set(orders), "orders are listed, or told, that are not the other")
        histories = {}
        for k, (order_id, order) in enumerate(sorted(orders.items())):
            entries = self.nodes[k % len(self.nodes)].call("ListOrderHistory", order_id=order_id, page_size=1000).entries
            self._check_history(order, entries)
            true([e.entry for e in mine[order_id]] == list(entries), "events of order %d are not its history" % order_id)
            true(mine[order_id][-1].after == order, "the last event of order %d is not the order" % order_id)
            histories[order_id] = [(e.request_id, e.to_status) for e in entries]
        history.check(load.calls, histories)
        counts = [sum(p.orders for p in n.call("GetTopology").partitions) for n in self.nodes]
        true(len(set(counts)) == 1, "nodes count different orders: %s" % counts)
        by = collections.Counter((c.kind, c.outcome) for c in load.calls)
        print("# %d calls, %d writes acknowledged, %d refused, %d orders, %d events" %
              (len(load.calls), load.acknowledged(), by["write", history.REFUSED], len(orders), len(self.fresh)), flush=True)
        self.fresh = []

    def _read_changes(self, i, node):
        """What is new: dense by slot, and the same on every node, byte by byte."""
        told, fresh = self.told[i], []
        last = {}
        for slot, seq in told:
            last[slot] = seq
        for answer in node.call("ReadChanges", cursor=self.cursors[i], stop_at_end=True, payload=pb.ORDER_VIEW_FULL, timeout=60):
            for e in answer.events:
                true(e.seq == last.get(e.slot, 0) + 1, "node %d: event %s after %d" % (i + 1, e.event_id, last.get(e.slot, 0)))
                last[e.slot] = e.seq
                raw = e.SerializeToString(deterministic=True)
                told[e.slot, e.seq] = hash(raw)
                fresh.append(raw)
            self.cursors[i] = answer.cursor
        self.fresh = fresh

    def _orders(self, load):
        """{order_id: Order} of all orders of its users, listed through a node after the other; totals agree."""
        orders = {}
        for k, user in enumerate(load.users):
            node, token = self.nodes[k % len(self.nodes)], ""
            listed = 0
            while True:
                page = node.call("ListOrders", user_id=user, page_size=500, page_token=token)
                listed += len(page.orders)
                for o in page.orders:
                    true(o.order_id not in orders, "order %d is listed twice" % o.order_id)
                    orders[o.order_id] = o
                token = page.next_page_token
                if not token:
                    break
            true(page.total_size == listed == sum(page.status_counts.values()), "%s: total %d, by status %s, listed %d" % (user, page.total_size, page.status_counts, listed))
        for ids in (sorted(orders)[i:i + 100] for i in range(0, len(orders), 100)):
            for o in self.nodes[-1].call("BatchGetOrders", pb.BatchGetOrdersRequest(order_ids=ids)).orders:
                true((o.version, o.status) == (orders[o.order_id].version, orders[o.order_id].status), "order %d is listed as it is not" % o.order_id)
                orders[o.order_id] = o
        return orders

    @staticmethod
    def _check_history(order, entries):
        true([e.version for e in entries] == list(range(1, order.version + 1)), "history of %d: %s" % (order.order_id, [e.version for e in entries]))
        previous, status, at = bytes(32), entries[0].from_status, 0
        for e in entries:
            true(t.seconds_of(e.time) >= at, "history of %d: version %d is earlier than the one before" % (order.order_id, e.version))
            at = t.seconds_of(e.time)
            previous = chain_hash(previous, order.order_id, e)
            true(e.chain_hash == previous and e.from_status == status, "history of %d breaks at version %d" % (order.order_id, e.version))
            status = e.to_status
        true(status == order.status, "order %d is %s, its history ends in %s" % (order.order_id, order.status, status))
