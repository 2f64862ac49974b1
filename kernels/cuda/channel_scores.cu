#include "glyptic/kernels/channel_scores.h"

#include "grid.cuh"

namespace glyptic::kernels::cuda {
namespace {

/// Lane 0 gets the sum, by the tree 16, 8, 4, 2, 1.
template <class T>
__device__ T lane_tree(T value) {
  for (int step = 16; step > 0; step /= 2) value = value + __shfl_down_sync(0xffffffffu, value, step);
  return value;
}

__device__ double score_row(const RowEntry& e, int64_t row, RowScore score, int lane) {
  const float* w = e.weight + row * e.row_size;
  const int64_t n = e.row_size;
  if (score == RowScore::mean_magnitude || score == RowScore::masked_mean_magnitude) {
    const uint8_t* mask = score == RowScore::masked_mean_magnitude && e.mask ? e.mask + row * n : nullptr;
    double sum = 0;
    long long kept = 0;
    for (int64_t i = lane; i < n; i += kRowLanes) {
      const bool keep = mask ? mask[i] != 0 : true;
      kept += keep;
      sum += static_cast<double>(keep ? fabsf(w[i]) : 0.0f);
    }
    sum = lane_tree(sum);
    kept = lane_tree(kept);
    return kept ? sum / static_cast<double>(kept) : 0.0;
  }
  const int64_t cell = score == RowScore::kernel_density ? e.kernel_size : 1;
  const int64_t cells = n / cell;
  long long count = 0;
  for (int64_t k = lane; k < cells; k += kRowLanes) {
    bool any = false;
    for (int64_t i = 0; i < cell; ++i) any |= w[k * cell + i] != 0.0f;
    count += any;
  }
  return static_cast<double>(lane_tree(count)) / static_cast<double>(cells);
}

/// One warp per row.
__global__ void __launch_bounds__(kThreads) scores(const RowEntry* entries, ChunkMap map, RowScore score) {
  const ChunkPlace place = locate_chunk(map, blockIdx.x);
  const RowEntry e = entries[place.entry];
  const int64_t end = smaller(place.begin + map.chunk, e.rows);
  const int lane = threadIdx.x % 32;
  for (int64_t row = place.begin + threadIdx.x / 32; row < end; row += kThreads / 32) {
    const double value = e.row_size ? score_row(e, row, score, lane) : 0.0;
    if (lane == 0) e.out[row] = static_cast<float>(value);
  }
}

}  // namespace

void channel_scores(const RowEntry* entries, ChunkMap map, int64_t chunks, RowScore score, void* stream) {
  scores<<<blocks_for(chunks), kThreads, 0, as_stream(stream)>>>(entries, map, score);
}

}  // namespace glyptic::kernels::cuda
