#include "glyptic/kernels/noise_ascend.h"

#include "sum_lanes.cuh"

namespace glyptic::kernels::cuda {
namespace {

// Four neighbours per thread, which one block of the stream feeds; lanes are as everywhere (element i of a
// chunk belongs to lane i mod kSumLanes), so the squares pass through shared memory.
__global__ void __launch_bounds__(kThreads)
    move(const NoiseEntry* entries, ChunkMap map, NoiseScalars s, ProductSums* sums) {
  __shared__ float noise[4 * kThreads];
  const ChunkPlace place = locate_chunk(map, blockIdx.x);
  const NoiseEntry e = entries[place.entry];
  const int64_t end = smaller(place.begin + map.chunk, e.size);
  FillArgs a{};
  a.seed = s.seed;
  a.kind = s.kind;
  double squares = 0;
  for (int64_t at = place.begin; at < end; at += 4 * kThreads) {
    const int64_t first = at + 4 * static_cast<int64_t>(threadIdx.x);
    float sum[4] = {0, 0, 0, 0};
    for (int64_t k = 0; k < s.draws; ++k) {
      float u[4];
      a.stream = s.streams[k];
      fill_block(a, (e.offset + static_cast<uint64_t>(first)) / 4, u);
      const float c = static_cast<float>(s.coefficients[k]);
      for (int j = 0; j < 4; ++j) sum[j] = k == 0 ? c * u[j] : sum[j] + c * u[j];
    }
    for (int j = 0; j < 4; ++j) {
      const int64_t i = first + j;
      const bool inside = i < end;
      const bool keep = inside && (e.mask ? e.mask[i] != 0 : true);
      const float n = keep ? sum[j] : 0.0f;
      noise[4 * threadIdx.x + j] = n;
      if (inside && e.weight) e.weight[i] = keep ? e.origin[i] + n : e.origin[i];
    }
    __syncthreads();
    for (int j = 0; j < 4; ++j) {
      const double n = static_cast<double>(noise[j * kThreads + threadIdx.x]);
      squares = squares + n * n;
    }
    __syncthreads();
  }
  squares = sum_lanes(squares);
  if (threadIdx.x == 0) sums[blockIdx.x] = ProductSums{squares, 0.0, 0.0};
}

}  // namespace

void noise_ascend(const NoiseEntry* entries, ChunkMap map, int64_t chunks, const NoiseScalars& scalars,
                  ProductSums* sums, void* stream) {
  move<<<blocks_for(chunks), kThreads, 0, as_stream(stream)>>>(entries, map, scalars, sums);
}

}  // namespace glyptic::kernels::cuda
