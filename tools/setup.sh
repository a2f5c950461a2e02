#!/usr/bin/env bash
# Installs what is missing on Debian 12 or 13: build tools, libraries, what the tests need. Safe to repeat; quick when nothing is missing.
# "setup.sh clients": the stock gRPC clients of the suite, Node and a JDK among them (about 160 MB). Tests skip, and say so, what is not there then.
# "setup.sh bench": the peers that make bench compares with, and their client libraries (about 300 MB). Their services are not started.
# libraft must be 0.22.1 or later: Debian 12 has it in its backports suite, whose source entry is derived from the machine's own.
set -euo pipefail
[ "${ORDERDB_NO_SETUP:-}" = 1 ] && exit 0
packages=(gcc g++ make git pkg-config protobuf-compiler protobuf-c-compiler libprotobuf-dev libprotobuf-c-dev librocksdb-dev liburing-dev
  libnghttp2-dev libcmocka-dev libjemalloc-dev libxxhash-dev liblz4-dev libssl-dev libjansson-dev libyaml-dev libfuse3-dev fuse3 python3-grpcio python3-protobuf
  e2fsprogs iproute2 procps curl valgrind)
clients=(python3-grpc-tools libgrpc-java protobuf-compiler-grpc-java-plugin libprotobuf-java libnetty-java libnetty-tcnative-java libnetty-tcnative-jni libguava-java
  libgoogle-gson-java libperfmark-java libjctools-java libgeronimo-annotation-1.3-spec-java libjsr305-java)
if [ "${1:-}" = bench ]; then
  packages=(postgresql mariadb-server redis-server etcd-server etcd-client libpq-dev libmariadb-dev libhiredis-dev)
elif [ "${1:-}" = clients ]; then
  packages=("${clients[@]}")
  # of another source they may be there already
  command -v javac >/dev/null || packages+=(default-jdk-headless)
  command -v node >/dev/null || packages+=(nodejs)
  command -v npm >/dev/null || packages+=(npm)
fi
missing=()
for p in "${packages[@]}"; do dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || missing+=("$p"); done
raft=$(dpkg-query -W -f '${Version}' libraft-dev 2>/dev/null || echo 0)
raft_ok=0; { [ -n "${1:-}" ] || dpkg --compare-versions "$raft" ge 0.22.1; } && raft_ok=1
[ ${#missing[@]} -eq 0 ] && [ $raft_ok = 1 ] && exit 0
. /etc/os-release
[ "${ID:-}" = debian ] || { echo "setup: this installs Debian packages; here, install by hand: ${missing[*]} $([ $raft_ok = 1 ] || echo 'libraft-dev (>= 0.22.1)')" >&2; exit 1; }
sudo=(); if [ "$(id -u)" -ne 0 ]; then command -v sudo >/dev/null || { echo "setup: not root and no sudo" >&2; exit 1; }; sudo=(sudo); fi
export DEBIAN_FRONTEND=noninteractive
apt_get() { "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 "$@"; }
echo "setup: installing ${missing[*]:-} $([ $raft_ok = 1 ] || echo libraft-dev)"
if [ "${1:-}" = bench ] && [ ! -e /usr/sbin/policy-rc.d ]; then # Debian's way to install a service and not start it
  printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee /usr/sbin/policy-rc.d >/dev/null
  "${sudo[@]}" chmod 0755 /usr/sbin/policy-rc.d
  trap '"${sudo[@]}" rm -f /usr/sbin/policy-rc.d' EXIT
fi
apt_get update
[ ${#missing[@]} -eq 0 ] || apt_get install --no-install-recommends "${missing[@]}"
[ $raft_ok = 1 ] && exit 0
candidate=$(apt-cache madison libraft-dev | awk -F'|' '{gsub(/ /,"",$2); print $2}' | while read -r v; do dpkg --compare-versions "$v" ge 0.22.1 && echo "$v" && break; done || true)
if [ -z "$candidate" ]; then
  # Derive a source entry for <codename>-backports from the machine's own Debian entry: same URI, same keyring.
  suite=$VERSION_CODENAME-backports
  out=$(mktemp)
  for f in /etc/apt/sources.list.d/*.sources; do # deb822
    [ -f "$f" ] || continue
    awk -v code="$VERSION_CODENAME" -v suite="$suite" 'BEGIN { RS = ""; FS = "\n" }
      { uris = key = ""; hit = 0
        for (i = 1; i <= NF; i++) { if ($i ~ /^URIs:/) uris = $i; if ($i ~ /^Signed-By:/) key = $i; if ($i ~ /^Suites:/ && $i ~ "[: ]" code "( |$)") hit = 1 }
        if (hit && uris != "") { print "Types: deb\n" uris "\nSuites: " suite "\nComponents: main" (key != "" ? "\n" key : ""); exit } }' "$f" >"$out"
    [ -s "$out" ] && break
  done
  name=orderdb-backports.sources
  if [ ! -s "$out" ]; then # one line each
    awk -v code="$VERSION_CODENAME" -v suite="$suite" '$1 == "deb" { for (i = 2; i < NF; i++) if ($i == code) { line = "deb"; for (k = 2; k < i; k++) line = line " " $k; print line, suite, "main"; exit } }' \
      /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null >"$out" || true
    name=orderdb-backports.list
  fi
  [ -s "$out" ] || { echo "setup: no Debian source entry found to derive $suite from" >&2; exit 1; }
  "${sudo[@]}" install -m 0644 "$out" "/etc/apt/sources.list.d/$name"
  rm -f "$out"
  apt_get update
  apt_get install --no-install-recommends -t "$suite" libraft-dev
else
  apt_get install --no-install-recommends "libraft-dev=$candidate" || apt_get install --no-install-recommends -t "$VERSION_CODENAME-backports" libraft-dev
fi
dpkg --compare-versions "$(dpkg-query -W -f '${Version}' libraft-dev)" ge 0.22.1 || { echo "setup: libraft-dev is older than 0.22.1, which loses writes" >&2; exit 1; }
