// Criteria, schedules and scopes that no preset picks, and what the engine does for optimizers of others.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "../support.h"
#include "glyptic/core/error.h"
#include "glyptic/core/log.h"
#include "glyptic/sparsity/schedule.h"
#include "helpers.h"

namespace glyptic::sparsity {
namespace {

using testing_helpers::Net;
using testing_helpers::options_for;
using testing_helpers::same_bits;

at::Tensor row(const std::vector<float>& values) {
  return torch::tensor(values).view({1, static_cast<int64_t>(values.size())});
}

at::Tensor bits(const std::vector<int>& values) {
  return torch::tensor(values).view({1, static_cast<int64_t>(values.size())}).to(at::kBool);
}

TEST(Schedules, ByHand) {
  EXPECT_EQ(drop_schedule("constant", 0.3, 10, 0, 0)(7), 0.3);
  const auto linear = drop_schedule("linear", 0.4, 10, 0, 0);
  EXPECT_DOUBLE_EQ(linear(5), 0.2);
  EXPECT_EQ(linear(10), 0);
  EXPECT_EQ(linear(25), 0);                                                   // past its end
  EXPECT_DOUBLE_EQ(drop_schedule("inverse_power", 0.5, 4, 0, 3)(2), 0.0625);  // 0.5 (1 - 2/4)^3
  EXPECT_DOUBLE_EQ(drop_schedule("cosine", 0.5, 8, 0.1, 0)(4), 0.3);          // half-way between 0.5 and 0.1
  expect_contains(
      message_of<ArgumentError>([] { drop_schedule("cosin", 0.5, 8, 0, 0); }),
      "drop_schedule is 'cosin', expected one of cosine, constant, linear, inverse_power; did you "
      "mean 'cosine'?");
  expect_contains(message_of<ArgumentError>([] { drop_schedule("cosine", 1.5, 8, 0, 0); }),
                  "expected a number in [0, 1]");
}

/// The mask after keeping two of four weights.
at::Tensor kept(Criterion criterion, double lambda, double noise = 0, uint64_t seed = 0) {
  auto mask = bits({1, 1, 1, 1});
  std::vector<Layer> layers{{"w", row({1, -2, 3, 4}), mask, 4}};
  std::vector<ParameterState> states{{row({10, 0, 2, -0.1f}), {}}};
  MaskEditor edit(layers, states, RngStream(seed, "criteria"), lambda, noise);
  edit.keep({2}, criterion);
  EXPECT_EQ(edit.commit().dropped, 2);
  return mask;
}

TEST(Criteria, EachKeepsItsOwnBest) {
  EXPECT_TRUE(at::equal(kept(Criterion::magnitude, 0), bits({0, 0, 1, 1})));
  EXPECT_TRUE(at::equal(kept(Criterion::mest, 0.5), bits({1, 0, 0, 1})));    // 6, 2, 4, 4.05
  EXPECT_TRUE(at::equal(kept(Criterion::mest, 0), bits({0, 0, 1, 1})));      // lambda 0 is magnitude
  EXPECT_TRUE(at::equal(kept(Criterion::taylor, 0), bits({1, 0, 1, 0})));    // 10, 0, 6, 0.4
  EXPECT_TRUE(at::equal(kept(Criterion::gradient, 0), bits({1, 0, 1, 0})));  // 10, 0, 2, 0.1
}

TEST(Criteria, NoiseOnTheRankingIsDrawnFromTheSeed) {
  // A deviation far above the weights: other sets for other seeds, and the same for the same.
  std::set<std::string> sets;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const auto mask = kept(Criterion::magnitude, 0, 1e3, seed);
    EXPECT_TRUE(at::equal(mask, kept(Criterion::magnitude, 0, 1e3, seed)));
    std::string text;
    for (int64_t i = 0; i < 4; ++i) text += mask[0][i].item<bool>() ? '1' : '0';
    sets.insert(text);
  }
  EXPECT_GE(sets.size(), 3u);  // of six; that 20 draws hit one or two has a chance below 1e-8
}

TEST(Criteria, MomentumGrowsTheLargestAndNeedsSome) {
  auto mask = bits({1, 0, 0, 0});
  std::vector<Layer> layers{{"fc.weight", row({1, 0, 0, 0}), mask, 1}};
  std::vector<ParameterState> states{{row({0, 0, 0, 0}), {row({5, -1, 3, -2})}}};
  MaskEditor edit(layers, states, RngStream(0, "criteria"), 0, 0);
  EXPECT_EQ(edit.grow({2}, Criterion::momentum), 2);
  edit.commit();
  EXPECT_TRUE(at::equal(mask, bits({1, 0, 1, 1})));

  std::vector<ParameterState> bare{{at::Tensor(), {}}};
  MaskEditor poor(layers, bare, RngStream(0, "criteria"), 0, 0);
  expect_contains(message_of<ArgumentError>([&] { poor.grow({1}, Criterion::momentum); }),
                  "growing ranks by momentum, but the optimizer holds none for 'fc.weight'");
  expect_contains(message_of<ArgumentError>([&] { poor.grow({1}, Criterion::gradient); }),
                  "growing ranks by gradient, but 'fc.weight' has none: call backward() first");
  expect_contains(message_of<ArgumentError>([] { criterion_from_name("magnitud", "drop_criterion"); }),
                  "drop_criterion is 'magnitud'; did you mean 'magnitude'?");
}

TEST(MaskEditor, GrowthStopsWhereALayerIsFull) {
  log::set_level(log::Level::error);
  auto mask = bits({1, 0, 0, 0});
  std::vector<Layer> layers{{"w", row({1, 0, 0, 0}), mask, 1}};
  std::vector<ParameterState> states{{row({0, 1, 2, 3}), {}}};
  MaskEditor edit(layers, states, RngStream(0, "criteria"), 0, 0);
  EXPECT_EQ(edit.grow({5}, Criterion::gradient), 3);
  EXPECT_EQ(edit.commit().active, 4);
}

// Half of the four active weights go, both of the layer whose weights are small; two come where |g| is
// largest among all that is not kept, which may be what just went.
TEST(MaskEditor, AGlobalExchangeByHand) {
  auto a = bits({1, 1, 0}), b = bits({1, 0, 1});
  std::vector<Layer> layers{{"a", row({1, -2, 0}), a, 2}, {"b", row({3, 0, -4}), b, 2}};
  std::vector<ParameterState> states{{row({9, 0, 1}), {}}, {row({0, 5, 0}), {}}};
  MaskEditor edit(layers, states, RngStream(0, "criteria"), 0, 0);
  edit.exchange(0.5, false, true, Criterion::magnitude, Criterion::gradient);
  const auto report = edit.commit();
  EXPECT_TRUE(at::equal(a, bits({1, 0, 0})));
  EXPECT_TRUE(at::equal(b, bits({1, 1, 1})));
  EXPECT_EQ(report.dropped, 1);
  EXPECT_EQ(report.grown, 1);
  EXPECT_EQ(layers[0].active, 1);
  EXPECT_EQ(layers[1].active, 3);
}

TEST(Sparsifier, GlobalScopeKeepsTheTotal) {
  auto options = options_for("rigl", 12, 2);
  options.scope = "global";
  options.density = 0.3;
  Net net("mlp", 1, options, "sgd");
  const auto before = net.sparse->stats();
  for (int64_t t = 1; t <= 12; ++t) net.step(t);
  const auto after = net.sparse->stats();
  EXPECT_EQ(after.active, before.active);
  bool moved = false;  // weights went from layer to layer
  for (std::size_t l = 0; l < after.layers.size(); ++l)
    moved = moved || after.layers[l].active != before.layers[l].active;
  EXPECT_TRUE(moved);
}

// An optimizer that knows nothing of masks: end_step itself leaves zeros in weights and state.
TEST(Sparsifier, EndStepMasksWhatAnotherOptimizerMoved) {
  auto options = options_for("static", 4, 2);
  options.density = 0.3;
  Net net("mlp", 1, options, "adamw");
  auto states = net.states_after_backward();
  {
    const at::NoGradGuard no_grad;
    for (const auto& p : net.optimizer->parameters()) p.tensor.fill_(1);
    for (auto& state : states)
      for (auto& tensor : state.state) tensor.fill_(2);
  }
  net.sparse->end_step(states, /*masked=*/false);
  const auto masks = net.sparse->parameter_masks();
  for (std::size_t i = 0; i < masks.size(); ++i) {
    const auto& weight = net.optimizer->parameters()[i].tensor;
    const auto mask =
        masks[i].defined() ? masks[i] : at::ones_like(weight, weight.options().dtype(at::kBool));
    EXPECT_TRUE(at::equal(weight.detach(), mask.to(at::kFloat)));
    for (const auto& tensor : states[i].state) EXPECT_TRUE(at::equal(tensor, 2 * mask.to(at::kFloat)));
  }
  EXPECT_EQ(net.sparse->step(), 1);
}

TEST(Sparsifier, AnExcludedPatternGetsNoMask) {
  auto options = options_for("static", 4, 2);
  options.exclude = {"fc[12].*"};
  Net net("mlp", 1, options, "sgd");
  ASSERT_EQ(net.sparse->layers().size(), 1u);
  EXPECT_EQ(net.sparse->layers()[0].name, "fc3.weight");
}

// Growth ranks what reduce_scores leaves, on a copy: the optimizer's gradients stay.
TEST(Sparsifier, GrowthRanksTheReducedScores) {
  auto options = options_for("rigl", 10, 1);
  options.density = 0.3;
  options.skip_optimizer_on_update = true;
  Net net("mlp", 1, options, "sgd"), other("mlp", 1, options, "sgd");
  int calls = 0;
  net.sparse->reduce_scores = [&](ops::TensorList& scores) {
    ++calls;
    for (auto& score : scores) score.neg_().mul_(2);  // the same ranking of magnitudes
  };
  other.sparse->reduce_scores = [&](ops::TensorList& scores) {
    for (auto& score : scores) score.reciprocal_().nan_to_num_(0, 0, 0);  // another one
  };
  Net plain("mlp", 1, options, "sgd");
  for (auto* each : {&net, &other, &plain}) each->step(1);
  EXPECT_EQ(calls, 1);
  bool differs = false;
  for (std::size_t l = 0; l < plain.sparse->layers().size(); ++l) {
    EXPECT_TRUE(same_bits(net.sparse->layers()[l].mask, plain.sparse->layers()[l].mask));
    differs = differs || !same_bits(other.sparse->layers()[l].mask, plain.sparse->layers()[l].mask);
  }
  EXPECT_TRUE(differs);
  for (std::size_t i = 0; i < plain.optimizer->parameters().size(); ++i)
    EXPECT_TRUE(same_bits(net.optimizer->parameters()[i].tensor.grad(),
                          plain.optimizer->parameters()[i].tensor.grad()));
}

// The layer of small weights loses all of them to a global selection: said once, and training goes on.
TEST(Sparsifier, AnEmptiedLayerIsSaidOnce) {
  log::set_level(log::Level::warn);
  auto options = options_for("gmp", 12, 2);
  options.density = 0.2;
  Net net("mlp", 1, options, "sgd");
  {
    const at::NoGradGuard no_grad;
    get(net.model->parameters(), "fc3.weight").mul_(1e-6);
  }
  testing::internal::CaptureStderr();
  for (int64_t t = 1; t <= 12; ++t) net.step(t);
  log::flush();
  const auto said = testing::internal::GetCapturedStderr();
  log::set_level(log::Level::error);
  const auto stats = net.sparse->stats();
  EXPECT_EQ(stats.layers.back().active, 0);
  const auto first = said.find("layer collapse: 'fc3.weight' has no weight left");
  ASSERT_NE(first, std::string::npos) << said;
  EXPECT_EQ(said.find("layer collapse: 'fc3.weight'", first + 1), std::string::npos);
}

}  // namespace
}  // namespace glyptic::sparsity
