// The elementwise passes of sharpness-aware steps, float32. Off-mask (mask false) weights stay as they are.
//
//   ascend         backup = w;  w = w + f t^2 h,  f = rho / (norm + eps0), t = |w| + eta or 1
//                  (max norm: w = w + rho sign(h)). Nothing moves when norm is 0, NaN or infinite. 16 bytes
//                  per weight: read w, h; write w, backup.
//   ema_direction  h = g - sigma m;  m = lambda m + (1 - lambda) g;  g = h   (first step: h = m = g)
//                  and the squares of h, as in inner_products.h. 16 bytes: read and write g, m.
//   combine        a = c0 a + c1 b. 12 bytes.
//
// Every product and sum rounds by itself; scalars that come from reductions are float64 in memory of the
// device and are rounded to float32 once (c0, c1, f). Elementwise: any number of threads gives the same bits.
#pragma once

#include <cstdint>

#include "glyptic/kernels/chunks.h"
#include "glyptic/kernels/inner_products.h"

namespace glyptic::kernels {

struct AscendEntry {
  float* weight;
  float* backup;
  const float* direction;
  const uint8_t* mask;  ///< null: everything moves
  int64_t size;
  double rho;
  bool adaptive;  ///< t = |w| + eta
};

struct AscendScalars {
  double eta, eps0;
  bool max_norm;  ///< the ball of the maximum norm: sign(h), no division
};

/// f as the loop uses it; false where nothing is to move.
GLYPTIC_INLINE bool ascend_factor(double rho, double norm, const AscendScalars& s, float* factor) {
  // The comparisons are false for NaN; the largest float64 stands for infinity.
  if (!(norm > 0.0 && norm <= 1.7976931348623157e308)) return false;
  *factor = static_cast<float>(s.max_norm ? rho : rho / (norm + s.eps0));
  return true;
}

GLYPTIC_INLINE void ascend_element(const AscendEntry& e, int64_t i, float factor, bool moves, float eta,
                                   bool max_norm) {
  const float w = e.weight[i];
  e.backup[i] = w;
  float h = e.direction[i];
  if (max_norm) h = h > 0.0f ? 1.0f : h < 0.0f ? -1.0f : 0.0f;
  if (e.adaptive) {
    const float t = (w < 0.0f ? -w : w) + eta;
    h = (t * t) * h;
  }
  const bool keep = moves && (e.mask ? e.mask[i] != 0 : true);
  e.weight[i] = keep ? w + factor * h : w;
}

GLYPTIC_KERNEL(void, ascend,
               (const AscendEntry* entries, ChunkMap map, const AscendScalars& scalars, double norm,
                int threads))

struct EmaEntry {
  float* gradient;
  float* average;
  const uint8_t* mask;
  int64_t size;
};

struct EmaScalars {
  float sigma, lambda, rest;  ///< rest = 1 - lambda
  bool first;
};

GLYPTIC_INLINE double ema_element(const EmaEntry& e, int64_t i, const EmaScalars& s) {
  const bool keep = e.mask ? e.mask[i] != 0 : true;
  const float g = keep ? e.gradient[i] : 0.0f;
  const float m = keep && !s.first ? e.average[i] : 0.0f;
  const float h = s.first ? g : g - s.sigma * m;
  e.average[i] = s.first ? g : s.lambda * m + s.rest * g;
  e.gradient[i] = h;
  return static_cast<double>(h) * static_cast<double>(h);
}

GLYPTIC_KERNEL(void, ema_direction,
               (const EmaEntry* entries, ChunkMap map, const EmaScalars& scalars, ProductSums* sums,
                int threads))

struct CombineEntry {
  float* a;
  const float* b;
  int64_t size;
};

GLYPTIC_KERNEL(void, combine, (const CombineEntry* entries, ChunkMap map, float c0, float c1, int threads))

namespace cuda {
/// `norm`: one float64 in device memory; nothing is read back. All asynchronous on `stream`.
void ascend(const AscendEntry* entries, ChunkMap map, int64_t chunks, const AscendScalars& scalars,
            const double* norm, void* stream);
/// `map` cut by kSumChunk, `sums` one per chunk.
void ema_direction(const EmaEntry* entries, ChunkMap map, int64_t chunks, const EmaScalars& scalars,
                   ProductSums* sums, void* stream);
/// `coefficients`: two float64 in device memory.
void combine(const CombineEntry* entries, ChunkMap map, int64_t chunks, const double* coefficients,
             void* stream);
}  // namespace cuda

}  // namespace glyptic::kernels
