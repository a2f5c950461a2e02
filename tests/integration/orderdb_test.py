"""What the integration tests share: a server of their own, a stock gRPC client, decoded errors, TAP lines.

    import orderdb_test as t

    @t.test("create answers PENDING_PAYMENT")
    def _(server):
        order = server.call("CreateOrder", t.create_request(user_id="u1")).order
        t.equal(order.status, "PENDING_PAYMENT")

    if __name__ == "__main__":
        t.run()                 # one server for all tests; or t.run(server=False) and t.Server() by hand

A test takes the shared server, or nothing. Every server runs on ports of its own, in a directory of its own under the system's
temporary one (ORDERDB_TEST_DIR: under that), both gone at the end whatever happened. The build directory is argv[1] or $BUILD or "build".
Only Debian's python3-grpcio and python3-protobuf are needed; message classes come from protoc at the start.
"""
import argparse
import atexit
import datetime
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import traceback
import urllib.request
import uuid

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# A channel whose calls fail at once, because it is not connected, has no thread that looks at its sockets but this one: by default every 5 s, so that a client sees a server that is back only 10 to 20 s later.
os.environ.setdefault("GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS", "20")
os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
import grpc  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, sys.argv[1] if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else os.environ.get("BUILD", "build"))
# Sanitizer builds are some times slower: what waits, waits longer.
SLOW = 4 if re.search(r"-(asan|tsan)$", BUILD) else 1



def options(text, **flags):
    """The command line of a load or a measurement: BUILD, and flags=(default, help). A default of False is a switch. --help is text, folded, and these."""
    global BUILD, SLOW
    folded = "\n".join(textwrap.fill(line, 79, subsequent_indent=" " * 12 if line.startswith(" ") else "") for line in text.splitlines())
    p = argparse.ArgumentParser(description=folded, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("build", nargs="?", default=BUILD, metavar="BUILD", help="the directory of the built programs (default: build)")
    for name, (default, about) in flags.items():
        about = about.replace("%", "%%")
        if default is False:
            p.add_argument("--" + name.replace("_", "-"), action="store_true", help=about)
        else:
            p.add_argument("--" + name.replace("_", "-"), type=type(default), default=default, metavar={int: "N", float: "N", str: "WORDS"}[type(default)], help="%s (default: %s)" % (about, "none" if default == "" else default))
    found = p.parse_args()
    BUILD = os.path.join(ROOT, found.build)
    SLOW = 4 if re.search(r"-(asan|tsan)$", BUILD) else 1
    return found


# A test's --help is what it says of itself; before anything is made for it.
if os.path.basename(sys.argv[0]).startswith("test_") and {"-h", "--help"} & set(sys.argv[1:]):
    print(sys.modules["__main__"].__doc__, "\n\nPARTS OF NAMES behind BUILD: only tests whose names have one of them.", sep="")
    sys.exit(0)

_base = os.environ.get("ORDERDB_TEST_DIR")
TEMP = tempfile.mkdtemp(prefix="orderdb-test-", dir=_base)
_servers = []
_reports = []  # lines that sanitizers wrote into the logs of servers


@atexit.register
def _clean():
    for s in list(_servers):
        s.kill()
    if not os.environ.get("ORDERDB_TEST_KEEP"):
        shutil.rmtree(TEMP, ignore_errors=True)


def _terminated(_signal, _frame):
    sys.exit(143)  # atexit runs: no server is left behind


signal.signal(signal.SIGTERM, _terminated)


# ---- message classes
def _generate():
    out = os.path.join(TEMP, "pb2")
    os.makedirs(out)
    protos = ["google/rpc/error_details.proto", "google/rpc/status.proto",
              "orderdb/v1/order.proto", "orderdb/v1/stream.proto", "orderdb/v1/admin.proto"]
    subprocess.run(["protoc", "-I" + os.path.join(ROOT, "proto"), "-I/usr/include", "--python_out=" + out, *protos], check=True, cwd=os.path.join(ROOT, "proto"))
    sys.path.insert(0, out)
    import google
    google.__path__ = list(google.__path__) + [os.path.join(out, "google")]


_generate()
from google.protobuf import json_format, timestamp_pb2  # noqa: E402,F401
from google.rpc import error_details_pb2, status_pb2  # noqa: E402
from orderdb.v1 import admin_pb2, order_pb2 as pb, stream_pb2  # noqa: E402


class Method:
    """One row of proto/methods.tbl, with its message classes."""

    def __init__(self, service, name, kind, handler):
        files = {"OrderService": pb, "StreamService": stream_pb2, "AdminService": admin_pb2}
        d = files[service].DESCRIPTOR.services_by_name[service].methods_by_name[name]
        self.service, self.name, self.kind, self.handler = service, name, kind, handler
        self.path = "/orderdb.v1.%s/%s" % (service, name)
        self.request, self.response = d.input_type._concrete_class, d.output_type._concrete_class
        self.built = handler != "serve_not_built_yet"


def _methods():
    rows = re.findall(r"^METHOD\((\w+), (\w+), (\w+), (\w+)\)", open(os.path.join(ROOT, "proto/methods.tbl")).read(), re.M)
    return {name: Method(service, name, kind, handler) for service, name, kind, handler in rows}


METHODS = _methods()


# ---- errors
class Failure(Exception):
    """A call that was refused, with what grpc-status-details-bin says."""

    def __init__(self, error):
        self.code = error.code()
        self.code_name = self.code.name
        self.message = error.details()
        self.reason, self.domain, self.metadata, self.violations, self.retry_delay_s = "", "", {}, [], None
        self.status = None
        trailers = [(k, v) for k, v in (error.trailing_metadata() or ())]
        self.trailers = dict(trailers)
        raw = self.trailers.get("grpc-status-details-bin")
        if raw:
            self.status = status_pb2.Status.FromString(raw)
            self._details()
        super().__init__("%s %s: %s %s %s" % (self.code_name, self.reason, self.message, self.metadata or "", self.violations or ""))

    def _details(self):
        for any_ in self.status.details:
            kind = any_.type_url.rsplit("/", 1)[-1]
            if kind == "google.rpc.ErrorInfo":
                info = error_details_pb2.ErrorInfo.FromString(any_.value)
                self.reason, self.domain, self.metadata = info.reason, info.domain, dict(info.metadata)
            elif kind == "google.rpc.BadRequest":
                self.violations = [(v.field, v.description) for v in error_details_pb2.BadRequest.FromString(any_.value).field_violations]
            elif kind == "google.rpc.RetryInfo":
                d = error_details_pb2.RetryInfo.FromString(any_.value).retry_delay
                self.retry_delay_s = d.seconds + d.nanos / 1e9


def status_reason(status):
    """(code name, reason, fields) of a google.rpc.Status inside an answer."""
    code = next(c.name for c in grpc.StatusCode if c.value[0] == status.code)
    info = [error_details_pb2.ErrorInfo.FromString(d.value) for d in status.details if d.type_url.endswith("ErrorInfo")]
    bad = [error_details_pb2.BadRequest.FromString(d.value) for d in status.details if d.type_url.endswith("BadRequest")]
    return code, info[0].reason if info else "", [v.field for b in bad for v in b.field_violations]


def resent(send, wait_s):
    """A call as every client makes it: what is refused for overload, which changed nothing, is sent again after the delay that the server asks for. Logs are small in tests, and flushes take their time on a busy disk."""
    end = time.monotonic() + wait_s
    while True:
        try:
            return send()
        except grpc.RpcError as e:
            f = Failure(e)
            if f.reason != "OVERLOADED" or not f.retry_delay_s or time.monotonic() + f.retry_delay_s > end:
                raise
            time.sleep(f.retry_delay_s)


class Client:
    """A channel of stock grpcio. call() raises Failure."""

    def __init__(self, address, options=(), credentials=None):
        base = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0),
                ("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
        options = base + list(options)
        self.channel = grpc.secure_channel(address, credentials, options=options) if credentials else grpc.insecure_channel(address, options=options)

    def stub(self, method):
        m = METHODS[method] if isinstance(method, str) else method
        make = {"UNARY": self.channel.unary_unary, "CLIENT_STREAM": self.channel.stream_unary,
                "SERVER_STREAM": self.channel.unary_stream, "BIDI": self.channel.stream_stream}[m.kind]
        return make(m.path, request_serializer=m.request.SerializeToString, response_deserializer=m.response.FromString)

    def call(self, method, request=None, timeout=20, metadata=None, resend=True, **fields):
        """request: a message, an iterable of messages for a client stream, or nothing and fields=... Answers the message (a list for a server stream).
        resend=False: a unary call that is refused for overload is not sent again."""
        m = METHODS[method] if isinstance(method, str) else method
        if request is None:
            request = m.request(**fields)
            if m.kind in ("CLIENT_STREAM", "BIDI"):
                request = [request]
        try:
            if m.kind in ("CLIENT_STREAM", "BIDI"):
                request = iter(request)
            stub, seconds = self.stub(m), timeout * SLOW if timeout else None
            send = lambda: stub(request, timeout=seconds, metadata=metadata)
            answer = resent(send, seconds or 20 * SLOW) if resend and m.kind == "UNARY" else send()
            return list(answer) if m.kind in ("SERVER_STREAM", "BIDI") else answer
        except grpc.RpcError as e:
            raise Failure(e) from None

    def close(self):
        self.channel.close()


# ---- the server
_claims = []  # sockets whose names are ours


def _own_ports():
    """Of this process alone, whatever else runs: below those that the kernel gives to who connects, in blocks of a hundred. A block's name, in the abstract space of Unix sockets, is held until the process ends."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as f:
        blocks = list(range(10000, int(f.read().split()[0]) - 99, 100))
    at = os.getpid() % len(blocks) if blocks else 0
    for first in blocks[at:] + blocks[:at]:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind("\0orderdb-test-ports-%d" % first)
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        yield from range(first, first + 100)
    given = set()
    while True:  # a machine that gives nearly all of them to who connects
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        if port not in given:
            given.add(port)
            yield port


_ports = _own_ports()


def free_port():
    """A port that nobody listens on now, and nobody else's test will: never the same twice."""
    while True:
        port = next(_ports)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def cpu_s(pid):
    """What a process has used so far, all threads, user and system."""
    with open("/proc/%d/stat" % pid) as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Server:
    """One orderd. Flags as keyword arguments: Server(cores=2, memory_budget="600MiB"). Stopped and started again it keeps directory and ports."""

    def __init__(self, data_dir=None, start=True, env=None, wait_s=60, program=None, prefix=(), **flags):
        self.directory = tempfile.mkdtemp(prefix="server-", dir=TEMP)
        self.data_dir = data_dir or os.path.join(self.directory, "data")
        self.log_file = os.path.join(self.directory, "log")
        self.port, self.peer_port, self.http_port = free_port(), free_port(), free_port()
        self.address, self.http_address = "127.0.0.1:%d" % self.port, "127.0.0.1:%d" % self.http_port
        base = {"cores": 1, "partitions": 2}
        if SLOW > 1:
            base["queue_target"] = "5s"  # a slow build is not overloaded: its writes wait
        self.flags, self.env, self.wait_s = dict(base, **flags), env, wait_s
        self.program, self.prefix = program or os.path.join(BUILD, "orderd"), list(prefix)
        self.process, self.ready_line, self.ready_after_s, self._client = None, None, None, None
        _servers.append(self)
        if start:
            self.start()

    def arguments(self):
        flags = {"data_dir": self.data_dir, "listen": self.address, "peer_listen": "127.0.0.1:%d" % self.peer_port,
                 "http_listen": self.http_address, **self.flags}
        return self.prefix + [self.program] + [a for k, v in flags.items() if v is not None for a in ("--" + k.replace("_", "-"), str(v))]

    def start(self, wait=True):
        assert self.process is None, "it runs"
        self.started = time.monotonic()
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(self.arguments(), stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL,
                                            env=dict(os.environ, **(self.env or {})), cwd=self.directory)
        self._ready = threading.Event()
        self.ready_line = None
        threading.Thread(target=self._read, args=(self.process, self._ready), daemon=True).start()
        if wait:
            self.wait_ready()
        return self

    def _read(self, process, ready):
        with open(os.path.join(self.directory, "stdout"), "ab") as out:
            for line in process.stdout:
                out.write(line)
                out.flush()
                if line.startswith(b"ready") and self.process is process:
                    self.ready_line, self.ready_after_s = line.decode().strip(), time.monotonic() - self.started
                    ready.set()
        ready.set()  # it ended

    def wait_ready(self, wait_s=None):
        if not self._ready.wait((wait_s or self.wait_s) * SLOW) or not self.ready_line:
            code = self.process.poll()
            raise AssertionError("no line 'ready' (%s)\n%s" % ("it runs" if code is None else "exit %s" % code, self.log_tail()))

    def running(self):
        return self.process is not None and self.process.poll() is None

    def log(self):
        with open(self.log_file, errors="replace") as f:
            return f.read()

    def log_tail(self, lines=30):
        return "\n".join("    | " + line for line in self.log().splitlines()[-lines:])

    def reports(self):
        """What a sanitizer or a failed check has said, if one has: a test need not have noticed it."""
        lines = self.log().splitlines() if os.path.exists(self.log_file) else []
        first = next((i for i, line in enumerate(lines) if re.search(r"\w+Sanitizer: |runtime error: |check failed: ", line)), len(lines))
        return lines[first:first + 60]

    def _gone(self):
        code, self.process = self.process.returncode, None
        if self._client:
            self._client.close()
            self._client = None
        return code

    def stop(self, wait_s=60):
        """SIGTERM; answers the exit code. Longer than wait_s is a failure."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(wait_s * SLOW)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("SIGTERM did not end it within %d s\n%s" % (wait_s * SLOW, self.log_tail())) from None
        return self._gone()

    def kill(self):
        """SIGKILL."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        return self._gone()

    def wait(self, wait_s=60):
        """For a process that ends by itself: its exit code."""
        self.process.wait(wait_s * SLOW)
        return self._gone()

    def restart(self):
        self.stop()
        return self.start()

    def remove(self):
        self.kill()
        _servers.remove(self)
        _reports.extend(self.reports())
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()

    @property
    def pid(self):
        return self.process.pid

    @property
    def client(self):
        if self._client is None:
            self._client = Client(self.address)
        return self._client

    def new_client(self, options=()):
        return Client(self.address, options)

    def call(self, method, request=None, **more):
        return self.client.call(method, request, **more)

    def http(self, path, timeout=5):
        """(status, body) of the operations port."""
        try:
            with urllib.request.urlopen("http://%s%s" % (self.http_address, path), timeout=timeout * SLOW) as r:
                return r.status, r.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()

    def metrics(self):
        """{'name{labels}': value}"""
        rows = (line.rsplit(" ", 1) for line in self.http("/metrics")[1].splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in rows}

    def rss_bytes(self):
        with open("/proc/%d/status" % self.pid) as f:
            return int(re.search(r"VmRSS:\s+(\d+) kB", f.read()).group(1)) * 1024

    def cpu_s(self):
        return cpu_s(self.pid)

    def orderctl(self, *arguments, check=True, input=None, timeout=60):
        """Runs orderctl against this server; answers CompletedProcess with text."""
        p = subprocess.run([os.path.join(BUILD, "orderctl"), *map(str, arguments)], env=dict(os.environ, ORDERDB_SERVER=self.address), input=input,
                           capture_output=True, text=True, timeout=timeout * SLOW, cwd=ROOT)
        if check and p.returncode != 0:
            raise AssertionError("orderctl %s: exit %d\n%s%s" % (" ".join(map(str, arguments)), p.returncode, p.stdout, p.stderr))
        return p

    def orderctl_json(self, *arguments, **more):
        return json.loads(self.orderctl("-o", "json", *arguments, **more).stdout)


# ---- requests
_numbers = itertools.count(1)
_run = uuid.uuid4().hex[:8]


def request_id():
    return "test-%s-%012d" % (_run, next(_numbers))


def money(minor_units, currency="CNY"):
    return pb.Money(currency_code=currency, minor_units=minor_units)


def timestamp(seconds):
    return timestamp_pb2.Timestamp(seconds=int(seconds), nanos=int(round(seconds % 1 * 1e6)) * 1000)


def seconds_of(ts):
    return ts.seconds + ts.nanos / 1e9


def utc(text):
    """'2026-01-31 10:00:00' as Unix seconds"""
    return datetime.datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=datetime.timezone.utc).timestamp()


def order(user_id="user-1", item_count=1, price=1999, quantity=2, freight=500, discount=0, currency="CNY", **fields):
    """An order whose sums add up."""
    items = [pb.OrderItem(sku_id="sku-%d" % i, title="item %d" % i, quantity=quantity, unit_price=money(price, currency)) for i in range(item_count)]
    total = item_count * price * quantity
    return pb.Order(user_id=user_id, merchant_id="m-1", items=items, items_total=money(total, currency), freight=money(freight, currency),
                    discount_total=money(discount, currency), payable=money(total + freight - discount, currency), **fields)


def create_request(order_=None, id_=None, **fields):
    return pb.CreateOrderRequest(order=order_ or order(**fields), options=pb.WriteOptions(request_id=id_ or request_id()))


def transition_request(order_id, event, id_=None, operator="", reason="", **fields):
    return pb.TransitionOrderRequest(order_id=order_id, event=event, options=pb.WriteOptions(request_id=id_ or request_id(), operator=operator, reason=reason), **fields)


def import_untold(server, user, count, history=()):
    """Orders of another system that the change stream is not told of; their ids."""
    server.import_count = getattr(server, "import_count", 0) + count
    numbers = ["untold-%d" % (server.import_count - i) for i in range(count)]
    past = [pb.HistoryEntry(event=event, to_status=status, time=timestamp(1.5e9 + i)) for i, (event, status) in enumerate([("import", "PENDING_PAYMENT"), *history])]
    answer = server.call("ImportOrders", [pb.ImportOrdersRequest(order=order(user_id=user, client_order_no=n), history=past, no_event=True) for n in numbers])
    equal((answer.imported, answer.already_there, answer.rejected_count), (count, 0, 0))
    ids = [o.order_id for o in server.call("ListOrders", user_id=user, page_size=1000).orders if o.client_order_no in numbers]
    equal(len(ids), count, "imported orders in their list")
    return ids


# ---- tests and TAP
class Skip(Exception):
    pass


_tests = []


def test(name):
    def register(function):
        _tests.append((name, function))
        return function
    return register


def skip(why):
    raise Skip(why)


def equal(got, expected, what=""):
    assert got == expected, "%s%r, expected %r" % (what + ": " if what else "", got, expected)


def true(condition, what=""):
    assert condition, what or "not true"


def refused(call, code, reason=None):
    """Runs call(); it must fail with this code (and reason). Answers the Failure."""
    try:
        answer = call()
    except Failure as f:
        assert f.code_name == code and (reason is None or f.reason == reason), "refused with %s, expected %s %s" % (f, code, reason)
        assert reason is None or f.domain == "orderdb", "domain %r" % f.domain
        return f
    raise AssertionError("answered, expected %s %s: %s" % (code, reason, str(answer)[:200]))


def until(condition, wait_s=60, what="condition", step_s=0.05):
    """Waits for condition() to be true; answers what it answered. wait_s is when it counts as a failure, and far beyond what a busy machine needs; the condition must stay true once it is."""
    end = time.monotonic() + wait_s * SLOW
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError("%s: not within %s s" % (what, wait_s * SLOW))
        time.sleep(step_s)


def run(server=True, **flags):
    """Runs the registered tests in their order, prints TAP, exits. flags: of the shared server."""
    only = [a for a in sys.argv[2:] if not a.startswith("-")]
    shared, bad = None, 0
    print("1..%d" % len(_tests), flush=True)
    for name, function in _tests:
        if only and not any(o in name for o in only):
            continue
        try:
            takes_server = function.__code__.co_argcount > 0
            if takes_server and server and (shared is None or not shared.running()):
                if shared:
                    shared.kill()
                    shared.start()
                else:
                    shared = Server(**flags)
            function(shared) if takes_server else function()
            print("ok %s" % name, flush=True)
        except Skip as e:
            print("skip %s: %s" % (name, e), flush=True)
        except BaseException as e:  # noqa: B902
            bad += 1
            print("not ok %s" % name, flush=True)
            text = str(e) if isinstance(e, (AssertionError, Failure)) else ""
            trace = traceback.extract_tb(e.__traceback__)
            place = next((f for f in trace if f.name == function.__name__), trace[-1])
            print("#   line %d: %s" % (place.lineno, place.line))
            for line in (text or traceback.format_exc()).splitlines()[:40]:
                print("#   " + line)
            if shared and not shared.running():
                print("#   the server has ended: exit %s\n%s" % (shared.process and shared.process.returncode, shared.log_tail()))
            sys.stdout.flush()
            if isinstance(e, (KeyboardInterrupt, SystemExit)):
                break
    if shared:
        try:
            code = shared.stop()
            if code not in (0, None):
                bad += 1
                print("not ok the shared server ends cleanly\n#   exit %s\n%s" % (code, shared.log_tail()))
        except AssertionError as e:
            bad += 1
            print("not ok the shared server ends cleanly\n#   %s" % e)
    for s in _servers:
        _reports.extend(s.reports())
    if _reports:
        bad += 1
        print("not ok the servers' logs are without a word of sanitizers or failed checks")
        print("\n".join("#   " + line for line in _reports[:100]))
    sys.stdout.flush()
    sys.exit(1 if bad else 0)
