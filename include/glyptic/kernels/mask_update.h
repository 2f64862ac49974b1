// Puts new masks in force in one pass. With keep = old mask and new mask: every array of a weight (the weight
// and its optimizer state, elements of 1, 2, 4 or 8 bytes) becomes keep ? x : 0; then mask = new mask. Counts
// per weight: dropped (old and not new), grown (new and not old), active (new).
//
// Bytes per float32 weight: 11 + 8 per state tensor. Elementwise, and the counts are integers: any number of
// threads gives the same result. `mask` may be `new_mask` itself; other arrays must not overlap.
#pragma once

#include <cstdint>

#include "glyptic/kernels/chunks.h"

namespace glyptic::kernels {

struct MaskUpdateArray {
  void* data;
  int32_t element_bytes;
};

struct MaskUpdateEntry {
  uint8_t* mask;
  const uint8_t* new_mask;
  int64_t size;
  int32_t first_array, arrays;  ///< its arrays are arrays[first_array ... first_array + arrays - 1]
};

/// `counts` is int64 [entries, 3] and must be zero before the call.
GLYPTIC_KERNEL(void, mask_update,
               (const MaskUpdateEntry* entries, const MaskUpdateArray* arrays, ChunkMap map, int64_t* counts,
                int threads))

namespace cuda {
void mask_update(const MaskUpdateEntry* entries, const MaskUpdateArray* arrays, ChunkMap map, int64_t chunks,
                 int64_t* counts, void* stream);
}  // namespace cuda

}  // namespace glyptic::kernels
