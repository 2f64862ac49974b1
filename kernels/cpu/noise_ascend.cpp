#include "glyptic/kernels/noise_ascend.h"

#include "sum_lanes.h"

namespace glyptic::kernels::GLYPTIC_ISA {
namespace {

template <FillKind kind>
void draw(uint64_t seed, uint64_t stream, uint64_t first_block, float* __restrict out) {
  FillArgs a{};
  a.seed = seed;
  a.stream = stream;
  a.kind = kind;
  for (int64_t j = 0; j < kSumLanes / 4; ++j)
    fill_block(a, first_block + static_cast<uint64_t>(j), out + 4 * j);
}

double move_chunk(const NoiseEntry& e, int64_t begin, int64_t end, const NoiseScalars& s) {
  alignas(64) double squares[kSumLanes] = {};
  alignas(64) float noise[kSumLanes], u[kSumLanes];
  for (int64_t at = begin; at < end; at += kSumLanes) {
    const uint64_t block = (e.offset + static_cast<uint64_t>(at)) / 4;
    for (int64_t k = 0; k < s.draws; ++k) {
      if (s.kind == FillKind::normal)
        draw<FillKind::normal>(s.seed, s.streams[k], block, u);
      else
        draw<FillKind::rademacher>(s.seed, s.streams[k], block, u);
      const float c = static_cast<float>(s.coefficients[k]);
      if (k == 0)
        for (int64_t j = 0; j < kSumLanes; ++j) noise[j] = c * u[j];
      else
        for (int64_t j = 0; j < kSumLanes; ++j) noise[j] = noise[j] + c * u[j];
    }
    const int64_t n = end - at < kSumLanes ? end - at : kSumLanes;
    if (e.mask)
      for (int64_t j = 0; j < n; ++j) noise[j] = e.mask[at + j] ? noise[j] : 0.0f;
    for (int64_t j = 0; j < n; ++j)
      squares[j] = squares[j] + static_cast<double>(noise[j]) * static_cast<double>(noise[j]);
    if (!e.weight) continue;
    float* __restrict w = e.weight + at;
    const float* __restrict origin = e.origin + at;
    if (e.mask)
      for (int64_t j = 0; j < n; ++j) w[j] = e.mask[at + j] ? origin[j] + noise[j] : origin[j];
    else
      for (int64_t j = 0; j < n; ++j) w[j] = origin[j] + noise[j];
  }
  return sum_lanes(squares);
}

}  // namespace

void noise_ascend(const NoiseEntry* entries, ChunkMap map, const NoiseScalars& scalars, ProductSums* sums,
                  int threads) {
  for_each_chunk(
      map, threads, [&](int64_t i) { return entries[i].size; },
      [&](int64_t i, int64_t begin, int64_t end, int64_t chunk) {
        sums[chunk] = ProductSums{move_chunk(entries[i], begin, end, scalars), 0.0, 0.0};
      });
}

}  // namespace glyptic::kernels::GLYPTIC_ISA
