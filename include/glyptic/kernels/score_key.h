// Scores as integers. A score becomes an int32 key whose order is the order of the scores, so that selection
// works on integers alone and the CPU and the GPU cannot disagree:
//   magnitude  |a|                      the bits of a without the sign
//   mest       |a| + lambda |b|         (product and sum round separately)
//   taylor     (a b)^2                  ranked by |a b|: the same order, and squares cannot underflow into
//   ties random     Philox word of (seed, stream + position of the tensor in the list, index) raw        a
// -0 and +0 are one score.
#pragma once

#include <cstdint>

#include "glyptic/kernels/isa.h"
#include "glyptic/kernels/random_words.h"

namespace glyptic::kernels {

enum class KeyKind : int32_t { magnitude, mest, taylor, random, raw };

constexpr int32_t kKeyLowest = -2147483647 - 1;
constexpr int32_t kKeyHighest = 2147483647;

/// Keys of finite floats lie strictly between these: the keys of -Inf and +Inf. Those of NaN are outside.
constexpr int32_t kKeyMinusInf = -2139095041;  // ~0x7f800000
constexpr int32_t kKeyPlusInf = 0x7f800000;

GLYPTIC_INLINE int32_t float_bits(float x) {
#ifdef __CUDA_ARCH__
  return __float_as_int(x);
#else
  int32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
#endif
}

/// Order-preserving: negative floats have their magnitude bits inverted. -0 is made +0 first, on the bits, so
/// that a flush-denormals mode cannot interfere.
GLYPTIC_INLINE int32_t float_key(float x) {
  const int32_t raw = float_bits(x);
  const int32_t bits = raw == kKeyLowest ? 0 : raw;
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

GLYPTIC_INLINE int32_t magnitude_key(float x) {
  return float_bits(x) & 0x7fffffff;
}

/// Key of a score made of floats.
template <KeyKind kind>
GLYPTIC_INLINE int32_t score_key(float a, float b, float lambda) {
  if (kind == KeyKind::magnitude) return magnitude_key(a);
  if (kind == KeyKind::taylor) return magnitude_key(a * b);
  if (kind == KeyKind::mest) {
    const float left = a < 0 ? -a : a, right = b < 0 ? -b : b;
    return float_key(left + lambda * right);
  }
  return float_key(a);
}

/// Signed order of keys = unsigned order of the Philox words.
GLYPTIC_INLINE int32_t random_key(uint32_t word) {
  return static_cast<int32_t>(word ^ 0x80000000u);
}

GLYPTIC_INLINE bool key_is_finite(int32_t key) {
  return key > kKeyMinusInf && key < kKeyPlusInf;
}

/// The unsigned image that radix digits are taken of.
GLYPTIC_INLINE uint32_t radix_image(int32_t key) {
  return static_cast<uint32_t>(key) ^ 0x80000000u;
}
GLYPTIC_INLINE int32_t radix_key(uint32_t image) {
  return static_cast<int32_t>(image ^ 0x80000000u);
}

// Three digits of 11, 11 and 10 bits, most significant first.
constexpr int kRadixBins = 2048;
GLYPTIC_INLINE int radix_shift(int pass) {
  return pass == 0 ? 21 : pass == 1 ? 10 : 0;
}
GLYPTIC_INLINE int radix_bits(int pass) {
  return pass == 2 ? 10 : 11;
}
GLYPTIC_INLINE uint32_t radix_digit(uint32_t image, int pass) {
  return (image >> radix_shift(pass)) & ((1u << radix_bits(pass)) - 1u);
}
/// True where the digits before `pass` are those of `prefix` (whose later digits are zero).
GLYPTIC_INLINE bool radix_in_prefix(uint32_t image, uint32_t prefix, int pass) {
  const int shift = radix_shift(pass) + radix_bits(pass);
  return pass == 0 || (image >> shift) == (prefix >> shift);
}

}  // namespace glyptic::kernels
