// Elementwise kernels: every instruction set and number of threads gives the bits of a plain loop.
#include <gtest/gtest.h>

#include <cstring>

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
                       (options & 9) == 9};
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
