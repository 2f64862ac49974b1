#include "glyptic/sparsity/granet.h"

#include <gtest/gtest.h>

#include "glyptic/core/error.h"
#include "glyptic/sparsity/schedule.h"
#include "helpers.h"

namespace glyptic::sparsity {
namespace {

using testing_helpers::Net;
using testing_helpers::options_for;

int64_t active_of(const Net& net) {
  int64_t sum = 0;
  for (const auto& layer : net.sparse->layers()) sum += layer.mask.sum().item<int64_t>();
  return sum;
}

// The 352 weights of the test network (12-16-8-4), half of them at the start and a tenth at the end, pruned
// until step 55 of 80 with an event every 10: round(352 (0.1 + 0.4 (1 - t/55)^3)), worked by hand.
TEST(GraNet, CountsFollowTheCubicAndTheLastIsExact) {
  auto options = options_for("granet", 80, 10);
  Net net("mlp", 1, options, "sgd");
  ASSERT_EQ(net.sparse->stats().size, 352);
  const std::map<int64_t, int64_t> expected{{0, 176}, {10, 112}, {20, 71}, {30, 48},
                                            {40, 38}, {50, 35},  {55, 35}};
  int64_t now = expected.at(0);
  EXPECT_EQ(active_of(net), now);
  for (int64_t t = 1; t <= 80; ++t) {
    net.step(t);
    if (expected.count(t) != 0) now = expected.at(t);
    EXPECT_EQ(active_of(net), now) << "step " << t;
  }
  std::vector<int64_t> steps;
  for (const auto& event : net.sparse->events()) steps.push_back(event.step);
  // On after pruning has ended, but not at the last step, where nothing that grew could be trained.
  EXPECT_EQ(steps, (std::vector<int64_t>{10, 20, 30, 40, 50, 55, 60, 70}));
}

// One event against sorting in the test: the global keep set, then in each layer the drop of ceil(f k) and
// the regrowth of as many by |gradient|.
TEST(GraNet, OneEventIsGlobalPruningThenExchangeInEachLayer) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    Net net("mlp", seed, options_for("granet", 80, 1), "sgd");
    for (int64_t t = 1; t <= 20; ++t) net.step(t);
    const auto states = net.states_after_backward();
    struct Entry {
      float magnitude;
      std::size_t layer;
      int64_t index;
    };
    std::vector<Entry> all;
    const auto& layers = net.sparse->layers();
    for (std::size_t l = 0; l < layers.size(); ++l) {
      const auto w = layers[l].weight.detach().reshape(-1), m = layers[l].mask.reshape(-1);
      for (int64_t i = 0; i < w.numel(); ++i)
        if (m[i].item<bool>()) all.push_back({std::abs(w[i].item<float>()), l, i});
    }
    std::stable_sort(all.begin(), all.end(),
                     [](const Entry& a, const Entry& b) { return a.magnitude > b.magnitude; });
    const auto target = std::llround(352 * (0.1 + 0.4 * std::pow(1 - 21 / 55.0, 3)));
    all.resize(static_cast<std::size_t>(target));
    std::vector<std::set<int64_t>> wanted(layers.size());
    const double f = 0.005 + 0.495 / 2 * (1 + std::cos(M_PI * 21 / 80));
    for (std::size_t l = 0; l < layers.size(); ++l) {
      std::vector<int64_t> mine;  // still by falling magnitude
      for (const auto& entry : all)
        if (entry.layer == l) mine.push_back(entry.index);
      const auto dropped = static_cast<std::size_t>(std::ceil(f * static_cast<double>(mine.size()) - 1e-9));
      mine.resize(mine.size() - dropped);
      wanted[l].insert(mine.begin(), mine.end());
      const auto g = states[2 * l].grad.reshape(-1);  // parameters are weight, bias, weight, ...
      std::vector<int64_t> candidates;
      for (int64_t i = 0; i < g.numel(); ++i)
        if (!wanted[l].count(i)) candidates.push_back(i);
      std::stable_sort(candidates.begin(), candidates.end(), [&](int64_t a, int64_t b) {
        return std::abs(g[a].item<float>()) > std::abs(g[b].item<float>());
      });
      wanted[l].insert(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(dropped));
    }
    net.sparse->end_step(states);
    for (std::size_t l = 0; l < layers.size(); ++l) {
      const auto m = layers[l].mask.reshape(-1);
      for (int64_t i = 0; i < m.numel(); ++i)
        EXPECT_EQ(m[i].item<bool>(), wanted[l].count(i) == 1) << layers[l].name << " " << i;
    }
  }
}

// After pruning has ended, every layer keeps its count while its weights still change places.
TEST(GraNet, RegenerationKeepsEachLayersCount) {
  auto options = options_for("granet", 80, 4);
  Net net("mlp", 3, options, "adamw");
  for (int64_t t = 1; t <= 55; ++t) net.step(t);
  std::vector<int64_t> counts;
  std::vector<at::Tensor> masks;
  for (const auto& layer : net.sparse->layers()) {
    counts.push_back(layer.active);
    masks.push_back(layer.mask.clone());
  }
  for (int64_t t = 56; t <= 80; ++t) {
    net.step(t);
    for (std::size_t l = 0; l < counts.size(); ++l) EXPECT_EQ(net.sparse->layers()[l].active, counts[l]);
  }
  int64_t moved = 0;
  for (std::size_t l = 0; l < masks.size(); ++l)
    moved += masks[l].logical_xor(net.sparse->layers()[l].mask).sum().item<int64_t>();
  EXPECT_GT(moved, 0);
}

TEST(GraNet, RefusesToStartSparserThanItEnds) {
  auto options = options_for("granet", 80, 10);
  options.density = 0.6;  // the preset starts at sparsity 0.5
  try {
    const Net net("mlp", 1, options, "sgd");
    FAIL();
  } catch (const ArgumentError& error) {
    EXPECT_NE(std::string(error.what()).find("initial_sparsity is 0.5"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace glyptic::sparsity
