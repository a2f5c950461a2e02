#!/usr/bin/python3
"""Disks that fail: full, failing syncs and writes, torn tails, flipped bits in log, votes and tables, files of another version. usage: test_faults.py BUILD [PART OF A NAME]"""
import glob
import os
import random
import shutil
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import faultrig
import orderdb_test as t
from ledger import Ledger, Stub

FAULTFS = os.path.join(t.BUILD, "tests/integration/faultfs")
FLAGS = dict(memory_budget="512MiB", partitions=2, cores=1)


def need_rig(fuse=False):
    if faultrig.unusable():
        t.skip(faultrig.unusable())
    if fuse and not os.path.exists("/dev/fuse"):
        t.skip("needs /dev/fuse")


def loaded(directory, seconds=0.7, seed=1):
    """A server that took some load and was killed; answers the ledger."""
    server = t.Server(directory, **FLAGS)
    ledger = Ledger(t.pb, users=10, seed=seed)
    for n in range(40):  # a slow machine takes longer for as much
        ledger.load(lambda: Stub(server.new_client()), seconds, workers=4, seed=seed + 1000 * n)
        if ledger.acknowledged > 50:
            break
    server.kill()
    assert ledger.acknowledged > 50, "void: too little was written"
    return ledger


def starts_with_all(directory, ledger):
    server = t.Server(directory, **FLAGS)
    stub = Stub(server.client)
    ledger.settle(stub)
    ledger.verify(stub, None, list(ledger.orders.values())[-100:])
    server.stop()


def refuses_to_start(directory, *words):
    """It must end by itself, with a reason that holds the words."""
    server = t.Server(directory, start=False, **FLAGS).start(wait=False)
    t.until(lambda: server.ready_line or not server.running(), what="an end or a start")
    if server.ready_line:
        server.kill()
        raise AssertionError("it started")
    code = server.wait(30)
    assert code not in (0, None), "exit %s" % code
    tail = server.log()
    for word in words:
        assert word in tail, "no %r in what it said:\n%s" % (word, server.log_tail())


def flip(path, offset, mask=0x10):
    with open(path, "r+b") as f:
        f.seek(offset)
        byte = f.read(1)[0]
        f.seek(offset)
        f.write(bytes([byte ^ mask]))


def newest_used_segment(directory):
    """(path, offset behind the last byte that is not zero)"""
    best = None
    for path in sorted(glob.glob(directory + "/core-0/log/*.seg")):
        data = open(path, "rb").read()
        used = len(data.rstrip(b"\0"))
        if used > 4096:
            best = (path, used)
    return best


# ---- full disk
@t.test("full disk: writes are refused, reads go on, room again without a restart")
def _():
    need_rig()
    rig = faultrig.PowerRig(t.BUILD, image_mib=700, tmpfs_mib=1500)
    try:
        server = t.Server(rig.mount + "/data", **FLAGS)
        stub = Stub(server.client)
        ledger = Ledger(t.pb, users=10, seed=7)
        ledger.load(lambda: Stub(server.new_client()), 0.7, workers=4, seed=7)
        filler = rig.mount + "/filler"
        fill_disk(filler)
        failure = t.until(lambda: refusal(server), what="a refusal for the full disk")
        assert failure.code_name == "RESOURCE_EXHAUSTED" and failure.reason == "DISK_FULL" and failure.retry_delay_s, str(failure)
        ledger.verify(stub, None, [])  # reads
        os.unlink(filler)
        t.until(lambda: refusal(server) is None, what="writes after the disk has room")
        ledger_check_later = Ledger(t.pb, users=10, seed=8)
        ledger_check_later.load(lambda: Stub(server.new_client()), 0.5, workers=4, seed=8)
        ledger.verify(stub, None, [])
        ledger_check_later.verify(stub, None, [])
        assert server.stop() == 0
        starts_with_all(rig.mount + "/data", ledger)
    finally:
        for s in t._servers:
            s.kill()
        rig.close()


def fill_disk(path, leave_mib=0):
    with open(path, "wb", buffering=0) as f:
        try:
            while not leave_mib or os.statvfs(path).f_bavail * os.statvfs(path).f_bsize > leave_mib << 20:
                f.write(b"x" * (1 << 20))
        except OSError:
            pass


def refusal(server):
    try:
        server.call("CreateOrder", t.create_request(user_id="filler"), resend=False)
        return None
    except t.Failure as f:
        return f


def store_fault(fault):
    """Tables can't be written: reads go on, writes are refused, and come back by themselves; also over a kill in the middle of it."""
    need_rig(fuse=True)
    fs = faultrig.FaultFs(FAULTFS, tempfile.mkdtemp(dir=t.TEMP))
    try:
        # A small budget: flushes come soon.
        server = t.Server(fs.mount + "/data", memory_budget="256MiB", partitions=1, cores=1)
        stub = Stub(server.client)
        ledger = Ledger(t.pb, users=10, seed=19)
        for round in range(2):
            fs.set(fault)
            fill_memtables(stub, ledger)
            refused = t.until(lambda: (lambda f: f and f.reason == "DISK_FULL" and f)(refusal(server)), what="a refusal")
            assert refused.code_name == "RESOURCE_EXHAUSTED" and refused.retry_delay_s, str(refused)
            end = time.time() + 2.5  # it tries again by itself meanwhile
            while time.time() < end:
                assert refusal(server), "a write was taken while tables can't be written"
                reads_go_on(stub, ledger)
            if round:
                server.kill()
                fs.set()
                server.start()
                stub = Stub(server.client)
            fs.set()
            t.until(lambda: refusal(server) is None, what="writes after tables can be written")
            ledger.settle(stub)
            ledger.verify(stub, None, list(ledger.orders.values())[-50:])
            ledger.again_some(stub, random.Random(1), 20)
        assert server.stop() == 0
        server.start()
        ledger.verify(Stub(server.client), None, [])
        server.kill()
    finally:
        for s in t._servers:
            s.kill()
        fs.close()


def reads_go_on(stub, ledger):
    """All is there, or it is said that the log can't be read back just now (it reopened its tables, and they failed again within replay)."""
    try:
        ledger.verify(stub, ledger.users[:2], list(ledger.orders.values())[-20:])
    except t.grpc.RpcError as e:
        assert e.code() == t.grpc.StatusCode.UNAVAILABLE and "read its log back" in e.details(), str(e)


def fill_memtables(stub, ledger, wait_s=60):
    """Large orders until one is not acknowledged."""
    end = time.time() + wait_s
    while time.time() < end:
        request = ledger.create_request(random.Random(len(ledger.orders)))
        for i in range(60):
            request.order.attributes["k%d" % i] = "x" * 1000
        if ledger.send(stub, request, timeout=2) is None:
            return
    raise AssertionError("never refused")


@t.test("tables are out of space: reads go on, writes come back without a restart")
def _():
    store_fault("full .sst 28")


@t.test("tables fail with EIO: reads go on, writes come back without a restart")
def _():
    store_fault("write .sst 5")


@t.test("tables and manifest are out of space: reads go on, writes come back without a restart")
def _():
    store_fault("full part- 28")


@t.test("tables can't be synced: reads go on, writes come back without a restart")
def _():
    store_fault("sync .sst 5")


@t.test("killed and started while there is less room than the reserve: reads, typed refusals, and writes when there is room")
def _():
    need_rig()
    rig = faultrig.PowerRig(t.BUILD, image_mib=700, tmpfs_mib=1500)
    try:
        server = t.Server(rig.mount + "/data", **FLAGS)
        ledger = Ledger(t.pb, users=10, seed=17)
        ledger.load(lambda: Stub(server.new_client()), 0.7, workers=4, seed=17)
        fill_disk(rig.mount + "/filler", leave_mib=100)
        finish = ledger.load(lambda: Stub(server.new_client()), None, workers=4, seed=18)
        t.until(lambda: refusal(server), what="a refusal for the full disk")
        server.kill()
        finish()
        server.start()
        ledger.verify(Stub(server.client), None, list(ledger.orders.values())[-100:])
        failure = t.until(lambda: refusal(server), what="a refusal for the full disk")
        assert failure.reason == "DISK_FULL", str(failure)
        server.kill()
        fill_disk(rig.mount + "/filler2")  # not a byte: tables can't even be opened
        refuses_to_start(rig.mount + "/data", "No space left on device")
        os.unlink(rig.mount + "/filler2")
        server.start()
        os.unlink(rig.mount + "/filler")
        t.until(lambda: refusal(server) is None, what="writes after the disk has room")
        ledger.settle(Stub(server.client))
        ledger.verify(Stub(server.client), None, [])
        assert server.stop() == 0
    finally:
        for s in t._servers:
            s.kill()
        rig.close()


# ---- the log fails
def log_fault(fault):
    need_rig(fuse=True)
    directory = tempfile.mkdtemp(dir=t.TEMP)
    fs = faultrig.FaultFs(FAULTFS, directory)
    try:
        server = t.Server(fs.mount + "/data", **FLAGS)
        ledger = Ledger(t.pb, users=10, seed=11)
        finish = ledger.load(lambda: Stub(server.new_client()), None, workers=4, seed=11)
        time.sleep(0.5)
        fs.set(fault)
        code = server.wait(20)
        finish()
        assert code not in (0, None), "it went on after a failed log write or sync"
        log = server.log()
        assert ".seg" in log and "errno=5" in log.replace("errno 5", "errno=5"), "no file and errno in:\n%s" % server.log_tail()
        fs.set()
        starts_with_all(fs.mount + "/data", ledger)
    finally:
        for s in t._servers:
            s.kill()
        fs.close()


@t.test("a failing sync of the log stops the process with file and errno; nothing acknowledged is lost")
def _():
    log_fault("sync log/ 5")


@t.test("a failing write of the log stops the process with file and errno; nothing acknowledged is lost")
def _():
    log_fault("write log/ 5")


@t.test("a failing sync of the votes stops the process with file and errno")
def _():
    need_rig(fuse=True)
    fs = faultrig.FaultFs(FAULTFS, tempfile.mkdtemp(dir=t.TEMP))
    try:
        fs.set("sync votes 5")
        refuses_to_start(fs.mount + "/data", "votes", "errno=5")
        fs.set()
        server = t.Server(fs.mount + "/data", **FLAGS)
        assert server.stop() == 0
        fs.set("sync votes 5")
        refuses_to_start(fs.mount + "/data", "votes", "errno=5")
    finally:
        for s in t._servers:
            s.kill()
        fs.close()


@t.test("a log that can't be read: refuses to start with file and errno; later all is there")
def _():
    need_rig(fuse=True)
    fs = faultrig.FaultFs(FAULTFS, tempfile.mkdtemp(dir=t.TEMP))
    try:
        ledger = loaded(fs.mount + "/data")
        fs.set("read .seg 5")
        refuses_to_start(fs.mount + "/data", ".seg", "errno=5")
        fs.set("read part- 5")
        refuses_to_start(fs.mount + "/data", "part-0")
        fs.set()
        starts_with_all(fs.mount + "/data", ledger)
    finally:
        for s in t._servers:
            s.kill()
        fs.close()


@t.test("syncs of the log that take seconds: calls wait or run into their deadlines, nothing is lost")
def _():
    need_rig(fuse=True)
    fs = faultrig.FaultFs(FAULTFS, tempfile.mkdtemp(dir=t.TEMP))
    try:
        server = t.Server(fs.mount + "/data", **FLAGS)
        ledger = Ledger(t.pb, users=10, seed=23)
        finish = ledger.load(lambda: Stub(server.new_client()), None, workers=4, seed=23)
        time.sleep(0.5)
        fs.set("slow log/ 2500")
        try:
            server.call("CreateOrder", t.create_request(user_id="slow"), timeout=1)
        except t.Failure as f:
            assert f.code_name == "DEADLINE_EXCEEDED", str(f)
        time.sleep(3)
        fs.set()
        time.sleep(0.5)
        finish()
        assert server.running()
        server.kill()
        starts_with_all(fs.mount + "/data", ledger)
    finally:
        for s in t._servers:
            s.kill()
        fs.close()


# ---- damage
@t.test("torn tail of the log: cut, everything acknowledged before it is there")
def _():
    directory = tempfile.mkdtemp(dir=t.TEMP) + "/data"
    ledger = loaded(directory)
    path, used = newest_used_segment(directory)
    with open(path, "r+b") as f:  # a batch that was being written when the power went: some of its bytes
        f.seek((used + 4095) // 4096 * 4096)
        f.write(os.urandom(9000))
    starts_with_all(directory, ledger)


@t.test("a flipped bit in the log: refuses to start, names file and offset")
def _():
    directory = tempfile.mkdtemp(dir=t.TEMP) + "/data"
    loaded(directory)
    path, used = newest_used_segment(directory)
    rng = random.Random(4)  # not in the last batch: nothing behind that proves that it was whole
    for offset in [100, 4096 + 100, 4096 + (used - 4096) // 2 // 4096 * 4096 + 40] + [rng.randrange(4096, used - 65536) for _ in range(5)]:
        flip(path, offset)
        refuses_to_start(directory, os.path.basename(path), "offset")
        flip(path, offset)
    server = t.Server(directory, **FLAGS)
    server.kill()


@t.test("votes: one damaged copy is mended from the other, both refuse to start")
def _():
    directory = tempfile.mkdtemp(dir=t.TEMP) + "/data"
    ledger = loaded(directory)
    path = directory + "/core-0/votes"
    size = os.path.getsize(path)
    flip(path, 8)
    starts_with_all(directory, ledger)
    for offset in range(0, size, 512):
        flip(path, offset)
    refuses_to_start(directory, "votes")


@t.test("a lost votes file beside data: refuses to start, for it could vote twice")
def _():
    directory = tempfile.mkdtemp(dir=t.TEMP) + "/data"
    loaded(directory)
    os.unlink(directory + "/core-0/votes")
    refuses_to_start(directory, "votes")


@t.test("flipped bits in a table: an error or a refusal to start, never a wrong answer")
def _():
    directory = tempfile.mkdtemp(dir=t.TEMP) + "/data"
    server = t.Server(directory, **FLAGS)
    ledger = Ledger(t.pb, users=10, seed=3)
    ledger.load(lambda: Stub(server.new_client()), 1.0, workers=4, seed=3)
    assert server.stop() == 0  # flushes
    tables = glob.glob(directory + "/part-*/*.sst")
    assert tables, "void: no table"
    for path in tables:
        size = os.path.getsize(path)
        for k in range(1, 8):
            flip(path, size * k // 9)
    server = t.Server(directory, start=False, **FLAGS).start(wait=False)
    server._ready.wait(20)
    wrong = losses = right = 0
    if server.ready_line:
        stub = Stub(server.client)
        for o in ledger.orders.values():
            try:
                got = stub.GetOrder(t.pb.GetOrderRequest(order_id=o.order_id), timeout=5)
                right += 1
                wrong += got.order_id != o.order_id or got.user_id != o.user or got.version < o.version
            except t.grpc.RpcError as e:
                losses += 1
                assert e.code() in (t.grpc.StatusCode.DATA_LOSS, t.grpc.StatusCode.UNAVAILABLE), "%s %s" % (e.code(), e.details())
                if e.code() == t.grpc.StatusCode.DATA_LOSS:
                    f = t.Failure(e)
                    assert f.reason == "CHECKSUM_MISMATCH" and directory + "/" + f.metadata["file"] in tables and f.metadata["file"].startswith("part-%05d/" % int(f.metadata["partition"])), f.metadata
                    assert 0 <= int(f.metadata["offset"]) < os.path.getsize(directory + "/" + f.metadata["file"]), f.metadata
        assert losses, "void: the damage was not seen"
    else:
        assert "orrupt" in server.log() or "CHECKSUM" in server.log(), server.log_tail()
    server.kill()
    assert wrong == 0, "%d wrong answers (%d refused, %d right)" % (wrong, losses, right)


@t.test("files of another version are refused with a clear text")
def _():
    directory = tempfile.mkdtemp(dir=t.TEMP) + "/data"
    loaded(directory)
    path, _ = newest_used_segment(directory)
    for name in (path, directory + "/NODE", directory + "/core-0/votes", directory + "/part-00000/FORMAT"):
        with kept(name):
            with open(name, "r+b") as f:  # magic (8), then the format number: unknown now, checksums or not
                data = bytearray(f.read())
                for copy in range(0, len(data), 32768 if name.endswith("votes") else len(data)):
                    data[copy + 8:copy + 12] = b"\x63\0\0\0"
                f.seek(0)
                f.write(data)
            refuses_to_start(directory, os.path.basename(name))
    t.Server(directory, **FLAGS).kill()


class kept:
    """The file is as it was at the end."""

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        shutil.copy(self.name, self.name + "-kept")
        os.rename(self.name + "-kept", os.path.join(t.TEMP, "kept"))

    def __exit__(self, *_):
        shutil.copy(os.path.join(t.TEMP, "kept"), self.name)


@t.test("files that are missing or cut short: refused with the name; put back, everything is there")
def _():
    directory = tempfile.mkdtemp(dir=t.TEMP) + "/data"
    small = dict(FLAGS, log_segment_size="64KiB")
    server = t.Server(directory, **small)
    ledger = Ledger(t.pb, users=10, seed=29)
    ledger.load(lambda: Stub(server.new_client()), 0.7, workers=4, seed=29)
    assert server.stop() == 0  # so that there are tables
    server.start()
    ledger.load(lambda: Stub(server.new_client()), 0.7, workers=4, seed=30)
    server.kill()
    newest = os.path.basename(newest_used_segment(directory)[0])
    segments = [s for s in sorted(glob.glob(directory + "/core-0/log/*.seg")) if os.path.basename(s) < newest]
    tables = sorted(glob.glob(directory + "/part-*/*.sst"))
    assert len(segments) > 1 and tables, "void: %d segments, %d tables" % (len(segments), len(tables))
    part = directory + "/part-00001/"
    for name in (segments[-1], tables[0], directory + "/core-0/votes", directory + "/NODE", part + "CURRENT", part + "FORMAT"):
        with kept(name):
            os.unlink(name)
            refuses_to_start(directory)
        if not name.endswith("CURRENT"):
            with kept(name):
                os.truncate(name, os.path.getsize(name) // 2)
                refuses_to_start(directory, os.path.basename(name))
    shutil.move(part, directory + "/aside")
    refuses_to_start(directory, "part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.move(directory + "/aside", part)
    server.start()
    ledger.settle(Stub(server.client))
    ledger.verify(Stub(server.client), None, [])
    assert server.stop() == 0


@t.test("a second server on the same directory is refused, the first goes on")
def _():
    directory = tempfile.mkdtemp(dir=t.TEMP) + "/data"
    server = t.Server(directory, **FLAGS)
    refuses_to_start(directory, "data")
    server.call("CreateOrder", t.create_request(user_id="first"))
    assert server.stop() == 0


if __name__ == "__main__":
    t.run(server=False)
