// Elementwise kernels: every instruction set and number of threads gives the bits of a plain loop.
#include <gtest/gtest.h>

#include <cstring>
#include <tuple>

#include "glyptic/kernels/channel_scores.h"
#include "glyptic/kernels/masked_adamw.h"
#include "glyptic/kernels/masked_sgd.h"
#include "variants.h"

namespace glyptic::kernels {
namespace {

using testing_support::Engine;

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(MaskedSgd, VariantsAndThreadsAgree) {
  Engine engine(21);
  const std::size_t n = 10007;
  const auto w = testing_support::random_floats(engine, n, 0),
             g = testing_support::random_floats(engine, n, 4);
  const auto v = testing_support::random_floats(engine, n, 3);
  const auto mask = testing_support::random_mask(engine, n, 0.5);
  const int64_t size = static_cast<int64_t>(n);
  const int64_t first[] = {0, (size + 255) / 256};
  for (int options = 0; options < 32; ++options) {
    const SgdScalars s{0.1f,
                       options & 1 ? 0.9f : 0.0f,
                       0.8f,
                       options & 2 ? 5e-4f : 0.0f,
                       options & 16 ? -1.0f : 1.0f,
                       (options & 5) == 5,
                       (options & 9) == 9,
                       false};
    auto expected_w = w, expected_v = v;
    for (std::size_t i = 0; i < n; ++i) {  // the contract, each operation rounded through memory
      volatile float t = g[i] * s.sign;
      if (s.weight_decay != 0) {
        volatile float decay = s.weight_decay * w[i];
        t = t + decay;
      }
      volatile float d = t;
      if (s.momentum != 0) {
        volatile float old = s.momentum * v[i], part = s.gain * t, velocity = old + part;
        if (s.first_step) velocity = t;
        d = velocity;
        if (s.nesterov) {
          volatile float ahead = s.momentum * velocity;
          d = t + ahead;
        }
        expected_v[i] = mask[i] ? velocity : 0.0f;
      }
      volatile float move = s.lr * d, result = w[i] - move;
      expected_w[i] = mask[i] ? result : 0.0f;
    }
    const auto check = [&](auto kernel, const char* isa) {
      for (int threads = 1; threads <= 5; ++threads) {
        auto got_w = w, got_v = v;
        const SgdEntry entry{got_w.data(), g.data(), got_v.data(), mask.data(), size};
        kernel(&entry, ChunkMap{first, 1, 256}, s, threads);
        ASSERT_TRUE(same_bits(got_w, expected_w) && same_bits(got_v, expected_v))
            << isa << " options " << options;
      }
    };
    GLYPTIC_EACH_VARIANT(masked_sgd, check);
  }
}

/// Masks of every kind of occupation: random ones, and runs of empty and of full lines.
std::vector<uint8_t> patchy_mask(Engine& engine, std::size_t n, double density, int kind) {
  auto mask = testing_support::random_mask(engine, n, density);
  if (kind == 0) return mask;
  for (std::size_t i = 0; i < n; ++i) {
    const auto part = i * 7 / n;  // sevenths: random, empty, random, full, ...
    if (part == 1 || part == 4) mask[i] = 0;
    if (part == 3) mask[i] = 1;
  }
  return mask;
}

// The promise changes nothing but the memory that is touched: the same bits at every density, size,
// alignment, chunk and number of threads, and a line without an active weight is not read (its gradient may
// be anything) nor written.
TEST(MaskedSgd, ZeroOffMaskGivesTheSameBits) {
  Engine engine(24);
  for (const std::size_t n : {1, 15, 16, 17, 1007, 70000}) {
    for (const double density : {0.0, 0.005, 0.02, 0.1, 0.5, 1.0}) {
      for (int options = 0; options < 8; ++options) {
        const std::size_t shift = static_cast<std::size_t>(options) % 3;  // not always on a cache line
        const auto mask = patchy_mask(engine, n + shift, density, options & 1);
        auto w = testing_support::random_floats(engine, n + shift, 0),
             v = testing_support::random_floats(engine, n + shift, 3),
             g = testing_support::random_floats(engine, n + shift, 4);
        for (std::size_t i = 0; i < w.size(); ++i) {
          if (!mask[i]) w[i] = v[i] = 0.0f;
          if (!mask[i] && i % 5 == 0) g[i] = std::numeric_limits<float>::quiet_NaN();
        }
        SgdScalars s{0.1f, options & 2 ? 0.9f : 0.0f, 0.8f, options & 4 ? 5e-4f : 0.0f, 1, false, false,
                     false};
        const auto size = static_cast<int64_t>(n);
        const int64_t chunk = n > 40000 ? 36864 : 256, first[] = {0, (size + chunk - 1) / chunk};
        const auto check = [&](auto kernel, const char* isa) {
          auto expected_w = w, expected_v = v;
          const auto entry = [&](std::vector<float>& a, std::vector<float>& b) {
            return SgdEntry{a.data() + shift, g.data() + shift, b.data() + shift, mask.data() + shift, size};
          };
          s.off_mask_is_zero = false;
          const auto plain = entry(expected_w, expected_v);
          kernel(&plain, ChunkMap{first, 1, chunk}, s, 1);
          s.off_mask_is_zero = true;
          for (const int threads : {1, 3}) {
            auto got_w = w, got_v = v;
            const auto promised = entry(got_w, got_v);
            kernel(&promised, ChunkMap{first, 1, chunk}, s, threads);
            ASSERT_TRUE(same_bits(got_w, expected_w) && same_bits(got_v, expected_v))
                << isa << " n " << n << " density " << density << " options " << options;
          }
        };
        GLYPTIC_EACH_VARIANT(masked_sgd, check);
      }
    }
  }
}

// Whole lines are left alone, which a broken promise shows.
TEST(MaskedSgd, ZeroOffMaskTouchesActiveLinesAlone) {
  std::vector<float> w(100, 1.0f), g(100, 1.0f), v(100, 1.0f);
  std::vector<uint8_t> mask(100, 0);
  mask[20] = 1;
  const int64_t first[] = {0, 1};
  const auto check = [&](auto kernel, const char* isa) {
    auto got = w, velocity = v;
    const SgdEntry entry{got.data(), g.data(), velocity.data(), mask.data(), 100};
    kernel(&entry, ChunkMap{first, 1, 128}, SgdScalars{0.5f, 0.5f, 1, 0, 1, false, false, true}, 1);
    for (std::size_t i = 0; i < 100; ++i) {
      const bool line = i / 16 == 1 || i >= 96;  // the line of weight 20, and the four after the last line
      EXPECT_EQ(got[i], i == 20 ? 0.25f : line ? 0.0f : 1.0f) << isa << " at " << i;
      EXPECT_EQ(velocity[i], i == 20 ? 1.5f : line ? 0.0f : 1.0f) << isa << " at " << i;
    }
  };
  GLYPTIC_EACH_VARIANT(masked_sgd, check);
}

TEST(MaskedAdamW, ZeroOffMaskGivesTheSameBits) {
  Engine engine(25);
  std::vector<AdamCorrection> table(30);
  for (std::size_t t = 1; t < table.size(); ++t)
    table[t] = adam_correction(0.9, 0.99, static_cast<double>(t));
  for (const std::size_t n : {1, 15, 16, 17, 1007, 70000}) {
    for (const double density : {0.0, 0.005, 0.02, 0.1, 0.5, 1.0}) {
      for (int options = 0; options < 4; ++options) {
        const std::size_t shift = static_cast<std::size_t>(options) % 3;
        const auto mask = patchy_mask(engine, n + shift, density, options & 1);
        auto w = testing_support::random_floats(engine, n + shift, 0),
             m = testing_support::random_floats(engine, n + shift, 0),
             v = testing_support::random_floats(engine, n + shift, 0);
        const auto g = testing_support::random_floats(engine, n + shift, 0);
        std::vector<int32_t> steps(n + shift);
        for (std::size_t i = 0; i < w.size(); ++i) {
          w[i] = mask[i] ? w[i] : 0.0f, m[i] = mask[i] ? m[i] : 0.0f, v[i] = mask[i] ? v[i] * v[i] : 0.0f;
          steps[i] = mask[i] ? static_cast<int32_t>(engine() % 40) : 0;
        }
        AdamScalars s{};
        s.lr = 1e-3f, s.beta1 = 0.9f, s.beta2 = 0.99f, s.rest1 = 0.1f, s.rest2 = 0.01f, s.eps = 1e-8f;
        s.weight_decay = 0.01f, s.shrink = 1 - 1e-5f, s.sign = 1, s.decoupled = options & 1;
        s.correction = adam_correction(0.9, 0.99, 7);
        s.table = table.data(), s.table_size = 30;
        const auto size = static_cast<int64_t>(n);
        const int64_t chunk = n > 40000 ? 36864 : 256, first[] = {0, (size + chunk - 1) / chunk};
        const auto check = [&](auto kernel, const char* isa) {
          const auto run = [&](bool promised, int threads) {
            auto result = std::make_tuple(w, m, v, steps);
            auto& [rw, rm, rv, rs] = result;
            const AdamEntry entry{rw.data() + shift,
                                  g.data() + shift,
                                  rm.data() + shift,
                                  rv.data() + shift,
                                  mask.data() + shift,
                                  options & 2 ? rs.data() + shift : nullptr,
                                  size};
            s.off_mask_is_zero = promised;
            kernel(&entry, ChunkMap{first, 1, chunk}, s, threads);
            return result;
          };
          const auto [ew, em, ev, es] = run(false, 1);
          for (const int threads : {1, 3}) {
            const auto [rw, rm, rv, rs] = run(true, threads);
            ASSERT_TRUE(same_bits(rw, ew) && same_bits(rm, em) && same_bits(rv, ev) && rs == es)
                << isa << " n " << n << " density " << density << " options " << options;
          }
        };
        GLYPTIC_EACH_VARIANT(masked_adamw, check);
      }
    }
  }
}

TEST(MaskedAdamW, VariantsAndThreadsAgree) {
  Engine engine(22);
  const std::size_t n = 5003;
  const int64_t size = static_cast<int64_t>(n);
  const auto w = testing_support::random_floats(engine, n, 0),
             g = testing_support::random_floats(engine, n, 0);
  const auto m = testing_support::random_floats(engine, n, 0);
  auto v = testing_support::random_floats(engine, n, 0);
  for (auto& x : v) x = x * x;
  std::vector<int32_t> steps(n);
  for (auto& t : steps) t = static_cast<int32_t>(engine() % 40);
  const auto mask = testing_support::random_mask(engine, n, 0.7);
  std::vector<AdamCorrection> table(30);  // shorter than the steps: they must stop at its end
  for (std::size_t t = 1; t < table.size(); ++t)
    table[t] = adam_correction(0.9, 0.99, static_cast<double>(t));
  const int64_t first[] = {0, (size + 255) / 256};
  for (int options = 0; options < 16; ++options) {
    AdamScalars s{};
    s.lr = 1e-3f, s.beta1 = 0.9f, s.beta2 = 0.99f, s.rest1 = 0.1f, s.rest2 = 0.01f, s.eps = 1e-8f;
    s.weight_decay = options & 1 ? 0.01f : 0.0f, s.shrink = 1 - 1e-5f, s.sign = options & 8 ? -1.0f : 1.0f;
    s.decoupled = options & 2;
    s.correction = adam_correction(0.9, 0.99, 7);
    s.table = table.data(), s.table_size = 30;
    const bool with_steps = options & 4;
    std::vector<float> reference_w, reference_m, reference_v;
    std::vector<int32_t> reference_steps;
    const auto check = [&](auto kernel, const char* isa) {
      for (int threads = 1; threads <= 5; ++threads) {
        auto got_w = w, got_m = m, got_v = v;
        auto got_steps = steps;
        const AdamEntry entry{got_w.data(), g.data(),    got_m.data(),
                              got_v.data(), mask.data(), with_steps ? got_steps.data() : nullptr,
                              size};
        kernel(&entry, ChunkMap{first, 1, 256}, s, threads);
        if (reference_w.empty()) {
          reference_w = got_w, reference_m = got_m, reference_v = got_v, reference_steps = got_steps;
          continue;
        }
        ASSERT_TRUE(same_bits(got_w, reference_w) && same_bits(got_m, reference_m) &&
                    same_bits(got_v, reference_v) && got_steps == reference_steps)
            << isa << " options " << options;
      }
    };
    GLYPTIC_EACH_VARIANT(masked_adamw, check);
    if (with_steps)
      for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(reference_steps[i], mask[i] ? steps[i] + 1 : 0);
  }
}

TEST(ChannelScores, VariantsAndThreadsAgree) {
  Engine engine(23);
  for (const int64_t row : {1, 9, 31, 32, 33, 64, 576, 1000}) {
    const int64_t rows = 37;
    const auto n = static_cast<std::size_t>(rows * row);
    const auto w = testing_support::random_floats(engine, n, 4);
    const auto mask = testing_support::random_mask(engine, n, 0.3);
    const int64_t first[] = {0, (rows + 3) / 4};
    for (const auto score : {RowScore::mean_magnitude, RowScore::masked_mean_magnitude, RowScore::density,
                             RowScore::kernel_density}) {
      std::vector<float> reference;
      const auto check = [&](auto kernel, const char* isa) {
        for (int threads = 1; threads <= 5; ++threads) {
          std::vector<float> out(static_cast<std::size_t>(rows), 9.0f);
          const RowEntry entry{w.data(), mask.data(), out.data(), rows, row, row % 9 == 0 ? 9 : 1};
          kernel(&entry, ChunkMap{first, 1, 4}, score, threads);
          if (reference.empty()) reference = out;
          ASSERT_TRUE(same_bits(out, reference)) << isa << " row " << row;
        }
      };
      GLYPTIC_EACH_VARIANT(channel_scores, check);
    }
  }
}

}  // namespace
}  // namespace glyptic::kernels
