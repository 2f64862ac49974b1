// The step oracle: an independent, naive float64 implementation of each rule on a small network, and the
// worked numbers of the least-squares example (four rows, w = (0.5, -0.25)).
#include "glyptic/sharpness/sharpness.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "../support.h"
#include "glyptic/core/error.h"
#include "glyptic/optim/optimizer.h"

namespace glyptic::sharpness {
namespace {

optim::OptimizerOptions sgd(double lr, double momentum = 0) {
  optim::OptimizerOptions o;
  o.lr = lr;
  o.momentum = momentum;
  o.weight_decay = 0;
  return o;
}

/// Least squares over rows of the example.
struct Rows {
  at::Tensor x = torch::tensor({{1.0, 2.0}, {0.0, 1.0}, {3.0, -1.0}, {1.0, 1.0}}, torch::kDouble);
  at::Tensor y = torch::tensor({1.0, 0.0, 2.0, -1.0}, torch::kDouble);
  at::Tensor w = torch::tensor({0.5, -0.25}, torch::kDouble).requires_grad_();

  at::Tensor losses(int64_t first, int64_t count) const {
    return (at::mv(x.slice(0, first, first + count), w) - y.slice(0, first, first + count)).square() / 2;
  }
  at::Tensor moved() const { return torch::tensor({0.5, -0.25}, torch::kDouble) - w.detach(); }
};

void expect_moved(const Rows& rows, double first, double second) {
  // The numbers are given to seven digits.
  EXPECT_NEAR(rows.moved()[0].item<double>(), first, 5e-8);
  EXPECT_NEAR(rows.moved()[1].item<double>(), second, 5e-8);
}

at::Tensor step_on(Rows& rows, SharpnessOptions options, int64_t batches = 1) {
  optim::Optimizer optimizer({{"w", rows.w}}, sgd(1.0));
  Sharpness engine({{"w", rows.w}}, std::move(options));
  ClosureObjective objective([&](int64_t i) { return rows.losses(i * 4 / batches, 4 / batches); }, batches);
  const auto base = base_of(optimizer);
  return engine.step(objective, *base).loss;
}

SharpnessOptions sam(double rho) {
  auto options = options_of("sam");
  options.rho = rho;
  return options;
}

TEST(Sam, TheWorkedExample) {
  Rows rows;
  const auto loss = step_on(rows, sam(0.1));
  expect_moved(rows, -0.2775426, -0.3331088);
  EXPECT_NEAR(loss.item<double>(), Rows().losses(0, 4).mean().item<double>(), 1e-15);
}

TEST(Sam, RhoZeroIsTheBaseOptimizer) {
  Rows rows;
  step_on(rows, sam(0));
  expect_moved(rows, -0.125, -0.1875);
}

TEST(Sam, ClippingActsOnTheSecondGradient) {
  Rows rows;
  auto options = sam(0.1);
  options.max_grad_norm = 0.1;
  step_on(rows, options);
  expect_moved(rows, -0.0640119, -0.0768276);
}

TEST(Sam, AccumulationIsFullOrByMicroBatch) {
  Rows full;
  step_on(full, sam(0.1), 2);
  expect_moved(full, -0.2775426, -0.3331088);
  Rows micro;
  auto options = sam(0.1);
  options.accumulation = "micro";
  step_on(micro, options, 2);
  expect_moved(micro, -0.1492213, -0.2904106);
}

TEST(Sam, StateCarriesTheMomentumOver) {
  // L = w^2/2, w = 1, lr .1, momentum .9, rho .05: .895, then .706 (.8005 had the momentum been lost).
  const auto make = [](at::Tensor w) { return optim::Optimizer({{"w", w}}, sgd(0.1, 0.9)); };
  auto w = torch::ones({1}, torch::kDouble).requires_grad_();
  auto optimizer = make(w);
  Sharpness engine({{"w", w}}, sam(0.05));
  ClosureObjective objective([&](int64_t) { return w.square() / 2; });
  engine.step(objective, *base_of(optimizer));
  EXPECT_NEAR(w.item<double>(), 0.895, 1e-13);  // eps0 makes the radius shorter by 1e-12 of itself
  auto again = w.detach().clone().requires_grad_();
  auto other = make(again);
  other.load_state(optimizer.state());
  Sharpness resumed({{"w", again}}, sam(0.05));
  resumed.load_state(engine.state());
  ClosureObjective second([&](int64_t) { return again.square() / 2; });
  resumed.step(second, *base_of(other));
  EXPECT_NEAR(again.item<double>(), 0.706, 1e-13);
  EXPECT_EQ(resumed.steps(), 2);
}

// --- a naive float64 network as oracle

struct Network {
  TensorList parameters;
  at::Tensor x, y;
  NamedTensors named() const {
    NamedTensors result;
    for (std::size_t i = 0; i < parameters.size(); ++i) result.push_back({str("p", i), parameters[i]});
    return result;
  }
  at::Tensor losses() const {
    const auto hidden = at::tanh(at::addmm(parameters[1], x, parameters[0].t()));
    return at::cross_entropy_loss(at::addmm(parameters[3], hidden, parameters[2].t()), y, {},
                                  at::Reduction::None);
  }
};

Network network(at::ScalarType type, uint64_t seed = 3) {
  torch::manual_seed(seed);
  Network n;
  const auto options = at::TensorOptions(at::kDouble);
  for (const auto& shape : std::vector<std::vector<int64_t>>{{7, 5}, {7}, {4, 7}, {4}})
    n.parameters.push_back((at::randn(shape, options) / 2).to(type).requires_grad_());
  n.x = at::randn({12, 5}, options).to(type);
  n.y = at::randint(0, 4, {12}, at::kLong);
  return n;
}

TensorList gradient_at(const Network& n, const TensorList& values) {
  TensorList leaves;
  for (const auto& value : values) leaves.push_back(value.detach().clone().requires_grad_());
  Network moved{leaves, n.x, n.y};
  return torch::autograd::grad({moved.losses().mean()}, leaves);
}

double dot(const TensorList& a, const TensorList& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    sum += (a[i].to(at::kDouble) * b[i].to(at::kDouble)).sum().item<double>();
  return sum;
}

TensorList add(const TensorList& a, double c, const TensorList& b) {
  TensorList result;
  for (std::size_t i = 0; i < a.size(); ++i) result.push_back((a[i] + c * b[i]).detach());
  return result;
}

TensorList values_of(const Network& n) {
  TensorList result;
  for (const auto& p : n.parameters) result.push_back(p.detach().clone());
  return result;
}

/// d of each method by its definition, written apart from the library; state in `memory`.
struct Oracle {
  std::string method;
  SharpnessOptions o;
  std::map<std::string, TensorList> memory;
  int64_t step = 0;

  TensorList direction(const Network& n, const TensorList& w) {
    const auto g = gradient_at(n, w);
    const auto sam_at = [&](const TensorList& h) {
      return gradient_at(n, add(w, o.rho / (std::sqrt(dot(h, h)) + o.eps0), h));
    };
    TensorList d;
    if (method == "sam") d = sam_at(g);
    if (method == "asam") {
      TensorList tg, ttg;
      for (std::size_t i = 0; i < w.size(); ++i) {
        const auto t = w[i].dim() > 1 ? w[i].abs() + o.eta : at::ones_like(w[i]);
        tg.push_back(t * g[i]);
        ttg.push_back(t * t * g[i]);
      }
      d = gradient_at(n, add(w, o.rho / (std::sqrt(dot(tg, tg)) + o.eps0), ttg));
    }
    if (method == "gsam") {
      const auto gs = sam_at(g);
      const auto perpendicular = add(g, -dot(g, gs) / dot(gs, gs), gs);
      EXPECT_NEAR(dot(perpendicular, gs), 0, 1e-12);
      d = add(gs, -o.alpha, perpendicular);
    }
    if (method == "looksam") {
      if (step % o.every == 0) {
        d = sam_at(g);
        memory["v"] = add(d, -dot(g, d) / dot(g, g), g);
      } else {
        const auto& v = memory["v"];
        d = add(g, o.alpha * std::sqrt(dot(g, g)) / (std::sqrt(dot(v, v)) + 1e-8), v);
      }
    }
    if (method == "fsam") {
      auto h = g;
      auto& m = memory["m"];
      if (m.empty()) {
        m = g;
      } else {
        h = add(g, -o.sigma, m);
        for (std::size_t i = 0; i < m.size(); ++i) m[i] = o.lmbda * m[i] + (1 - o.lmbda) * g[i];
      }
      d = sam_at(h);
    }
    if (method == "wsam") {  // both forms move plain SGD alike
      const auto gs = sam_at(g);
      d = add(g, o.gamma / (1 - o.gamma), add(gs, -1, g));
    }
    if (method == "s2sam") {
      auto& previous = memory["g"];
      d = previous.empty() ? g : sam_at(previous);
      previous = d;
    }
    if (method == "stable_sam") {
      const auto gs = sam_at(g);
      d = add(gs, std::sqrt(dot(g, g) / dot(gs, gs)) - 1, gs);
    }
    if (method == "gcsam") {
      TensorList centred;
      for (const auto& t : g) centred.push_back(t.dim() > 1 ? t - t.mean(1, true) : t);
      d = sam_at(centred);
    }
    if (method == "lesam") {
      const double norm = std::sqrt(dot(g, g));
      d = gradient_at(n, add(w, std::min(o.sigma / norm, o.rho) / norm, g));
    }
    ++step;
    return d;
  }
};

class EveryRule : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryRule, EqualsANaiveOracleForFiveSteps) {
  for (const auto type : {at::kDouble, at::kFloat}) {
    auto options = options_of(GetParam());
    options.every = 3;
    if (GetParam() == "lesam") options.sigma = 0.01;
    auto n = network(type);
    auto truth = network(at::kDouble);
    optim::Optimizer optimizer(n.named(), sgd(0.3));
    Sharpness engine(n.named(), options);
    Oracle oracle{GetParam(), options, {}, 0};
    ClosureObjective objective([&](int64_t) { return n.losses(); });
    // float64: rounding of a few hundred operations; float32: its own rounding, which five steps carry along.
    const double tolerance = type == at::kDouble ? 1e-13 : 2e-5;
    for (int step = 0; step < 5; ++step) {
      auto w = values_of(truth);
      const auto d = oracle.direction(truth, w);
      const auto result = engine.step(objective, *base_of(optimizer));
      EXPECT_FALSE(result.skipped);
      for (std::size_t i = 0; i < w.size(); ++i) {
        const at::NoGradGuard no_grad;
        truth.parameters[i].copy_(w[i] - 0.3 * d[i]);
        const auto expected = truth.parameters[i].detach();
        const auto got = n.parameters[i].detach().to(at::kDouble);
        EXPECT_LE((got - expected).abs().max().item<double>(),
                  tolerance * expected.abs().max().item<double>())
            << GetParam() << " step " << step << " parameter " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sharpness, EveryRule,
                         ::testing::Values("sam", "asam", "gsam", "looksam", "fsam", "wsam", "s2sam",
                                           "stable_sam", "gcsam", "lesam"),
                         [](const auto& info) { return info.param; });

// --- properties of every method

SharpnessOptions usable(const std::string& method) {
  auto options = options_of(method);
  options.total_steps = 50;
  options.every = 3;
  options.seed = 7;
  return options;
}

class EveryMethod : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryMethod, WeightsOffMaskStayZeroInEveryPass) {
  auto n = network(at::kFloat);
  TensorList masks(4);
  masks[0] = at::rand({7, 5}) < 0.4;
  masks[2] = at::rand({4, 7}) < 0.4;
  {
    const at::NoGradGuard no_grad;
    for (const std::size_t i : {0, 2}) n.parameters[i].mul_(masks[i]);
  }
  optim::Optimizer optimizer(n.named(), sgd(0.1, 0.9));
  Sharpness engine(n.named(), usable(GetParam()));
  int calls = 0;
  ClosureObjective objective([&](int64_t) {
    for (const std::size_t i : {0, 2})
      EXPECT_EQ(n.parameters[i].detach().masked_select(masks[i].logical_not()).abs().sum().item<double>(), 0);
    ++calls;
    return n.losses();
  });
  StepOptions options;
  options.masks = masks;
  for (int step = 0; step < 6; ++step) engine.step(objective, *base_of(optimizer, masks), options);
  EXPECT_GE(calls, 6);
  for (const std::size_t i : {0, 2})
    EXPECT_EQ(n.parameters[i].detach().masked_select(masks[i].logical_not()).abs().sum().item<double>(), 0);
}

TEST_P(EveryMethod, ResumesToTheSameBits) {
  const auto run = [&](int64_t first, NamedTensors* state, NamedTensors* base, TensorList* weights,
                       int64_t steps) {
    auto n = network(at::kFloat);
    if (first > 0) {
      const at::NoGradGuard no_grad;
      for (std::size_t i = 0; i < 4; ++i) n.parameters[i].copy_((*weights)[i]);
    }
    optim::Optimizer optimizer(n.named(), sgd(0.1, 0.9));
    Sharpness engine(n.named(), usable(GetParam()));
    if (first > 0) {
      optimizer.load_state(*base);
      engine.load_state(*state);
    }
    ClosureObjective objective([&](int64_t) { return n.losses(); });
    for (int64_t step = first; step < steps; ++step) engine.step(objective, *base_of(optimizer));
    const auto copy = [](const NamedTensors& from) {
      NamedTensors to;
      for (const auto& entry : from) to.push_back({entry.name, entry.tensor.clone()});
      return to;
    };
    *state = copy(engine.state());
    *base = copy(optimizer.state());
    *weights = values_of(n);
  };
  NamedTensors state, base, whole_state, whole_base;
  TensorList weights, whole;
  run(0, &whole_state, &whole_base, &whole, 8);
  for (const int64_t at : {1, 2, 5}) {
    run(0, &state, &base, &weights, at);
    run(at, &state, &base, &weights, 8);
    for (std::size_t i = 0; i < 4; ++i) EXPECT_TRUE(at::equal(weights[i], whole[i])) << "resumed at " << at;
    ASSERT_EQ(state.size(), whole_state.size());
    for (std::size_t i = 0; i < state.size(); ++i)
      EXPECT_TRUE(at::equal(state[i].tensor, whole_state[i].tensor)) << state[i].name;
  }
}

TEST_P(EveryMethod, AnExceptionInAnyPassLeavesEverythingAsItWas) {
  for (int fails_at = 0; fails_at < 4; ++fails_at) {
    auto n = network(at::kFloat);
    auto statistics = at::zeros({3});
    optim::Optimizer optimizer(n.named(), sgd(0.1, 0.9));
    Sharpness engine(n.named(), usable(GetParam()), {statistics});
    int calls = 0;
    bool armed = false;
    ClosureObjective objective([&](int64_t) {
      if (armed && calls++ == fails_at) throw std::runtime_error("stop");
      return n.losses();
    });
    engine.step(objective, *base_of(optimizer));
    engine.step(objective, *base_of(optimizer));
    const auto before = values_of(n);
    std::vector<void*> storage;
    for (const auto& p : n.parameters) storage.push_back(p.data_ptr());
    armed = true;
    bool threw = false;
    try {
      engine.step(objective, *base_of(optimizer));
    } catch (const std::runtime_error&) {
      threw = true;
    }
    for (std::size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(n.parameters[i].data_ptr(), storage[i]);
      if (threw) EXPECT_TRUE(at::equal(n.parameters[i].detach(), before[i])) << "pass " << fails_at;
    }
    EXPECT_EQ(threw, calls > fails_at);
    armed = false;
    EXPECT_FALSE(engine.step(objective, *base_of(optimizer)).skipped);  // and it goes on
  }
}

TEST_P(EveryMethod, ANonFiniteGradientMovesNothing) {
  auto n = network(at::kFloat);
  optim::Optimizer optimizer(n.named(), sgd(0.1, 0.9));
  Sharpness engine(n.named(), usable(GetParam()));
  bool bad = false;
  ClosureObjective objective([&](int64_t) {
    auto losses = n.losses();
    return bad ? losses * std::numeric_limits<float>::infinity() : losses;
  });
  engine.step(objective, *base_of(optimizer));
  const auto before = values_of(n);
  bad = true;
  const auto result = engine.step(objective, *base_of(optimizer));
  if (GetParam() != "zosgd") {  // its infinite differences are no direction, which it counts instead
    EXPECT_TRUE(result.skipped);
    EXPECT_EQ(engine.skipped_steps(), 1);
  }
  for (std::size_t i = 0; i < 4; ++i) EXPECT_TRUE(n.parameters[i].detach().isfinite().all().item<bool>());
  if (result.skipped)
    for (std::size_t i = 0; i < 4; ++i) EXPECT_TRUE(at::equal(n.parameters[i].detach(), before[i]));
}

std::vector<std::string> names() {
  std::vector<std::string> result;
  for (const auto& info : methods()) result.push_back(info.name);
  return result;
}
INSTANTIATE_TEST_SUITE_P(Sharpness, EveryMethod, ::testing::ValuesIn(names()),
                         [](const auto& info) { return info.param; });

// --- the ascent

TEST(Ascent, HasLengthRhoAndRestoresTheBits) {
  for (const uint64_t seed : {1, 2, 3, 4, 5}) {
    auto n = network(at::kFloat, seed);
    const auto before = values_of(n);
    optim::Optimizer optimizer(n.named(), sgd(0.0));
    Sharpness engine(n.named(), sam(0.37));
    int pass = 0;
    double length = 0;
    ClosureObjective objective([&](int64_t) {
      if (pass++ == 1) {
        const auto e = add(values_of(n), -1, before);
        length = std::sqrt(dot(e, e));
      }
      return n.losses();
    });
    engine.step(objective, *base_of(optimizer));
    // Each coordinate is rounded where w + eps is: 2^-24 |w| against rho.
    EXPECT_NEAR(length, 0.37, 0.37e-5);
    for (std::size_t i = 0; i < 4; ++i) EXPECT_TRUE(at::equal(n.parameters[i].detach(), before[i]));
  }
}

TEST(Ascent, TakesTheRadiusOfEachGroup) {
  // sqrt(sum_j rho_j^2 ||g_j||^2) / ||g||, with the global norm.
  auto n = network(at::kDouble);
  const auto before = values_of(n);
  const auto g = gradient_at(n, before);
  optim::Optimizer optimizer(n.named(), sgd(0.0));
  Sharpness engine(n.named(), sam(0.1));
  const std::vector<double> rho{0.1, 0.2, 0.3, 0.0};
  engine.set_rho(rho);
  TensorList e;
  int pass = 0;
  ClosureObjective objective([&](int64_t) {
    if (pass++ == 1) e = add(values_of(n), -1, before);
    return n.losses();
  });
  engine.step(objective, *base_of(optimizer));
  const double norm = std::sqrt(dot(g, g));
  for (std::size_t i = 0; i < 4; ++i)
    EXPECT_LE((e[i] - rho[i] / norm * g[i]).abs().max().item<double>(), 1e-12);  // eps0 over the norm
}

TEST(Ascent, InTheMaximumNormFollowsSigns) {
  auto n = network(at::kDouble);
  const auto before = values_of(n);
  const auto g = gradient_at(n, before);
  auto options = sam(0.1);
  options.norm = "linf";
  optim::Optimizer optimizer(n.named(), sgd(0.0));
  Sharpness engine(n.named(), options);
  int pass = 0;
  ClosureObjective objective([&](int64_t) {
    if (pass++ == 1)
      for (std::size_t i = 0; i < 4; ++i)
        EXPECT_LE((n.parameters[i].detach() - before[i] - 0.1 * g[i].sign()).abs().max().item<double>(),
                  1e-15);
    return n.losses();
  });
  engine.step(objective, *base_of(optimizer));
  EXPECT_EQ(pass, 2);
}

TEST(Ascent, FirstOrderRiseIsTheGradientNorm) {
  auto n = network(at::kDouble);
  const auto w = values_of(n), g = gradient_at(n, w);
  const double norm = std::sqrt(dot(g, g)), at_w = n.losses().mean().item<double>();
  for (const double rho : {1e-3, 1e-4}) {
    optim::Optimizer optimizer(n.named(), sgd(0.0));
    Sharpness engine(n.named(), sam(rho));
    double above = 0;
    ClosureObjective objective([&](int64_t) {
      const auto losses = n.losses();
      above = losses.mean().item<double>();
      return losses;
    });
    engine.step(objective, *base_of(optimizer));
    EXPECT_NEAR((above - at_w) / rho, norm, 10 * rho);  // the second-order term: curvature about 1
  }
}

TEST(Ascent, FlatGradientGivesNoStepAndNoNan) {
  auto w = torch::ones({3}).requires_grad_();
  optim::Optimizer optimizer({{"w", w}}, sgd(0.1));
  Sharpness engine({{"w", w}}, sam(0.1));
  ClosureObjective objective([&](int64_t) { return (w * 0).sum(); });
  EXPECT_FALSE(engine.step(objective, *base_of(optimizer)).skipped);
  EXPECT_TRUE(at::equal(w.detach(), at::ones({3})));
}

TEST(Ascent, AWeightWithoutASecondGradientComesBack) {
  auto a = torch::ones({2}).requires_grad_(), b = torch::full({2}, 2.0f).requires_grad_();
  optim::Optimizer optimizer({{"a", a}, {"b", b}}, sgd(0.1));
  Sharpness engine({{"a", a}, {"b", b}}, sam(0.5));
  int pass = 0;
  ClosureObjective objective(
      [&](int64_t) { return pass++ == 0 ? (a * a).sum() + (b * b).sum() : (a * a).sum(); });
  engine.step(objective, *base_of(optimizer));
  EXPECT_TRUE(at::equal(b.detach(), at::full({2}, 2.0f)));
  EXPECT_FALSE(at::equal(a.detach(), at::ones({2})));
}

TEST(Passes, StatisticsMoveOncePerStep) {
  for (const auto& info : methods()) {
    auto n = network(at::kFloat);
    auto statistics = at::zeros({1});
    optim::Optimizer optimizer(n.named(), sgd(0.1, 0.9));
    Sharpness engine(n.named(), usable(info.name), {statistics});
    ClosureObjective with_graph([&](int64_t) {
      {
        const at::NoGradGuard no_grad;
        statistics.add_(1);
      }
      return n.losses();
    });
    for (int step = 0; step < 4; ++step) engine.step(with_graph, *base_of(optimizer));
    const double expected = info.name == "zosgd" ? 0 : 4;  // which takes no gradient
    EXPECT_EQ(statistics.item<double>(), expected) << info.name;
  }
}

TEST(Passes, SeeTheSameRandomNumbers) {
  for (const bool match : {true, false}) {
    auto n = network(at::kFloat);
    auto options = sam(0.1);
    options.match_rng = match;
    optim::Optimizer optimizer(n.named(), sgd(0.1));
    Sharpness engine(n.named(), options);
    std::vector<double> drawn;
    ClosureObjective objective([&](int64_t) {
      drawn.push_back(at::rand({1}).item<double>());
      return n.losses();
    });
    engine.step(objective, *base_of(optimizer));
    engine.step(objective, *base_of(optimizer));
    ASSERT_EQ(drawn.size(), 4u);
    EXPECT_EQ(drawn[0] == drawn[1], match);
    EXPECT_NE(drawn[1], drawn[2]);
  }
}

TEST(Passes, AreCounted) {
  const auto count = [&](const SharpnessOptions& options) {
    auto n = network(at::kFloat);
    optim::Optimizer optimizer(n.named(), sgd(0.1, 0.9));
    Sharpness engine(n.named(), options);
    ClosureObjective objective([&](int64_t) { return n.losses(); });
    const auto r = engine.step(objective, *base_of(optimizer));
    return std::pair(r.forwards, r.backwards);
  };
  EXPECT_EQ(count(usable("sam")), std::pair(int64_t{2}, int64_t{2}));
  EXPECT_EQ(count(usable("s2sam")), std::pair(int64_t{1}, int64_t{1}));
  auto zo = usable("zosam");
  for (const int64_t m : {1, 3}) {
    zo.directions = m;
    EXPECT_EQ(count(zo), std::pair(2 * m + 1, int64_t{1}));
    auto one_sided = zo;
    one_sided.sides = 1;
    EXPECT_EQ(count(one_sided), std::pair(m + 2, int64_t{1}));
  }
  zo.rho = 0;
  EXPECT_EQ(count(zo), std::pair(int64_t{1}, int64_t{1}));
}

TEST(Schedule, StartIntervalAndRadius) {
  auto n = network(at::kFloat);
  auto options = sam(0.1);
  options.start_step = 2;
  options.interval = 3;
  optim::Optimizer optimizer(n.named(), sgd(0.1));
  Sharpness engine(n.named(), options);
  ClosureObjective objective([&](int64_t) { return n.losses(); });
  std::string ascended;
  for (int step = 0; step < 9; ++step)
    ascended += engine.step(objective, *base_of(optimizer)).ascended ? '1' : '0';
  EXPECT_EQ(ascended, "001001001");

  options = options_of("gsam");
  options.rho = 0.2;
  options.rho_min = 0.1;
  options.rho_schedule = "lr";
  options.lr_min = 0.01;
  options.lr_max = 0.11;
  const Sharpness gsam(n.named(), options);
  EXPECT_DOUBLE_EQ(gsam.rho(0, 0.01), 0.1);
  EXPECT_DOUBLE_EQ(gsam.rho(0, 0.11), 0.2);
  EXPECT_DOUBLE_EQ(gsam.rho(0, 0.06), 0.15);
}

TEST(Esam, KeepsTheSamplesWhoseLossRisesMost) {
  auto n = network(at::kDouble);
  auto options = options_of("esam");
  options.beta = 1;
  options.gamma = 0.25;
  const auto w = values_of(n), g = gradient_at(n, w);
  const auto moved = add(w, options.rho / (std::sqrt(dot(g, g)) + options.eps0), g);
  TensorList leaves;
  for (const auto& value : moved) leaves.push_back(value.clone().requires_grad_());
  Network there{leaves, n.x, n.y};
  const auto rise = (there.losses() - n.losses()).detach();
  const auto rows = std::get<1>(rise.sort(true, 0, true)).slice(0, 0, 3);  // floor(.25 * 12)
  const auto d = torch::autograd::grad({there.losses().index_select(0, rows).mean()}, leaves);
  optim::Optimizer optimizer(n.named(), sgd(1.0));
  Sharpness engine(n.named(), options);
  ClosureObjective objective([&](int64_t) { return n.losses(); });
  engine.step(objective, *base_of(optimizer));
  for (std::size_t i = 0; i < 4; ++i)
    EXPECT_LE((w[i] - n.parameters[i].detach() - d[i]).abs().max().item<double>(), 1e-13);
  // Losses per sample are needed, and said so.
  ClosureObjective scalar([&](int64_t) { return n.losses().mean(); });
  EXPECT_NE(message_of<ArgumentError>([&] {
              engine.step(scalar, *base_of(optimizer));
            }).find("one loss per sample"),
            std::string::npos);
}

// --- ZO-SAM

TEST(ZoSam, PerturbsAlongTheSeededDirectionWithTheRisingSign) {
  // A linear loss: the sign is that of <a, u>, the length rho.
  for (const auto& direction : {"gaussian", "rademacher", "sphere"}) {
    auto w = torch::zeros({101}).requires_grad_();
    const auto a = at::randn({101});
    auto options = options_of("zosam");
    options.rho = 0.3;
    options.direction = direction;
    options.seed = 11;
    optim::Optimizer optimizer({{"w", w}}, sgd(0.0));
    Sharpness engine({{"w", w}}, options);
    at::Tensor e;
    ClosureObjective objective([&](int64_t) {
      e = w.detach().clone();
      return (w * a).sum() + 1;
    });
    for (int step = 0; step < 5; ++step) {
      engine.step(objective, *base_of(optimizer));
      EXPECT_NEAR(e.norm().item<double>(), 0.3, 0.3e-5);
      EXPECT_GT((e * a).sum().item<double>(), 0);
      EXPECT_TRUE(at::equal(w.detach(), at::zeros({101})));
    }
  }
}

TEST(ZoSam, TheEstimatorHasTheVarianceOfTheory) {
  // E ||g^||^2 / ||g||^2 = (d + m + 1) / m on a linear loss; d = 100 here, 4,000 draws: standard error about
  // 2 %.
  auto w = torch::zeros({100}, torch::kFloat).requires_grad_();
  const auto a = at::randn({100});
  for (const int64_t m : {1, 8}) {
    auto options = options_of("zosgd");
    options.directions = m;
    options.delta = 1.0;  // exact on a linear loss
    options.seed = 5;
    optim::Optimizer optimizer({{"w", w}}, sgd(0.0));
    Sharpness engine({{"w", w}}, options);
    ClosureObjective objective([&](int64_t) { return (w * a).sum(); });
    double sum = 0;
    const int draws = 4000 / static_cast<int>(m);
    for (int i = 0; i < draws; ++i) {
      engine.step(objective, *base_of(optimizer));
      sum += w.grad().square().sum().item<double>();
    }
    const double expected = (100.0 + static_cast<double>(m) + 1) / static_cast<double>(m);
    EXPECT_NEAR(sum / draws / a.square().sum().item<double>(), expected, 0.1 * expected) << m;
  }
}

TEST(ZoSam, CoordinatesGiveTheGradientItself) {
  auto n = network(at::kDouble);
  const auto w = values_of(n), g = gradient_at(n, w);
  auto options = options_of("zosam");
  options.estimator = "cge";
  options.rho = 0.1;
  optim::Optimizer optimizer(n.named(), sgd(0.0));
  Sharpness engine(n.named(), options);
  TensorList last;
  ClosureObjective objective([&](int64_t) {
    last = values_of(n);
    return n.losses();
  });
  engine.step(objective, *base_of(optimizer));
  const auto e = add(last, -1, w);
  // Central differences at 1e-3: third derivatives leave about 1e-7.
  EXPECT_NEAR(dot(e, g) / std::sqrt(dot(e, e) * dot(g, g)), 1, 1e-9);
}

// --- bad input

TEST(BadInput, IsNamed) {
  auto n = network(at::kFloat);
  const auto refuse = [&](const std::string& text, auto&& change, const std::string& method = "sam") {
    auto options = options_of(method);
    change(options);
    const auto message = message_of<ArgumentError>([&] { Sharpness(n.named(), options); });
    EXPECT_NE(message.find(text), std::string::npos) << message;
  };
  refuse("sharpness.rho is -1", [](auto& o) { o.rho = -1; });
  refuse("sharpness.rho is nan", [](auto& o) { o.rho = std::nan(""); });
  refuse("sharpness.eta is -0.5", [](auto& o) { o.eta = -0.5; });
  refuse(
      "lr_max = lr_min", [](auto& o) { o.rho_schedule = "lr", o.rho_min = 0.01; }, "gsam");
  refuse(
      "sharpness.alpha is 0", [](auto& o) { o.alpha = 0; }, "looksam");
  refuse(
      "sharpness.gamma is 1", [](auto& o) { o.gamma = 1; }, "wsam");
  refuse("linf", [](auto& o) { o.norm = "linf", o.adaptive = "all"; });
  EXPECT_NE(message_of<ArgumentError>([] { method_info("samm"); }).find("did you mean 'sam'"),
            std::string::npos);

  optim::Optimizer optimizer(n.named(), sgd(0.1));
  Sharpness engine(n.named(), sam(0.1));
  const auto base = base_of(optimizer);
  const auto stepping = [&](std::function<at::Tensor()> loss) {
    ClosureObjective objective([&](int64_t) { return loss(); });
    return message_of<ArgumentError>([&] { engine.step(objective, *base); });
  };
  EXPECT_NE(stepping([] { return at::Tensor(); }).find("returned nothing"), std::string::npos);
  EXPECT_NE(stepping([] { return at::ones({}); }).find("does not depend on the parameters"),
            std::string::npos);
  auto other = torch::ones({1}).requires_grad_();
  EXPECT_NE(stepping([&] { return other.sum(); }).find("no parameter has a gradient"), std::string::npos);
  const auto same = n.losses();
  EXPECT_NE(stepping([&] { return same; }).find("must run the forward pass again"), std::string::npos);
  EXPECT_NE(message_of<ArgumentError>([&] { engine.second_step(*base); }).find("without first_step"),
            std::string::npos);
  n.losses().mean().backward();
  engine.first_step(*base);
  EXPECT_NE(message_of<ArgumentError>([&] { engine.first_step(*base); }).find("called twice"),
            std::string::npos);
  EXPECT_NE(message_of<ArgumentError>([&] { engine.state(); }).find("between the two passes"),
            std::string::npos);
  engine.second_step(*base);
  EXPECT_EQ(engine.state()[0].tensor[0].item<int64_t>(), 1);
}

}  // namespace
}  // namespace glyptic::sharpness
