#include "glyptic/kernels/masked_adamw.h"

#include <utility>

#include "grid.cuh"

namespace glyptic::kernels::cuda {
namespace {

template <int flags>
__global__ void __launch_bounds__(kThreads) step(const AdamEntry* entries, ChunkMap map, AdamScalars s) {
  const ChunkPlace place = locate_chunk(map, blockIdx.x);
  const AdamEntry e = entries[place.entry];
  const int64_t end = smaller(place.begin + map.chunk, e.size);
  int64_t first = place.begin;
  if (aligned(e.weight, 16) && aligned(e.grad, 16) && aligned(e.exp_avg, 16) && aligned(e.exp_avg_sq, 16) &&
      aligned(e.mask, 4) && aligned(e.steps, 16) && aligned(e.origin, 16)) {
    const int64_t whole = place.begin + (end - place.begin) / 4 * 4;
    for (int64_t i = place.begin + 4 * static_cast<int64_t>(threadIdx.x); i < whole; i += 4 * kThreads) {
      uchar4 keep = make_uchar4(1, 1, 1, 1);
      if (flags & kAdamMasked) {
        keep = *reinterpret_cast<const uchar4*>(e.mask + i);
        if (s.off_mask_is_zero && none_active(keep)) continue;
      }
      // Registers that look like the arrays of four weights, so that the arithmetic is written once.
      float4 w = *reinterpret_cast<const float4*>(((flags & kAdamOrigin) ? e.origin : e.weight) + i);
      float4 g = *reinterpret_cast<const float4*>(e.grad + i);
      float4 m = *reinterpret_cast<const float4*>(e.exp_avg + i);
      float4 v = *reinterpret_cast<const float4*>(e.exp_avg_sq + i);
      int4 steps = make_int4(0, 0, 0, 0);
      if (flags & kAdamSteps) steps = *reinterpret_cast<const int4*>(e.steps + i);
      AdamEntry four{&w.x, &g.x, &m.x, &v.x, &keep.x, &steps.x, 4, &w.x};
#pragma unroll
      for (int j = 0; j < 4; ++j) adam_element<flags>(four, j, s);
      *reinterpret_cast<float4*>(e.weight + i) = w;
      *reinterpret_cast<float4*>(e.exp_avg + i) = m;
      *reinterpret_cast<float4*>(e.exp_avg_sq + i) = v;
      if (flags & kAdamSteps) *reinterpret_cast<int4*>(e.steps + i) = steps;
    }
    first = whole;
  }
  for (int64_t i = first + threadIdx.x; i < end; i += kThreads) adam_element<flags>(e, i, s);
}

using Kernel = void (*)(const AdamEntry*, ChunkMap, AdamScalars);

template <int... flags>
Kernel pick(int wanted, std::integer_sequence<int, flags...>) {
  static const Kernel kernels[] = {&step<flags>...};
  return kernels[wanted];
}

}  // namespace

void masked_adamw(const AdamEntry* entries, ChunkMap map, int64_t chunks, const AdamScalars& scalars,
                  int flags, void* stream) {
  const Kernel kernel = pick(flags, std::make_integer_sequence<int, kAdamVariants>());
  kernel<<<blocks_for(chunks), kThreads, 0, as_stream(stream)>>>(entries, map, scalars);
}

}  // namespace glyptic::kernels::cuda
