#!/usr/bin/python3
"""Stock gRPC clients of other languages against servers with cleartext, TLS and mutual TLS: each does what tests/clients/SCENARIO.md says, and the examples run.
usage: test_grpc_clients.py BUILD [PART OF A NAME]"""
import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading

import orderdb_test as t
from orderdb_test import equal, skip, true

CLIENTS = os.path.join(t.ROOT, "tests", "clients")
EXAMPLES = os.path.join(t.ROOT, "examples")
CERTS = os.path.join(t.TEMP, "certs")
MODES = ("cleartext", "tls", "mtls")
PROTOS = ["google/rpc/error_details.proto", "google/rpc/status.proto", "orderdb/v1/order.proto", "orderdb/v1/stream.proto", "orderdb/v1/admin.proto",
          "grpc/health/v1/health.proto", "grpc/reflection/v1/reflection.proto", "grpc/reflection/v1alpha/reflection.proto"]
# Debian's jars that a gRPC client over netty needs. Debian's netty is built without the JDK's ALPN, so TLS is OpenSSL's, by netty-tcnative.
JARS = ["grpc-api", "grpc-context", "grpc-core", "grpc-netty", "grpc-protobuf", "grpc-protobuf-lite", "grpc-stub", "protobuf", "guava", "gson", "perfmark-api",
        "geronimo-annotation-1.3-spec", "jsr305", "netty-all", "netty-buffer", "netty-codec", "netty-codec-http", "netty-codec-http2", "netty-codec-socks", "netty-common",
        "netty-handler", "netty-handler-proxy", "netty-resolver", "netty-transport", "netty-transport-native-unix-common", "jctools-core", "netty-tcnative"]
servers = {}


def names(mode):
    """What a client must do in this mode, in the order of the table."""
    with open(os.path.join(CLIENTS, "SCENARIO.md")) as f:
        rows = re.findall(r"^\| `(.+?)` \| (.*?) \|$", f.read(), re.M)
    true(len(rows) > 20, "the table was not read")
    return [name for name, what in rows if mode == "mtls" or not what.startswith("mutual TLS:") and (mode == "tls" or not what.startswith("TLS:"))]


def start():
    if not servers:
        os.makedirs(CERTS)
        subprocess.run([os.path.join(t.ROOT, "tests/lib/certs.sh"), CERTS], check=True)
        tls = {"tls_cert": os.path.join(CERTS, "server.pem"), "tls_key": os.path.join(CERTS, "server.key")}
        flags = {"cleartext": {}, "tls": tls, "mtls": dict(tls, tls_client_ca=os.path.join(CERTS, "ca.pem"))}
        for mode in MODES:
            servers[mode] = t.Server(start=False, cores=2, partitions=4, **flags[mode])
    for server in servers.values():
        if not server.running():
            server.kill()
            server.start()


# ---- what the clients stand on: made once for each build directory, again when what it is made of changes
def made(name, sources, make):
    """BUILD/clients/NAME, by make(directory)."""
    directory, digest = os.path.join(t.BUILD, "clients", name), hashlib.sha256()
    for source in sources:
        digest.update(source.encode() + b"\0")
        if os.path.isfile(source):
            with open(source, "rb") as f:
                digest.update(f.read())
    stamp = os.path.join(directory, ".made-of")
    if os.path.exists(stamp) and open(stamp).read() == digest.hexdigest():
        return directory
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    make(directory)
    with open(stamp, "w") as f:
        f.write(digest.hexdigest())
    return directory


def have(*programs):
    missing = [p for p in programs if not shutil.which(p)]
    if missing:
        skip("no %s here: tools/setup.sh clients installs it" % ", ".join(missing))


def command(arguments, why=None, **more):
    """Runs it; where it fails, why is the reason to skip (None: the test fails)."""
    p = subprocess.run(arguments, capture_output=True, text=True, timeout=300, **more)
    if p.returncode:
        text = (p.stderr or p.stdout).strip()
        if why:
            skip("%s: %s" % (why, text.splitlines()[-1] if text else "exit %d" % p.returncode))
        raise AssertionError("%s: exit %d\n%s" % (" ".join(arguments[:3]), p.returncode, text))


# Each answers how to run its scenario or its example: arguments and environment.
def python_command(example):
    if not example:
        return [sys.executable, os.path.join(CLIENTS, "python", "scenario.py")], {}

    def build(directory):
        command([sys.executable, "-m", "grpc_tools.protoc", "-I" + os.path.join(t.ROOT, "proto"), "--python_out=" + directory, "--grpc_python_out=" + directory, *PROTOS[:5]],
                why="no stubs for Python")
    return [sys.executable, os.path.join(EXAMPLES, "python", "create_pay_list.py")], {"PYTHONPATH": made("python", [os.path.join(t.ROOT, "proto", p) for p in PROTOS], build)}


def node_command(example):
    have("node", "npm")
    files = [os.path.join(CLIENTS, "node", f) for f in ("package.json", "package-lock.json")]

    def install(directory):
        for f in files:
            shutil.copy(f, directory)
        command(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], why="npm could not install @grpc/grpc-js", cwd=directory)
    modules = os.path.join(made("node", files, install), "node_modules")
    return ["node", os.path.join(EXAMPLES, "node", "create_pay_list.js") if example else os.path.join(CLIENTS, "node", "scenario.js")], {"NODE_PATH": modules}


def java_command(example):
    have("java", "javac", "grpc_java_plugin")
    jars = ["/usr/share/java/%s.jar" % j for j in JARS]
    native = glob.glob("/usr/lib/*/jni/libnetty-tcnative.so")
    missing = [j for j in jars if not os.path.exists(j)] or ([] if native else ["libnetty-tcnative.so"])
    if missing:
        skip("no %s here: tools/setup.sh clients installs it" % ", ".join(missing))
    sources = [os.path.join(CLIENTS, "java", "Scenario.java"), os.path.join(EXAMPLES, "java", "CreatePayList.java")]
    protos = [os.path.join(t.ROOT, "proto", p) for p in PROTOS]

    def build(directory):
        stubs, classes = os.path.join(directory, "stubs"), os.path.join(directory, "classes")
        os.makedirs(stubs)
        shutil.copy(native[0], os.path.join(directory, "libnetty_tcnative.so"))  # the name that netty looks for; a link it would follow
        command(["protoc", "-I" + os.path.join(t.ROOT, "proto"), "-I/usr/include", "--plugin=protoc-gen-grpc-java=" + shutil.which("grpc_java_plugin"),
                 "--java_out=" + stubs, "--grpc-java_out=" + stubs, *protos])
        command(["javac", "-nowarn", "-proc:none", "-encoding", "UTF-8", "-cp", ":".join(jars), "-d", classes,
                 *glob.glob(stubs + "/**/*.java", recursive=True), *sources])
    directory = made("java", [*sources, *protos, *jars, *native], build)
    # Netty tells now and then of a buffer of its own that it lost with a connection: nothing that a server could do about.
    return ["java", "-Dio.netty.leakDetection.level=disabled", "-Djava.library.path=" + directory, "-Dservice.config=" + os.path.join(EXAMPLES, "service_config.json"), "-Dfile.encoding=UTF-8",
            "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m", "-cp", ":".join([os.path.join(directory, "classes"), *jars]), "CreatePayList" if example else "Scenario"], {}


CLIENT_COMMANDS = {"python": python_command, "node": node_command, "java": java_command}


def address(mode):
    """With TLS a name: it is what certificates are for, and Node warns of bare addresses."""
    return servers[mode].address if mode == "cleartext" else "localhost:%d" % servers[mode].port


def left_behind(server):
    return {k: v for k, v in server.metrics().items() if k in ("orderdb_calls_in_flight", "orderdb_connections") and v}


def run_scenario(arguments, env, restart):
    """Answers the lines that it printed."""
    p = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, env=dict(os.environ, CERTS=CERTS, **env), cwd=t.TEMP)
    watchdog = threading.Timer(90 * t.SLOW, p.kill)
    watchdog.start()
    lines, restarts = [], []
    try:
        for line in p.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith("want restart "):
                restarts.append(threading.Thread(target=restart, args=(line.split()[2],)))
                restarts[-1].start()
    finally:
        watchdog.cancel()
        p.kill()
        p.wait()
        for one in restarts:
            one.join()
    return lines


def scenario(client):
    @t.test("%s: the scenario, over cleartext, TLS and mutual TLS" % client)
    def _():
        arguments, env = CLIENT_COMMANDS[client](example=False)
        start()
        exits = []
        lines = run_scenario([*arguments, t.BUILD, *("%s=%s" % (mode, address(mode)) for mode in MODES)], env,
                             lambda mode: exits.append(servers[mode].stop()) or servers[mode].start())
        did = [line[3:] for line in lines if line.startswith("ok ")]
        for line in did:
            print("ok %s over %s" % (client, line), flush=True)
        expected = ["%s: %s" % (mode, name) for mode in MODES for name in names(mode)]
        others = [line for line in lines if not line.startswith(("ok ", "want "))]
        true(not others and did == expected, "left out: %s; beyond the table: %s\n%s" % (
            [e for e in expected if e not in did], [d for d in did if d not in expected], "\n".join(others[-60:])))
        equal(exits, [0] * len(MODES), "exit codes of the servers")
        for mode in MODES:
            t.until(lambda m=mode: not left_behind(servers[m]), what="nothing left behind by %s over %s: %s" % (client, mode, left_behind(servers[mode])))


def example(client):
    @t.test("%s: the example creates, pays and lists; a retry of the whole program is one order" % client)
    def _():
        arguments, env = CLIENT_COMMANDS[client](example=True)
        start()
        for mode, ca in (("cleartext", []), ("tls", [os.path.join(CERTS, "ca.pem")])):
            for _ in range(2):
                p = subprocess.run([*arguments, address(mode), "%s-example" % client, "%s-example-0000001" % client, *ca], env=dict(os.environ, **env),
                                   capture_output=True, text=True, timeout=60 * t.SLOW, cwd=t.TEMP)
                equal(p.returncode, 0, p.stdout + p.stderr)
                lines = p.stdout.splitlines()
                true(len(lines) == 2 and re.fullmatch(r"\d{15,} PAID 3998 CNY", lines[0]) and lines[1] == "1 orders", p.stdout + p.stderr)


for _client in CLIENT_COMMANDS:
    scenario(_client)
    example(_client)


if __name__ == "__main__":
    t.run(server=False)
