#!/usr/bin/env bash
# make run: starts BUILD/orderd on ./data in the foreground and prints what to try next. tools/run.sh BUILD [orderd's flags].
set -eu
cd "$(dirname "$0")/.."
B=${1:-build}
shift || true
ctl=$B/orderctl
olist=../shared/data/olist
# What orderd's own line says of itself: listen=HOST:PORT http=HOST:PORT ... data=DIR, the directory last (it may hold blanks).
next() {
  local listen=${1#* listen=} http=${1#* http=} data=${1#* data=}
  listen=${listen%% *} http=${http%% *}
  printf '\nOrderDB serves gRPC on %s, operations on %s; data in %s. Ctrl-C drains and stops it. In another terminal:\n\n' "$listen" "$http" "$data"
  [ "$listen" = 127.0.0.1:7400 ] || echo "  export ORDERDB_SERVER=$listen"
  cat <<TEXT
  $ctl order create --user ann --currency CNY --item sku=u1,title=Umbrella,qty=2,price=19.99
  $ctl order list ann
  $ctl order transition ORDER_ID pay
  $ctl order history ORDER_ID
TEXT
  [ ! -d "$olist" ] || echo "  $ctl order import --format olist $olist"
  cat <<TEXT
  $ctl status
  $ctl --help
  curl -s http://$http/readyz
  curl -s http://$http/metrics | grep -v '^#' | grep -v _bucket

TEXT
}
# orderd prints one line that starts with `ready`; it stays the foreground process, so that signals and its exit code are its own.
exec "$B/orderd" "$@" > >(while IFS= read -r line; do
  printf '%s\n' "$line"
  [[ $line != ready* ]] || next "$line"
done)
