// Sums of chunks and of their sums, one lane per thread (inner_products.h).
#pragma once

#include "glyptic/kernels/inner_products.h"
#include "grid.cuh"

namespace glyptic::kernels::cuda {

static_assert(kSumLanes == kThreads, "one lane per thread");

/// The tree over the lanes of a block; the result is valid in thread 0. All threads must call it.
__device__ inline double sum_lanes(double value) {
  __shared__ double lane[kSumLanes];
  lane[threadIdx.x] = value;
  __syncthreads();
  for (int step = kSumLanes / 2; step > 0; step /= 2) {
    if (threadIdx.x < step) lane[threadIdx.x] = lane[threadIdx.x] + lane[threadIdx.x + step];
    __syncthreads();
  }
  const double result = lane[0];
  __syncthreads();
  return result;
}

}  // namespace glyptic::kernels::cuda
