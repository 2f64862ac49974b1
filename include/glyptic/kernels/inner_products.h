// Inner products over lists of tensors, float32 in, float64 out:
//   aa = sum (t a)^2 with t = |w| + eta where a weight is given, else 1;  ab = sum a b;  bb = sum b b
// over the elements whose mask is true. `b` may be null for all entries: then ab and bb are 0.
//
// Bytes per element: 4 (a), + 4 (b), + 4 (w), + 1 (mask). Each chunk of kSumChunk elements is added up in
// kSumLanes lanes (element i goes to lane i mod kSumLanes) and a tree over them, and the chunks' sums
// likewise, so the result depends neither on the number of threads nor on the device.
#pragma once

#include <cstdint>

#include "glyptic/kernels/chunks.h"

namespace glyptic::kernels {

constexpr int64_t kSumChunk = 8192;
constexpr int64_t kSumLanes = 256;

struct ProductsEntry {
  const float* a;
  const float* b;       ///< null: only aa
  const float* weight;  ///< null: t = 1
  const uint8_t* mask;  ///< null: everything counts
  int64_t size;
};

struct ProductSums {
  double aa, ab, bb;
};

GLYPTIC_INLINE void add_products(const ProductsEntry& e, int64_t i, double eta, double* aa, double* ab,
                                 double* bb) {
  const bool keep = e.mask ? e.mask[i] != 0 : true;
  const double a = keep ? static_cast<double>(e.a[i]) : 0.0;
  double scaled = a;
  if (e.weight) {
    const double w = static_cast<double>(e.weight[i]);
    scaled = a * ((w < 0 ? -w : w) + eta);
  }
  *aa = *aa + scaled * scaled;
  if (!e.b) return;
  const double b = keep ? static_cast<double>(e.b[i]) : 0.0;
  *ab = *ab + a * b;
  *bb = *bb + b * b;
}

/// `map` cut by kSumChunk; `sums` has one entry per chunk.
GLYPTIC_KERNEL(void, inner_products,
               (const ProductsEntry* entries, ChunkMap map, double eta, ProductSums* sums, int threads))

/// The sums of all chunks, in the order that the header's comment says.
ProductSums total_products(const ProductSums* sums, int64_t chunks);

namespace cuda {
/// `sums` (one per chunk) and `total` in device memory. Asynchronous on `stream`.
void inner_products(const ProductsEntry* entries, ChunkMap map, int64_t chunks, double eta, ProductSums* sums,
                    ProductSums* total, void* stream);
/// The second half alone.
void total_products(const ProductSums* sums, int64_t chunks, ProductSums* total, void* stream);
}  // namespace cuda

}  // namespace glyptic::kernels
