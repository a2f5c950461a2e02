"""Three servers as one cluster, for the tests that need one: each on ports of its own, with one key and one list of peers."""
import os

import orderdb_test as t


class Cluster:
    def __init__(self, count=3, start=True, **flags):
        self.key_file = os.path.join(t.TEMP, "key-%s" % t.request_id())
        with open(self.key_file, "wb") as f:
            f.write(os.urandom(48))
        flags.setdefault("lead_hold", "0s")  # leads stay where the test has put them
        base = dict(dict(cores=1, partitions=3, memory_budget="512MiB", cluster_key_file=self.key_file), **flags)
        self.nodes = [t.Server(start=False, node_id=i + 1, zone="zone-%s" % "abcdefg"[i], **base) for i in range(count)]
        peers = ",".join("%d=127.0.0.1:%d" % (i + 1, n.peer_port) for i, n in enumerate(self.nodes))
        for n in self.nodes:
            n.flags["peers"] = peers
        if start:
            self.start()

    def start(self):
        """A node is ready when there is a majority: none is waited for before all have begun."""
        for n in self.nodes:
            n.start(wait=False)
        for n in self.nodes:
            n.wait_ready()

    def up(self):
        return [n for n in self.nodes if n.process is not None]

    def id_of(self, server):
        return self.nodes.index(server) + 1

    def node(self, node_id):
        return self.nodes[node_id - 1]

    def leaders(self, of=None):
        """{partition: node id} once a node, or this one, knows a leader for every partition and all are up; else None."""
        server = of or self.up()[0]
        try:
            topology = server.call("GetTopology", timeout=2)
        except t.Failure:
            return None
        leaders = {p.partition_id: p.leader_node_id for p in topology.partitions}
        return leaders if all(i and self.node(i).process is not None for i in leaders.values()) else None

    def wait_leaders(self, of=None, wait_s=60):
        return t.until(lambda: self.leaders(of), wait_s, "every partition has a leader")

    def applied(self):
        """{partition: applied index} of each node that is up."""
        out = []
        for i, n in enumerate(self.nodes):
            if n.process is not None:
                out.append({p.partition_id: r.applied_index for p in n.call("GetTopology").partitions for r in p.replicas if r.node_id == i + 1})
        return out

    def wait_equal(self, wait_s=60):
        """Every replica has applied the same."""
        t.until(lambda: len(set(map(str, self.applied()))) == 1, wait_s, "replicas have applied the same")

    def remove(self):
        for n in self.nodes:
            n.remove()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()


class Joined:
    """A node that comes later."""

    def __init__(self, cluster, node_id, zone="zone-d", join=None, **flags):
        join = ",".join("127.0.0.1:%d" % n.peer_port for n in (join or cluster.nodes[:3]))
        self.server = t.Server(start=False, node_id=node_id, zone=zone, cluster_key_file=cluster.key_file, join=join, cores=None, partitions=None, memory_budget="512MiB", lead_hold="0s", **flags)
        self.id = node_id


def topology(node):
    return node.call("GetTopology")


def states(node):
    return {n.node_id: n.state for n in topology(node).nodes}


def members(node):
    """Of each partition, as {node: role}."""
    return [{r.node_id: r.role for r in p.replicas} for p in topology(node).partitions]


def run(cluster):
    """As orderdb_test.run, with a cluster in the place of the server."""
    def bound(function):
        return lambda: function(cluster)
    t._tests[:] = [(name, bound(function)) for name, function in t._tests]
    t.run(server=False)
