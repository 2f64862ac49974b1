#include "glyptic/kernels/masked_sgd.h"

#include <utility>

#include "for_each.h"

#ifdef __clang__
#pragma clang diagnostic ignored "-Wpass-failed"  // sanitizers keep loops scalar, and that is fine
#endif

namespace glyptic::kernels::GLYPTIC_ISA {
namespace {

using Step = void (*)(float* w, const float* o, const float* g, float* v, const uint8_t* mask, int64_t n,
                      const SgdScalars& s);

template <int flags>
void step(float* __restrict w, const float* __restrict o, const float* __restrict g, float* __restrict v,
          const uint8_t* __restrict mask, int64_t n, const SgdScalars& scalars) {
  const SgdScalars s = scalars;
  for (int64_t i = 0; i < n; ++i) sgd_element<flags>(w, o, g, v, mask, i, s);
}

/// The step of `off_mask_is_zero`: lines without an active weight are left alone.
template <int flags>
void step_lines(float* __restrict w, const float* __restrict o, const float* __restrict g,
                float* __restrict v, const uint8_t* __restrict mask, int64_t n, const SgdScalars& scalars) {
  const SgdScalars s = scalars;
  const auto line = [&](int64_t first) {
    GLYPTIC_INDEPENDENT
    for (int64_t i = 0; i < kLine; ++i) sgd_element<flags>(w, o, g, v, mask, first + i, s);
  };
  const auto rest = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) sgd_element<flags>(w, o, g, v, mask, i, s);
  };
  const auto fetch = [&](int64_t i) {
    __builtin_prefetch(w + i, 1);
    if (flags & kSgdOrigin) __builtin_prefetch(o + i);
    __builtin_prefetch(g + i);
    if (flags & kSgdMomentum) __builtin_prefetch(v + i, 1);
  };
  for_each_active_line(mask, 0, n, line, rest, fetch);
}

template <int... flags>
Step pick(int wanted, bool lines, std::integer_sequence<int, flags...>) {
  static constexpr Step kSteps[] = {&step<flags>...};
  static constexpr Step kLineSteps[] = {(flags & kSgdMasked) ? &step_lines<flags> : &step<flags>...};
  return lines ? kLineSteps[wanted] : kSteps[wanted];
}

}  // namespace

void masked_sgd(const SgdEntry* entries, ChunkMap map, const SgdScalars& scalars, int threads) {
  for_each_chunk(
      map, threads, [&](int64_t i) { return entries[i].size; },
      [&](int64_t i, int64_t begin, int64_t end, int64_t) {
        const SgdEntry& e = entries[i];
        const Step run = pick(sgd_flags(e, scalars), scalars.off_mask_is_zero,
                              std::make_integer_sequence<int, kSgdVariants>());
        run(e.weight + begin, e.origin ? e.origin + begin : nullptr, e.grad + begin,
            e.velocity ? e.velocity + begin : nullptr, e.mask ? e.mask + begin : nullptr, end - begin,
            scalars);
      });
}

}  // namespace glyptic::kernels::GLYPTIC_ISA
