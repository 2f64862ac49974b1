#include "glyptic/kernels/pixel_noise.h"

#include "for_each.h"

namespace glyptic::kernels::GLYPTIC_ISA {
namespace {

constexpr int64_t kBlocks = 64;  // of four elements
constexpr int64_t kElements = 4 * kBlocks;

template <PixelNoise kind>
void noisy(const PixelNoiseArgs& args, int64_t image, int64_t first_block, float* __restrict v) {
  const PixelNoiseArgs a = args;
  const uint64_t stream = a.streams[image];
  for (int64_t j = 0; j < kBlocks; ++j) pixel_noise_block<kind>(a, image, stream, first_block + j, v + 4 * j);
}

void load(const PixelNoiseArgs& a, int64_t at, float* __restrict v, int64_t n) {
  if (a.in_float) {
    const float* __restrict in = static_cast<const float*>(a.in) + at;
    for (int64_t i = 0; i < n; ++i) v[i] = in[i] * 255.0f;
  } else {
    const uint8_t* __restrict in = static_cast<const uint8_t*>(a.in) + at;
    for (int64_t i = 0; i < n; ++i) v[i] = static_cast<float>(in[i]);
  }
}

template <PixelRounding rounding>
void store(const PixelNoiseArgs& a, int64_t at, const float* __restrict v, int64_t n) {
  if (a.out_float) {
    float* __restrict out = static_cast<float*>(a.out) + at;
    for (int64_t i = 0; i < n; ++i) out[i] = pixel_rounded(v[i], rounding) / 255.0f;
  } else {
    uint8_t* __restrict out = static_cast<uint8_t*>(a.out) + at;
    for (int64_t i = 0; i < n; ++i)
      out[i] = static_cast<uint8_t>(static_cast<int32_t>(pixel_rounded(v[i], rounding)));
  }
}

}  // namespace

void pixel_noise(const PixelNoiseArgs& a, int threads) {
  for_each(a.images, threads, [&](int64_t image) {
    alignas(64) float v[kElements] = {};
    for (int64_t at = 0; at < a.size; at += kElements) {
      const int64_t n = a.size - at < kElements ? a.size - at : kElements;
      const int64_t place = image * a.size + at;
      load(a, place, v, n);
      switch (a.kind) {
        case PixelNoise::gaussian:
          noisy<PixelNoise::gaussian>(a, image, at / 4, v);
          break;
        case PixelNoise::speckle:
          noisy<PixelNoise::speckle>(a, image, at / 4, v);
          break;
        case PixelNoise::impulse:
          noisy<PixelNoise::impulse>(a, image, at / 4, v);
          break;
        case PixelNoise::shot: {
          const uint64_t stream = a.streams[image];
          for (int64_t j = 0; 4 * j < n; ++j) {
            for (int64_t k = n - 4 * j; k < 4; ++k) v[4 * j + k] = 0.0f;  // past the end of the image
            pixel_noise_block<PixelNoise::shot>(a, image, stream, at / 4 + j, v + 4 * j);
          }
          break;
        }
      }
      switch (a.rounding) {
        case PixelRounding::floor:
          store<PixelRounding::floor>(a, place, v, n);
          break;
        case PixelRounding::nearest:
          store<PixelRounding::nearest>(a, place, v, n);
          break;
        case PixelRounding::none:
          store<PixelRounding::none>(a, place, v, n);
          break;
      }
    }
  });
}

}  // namespace glyptic::kernels::GLYPTIC_ISA
