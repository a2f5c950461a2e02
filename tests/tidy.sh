#!/usr/bin/env bash
# What a compiler does not see: one includer per foreign header, no "..", sizes, no clock or chance in the engine.
set -u
cd "$(dirname "$0")/.."
bad=0
fail() { echo "not ok tidy: $*"; bad=1; }
only() { # HEADER MAX ROOM...
  local h=$1 max=$2 n; shift 2
  n=$(grep -lE "#include <$h>" $(find "$@" -name '*.[ch]') 2>/dev/null | wc -l)
  [ "$n" -le "$max" ] || fail "<$h> has $n includers in $*: $(grep -lE "#include <$h>" $(find "$@" -name '*.[ch]') | tr '\n' ' ')"
}
only raft.h 1 engine server client proto tools
only rocksdb/c.h 1 engine server client proto tools
only liburing.h 1 engine server client proto tools
only nghttp2/nghttp2.h 1 server
only nghttp2/nghttp2.h 1 client
only xxhash.h 1 engine server client proto tools
only jansson.h 1 tools
grep -rnE '#include "\.\.' --include='*.[ch]' . >/dev/null && fail 'an include goes through ".."'
grep -rnE '#include "(server|client|tools)/' --include='*.[ch]' engine proto >/dev/null && fail "engine or proto looks upwards"
B=${1:-build}
if [ -d "$B/obj/engine" ]; then
  for o in "$B"/obj/engine/*.o; do
    case $o in */store_rocks.o) continue ;; esac
    s=$(nm -u "$o" | awk '{print $2}' | grep -xE 'time|gettimeofday|clock_gettime|rand|random|rand_r|drand48|getrandom|random_bytes|socket|send|recv|open|openat|pthread_create|usleep|nanosleep' | tr '\n' ' ')
    [ -z "$s" ] || fail "$(basename "$o") uses $s: the engine is lent its world through env.h"
  done
fi
[ $bad -eq 0 ] && echo "ok tidy"
echo "# longest files:"; wc -l $(git ls-files '*.c' '*.h') | grep -v total | sort -rn | head -5 | sed 's/^/# /'
exit $bad
