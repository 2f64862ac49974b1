#include "glyptic/kernels/masked_sgd.h"

#include <utility>

#include "grid.cuh"

namespace glyptic::kernels::cuda {
namespace {

template <int flags>
__global__ void __launch_bounds__(kThreads) step(const SgdEntry* entries, ChunkMap map, SgdScalars s) {
  const ChunkPlace place = locate_chunk(map, blockIdx.x);
  const SgdEntry e = entries[place.entry];
  const int64_t end = smaller(place.begin + map.chunk, e.size);
  int64_t first = place.begin;
  // Four weights per thread and turn where memory is aligned; chunks begin at multiples of four.
  if (aligned(e.weight, 16) && aligned(e.origin, 16) && aligned(e.grad, 16) && aligned(e.velocity, 16) &&
      aligned(e.mask, 4)) {
    const int64_t whole = place.begin + (end - place.begin) / 4 * 4;
    for (int64_t i = place.begin + 4 * static_cast<int64_t>(threadIdx.x); i < whole; i += 4 * kThreads) {
      uchar4 m4 = make_uchar4(1, 1, 1, 1);
      if (flags & kSgdMasked) {
        m4 = *reinterpret_cast<const uchar4*>(e.mask + i);
        if (s.off_mask_is_zero && none_active(m4)) continue;
      }
      const float4 w4 = *reinterpret_cast<const float4*>(((flags & kSgdOrigin) ? e.origin : e.weight) + i);
      const float4 g4 = *reinterpret_cast<const float4*>(e.grad + i);
      float4 v4 = make_float4(0, 0, 0, 0);
      if ((flags & kSgdMomentum) && !(flags & kSgdFirst))
        v4 = *reinterpret_cast<const float4*>(e.velocity + i);
      float w[4] = {w4.x, w4.y, w4.z, w4.w}, v[4] = {v4.x, v4.y, v4.z, v4.w};
      const float g[4] = {g4.x, g4.y, g4.z, g4.w};
      const uint8_t m[4] = {m4.x, m4.y, m4.z, m4.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) sgd_element<flags>(w, w, g, v, m, j, s);
      *reinterpret_cast<float4*>(e.weight + i) = make_float4(w[0], w[1], w[2], w[3]);
      if (flags & kSgdMomentum)
        *reinterpret_cast<float4*>(e.velocity + i) = make_float4(v[0], v[1], v[2], v[3]);
    }
    first = whole;
  }
  for (int64_t i = first + threadIdx.x; i < end; i += kThreads)
    sgd_element<flags>(e.weight, e.origin, e.grad, e.velocity, e.mask, i, s);
}

using Kernel = void (*)(const SgdEntry*, ChunkMap, SgdScalars);

template <int... flags>
Kernel pick(int wanted, std::integer_sequence<int, flags...>) {
  static const Kernel kernels[] = {&step<flags>...};
  return kernels[wanted];
}

}  // namespace

void masked_sgd(const SgdEntry* entries, ChunkMap map, int64_t chunks, const SgdScalars& scalars, int flags,
                void* stream) {
  const Kernel kernel = pick(flags, std::make_integer_sequence<int, kSgdVariants>());
  kernel<<<blocks_for(chunks), kThreads, 0, as_stream(stream)>>>(entries, map, scalars);
}

}  // namespace glyptic::kernels::cuda
