#include "glyptic/kernels/mask_apply.h"

#include "grid.cuh"

namespace glyptic::kernels::cuda {
namespace {

template <class Word>
__device__ void clear(void* data, const uint8_t* mask, int64_t begin, int64_t end) {
  Word* x = static_cast<Word*>(data);
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads)
    if (!mask[i]) x[i] = 0;  // what is kept is neither read nor written
}

__global__ void __launch_bounds__(kThreads) apply(const MaskApplyEntry* entries, ChunkMap map) {
  const ChunkPlace place = locate_chunk(map, blockIdx.x);
  const MaskApplyEntry e = entries[place.entry];
  const int64_t end = smaller(place.begin + map.chunk, e.size);
  switch (e.element_bytes) {
    case 1:
      return clear<uint8_t>(e.data, e.mask, place.begin, end);
    case 2:
      return clear<uint16_t>(e.data, e.mask, place.begin, end);
    case 4:
      return clear<uint32_t>(e.data, e.mask, place.begin, end);
    default:
      return clear<unsigned long long>(e.data, e.mask, place.begin, end);
  }
}

}  // namespace

void mask_apply(const MaskApplyEntry* entries, ChunkMap map, int64_t chunks, void* stream) {
  apply<<<blocks_for(chunks), kThreads, 0, as_stream(stream)>>>(entries, map);
}

}  // namespace glyptic::kernels::cuda
