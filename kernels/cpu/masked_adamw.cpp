#include "glyptic/kernels/masked_adamw.h"

#include <utility>

#include "for_each.h"

#ifdef __clang__
#pragma clang diagnostic ignored "-Wpass-failed"  // sanitizers keep loops scalar, and that is fine
#endif

namespace glyptic::kernels::GLYPTIC_ISA {
namespace {

using Step = void (*)(const AdamEntry& entry, int64_t begin, int64_t end, const AdamScalars& s);

template <int flags>
void step(const AdamEntry& entry, int64_t begin, int64_t end, const AdamScalars& scalars) {
  const AdamEntry e = entry;
  const AdamScalars s = scalars;
  // The arrays are disjoint by contract, and a counter is no float: iterations are independent.
  GLYPTIC_INDEPENDENT
  for (int64_t i = begin; i < end; ++i) adam_element<flags>(e, i, s);
}

template <int... flags>
Step pick(int wanted, std::integer_sequence<int, flags...>) {
  static constexpr Step kSteps[] = {&step<flags>...};
  return kSteps[wanted];
}

}  // namespace

void masked_adamw(const AdamEntry* entries, ChunkMap map, const AdamScalars& scalars, int threads) {
  for_each_chunk(
      map, threads, [&](int64_t i) { return entries[i].size; },
      [&](int64_t i, int64_t begin, int64_t end, int64_t) {
        pick(adam_flags(entries[i], scalars), std::make_integer_sequence<int, kAdamVariants>())(
            entries[i], begin, end, scalars);
      });
}

}  // namespace glyptic::kernels::GLYPTIC_ISA
