#include "glyptic/kernels/topk.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "glyptic/core/philox.h"
#include "variants.h"

namespace glyptic::kernels {
namespace {

using testing_support::Engine;

struct Layer {
  std::vector<float> a, b;
  std::vector<uint8_t> candidate, exclude;
};

struct Case {
  std::vector<Layer> layers;
  std::vector<int64_t> k;
  bool global = false;
  KeyKind kind = KeyKind::magnitude;
  float lambda = 0.5f;
  uint64_t seed = 11, stream = 5;
  bool merge = false;
};

bool eligible(const Layer& layer, std::size_t i) {
  return (layer.candidate.empty() || layer.candidate[i]) && (layer.exclude.empty() || !layer.exclude[i]);
}

/// The definition: sort candidates by (score descending, tensor, index), take k. Scores in float64 from the
/// same float32 products and sums; Philox words as integers.
std::vector<std::vector<uint8_t>> by_sorting(const Case& c) {
  struct Item {
    double score;
    std::size_t layer, index;
  };
  std::vector<std::vector<uint8_t>> masks;
  for (const auto& layer : c.layers) masks.emplace_back(layer.a.size(), uint8_t{0});
  const auto take = [&](std::vector<Item>& items, int64_t k) {
    std::stable_sort(items.begin(), items.end(),
                     [](const Item& x, const Item& y) { return x.score > y.score; });
    for (int64_t i = 0; i < k; ++i)
      masks[items[static_cast<std::size_t>(i)].layer][items[static_cast<std::size_t>(i)].index] = 1;
  };
  std::vector<Item> all;
  for (std::size_t l = 0; l < c.layers.size(); ++l) {
    const auto& layer = c.layers[l];
    std::vector<Item> items;
    for (std::size_t i = 0; i < layer.a.size(); ++i) {
      if (!eligible(layer, i)) continue;
      double score = 0;
      const float a = layer.a[i], b = layer.b.empty() ? 0.0f : layer.b[i];
      switch (c.kind) {
        case KeyKind::magnitude:
          score = std::fabs(a);
          break;
        case KeyKind::mest: {
          const volatile float product = c.lambda * std::fabs(b);
          const volatile float sum = std::fabs(a) + product;
          score = sum;
          break;
        }
        case KeyKind::taylor: {
          const volatile float product = a * b;
          score = static_cast<double>(product) * static_cast<double>(product);
          break;
        }
        case KeyKind::random:
          score = philox_u32(c.seed, c.stream + l, i);
          break;
        case KeyKind::raw:
          score = a;
          break;
      }
      items.push_back({score, l, i});
    }
    if (c.global)
      all.insert(all.end(), items.begin(), items.end());
    else
      take(items, c.k[l]);
  }
  if (c.global) take(all, c.k[0]);
  for (std::size_t l = 0; c.merge && l < c.layers.size(); ++l)
    for (std::size_t i = 0; i < c.layers[l].exclude.size(); ++i) masks[l][i] |= c.layers[l].exclude[i];
  return masks;
}

std::vector<int64_t> candidate_counts(const Case& c) {
  std::vector<int64_t> counts;
  for (const auto& layer : c.layers) {
    int64_t n = 0;
    for (std::size_t i = 0; i < layer.a.size(); ++i) n += eligible(layer, i);
    counts.push_back(n);
  }
  if (c.global) counts = {std::accumulate(counts.begin(), counts.end(), int64_t{0})};
  return counts;
}

template <class Kernel>
std::vector<std::vector<uint8_t>> run(const Case& c, Kernel kernel, int threads,
                                      std::vector<TopKReport>* report = nullptr) {
  std::vector<std::vector<uint8_t>> masks;
  for (const auto& layer : c.layers)
    masks.emplace_back(layer.a.size(), uint8_t{7});  // 7: must be overwritten
  std::vector<TopKEntry> entries;
  const auto or_null = [](const auto& v) { return v.empty() ? nullptr : v.data(); };
  for (std::size_t l = 0; l < c.layers.size(); ++l) {
    const auto& layer = c.layers[l];
    entries.push_back({layer.a.data(), or_null(layer.b), or_null(layer.candidate), or_null(layer.exclude),
                       masks[l].data(), static_cast<int64_t>(layer.a.size())});
  }
  const TopKTask task{entries.data(), static_cast<int64_t>(entries.size()),
                      c.k.data(),     c.global,
                      c.kind,         c.lambda,
                      c.seed,         c.stream,
                      c.merge};
  std::vector<TopKReport> own(c.k.size());
  EXPECT_TRUE(kernel(task, own.data(), threads));
  if (report) *report = own;
  return masks;
}

void check_all_ways(const Case& c) {
  const auto expected = by_sorting(c);
  const auto counts = candidate_counts(c);
  const auto check = [&](auto kernel, const char* isa) {
    for (const int threads : {1, 2, 5}) {
      std::vector<TopKReport> report;
      const auto masks = run(c, kernel, threads, &report);
      for (std::size_t l = 0; l < masks.size(); ++l)
        ASSERT_TRUE(masks[l] == expected[l]) << isa << ", " << threads << " threads, tensor " << l;
      for (std::size_t g = 0; g < report.size(); ++g) {
        ASSERT_EQ(report[g].candidates, counts[g]);
        ASSERT_EQ(report[g].non_finite, 0);
      }
    }
  };
  GLYPTIC_EACH_VARIANT(topk, check);
  GLYPTIC_EACH_VARIANT(topk_radix, check);
}

Case random_case(Engine& engine, std::size_t largest) {
  Case c;
  c.kind = static_cast<KeyKind>(engine() % 5);
  c.global = engine() % 2 == 0;
  c.merge = engine() % 2 == 0;
  c.lambda = engine() % 3 == 0 ? -0.25f : 0.5f;
  const int data = static_cast<int>(engine() % testing_support::kDataKinds);
  const double densities[] = {0.0, 0.1, 0.9, 1.0};
  const bool with_candidates = engine() % 2, with_exclude = engine() % 2;
  const std::size_t layers = 1 + engine() % 4;
  for (std::size_t l = 0; l < layers; ++l) {
    const std::size_t n = engine() % 5 == 0 ? engine() % 2 : engine() % largest;
    Layer layer;
    layer.a = testing_support::random_floats(engine, n, data);
    layer.b = testing_support::random_floats(engine, n, data == 4 ? 0 : data);
    if (with_candidates) layer.candidate = testing_support::random_mask(engine, n, densities[engine() % 4]);
    if (with_exclude) layer.exclude = testing_support::random_mask(engine, n, densities[engine() % 4]);
    if (n == 0) layer = Layer{};
    c.layers.push_back(layer);
  }
  for (const int64_t n : candidate_counts(c)) {
    const uint64_t choice = engine() % 4;
    c.k.push_back(choice == 0   ? 0
                  : choice == 1 ? n
                                : static_cast<int64_t>(engine() % static_cast<uint64_t>(n + 1)));
  }
  return c;
}

TEST(TopK, EqualsSortingOnManySmallCases) {
  Engine engine(10);
  for (int trial = 0; trial < 300; ++trial) {
    SCOPED_TRACE(trial);
    check_all_ways(random_case(engine, 600));
    if (HasFatalFailure()) return;
  }
}

TEST(TopK, EqualsSortingAcrossChunks) {
  Engine engine(11);
  for (int trial = 0; trial < 10; ++trial) {
    SCOPED_TRACE(trial);
    check_all_ways(random_case(engine, 3 * kTopKChunk));
    if (HasFatalFailure()) return;
  }
}

Case one_layer(std::vector<float> a, int64_t k) {
  Case c;
  c.layers.push_back({std::move(a), {}, {}, {}});
  c.k = {k};
  return c;
}

// Large and made so that the sample cannot bracket the rank: the second way has to give the same answer.
TEST(TopK, SurvivesDataThatMisleadsTheSample) {
  Engine engine(12);
  const std::size_t n = 9 * kTopKChunk + 17;
  auto ties = testing_support::random_floats(engine, n, 1);
  check_all_ways(one_layer(ties, static_cast<int64_t>(n / 3)));
  check_all_ways(one_layer(std::vector<float>(n, 0.25f), static_cast<int64_t>(n / 2)));
  auto mostly_zero = testing_support::random_floats(engine, n, 0);
  for (std::size_t i = 0; i < n; ++i)
    if (i % 10) mostly_zero[i] = 0;
  check_all_ways(one_layer(mostly_zero, static_cast<int64_t>(n / 2)));
  // The k largest sit in one place that the sample hardly sees, among equals everywhere else.
  std::vector<float> spike(n, 1.0f);
  for (std::size_t i = 5000; i < 5100; ++i) spike[i] = 2.0f + static_cast<float>(i);
  for (const int64_t k : {1, 99, 100, 101, 5000}) check_all_ways(one_layer(spike, k));
  std::vector<float> ramp(n);
  for (std::size_t i = 0; i < n; ++i) ramp[i] = static_cast<float>(i);
  check_all_ways(one_layer(ramp, 12345));
}

TEST(TopK, CountsWhatIsNotFiniteAmongCandidatesOnly) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  auto c = one_layer({1, nan, 2, -inf, 3, inf}, 2);
  const auto check = [&](auto kernel, const char*) {
    for (const auto kind : {KeyKind::magnitude, KeyKind::raw}) {
      c.kind = kind;
      c.layers[0].exclude = {};
      std::vector<TopKReport> report;
      run(c, kernel, 1, &report);
      EXPECT_EQ(report[0].non_finite, 3);
      c.layers[0].exclude = {0, 1, 0, 1, 0, 1};
      const auto masks = run(c, kernel, 1, &report);
      EXPECT_EQ(report[0].non_finite, 0);
      EXPECT_EQ(report[0].candidates, 3);
      EXPECT_EQ(masks[0], (std::vector<uint8_t>{0, 0, 1, 0, 1, 0}));
    }
    c.layers[0].candidate = {};
    c.k = {7};
    std::vector<TopKReport> report;
    run(c, kernel, 1, &report);
    EXPECT_LT(report[0].candidates, 7);  // the caller's to refuse
    c.k = {2};
  };
  GLYPTIC_EACH_VARIANT(topk, check);
  GLYPTIC_EACH_VARIANT(topk_radix, check);
}

}  // namespace
}  // namespace glyptic::kernels
