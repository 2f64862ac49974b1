// Fills an array from a Philox stream: element i gets number `offset + i`, a pure function of (seed, stream,
// number), so any device and any number of threads writes the same bits. Each number is a float32, rounded to
// nearest even when the array holds something narrower.
//   uniform     word / 2^32 without its low 8 bits: [0, 1), 24 bits
//   normal      Box-Muller on words (0, 1) and (2, 3) of each block of four: radius from the first, angle
//   from the
//               second; cosine for even numbers, sine for odd ones. Range +-6.77.
//   rademacher  +1 or -1, by the top bit of the word
// log, sine and cosine are polynomials of our own in plain float32, because those of the C library differ
// between machines. A normal differs from the one computed in float64 on the same uniforms by at most
// kNormalError * max(1, |z|).
#pragma once

#include <cstdint>

#include "glyptic/kernels/random_words.h"

namespace glyptic::kernels {

enum class FillKind : int32_t { uniform, normal, rademacher };
enum class FloatType : int32_t { float32, float64, bfloat16, float16 };

constexpr double kNormalError = 4e-7;

struct FillArgs {
  void* out;
  int64_t size;
  FloatType type;
  FillKind kind;
  uint64_t seed, stream, offset;
};

GLYPTIC_INLINE float bits_float(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
#endif
}

GLYPTIC_INLINE uint32_t float_word(float x) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(x);
#else
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
#endif
}

GLYPTIC_INLINE float word_to_uniform(uint32_t word) {
  return static_cast<float>(static_cast<int32_t>(word >> 8)) * (1.0f / 16777216.0f);
}

GLYPTIC_INLINE float word_to_sign(uint32_t word) {
  return bits_float(0x3f800000u | (word & 0x80000000u));
}

/// The uniform that the radius is made of: in (0, 1]. The low bits matter in the tail, where the float has
/// room.
GLYPTIC_INLINE float word_to_radius_uniform(uint32_t word) {
  // Two exact halves and one rounded sum: an unsigned conversion would not vectorize.
  const float high = static_cast<float>(static_cast<int32_t>(word >> 16)) * 65536.0f;
  const float low = static_cast<float>(static_cast<int32_t>(word & 0xffffu)) + 0.5f;
  return (high + low) * (1.0f / 4294967296.0f);
}

/// sqrt(-2 log u) for u in [2^-33, 1].
GLYPTIC_INLINE float radius_of(float u) {
  // u = m 2^e with m in [sqrt(1/2), sqrt(2)); log m = f - f^2/2 + f^3 P(f), f = m - 1. P is a minimax fit
  // (Lawson's iteration on f^2-weighted Chebyshev nodes), 7e-10.
  const uint32_t shifted = float_word(u) - 0x3f3504f3u;
  const int32_t e = static_cast<int32_t>(shifted) >> 23;
  const float f = bits_float((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
  float p = 0x1.1b4be2p-4f;
  p = p * f - 0x1.e2fc18p-4f;
  p = p * f + 0x1.e65668p-4f;
  p = p * f - 0x1.fb40a4p-4f;
  p = p * f + 0x1.233238p-3f;
  p = p * f - 0x1.5562f0p-3f;
  p = p * f + 0x1.99a54cp-3f;
  p = p * f - 0x1.ffffeep-3f;
  p = p * f + 0x1.555546p-2f;
  const float square = f * f;
  // log 2 in two pieces, the first short enough that its product with e is exact.
  const float n = static_cast<float>(e);
  const float small = (square * f) * p + n * -0x1.bd0106p-13f;
  const float log_u = (small - 0.5f * square) + f + n * 0x1.63p-1f;
  const float x = log_u < 0.0f ? -2.0f * log_u : 0.0f;
#ifdef __CUDA_ARCH__
  return sqrtf(x);
#else
  return __builtin_sqrtf(x);
#endif
}

/// cos and sin of the angle 2 pi word / 2^32.
GLYPTIC_INLINE void circle_of(uint32_t word, float* cosine, float* sine) {
  const uint32_t quadrant = (word + 0x20000000u) >> 30;  // the nearest multiple of pi / 2
  const int32_t rest = static_cast<int32_t>(word - (quadrant << 30));
  const float r = static_cast<float>(rest) * 0x1.921fb6p-30f;  // 2 pi / 2^32: r in [-pi/4, pi/4]
  const float z = r * r;
  const float s = r + (r * z) * ((-0x1.994cf8p-13f * z + 0x1.11075cp-7f) * z - 0x1.555546p-3f);
  const float c =
      (1.0f - 0.5f * z) + (z * z) * ((0x1.9a00ccp-16f * z - 0x1.6c0c86p-10f) * z + 0x1.55554ap-5f);
  const bool swap = (quadrant & 1u) != 0;
  const uint32_t cosine_sign = ((quadrant + 1u) & 2u) << 30;  // quadrants 1 and 2
  const uint32_t sine_sign = (quadrant & 2u) << 30;           // quadrants 2 and 3
  *cosine = bits_float(float_word(swap ? s : c) ^ cosine_sign);
  *sine = bits_float(float_word(swap ? c : s) ^ sine_sign);
}

/// The four numbers of a block.
GLYPTIC_INLINE void fill_block(const FillArgs& a, uint64_t block, float number[4]) {
  uint32_t word[4];
  random_words(a.seed, a.stream, block, word);
  if (a.kind == FillKind::uniform) {
    for (int i = 0; i < 4; ++i) number[i] = word_to_uniform(word[i]);
  } else if (a.kind == FillKind::rademacher) {
    for (int i = 0; i < 4; ++i) number[i] = word_to_sign(word[i]);
  } else {
    for (int64_t pair = 0; pair < 2; ++pair) {
      const float radius = radius_of(word_to_radius_uniform(word[2 * pair]));
      float c, s;
      circle_of(word[2 * pair + 1], &c, &s);
      number[2 * pair] = radius * c;
      number[2 * pair + 1] = radius * s;
    }
  }
}

/// Round to nearest even; |x| is below 7 and never NaN here.
GLYPTIC_INLINE uint16_t to_bfloat16(float x) {
  const uint32_t bits = float_word(x);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

GLYPTIC_INLINE uint16_t to_float16(float x) {
  const uint32_t bits = float_word(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude < 0x38800000u) {  // subnormal in float16: adding 1/2 lets the float adder do the rounding
    const uint32_t sum = float_word(bits_float(magnitude) + 0.5f);
    return static_cast<uint16_t>(sign | (sum - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

GLYPTIC_KERNEL(void, philox_fill, (const FillArgs& args, int threads))

namespace cuda {
void philox_fill(const FillArgs& args, void* stream);
}  // namespace cuda

}  // namespace glyptic::kernels
