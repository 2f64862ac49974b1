#include "glyptic/kernels/mask_update.h"

#include "grid.cuh"

namespace glyptic::kernels::cuda {
namespace {

template <class Word>
__device__ void clear(void* data, const uint8_t* mask, const uint8_t* new_mask, int64_t begin, int64_t end) {
  Word* x = static_cast<Word*>(data);
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads)
    if (!(mask[i] && new_mask[i])) x[i] = 0;
}

__global__ void __launch_bounds__(kThreads)
    update(const MaskUpdateEntry* entries, const MaskUpdateArray* arrays, ChunkMap map, int64_t* counts) {
  const ChunkPlace place = locate_chunk(map, blockIdx.x);
  const MaskUpdateEntry e = entries[place.entry];
  const int64_t begin = place.begin, end = smaller(place.begin + map.chunk, e.size);
  for (int k = e.first_array; k < e.first_array + e.arrays; ++k) {
    const MaskUpdateArray a = arrays[k];
    switch (a.element_bytes) {
      case 1:
        clear<uint8_t>(a.data, e.mask, e.new_mask, begin, end);
        break;
      case 2:
        clear<uint16_t>(a.data, e.mask, e.new_mask, begin, end);
        break;
      case 4:
        clear<uint32_t>(a.data, e.mask, e.new_mask, begin, end);
        break;
      default:
        clear<unsigned long long>(a.data, e.mask, e.new_mask, begin, end);
        break;
    }
  }
  // Each thread reads and writes the mask at its own indices only, the same ones in every loop: no barrier
  // needed.
  int dropped = 0, grown = 0, active = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const bool was = e.mask[i] != 0, is = e.new_mask[i] != 0;
    dropped += was && !is;
    grown += is && !was;
    active += is;
    if (was != is) e.mask[i] = is;
  }
  dropped = block_sum(dropped);
  grown = block_sum(grown);
  active = block_sum(active);
  if (threadIdx.x == 0) {
    auto* row = reinterpret_cast<unsigned long long*>(counts + 3 * place.entry);
    atomicAdd(row, static_cast<unsigned long long>(dropped));
    atomicAdd(row + 1, static_cast<unsigned long long>(grown));
    atomicAdd(row + 2, static_cast<unsigned long long>(active));
  }
}

}  // namespace

void mask_update(const MaskUpdateEntry* entries, const MaskUpdateArray* arrays, ChunkMap map, int64_t chunks,
                 int64_t* counts, void* stream) {
  update<<<blocks_for(chunks), kThreads, 0, as_stream(stream)>>>(entries, arrays, map, counts);
}

}  // namespace glyptic::kernels::cuda
