#include "glyptic/kernels/mask_update.h"

#include <cstddef>

#include "for_each.h"

namespace glyptic::kernels::GLYPTIC_ISA {
namespace {

constexpr int64_t kBlock = 4096;  // the mask of what is kept stays in the first-level cache between arrays

template <class Word>
void clear(void* data, const uint8_t* __restrict keep, int64_t begin, int64_t n) {
  Word* __restrict x = static_cast<Word*>(data) + begin;
  for (int64_t i = 0; i < n; ++i) x[i] = keep[i] ? x[i] : Word{0};
}

struct Counts {
  int64_t dropped = 0, grown = 0, active = 0;
};

Counts merge(uint8_t* mask, const uint8_t* new_mask, uint8_t* __restrict keep, int64_t n) {
  uint32_t before = 0, after = 0, both = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint8_t was = mask[i], is = new_mask[i];
    const uint8_t stays = was & is;
    keep[i] = stays;
    before += was;
    after += is;
    both += stays;
  }
  if (mask != new_mask) __builtin_memcpy(mask, new_mask, static_cast<std::size_t>(n));
  return Counts{int64_t{before} - both, int64_t{after} - both, int64_t{after}};
}

}  // namespace

void mask_update(const MaskUpdateEntry* entries, const MaskUpdateArray* arrays, ChunkMap map, int64_t* counts,
                 int threads) {
  for_each_chunk(
      map, threads, [&](int64_t i) { return entries[i].size; },
      [&](int64_t i, int64_t begin, int64_t end, int64_t) {
        const MaskUpdateEntry& e = entries[i];
        uint8_t keep[kBlock];
        Counts sum;
        for (int64_t at = begin; at < end; at += kBlock) {
          const int64_t n = end - at < kBlock ? end - at : kBlock;
          const Counts c = merge(e.mask + at, e.new_mask + at, keep, n);
          sum.dropped += c.dropped;
          sum.grown += c.grown;
          sum.active += c.active;
          for (int32_t k = e.first_array; k < e.first_array + e.arrays; ++k) {
            switch (arrays[k].element_bytes) {
              case 1:
                clear<uint8_t>(arrays[k].data, keep, at, n);
                break;
              case 2:
                clear<uint16_t>(arrays[k].data, keep, at, n);
                break;
              case 4:
                clear<uint32_t>(arrays[k].data, keep, at, n);
                break;
              default:
                clear<uint64_t>(arrays[k].data, keep, at, n);
                break;
            }
          }
        }
        __atomic_fetch_add(&counts[3 * i], sum.dropped, __ATOMIC_RELAXED);
        __atomic_fetch_add(&counts[3 * i + 1], sum.grown, __ATOMIC_RELAXED);
        __atomic_fetch_add(&counts[3 * i + 2], sum.active, __ATOMIC_RELAXED);
      });
}

}  // namespace glyptic::kernels::GLYPTIC_ISA
