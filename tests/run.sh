#!/usr/bin/env bash
# Runs the tests: tests/run.sh BUILD_DIR [tidy|unit|sim|fuzz|perf|integration ...]. Its last line is "N passed, N failed"; exit 0 only without a failure.
# Every test program prints cmocka's lines or TAP-like ones: "ok NAME", "not ok NAME", "skip NAME: why". What it printed is in BUILD_DIR/test-logs.
# Programs of all kinds but integration run beside each other, one for each core. Integration tests use real servers and mostly wait for them: two at a time, but for those whose subject is load or patience,
# which have the machine to themselves. In a sanitizer's build, and with TEST_JOBS=1, all of them do.
set -u
shopt -s extglob
cd "$(dirname "$0")/.."
B=${1:?usage: tests/run.sh BUILD_DIR [KIND ...]}; shift
jobs_max=${TEST_JOBS:-$(nproc)}
logs=$B/test-logs; mkdir -p "$logs"
export BUILD=$B
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:abort_on_error=1} UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-suppressions=$PWD/tests/tsan.supp:halt_on_error=1:second_deadlock_stack=1}

# What a sanitizer build leaves out is what it could not see, or what would take too long at its speed.
slow=1 kinds_all=(tidy perf unit sim fuzz integration) integration_all=1
case $B in
  *-asan) slow=3 kinds_all=(unit sim fuzz integration) integration_all= ;;
  *-tsan) slow=4 kinds_all=(unit integration) integration_all= ;; # simulators and fuzz targets have one thread
esac
wanted() { # unit test NAME in this build: TSan is for what several threads use
  case $B:$1 in
    *-tsan:test_@(ring|mail|timer|metrics|call|conn|h2|http|host|readers|node|identity|config|channel|channel_stream|orderdb|changes|consumer|store)) ;;
    *-tsan:*) return 1 ;;
  esac
}
arguments() { # of an integration test, in this build; nothing printed and 1: it is left out
  [ -n "$integration_all" ] && return 0
  case $B:$1 in
    *-tsan:test_@(changes|groups).py | *:test_grpc_*.py | *:test_resource.py | *:test_tls.py | *:test_runtime.py | *-asan:test_cli.py) ;;
    *-asan:test_crash.py) echo "--kill=4 kill SIGTERM" ;;
    *-tsan:test_crash.py) echo "--kill=2 kill SIGTERM" ;;
    *-asan:test_cluster.py) ;;
    *-tsan:test_cluster.py) echo "elect limit leader log strangers stop" ;; # words of its cases' names
    *-asan:test_cluster_tls.py) ;;
    *-asan:test_zones.py) echo "checker wiped stopped" ;;
    *) return 1 ;;
  esac
}

# Integration tests that others would disturb, or that would disturb them: load without a bound, peers that are cut off after a second, writes that go on within three.
has_machine_alone() { case $1 in test_abuse.py | test_overload.py | test_bench.py | test_cluster.py) ;; *) return 1 ;; esac; }
# The longest first, so that none of them is left over at the end.
in_order() {
  local f first=(test_crash test_zones test_faults test_grpc_clients test_membership test_groups)
  for f in "${first[@]}"; do echo "tests/integration/$f.py"; done
  for f in tests/integration/test_*; do [[ " ${first[*]} " == *" $(basename "$f" .py) "* ]] || has_machine_alone "$(basename "$f")" || echo "$f"; done
  for f in tests/integration/test_*; do ! has_machine_alone "$(basename "$f")" || echo "$f"; done
}

# A sanitizer's build is for what the sanitizer says. What fails in one without its word is mostly the time that a slow build takes on a busy machine, so it may try
# once more, and that is told. In the plain build that goes for integration tests alone, and only where each failed case says of itself that something took too long or was refused for the moment: what is wrong stays wrong.
refused_for_now() { # LOG
  local cases; cases=$(grep -c '^not ok ' "$1")
  [ "$cases" -gt 0 ] && [ "$(grep -cE '^#   .*(RESOURCE_EXHAUSTED OVERLOADED: |UNAVAILABLE [A-Z_]+: |DEADLINE_EXCEEDED|: not within [0-9.]+ s)' "$1")" -ge "$cases" ]
}
again() { # NAME EXIT LOG
  [ "$2" -ne 0 ] && { [ "$2" -lt 128 ] && [ "${TEST_ONCE:-0}" = 0 ]; } && ! grep -qE '[A-Za-z]+Sanitizer|runtime error: |check failed: |the server has ended' "$3" || return 1
  [ "$slow" -gt 1 ] || { [[ $1 == integration/* ]] && refused_for_now "$3"; }
}
limited() { # SECONDS LOG COMMAND...: what it printed is in LOG.log, its CPU time in LOG.cpu
  local seconds=$1 to=$2 TIMEFORMAT='%U s, and for %S s the kernel'; shift 2
  { time timeout --kill-after=10 "$seconds" "$@" >"$to.log" 2>&1; } 2>"$to.cpu"
}
one() { # NAME SECONDS COMMAND...: runs it, leaves a log and a row "ok failed skipped", and prints what there is to say in one piece
  local name=$1 limit=$(($2 * slow)) log rc ok bad skip start=$SECONDS; shift 2
  log=$logs/$(echo "$name" | tr '/ ' '__')
  limited "$limit" "$log" "$@"; rc=$?
  if again "$name" $rc "$log.log"; then
    mv "$log.log" "$log.first.log"
    limited "$limit" "$log" "$@"; rc=$?
  fi
  ok=$(grep -cE '^(ok |\[       OK \])' "$log.log"); skip=$(grep -cE '^(skip |\[  SKIPPED \] [a-z])' "$log.log")
  bad=$(grep -E '^(not ok |\[  FAILED  \] [a-z])' "$log.log" | sort -u | wc -l)
  {
    if [ -f "$log.first.log" ]; then
      echo "   $name: failed at first, with nothing said to be wrong, and was run again: $log.first.log"
      grep -E -A4 '^(not ok |\[  FAILED  \] [a-z])' "$log.first.log" | sed 's/^/   | /' | head -40
    fi
    [ "$bad" -gt 0 ] && grep -E '^(not ok |\[  FAILED  \] [a-z])' "$log.log" | sort -u | sed 's/^/   /'
    if [ $rc -ne 0 ] && [ "$bad" -eq 0 ]; then
      bad=1
      [ $rc -eq 124 ] || [ $rc -eq 137 ] && echo "   $name: not done after $limit s, in which it computed for $(tail -1 "$log.cpu")" || echo "   $name: exit $rc"
      tail -15 "$log.log" | sed 's/^/   | /'
    elif [ $((ok + bad + skip)) -eq 0 ]; then
      bad=1; echo "   $name: no test ran"
    fi
    [ "$bad" -gt 0 ] && echo "   all it said: $log.log"
    grep -E '^skip ' "$log.log" | sed 's/^/   /'
    printf '%-40s %4d ok %3d failed %3d skipped %5d s\n' "$name" "$ok" "$bad" "$skip" $((SECONDS - start))
  } >"$log.says"
  echo "$ok $bad $skip" >"$log.row"
  cat "$log.says"
}
passed=0 failed=0 skipped=0
collect() { # NAME...: adds up their rows
  local name ok bad skip
  for name in "$@"; do
    read -r ok bad skip <"$logs/$(echo "$name" | tr '/ ' '__').row" || { ok=0 bad=1 skip=0; echo "   $name: left no result"; }
    passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skip))
  done
}
stop() { trap - INT TERM; for j in $(jobs -p); do pkill -TERM -P "$j"; kill "$j" 2>/dev/null; done; wait; echo "interrupted"; exit 130; }
trap stop INT TERM

begun=$SECONDS
kinds=("$@"); [ ${#kinds[@]} -gt 0 ] || kinds=("${kinds_all[@]}")
times= ran=() names=() together_kinds= start=$SECONDS
ended() { # what has been started; kinds that ran beside each other have one time
  wait
  collect "${names[@]}"
  [ -z "$together_kinds" ] || times+="$together_kinds $((SECONDS - start)) s, "
  names=() together_kinds= start=$SECONDS
}
for kind in "${kinds[@]}"; do
  [ "$kind" != integration ] || ended
  together_kinds+="${together_kinds:+ }$kind"
  together=$jobs_max
  [ "$kind" != integration ] || [ "$jobs_max" -lt 2 ] || together=2
  [ "$kind" != integration ] || [ "$slow" -eq 1 ] || together=1
  case $kind in
    tidy) files=(tests/tidy.sh) ;;
    unit) files=(tests/unit/test_*.c) ;;
    sim) files=(tests/sim/sim_*.c) ;;
    fuzz) files=(tests/fuzz/fuzz_*.c) ;;
    perf) files=(tests/perf/guard.py) ;;
    integration) mapfile -t files < <(in_order) ;;
    *) echo "tests/run.sh: $kind is not a kind of test" >&2; exit 2 ;;
  esac
  for file in "${files[@]}"; do
    [ -f "$file" ] || continue
    name=$(basename "${file%.c}") program=$B/${file%.c} label=$kind/$(basename "${file%.c}")
    case $kind in
      tidy) label=tidy command=(300 "$file" "$B") ;;
      perf) label=perf/guard command=(300 "$file" "$B") ;;
      unit) wanted "$name" || continue; command=(120 "$program") ;;
      sim) command=(300 "$program") ;;
      fuzz) command=(120 "$program" --seconds "${FUZZ_SECONDS:-5}") ;;
      integration) more=$(arguments "$name") || continue
        # shellcheck disable=SC2206
        command=(900 "$file" "$B" $more) ;;
    esac
    rm -f "$logs/$(echo "$label" | tr '/ ' '__')".*
    names+=("$label") ran+=("$(echo "$label" | tr '/ ' '__')")
    [ "$kind" != integration ] || ! has_machine_alone "$name" || together=1
    while [ "$(jobs -rp | wc -l)" -ge "$together" ]; do wait -n; done
    one "$label" "${command[@]}" &
  done
  [ "$kind" != integration ] || ended
done
ended
# What failed is said once more at the end: of a long output often only the end is kept.
if [ "$failed" -gt 0 ]; then
  echo "failed:"
  for says in "${ran[@]}"; do grep -q ' 0 failed ' "$logs/$says.says" || { cat "$logs/$says.says"; tail -"${FAILED_LINES:-25}" "$logs/$says.log" | sed 's/^/   | /'; }; done
fi
twice=0
for log in "${ran[@]}"; do [ ! -f "$logs/$log.first.log" ] || twice=$((twice + 1)); done
[ "$twice" -eq 0 ] || echo "$twice programs were run twice (why: above)"
echo "$times""all $((SECONDS - begun)) s"
[ "$skipped" -eq 0 ] || echo "$skipped skipped (why: above)"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
