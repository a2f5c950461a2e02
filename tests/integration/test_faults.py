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
    ledger.load(lambda: Stub(server.new_client()), seconds, workers=4, seed=seed)
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
    code = server.wait(30)
    assert code not in (0, None), "it started"
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
        with open(filler, "wb") as f:
            try:
                while True:
                    f.write(b"x" * (1 << 20))
                    f.flush()
            except OSError:
                pass
        failure = t.until(lambda: refusal(server), 10, "a refusal for the full disk")
        assert failure.code_name == "RESOURCE_EXHAUSTED" and failure.reason == "DISK_FULL" and failure.retry_delay_s, str(failure)
        ledger.verify(stub, None, [])  # reads
        os.unlink(filler)
        t.until(lambda: refusal(server) is None, 20, "writes after the disk has room")
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


def refusal(server):
    try:
        server.call("CreateOrder", t.create_request(user_id="filler"))
        return None
    except t.Failure as f:
        return f


@t.test("tables can't be written: reads go on, what was acknowledged is there when they can again, without a restart")
def _():
    need_rig(fuse=True)
    directory = tempfile.mkdtemp(dir=t.TEMP)
    fs = faultrig.FaultFs(FAULTFS, directory)
    try:
        # A small budget: flushes come soon.
        server = t.Server(fs.mount + "/data", memory_budget="256MiB", partitions=1, cores=1)
        stub = Stub(server.client)
        ledger = Ledger(t.pb, users=10, seed=9)
        fs.set("full .sst 28")
        big = "x" * 1000
        refused = None
        end = time.time() + 60
        while not refused and time.time() < end:
            request = ledger.create_request(random.Random(len(ledger.orders)))
            for i in range(60):
                request.order.attributes["k%d" % i] = big
            try:
                ledger.record(request, server.call("CreateOrder", request))
            except t.Failure as f:
                refused = f
        assert refused and refused.reason in ("DISK_FULL", "OVERLOADED"), "never refused: %s" % refused
        ledger.verify(stub, None, list(ledger.orders.values())[-50:])
        fs.set()
        t.until(lambda: refusal(server) is None, 30, "writes after tables can be written")
        ledger.verify(stub, None, list(ledger.orders.values())[-50:])
        server.kill()
        server.start()
        ledger.verify(Stub(server.client), None, [])
        server.kill()
    finally:
        for s in t._servers:
            s.kill()
        fs.close()


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
    for offset in (4096 + 100, 4096 + (used - 4096) // 2 // 4096 * 4096 + 40):
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
    for name in (path, directory + "/NODE"):
        copy = name + ".kept"
        shutil.copy(name, copy)
        with open(name, "r+b") as f:
            head = bytearray(f.read(64))
            # magic (8), then the format number: unknown now, checksums or not
            head[8:12] = b"\x63\0\0\0"
            f.seek(0)
            f.write(head)
        refuses_to_start(directory, os.path.basename(name))
        os.rename(copy, name)
    t.Server(directory, **FLAGS).kill()


if __name__ == "__main__":
    t.run(server=False)
