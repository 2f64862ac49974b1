// One score per output row of each weight, float32 in and out. A row of n weights is summed by 32 lanes in
// float64 (lane j takes positions j, j + 32, ...), and the lanes by a tree (16, 8, 4, 2, 1): one order on
// every device and for every number of threads, hence the same bits. An empty row scores 0. 4 bytes per
// weight (5 with a mask).
#pragma once

#include <cstdint>

#include "glyptic/kernels/chunks.h"

namespace glyptic::kernels {

enum class RowScore : int32_t { mean_magnitude, masked_mean_magnitude, density, kernel_density };

struct RowEntry {
  const float* weight;
  const uint8_t* mask;  ///< read by masked_mean_magnitude only; null: everything is kept
  float* out;           ///< [rows]
  int64_t rows, row_size;
  int64_t kernel_size;  ///< consecutive weights that form one k x k kernel; divides row_size
};

constexpr int64_t kRowLanes = 32;

/// `map` numbers chunks of rows, not of weights.
GLYPTIC_KERNEL(void, channel_scores, (const RowEntry* entries, ChunkMap map, RowScore score, int threads))

namespace cuda {
void channel_scores(const RowEntry* entries, ChunkMap map, int64_t chunks, RowScore score, void* stream);
}  // namespace cuda

}  // namespace glyptic::kernels
