#!/usr/bin/python3
"""Three nodes that talk TLS to each other, with two cores each, so that connections move between them. usage: test_cluster_tls.py BUILD [PART OF A TEST'S NAME]"""
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import orderdb_test as t
from cluster import Cluster, Joined, members, run, states
from orderdb_test import equal, test, true, until

USERS = ["tls-user-%d" % i for i in range(12)]
CERTS = os.path.join(t.TEMP, "certs")
os.makedirs(CERTS)
subprocess.run([os.path.join(t.ROOT, "tests/lib/certs.sh"), CERTS], check=True)


def path(name):
    return os.path.join(CERTS, name)


def wears(node_id, cert):
    """That is what the node shows from its next start, or its next SIGHUP, on."""
    for kind in (".pem", ".key"):
        shutil.copy(path(cert + kind), path("live-%d" % node_id + kind))


def flags_of(node_id):
    return dict(peer_tls_cert=path("live-%d.pem" % node_id), peer_tls_key=path("live-%d.key" % node_id), peer_tls_ca=path("ca.pem"))


def write(cluster, of=None):
    """An order of each user, from every node."""
    return [n.call("CreateOrder", t.create_request(user_id=user), timeout=20).order.order_id for n in (of or cluster.up()) for user in USERS]


def links(nodes):
    return [n.metrics()["orderdb_peer_links"] for n in nodes]


def all_linked(cluster):
    until(lambda: links(cluster.nodes) == [4, 4, 4], 60, "two links to each of the others")


def says(node, *words, since=0):
    """A line of the node's log has all of the words."""
    until(lambda: any(all(w in line for w in words) for line in node.log()[since:].splitlines()), 30, "node says %s\n%s" % (words, node.log_tail(8)))


@test("all is replicated over TLS, and each node knows who the other is")
def _(cluster):
    cluster.wait_leaders()
    all_linked(cluster)
    for n in cluster.nodes:
        for other in cluster.nodes:
            if other is not n:
                says(n, 'info "peer"', "node=%d" % cluster.id_of(other), "tls=CN=node %d,O=shop" % cluster.id_of(other))
    orders = write(cluster)
    big = cluster.nodes[1].call("BatchCreateOrders", t.pb.BatchCreateOrdersRequest(requests=[t.create_request(user_id=u, extension=os.urandom(60000)) for u in USERS]))
    orders += [r.ok.order.order_id for r in big.results]  # frames of many records
    cluster.wait_equal()
    for n in cluster.nodes:
        equal([o.order_id for o in n.call("BatchGetOrders", t.pb.BatchGetOrdersRequest(order_ids=orders)).orders], orders)
    equal([n.metrics()["orderdb_peer_frames_bad_total"] for n in cluster.nodes], [0, 0, 0])


@test("kill -9 and return; a disk that is lost comes back")
def _(cluster):
    for victim in cluster.nodes[::2]:  # one that is dialed alone, one that dials alone
        victim.kill()
        orders = write(cluster)
        victim.start()
        cluster.wait_equal()
        equal(len(victim.call("BatchGetOrders", t.pb.BatchGetOrdersRequest(order_ids=orders)).orders), len(orders))
    victim = cluster.nodes[1]
    victim.kill()
    shutil.rmtree(victim.data_dir)
    victim.start()
    cluster.wait_equal()
    all_linked(cluster)


@test("SIGHUP: links stay, new ones are made with the new certificate; a bad file changes nothing")
def _(cluster):
    all_linked(cluster)
    one, two, three = cluster.nodes
    lost = [n.metrics()["orderdb_peer_links_lost_total"] for n in cluster.nodes]
    shutil.copy(path("node-2.pem"), path("live-1.pem"))  # not that of the key
    one.process.send_signal(signal.SIGHUP)
    says(one, "reload refused", "live-1.key")
    wears(1, "again-1")
    for _ in range(10):
        one.process.send_signal(signal.SIGHUP)
        write(cluster, [two])
    says(one, 'info "reload"', "CN=node 1 again")
    equal([n.metrics()["orderdb_peer_links_lost_total"] for n in cluster.nodes], lost)
    equal(links(cluster.nodes), [4, 4, 4])
    three.kill()
    three.start()
    says(three, 'info "peer"', "tls=CN=node 1 again")
    wears(1, "node-1")
    one.process.send_signal(signal.SIGHUP)
    cluster.wait_equal()


@test("who shows the wrong certificate, or talks cleartext, is refused, both sides say why, and the others go on")
def _(cluster):
    cleartext = dict(peer_tls_cert=None, peer_tls_key=None, peer_tls_ca=None)
    rows = [  # node 1 dials, node 3 is dialed; what both say, who is wrong first
        (3, "other-node-3", "other-ca.pem", {}, ("by=us", "verify failed"), ("by=it", "alert")),
        (3, "expired", "ca.pem", {}, ("by=us", "certificate has expired"), ("by=it", "alert certificate expired")),
        (3, "node-2", "ca.pem", {}, ("by=us", "hostname mismatch"), ("by=it", "alert")),
        (3, None, "ca.pem", cleartext, ("by=it", "TLS to a node without"), ("by=us", "TLS to a node without")),
        (1, "other-node-1", "ca.pem", {}, ("by=us", "verify failed"), ("by=it", "alert unknown ca")),
        (1, "expired-1", "ca.pem", {}, ("by=us", "certificate has expired"), ("by=it", "alert certificate expired")),
        (1, "node-2", "ca.pem", {}, ("by=us", "its certificate is not that node's"), ("by=it", "its certificate is not that node's")),
        (1, None, "ca.pem", cleartext, ("by=us", "cleartext to a node that has"), ("by=it", "cleartext to a node that has")),
    ]
    for wrong, cert, ca, flags, honest_says, wrong_says in rows:
        victim, honest = cluster.node(wrong), cluster.node(4 - wrong)
        victim.stop()
        before, after = honest.log(), victim.log()
        if cert:
            wears(wrong, cert)
        victim.flags.update(dict(flags_of(wrong), peer_tls_ca=path(ca)), **flags)
        victim.start(wait=False)
        says(honest, "peer refused", *honest_says, since=len(before))
        says(victim, "peer refused", *wrong_says, since=len(after))
        write(cluster, [cluster.nodes[1]])
        true(victim.ready_line is None, "it must not serve")
        victim.kill()
        wears(wrong, "node-%d" % wrong)
        victim.flags.update(flags_of(wrong))
        victim.start()
    all_linked(cluster)
    cluster.wait_equal()


@test("strangers: no certificate, an old version, an application's TLS, garbage, silence: none gets in, and nobody waits for them")
def _(cluster):
    node = cluster.nodes[1]
    all_linked(cluster)

    def stranger(alpn="orderdb-link", version=ssl.TLSVersion.TLSv1_3, cert=None):
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        c.load_verify_locations(path("ca.pem"))
        c.minimum_version = c.maximum_version = version
        c.set_alpn_protocols([alpn])
        if cert:
            c.load_cert_chain(path(cert + ".pem"), path(cert + ".key"))
        with socket.create_connection(("127.0.0.1", node.peer_port), timeout=20 * t.SLOW) as raw:
            try:
                with c.wrap_socket(raw, server_hostname="node-2") as s:
                    equal(s.recv(1), b"")
                    return "closed"
            except (ssl.SSLError, ConnectionError) as e:
                return str(e)
    true("certificate required" in stranger().lower().replace("_", " "), "it must show a certificate")
    says(node, "peer refused", "peer did not return a certificate")
    true("protocol version" in stranger(version=ssl.TLSVersion.TLSv1_2, cert="node-1").lower().replace("_", " "), "TLS 1.2 is refused")
    true("no application protocol" in stranger(alpn="h2", cert="node-1").lower().replace("_", " "), "an application is refused")
    equal(stranger(cert="node-1"), "closed", "who has a certificate, but says nothing")  # within the handshake's time
    idle = [socket.create_connection(("127.0.0.1", node.peer_port), timeout=20 * t.SLOW) for _ in range(100)]
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    for i, s in enumerate(idle):
        try:
            s.sendall([b"", hello, hello + os.urandom(600), b"GET / HTTP/1.1\r\n\r\n", b"\x17\x03\x03" + os.urandom(99), struct.pack("<IBBHI", 1 << 30, 5, 0, 0, 0)][i % 6])
        except ConnectionError:
            pass  # beyond what is listened to at once
    write(cluster)
    for s in idle:
        try:
            while s.recv(4096):
                pass
        except ConnectionError:
            pass
        s.close()
    true(node.metrics()["orderdb_peer_connections_refused_total"] > 30, "they are counted")
    equal(links(cluster.nodes), [4, 4, 4])


class Relay:
    """Sits between two nodes with a certificate for either of them, as one would who has got at their keys, and passes on what it reads."""

    def __init__(self, port):
        self.port, self.listener = port, socket.create_server(("127.0.0.1", 0))
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(path("node-3.pem"), path("node-3.key"))
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.client.load_verify_locations(path("ca.pem"))
        self.client.load_cert_chain(path("node-1.pem"), path("node-1.key"))
        for c in (self.server, self.client):
            c.set_alpn_protocols(["orderdb-link"])
        self.passed = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                raw = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.relay, args=(raw,), daemon=True).start()

    def relay(self, raw):
        try:
            with self.server.wrap_socket(raw, server_side=True) as left, socket.create_connection(("127.0.0.1", self.port)) as onward:
                with self.client.wrap_socket(onward, server_hostname="node-3") as right:
                    for n in (1, 2):  # HELLO there, WELCOME back
                        source, target = (left, right) if n == 1 else (right, left)
                        bytes_ = source.recv(4096)
                        self.passed.append(bytes_[12:20])
                        target.sendall(bytes_)
                    left.recv(4096)
        except (OSError, ssl.SSLError):
            pass


@test("a relay that has certificates of both, but not the cluster's key, can't pass the handshake through")
def _(cluster):
    one, three = cluster.nodes[0], cluster.nodes[2]
    relay, peers = Relay(three.peer_port), one.flags["peers"]
    one.stop()
    since = len(one.log())
    one.flags["peers"] = peers.replace(":%d" % three.peer_port, ":%d" % relay.listener.getsockname()[1])
    one.start(wait=False)
    says(one, "peer refused", "node=3", "by=us", "does not have the cluster's key", since=since)
    true(b"ODB LINK" in relay.passed, "it did relay")
    write(cluster, cluster.nodes[1:])
    one.stop() if one.ready_line else one.kill()
    one.flags["peers"] = peers
    one.start()
    relay.listener.close()
    all_linked(cluster)
    cluster.wait_equal()


@test("a start with wrong flags or files says which")
def _(cluster):
    for flags, words in ((dict(peer_tls_ca=None), ("TLS between nodes", "the CA is missing")), (dict(peer_tls_key=None), ("the key is missing",)),
                         (dict(peer_tls_cert=path("nothing.pem")), ("nothing.pem",)), (dict(peer_tls_key=path("node-2.key")), ("node-2.key",)),
                         (dict(peers=None, node_id=None, cluster_key_file=None), ("--peer-tls-cert", "go with --peers"))):
        s = t.Server(start=False, **dict(cluster.nodes[0].flags, **flags))
        s.start(wait=False)
        equal(s.wait(), 1)
        true(all(w in s.log() for w in words), "%s in %s" % (words, s.log_tail(3)))
        s.remove()


@test("a node joins over TLS, is added, and has everything; who joins with a wrong certificate, or without, is told why")
def _(cluster):
    orders = write(cluster)
    one = cluster.nodes[0]
    for cert, ca, join, words in (("node-2", "ca.pem", cluster, "its certificate is not that node's"), ("other-node-1", "other-ca.pem", cluster, "verify failed"), ("expired-1", "ca.pem", cluster, "expired"),
                                  (None, None, cluster, "cleartext to a node that has")):
        wrong = dict(peer_tls_cert=path(cert + ".pem"), peer_tls_key=path(cert + ".key"), peer_tls_ca=path(ca)) if cert else {}
        late = Joined(join, 4, **wrong).server
        late.start(wait=False)
        equal(late.wait(60), 1)
        true(words in late.log(), "%s in %s" % (words, late.log_tail(3)))
        late.remove()
    true(4 not in states(one), "nobody has joined")
    late = Joined(cluster, 4, **flags_of(4)).server
    wears(4, "node-4")
    late.start(wait=False)
    try:
        until(lambda: states(one).get(4) == "JOINED", what="it has joined")
        one.orderctl("--timeout", "60", "cluster", "node", "add", "4")
        late.wait_ready()
        for n in cluster.nodes:
            says(late, 'info "peer"', "tls=CN=node %d,O=shop" % cluster.id_of(n))
            says(n, 'info "peer"', "node=4", "tls=CN=node 4")
        orders += write(cluster, [late])
        late.restart()  # it is known now, and asks again
        equal([o.order_id for o in late.call("BatchGetOrders", t.pb.BatchGetOrdersRequest(order_ids=orders)).orders], orders)
        held = [m for m in members(one) if m.get(4) == "VOTER"]
        true(held and all(len(m) == 3 and set(m.values()) == {"VOTER"} for m in members(one)), members(one))
    finally:
        late.remove()


@test("who joins with TLS where there is none is told so")
def _(_cluster):
    with Cluster(1) as plain:
        until(lambda: plain.nodes[0].call("GetTopology").epoch, what="its nodes are in the meta partition")
        late = Joined(plain, 4, **flags_of(4)).server
        late.start(wait=False)
        equal(late.wait(60), 1)
        true("TLS to a node without" in late.log(), late.log_tail(3))
        late.remove()


def make_certificates():
    """More of them than certs.sh makes."""
    def leaf(name, subject, dns, ca, days):
        subprocess.run("openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout %s.key -out %s.csr -subj '/CN=%s' && "
                       "openssl x509 -req -in %s.csr -CA %s.pem -CAkey %s.key -CAcreateserial -days %d -out %s.pem -extfile %s.ext"
                       % (name, name, subject, name, ca, ca, days, name, name), shell=True, check=True, cwd=CERTS, stderr=subprocess.DEVNULL)
    for name, subject, dns, ca, days in (("again-1", "node 1 again", "node-1", "ca", 30), ("expired-1", "node 1", "node-1", "ca", -1), ("other-node-1", "node 1", "node-1", "other-ca", 30),
                                         ("node-4", "node 4", "node-4", "ca", 30)):
        with open(path(name + ".ext"), "w") as f:
            f.write("subjectAltName=DNS:%s\n" % dns)
        leaf(name, subject, dns, ca, days)


def main():
    make_certificates()
    with Cluster(start=False, cores=2, partitions=4, log_live_size="4MiB", log_segment_size="64KiB") as cluster:
        for i, n in enumerate(cluster.nodes):
            wears(i + 1, "node-%d" % (i + 1))
            n.flags.update(flags_of(i + 1))
        cluster.start()
        run(cluster)


if __name__ == "__main__":
    main()
