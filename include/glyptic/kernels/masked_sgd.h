// One step of masked SGD (with momentum, Nesterov, coupled weight decay) in one pass over memory, float32:
//   g' = sign * g + weight_decay * w;   v = momentum * v + gain * g'  (v = g' on the first step);
//   d  = nesterov ? g' + momentum * v : v;   w = w - lr * d;   where the mask is false, w = v = +0.
// Every product and sum rounds by itself. Terms that a zero coefficient switches off are not computed, so a
// velocity that is not used may be null and is not read on the first step. With an origin, the step starts
// from there: w = origin - lr * d, and w itself is only written (it may hold anything, as after an ascent).
//
// Bytes per weight: 21 (read w, g, v, mask; write w, v). With `off_mask_is_zero`, the caller's promise that w
// and v are +0 already where the mask is false, lines of 16 weights without an active one are neither read
// nor written: 1 + 20 (1 - (1 - density)^16) bytes, 17.3 at a random density of 0.1 and 6.5 at 0.02, and the
// same result. Elementwise: any number of threads gives the same bits. The arrays of one call must not
// overlap.
#pragma once

#include <cstdint>

#include "glyptic/kernels/chunks.h"

namespace glyptic::kernels {

struct SgdEntry {
  float* weight;
  const float* grad;
  float* velocity;      ///< null without momentum
  const uint8_t* mask;  ///< null: everything is kept
  int64_t size;
  const float* origin = nullptr;  ///< null: the weight itself
};

struct SgdScalars {
  float lr, momentum, gain, weight_decay;
  float sign;  ///< +1, or -1 to maximize
  bool nesterov, first_step;
  bool off_mask_is_zero;
};

/// What is switched on, decided once per tensor and compiled in.
enum SgdFlag : int {
  kSgdMomentum = 1,
  kSgdNesterov = 2,
  kSgdFirst = 4,
  kSgdDecay = 8,
  kSgdMasked = 16,
  kSgdOrigin = 32
};
constexpr int kSgdVariants = 64;

GLYPTIC_INLINE int sgd_flags(const SgdEntry& entry, const SgdScalars& s) {
  int flags = 0;
  if (s.momentum != 0) flags |= kSgdMomentum;
  if (s.momentum != 0 && s.nesterov) flags |= kSgdNesterov;
  if (s.momentum != 0 && s.first_step) flags |= kSgdFirst;
  if (s.weight_decay != 0) flags |= kSgdDecay;
  if (entry.mask) flags |= kSgdMasked;
  if (entry.origin) flags |= kSgdOrigin;
  return flags;
}

template <int flags>
GLYPTIC_INLINE void sgd_element(float* w, const float* o, const float* g, float* v, const uint8_t* mask,
                                int64_t i, const SgdScalars& s) {
  const float old = (flags & kSgdOrigin) ? o[i] : w[i];
  float gradient = g[i] * s.sign;
  if (flags & kSgdDecay) gradient = gradient + s.weight_decay * old;
  float direction = gradient;
  const bool keep = (flags & kSgdMasked) ? mask[i] != 0 : true;
  if (flags & kSgdMomentum) {
    const float velocity = (flags & kSgdFirst) ? gradient : s.momentum * v[i] + s.gain * gradient;
    direction = (flags & kSgdNesterov) ? gradient + s.momentum * velocity : velocity;
    v[i] = keep ? velocity : 0.0f;
  }
  const float updated = old - s.lr * direction;
  w[i] = keep ? updated : 0.0f;
}

GLYPTIC_KERNEL(void, masked_sgd,
               (const SgdEntry* entries, ChunkMap map, const SgdScalars& scalars, int threads))

namespace cuda {
/// `entries` and `map.first` in device memory; `flags` are those of every entry (sgd_flags), because masks
/// are given for all tensors or for none. Asynchronous on `stream` (a cudaStream_t).
void masked_sgd(const SgdEntry* entries, ChunkMap map, int64_t chunks, const SgdScalars& scalars, int flags,
                void* stream);
}  // namespace cuda

}  // namespace glyptic::kernels
