#!/usr/bin/env bash
# The C++ tests under the sanitizers, and the readers' replays under valgrind. A finding ends the program it is
# found in, and with it this script.
#
# usage: cmake/sanitize.sh PYTHON [JOBS] [asan|tsan|valgrind...]     default: all three
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:?usage: cmake/sanitize.sh PYTHON [JOBS] [asan|tsan|valgrind...]}
jobs=${2:-$(nproc)}
shift; shift || true
[ $# -gt 0 ] || set -- asan tsan valgrind
export CC=${CC:-gcc} CXX=${CXX:-clang++} OMP_WAIT_POLICY=PASSIVE
supp=$PWD/cmake/sanitize

for kind in "$@"; do
  case $kind in
    asan)
      cmake --preset asan-ubsan -DGLYPTIC_PYTHON="$python" >/dev/null
      cmake --build build/asan-ubsan -j "$jobs"
      UBSAN_OPTIONS=print_stacktrace=1 ctest --test-dir build/asan-ubsan -j "$jobs" --output-on-failure --no-tests=error
      ;;
    tsan)
      # The modules that start threads, and the kernels that run on them.
      modules="core kernels data"
      cmake --preset tsan -DGLYPTIC_PYTHON="$python" >/dev/null
      # shellcheck disable=SC2086,SC2046
      cmake --build build/tsan -j "$jobs" --target $(printf 'test_%s ' $modules)
      for module in $modules; do
        TSAN_OPTIONS="suppressions=$supp/tsan.supp halt_on_error=1 ignore_noninstrumented_modules=1" \
          "build/tsan/bin/test_$module" --gtest_brief=1
      done
      ;;
    valgrind)
      command -v valgrind >/dev/null || { echo "sanitize: valgrind is missing (Debian: apt-get install valgrind)" >&2; exit 2; }
      cmake --preset release -DGLYPTIC_PYTHON="$python" >/dev/null
      cmake --build build/release -j "$jobs" --target fuzz_targets
      # The programs count allocations by a malloc of their own, which valgrind is told to replace like glibc's. Torch
      # keeps what its initializers allocate; leaks are AddressSanitizer's to find, in our code.
      ls build/release/bin/fuzz_* | OMP_NUM_THREADS=1 xargs -P "$jobs" -I {} sh -c \
        'name=$(basename {} | sed s/fuzz_//); valgrind -q --error-exitcode=9 --leak-check=no --soname-synonyms=somalloc=NONE \
           --suppressions='"$supp"'/valgrind.supp {} tests/fuzz/corpus/$name >build/release/valgrind-$name.txt 2>&1 &&
           echo "valgrind: $name: $(tail -n 1 build/release/valgrind-$name.txt)" ||
           { tail -n 40 build/release/valgrind-$name.txt; echo "valgrind: $name FAILED"; exit 255; }'
      ;;
    *)
      echo "sanitize: '$kind' is none of asan, tsan, valgrind" >&2
      exit 2
      ;;
  esac
done
