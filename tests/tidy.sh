#!/usr/bin/env bash
# What a compiler does not see: borders between rooms, one includer per foreign header, no clock or chance in the engine, sizes, words left behind,
# places of one machine, and that an old libraft is refused. tests/tidy.sh [BUILD_DIR], after a build.
set -u
cd "$(dirname "$0")/.."
B=${1:-build}
bad=0 asked=
says() { asked="ok tidy: $*"; first=$bad; }
fail() { echo "not ok tidy: $*"; bad=$((bad + 1)); }
done_() { [ "$bad" -eq "$first" ] && echo "$asked"; }
files() { git ls-files -- "$@" 2>/dev/null || find . -path './build*' -prune -o -type f -print | sed 's|^\./||'; } # an archive has no git
sources() { files | grep -E '\.[ch]$'; }
rooms() { local r; for r in "$@"; do sources | grep "^$r/"; done; }

says "one includer for each foreign header"
only() { # HEADER MAX ROOM...: at most MAX files of these rooms include it
  local h=$1 max=$2 who; shift 2
  who=$(rooms "$@" | xargs grep -lE "#include <$h>")
  [ "$(echo -n "$who" | grep -c .)" -le "$max" ] || fail "<$h> has several includers in $*: $(echo $who)"
}
ours=(proto engine server client tools bench)
for h in raft.h 'raft/.*' 'rocksdb/.*' liburing.h 'liburing/.*' xxhash.h lz4.h jansson.h yaml.h; do only "$h" 1 "${ours[@]}"; done
for h in openssl/ssl.h openssl/hmac.h openssl/evp.h openssl/crypto.h openssl/rand.h; do only "$h" 1 "${ours[@]}"; done
only 'nghttp2/.*' 1 server
only 'nghttp2/.*' 1 client
only 'nghttp2/.*' 0 proto engine tools bench
only 'sys/epoll.h' 0 "${ours[@]}"
done_

says 'no include goes through ".."'
found=$(sources | xargs grep -nE '#include ["<](.*/)?\.\./') && fail "$found"
done_

says "rooms look only where they may" # the include views hold too; this tells it in words
sees() { # ROOM MAY-SEE...
  local room=$1 may; shift
  may=$(echo "$room $*" | tr ' ' '|')
  found=$(rooms "$room" | xargs grep -nE '#include "(proto|engine|server|client|tools|bench|tests)/' | grep -vE "#include \"($may)/") && fail "$found"
}
sees proto; sees engine proto; sees server engine proto; sees client proto; sees tools proto client bench; sees bench proto client
done_

# Apply is a function of state and command. What the engine needs of the world is lent through env.h; RocksDB's file is a border to the world itself.
says "no clock, chance, file, socket or thread in the engine's objects"
world='(__)?(time|times|clock|gettimeofday|clock_gettime|clock_nanosleep|ftime|localtime(_r)?|timespec_get|nanosleep|usleep|sleep'
world+='|s?rand(_r|om|om_r)?|[ejlmn]?rand48|getrandom|getentropy|arc4random.*|random_bytes'
world+='|socket|socketpair|connect|bind|listen|accept4?|send(to|msg|mmsg)?|recv(from|msg|mmsg)?|poll|p?select|epoll_.*'
world+='|f?open(64)?|openat(64)?|creat|p?read(64|v)?|p?write(64|v)?|fsync|fdatasync|ftruncate|rename|unlink|mkdir|opendir|readdir'
world+='|fork|execve?|system|popen|getenv|getpid|pthread_create|thrd_create|pthread_cond_.*|sem_.*|signal|sigaction)(_chk|_2)?'
objects=("$B"/obj/engine/*.o)
if [ -f "${objects[0]}" ]; then
  for o in "${objects[@]}"; do
    [ -f "engine/$(basename "${o%.o}").c" ] || continue
    case $o in */store_rocks*.o) continue ;; esac
    s=$(nm -u "$o" | awk '{sub(/@.*/, "", $2); print $2}' | grep -xE "$world" | tr '\n' ' ')
    [ -z "$s" ] || fail "$(basename "$o") uses $s"
  done
  [ "$(printf '%s
' fopen clock_gettime __read_chk pthread_create random | grep -cxE "$world")" = 5 ] || fail "the list of what may not be used has holes"
else
  fail "no objects in $B/obj/engine: build first"
fi
done_

says "no words of unfinished work"
found=$(rooms "${ours[@]}" | xargs grep -nEiw 'TODO|FIXME|HACK|XXX|stubs?|not implemented') && fail "$found"
done_

# NAME  WHY IT MAY: none so far. A file that grows past this is two files.
long_and_why=''
says "no file of ours beyond 800 lines"
while read -r n f; do
  [ "$f" = total ] || [ "$n" -le 800 ] || grep -q "^$f " <<<"$long_and_why" || fail "$f has $n lines: is it still one thing?"
done < <(files | grep -E '\.([ch]|py|sh|proto)$|^Makefile$' | grep -v '^proto/google/\|^proto/orderdb/\|^proto/grpc/' | xargs wc -l)
done_

says "no place of one machine, no package host"
# What is meant is another's home or a mirror; loopback, /dev, /proc, /tmp, /usr/include and Debian's own python are everybody's.
hosts='(debian\.(org|net)|ubuntu\.com|pypi\.org|pythonhosted\.org|npmjs\.(org|com)|crates\.io|proxy\.golang\.org)'
found=$(files | grep -vE '^tests/(fuzz/corpus|golden)/|^tests/tidy\.sh$' | xargs grep -nIE "(^|[^A-Za-z0-9_.])/(work|home|root|Users|mnt|opt)/|$hosts") && fail "$found"
done_

says "docs/ERRORS.md is what the tables say, and tests name every reason and every key of metadata"
found=$(tools/errors_doc.py --check) || fail "$found"
done_

says "docs/API.md names every method that is built"
for m in $(sed -nE '/serve_not_built_yet/!s/^METHOD\(\w+, (\w+),.*/\1/p' proto/methods.tbl); do grep -q "^| .$m. |" docs/API.md || fail "$m has no row"; done
done_

says "docs/OPERATIONS.md names flags and figures that there are"
for m in $(grep -oE '\borderdb_[a-z_]+' docs/OPERATIONS.md | sed -E 's/_(sum|count|bucket)$//' | sort -u); do grep -qE "\"${m#orderdb_}|\"$m\"" server/*.tbl server/*.[ch] || fail "no figure is called $m"; done
for m in $(grep -oE -- '`--[a-z-]+' docs/OPERATIONS.md | cut -c4- | tr - _ | sort -u); do
  case $m in help | version | config) ;; *) grep -q "^SETTING($m," server/config.tbl || fail "no flag is called --$m" ;; esac
done
done_

says "every header compiles alone"
build=$(basename "$B") san=
case $build in build-asan | build-tsan) san=${build#build-} ;; esac
out=$(env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make -s --no-print-directory SAN=$san hdr-check 2>&1) || fail "$out"
done_

says "libraft before 0.22.1 does not compile, nor does one after 0.22"
fake=$(mktemp -d) && trap 'rm -rf "$fake"' EXIT
refused() { # WHAT LINE: <raft.h> with that line behind it must stop group.c with our words
  printf '#include_next <raft.h>\n#undef RAFT_VERSION_NUMBER\n%s\n' "$2" >"$fake/raft.h"
  gcc -std=gnu17 -D_GNU_SOURCE -fsyntax-only -I"$fake" -I"$B/view/engine" -I"$B/gen" engine/group.c 2>&1 | grep -q "#error.*$3" || fail "libraft $1 is not refused"
}
refused "0.15.0, which has no number" '' 'too old'
refused 0.22.0 '#define RAFT_VERSION_NUMBER 2200' '0\.22\.1'
refused 0.23.0 '#define RAFT_VERSION_NUMBER 2300' '0\.22\.1'
printf '#include_next <raft.h>\n' >"$fake/raft.h"
gcc -std=gnu17 -D_GNU_SOURCE -fsyntax-only -I"$fake" -I"$B/view/engine" -I"$B/gen" engine/group.c || fail "group.c does not compile with the libraft that is here"
done_

echo "# longest files:"; sources | xargs wc -l | grep -v ' total$' | sort -rn | head -10 | sed 's/^/# /'
exit $((bad > 0))
