// How a list of tensors becomes work: each is cut into chunks of a fixed number of elements, the chunks of
// all tensors are numbered in order, and a thread (on the GPU: a block) finds the tensor of its chunk by
// bisection. The cut depends on the sizes alone, never on the number of threads.
#pragma once

#include <cstdint>

#include "glyptic/kernels/isa.h"

namespace glyptic::kernels {

struct ChunkMap {
  const int64_t*
      first;  ///< [entries + 1]: number of the first chunk of each tensor, then the number of chunks
  int64_t entries;
  int64_t chunk;  ///< elements per chunk
};

struct ChunkPlace {
  int64_t entry;
  int64_t begin;  ///< first element; the end is min(begin + chunk, size of the tensor)
};

/// Writes first[0 .. entries]; `size(i)` gives the number of elements of tensor i.
template <class Size>
void number_chunks(int64_t entries, int64_t chunk, Size size, int64_t* first) {
  first[0] = 0;
  for (int64_t i = 0; i < entries; ++i) first[i + 1] = first[i] + (size(i) + chunk - 1) / chunk;
}

/// The place of chunk number `index`, 0 <= index < first[entries]. Tensors without elements are stepped over.
GLYPTIC_INLINE ChunkPlace locate_chunk(const ChunkMap& map, int64_t index) {
  int64_t low = 0, high = map.entries;  // first[low] <= index < first[high]
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (map.first[middle] <= index)
      low = middle;
    else
      high = middle;
  }
  return ChunkPlace{low, (index - map.first[low]) * map.chunk};
}

}  // namespace glyptic::kernels
