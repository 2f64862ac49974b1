// The noise family of the image corruptions (arXiv 1903.12261), on pixels in units of 0..255:
//   gaussian   v + strength * N(0, 1)            strength = 255 * standard deviation
//   speckle    v + v * strength * N(0, 1)
//   impulse    0 or 255 with probability `threshold` / 2^32, either with the same probability; else v
//   shot       level * Poisson(v / level)        level = 255 / c
// clipped to 0..255 and rounded. Element e of image i draws number e of stream streams[i], in the order of
// memory, so a result depends on nothing else. The arithmetic is plain float32 and float64 without
// contraction and calls no function of the C library: CPU and GPU write the same bits.
//
// Poisson numbers are found by inversion. For whole v the thresholds of the 256 distributions are in a table,
// so a draw is a search among integers. The fraction of v, where it has one, is a second, independent
// Poisson number of a small mean (a sum of independent Poisson numbers is one of the summed mean).
#pragma once

#include <cstdint>

#include "glyptic/kernels/philox_fill.h"

namespace glyptic::kernels {

enum class PixelNoise : int32_t { gaussian, speckle, impulse, shot };
enum class PixelRounding : int32_t { floor, nearest, none };

struct PixelNoiseArgs {
  const void* in;  ///< [images, size]: uint8, or float32 in [0, 1]
  void* out;       ///< the same, not overlapping `in`
  bool in_float, out_float;
  PixelNoise kind;
  PixelRounding rounding;
  int64_t images, size;
  uint64_t seed;
  const uint64_t* streams;  ///< [images]
  const uint64_t* seconds;  ///< [images]: streams of the fractions; shot only
  float strength;           ///< gaussian, speckle
  uint64_t threshold;       ///< impulse: probability times 2^32
  float level;              ///< shot
  double mean;              ///< shot: c / 255, the Poisson mean of one unit of v
  const uint32_t* table;    ///< shot: for each v, ascending thresholds
  const int32_t* first;     ///< shot [257]: where those of v begin
  const int32_t* lowest;    ///< shot [256]: the count that a word below the first threshold stands for
  const int32_t* guide;     ///< shot [256, 256]: number of thresholds of v that are at most b * 2^24
};

/// What rounding error may cost: values this little below an integer count as that integer when they are cut.
constexpr float kPixelSlack = 1.0f / 4096.0f;

GLYPTIC_INLINE float pixel_rounded(float v, PixelRounding rounding) {
  v = v < 0.0f ? 0.0f : v;
  v = v > 255.0f ? 255.0f : v;
  if (rounding == PixelRounding::none) return v;
  const float shift = rounding == PixelRounding::floor ? kPixelSlack : 0.5f;
  return static_cast<float>(static_cast<int32_t>(v + shift));
}

/// e^-x for 0 <= x <= 64, in plain float64: the Taylor series of x / 64, to the 64th power.
GLYPTIC_INLINE double pixel_exp_minus(double x) {
  const double t = x * -0.015625;
  double sum = 1.0;
  for (int k = 18; k > 0; --k) sum = 1.0 + t * sum / static_cast<double>(k);
  for (int k = 0; k < 6; ++k) sum = sum * sum;
  return sum;
}

/// The lowest count plus the number of thresholds that are not above `word`: those that are not above its
/// first 8 bits are known, of the others few are left.
GLYPTIC_INLINE int32_t pixel_poisson(const PixelNoiseArgs& a, int32_t v, uint32_t word) {
  int32_t at = a.first[v] + a.guide[256 * v + static_cast<int32_t>(word >> 24)];
  while (at < a.first[v + 1] && a.table[at] <= word) ++at;
  return a.lowest[v] + at - a.first[v];
}

/// A Poisson number of a small mean by adding up probabilities.
GLYPTIC_INLINE int32_t pixel_small_poisson(double mean, uint32_t word) {
  const double u = (static_cast<double>(word) + 0.5) * (1.0 / 4294967296.0);
  double probability = pixel_exp_minus(mean), sum = probability;
  int32_t count = 0;
  while (u > sum && count < 256) {
    ++count;
    probability = probability * mean / static_cast<double>(count);
    sum += probability;
  }
  return count;
}

GLYPTIC_INLINE float pixel_shot(const PixelNoiseArgs& a, int64_t image, int64_t element, float v,
                                uint32_t word) {
  const int32_t whole = static_cast<int32_t>(v + kPixelSlack);
  int32_t count = pixel_poisson(a, whole, word);
  const float rest = v - static_cast<float>(whole);
  if (rest > kPixelSlack)
    count += pixel_small_poisson(a.mean * static_cast<double>(rest),
                                 random_word(a.seed, a.seconds[image], static_cast<uint64_t>(element)));
  return static_cast<float>(count) * a.level;
}

/// Elements 4 * block .. 4 * block + 3 of an image: v[k] becomes the noisy value, still to be rounded.
template <PixelNoise kind>
GLYPTIC_INLINE void pixel_noise_block(const PixelNoiseArgs& a, int64_t image, uint64_t stream, int64_t block,
                                      float v[4]) {
  if (kind == PixelNoise::gaussian || kind == PixelNoise::speckle) {
    FillArgs fill{};
    fill.kind = FillKind::normal;
    fill.seed = a.seed;
    fill.stream = stream;
    float number[4];
    fill_block(fill, static_cast<uint64_t>(block), number);
    for (int k = 0; k < 4; ++k) {
      const float noise = a.strength * number[k];
      v[k] = v[k] + (kind == PixelNoise::speckle ? v[k] * noise : noise);
    }
    return;
  }
  uint32_t word[4];
  random_words(a.seed, stream, static_cast<uint64_t>(block), word);
  for (int k = 0; k < 4; ++k) {
    if (kind == PixelNoise::impulse) {
      const uint64_t w = word[k];
      v[k] = w >= a.threshold ? v[k] : 2 * w < a.threshold ? 255.0f : 0.0f;
    } else {
      v[k] = pixel_shot(a, image, 4 * block + k, v[k], word[k]);
    }
  }
}

GLYPTIC_KERNEL(void, pixel_noise, (const PixelNoiseArgs& args, int threads))

namespace cuda {
/// All pointers in device memory.
void pixel_noise(const PixelNoiseArgs& args, void* stream);
}  // namespace cuda

}  // namespace glyptic::kernels
