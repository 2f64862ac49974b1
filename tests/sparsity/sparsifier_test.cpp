#include "glyptic/sparsity/sparsifier.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "glyptic/core/error.h"
#include "glyptic/nn/model.h"
#include "glyptic/sparsity/step.h"
#include "helpers.h"

namespace glyptic::sparsity {
namespace {

using testing_helpers::Net;
using testing_helpers::options_for;
using testing_helpers::same_bits;

// Appendix B of the specification: one mask event by hand.
TEST(MaskEditor, AppendixB) {
  auto W = torch::tensor({.9, -.05, .4, .3, -.2, 0., 0., 0., 0., 0.}, torch::kFloat).view({1, 10});
  auto G = torch::tensor({.1, .8, .2, 0., .05, -.7, .9, .1, 0., -.3}, torch::kFloat).view({1, 10});
  auto V = torch::tensor({1., 2., 3., 4., 5., 0., 0., 0., 0., 0.}, torch::kFloat).view({1, 10});
  auto mask = torch::zeros({1, 10}, torch::kBool);
  mask.slice(1, 0, 5).fill_(true);
  std::vector<Layer> layers{{"w", W, mask, 5}};
  std::vector<ParameterState> states{{G, {V}}};
  MaskEditor edit(layers, states, RngStream(0, "b"), 0, 0);
  const int64_t dropped = 2;  // floor(0.4 * 5)
  edit.keep({5 - dropped}, Criterion::magnitude);
  EXPECT_EQ(edit.grow({dropped}, Criterion::gradient), 2);
  const auto report = edit.commit();
  EXPECT_EQ(report.active, 5);
  const std::vector<int64_t> kept{0, 1, 2, 3, 6};
  for (int64_t i = 0; i < 10; ++i)
    EXPECT_EQ(mask[0][i].item<bool>(), std::find(kept.begin(), kept.end(), i) != kept.end()) << i;
  EXPECT_EQ(W[0][1].item<float>(), -.05f);  // dropped and regrown in one event: survives with its momentum
  EXPECT_EQ(V[0][1].item<float>(), 2.f);
  EXPECT_EQ(W[0][6].item<float>(), 0.f);
  EXPECT_EQ(V[0][6].item<float>(), 0.f);
  EXPECT_EQ(W[0][4].item<float>(), 0.f);
  EXPECT_EQ(V[0][4].item<float>(), 0.f);
}

// The exact drop and grow sets of one event, against sorting in the test. Property 3 of the specification.
TEST(MaskEditor, SetsAreExactTopK) {
  for (uint64_t trial = 0; trial < 30; ++trial) {
    const RngStream rng(trial, "editor");
    const int64_t n = 60;
    // Few distinct values, so that ties are everywhere.
    auto W = (rng.child(0).normal({6, 10}) * 2).round();
    auto G = (rng.child(1).normal({6, 10}) * 2).round();
    auto V = rng.child(2).normal({6, 10});
    auto mask = rng.child(3).uniform_tensor({6, 10}, 0, 1).lt(0.5);
    W.mul_(mask);
    V.mul_(mask);
    const int64_t active = mask.sum().item<int64_t>(), dropped = active / 3;
    const auto w0 = W.clone(), v0 = V.clone(), m0 = mask.clone();
    std::vector<Layer> layers{{"w", W, mask, active}};
    std::vector<ParameterState> states{{G, {V}}};
    MaskEditor edit(layers, states, rng, 0, 0);
    edit.keep({active - dropped}, Criterion::magnitude);
    edit.grow({dropped}, Criterion::gradient);
    edit.commit();

    const auto flat = [](const at::Tensor& t) { return t.contiguous().view(-1); };
    std::vector<int64_t> order;
    for (int64_t i = 0; i < n; ++i)
      if (flat(m0)[i].item<bool>()) order.push_back(i);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return std::abs(flat(w0)[a].item<float>()) > std::abs(flat(w0)[b].item<float>());
    });
    std::set<int64_t> kept(order.begin(), order.begin() + (active - dropped));
    order.clear();
    for (int64_t i = 0; i < n; ++i)
      if (!kept.count(i)) order.push_back(i);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return std::abs(flat(G)[a].item<float>()) > std::abs(flat(G)[b].item<float>());
    });
    const std::set<int64_t> grown(order.begin(), order.begin() + dropped);
    for (int64_t i = 0; i < n; ++i) {
      const bool on = kept.count(i) || grown.count(i);
      EXPECT_EQ(flat(mask)[i].item<bool>(), on) << "trial " << trial << " index " << i;
      const bool survives = on && flat(m0)[i].item<bool>();
      EXPECT_EQ(flat(W)[i].item<float>(), survives ? flat(w0)[i].item<float>() : 0.f);
      EXPECT_EQ(flat(V)[i].item<float>(), survives ? flat(v0)[i].item<float>() : 0.f);
    }
  }
}

class EveryMethod : public ::testing::TestWithParam<const char*> {};

// Property 1: after every step weight == weight * mask, and every state tensor too, bit for bit. Property 2:
// counts.
TEST_P(EveryMethod, MaskInvariantAndCounts) {
  const std::string method = GetParam();
  for (const char* optimizer : {"sgd", "adamw"}) {
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      Net net("mlp", seed, options_for(method, 60, 5), optimizer);
      const auto target = std::llround(0.1 * static_cast<double>(net.sparse->stats().size));
      std::vector<int64_t> first;
      for (const auto& layer : net.sparse->layers()) first.push_back(layer.active);
      at::Tensor before;
      for (int64_t t = 1; t <= 60; ++t) {
        net.step(t);
        const auto masks = net.sparse->parameter_masks();
        for (std::size_t p = 0; p < masks.size(); ++p) {
          if (!masks[p].defined()) continue;
          const auto off = masks[p].logical_not();
          EXPECT_EQ(
              net.model->parameters()[p].tensor.detach().masked_select(off).count_nonzero().item<int64_t>(),
              0);
          for (const auto& state : net.optimizer->state_of(p))
            EXPECT_EQ(state.masked_select(off).count_nonzero().item<int64_t>(), 0);
        }
        for (const auto& layer : net.sparse->layers())
          EXPECT_EQ(layer.active, layer.mask.sum().item<int64_t>());
        if (method == "set" || method == "rigl" || method == "static")
          for (std::size_t l = 0; l < first.size(); ++l) EXPECT_EQ(net.sparse->layers()[l].active, first[l]);
      }
      EXPECT_EQ(net.sparse->stats().active, target) << method << " " << optimizer;
      EXPECT_GE(net.sparse->stats().explored, 0.1 - 1e-3);
      EXPECT_LE(net.sparse->stats().explored, 1.0);
    }
  }
}

// Property 12: at density 1 every method is dense training, bit for bit.
TEST_P(EveryMethod, DensityOneIsDense) {
  const std::string method = GetParam();
  auto options = options_for(method, 30, 5);
  options.density = 1;
  options.initial_sparsity = 0;
  options.channel_sparsity = 0;
  options.soft_extra = 0;
  Net sparse("mlp", 5, options, "sgd");
  Net dense("mlp", 5, {}, "sgd");
  for (int64_t t = 1; t <= 30; ++t) {
    sparse.step(t);
    dense.step(t);
  }
  for (std::size_t p = 0; p < dense.model->parameters().size(); ++p)
    EXPECT_TRUE(same_bits(sparse.model->parameters()[p].tensor, dense.model->parameters()[p].tensor));
}

// Property 8: saved at any step and loaded into a fresh engine, the run continues to the same bits.
TEST_P(EveryMethod, ResumesToTheSameBits) {
  const std::string method = GetParam();
  for (const char* optimizer : {"sgd", "adamw"}) {
    auto options = options_for(method, 40, 5);
    options.score_steps = method == "rigl" ? 3 : 1;  // sums of gradients are state too
    Net whole("mlp", 9, options, optimizer);
    for (int64_t t = 1; t <= 40; ++t) whole.step(t);
    for (const int64_t cut : {1, 9, 10, 24, 33}) {
      Net head("mlp", 9, options, optimizer);
      for (int64_t t = 1; t <= cut; ++t) head.step(t);
      Net tail("mlp", 123, options, optimizer);  // another seed: everything must come from the saved state
      NamedTensors saved;
      for (const auto& list : {head.model->state(), head.optimizer->state(), head.sparse->state()})
        for (const auto& entry : list) saved.push_back({entry.name, entry.tensor.detach().clone()});
      NamedTensors model_state;
      for (const auto& entry : head.model->state())
        model_state.push_back({entry.name, get(saved, entry.name)});
      tail.model->load(model_state);
      tail.optimizer->load_state(saved);
      tail.sparse->load_state(saved);
      for (int64_t t = cut + 1; t <= 40; ++t) tail.step(t);
      for (std::size_t p = 0; p < whole.model->parameters().size(); ++p)
        EXPECT_TRUE(same_bits(tail.model->parameters()[p].tensor, whole.model->parameters()[p].tensor))
            << method << " " << optimizer << " cut at " << cut << " " << whole.model->parameters()[p].name;
      for (std::size_t l = 0; l < whole.sparse->layers().size(); ++l)
        EXPECT_TRUE(at::equal(tail.sparse->layers()[l].mask, whole.sparse->layers()[l].mask));
      EXPECT_EQ(tail.sparse->events().size(), whole.sparse->events().size());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, EveryMethod,
                         ::testing::Values("static", "gmp", "set", "rigl", "granet", "chase"),
                         [](const auto& info) { return std::string(info.param); });

// Property 6: GMP masks are nested and the last one has the exact sparsity, at whatever interval.
TEST(Gmp, MonotoneAndExact) {
  for (const int64_t every : {1, 7, 20}) {
    Net net("mlp", 2, options_for("gmp", 50, every), "sgd");
    auto before = net.sparse->masks();
    for (auto& entry : before) entry.tensor = entry.tensor.clone();
    for (int64_t t = 1; t <= 50; ++t) {
      net.step(t);
      for (auto& entry : before) {
        const auto now = get(net.sparse->masks(), entry.name);
        EXPECT_EQ(now.logical_and(entry.tensor.logical_not()).sum().item<int64_t>(), 0);
        entry.tensor = now.clone();
      }
    }
    EXPECT_EQ(net.sparse->stats().active, std::llround(0.1 * static_cast<double>(net.sparse->stats().size)));
  }
}

// RigL's Algorithm 1: an update step changes masks instead of weights; weights that stay are untouched by it.
TEST(Rigl, UpdateReplacesTheOptimizerStep) {
  Net net("mlp", 3, options_for("rigl", 40, 10), "sgd");
  for (int64_t t = 1; t <= 9; ++t) net.step(t);
  const auto before = net.model->parameters()[0].tensor.detach().clone();
  EXPECT_TRUE(net.sparse->begin_step().masks_change);
  EXPECT_FALSE(net.sparse->begin_step().run_optimizer);
  net.step(10);
  const auto after = net.model->parameters()[0].tensor.detach();
  const auto mask = net.sparse->layers()[0].mask;
  EXPECT_TRUE(at::equal(after, before * mask));
  // f(10) = 0.15 (1 + cos(pi 10/30)) = 0.225 of each layer, rounded down, is dropped; as much is grown.
  EXPECT_EQ(net.sparse->events().size(), 1u);
  EXPECT_GT(net.sparse->events()[0].dropped, 0);
  EXPECT_EQ(net.sparse->events()[0].dropped, net.sparse->events()[0].grown);
}

TEST(Sparsifier, GrowthInitAndState) {
  for (const std::string init : {"random_normal", "random_uniform", "gradient"}) {
    auto options = options_for("set", 20, 1);
    options.grow_init = init;
    options.grow_scale = 0.5;
    options.grow_state = "mean_active";
    Net net("mlp", 4, options, "adamw");
    const auto states = net.states_after_backward();
    for (const auto& state : states[0].state) state.fill_(3).mul_(net.sparse->layers()[0].mask);
    const auto& layer = net.sparse->layers()[0];
    const auto before = layer.mask.clone();
    const auto limit = 0.5 * layer.weight.masked_select(before).abs().mean().item<float>();
    net.sparse->end_step(states);
    const auto grown = layer.mask.logical_and(before.logical_not());
    ASSERT_GT(grown.sum().item<int64_t>(), 0);
    const auto values = layer.weight.detach().masked_select(grown);
    if (init == "gradient") EXPECT_TRUE(at::equal(values, (-0.5 * states[0].grad).masked_select(grown)));
    if (init != "gradient") EXPECT_EQ(values.count_nonzero().item<int64_t>(), values.numel());
    // Uniform in +- half the mean |w| of those that stayed, which is a subset, of the larger ones.
    if (init == "random_uniform") EXPECT_LE(values.abs().max().item<float>(), 2 * limit);
    for (const auto& state : states[0].state)
      EXPECT_TRUE(state.masked_select(grown).eq(3).all().item<bool>());
  }
}

TEST(Sparsifier, BernoulliCountsAreRandomAndClose) {
  auto options = options_for("static", 10, 5);
  options.bernoulli = true;
  Net net("mlp", 4, options, "sgd");
  const auto stats = net.sparse->stats();
  // Standard deviation of a sum of n Bernoulli(p) is below sqrt(n p); five of them.
  const double expected = 0.1 * static_cast<double>(stats.size);
  EXPECT_NEAR(static_cast<double>(stats.active), expected, 5 * std::sqrt(expected));
}

TEST(Sparsifier, RefusesByName) {
  nn::Model model(nn::build_graph("mlp"), RngStream(1, "m"));
  const auto make = [&](SparsityOptions options, std::vector<std::string> names) {
    Sparsifier s(model.parameters(), names, std::move(options));
  };
  const auto message = [&](SparsityOptions options, std::vector<std::string> names) -> std::string {
    try {
      make(std::move(options), std::move(names));
    } catch (const ArgumentError& error) {
      return error.what();
    }
    return "";
  };
  const auto base = options_for("rigl", 10, 2);
  EXPECT_NE(message(base, {}).find("no prunable tensor"), std::string::npos);
  EXPECT_NE(message(base, {"fc1.wight"}).find("did you mean 'fc1.weight'"), std::string::npos);
  EXPECT_NE(message(base, {"fc1.bias"}).find("two or more dimensions"), std::string::npos);
  auto options = base;
  options.density = 0;
  EXPECT_NE(message(options, {"fc1.weight"}).find("density is 0"), std::string::npos);
  options = base;
  options.total_steps = 0;
  EXPECT_NE(message(options, {"fc1.weight"}).find("total_steps"), std::string::npos);
  options = base;
  options.exclude = {"nothing.*"};
  EXPECT_NE(message(options, {"fc1.weight"}).find("nothing.*"), std::string::npos);
  const Sparsifier first(model.parameters(), {"fc1.weight"}, base);
  EXPECT_NE(message(base, {"fc1.weight"}).find("already controlled"), std::string::npos);
}

TEST(Sparsifier, NonFiniteGradientIsNamed) {
  Net net("mlp", 1, options_for("rigl", 10, 1), "sgd");
  auto states = net.states_after_backward();
  states[0].grad = states[0].grad.clone();
  states[0].grad.view(-1)[3] = std::numeric_limits<float>::quiet_NaN();
  try {
    net.sparse->end_step(states);
    FAIL();
  } catch (const DivergenceError& error) {
    EXPECT_NE(std::string(error.what()).find("fc1.weight"), std::string::npos) << error.what();
  }
  states[0].grad = at::Tensor();
  try {
    net.sparse->end_step(states);
    FAIL();
  } catch (const ArgumentError& error) {
    EXPECT_NE(std::string(error.what()).find("call backward() first"), std::string::npos) << error.what();
  }
}

TEST(Sparsifier, WrongShapesInSavedStateChangeNothing) {
  Net a("mlp", 1, options_for("rigl", 10, 2), "sgd");
  auto saved = a.sparse->state();
  for (auto& entry : saved)
    if (entry.name == "sparsity.mask.fc2.weight") entry.tensor = entry.tensor.slice(0, 0, 5).clone();
  Net b("mlp", 2, options_for("rigl", 10, 2), "sgd");
  const auto before = b.sparse->layers()[0].mask.clone();
  try {
    b.sparse->load_state(saved);
    FAIL();
  } catch (const ArgumentError& error) {
    EXPECT_NE(std::string(error.what()).find("fc2.weight"), std::string::npos) << error.what();
  }
  EXPECT_TRUE(at::equal(before, b.sparse->layers()[0].mask));
}

// A state is taken only by the run that it belongs to; schedules may be overridden, masks may not.
TEST(Sparsifier, StateOfAnotherRunIsRefusedByWhatDiffers) {
  const auto options = options_for("set", 20, 2);
  Net a("mlp", 1, options, "sgd");
  for (int64_t t = 1; t <= 5; ++t) a.step(t);
  const auto saved = a.sparse->state();
  const auto refusal = [&](const SparsityOptions& here, bool strict) -> std::string {
    Net b("mlp", 1, here, "sgd");
    const auto before = b.sparse->layers()[0].mask.clone();
    try {
      b.sparse->load_state(saved, strict);
    } catch (const ArgumentError& error) {
      EXPECT_TRUE(at::equal(before, b.sparse->layers()[0].mask));
      EXPECT_EQ(b.sparse->step(), 0);
      return error.what();
    }
    EXPECT_EQ(b.sparse->step(), 5);
    return "";
  };
  EXPECT_EQ(refusal(options, true), "");
  auto longer = options;
  longer.total_steps = 40;
  longer.update_every = 3;
  const auto text = refusal(longer, true);
  EXPECT_NE(text.find("total_steps = 20 (here 40), update_every = 2 (here 3)"), std::string::npos) << text;
  EXPECT_NE(text.find("strict=False"), std::string::npos) << text;
  EXPECT_EQ(refusal(longer, false), "");
  auto denser = options;
  denser.density = 0.9;
  for (const bool strict : {true, false}) {
    const auto reason = refusal(denser, strict);
    EXPECT_NE(reason.find("(here 0.9)"), std::string::npos) << reason;
    EXPECT_EQ(reason.find("strict=False"), std::string::npos) << reason;
    const auto other = refusal(options_for("rigl", 20, 2), strict);
    EXPECT_NE(other.find("method = set (here rigl)"), std::string::npos) << other;
    EXPECT_EQ(other.find("grow_criterion"), std::string::npos) << other;  // a preset, not a difference
  }
  // Where it runs is no part of what it is, and a state without options (of an older version) is taken.
  NamedTensors without;
  for (const auto& entry : saved)
    if (entry.name != "sparsity.options") without.push_back(entry);
  ASSERT_EQ(without.size() + 1, saved.size());
  Net c("mlp", 1, longer, "sgd");
  c.sparse->load_state(without);
  EXPECT_EQ(c.sparse->step(), 5);
}

// Made over weights that are loaded already, it draws no masks and goes on to the same bits.
TEST(Sparsifier, StateInTheConstructorLeavesLoadedWeightsAlone) {
  const auto options = options_for("chase", 20, 2);
  Net a("vgg_small", 1, options, "sgd");
  for (int64_t t = 1; t <= 7; ++t) a.step(t);
  Net b("vgg_small", 2, options_for("none", 20, 2), "sgd");  // other weights, no sparsifier yet
  {
    const at::NoGradGuard no_grad;
    for (const auto& entry : b.model->state()) entry.tensor.copy_(get(a.model->state(), entry.name));
  }
  b.optimizer->load_state(a.optimizer->state());
  const auto make = [&](const NamedTensors& state) {
    return std::make_unique<Sparsifier>(b.model->parameters(), nn::prunable_weights(b.model->graph()),
                                        options, nn::prunable_groups(b.model->graph()), state);
  };
  // A state that does not fit leaves the weights, and whose they are, as they were.
  EXPECT_THROW(make({{"sparsity.step", at::zeros({2}, at::kLong)}}), ArgumentError);
  for (const auto& entry : a.model->parameters())
    EXPECT_TRUE(same_bits(entry.tensor, get(b.model->parameters(), entry.name))) << entry.name;
  b.sparse = make(a.sparse->state());
  EXPECT_EQ(b.sparse->step(), 7);
  for (int64_t t = 8; t <= 16; ++t) {
    a.step(t);
    b.step(t);
  }
  for (const auto& entry : a.model->parameters())
    EXPECT_TRUE(same_bits(entry.tensor, get(b.model->parameters(), entry.name))) << entry.name;
}

// Property 11: global selection does not care in which order layers were registered (scores here have no
// ties).
TEST(Sparsifier, OrderOfLayersDoesNotMatterForGlobalSelection) {
  const RngStream rng(3, "order");
  std::vector<at::Tensor> W{rng.child(0).normal({8, 9}), rng.child(1).normal({5, 7}),
                            rng.child(2).normal({6, 6})};
  const auto select = [&](std::vector<std::size_t> order) {
    std::vector<Layer> layers;
    std::vector<ParameterState> states;
    for (const auto l : order) {
      layers.push_back({std::to_string(l), W[l].clone(), torch::ones_like(W[l], torch::kBool), W[l].numel()});
      states.push_back({});
    }
    MaskEditor edit(layers, states, rng, 0, 0);
    edit.keep_global(40, Criterion::magnitude);
    edit.commit();
    std::vector<at::Tensor> masks(3);
    for (std::size_t i = 0; i < order.size(); ++i) masks[order[i]] = layers[i].mask;
    return masks;
  };
  const auto a = select({0, 1, 2}), b = select({2, 0, 1});
  for (std::size_t l = 0; l < 3; ++l) EXPECT_TRUE(at::equal(a[l], b[l]));
}

}  // namespace
}  // namespace glyptic::sparsity
