#include "glyptic/kernels/ascend.h"

#include "sum_lanes.h"

#ifdef __clang__
#pragma clang diagnostic ignored "-Wpass-failed"  // sanitizers keep loops scalar, and that is fine
#endif

namespace glyptic::kernels::GLYPTIC_ISA {
namespace {

template <bool adaptive, bool masked, bool max_norm>
void ascend_chunk(const AscendEntry& entry, int64_t begin, int64_t end, float factor, bool moves, float eta) {
  AscendEntry e = entry;
  e.adaptive = adaptive;
  if (!masked) e.mask = nullptr;
  GLYPTIC_INDEPENDENT
  for (int64_t i = begin; i < end; ++i) ascend_element(e, i, factor, moves, eta, max_norm);
}

using Ascend = void (*)(const AscendEntry&, int64_t, int64_t, float, bool, float);
constexpr Ascend kAscends[] = {&ascend_chunk<false, false, false>, &ascend_chunk<true, false, false>,
                               &ascend_chunk<false, true, false>,  &ascend_chunk<true, true, false>,
                               &ascend_chunk<false, false, true>,  &ascend_chunk<true, false, true>,
                               &ascend_chunk<false, true, true>,   &ascend_chunk<true, true, true>};

template <bool first, bool masked>
double ema_chunk(const EmaEntry& entry, int64_t begin, int64_t end, const EmaScalars& scalars) {
  EmaEntry e = entry;
  if (!masked) e.mask = nullptr;
  EmaScalars s = scalars;
  s.first = first;
  alignas(64) double squares[kSumLanes] = {};
  int64_t i = begin;
  for (; i + kSumLanes <= end; i += kSumLanes) {
    GLYPTIC_INDEPENDENT
    for (int64_t j = 0; j < kSumLanes; ++j) squares[j] = squares[j] + ema_element(e, i + j, s);
  }
  for (int64_t j = 0; i + j < end; ++j) squares[j] = squares[j] + ema_element(e, i + j, s);
  return sum_lanes(squares);
}

}  // namespace

void ascend(const AscendEntry* entries, ChunkMap map, const AscendScalars& scalars, double norm,
            int threads) {
  for_each_chunk(
      map, threads, [&](int64_t i) { return entries[i].size; },
      [&](int64_t i, int64_t begin, int64_t end, int64_t) {
        const AscendEntry& e = entries[i];
        float factor = 0.0f;
        const bool moves = ascend_factor(e.rho, norm, scalars, &factor);
        kAscends[(e.adaptive ? 1 : 0) + (e.mask ? 2 : 0) + (scalars.max_norm ? 4 : 0)](
            e, begin, end, factor, moves, static_cast<float>(scalars.eta));
      });
}

void ema_direction(const EmaEntry* entries, ChunkMap map, const EmaScalars& scalars, ProductSums* sums,
                   int threads) {
  for_each_chunk(
      map, threads, [&](int64_t i) { return entries[i].size; },
      [&](int64_t i, int64_t begin, int64_t end, int64_t chunk) {
        const EmaEntry& e = entries[i];
        const auto run = scalars.first ? (e.mask ? &ema_chunk<true, true> : &ema_chunk<true, false>)
                                       : (e.mask ? &ema_chunk<false, true> : &ema_chunk<false, false>);
        sums[chunk] = ProductSums{run(e, begin, end, scalars), 0.0, 0.0};
      });
}

void combine(const CombineEntry* entries, ChunkMap map, float c0, float c1, int threads) {
  for_each_chunk(
      map, threads, [&](int64_t i) { return entries[i].size; },
      [&](int64_t i, int64_t begin, int64_t end, int64_t) {
        float* __restrict a = entries[i].a;
        const float* __restrict b = entries[i].b;
        for (int64_t k = begin; k < end; ++k) a[k] = c0 * a[k] + c1 * b[k];
      });
}

}  // namespace glyptic::kernels::GLYPTIC_ISA
