#include "glyptic/kernels/ascend.h"

#include "sum_lanes.cuh"

namespace glyptic::kernels::cuda {
namespace {

__global__ void __launch_bounds__(kThreads)
    move(const AscendEntry* entries, ChunkMap map, AscendScalars s, const double* norm) {
  const ChunkPlace place = locate_chunk(map, blockIdx.x);
  const AscendEntry e = entries[place.entry];
  const int64_t end = smaller(place.begin + map.chunk, e.size);
  float factor = 0.0f;
  const bool moves = ascend_factor(e.rho, *norm, s, &factor);
  const float eta = static_cast<float>(s.eta);
  for (int64_t i = place.begin + threadIdx.x; i < end; i += kThreads)
    ascend_element(e, i, factor, moves, eta, s.max_norm);
}

__global__ void __launch_bounds__(kThreads)
    average(const EmaEntry* entries, ChunkMap map, EmaScalars s, ProductSums* sums) {
  const ChunkPlace place = locate_chunk(map, blockIdx.x);
  const EmaEntry e = entries[place.entry];
  const int64_t end = smaller(place.begin + map.chunk, e.size);
  double squares = 0;
  for (int64_t i = place.begin + threadIdx.x; i < end; i += kThreads)
    squares = squares + ema_element(e, i, s);
  squares = sum_lanes(squares);
  if (threadIdx.x == 0) sums[blockIdx.x] = ProductSums{squares, 0.0, 0.0};
}

__global__ void __launch_bounds__(kThreads)
    mix(const CombineEntry* entries, ChunkMap map, const double* coefficients) {
  const ChunkPlace place = locate_chunk(map, blockIdx.x);
  const CombineEntry e = entries[place.entry];
  const int64_t end = smaller(place.begin + map.chunk, e.size);
  const float c0 = static_cast<float>(coefficients[0]), c1 = static_cast<float>(coefficients[1]);
  for (int64_t i = place.begin + threadIdx.x; i < end; i += kThreads) e.a[i] = c0 * e.a[i] + c1 * e.b[i];
}

}  // namespace

void ascend(const AscendEntry* entries, ChunkMap map, int64_t chunks, const AscendScalars& scalars,
            const double* norm, void* stream) {
  move<<<blocks_for(chunks), kThreads, 0, as_stream(stream)>>>(entries, map, scalars, norm);
}

void ema_direction(const EmaEntry* entries, ChunkMap map, int64_t chunks, const EmaScalars& scalars,
                   ProductSums* sums, void* stream) {
  average<<<blocks_for(chunks), kThreads, 0, as_stream(stream)>>>(entries, map, scalars, sums);
}

void combine(const CombineEntry* entries, ChunkMap map, int64_t chunks, const double* coefficients,
             void* stream) {
  mix<<<blocks_for(chunks), kThreads, 0, as_stream(stream)>>>(entries, map, coefficients);
}

}  // namespace glyptic::kernels::cuda
