#include "glyptic/sparsity/chase.h"

#include <gtest/gtest.h>

#include "glyptic/core/error.h"
#include "helpers.h"

namespace glyptic::sparsity {
namespace {

using testing_helpers::Net;
using testing_helpers::options_for;

nn::ChannelGroup group_of(const std::string& active, int64_t channels) {
  nn::ChannelGroup group;
  group.active = active;
  group.channels = channels;
  return group;
}

// Removal walks all live channels of all groups by score and respects floors.
TEST(RankChannels, WalksByScoreWithFloorsAndTies) {
  std::vector<ChannelState> channels(2);
  channels[0] = {group_of("a", 4), torch::ones({4}, torch::kBool), 4, 2};
  channels[1] = {group_of("b", 3), torch::ones({3}, torch::kBool), 3, 1};
  const std::vector<at::Tensor> scores{torch::tensor({.1, .2, .05, .9}), torch::tensor({.2, .3, .2})};
  // Ascending: a2 .05, a0 .1, (a1 .2: a is at its floor of 2), b0 .2, b2 .2.
  const auto removed = rank_channels(channels, scores, 3);
  EXPECT_EQ(removed[0], (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(removed[1], (std::vector<int64_t>{0, 2}));
  // A target below the floors takes what it can.
  const auto most = rank_channels(channels, scores, 0);
  EXPECT_EQ(most[0].size() + most[1].size(), 4u);
  // Dead channels are no candidates.
  channels[0].alive[2] = false;
  channels[0].live = 3;
  EXPECT_EQ(rank_channels(channels, scores, 5)[0], (std::vector<int64_t>{0}));
}

// Properties 1, 2 and 5 of the specification, on both kinds of network and in every scope, over the whole
// life.
TEST(Chase, Properties) {
  for (const char* kind : {"mlp", "vgg_small"}) {
    for (const char* scope : {"global", "layer_erk"}) {
      for (uint64_t seed = 1; seed <= (std::string(kind) == "mlp" ? 4u : 1u); ++seed) {
        auto options = options_for("chase", 80, 8);
        options.scope = scope;
        options.density = 0.2;
        options.seed = seed;
        Net net(kind, seed, options, "sgd");
        // A second instance of the policy tells what the schedule promises at each step.
        std::vector<Layer> layers(net.sparse->layers());
        const auto groups = nn::prunable_groups(net.model->graph());
        const Chase plan(net.sparse->options(), layers, groups);
        const auto stats0 = net.sparse->stats();
        const int64_t N = stats0.size, target = std::llround(0.2 * static_cast<double>(N));
        ASSERT_EQ(stats0.active, target);
        ASSERT_GT(stats0.channels, 0);
        auto alive_before = net.sparse->liveness();
        for (int64_t t = 1; t <= 80; ++t) {
          net.step(t);
          const auto stats = net.sparse->stats();
          const auto alive = net.sparse->liveness();
          for (std::size_t g = 0; g < alive.size(); ++g) {
            // Liveness is monotone, and never below the floor.
            EXPECT_EQ(alive[g].tensor.logical_and(alive_before[g].tensor.logical_not()).sum().item<int64_t>(),
                      0);
            EXPECT_GE(alive[g].tensor.sum().item<int64_t>(), plan.channels()[g].floor);
            // No live mask bit, and no weight, in a dead row or slice; its bias is zero.
            const auto dead = alive[g].tensor.logical_not().nonzero().view(-1);
            if (dead.numel() == 0) continue;
            const auto& group = plan.channels()[g].group;
            const auto& w = get(net.model->parameters(), group.active).detach();
            EXPECT_EQ(w.index_select(0, dead).count_nonzero().item<int64_t>(), 0);
            EXPECT_EQ(get(net.sparse->masks(), group.active).index_select(0, dead).sum().item<int64_t>(), 0);
            for (const auto& slice : group.passive) {
              ASSERT_EQ(slice.repeat, 1);
              EXPECT_EQ(get(net.sparse->masks(), slice.tensor)
                            .index_select(slice.dim, dead + slice.offset)
                            .sum()
                            .item<int64_t>(),
                        0);
            }
            const auto bias = group.active.substr(0, group.active.size() - 6) + "bias";
            if (const auto* b = find(net.model->parameters(), bias); b && std::string(kind) == "mlp")
              EXPECT_EQ(b->detach().index_select(0, dead).count_nonzero().item<int64_t>(), 0);
          }
          alive_before = alive;
          const int64_t soft_end = 80 - std::llround(0.1875 * 80);
          if (t % 8 == 4 && t < 65) {
            EXPECT_EQ(stats.live_channels,
                      static_cast<int64_t>(std::floor(
                          static_cast<double>(stats.channels) * (1 - plan.channel_rate(t)) + 1e-9)));
          }
          // The live capacity can bind late in the life of such small networks; then everything live is
          // active.
          if (t % 8 == 0 && t < soft_end) {
            const auto bound =
                static_cast<int64_t>(std::floor(static_cast<double>(N) * plan.soft_bound(t) + 1e-9));
            EXPECT_LE(stats.active, bound);
            if (t < 24) EXPECT_EQ(stats.active, bound) << kind << " " << scope << " step " << t;
          }
          if (t >= soft_end + 8 || t == 80) EXPECT_LE(stats.active, target);
        }
        const auto stats = net.sparse->stats();
        EXPECT_EQ(stats.live_channels,
                  static_cast<int64_t>(std::floor(static_cast<double>(stats.channels) * 0.5 + 1e-9)));
        EXPECT_EQ(stats.active, target);
      }
    }
  }
}

TEST(Chase, RatesAndBounds) {
  auto options = options_for("chase", 1000, 100);
  options.channel_sparsity = 0.4;
  Net net("mlp", 1, options_for("static", 10, 1), "sgd");
  const Chase chase(options, net.sparse->layers(), nn::prunable_groups(net.model->graph()));
  EXPECT_EQ(chase.channel_rate(0), 0);
  EXPECT_NEAR(chase.channel_rate(406), 0.4 * (1 - std::pow(1 - 406 / 812.5, 3)), 1e-3);  // T_c = round(812.5)
  EXPECT_EQ(chase.channel_rate(813), 0.4);
  EXPECT_NEAR(chase.soft_bound(0), 0.15, 1e-12);
  EXPECT_NEAR(chase.soft_bound(812), 0.1, 1e-6);
  // Half-way between two explorations, as in the released code.
  EXPECT_FALSE(chase.due(51));
  EXPECT_TRUE(chase.due(50));
  EXPECT_TRUE(chase.due(150));
  EXPECT_TRUE(chase.due(100));
}

// A run too short for its interval still ends with K* weights and S_c of its channels gone: an exploration
// joins the last removal.
TEST(Chase, ShortRunsEndAtTheirDensity) {
  for (const char* scope : {"global", "layer_erk"})
    for (const int64_t every : {7, 19, 20, 1000}) {
      auto options = options_for("chase", 20, every);
      options.scope = scope;
      options.density = 0.2;
      Net net("mlp", 3, options, "sgd");
      for (int64_t t = 1; t <= 20; ++t) net.step(t);
      const auto stats = net.sparse->stats();
      EXPECT_EQ(stats.active, std::llround(0.2 * static_cast<double>(stats.size))) << scope << ' ' << every;
      EXPECT_EQ(stats.live_channels, stats.channels / 2) << scope << ' ' << every;
    }
}

TEST(Chase, RefusesWhatCannotBe) {
  Net net("mlp", 1, options_for("static", 10, 1), "sgd");
  const auto groups = nn::prunable_groups(net.model->graph());
  auto options = options_for("chase", 100, 10);
  options.channel_floor = 3;  // floors above half of the channels
  try {
    const Chase chase(options, net.sparse->layers(), groups);
    FAIL();
  } catch (const ArgumentError& error) {
    EXPECT_NE(std::string(error.what()).find("out of reach"), std::string::npos) << error.what();
  }
  EXPECT_THROW(Chase(options_for("chase", 100, 10), net.sparse->layers(), {}), ArgumentError);
  options = options_for("chase", 100, 10);
  options.channel_sparsity = 0;
  EXPECT_NO_THROW(Chase(options, net.sparse->layers(), {}));
}

}  // namespace
}  // namespace glyptic::sparsity
