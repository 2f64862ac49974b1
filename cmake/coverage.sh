#!/usr/bin/env bash
# Line coverage of the C++ library by its C++ tests, with clang's source-based coverage.
#
# usage: cmake/coverage.sh PYTHON [JOBS]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:?usage: cmake/coverage.sh PYTHON [JOBS]}
jobs=${2:-$(nproc)}
pick() { command -v "$1" || command -v "$1-14" || { echo "coverage: $1 is missing (Debian: apt-get install clang llvm)" >&2; exit 2; }; }
profdata=$(pick llvm-profdata)
cov=$(pick llvm-cov)
build=build/coverage
# For C++ alone, where they count for linking too: the C file is gcc's, which has no such options.
flags="-fprofile-instr-generate -fcoverage-mapping"
CC=gcc CXX=$(pick clang++) cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG="-O1 $flags" \
  -DGLYPTIC_CUDA=OFF -DGLYPTIC_BUILD_PYTHON=OFF -DGLYPTIC_BUILD_BENCHMARKS=OFF -DGLYPTIC_PYTHON="$python"
cmake --build "$build" -j "$jobs"
rm -f "$build"/*.profraw
for test in "$build"/bin/test_*; do
  LLVM_PROFILE_FILE="$PWD/$build/$(basename "$test").profraw" "$test" --gtest_brief=1
done
"$profdata" merge -sparse "$build"/*.profraw -o "$build/coverage.profdata"
"$cov" report "$build/lib/libglyptic.so" -instr-profile="$build/coverage.profdata" --ignore-filename-regex='/torch/|/usr/|/tests/' |
  tee "$build/coverage.txt"
