#!/usr/bin/env bash
# Fuzzes the readers, two at a time, and prints what came of it. Inputs that reach new code stay in
# build/asan-ubsan/fuzz/<name>/corpus and are the start of the next call; findings are build/asan-ubsan/fuzz/<name>/found-*.
#
# usage: cmake/fuzz.sh PYTHON SECONDS [TARGET...]     SECONDS for each; TARGET: a file name in tests/fuzz
#        cmake/fuzz.sh PYTHON merge [TARGET...]       adds small inputs that reach new code to tests/fuzz/corpus
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:?usage: cmake/fuzz.sh PYTHON SECONDS [TARGET...]}
seconds=${2:?usage: cmake/fuzz.sh PYTHON SECONDS [TARGET...]}
shift 2
build=build/asan-ubsan
if [ $# = 0 ]; then
  for file in tests/fuzz/*.cpp; do
    name=$(basename "$file" .cpp)
    case $name in harness | replay) ;; *) set -- "$@" "$name" ;; esac
  done
fi
CC=${CC:-gcc} CXX=${CXX:-clang++} cmake --preset asan-ubsan -DGLYPTIC_PYTHON="$python" >/dev/null
cmake --build "$build" -j 2 --target "${@/#/fuzz_}"

export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 UBSAN_OPTIONS=print_stacktrace=1
common="-max_len=65536 -timeout=20 -rss_limit_mb=3072"
if [ "$seconds" = merge ]; then
  # The smallest only, 40 files or 12 KB a target: the corpora of all are to stay below 200 KB.
  for name in "$@"; do
    cover=$(mktemp -d)
    "$build/bin/fuzz_$name" $common -max_len=1500 -set_cover_merge=1 "$cover" "tests/fuzz/corpus/$name" \
      "$build/fuzz/$name/corpus" >"$build/fuzz/$name/merge.txt" 2>&1
    find "$cover" -type f -size +0 -printf '%s %p\n' | sort -n | head -n 40 | while read -r size path; do
      total=$((${total:-0} + size))
      [ "$total" -le 12000 ] || break
      cp "$path" "tests/fuzz/corpus/$name/cover-$(basename "$path" | cut -c1-12)"
    done
    rm -rf "$cover"
  done
  du -sb tests/fuzz/corpus
  exit 0
fi
fuzz() {
  local work=$2/fuzz/$1
  mkdir -p "$work/corpus"
  nice "$2/bin/fuzz_$1" "$work/corpus" "tests/fuzz/corpus/$1" $4 -max_total_time="$3" -artifact_prefix="$work/found-" \
    -print_final_stats=1 >"$work/log.txt" 2>&1 || true
}
export -f fuzz
printf '%s\n' "$@" | xargs -P 2 -I {} bash -c "fuzz {} $build $seconds '$common'"

printf '%-16s %12s %8s %8s %9s %8s  %s\n' target executions per_s edges features peak_MB findings
status=0
for name in "$@"; do
  log=$build/fuzz/$name/log.txt
  value() { sed -n "s/^stat::$1: *//p" "$log" | tail -n 1; }
  read -r edges features < <(sed -n 's/.*DONE *cov: \([0-9]*\) ft: \([0-9]*\).*/\1 \2/p' "$log" | tail -n 1) || true
  found=$(find "$build/fuzz/$name" -name 'found-*' | wc -l)
  printf '%-16s %12s %8s %8s %9s %8s  %s\n' "$name" "$(value number_of_executed_units)" "$(value average_exec_per_sec)" \
    "${edges:--}" "${features:--}" "$(value peak_rss_mb)" "$found"
  [ "$found" = 0 ] || status=1
done
exit $status
