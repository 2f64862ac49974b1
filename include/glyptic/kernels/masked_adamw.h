// One step of masked AdamW, or of Adam with L2 decay, in one pass over memory, float32:
//   decoupled: w = w * (1 - lr * weight_decay);   coupled: g = g + weight_decay * w;
//   m = beta1 * m + (1 - beta1) * g;   v = beta2 * v + ((1 - beta2) * g) * g;
//   w = w - ((lr * c1) * m) / (sqrt(v) * c2 + eps),   c1 = 1 / (1 - beta1^t),  c2 = 1 / sqrt(1 - beta2^t);
//   where the mask is false, w = m = v = +0.
// c1 and c2 are computed in float64 and rounded once. t is one number for all weights, or one per weight: a
// counter that is incremented where the mask is true, zero where it is false, and picks c1, c2 out of a
// table.
//
// Bytes per weight: 29 (read w, g, m, v, mask; write w, m, v), 37 with a counter per weight. With
// `off_mask_is_zero`, the caller's promise that w, m, v and the counter are +0 already where the mask is
// false, lines of 16 weights without an active one are neither read nor written: 1 + 28 (1 - (1 -
// density)^16) bytes, and the same result. Elementwise: any number of threads gives the same bits. The arrays
// of one call must not overlap.
#pragma once

#include <cmath>
#include <cstdint>

#include "glyptic/kernels/chunks.h"

namespace glyptic::kernels {

struct AdamEntry {
  float* weight;
  const float* grad;
  float* exp_avg;
  float* exp_avg_sq;
  const uint8_t* mask;  ///< null: everything is kept
  int32_t* steps;       ///< null: one step count for all weights
  int64_t size;
  const float* origin = nullptr;  ///< where the step starts; null: the weight itself
};

struct AdamCorrection {
  float c1, c2;
};

struct AdamScalars {
  float lr, beta1, beta2, rest1, rest2;  ///< rest = 1 - beta
  float eps, weight_decay, shrink;       ///< shrink = 1 - lr * weight_decay
  float sign;                            ///< +1, or -1 to maximize
  bool decoupled;
  bool off_mask_is_zero;
  AdamCorrection correction;    ///< for the step count that all weights share
  const AdamCorrection* table;  ///< [table_size] for counters per weight; entry 0 is not used
  int32_t table_size;           ///< a counter beyond the last entry takes the last entry
};

/// The corrections of step t >= 1.
inline AdamCorrection adam_correction(double beta1, double beta2, double t) {
  return AdamCorrection{static_cast<float>(1.0 / (1.0 - std::pow(beta1, t))),
                        static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(beta2, t)))};
}

/// Number of entries (0 .. last) after which both corrections are 1 in float32: beta^t < 2^-26 for both.
inline double adam_table_size(double beta1, double beta2) {
  const double slower = beta1 > beta2 ? beta1 : beta2;
  return slower <= 0 ? 2 : 2 + std::ceil(-26 * std::log(2.0) / std::log(slower));
}

enum AdamFlag : int { kAdamMasked = 1, kAdamSteps = 2, kAdamDecay = 4, kAdamDecoupled = 8, kAdamOrigin = 16 };
constexpr int kAdamVariants = 32;

GLYPTIC_INLINE int adam_flags(const AdamEntry& entry, const AdamScalars& s) {
  return (entry.mask ? kAdamMasked : 0) | (entry.steps ? kAdamSteps : 0) |
         (s.weight_decay != 0 ? kAdamDecay : 0) | (s.weight_decay != 0 && s.decoupled ? kAdamDecoupled : 0) |
         (entry.origin ? kAdamOrigin : 0);
}

template <int flags>
GLYPTIC_INLINE void adam_element(const AdamEntry& e, int64_t i, const AdamScalars& s) {
  float w = (flags & kAdamOrigin) ? e.origin[i] : e.weight[i];
  float g = e.grad[i] * s.sign;
  if (flags & kAdamDecoupled)
    w = w * s.shrink;
  else if (flags & kAdamDecay)
    g = g + s.weight_decay * w;
  const bool keep = (flags & kAdamMasked) ? e.mask[i] != 0 : true;
  AdamCorrection c = s.correction;
  if (flags & kAdamSteps) {
    const int32_t last = s.table_size - 1;
    const int32_t before = e.steps[i];
    const int32_t t = before < 2147483647 ? before + 1 : before;
    const int32_t row = t < 1 ? 1 : t > last ? last : t;
    c.c1 = s.table[row].c1;
    c.c2 = s.table[row].c2;
    e.steps[i] = keep ? t : 0;
  }
  const float m = s.beta1 * e.exp_avg[i] + s.rest1 * g;
  const float v = s.beta2 * e.exp_avg_sq[i] + (s.rest2 * g) * g;
#ifdef __CUDA_ARCH__
  const float root = sqrtf(v);
#else
  const float root = __builtin_sqrtf(v);
#endif
  const float updated = w - ((s.lr * c.c1) * m) / (root * c.c2 + s.eps);
  e.weight[i] = keep ? updated : 0.0f;
  e.exp_avg[i] = keep ? m : 0.0f;
  e.exp_avg_sq[i] = keep ? v : 0.0f;
}

GLYPTIC_KERNEL(void, masked_adamw,
               (const AdamEntry* entries, ChunkMap map, const AdamScalars& scalars, int threads))

namespace cuda {
/// `entries`, `map.first` and `scalars.table` in device memory; `flags` are those of every entry
/// (adam_flags). Asynchronous on `stream`.
void masked_adamw(const AdamEntry* entries, ChunkMap map, int64_t chunks, const AdamScalars& scalars,
                  int flags, void* stream);
}  // namespace cuda

}  // namespace glyptic::kernels
