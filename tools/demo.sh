#!/usr/bin/env bash
# demo.sh BUILD: a tour on a temporary server: every command is shown, then run. Leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."
B=${1:-build}
dir=$(mktemp -d "${TMPDIR:-/tmp}/orderdb-demo.XXXXXX")
server=
cleanup() {
  if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
  rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

"$B/orderd" --data-dir "$dir/data" --listen 127.0.0.1:0 --peer-listen 127.0.0.1:0 --http-listen 127.0.0.1:0 --cores 1 --partitions 2 >"$dir/out" 2>"$dir/log" </dev/null &
server=$!
for _ in $(seq 300); do
  grep -q '^ready' "$dir/out" && break
  kill -0 "$server" 2>/dev/null || { cat "$dir/log"; echo "the server did not start"; exit 1; }
  sleep 0.1
done
grep -q '^ready' "$dir/out" || { cat "$dir/log"; echo "the server is not ready after 30 s"; exit 1; }
ORDERDB_SERVER=$(sed -n 's/^ready.* listen=\([^ ]*\).*/\1/p' "$dir/out" | head -1)
export ORDERDB_SERVER

if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold='' plain=''; fi
say() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }
# Shows the command as one would type it, runs it. REFUSED=1: it must be refused.
run() {
  local rc=0 word
  printf '%s$ orderctl' "$bold"
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_=:,./-]+$ ]]; then printf ' %s' "$word"; else printf ' "%s"' "$word"; fi
  done
  printf '%s\n' "$plain"
  "$B/orderctl" "$@" 2>&1 || rc=$?
  [ "$rc" -eq "${REFUSED:-0}" ] || { echo "demo: exit code $rc"; exit 1; }
}
id_of() { sed -n 's/^order  *\([0-9]*\)$/\1/p' "$1"; }

echo "A temporary server listens on $ORDERDB_SERVER; orderctl finds it by \$ORDERDB_SERVER."
say "Ann orders two umbrellas. The request id makes the call repeatable."
create=(order create --user ann --currency CNY --item "sku=u1,title=Umbrella,qty=2,price=19.99" --freight 5 --client-order-no W-1001 --request-id demo-0001-umbrella)
run "${create[@]}" | tee "$dir/created"
id=$(id_of "$dir/created")

say "The network failed before the answer came? The same request id again: no second order."
run "${create[@]}"

say "She pays; the parcel leaves, if the order is still paid."
run order transition "$id" pay --operator ann
run order transition "$id" ship --expect PAID --operator warehouse-7 --reason "parcel 4711"

say "Too late to cancel: the status machine has no such edge, and the refusal says where the order stands."
REFUSED=1 run order transition "$id" cancel

say "What happened, in order, by whom."
run order history "$id"

say "A second order, in yen, which have no decimals; then all of Ann's orders, newest first."
run order create --user ann --currency JPY --item "sku=b7,title=Book,qty=1,price=1200"
run order list ann

say "An order that does not add up is told everything that is wrong with it."
REFUSED=1 run order create --user ann --currency CNY --item "sku=,qty=0,price=1"

say "The server: partitions, slots, leaders."
run status
say "That was all. make run starts a server that stays."
