// Weights moved along random directions that are drawn again wherever they are needed and never stored:
//   n = sum_j c_j u_j,  w = origin + n  where the mask is true (elsewhere w = origin, and n = 0), and sum
//   n^2.
// u_j is a Philox stream (philox_fill.h) over all weights of the call: element i of an entry gets number
// `offset + i` of stream j. 8 bytes per weight, + 1 for a mask; without a weight only the sum is made.
//
// `map` is cut by kSumChunk, and sums are made as in inner_products.h: the same bits for any number of
// threads and on any device.
#pragma once

#include <cstdint>

#include "glyptic/kernels/chunks.h"
#include "glyptic/kernels/inner_products.h"
#include "glyptic/kernels/philox_fill.h"

namespace glyptic::kernels {

struct NoiseEntry {
  float* weight;  ///< null: only the sum
  const float* origin;
  const uint8_t* mask;
  int64_t size;
  uint64_t offset;  ///< a multiple of 4
};

struct NoiseScalars {
  uint64_t seed;
  FillKind kind;  ///< normal or rademacher
  int64_t draws;
  const uint64_t* streams;     ///< [draws]
  const double* coefficients;  ///< [draws]; rounded to float32 once
};

GLYPTIC_KERNEL(void, noise_ascend,
               (const NoiseEntry* entries, ChunkMap map, const NoiseScalars& scalars, ProductSums* sums,
                int threads))

namespace cuda {
/// `streams` and `coefficients` in device memory.
void noise_ascend(const NoiseEntry* entries, ChunkMap map, int64_t chunks, const NoiseScalars& scalars,
                  ProductSums* sums, void* stream);
}  // namespace cuda

}  // namespace glyptic::kernels
