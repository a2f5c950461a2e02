#!/usr/bin/python3
"""Hostile peers one by one: what each is told, how soon it is cut off, which figure says so, and that nothing of it is left. All of them at once: tests/abuse/run.py, whose short run is the last test."""
import os
import socket
import ssl
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../abuse"))
import h2raw as h  # noqa: E402
import idle  # noqa: E402
import run as abuse  # noqa: E402
import orderdb_test as t  # noqa: E402
from orderdb_test import equal, true  # noqa: E402

CREATE, GET = h.SERVICE + "CreateOrder", h.SERVICE + "GetOrder"
# Patience in seconds instead of minutes: what is late is cut off within a few of them (slow streams are looked at every two).
FLAGS = {"first_request_timeout": "1s", "slow_grace": "1s", "min_rate": "64KiB", "tls_handshake_timeout": "1s", "connections_per_address": 200, "connection_rate_per_address": 100,
         "address_penalty_max": "0s", "log_level": "debug"}
SOON_S = 30 * t.SLOW  # on a busy machine


def hits(server, action, reason):
    return server.metrics()['orderdb_peer_limits_total{action="%s",reason="%s"}' % (action, reason)]


class Counted:
    """Within it the figure of this reason grows by at least n; afterwards nothing of the peer is left and honest calls are served."""

    def __init__(self, server, action, reason, n=1):
        self.server, self.action, self.reason, self.n = server, action, reason, n

    def __enter__(self):
        self.before = hits(self.server, self.action, self.reason)

    def __exit__(self, kind, *_):
        if kind:
            return
        s = self.server
        t.until(lambda: hits(s, self.action, self.reason) >= self.before + self.n, what="%s %s is counted" % (self.action, self.reason))
        true("action=%s reason=%s" % (self.action, self.reason) in s.log(), "it is logged, with the address")
        honest(s)


def honest(s):
    t.refused(lambda: s.call("GetOrder", order_id=1), "NOT_FOUND")
    s.client.close()
    s._client = None
    t.until(lambda: s.metrics()["orderdb_connections"] == 0 and s.metrics()["orderdb_calls_in_flight"] == 0, what="nothing is left of it")


def calm(wire, text=None):
    """It is told to calm down, and closed, soon."""
    true(wire.until_closed(SOON_S) is not None, "it was not closed")
    if wire.goaway:  # a reset of the socket may overtake the last words to a peer that never stops sending
        equal(wire.goaway[0], h.ENHANCE_YOUR_CALM)
        true(text is None or text in wire.goaway[1], wire.goaway[1])
    return wire.goaway


def ready(server, *first):
    """A connection that has had a call answered: what comes now is no first request."""
    w = h.Wire(server.port, first=first)
    w.send(h.request(1, GET, b"\x08\x01"))
    equal(w.answer(1)[0].get("grpc-status"), "5")
    return w


def flood(wire, bytes_, times, batch=50):
    for _ in range(0, times, batch):
        if not wire.send(bytes_ * batch):
            return


@t.test("rapid reset, and resets that the server is provoked to")
def _(server):
    with Counted(server, "cut", "resets"):
        w = ready(server)
        for stream in range(3, 4003, 2):
            if not w.send(h.frame(h.HEADERS, h.END_HEADERS, stream, h.block(GET)) + h.rst(stream)):
                break
        calm(w, "reset")
    with Counted(server, "cut", "resets"):
        w = ready(server)
        for stream in range(3, 4003, 2):
            if not w.send(h.frame(h.HEADERS, h.END_HEADERS, stream, h.block(GET)) + h.window_update(stream, 0x7fffffff)):
                break
        calm(w, "reset")
    with Counted(server, "cut", "resets"):
        w = ready(server)
        flood(w, h.rst(99), 2000)
        calm(w, "reset")


@t.test("floods of frames without work")
def _(server):
    for bytes_ in (h.settings(), h.frame(h.PRIORITY, 0, 1, bytes(5)), h.window_update(0, 1), h.frame(200, 0, 0, b"x"), h.ping(1, h.ACK)):
        with Counted(server, "cut", "control_frames"):
            w = ready(server)
            flood(w, bytes_, 5000)
            calm(w)
    for data in (h.frame(h.DATA, 0, 3), h.frame(h.DATA, h.PADDED, 3, bytes((99,)) + bytes(99)), h.frame(h.DATA, 0, 3, b"x")):
        with Counted(server, "cut", "control_frames"):
            w = ready(server)
            w.send(h.frame(h.HEADERS, h.END_HEADERS, 3, h.block(CREATE)) + h.data(3, h.message(b"", length=100000), end=False))
            flood(w, data, 5000)
            calm(w)


@t.test("pings: a flood is cut off at once, with gRPC's own words")
def _(server):
    with Counted(server, "cut", "pings"):
        w = ready(server)
        for n in range(10):
            w.send(h.ping(n))
        equal(calm(w), (h.ENHANCE_YOUR_CALM, "too_many_pings"))


@t.test("CONTINUATION floods")
def _(server):
    with Counted(server, "cut", "continuations"):
        w = ready(server)
        w.send(h.frame(h.HEADERS, 0, 3, h.block(GET)))
        flood(w, h.frame(h.CONTINUATION, 0, 3), 1000)
        calm(w, "CONTINUATION")


@t.test("header bombs: 16 KiB are refused, 64 KiB end the connection, by whatever trick")
def _(server):
    w = ready(server)
    long = h.literal("x", "v" * 3000, indexed=True)
    w.send(h.frame(h.HEADERS, h.END_HEADERS, 3, h.block(GET) + long + b"\xbe" * 6) + h.data(3, h.message(b"\x08\x01")))  # index 62: seven times 3,033 bytes
    fields, _, _ = w.answer(3)
    equal(fields.get("grpc-status"), "8")
    w.close()
    with Counted(server, "cut", "header_bytes"):
        w = ready(server)
        w.send(h.frame(h.HEADERS, h.END_HEADERS | h.END_STREAM, 3, h.block(GET) + long + b"\xbe" * 1000))
        calm(w)
    with Counted(server, "cut", "header_bytes"):  # the same in trailers, which nobody looks at
        w = ready(server)
        w.send(h.frame(h.HEADERS, h.END_HEADERS, 3, h.block(CREATE)))
        w.send(h.frame(h.HEADERS, h.END_HEADERS | h.END_STREAM, 3, long + b"\xbe" * 1000))
        calm(w)


@t.test("an answer that is not taken: zero window, a byte a second")
def _(server):
    id_ = server.call("CreateOrder", t.create_request(user_id="slow-reader")).order.order_id
    body = t.pb.GetOrderRequest(order_id=id_).SerializeToString()
    for step in (0, 1):
        with Counted(server, "reset", "slow_answer"):
            w = ready(server, (h.INITIAL_WINDOW_SIZE, 0))
            w.send(h.request(3, GET, body))
            reset = None
            for _ in range(SOON_S * 4):
                if step:
                    w.send(h.window_update(3, 1))
                for f in w.frames(0.25):
                    if f.type == h.RST_STREAM:
                        reset = int.from_bytes(f.payload, "big")
                if reset is not None:
                    break
            equal(reset, h.CANCEL)
            true(not w.closed, "other calls of the connection go on")
            w.close()


@t.test("a request by a byte a second")
def _(server):
    with Counted(server, "reset", "slow_request"):
        w = ready(server)
        w.send(h.frame(h.HEADERS, h.END_HEADERS, 3, h.block(CREATE)) + h.data(3, h.message(b"", length=5000), end=False))
        reset = None
        for _ in range(SOON_S * 4):
            w.send(h.frame(h.DATA, 0, 3, b"\x0a"))
            for f in w.frames(0.25):
                if f.type == h.RST_STREAM:
                    reset = int.from_bytes(f.payload, "big")
            if reset is not None:
                break
        equal(reset, h.CANCEL)
        w.close()


def drip(wire, bytes_):
    """A byte each quarter of a second, until it is closed: how long it took, at most SOON_S."""
    for i in range(SOON_S * 4):
        if not wire.send(bytes_[i % len(bytes_):i % len(bytes_) + 1]):
            break
        for _ in wire.frames(0.25, acknowledge=False):
            pass
        if wire.closed:
            return (i + 1) / 4
    raise AssertionError("it was not closed")


@t.test("slow loris: preface, request, later frames, header blocks without end")
def _(server):
    with Counted(server, "cut", "first_request_time"):
        drip(h.Wire(server.port, raw=True), h.PREFACE)
    with Counted(server, "cut", "first_request_time"):
        drip(h.Wire(server.port), h.frame(h.HEADERS, h.END_HEADERS, 1, h.block(GET)))
    with Counted(server, "cut", "slow_frame"):
        drip(ready(server), h.settings() * 4)
    with Counted(server, "cut", "slow_frame"):
        w = ready(server)
        w.send(h.frame(h.HEADERS, 0, 3, h.block(GET)))
        true(w.until_closed(SOON_S) is not None, "it was not closed")


@t.test("a socket that nobody reads: closed, its memory bounded while it lasts")
def _(server):
    o = t.order(user_id="much", item_count=20)
    for item in o.items:
        item.title = "t" * 200
    id_ = server.call("CreateOrder", t.create_request(o)).order.order_id
    more = [server.call("CreateOrder", t.create_request(o)).order.order_id for _ in range(19)]
    body = t.pb.BatchGetOrdersRequest(order_ids=[id_, *more]).SerializeToString()
    before = server.rss_bytes()
    with Counted(server, "cut", "slow_reader"):
        w = h.Wire(server.port, first=((h.INITIAL_WINDOW_SIZE, 0x7fffffff),))
        w.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        w.send(h.window_update(0, 0x7fff0000))
        for stream in range(1, 201, 2):
            w.send(h.request(stream, h.SERVICE + "BatchGetOrders", body))
        t.until(lambda: server.metrics()["orderdb_connections"] == 1, wait_s=SOON_S, what="it is closed, the honest client's is left")
        true(server.rss_bytes() - before < 64 << 20, "memory of one connection")
        w.close()


@t.test("messages: nesting, four MiB of empty parts, length prefixes that lie")
def _(server):
    w = ready(server)
    nested = b""
    for _ in range(5000):
        nested = b"\x0a" + h.varint(len(nested)) + nested
    # Groups within groups; items of the order, all of them empty: 64 times as much when unpacked.
    for stream, (message, codes) in enumerate(((nested, "3"), (h.DEEP, "3"), (h.EMPTY_PARTS, "38"), (b"\xff" * 1000, "3"))):
        w.upload(3 + 2 * stream, CREATE, message)
        true(w.answer(3 + 2 * stream, wait_s=SOON_S)[0].get("grpc-status") in tuple(codes), "message %d is refused" % stream)
    w.send(h.frame(h.HEADERS, h.END_HEADERS, 11, h.block(CREATE)) + h.data(11, h.message(b"", length=0xffffffff), end=False))
    equal(w.answer(11)[0].get("grpc-status"), "8")
    w.close()


@t.test("messages: promises of 4 MiB on every stream of many connections take nothing from others")
def _():
    with t.Server(**{**FLAGS, "slow_grace": "10m", "first_request_timeout": "10m"}) as s:  # however long it takes to make them, they stay
        honest(s)
        before = s.rss_bytes()
        wires = [ready(s) for _ in range(20)]
        for w in wires:
            for stream in range(3, 103, 2):
                w.send(h.frame(h.HEADERS, h.END_HEADERS, stream, h.block(CREATE)) + h.data(stream, h.message(b"", length=4 << 20), end=False))
        t.until(lambda: s.metrics()["orderdb_calls_in_flight"] == 1000, what="promises are there")
        s.call("CreateOrder", t.create_request(user_id="honest", item_count=20))
        true(s.rss_bytes() - before < 64 << 20, "memory for promises")
        for w in wires:
            w.close()
        honest(s)


@t.test("connections of one address: how many, how fast")
def _(server):
    with Counted(server, "refuse", "connections_of_address", 10):
        wires = [h.Wire(server.port, source="127.0.0.9") for _ in range(210)]
        h.Wire(server.port, source="127.0.0.8").close()
        t.until(lambda: server.metrics()["orderdb_connections"] <= 201, what="no more than 200 are in")
        for w in wires:
            w.close()
    with Counted(server, "refuse", "connection_rate_of_address", 100):
        for _ in range(2000):  # 500 at once and a hundred a second, however slow this loop is
            h.Wire(server.port, source="127.0.0.7", raw=True).close()
            if hits(server, "refuse", "connection_rate_of_address") > 200:
                break


@t.test("unreadable messages end the connection; an address that goes on is refused for a while, others are not, and who works from it gets in again")
def _():
    with t.Server(**{**FLAGS, "address_penalty_max": "30s"}) as s:
        def cut_off(source):
            w = h.Wire(s.port, source=source)
            for stream in range(1, 2001, 2):
                if not w.send(h.request(stream, GET, b"\xff" * 20000)):
                    break
            w.until_closed(SOON_S)
        def turned_away():
            cut_off("127.0.0.9")
            return hits(s, "refuse", "penalty") > 0
        t.until(turned_away, what="it is not let in")  # the first penalty, after three, is as short as a stall of the machine; each further one is twice as long
        true(hits(s, "cut", "unreadable") >= 3)
        honest(s)
        for _ in range(4):
            cut_off("127.0.0.1")  # honest ones' address: they are let in after a second at most
        def gets_in():
            try:
                return s.call("ListOrders", user_id="nobody").total_size == 0
            except t.Failure:
                return False
        t.until(gets_in, wait_s=SOON_S, what="an honest client gets in")


@t.test("large messages that are never readable: a second one of 4 MiB ends the connection; batches as large that are orders do not")
def _():
    # A message costs a full bucket, which takes ten seconds to fill again.
    with t.Server(**{**FLAGS, "min_rate": "4KiB", "slow_grace": "10s", "resets_per_second": 1}) as s:
        batch = [t.create_request(user_id="honest-%d" % i, item_count=100) for i in range(100)]
        for _ in range(4):
            equal(len(s.call("BatchCreateOrders", requests=batch).results), 100)
        p = subprocess.Popen([abuse.ATTACK, "--port=%d" % s.port, "--connections=1", "--only=empty_parts", "--seconds=%d" % (60 * t.SLOW)], stdout=subprocess.DEVNULL)
        try:
            t.until(lambda: hits(s, "cut", "unreadable") > 0, what="it is cut off")
        finally:
            p.kill()
            p.wait()
        honest(s)


@t.test("TLS: half handshakes and garbage are cut off, and counted by address")
def _():
    cert, key, ca = abuse.certificates()
    with t.Server(tls_cert=cert, tls_key=key, tls_handshakes_per_address=20, **FLAGS) as s:
        half = [h.Wire(s.port, raw=True, source="127.0.0.9") for _ in range(30)]
        for w in half:
            w.send(b"\x16\x03\x01\x02\x00\x01")  # a ClientHello begins
        t.until(lambda: hits(s, "refuse", "handshakes_of_address") == 10, what="the address may have 20 under way")
        context = ssl.create_default_context(cafile=ca)
        context.set_alpn_protocols(["h2"])
        w = h.Wire(s.port, tls=context)  # another address
        w.send(h.request(1, GET, b"\x08\x01"))
        equal(w.answer(1)[0].get("grpc-status"), "5")
        w.close()
        t.until(lambda: hits(s, "cut", "handshake_time") == 20, what="half handshakes are cut off")
        garbage = h.Wire(s.port, raw=True)
        garbage.send(b"GET / HTTP/1.1\r\n\r\n")
        true(garbage.until_closed(SOON_S) is not None)
        t.until(lambda: hits(s, "cut", "tls") == 1)
        t.until(lambda: s.metrics()["orderdb_connections"] == 0, what="nothing is left")
        equal(s.stop(), 0)


@t.test("all of them at once, fifty connections beside honest load: cut off, memory bounded, nothing left; no honest call fails")
def _():
    # Peers that are slow on purpose must be gone within the six seconds; an honest one on a machine that is busy must not.
    # A small budget: the blocks that a table leaves to the next one are in memory whenever a run ended in these seconds, which is by chance; here they are few, and runs many.
    flags = {"first_request_timeout": "1s", "slow_grace": "1s", "tls_handshake_timeout": "1s", "memory_budget": "768MiB"}
    for tls in (None, abuse.certificates()):
        rig = abuse.Rig(tls, **flags)
        alone = abuse.Rig(tls, **flags)
        own = abuse.Phase(alone, 6).grown_bytes  # what honest calls fill the caches with
        alone.server.remove()
        phase = abuse.Phase(rig, 6, rig.attackers())
        true(phase.grown_bytes - own < 256 << 20, "memory grew by %d MiB, without attackers by %d" % (phase.grown_bytes >> 20, own >> 20))
        hit = rig.limits()
        expected = {"resets", "control_frames", "pings", "continuations", "header_bytes", "slow_request", "slow_answer"} | ({"handshake_time"} if tls else {"first_request_time"})
        true(expected <= set(hit), "limits that nobody met: %s" % (expected - set(hit)))
        true(phase.told["kinds"]["rapid_reset"]["cut"] > 0 and phase.rate > 0)
        equal(rig.server.stop(), 0)


@t.test("idle connections are small: a thousand of each kind")
def _():
    if t.SLOW > 1:
        t.skip("a sanitizer's heap says nothing about ours")
    for tls in (None, abuse.certificates()):
        each, had_answer, left = idle.measure(1000, tls)
        true(had_answer == left == 1000, "%d had an answer, %d were left" % (had_answer, left))
        true(each < 32 * 1024, "%.1f KiB each%s" % (each / 1024, " over TLS" if tls else ""))


if __name__ == "__main__":
    t.run(**FLAGS)
