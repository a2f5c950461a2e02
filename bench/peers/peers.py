"""The peers of `make bench`: each in a fresh directory on a real disk, on a unix socket of its own, durable before the answer; with its schema; stopped at the end.

Settings are those of a careful owner who has the machine for this: everything fits in memory, logs are large enough that no run waits for a checkpoint, and nothing is
given up of durability. Each peer is asked what it runs with, and what it says is in the table. While the population is made nobody waits for a disk."""
import glob
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import time

RUN_SECONDS_MAX = 600
HERE = os.path.dirname(os.path.abspath(__file__))


class PeerError(Exception):
    pass


def memory_bytes():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cache_mib():
    """A quarter of the machine's memory, at most 6 GiB: what PERFORMANCE.md gave each."""
    return min(6144, memory_bytes() // 4 // 2**20)


def output_of(command, **more):
    p = subprocess.run(command, capture_output=True, text=True, **more)
    if p.returncode:
        raise PeerError("%s: %s" % (" ".join(map(str, command[:3])), (p.stderr or p.stdout)[-1000:].strip()))
    return p.stdout


def figures_of(command):
    """A run of the generator. Refused calls make it end with 1; they are in its figures."""
    r = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=RUN_SECONDS_MAX)
    try:
        figures = json.loads(r.stdout)
    except ValueError:
        figures = {}
    if not figures.get("done") or r.stderr:
        raise PeerError("%s: exit %d, %s" % (" ".join(map(str, command[:3])), r.returncode, (r.stderr or r.stdout)[-1000:].strip()))
    return figures


def cpu_s(pids):
    """Of these and of their children that have ended."""
    total = 0
    for pid in pids:
        try:
            with open("/proc/%d/stat" % pid) as f:
                total += sum(int(x) for x in f.read().rsplit(")", 1)[1].split()[11:15])
        except (FileNotFoundError, ProcessLookupError):
            pass  # it is its parent's now
    return total / os.sysconf("SC_CLK_TCK")


def tree(pid):
    """A process and all that descend from it."""
    found = [pid]
    for one in found:
        for tasks in glob.glob("/proc/%d/task/*/children" % one):
            try:
                found += map(int, open(tasks).read().split())
            except OSError:
                pass  # it has ended
    return found


def busy_cores(seconds):
    """Of the machine, over so long."""
    def used():
        f = list(map(int, open("/proc/stat").readline().split()[1:9]))
        return sum(f) - f[3] - f[4]  # all but idle and iowait
    before = used()
    time.sleep(seconds)
    return (used() - before) / os.sysconf("SC_CLK_TCK") / seconds


class Peer:
    name = program = fsync = ""
    user = None            # who runs it when we are root and it must not be
    clients = [(16, 1), (64, 1), (128, 1)]

    def __init__(self, top, build):
        self.dir = os.path.join(top, self.program)
        self.driver = os.path.join(build, "bench/peers", self.program)
        self.process, self.version, self.indexes = None, "", True

    def missing(self):
        """What is not installed; "": all is there."""
        return "" if os.path.exists(self.driver) else self.driver

    def spawn(self, command):
        as_user = {}
        if self.user and os.getuid() == 0:
            account = pwd.getpwnam(self.user)
            as_user = {"user": self.user, "group": account.pw_gid, "extra_groups": []}
        log = open(os.path.join(self.dir, "log"), "ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.dir, **as_user)

    def make_dir(self):
        os.makedirs(self.dir)
        if self.user and os.getuid() == 0:
            shutil.chown(self.dir, self.user)

    def run_as(self, command):
        more = {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid, "extra_groups": []} if self.user and os.getuid() == 0 else {}
        return output_of(command, cwd=self.dir, **more)

    def wait_ready(self, seconds=60):
        end = time.monotonic() + seconds
        while True:
            try:
                return self.ask_alive()
            except PeerError as e:
                if self.process.poll() is not None or time.monotonic() > end:
                    tail = open(os.path.join(self.dir, "log"), errors="replace").read()[-2000:]
                    raise PeerError("%s did not start: %s\n%s" % (self.name, e, tail))
                time.sleep(0.2)

    def run(self, work, *arguments):
        return figures_of([self.driver, work, "--socket", self.socket(), "--server-pid", self.process.pid, *arguments])

    stop_signal = signal.SIGTERM

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def socket(self):
        return os.path.join(self.dir, "s")


class Postgres(Peer):
    name, program, user = "PostgreSQL", "postgres", "postgres"
    stop_signal = signal.SIGINT  # "fast"

    def binaries(self):
        """The newest version that is installed: Debian keeps each in a directory of its own."""
        base = "/usr/lib/postgresql"
        versions = [v for v in (os.listdir(base) if os.path.isdir(base) else []) if os.path.exists(os.path.join(base, v, "bin/initdb"))]
        return os.path.join(base, max(versions, key=float), "bin") if versions else None

    def missing(self):
        return super().missing() or ("" if self.binaries() else "postgresql")

    def start(self):
        self.make_dir()
        bin_, data = self.binaries(), os.path.join(self.dir, "data")
        self.run_as([os.path.join(bin_, "initdb"), "-D", data, "-U", "bench", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"])
        settings = {
            "listen_addresses": "", "unix_socket_directories": self.dir, "max_connections": "300", "fsync": "on", "synchronous_commit": "on", "wal_sync_method": "fdatasync",
            "full_page_writes": "on", "wal_compression": "lz4", "wal_level": "logical", "shared_buffers": "%dMB" % cache_mib(), "wal_buffers": "64MB", "max_wal_size": "24GB",
            "checkpoint_timeout": "30min", "commit_delay": "0", "jit": "off", "autovacuum": "on",
        }
        command = [os.path.join(bin_, "postgres"), "-D", data]
        for name, value in settings.items():
            command += ["-c", "%s=%s" % (name, value)]
        self.spawn(command)
        self.wait_ready()
        self.sql("CREATE DATABASE bench", "postgres")
        self.run_as(["psql", "-q", "-X", "-v", "ON_ERROR_STOP=1", "-h", self.dir, "-U", "bench", "-d", "bench", "-f", self.readable("postgres.sql")])
        self.version = self.sql("SHOW server_version").split()[0]

    def readable(self, name):
        """The tree may be closed to the peer's user."""
        path = os.path.join(self.dir, name)
        shutil.copy(os.path.join(HERE, name), path)
        os.chmod(path, 0o644)
        return path

    def socket(self):
        return self.dir

    def sql(self, text, database="bench"):
        return output_of(["psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h", self.dir, "-U", "bench", "-d", database, "-c", text]).strip()

    def ask_alive(self):
        self.sql("SELECT 1", "postgres")

    def relax(self):
        self.sql("ALTER ROLE bench SET synchronous_commit = off")

    def durable(self):
        self.sql("ALTER ROLE bench RESET synchronous_commit")
        self.sql("VACUUM ANALYZE")
        self.sql("CHECKPOINT")
        said = [self.sql("SHOW " + s) for s in ("fsync", "synchronous_commit", "wal_sync_method", "full_page_writes")]
        if said[0] != "on" or said[1] != "on":
            raise PeerError("PostgreSQL is not durable: %s" % said)
        self.fsync = "%s of the WAL, synchronous_commit=%s" % (said[2], said[1])

    def drop_indexes(self):
        self.sql("DROP INDEX orders_status")
        self.sql("DROP INDEX items_sku")
        self.sql("VACUUM ANALYZE")
        self.sql("CHECKPOINT")
        self.indexes = False

    def check(self):
        counts = [int(x) for x in self.sql("SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM idempotency), (SELECT count(*) FROM items), "
                                           "(SELECT count(*) FROM history), (SELECT count(*) FROM events)").split("|")]
        return rows_check(self.name, *counts)


def rows_check(name, orders, keys, items, history, events):
    if keys != orders or items != 3 * orders or history != events or history < orders:
        raise PeerError("%s did not do the work: %d orders, %d keys, %d items, %d history rows, %d events" % (name, orders, keys, items, history, events))
    return "%s: %s orders, %s transitions" % (name, f"{orders:,}", f"{history - orders:,}")


class MariaDB(Peer):
    name, program, user = "MariaDB", "mariadb", "mysql"

    def missing(self):
        return super().missing() or ("" if shutil.which("mariadbd", path=os.environ.get("PATH", "") + ":/usr/sbin") else "mariadb-server")

    def start(self):
        self.make_dir()
        data = os.path.join(self.dir, "data")
        self.run_as(["mariadb-install-db", "--no-defaults", "--datadir=" + data, "--auth-root-authentication-method=normal", "--skip-test-db"])
        self.spawn([shutil.which("mariadbd", path=os.environ.get("PATH", "") + ":/usr/sbin"), "--no-defaults", "--datadir=" + data, "--socket=" + self.socket(),
                    "--pid-file=" + os.path.join(self.dir, "pid"), "--skip-networking", "--max-connections=300", "--thread-cache-size=256", "--skip-log-bin", "--skip-name-resolve",
                    "--innodb-flush-log-at-trx-commit=1", "--innodb-flush-method=O_DIRECT", "--innodb-doublewrite=1", "--innodb-buffer-pool-size=%dM" % cache_mib(),
                    "--innodb-log-file-size=8G", "--transaction-isolation=READ-COMMITTED"])
        self.wait_ready()
        self.sql("CREATE DATABASE bench; CREATE USER bench@localhost IDENTIFIED BY ''; GRANT ALL ON *.* TO bench@localhost", "mysql")
        subprocess.run(self.client("bench"), stdin=open(os.path.join(HERE, "mariadb.sql")), check=True)
        self.version = self.sql("SELECT version()").split("-")[0]

    def client(self, database):
        return ["mariadb", "--no-defaults", "-N", "-B", "-u", "root", "--socket=" + self.socket(), database]

    def sql(self, text, database="bench"):
        return output_of(self.client(database) + ["-e", text]).strip()

    def ask_alive(self):
        self.sql("SELECT 1", "mysql")

    def relax(self):
        self.sql("SET GLOBAL innodb_flush_log_at_trx_commit = 0")

    def durable(self):
        self.sql("SET GLOBAL innodb_flush_log_at_trx_commit = 1; ANALYZE TABLE orders, items, history")
        said = self.sql("SELECT @@innodb_flush_log_at_trx_commit, @@innodb_flush_method, @@innodb_doublewrite").split("\t")
        if said[0] != "1":
            raise PeerError("MariaDB is not durable: %s" % said)
        self.fsync = "log synced at each commit (%s, flush_log_at_trx_commit=%s)" % (said[1], said[0])

    def drop_indexes(self):
        self.sql("ALTER TABLE orders DROP KEY orders_status; ALTER TABLE items DROP KEY items_sku")
        self.indexes = False

    def check(self):
        counts = [int(x) for x in self.sql("SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM idempotency), (SELECT count(*) FROM items), "
                                           "(SELECT count(*) FROM history), (SELECT count(*) FROM events)").split("\t")]
        return rows_check(self.name, *counts)


class Redis(Peer):
    name, program, user = "Redis", "redis", None
    clients = [(16, 1), (64, 1), (128, 1)]
    pipelined_clients = [(64, 4), (64, 16)]

    def missing(self):
        return super().missing() or ("" if shutil.which("redis-server") else "redis-server")

    def start(self):
        self.make_dir()
        # No rewrite of the file during a run: that is to its advantage, and so is that nothing is saved beside it.
        self.spawn(["redis-server", "--port", "0", "--unixsocket", self.socket(), "--dir", self.dir, "--appendonly", "yes", "--appendfsync", "always", "--save", "",
                    "--auto-aof-rewrite-percentage", "0", "--daemonize", "no"])
        self.wait_ready()
        for work in ("create", "transition"):
            sha = self.ask("SCRIPT", "LOAD", open(os.path.join(HERE, "redis_%s.lua" % work)).read())
            self.ask("SET", "bench:" + work, sha)
        self.ask("SET", "bench:indexes", "1")
        self.version = re.search(r"redis_version:(\S+)", self.ask("INFO", "server")).group(1)

    def ask(self, *words):
        said = output_of(["redis-cli", "-s", self.socket(), *words]).strip()
        if re.match(r"^(ERR|NOSCRIPT|MISCONF|Could not)", said):
            raise PeerError("redis: " + said)
        return said

    def ask_alive(self):
        self.ask("PING")

    def relax(self):
        self.ask("CONFIG", "SET", "appendfsync", "no")

    def durable(self):
        self.ask("CONFIG", "SET", "appendfsync", "always")
        said = self.ask("CONFIG", "GET", "appendfsync").split()[-1]
        if said != "always":
            raise PeerError("Redis is not durable: %s" % said)
        self.fsync = "fdatasync of the AOF before answers, appendfsync=" + said

    def drop_indexes(self):
        self.ask("SET", "bench:indexes", "0")
        self.indexes = False

    def check(self):
        orders, events = int(self.ask("GET", "order_ids")), int(self.ask("XLEN", "events"))
        history = sum(int(self.ask("LLEN", "history:%d" % i)) for i in (1, orders))
        if int(self.ask("LLEN", "items:%d" % orders)) != 3 or history < 2 or events < orders:
            raise PeerError("Redis did not do the work: %d orders, %d events" % (orders, events))
        return "%s: %s orders, %s transitions" % (self.name, f"{orders:,}", f"{events - orders:,}")


PEERS = {"pg": Postgres, "mariadb": MariaDB, "redis": Redis}
