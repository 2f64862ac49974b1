#include "glyptic/kernels/inner_products.h"

#include "sum_lanes.h"

namespace glyptic::kernels::GLYPTIC_ISA {
namespace {

// What an entry has is decided once per chunk and compiled in.
template <bool has_b, bool has_weight, bool has_mask>
void sum_chunk(const ProductsEntry& entry, int64_t begin, int64_t end, double eta, ProductSums* sums) {
  const ProductsEntry e{entry.a, has_b ? entry.b : nullptr, has_weight ? entry.weight : nullptr,
                        has_mask ? entry.mask : nullptr, entry.size};
  alignas(64) double aa[kSumLanes] = {}, ab[kSumLanes] = {}, bb[kSumLanes] = {};
  int64_t i = begin;
  for (; i + kSumLanes <= end; i += kSumLanes) {
    GLYPTIC_INDEPENDENT
    for (int64_t j = 0; j < kSumLanes; ++j) add_products(e, i + j, eta, aa + j, ab + j, bb + j);
  }
  for (int64_t j = 0; i + j < end; ++j) add_products(e, i + j, eta, aa + j, ab + j, bb + j);
  sums->aa = sum_lanes(aa);
  sums->ab = has_b ? sum_lanes(ab) : 0.0;
  sums->bb = has_b ? sum_lanes(bb) : 0.0;
}

using Sum = void (*)(const ProductsEntry&, int64_t, int64_t, double, ProductSums*);
constexpr Sum kSums[] = {&sum_chunk<false, false, false>, &sum_chunk<true, false, false>,
                         &sum_chunk<false, true, false>,  &sum_chunk<true, true, false>,
                         &sum_chunk<false, false, true>,  &sum_chunk<true, false, true>,
                         &sum_chunk<false, true, true>,   &sum_chunk<true, true, true>};

}  // namespace

void inner_products(const ProductsEntry* entries, ChunkMap map, double eta, ProductSums* sums, int threads) {
  for_each_chunk(
      map, threads, [&](int64_t i) { return entries[i].size; },
      [&](int64_t i, int64_t begin, int64_t end, int64_t chunk) {
        const ProductsEntry& e = entries[i];
        kSums[(e.b ? 1 : 0) + (e.weight ? 2 : 0) + (e.mask ? 4 : 0)](e, begin, end, eta, sums + chunk);
      });
}

}  // namespace glyptic::kernels::GLYPTIC_ISA
