#!/usr/bin/python3
"""make install as a packager and an application meet it: files in their places, the example built with pkg-config alone, no names that clash, uninstall."""
import collections
import importlib
import os
import re
import signal
import subprocess

import orderdb_test as t
from orderdb_test import equal, test, true

DEST = os.path.join(t.TEMP, "dest")
PREFIX = "/usr/local"
MAKE = ["make", "-s", "--no-print-directory", "DESTDIR=" + DEST, "PREFIX=" + PREFIX]
SAN = re.search(r"-(asan|tsan)$", t.BUILD)


def make(target):
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    subprocess.run([*MAKE, *(["SAN=" + SAN.group(1)] if SAN else []), target], cwd=t.ROOT, check=True, capture_output=True, text=True, timeout=600, env=env)


def installed():
    return sorted(os.path.relpath(os.path.join(d, f), DEST + PREFIX) for d, _, files in os.walk(DEST) for f in files)


def flags(what):
    env = dict(os.environ, PKG_CONFIG_PATH=DEST + PREFIX + "/lib/pkgconfig", PKG_CONFIG_SYSROOT_DIR=DEST)
    return subprocess.run(["pkg-config", what, "orderdb"], env=env, check=True, capture_output=True, text=True).stdout.split()


def compiled(compiler, source, out, *more):
    sanitizer = {"asan": ["-fsanitize=address,undefined"], "tsan": ["-fsanitize=thread"]}[SAN.group(1)] if SAN else []
    subprocess.run([*compiler, "-Wall", "-Wextra", "-Werror", *sanitizer, *flags("--cflags"), source, "-o", out, *more, *flags("--libs")],
                   check=True, cwd=t.TEMP, timeout=120)
    return out


@test("install: programs, library, headers, pkgconfig, each with its mode and no other place touched")
def _():
    make("install")
    files = installed()
    for f in ("bin/orderd", "bin/orderctl", "lib/liborderdb.a", "lib/pkgconfig/orderdb.pc", "share/bash-completion/completions/orderctl", "include/orderdb.h", "include/orderdb/orderdb/v1/order.pb-c.h"):
        true(f in files, "%s is not in %s" % (f, files))
    for f in files:
        equal(os.stat(os.path.join(DEST + PREFIX, f)).st_mode & 0o777, 0o755 if f.startswith("bin/") else 0o644, f)
    true(subprocess.run([DEST + PREFIX + "/bin/orderctl", "--version"], check=True, capture_output=True, text=True).stdout.startswith("orderctl "))
    with open(DEST + PREFIX + "/lib/pkgconfig/orderdb.pc") as pc:
        text = pc.read()
    true("prefix=%s\n" % PREFIX in text and DEST not in text and t.ROOT not in text, text)


@test("the example, built against what was installed, creates, pays and lists")
def _(server):
    example = compiled(["cc", "-std=c11"], os.path.join(t.ROOT, "examples", "create_pay_list.c"), os.path.join(t.TEMP, "example"))
    for n in (1, 2):
        p = subprocess.run([example, server.address, "example-user"], check=True, capture_output=True, text=True, timeout=30 * t.SLOW)
        lines = p.stdout.splitlines()
        equal(len(lines), n + 1)
        true(re.fullmatch(r"\d+ PAID 3998 CNY", lines[0]), lines)
    nowhere = subprocess.run([example, "127.0.0.1:%d" % t.free_port()], capture_output=True, text=True, timeout=30 * t.SLOW)
    equal((nowhere.returncode, nowhere.stdout), (1, ""))
    true("create: UNAVAILABLE" in nowhere.stderr, nowhere.stderr)


@test("the example that follows changes goes on where it was")
def _(server):
    example = compiled(["cc", "-std=c11"], os.path.join(t.ROOT, "examples", "tail_changes.c"), os.path.join(t.TEMP, "tail_changes"))
    cursor = os.path.join(t.TEMP, "example.cursor")
    seen = []
    for n in (1, 2, 3):
        server.call("CreateOrder", t.create_request(t.order(user_id="tail-%d" % n)))
        lines = subprocess.run([example, server.address, cursor, "once"], check=True, capture_output=True, text=True, timeout=30 * t.SLOW).stdout.splitlines()
        true(len(lines) == 1 or n == 1, lines) # the first one reads what other tests left, too
        seen += lines
        true(re.fullmatch(r"\d+:\d+ order \d+ of tail-%d: PENDING_PAYMENT" % n, lines[-1]) or n == 1, lines)
    equal(len(seen), len(set(seen)))
    nowhere = subprocess.run([example, "127.0.0.1:%d" % t.free_port(), cursor], capture_output=True, text=True, timeout=30 * t.SLOW)
    equal((nowhere.returncode, nowhere.stdout), (1, ""))
    true("changes: UNAVAILABLE" in nowhere.stderr, nowhere.stderr)


@test("the example of a consumer builds against what was installed, and says what a server refuses")
def _(server):
    example = compiled(["cc", "-std=c11"], os.path.join(t.ROOT, "examples", "consume_group.c"), os.path.join(t.TEMP, "consume_group"))
    p = subprocess.run([example, server.address, "no-such-group"], capture_output=True, text=True, timeout=30 * t.SLOW)
    equal((p.returncode, p.stdout), (1, ""), p.stderr)
    true(re.search("consume: (NOT_FOUND GROUP_NOT_FOUND|UNIMPLEMENTED)", p.stderr), p.stderr)


@test("the example of a consumer: events in order per slot through kill -9 of the server, and what it left undone is the next one's")
def _():
    server = t.Server()
    stream_pb = importlib.import_module("orderdb.v1.stream_pb2")
    try:
        server.call("CreateConsumerGroup", stream_pb.CreateConsumerGroupRequest(group=stream_pb.ConsumerGroup(group="example", key_window=4)))
    except t.Failure as f:
        if f.code_name != "UNIMPLEMENTED":
            raise
        server.stop()
        t.skip("this server has no consumer groups")

    def commits(n):
        for i in range(n):
            o = server.call("CreateOrder", t.create_request(t.order(user_id="group-%d" % (i % 7)))).order
            server.call("TransitionOrder", t.transition_request(o.order_id, "pay"))

    seen = collections.defaultdict(list)

    def read(lines):
        for line in lines:
            slot, seq = map(int, line.split()[0].split(":"))
            true(seq <= max(seen[slot], default=0) + 1, "slot %d: %d after %s" % (slot, seq, seen[slot][-5:])) # it may come again, and never skips
            seen[slot].append(seq)

    consume = os.path.join(t.TEMP, "consume_group")
    commits(20)
    read(subprocess.run([consume, server.address, "example", "15"], check=True, capture_output=True, text=True, timeout=60 * t.SLOW).stdout.splitlines())
    with open(os.path.join(t.TEMP, "consumed"), "w+") as out:
        p = subprocess.Popen(["stdbuf", "-oL", consume, server.address, "example"], stdout=out, stderr=subprocess.PIPE, text=True)
        for _ in range(2):
            commits(20)
            server.kill()
            server.start()
        commits(10)
        events = len(server.orderctl("stream", "tail", "--stop-at-end", "-o", "json").stdout.splitlines())
        before = {"%d:%d" % (slot, seq) for slot, seqs in seen.items() for seq in seqs}

        def consumed():
            with open(out.name) as f:
                return len(before | {line.split()[0] for line in f if line.endswith("\n")})
        t.until(lambda: consumed() >= events, 60, "every event")
        p.send_signal(signal.SIGINT)
        error = p.stderr.read()
        equal(p.wait(60), 0, error)
        out.seek(0)
        read(out.read().splitlines())
    equal(sum(len(set(v)) for v in seen.values()), events)
    server.stop()


@test("the library shows the names of orderdb.h and of messages alone; an application may have its own panic()")
def _():
    out = subprocess.run(["nm", "-g", "--defined-only", DEST + PREFIX + "/lib/liborderdb.a"], check=True, capture_output=True, text=True).stdout
    names = [line.split()[2] for line in out.splitlines() if len(line.split()) == 3]
    strangers = [n for n in names if not re.match(r"(orderdb_|google__)", n)]
    true(SAN or not strangers, strangers[:10])
    header = open(DEST + PREFIX + "/include/orderdb.h").read()
    declared = set(re.findall(r"\b(orderdb_\w+)\(", header)) - set(re.findall(r"typedef [\w ]* (orderdb_\w+)\(", header))
    equal(declared - set(names), set(), "declared, not in the library")
    source = os.path.join(t.TEMP, "clash.c")
    with open(source, "w") as f:
        f.write("#include <orderdb.h>\nint panic, sha256, buf_append, channel_open, mem_alloc;\n"
                "int main(void) { orderdb_close(orderdb_open(\"127.0.0.1:1\", 0)); return panic + sha256 + buf_append + channel_open + mem_alloc; }\n")
    subprocess.run([compiled(["cc"], source, os.path.join(t.TEMP, "clash"))], check=True, timeout=30 * t.SLOW)


@test("the installed headers are C++ too")
def _():
    source = os.path.join(t.TEMP, "plus.cc")
    with open(source, "w") as f:
        f.write("#include <orderdb.h>\nint main() { orderdb_close(orderdb_open(\"127.0.0.1:1\", nullptr)); }\n")
    subprocess.run([compiled(["g++"], source, os.path.join(t.TEMP, "plus"))], check=True, timeout=30 * t.SLOW)


@test("uninstall leaves no file")
def _():
    make("uninstall")
    equal(installed(), [])


if __name__ == "__main__":
    t.run()
