#!/usr/bin/env bash
# Runs the tests: tests/run.sh BUILD_DIR [unit|sim|fuzz|integration|tidy ...]. Ends with one line: N passed, N failed.
# Every test program prints cmocka's lines or TAP-like ones: "ok NAME", "not ok NAME", "skip NAME: why".
set -u
cd "$(dirname "$0")/.."
B=$1; shift
kinds=("$@"); [ ${#kinds[@]} -gt 0 ] || kinds=(tidy unit sim fuzz integration)
passed=0 failed=0 skipped=0
logs=$B/test-logs; mkdir -p "$logs"
export BUILD=$B
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:abort_on_error=1} UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-suppressions=$PWD/tests/tsan.supp:halt_on_error=1}
one() { # NAME SECONDS COMMAND...
  local name=$1 limit=$2 log rc ok bad skip start=$SECONDS; shift 2
  log=$logs/$(echo "$name" | tr '/ ' '__').log
  timeout --kill-after=10 "$limit" "$@" >"$log" 2>&1; rc=$?
  ok=$(grep -cE '^(ok |\[       OK \])' "$log"); bad=$(grep -cE '^(not ok |\[  FAILED  \] [a-z])' "$log"); skip=$(grep -cE '^(skip |\[  SKIPPED \] [a-z])' "$log")
  if [ $rc -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; echo "   $name: exit $rc, see $log"; tail -15 "$log" | sed 's/^/   | /'; fi
  if [ $rc -eq 0 ] && [ $((ok + bad + skip)) -eq 0 ]; then bad=1; echo "   $name: no test ran"; fi
  passed=$((passed + ok)); failed=$((failed + bad)); skipped=$((skipped + skip))
  [ "$bad" -gt 0 ] && grep -E '^(not ok|\[  FAILED  \] [a-z])' "$log" | sort -u | sed 's/^/   /'
  grep -E '^skip ' "$log" | sed 's/^/   /'
  printf '%-44s %4d ok %3d failed %3d skipped %4ds\n' "$name" "$ok" "$bad" "$skip" $((SECONDS - start))
}
for kind in "${kinds[@]}"; do
  case $kind in
    tidy) [ -x tests/tidy.sh ] && one tidy 300 tests/tidy.sh "$B" ;;
    unit) for t in "$B"/tests/unit/test_*; do [ -f "$t" ] && [[ $t != *.d ]] && one "unit/$(basename "$t")" 300 "$t"; done ;;
    sim) for t in "$B"/tests/sim/sim_*; do [ -f "$t" ] && [[ $t != *.d ]] && one "sim/$(basename "$t")" 600 "$t"; done ;;
    fuzz) for t in "$B"/tests/fuzz/fuzz_*; do [ -f "$t" ] && [[ $t != *.d ]] && one "fuzz/$(basename "$t")" 120 "$t" --seconds "${FUZZ_SECONDS:-5}"; done ;;
    integration) for t in tests/integration/test_*; do [ -x "$t" ] && one "integration/$(basename "$t")" 900 "$t" "$B"; done ;;
  esac
done
echo "$passed passed, $failed failed${skipped:+ ($skipped skipped)}" | sed 's/ (0 skipped)//'
[ "$failed" -eq 0 ]
