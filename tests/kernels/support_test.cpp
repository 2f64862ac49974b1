#include <gtest/gtest.h>

#include "glyptic/core/error.h"
#include "glyptic/core/philox.h"
#include "glyptic/kernels/chunks.h"
#include "glyptic/kernels/masked_adamw.h"
#include "glyptic/kernels/random_words.h"
#include "glyptic/kernels/score_key.h"
#include "variants.h"

namespace glyptic::kernels {
namespace {

using testing_support::Engine;

TEST(Chunks, CoverEveryElementOnceAndInOrder) {
  Engine engine(1);
  for (int trial = 0; trial < 200; ++trial) {
    const int64_t entries = 1 + static_cast<int64_t>(engine() % 9),
                  chunk = 1 + static_cast<int64_t>(engine() % 50);
    std::vector<int64_t> sizes(static_cast<std::size_t>(entries)),
        first(static_cast<std::size_t>(entries) + 1);
    for (auto& size : sizes) size = engine() % 3 == 0 ? 0 : static_cast<int64_t>(engine() % 200);
    number_chunks(
        entries, chunk, [&](int64_t i) { return sizes[static_cast<std::size_t>(i)]; }, first.data());
    const ChunkMap map{first.data(), entries, chunk};
    int64_t index = 0;
    for (int64_t i = 0; i < entries; ++i)
      for (int64_t begin = 0; begin < sizes[static_cast<std::size_t>(i)]; begin += chunk, ++index) {
        const auto place = locate_chunk(map, index);
        ASSERT_EQ(place.entry, i);
        ASSERT_EQ(place.begin, begin);
      }
    EXPECT_EQ(index, first.back());
  }
}

TEST(ScoreKey, KeepsTheOrderOfFloats) {
  Engine engine(2);
  std::vector<float> x;
  for (int kind = 0; kind < testing_support::kDataKinds; ++kind)
    for (const float v : testing_support::random_floats(engine, 300, kind)) x.push_back(v);
  for (const float v : {std::numeric_limits<float>::max(), std::numeric_limits<float>::lowest(), 0.0f, -0.0f})
    x.push_back(v);
  for (const float a : x)
    for (const float b : x) {
      ASSERT_EQ(float_key(a) < float_key(b), a < b) << a << " " << b;
      ASSERT_EQ(float_key(a) == float_key(b), a == b) << a << " " << b;
      ASSERT_EQ(magnitude_key(a) < magnitude_key(b), std::fabs(a) < std::fabs(b)) << a << " " << b;
    }
}

TEST(ScoreKey, TellsFiniteFromNot) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const float bad : {inf, -inf, nan, -nan}) {
    EXPECT_FALSE(key_is_finite(float_key(bad))) << bad;
    EXPECT_FALSE(key_is_finite(magnitude_key(bad))) << bad;
    EXPECT_FALSE(key_is_finite(score_key<KeyKind::taylor>(bad, 1.0f, 0.0f))) << bad;
    EXPECT_FALSE(key_is_finite(score_key<KeyKind::mest>(1.0f, bad, 0.5f))) << bad;
    // The GPU finds them in the four lowest and highest bins of the first digit.
    const uint32_t digit = radix_digit(radix_image(float_key(bad)), 0);
    EXPECT_TRUE(digit < 4 || digit >= kRadixBins - 4) << bad;
  }
  for (const float good : {0.0f, -0.0f, 3e38f, -3e38f}) {
    EXPECT_TRUE(key_is_finite(float_key(good)));
    const uint32_t digit = radix_digit(radix_image(float_key(good)), 0);
    EXPECT_TRUE(digit >= 4 && digit < kRadixBins - 4) << good;
  }
}

TEST(ScoreKey, DigitsRebuildTheKey) {
  Engine engine(3);
  for (int i = 0; i < 1000; ++i) {
    const auto key = static_cast<int32_t>(engine());
    uint32_t image = 0;
    for (int pass = 0; pass < 3; ++pass) {
      EXPECT_TRUE(radix_in_prefix(radix_image(key), image, pass));
      image |= radix_digit(radix_image(key), pass) << radix_shift(pass);
    }
    EXPECT_EQ(radix_key(image), key);
  }
  EXPECT_LT(radix_image(-1), radix_image(0));
}

TEST(RandomWords, AreThoseOfTheCore) {
  Engine engine(4);
  for (int i = 0; i < 1000; ++i) {
    const uint64_t seed = engine(), stream = engine(), index = engine() >> (engine() % 64);
    ASSERT_EQ(random_word(seed, stream, index), philox_u32(seed, stream, index));
  }
}

TEST(Isa, ObeysAndRefusesTheEnvironment) {
  EXPECT_EQ(isa_from("baseline"), Isa::baseline);
  EXPECT_EQ(isa_from(nullptr), isa_supported(Isa::avx2) ? Isa::avx2 : Isa::baseline);
  EXPECT_EQ(isa_from(""), isa_from(nullptr));
  try {
    isa_from("avx1024");
    FAIL();
  } catch (const ArgumentError& error) {
    EXPECT_STREQ(error.what(), "GLYPTIC_ISA is 'avx1024', expected baseline or avx2");
  }
}

TEST(AdamTable, EndsWhereCorrectionsAreOne) {
  for (const double beta2 : {0.5, 0.99, 0.999, 0.9999}) {
    const double size = adam_table_size(0.9, beta2);
    const auto last = adam_correction(0.9, beta2, size - 1);
    EXPECT_EQ(last.c1, 1.0f);
    EXPECT_EQ(last.c2, 1.0f);
  }
  EXPECT_EQ(adam_table_size(0, 0), 2);
}

}  // namespace
}  // namespace glyptic::kernels
