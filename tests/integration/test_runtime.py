#!/usr/bin/python3
"""orderd as an operator meets it: start and its refusals, the operations port, the peer port, drain, second signal, restart."""
import os
import signal
import socket
import subprocess
import threading
import time

import orderdb_test as t


def refused(text, code=1, **flags):
    """Starts with these flags, expects an exit with `code` and `text` on stderr."""
    with t.Server(start=False, **flags) as s:
        s.start(wait=False)
        t.equal(s.wait(), code)
        if text not in s.log():
            raise AssertionError("expected %r in\n%s" % (text, s.log_tail()))
        t.equal(s.ready_line, None)


@t.test("two cores: orders of any user from any connection, drained clean and found again")
def _():
    with t.Server(cores=2, partitions=4) as s:
        made = {}
        for i in range(40):
            c = s.new_client()
            o = c.call("CreateOrder", t.create_request(user_id="user-%d" % i)).order
            made[o.order_id] = o.user_id
            c.close()
        m = s.metrics()
        t.equal(m["orderdb_ready"], 1)
        t.equal(m['orderdb_calls_total{method="OrderService/CreateOrder",code="OK"}'], 40)
        t.equal(sum(v for k, v in m.items() if k.startswith("orderdb_partition_orders")), 40)
        if not m["orderdb_mail_ops_total"]:
            raise AssertionError("nothing crossed the cores")
        t.equal(s.stop(), 0)
        s.start()
        for order_id, user in made.items():
            t.equal(s.call("GetOrder", order_id=order_id).user_id, user)
        t.equal(s.kill(), -signal.SIGKILL)
        s.start()
        for order_id, user in made.items():
            t.equal(s.call("GetOrder", order_id=order_id).user_id, user)


@t.test("operations port: pages, refusals, limits")
def _(server):
    t.equal(server.http("/healthz"), (200, "ok\n"))
    t.equal(server.http("/readyz"), (200, "ready\n"))
    t.equal(server.http("/no")[0], 404)

    def raw(data):
        with socket.create_connection(("127.0.0.1", server.http_port), 5) as c:
            c.sendall(data)
            out = b""
            while True:
                try:
                    got = c.recv(65536)
                except ConnectionResetError:
                    return out
                if not got:
                    return out
                out += got

    t.equal(raw(b"POST /metrics HTTP/1.1\r\n\r\n")[:12], b"HTTP/1.1 405")
    t.equal(raw(b"GET /" + b"a" * 9000)[:12], b"HTTP/1.1 431")
    t.equal(raw(b"\x16\x03\x01\x00")[:12], b"HTTP/1.1 400")
    t.equal(raw(b"HEAD /healthz HTTP/1.0\r\n\r\n").split(b"\r\n\r\n")[1], b"")
    many = [socket.create_connection(("127.0.0.1", server.http_port), 5) for _ in range(40)]
    time.sleep(0.2)
    for c in many:
        c.close()
    def healthy():
        try:
            return server.http("/healthz")[0] == 200
        except OSError:
            return False
    t.until(healthy, what="the closed ones are forgotten")


@t.test("peer port: connections are closed, counted, and logged once a second")
def _(server):
    began = time.monotonic()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.peer_port), 5) as c:
            t.equal(c.recv(10), b"")
    t.equal(server.metrics()["orderdb_peer_connections_refused_total"], 20)
    lines = server.log().count("this node has no --peers")
    if not 1 <= lines <= 2 + time.monotonic() - began:
        raise AssertionError("%d lines" % lines)


def held_import(s):
    """A call that ends when hold is set: (hold, future), once the server has it."""
    hold = threading.Event()

    def requests():
        hold.wait(120)
        return
        yield

    answer = s.client.stub(t.METHODS["ImportOrders"]).future(requests())
    t.until(lambda: s.metrics()["orderdb_calls_in_flight"] == 1, what="the import is there")
    return hold, answer


@t.test("drain: readyz says so, an idle stream is waited for, and cut at the timeout; exit 0")
def _():
    with t.Server(cores=2, drain_timeout="5m") as s:
        hold, answer = held_import(s)
        s.process.send_signal(signal.SIGTERM)
        t.until(lambda: s.http("/readyz") == (503, "draining\n"), what="readyz says so")
        hold.set()
        t.equal(s.wait(60), 0)
        t.equal(answer.exception(), None)
    with t.Server(cores=2, drain_timeout="1s") as s:
        hold, answer = held_import(s)
        slow = socket.create_connection(("127.0.0.1", s.http_port), 5)
        slow.sendall(b"GET /rea")
        s.process.send_signal(signal.SIGTERM)
        t.equal(s.wait(60), 0)
        hold.set()
        t.equal(answer.exception() is not None, True)
        slow.close()


@t.test("drain under load loses nothing that was acknowledged")
def _():
    with t.Server(cores=2, partitions=4) as s:
        done, stop = [], threading.Event()

        def create(k):
            c = s.new_client()
            while not stop.is_set():
                try:
                    done.append(c.call("CreateOrder", t.create_request(user_id="u%d" % k)).order.order_id)
                except t.Failure as f:
                    t.equal(f.code_name, "UNAVAILABLE")
                    break
            c.close()

        threads = [threading.Thread(target=create, args=(k,)) for k in range(8)]
        for x in threads:
            x.start()
        t.until(lambda: len(done) >= 200 or not all(x.is_alive() for x in threads), what="200 orders")
        t.equal(s.stop(), 0)
        stop.set()
        for x in threads:
            x.join()
        t.true(len(done) >= 200, "%d orders" % len(done))
        s.start()
        t.equal(sum(v for k, v in s.metrics().items() if k.startswith("orderdb_partition_orders")) >= len(done), True)
        for order_id in done[-200:]:
            t.equal(s.call("GetOrder", order_id=order_id).order_id, order_id)


@t.test("a second signal ends it at once")
def _():
    with t.Server(drain_timeout="5m") as s:
        hold, _answer = held_import(s)
        s.process.send_signal(signal.SIGTERM)
        t.until(lambda: s.http("/readyz")[0] == 503, what="it drains")
        s.process.send_signal(signal.SIGTERM)
        t.equal(s.wait(), -signal.SIGTERM)
        hold.set()


@t.test("one server a directory, one a port")
def _(server):
    refused("in use by another orderd", data_dir=server.data_dir)
    for cores in (1, 2):
        refused("address %s is in use" % server.address, listen=server.address, cores=cores)
    refused("address %s is in use" % server.http_address, http_listen=server.http_address)


@t.test("what is fixed at the first start is refused later, with both numbers")
def _():
    with t.Server(cores=2, partitions=4) as s:
        s.stop()
        refused("made with --cores 2 and that cannot be changed", data_dir=s.data_dir, cores=1, partitions=None)
        refused("not --partitions 8", data_dir=s.data_dir, cores=None, partitions=8)
        s.flags = {}
        s.start()
        t.equal("cores=2 partitions=4" in s.ready_line, True)


@t.test("a first start that is refused fixes nothing; an address that is none leaves no directory")
def _():
    with t.Server(start=False, cores=2, partitions=4, memory_budget="64MiB") as s:
        s.start(wait=False)
        t.equal(s.wait(), 1)
        t.equal(os.path.exists(os.path.join(s.data_dir, "NODE")), False)
        s.flags = {"cores": 1, "partitions": 1}
        s.start()
        t.equal("cores=1 partitions=1" in s.ready_line, True)
    with t.Server(start=False) as s:
        s.flags["http_listen"] = "nonsense"
        s.start(wait=False)
        t.equal(s.wait(), 1)
        t.equal("--http-listen: address 'nonsense' is not HOST:PORT" in s.log(), True)
        t.equal(os.path.exists(s.data_dir), False)


@t.test("settings: unknown, out of range, too small")
def _():
    refused("unknown flag '--kores'", code=2, kores=1)
    refused("cores is '1000'", code=2, cores=1000)
    refused("is too small: 1 cores and 2 partitions need at least", memory_budget="64MiB")
    refused("at least 4 segments", log_live_size="16MiB")
    with t.Server(start=False, cores=None, partitions=None) as s:
        path = os.path.join(s.directory, "conf")
        with open(path, "w") as f:
            f.write("# two lines\ncores = 1\npartitions = 3\nwhat = ever\n")
        s.flags["config"] = path
        s.start(wait=False)
        t.equal(s.wait(), 2)
        t.equal("conf:4: unknown setting 'what'" in s.log(), True)
        with open(path, "w") as f:
            f.write("cores = 1\npartitions = 3\n")
        s.start()
        t.equal("cores=1 partitions=3" in s.ready_line, True)


@t.test("damaged or foreign identity is refused by name")
def _():
    with t.Server() as s:
        s.stop()
        node = os.path.join(s.data_dir, "NODE")
        good = open(node, "rb").read()
        for at, text in ((50, "NODE is damaged"), (8, "NODE has format")):
            bad = bytearray(good)
            bad[at] ^= 64  # far from any format that there is
            open(node, "wb").write(bad)
            refused(text, data_dir=s.data_dir)
        os.remove(node)
        refused("holds logs but no NODE file", data_dir=s.data_dir)
        open(node, "wb").write(good)
        s.start()


@t.test("--help and --version")
def _():
    orderd = os.path.join(t.BUILD, "orderd")
    text = subprocess.run([orderd, "--help"], capture_output=True, text=True, check=True).stdout
    for flag in ("--data-dir", "--listen", "--peer-listen", "--http-listen", "--cores", "--partitions", "--memory-budget", "--config", "--log-level", "--version"):
        t.equal(flag in text, True)
    for flag in ("--help", "--version"):
        with open("/dev/full", "w") as full:
            p = subprocess.run([orderd, flag], stdout=full, stderr=subprocess.PIPE, text=True)
        t.equal((p.returncode, p.stderr), (1, "orderd: cannot write the output: No space left on device\n"))
    text = subprocess.run([orderd, "--version"], capture_output=True, text=True, check=True).stdout
    t.equal(all(x in text for x in ("orderd ", "nghttp2 1.", "OpenSSL")), True)


@t.test("files are the owner's alone")
def _(server):
    for root, dirs, files in os.walk(server.data_dir):
        for name in dirs + files:
            t.equal(os.stat(os.path.join(root, name)).st_mode & 0o077, 0)


if __name__ == "__main__":
    t.run()
