#!/usr/bin/env bash
# Three nodes in three "zones" on loopback, for make cluster, cluster-kill and cluster-stop. tools/cluster.sh BUILD start|kill N|stop; everything is in data/cluster (CLUSTER_DIR: elsewhere).
# Node N: clients at 127.0.0.1:74N0, peers at 74N1, operations at 74N2. `start` starts what does not run; killed ones come back with what they had.
# TLS=1: they talk TLS to each other, with certificates of $dir/tls, from then on; TLS=0: no longer.
set -eu
cd "$(dirname "$0")/.."
B=${1:-build} what=${2:-start} which=${3:-}
dir=${CLUSTER_DIR:-data/cluster} ctl=$B/orderctl
zones=(- a b c)
peers=1=127.0.0.1:7411,2=127.0.0.1:7421,3=127.0.0.1:7431

# The process whose id was written down, if it still is an orderd of ours.
pid_of() {
  local pid
  pid=$(cat "$dir/node-$1/pid" 2>/dev/null) || return 1
  [ "$(readlink "/proc/$pid/cwd" 2>/dev/null)" = "$(cd "$dir/node-$1" && pwd -P)" ] || return 1
  echo "$pid"
}

nothing_runs() {
  for n in 1 2 3; do pid_of $n >/dev/null && { echo "all nodes talk TLS, or none: make cluster-stop first"; exit 1; }; done
  return 0
}

# A CA of our own, and a certificate for each node; whole or not there.
make_certificates() {
  local new=$dir/tls.new n
  rm -rf "$new"; (umask 077; mkdir "$new")
  for n in ca 1 2 3; do
    if [ $n = ca ]; then
      openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$new/ca.key" -out "$new/ca.pem" -days 3650 -subj "/CN=make cluster" -addext basicConstraints=critical,CA:true
    else
      openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$new/node-$n.key" -out "$new/node-$n.csr" -subj "/CN=node $n"
      openssl x509 -req -in "$new/node-$n.csr" -CA "$new/ca.pem" -CAkey "$new/ca.key" -CAcreateserial -days 3650 -out "$new/node-$n.pem" -extfile <(echo "subjectAltName=DNS:node-$n")
    fi
  done 2>"$dir/openssl.log" || { cat "$dir/openssl.log"; exit 1; }
  mv "$new" "$dir/tls"
}

start_node() {
  local n=$1 home=$dir/node-$1 server tls=()
  pid_of "$n" >/dev/null && return
  [ -d "$dir/tls" ] && tls=(--peer-tls-cert "../tls/node-$n.pem" --peer-tls-key "../tls/node-$n.key" --peer-tls-ca ../tls/ca.pem)
  mkdir -p "$home"
  server=$(cd "$(dirname "$B/orderd")" && pwd)/orderd
  : >"$home/out"
  (cd "$home" && exec setsid "$server" --data-dir data --node-id "$n" --zone "${zones[n]}" --peers "$peers" --cluster-key-file ../key --listen "127.0.0.1:74${n}0" --peer-listen "127.0.0.1:74${n}1" \
    --http-listen "127.0.0.1:74${n}2" --cores 1 --partitions 3 --memory-budget 512MiB "${tls[@]}" >out 2>>log </dev/null) &
  echo $! >"$home/pid"
}

start() {
  mkdir -p "$dir"
  [ -s "$dir/key" ] || (umask 077 && head -c 48 /dev/urandom >"$dir/key")
  case ${TLS:-} in
    1) [ -d "$dir/tls" ] || { nothing_runs; make_certificates; } ;;
    0) [ ! -d "$dir/tls" ] || { nothing_runs; rm -rf "$dir/tls"; } ;;
  esac
  for n in 1 2 3; do start_node $n; done
  for n in 1 2 3; do
    for _ in $(seq 300); do
      grep -q ^ready "$dir/node-$n/out" && break
      pid_of $n >/dev/null || { tail -5 "$dir/node-$n/log"; echo "node $n did not start: $dir/node-$n/log"; exit 1; }
      sleep 0.1
    done
    grep -q ^ready "$dir/node-$n/out" || { echo "node $n is not ready after 30 s: $dir/node-$n/log"; exit 1; }
  done
  "$ctl" --server 127.0.0.1:7410 status
  cat <<TEXT

Three nodes serve: 127.0.0.1:7410, :7420, :7430; any of them answers for all. Try
  $ctl --server 127.0.0.1:7410 order create --user ann --currency CNY --item sku=u1,title=Umbrella,qty=2,price=19.99
  $ctl --server 127.0.0.1:7430 order list ann
and break it:
  make cluster-kill N=2      # kill -9
  $ctl --server 127.0.0.1:7410 status
  make cluster               # starts it again: it catches up
  make cluster-stop          # drains all three; what they have stays in $dir
Their logs: $dir/node-*/log
TEXT
}

kill_node() {
  local pid
  [[ $which =~ ^[123]$ ]] || { echo "which one? make cluster-kill N=1, 2 or 3"; exit 2; }
  pid=$(pid_of "$which") || { echo "node $which does not run"; exit 1; }
  kill -9 "$pid"
  echo "node $which was killed; make cluster starts it again"
}

stop() {
  local n pid
  for n in 1 2 3; do pid=$(pid_of $n) && kill -TERM "$pid"; done
  for n in 1 2 3; do
    for _ in $(seq 200); do pid_of $n >/dev/null || break; sleep 0.1; done
    if pid_of $n >/dev/null; then echo "node $n has not stopped after 20 s: $dir/node-$n/log"; exit 1; fi
  done
  echo "all three have stopped"
}

case $what in
  start) start ;;
  kill) kill_node ;;
  stop) stop ;;
  *) echo "usage: tools/cluster.sh BUILD start|kill N|stop" >&2; exit 2 ;;
esac
