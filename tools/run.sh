#!/usr/bin/env bash
# make run: starts BUILD/orderd on ./data in the foreground and prints what to try next. tools/run.sh BUILD [orderd's flags].
set -eu
cd "$(dirname "$0")/.."
B=${1:-build}
shift || true
ctl=$B/orderctl
next() {
  cat <<TEXT

OrderDB serves gRPC on 127.0.0.1:7400, operations on 127.0.0.1:7402; data in ./data. Ctrl-C drains and stops it. In another terminal:

  $ctl order create --user ann --currency CNY --item sku=u1,title=Umbrella,qty=2,price=19.99
  $ctl order list ann
  $ctl order transition ORDER_ID pay
  $ctl order history ORDER_ID
  $ctl order import --format olist ../shared/data/olist
  $ctl status
  $ctl --help
  curl -s http://127.0.0.1:7402/readyz
  curl -s http://127.0.0.1:7402/metrics | grep -v '^#' | grep -v _bucket

TEXT
}
# orderd prints one line that starts with `ready`; it stays the foreground process, so that signals and its exit code are its own.
exec "$B/orderd" --data-dir ./data "$@" > >(while IFS= read -r line; do
  printf '%s\n' "$line"
  [[ $line == ready* ]] && next
done)
