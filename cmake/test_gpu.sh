#!/usr/bin/env bash
# Builds and runs everything that needs a CUDA device: operators against the CPU's bits, the same under
# compute-sanitizer, and the kernels' bandwidth beside a device copy. Skips, with the reason, where there is none.
#
# usage: cmake/test_gpu.sh PYTHON [OUT]    OUT: folder for logs (default build/cuda/gpu-results)
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:?usage: cmake/test_gpu.sh PYTHON [OUT]}
out=${2:-build/cuda/gpu-results}

if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L 2>/dev/null | grep -q GPU; then
  echo "test-gpu: skipped, this machine has no CUDA device (nvidia-smi lists none)"
  exit 0
fi
if ! command -v nvcc >/dev/null; then
  echo "test-gpu: skipped, nvcc is not on PATH; install the CUDA toolkit"
  exit 0
fi
mkdir -p "$out"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$out/device.txt"
CC=${CC:-gcc} CXX=${CXX:-$(command -v clang++ || echo g++)} cmake --preset cuda -DGLYPTIC_PYTHON="$python"
cmake --build --preset cuda --target test_gpu micro_benchmarks
build/cuda/bin/test_gpu 2>&1 | tee "$out/test_gpu.txt"
sanitizer=$(command -v compute-sanitizer || echo "$(dirname "$(command -v nvcc)")/compute-sanitizer")
if [ -x "$sanitizer" ]; then
  for tool in memcheck racecheck; do
    "$sanitizer" --tool "$tool" --error-exitcode 1 build/cuda/bin/test_gpu --gtest_filter='-*Bandwidth*' >"$out/$tool.txt" 2>&1 ||
      { tail -n 40 "$out/$tool.txt"; exit 1; }
    tail -n 1 "$out/$tool.txt"
  done
else
  echo "test-gpu: compute-sanitizer was not found, so memory and races were not checked"
fi
build/cuda/bin/micro_benchmarks --benchmark_filter=Cuda --benchmark_out="$out/micro.json" --benchmark_out_format=json
