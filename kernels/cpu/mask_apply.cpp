#include "glyptic/kernels/mask_apply.h"

#include "for_each.h"

namespace glyptic::kernels::GLYPTIC_ISA {
namespace {

template <class Word>
void apply(void* data, const uint8_t* __restrict mask, int64_t begin, int64_t end) {
  Word* __restrict x = static_cast<Word*>(data);
  for (int64_t i = begin; i < end; ++i) x[i] = mask[i] ? x[i] : Word{0};
}

}  // namespace

void mask_apply(const MaskApplyEntry* entries, ChunkMap map, int threads) {
  for_each_chunk(
      map, threads, [&](int64_t i) { return entries[i].size; },
      [&](int64_t i, int64_t begin, int64_t end, int64_t) {
        const MaskApplyEntry& e = entries[i];
        switch (e.element_bytes) {
          case 1:
            return apply<uint8_t>(e.data, e.mask, begin, end);
          case 2:
            return apply<uint16_t>(e.data, e.mask, begin, end);
          case 4:
            return apply<uint32_t>(e.data, e.mask, begin, end);
          default:
            return apply<uint64_t>(e.data, e.mask, begin, end);
        }
      });
}

}  // namespace glyptic::kernels::GLYPTIC_ISA
