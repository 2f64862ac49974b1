// x = mask ? x : 0, in place, for elements of 1, 2, 4 or 8 bytes: zero is the pattern of all zero bits, so
// what was NaN or Inf becomes zero too. 9 bytes per float32 (read x, mask; write x). x and mask must not
// overlap.
#pragma once

#include <cstdint>

#include "glyptic/kernels/chunks.h"

namespace glyptic::kernels {

struct MaskApplyEntry {
  void* data;
  const uint8_t* mask;
  int64_t size;
  int32_t element_bytes;
};

GLYPTIC_KERNEL(void, mask_apply, (const MaskApplyEntry* entries, ChunkMap map, int threads))

namespace cuda {
void mask_apply(const MaskApplyEntry* entries, ChunkMap map, int64_t chunks, void* stream);
}  // namespace cuda

}  // namespace glyptic::kernels
