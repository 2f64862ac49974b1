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

/// The step of `off_mask_is_zero`: lines without an active weight are left alone.
template <int flags>
void step_lines(const AdamEntry& entry, int64_t begin, int64_t end, const AdamScalars& scalars) {
  const AdamEntry e = entry;
  const AdamScalars s = scalars;
  const auto line = [&](int64_t first) {
    GLYPTIC_INDEPENDENT
    for (int64_t i = first; i < first + kLine; ++i) adam_element<flags>(e, i, s);
  };
  const auto rest = [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) adam_element<flags>(e, i, s);
  };
  const auto fetch = [&](int64_t i) {
    __builtin_prefetch(e.weight + i, 1);
    if (flags & kAdamOrigin) __builtin_prefetch(e.origin + i);
    __builtin_prefetch(e.grad + i);
    __builtin_prefetch(e.exp_avg + i, 1);
    __builtin_prefetch(e.exp_avg_sq + i, 1);
    if (flags & kAdamSteps) __builtin_prefetch(e.steps + i, 1);
  };
  for_each_active_line(e.mask, begin, end, line, rest, fetch);
}

template <int... flags>
Step pick(int wanted, bool lines, std::integer_sequence<int, flags...>) {
  static constexpr Step kSteps[] = {&step<flags>...};
  static constexpr Step kLineSteps[] = {(flags & kAdamMasked) ? &step_lines<flags> : &step<flags>...};
  return lines ? kLineSteps[wanted] : kSteps[wanted];
}

}  // namespace

void masked_adamw(const AdamEntry* entries, ChunkMap map, const AdamScalars& scalars, int threads) {
  for_each_chunk(
      map, threads, [&](int64_t i) { return entries[i].size; },
      [&](int64_t i, int64_t begin, int64_t end, int64_t) {
        const Step run = pick(adam_flags(entries[i], scalars), scalars.off_mask_is_zero,
                              std::make_integer_sequence<int, kAdamVariants>());
        run(entries[i], begin, end, scalars);
      });
}

}  // namespace glyptic::kernels::GLYPTIC_ISA
