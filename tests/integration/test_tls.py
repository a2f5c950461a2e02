#!/usr/bin/python3
"""TLS on the clients' port, with stock grpcio and with Python's ssl for what grpcio would never do: versions, ALPN, certificates, reload, hostile handshakes."""
import concurrent.futures
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import warnings

import grpc

import orderdb_test as t
from orderdb_test import equal, true

warnings.simplefilter("ignore", DeprecationWarning)  # old versions of TLS are asked for to be refused
CERTS = os.path.join(t.TEMP, "certs")
os.makedirs(CERTS)
subprocess.run([os.path.join(t.ROOT, "tests/lib/certs.sh"), CERTS], check=True)


def path(name):
    return os.path.join(CERTS, name)


def read(name):
    with open(path(name), "rb") as f:
        return f.read()


def credentials(ca="ca.pem", cert=None):
    return grpc.ssl_channel_credentials(read(ca), read(cert + ".key") if cert else None, read(cert + ".pem") if cert else None)


def server(**flags):
    return t.Server(**{"tls_cert": path("server.pem"), "tls_key": path("server.key"), "cores": 2, "partitions": 4, **flags})


def client(s, ca="ca.pem", cert=None, **more):
    return t.Client(s.address, credentials=credentials(ca, cert), **more)


def refused(c):
    try:
        c.call("GetOrder", order_id=1, timeout=5)
    except t.Failure as f:
        equal(f.code_name, "UNAVAILABLE")
        return
    finally:
        c.close()
    raise AssertionError("it was not refused")


def context(version_min=None, version_max=None, alpn=("h2",), cert=None):
    c = ssl.create_default_context(cafile=path("ca.pem"))
    c.set_ciphers("ALL:@SECLEVEL=0")
    if alpn:
        c.set_alpn_protocols(list(alpn))
    if version_min:
        c.minimum_version = version_min
    if version_max:
        c.maximum_version = version_max
    if cert:
        c.load_cert_chain(path(cert + ".pem"), path(cert + ".key"))
    return c


def connect(s, c):
    raw = socket.create_connection(("127.0.0.1", s.port), timeout=10 * t.SLOW)
    return c.wrap_socket(raw, server_hostname="localhost")


def handshake_fails(s, c, *reasons):
    try:
        connection = connect(s, c)
        connection.recv(1)  # with TLS 1.3 the refusal comes behind our Finished
    except (ssl.SSLError, ConnectionError) as e:
        true(any(r in str(e) for r in reasons), "%s, expected one of %s" % (e, reasons))
        return
    raise AssertionError("the handshake succeeded")


@t.test("calls of all kinds over TLS, also large ones")
def _():
    with server() as s:
        c = client(s)
        order = c.call("CreateOrder", t.create_request(user_id="tls-1")).order
        equal(c.call("GetOrder", order_id=order.order_id).order_id, order.order_id)
        big = t.order(user_id="tls-2", item_count=500, attributes={"k%d" % i: "v" * 900 for i in range(60)})
        for item in big.items:
            item.title = "t" * 512
        big_id = c.call("CreateOrder", t.create_request(big)).order.order_id
        equal(c.call("GetOrder", order_id=big_id).items, big.items)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            ids = list(pool.map(lambda i: c.call("CreateOrder", t.create_request(user_id="tls-%d" % i)).order.order_id, range(300)))
        equal(len(set(ids)), 300)
        clients = [client(s) for _ in range(30)]
        for i, one in enumerate(clients):
            true(one.call("ListOrders", user_id="tls-%d" % i).total_size >= 1)
            one.close()
        true(s.metrics().get("orderdb_tls_handshakes_total") >= 31, "handshakes are counted")
        c.close()
        equal(s.stop(), 0)


@t.test("a client with the wrong CA, or cleartext, gets nowhere; the server goes on")
def _():
    with server() as s:
        refused(client(s, ca="other-ca.pem"))
        refused(t.Client(s.address))
        t.until(lambda: s.metrics().get("orderdb_tls_handshakes_failed_total") >= 2, what="failures are counted")
        c = client(s)
        c.call("CreateOrder", t.create_request(user_id="tls-3"))
        c.close()


@t.test("versions, ALPN, suites")
def _():
    with server() as s:
        v = ssl.TLSVersion
        for version, name in ((v.TLSv1_2, "TLSv1.2"), (v.TLSv1_3, "TLSv1.3")):
            connection = connect(s, context(version, version))
            equal((connection.version(), connection.selected_alpn_protocol(), connection.compression()), (name, "h2", None))
            true("GCM" in connection.cipher()[0] or "CHACHA20" in connection.cipher()[0], str(connection.cipher()))
            connection.close()
            handshake_fails(s, context(version, version, alpn=("http/1.1",)), "no application protocol", "NO_APPLICATION_PROTOCOL")
            handshake_fails(s, context(version, version, alpn=None), "no application protocol", "NO_APPLICATION_PROTOCOL")
        handshake_fails(s, context(v.TLSv1, v.TLSv1_1), "PROTOCOL_VERSION", "protocol version", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS")
        weak = context(v.TLSv1_2, v.TLSv1_2)
        weak.set_ciphers("ECDHE-ECDSA-AES128-SHA256:AES128-GCM-SHA256:@SECLEVEL=0")
        handshake_fails(s, weak, "HANDSHAKE_FAILURE", "handshake failure")
        text = subprocess.run(["openssl", "s_client", "-connect", s.address, "-CAfile", path("ca.pem"), "-alpn", "h2", "-tls1_3"], input=b"", capture_output=True, timeout=30)
        true(b"No early data" in text.stdout or b"Early data was not sent" in text.stdout, "early data: %s" % text.stdout[-300:])
        true(b"New Session Ticket" not in text.stdout, "a ticket was sent")


@t.test("mutual TLS: required, wrong, taken")
def _():
    with server(tls_client_ca=path("ca.pem")) as s:
        refused(client(s))
        refused(client(s, cert="other"))
        c = client(s, cert="client")
        c.call("CreateOrder", t.create_request(user_id="tls-4"))
        c.close()
    with server(tls_client_ca=path("ca.pem"), tls_require_client_cert="no", log_level="debug") as s:
        refused(client(s, cert="other"))
        for cert in (None, "client"):
            c = client(s, cert=cert)
            c.call("CreateOrder", t.create_request(user_id="tls-4"))
            c.close()
        true("subject=CN=app-1,O=shop" in s.log(), "the subject is known")


@t.test("a limit by principal: who showed a certificate has a bucket of his own, over all his connections; who showed none shares another")
def _():
    with server(tls_client_ca=path("ca.pem"), tls_require_client_cert="no") as s:
        app, other, nobody = client(s, cert="client"), client(s, cert="client"), client(s)
        limit = t.admin_pb2.RateLimit(name="caller", scope="principal", method="OrderService/ListOrders", per_second=0.001, burst=3)
        app.call("ApplyResource", resource=t.admin_pb2.Resource(limit=limit))

        def served(c, times):
            """How many of so many calls were served; the rest names the limit."""
            n = 0
            for _ in range(times):
                try:
                    c.call("ListOrders", user_id="tls-5")
                    n += 1
                except t.Failure as f:
                    equal((f.code_name, f.reason, f.metadata["limit"], f.metadata["scope"]), ("RESOURCE_EXHAUSTED", "RATE_LIMITED", "caller", "principal"))
            return n
        t.until(lambda: served(nobody, 1) == 0, what="the limit is there, and whoever showed nothing has used it up")
        equal(served(app, 2), 2)
        equal(served(other, 5), 1, "the same subject on another connection")
        equal(served(app, 3), 0)
        equal(served(nobody, 3), 0)
        app.call("GetTopology")  # operators get in
        for c in (app, other, nobody):
            c.close()


@t.test("SIGHUP: new connections get the new certificate, old ones go on; a bad file changes nothing and is logged")
def _():
    shutil.copy(path("server.pem"), path("live.pem")), shutil.copy(path("server.key"), path("live.key"))
    with server(tls_cert=path("live.pem"), tls_key=path("live.key")) as s:
        def subject():
            connection = connect(s, context())
            name = dict(x[0] for x in connection.getpeercert()["subject"])["commonName"]
            connection.close()
            return name
        old = client(s)
        old.call("CreateOrder", t.create_request(user_id="tls-5"))
        equal(subject(), "server-1")
        stop, errors = threading.Event(), []

        def work():
            while not stop.is_set():
                try:
                    old.call("CreateOrder", t.create_request(user_id="tls-5"))
                except t.Failure as f:
                    errors.append(f)
        worker = threading.Thread(target=work)
        worker.start()
        shutil.copy(path("server2.pem"), path("live.pem"))
        s.process.send_signal(signal.SIGHUP)
        t.until(lambda: "reload refused" in s.log(), what="the refusal in the log")
        true("live.key" in s.log(), "it names the file")
        equal(subject(), "server-1")
        shutil.copy(path("server2.key"), path("live.key"))
        s.process.send_signal(signal.SIGHUP)
        t.until(lambda: subject() == "server-2", what="the new certificate")
        for _ in range(20):
            s.process.send_signal(signal.SIGHUP)
            equal(subject(), "server-2")
        stop.set()
        worker.join()
        equal(errors, [])
        handshakes = s.metrics().get("orderdb_tls_handshakes_total")
        old.call("CreateOrder", t.create_request(user_id="tls-5"))
        equal(s.metrics().get("orderdb_tls_handshakes_total"), handshakes, "the old connection was not made again")
        old.close()
        equal(s.stop(), 0)


@t.test("a start with wrong files is refused with the file's name")
def _():
    for flags, word in (({"tls_cert": path("nothing.pem")}, "nothing.pem"), ({"tls_key": path("client.key")}, "client.key"), ({"tls_key": None}, "key is missing"),
                        ({"tls_cert": None, "tls_key": None, "tls_client_ca": path("ca.pem")}, "certificate is missing"),
                        ({"tls_client_ca": path("nothing.pem")}, "nothing.pem")):
        s = server(start=False, **flags)
        s.start(wait=False)
        equal(s.process.wait(30), 1)
        true(word in s.log(), "%s in %s" % (word, s.log_tail(3)))


@t.test("half-open handshakes: bounded, and gone after 5 s; garbage and cut handshakes; honest clients go on")
def _():
    with server(tls_handshakes_max=20, first_request_timeout="30s") as s:
        honest = client(s)
        honest.call("CreateOrder", t.create_request(user_id="tls-6"))
        idle = [socket.create_connection(("127.0.0.1", s.port)) for _ in range(60)]
        t.until(lambda: s.metrics().get("orderdb_connections_refused_total") >= 30, what="what is beyond the limit is closed")
        honest.call("CreateOrder", t.create_request(user_id="tls-6"))
        t.until(lambda: s.metrics().get("orderdb_connections") == 1, what="half-open handshakes are closed")
        for one in idle:
            one.close()
        for i in range(60):
            with socket.create_connection(("127.0.0.1", s.port)) as one:
                one.sendall([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", os.urandom(300), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(i * 7), b""][i % 4])
        t.until(lambda: s.metrics().get("orderdb_connections") == 1, what="garbage is closed")
        honest.call("CreateOrder", t.create_request(user_id="tls-6"))
        c = client(s)
        c.call("CreateOrder", t.create_request(user_id="tls-6"))
        c.close(), honest.close()
        equal(s.stop(), 0)


@t.test("renegotiation is refused; the end of a connection is told (close_notify)")
def _():
    with server() as s:
        p = subprocess.run(["openssl", "s_client", "-connect", s.address, "-CAfile", path("ca.pem"), "-alpn", "h2", "-tls1_2"], input=b"R\n", capture_output=True, timeout=30)
        true(b"no renegotiation" in p.stderr or b"RENEGOTIATING" in p.stdout + p.stderr, "it was tried: %s" % p.stderr[-300:])
        c = client(s)
        c.call("CreateOrder", t.create_request(user_id="tls-7"))
        connection = connect(s, context())
        connection.suppress_ragged_eofs = False
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\10\7\0\0\0\0\0" + b"\0" * 8)  # preface, SETTINGS, GOAWAY
        while connection.recv(4096):
            pass  # a cut would be an SSLEOFError
        c.close()


# ---- our own client
def orderctl(s, *arguments, **env):
    return subprocess.run([os.path.join(t.BUILD, "orderctl"), *arguments], env=dict(os.environ, ORDERDB_SERVER=s.address, **env), capture_output=True, text=True,
                          timeout=60 * t.SLOW)


def told(p, code, *words):
    true(p.returncode == code and all(w in p.stdout + p.stderr for w in words), "exit %d, expected %d and %s\n%s%s" % (p.returncode, code, words, p.stdout, p.stderr))


UMBRELLA = ("order", "create", "--user", "tls-8", "--currency", "CNY", "--item", "sku=u1,title=Umbrella,qty=2,price=19.99")


@t.test("orderctl: flags, environment, what is refused and how it is told")
def _():
    with server() as s:
        told(orderctl(s, *UMBRELLA, "--tls-ca", path("ca.pem")), 0, "PENDING_PAYMENT")
        told(orderctl(s, "order", "list", "tls-8", ORDERDB_TLS_CA=path("ca.pem")), 0, "PENDING_PAYMENT")
        told(orderctl(s, "status", "--tls-server-name", "localhost", ORDERDB_TLS_CA=path("ca.pem")), 0)
        long = ("--timeout", "1000")  # a refusal at the handshake is told at once: orderctl() above does not wait so long
        told(orderctl(s, "status", *long, "--tls-ca", path("other-ca.pem")), 3, "UNAVAILABLE", "certificate verify failed")
        told(orderctl(s, "status", *long, "--tls"), 3, "certificate verify failed")
        told(orderctl(s, "status", *long, "--tls-server-name", "elsewhere", ORDERDB_TLS_CA=path("ca.pem")), 3, "hostname mismatch")
        told(orderctl(s, "status"), 3, "UNAVAILABLE")  # cleartext
        told(orderctl(s, "status", "--tls-ca", path("nothing.pem")), 2, "nothing.pem")
        told(orderctl(s, "status", "--tls-cert", path("client.pem")), 2, "key is missing")
    with t.Server() as s:
        told(orderctl(s, "status", "--timeout", "3", ORDERDB_TLS_CA=path("ca.pem")), 3, "UNAVAILABLE")  # TLS to cleartext


@t.test("orderctl: mutual TLS")
def _():
    with server(tls_client_ca=path("ca.pem")) as s:
        long = ("--timeout", "1000")  # an alert that comes when the client is through with the handshake is told as soon as any other refusal
        told(orderctl(s, "status", *long, ORDERDB_TLS_CA=path("ca.pem")), 3, "certificate required")
        env = {"ORDERDB_TLS_CA": path("ca.pem"), "ORDERDB_TLS_CERT": path("client.pem"), "ORDERDB_TLS_KEY": path("client.key")}
        told(orderctl(s, *UMBRELLA, **env), 0)
        told(orderctl(s, "status", "--tls-cert", path("other.pem"), "--tls-key", path("other.key"), *long, ORDERDB_TLS_CA=path("ca.pem")), 3, "TLS")


@t.test("the C client under load: many connections, calls, a reload and a restart on the way")
def _():
    shutil.copy(path("server.pem"), path("live.pem")), shutil.copy(path("server.key"), path("live.key"))
    with server(tls_cert=path("live.pem"), tls_key=path("live.key"), queue_target="5s") as s:  # nothing is shed, however slow the disk is
        load = [os.path.join(t.BUILD, "bench/load"), "--server", s.address, "--tls-ca", path("ca.pem"), "--connections", "8", "--inflight", "16"]
        p = subprocess.run([*load, "--orders", "4000"], capture_output=True, text=True, timeout=60 * t.SLOW)
        told(p, 0)
        p = subprocess.Popen([*load, "--seconds", "5", "--reconnect"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        time.sleep(1)
        s.process.send_signal(signal.SIGHUP)
        time.sleep(1)
        equal(s.stop(), 0)
        s.start()
        out = p.communicate(timeout=60 * t.SLOW)[0]
        equal(p.returncode, 0, out)
        c = client(s)
        true(sum(x.orders for x in c.call("GetTopology").partitions) > 4000)
        c.close()


if __name__ == "__main__":
    t.run(server=False)
