#include "glyptic/kernels/masked_sgd.h"

#include <utility>

#include "for_each.h"

namespace glyptic::kernels::GLYPTIC_ISA {
namespace {

using Step = void (*)(float* w, const float* g, float* v, const uint8_t* mask, int64_t n,
                      const SgdScalars& s);

template <int flags>
void step(float* __restrict w, const float* __restrict g, float* __restrict v, const uint8_t* __restrict mask,
          int64_t n, const SgdScalars& scalars) {
  const SgdScalars s = scalars;
  for (int64_t i = 0; i < n; ++i) sgd_element<flags>(w, g, v, mask, i, s);
}

template <int... flags>
Step pick(int wanted, std::integer_sequence<int, flags...>) {
  static constexpr Step kSteps[] = {&step<flags>...};
  return kSteps[wanted];
}

}  // namespace

void masked_sgd(const SgdEntry* entries, ChunkMap map, const SgdScalars& scalars, int threads) {
  for_each_chunk(
      map, threads, [&](int64_t i) { return entries[i].size; },
      [&](int64_t i, int64_t begin, int64_t end, int64_t) {
        const SgdEntry& e = entries[i];
        const Step run = pick(sgd_flags(e, scalars), std::make_integer_sequence<int, kSgdVariants>());
        run(e.weight + begin, e.grad + begin, e.velocity ? e.velocity + begin : nullptr,
            e.mask ? e.mask + begin : nullptr, end - begin, scalars);
      });
}

}  // namespace glyptic::kernels::GLYPTIC_ISA
