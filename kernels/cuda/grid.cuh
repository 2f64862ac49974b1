// One block per chunk: the frame of the elementwise kernels.
#pragma once

#include <cuda_runtime.h>

#include "glyptic/kernels/chunks.h"

namespace glyptic::kernels::cuda {

constexpr int kThreads = 256;

__device__ inline int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

inline cudaStream_t as_stream(void* stream) {
  return static_cast<cudaStream_t>(stream);
}

inline unsigned blocks_for(int64_t chunks) {
  return static_cast<unsigned>(chunks);
}

/// True where every pointer that is given lies on a multiple of `bytes`.
__device__ inline bool aligned(const void* pointer, unsigned bytes) {
  return (reinterpret_cast<unsigned long long>(pointer) & (bytes - 1)) == 0;
}

/// True where none of four masks is set.
__device__ inline bool none_active(uchar4 mask) {
  return (mask.x | mask.y | mask.z | mask.w) == 0;
}

/// Sum over the block; the result is valid in thread 0. All threads must call it.
__device__ inline int block_sum(int value) {
  __shared__ int total;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
  if ((threadIdx.x & 31) == 0) atomicAdd(&total, value);
  __syncthreads();
  const int result = total;
  __syncthreads();
  return result;
}

}  // namespace glyptic::kernels::cuda
