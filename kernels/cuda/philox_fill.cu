#include "glyptic/kernels/philox_fill.h"

#include "grid.cuh"

namespace glyptic::kernels::cuda {
namespace {

template <FloatType type>
__device__ void store(void* out, int64_t i, float x) {
  if (type == FloatType::float32) static_cast<float*>(out)[i] = x;
  if (type == FloatType::float64) static_cast<double*>(out)[i] = static_cast<double>(x);
  if (type == FloatType::bfloat16) static_cast<uint16_t*>(out)[i] = to_bfloat16(x);
  if (type == FloatType::float16) static_cast<uint16_t*>(out)[i] = to_float16(x);
}

/// One Philox block, that is four numbers, per thread and turn.
template <FloatType type>
__global__ void __launch_bounds__(kThreads) fill(FillArgs a) {
  const int64_t lead = static_cast<int64_t>(a.offset % 4);
  const int64_t blocks = (a.size + lead + 3) / 4;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t j = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; j < blocks; j += stride) {
    float number[4];
    fill_block(a, a.offset / 4 + static_cast<uint64_t>(j), number);
    const int64_t at = 4 * j - lead;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (at + i >= 0 && at + i < a.size) store<type>(a.out, at + i, number[i]);
  }
}

}  // namespace

void philox_fill(const FillArgs& a, void* stream) {
  if (a.size == 0) return;
  const int64_t wanted = ((a.size + 6) / 4 + kThreads - 1) / kThreads;
  const unsigned blocks = blocks_for(wanted < 65536 ? wanted : 65536);
  switch (a.type) {
    case FloatType::float32:
      fill<FloatType::float32><<<blocks, kThreads, 0, as_stream(stream)>>>(a);
      return;
    case FloatType::float64:
      fill<FloatType::float64><<<blocks, kThreads, 0, as_stream(stream)>>>(a);
      return;
    case FloatType::bfloat16:
      fill<FloatType::bfloat16><<<blocks, kThreads, 0, as_stream(stream)>>>(a);
      return;
    case FloatType::float16:
      fill<FloatType::float16><<<blocks, kThreads, 0, as_stream(stream)>>>(a);
      return;
  }
}

}  // namespace glyptic::kernels::cuda
