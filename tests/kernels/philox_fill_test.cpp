#include "glyptic/kernels/philox_fill.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "glyptic/core/philox.h"
#include "variants.h"

namespace glyptic::kernels {
namespace {

std::vector<float> fill(FillKind kind, int64_t n, uint64_t offset, int threads = 1, uint64_t seed = 3) {
  std::vector<float> out(static_cast<std::size_t>(n), 9.0f);
  const FillArgs args{out.data(), n, FloatType::float32, kind, seed, 4, offset};
  GLYPTIC_SELECT(philox_fill)(args, threads);
  return out;
}

struct Pair {
  double cosine, sine;
};

Pair exact_normals(uint32_t radius_word, uint32_t angle_word) {
  const double u = word_to_radius_uniform(radius_word);  // the uniform is a float by definition
  const double radius = std::sqrt(-2 * std::log(u)), angle = 2 * M_PI * (angle_word / 4294967296.0);
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

TEST(PhiloxFill, NormalsAreThoseOfFloat64) {
  const int64_t n = 1 << 20;
  const auto z = fill(FillKind::normal, n, 0);
  double worst = 0;
  for (int64_t i = 0; i < n; i += 2) {
    const auto index = static_cast<uint64_t>(i);
    const auto pair = exact_normals(philox_u32(3, 4, index), philox_u32(3, 4, index + 1));
    for (int j = 0; j < 2; ++j) {
      const double expected = j ? pair.sine : pair.cosine;
      const double error = std::fabs(z[static_cast<std::size_t>(i + j)] - expected);
      worst = std::max(worst, error / std::max(1.0, std::fabs(expected)));
    }
  }
  EXPECT_LT(worst, kNormalError);
  RecordProperty("worst_error_e9", static_cast<int>(worst * 1e9));
}

// Every quadrant border, both ends of the uniform, and exponents in between.
TEST(PhiloxFill, NormalsAtTheEdges) {
  std::vector<uint32_t> words;
  for (int bit = 0; bit < 32; ++bit)
    for (const int delta : {-1, 0, 1}) words.push_back((1u << bit) + static_cast<uint32_t>(delta));
  for (uint32_t eighth = 0; eighth < 8; ++eighth)
    for (const int delta : {-2, -1, 0, 1, 2}) words.push_back((eighth << 29) + static_cast<uint32_t>(delta));
  for (const uint32_t r : words)
    for (const uint32_t a : words) {
      const float radius = radius_of(word_to_radius_uniform(r));
      float c, s;
      circle_of(a, &c, &s);
      const auto exact = exact_normals(r, a);
      ASSERT_NEAR(radius * c, exact.cosine, kNormalError * std::max(1.0, std::fabs(exact.cosine)))
          << r << " " << a;
      ASSERT_NEAR(radius * s, exact.sine, kNormalError * std::max(1.0, std::fabs(exact.sine)))
          << r << " " << a;
    }
  EXPECT_EQ(word_to_radius_uniform(0xffffffffu), 1.0f);
  EXPECT_EQ(radius_of(1.0f), 0.0f);
  EXPECT_GT(radius_of(word_to_radius_uniform(0)), 6.7f);
}

TEST(PhiloxFill, HasItsMoments) {
  const int64_t n = 400001;
  const auto moments = [&](FillKind kind) {
    double sum = 0, square = 0;
    for (const float x : fill(kind, n, 0)) {
      sum += x;
      square += static_cast<double>(x) * x;
    }
    return std::pair{sum / n, square / n};
  };
  // Five standard errors of mean and mean square: sigma / sqrt(n), sqrt(n) = 632.
  const auto [mean, square] = moments(FillKind::normal);
  EXPECT_NEAR(mean, 0, 5 / 632.0);
  EXPECT_NEAR(square, 1, 5 * 1.4143 / 632);
  const auto [uniform_mean, uniform_square] = moments(FillKind::uniform);
  EXPECT_NEAR(uniform_mean, 0.5, 5 * 0.2887 / 632);
  EXPECT_NEAR(uniform_square, 1.0 / 3, 5 * 0.2982 / 632);
  const auto [sign_mean, sign_square] = moments(FillKind::rademacher);
  EXPECT_NEAR(sign_mean, 0, 5 / 632.0);
  EXPECT_EQ(sign_square, 1);
}

TEST(PhiloxFill, UniformIsTheCoreStream) {
  const auto x = fill(FillKind::uniform, 100, 37);
  for (uint64_t i = 0; i < 100; ++i) EXPECT_EQ(x[i], philox_to_uniform(philox_u32(3, 4, 37 + i)));
}

TEST(PhiloxFill, NumberDependsOnNothingButItsIndex) {
  const int64_t n = (1 << 17) + 5;
  for (const auto kind : {FillKind::uniform, FillKind::normal, FillKind::rademacher}) {
    const auto whole = fill(kind, n, 0);
    const auto check = [&](auto kernel, const char* isa) {
      for (const int threads : {1, 2, 3, 4, 5})
        for (const uint64_t offset : {0, 1, 2, 3, 4, 65535, 65537}) {
          const int64_t size = n - static_cast<int64_t>(offset);
          for (const int64_t count : {int64_t{0}, int64_t{1}, int64_t{3}, size}) {
            std::vector<float> out(static_cast<std::size_t>(count) + 1, 9.0f);
            const FillArgs args{out.data(), count, FloatType::float32, kind, 3, 4, offset};
            kernel(args, threads);
            ASSERT_EQ(out.back(), 9.0f);
            ASSERT_EQ(std::memcmp(out.data(), whole.data() + offset, static_cast<std::size_t>(count) * 4), 0)
                << isa << " offset " << offset << " threads " << threads << " count " << count;
          }
        }
    };
    GLYPTIC_EACH_VARIANT(philox_fill, check);
  }
}

TEST(PhiloxFill, RoundsToHalfTypesAsTorchDoes) {
  for (uint32_t high = 0; high < 0x40e0u;
       ++high)  // every upper half below 7, with lower halves around the ties
    for (const uint32_t low :
         {0u, 1u, 0x0fffu, 0x1000u, 0x1001u, 0x2fffu, 0x3000u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
      for (const uint32_t sign : {0u, 0x80000000u}) {
        const float x = bits_float(sign | (high << 16) | low);
        ASSERT_EQ(to_bfloat16(x), c10::BFloat16(x).x) << x;
        ASSERT_EQ(to_float16(x), c10::Half(x).x) << x;
      }
}

}  // namespace
}  // namespace glyptic::kernels
