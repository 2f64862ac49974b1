// Eigenvalues, trace, density and sharpness measures against closed forms and against dense Hessians that the
// test builds by differences of gradients in float64.
#include "glyptic/sharpness/curvature.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <random>

#include "../support.h"
#include "glyptic/core/error.h"
#include "glyptic/nn/model.h"

namespace glyptic::sharpness {
namespace {

LossOverData data_of(std::function<at::Tensor(int64_t)> loss, std::vector<int64_t> sizes = {1}) {
  LossOverData data;
  data.batches = static_cast<int64_t>(sizes.size());
  data.loss = std::move(loss);
  data.samples = [sizes](int64_t b) { return sizes[static_cast<std::size_t>(b)]; };
  return data;
}

at::Tensor leaf(const at::Tensor& value) {
  return value.clone().requires_grad_(true);
}

/// w^T A w / 2 at w: its Hessian is A everywhere.
struct Quadratic {
  at::Tensor a, w;
  LossSurface surface;
  explicit Quadratic(const at::Tensor& matrix, at::Tensor at_w = {}, const TensorList& masks = {})
      : a(matrix),
        w(leaf(at_w.defined() ? at_w : at::zeros({matrix.size(0)}, matrix.options()))),
        surface({{"w", w}}, data_of([m = a, x = w](int64_t) { return (x * at::mv(m, x)).sum() / 2; }),
                masks) {}
};

at::Tensor diagonal(const std::vector<double>& values, at::ScalarType type = at::kDouble) {
  return at::diag(at::tensor(values, at::kDouble)).to(type);
}

at::Tensor symmetric(int64_t n, uint64_t seed, at::ScalarType type = at::kDouble) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<double> normal;
  std::vector<double> values(static_cast<std::size_t>(n * n));
  for (auto& x : values) x = normal(generator);
  const auto m = at::tensor(values, at::kDouble).view({n, n});
  return ((m + m.t()) / 2).to(type);
}

std::vector<double> eigenvalues(const at::Tensor& matrix) {  // ascending
  const auto values = at::linalg_eigvalsh(matrix.to(at::kDouble)).contiguous();
  return {values.const_data_ptr<double>(), values.const_data_ptr<double>() + values.numel()};
}

/// A network of 4-5-3 with tanh on 12 rows in two batches of 8 and 4: smooth, and its Hessian is indefinite.
struct Net {
  at::Tensor x, y, w1, b1, w2, b2;
  NamedTensors parameters;
  LossOverData data;
  explicit Net(at::ScalarType type = at::kDouble) {
    torch::manual_seed(3);
    x = at::randn({12, 4}, at::kDouble).to(type);
    y = at::arange(12) % 3;
    w1 = leaf(at::randn({5, 4}, at::kDouble).to(type));
    b1 = leaf(at::randn({5}, at::kDouble).to(type));
    w2 = leaf(at::randn({3, 5}, at::kDouble).to(type));
    b2 = leaf(at::randn({3}, at::kDouble).to(type));
    parameters = {{"w1", w1}, {"b1", b1}, {"w2", w2}, {"b2", b2}};
    data = data_of(
        [*this](int64_t b) {
          const auto rows = b == 0 ? at::arange(0, 8) : at::arange(8, 12);
          const auto h = at::tanh(at::linear(x.index_select(0, rows), w1, b1));
          return at::cross_entropy_loss(at::linear(h, w2, b2), y.index_select(0, rows));
        },
        {8, 4});
  }
  /// By central differences of the gradient of the whole loss, [d, d]; error about 1e-9.
  at::Tensor dense() const {
    const LossSurface surface(parameters, data);
    const auto d = surface.size();
    auto h = at::zeros({d, d}, at::kDouble);
    for (int64_t i = 0; i < d; ++i) {
      auto e = surface.zeros();
      e[i] = 1;
      Excursion excursion(surface);
      excursion.to(e, 1e-5);
      const auto plus = whole_gradient();
      excursion.to(e, -1e-5);
      h[i].copy_((plus - whole_gradient()) / 2e-5);
    }
    return (h + h.t()) / 2;
  }
  at::Tensor whole_gradient() const {  // not by the class under test
    const auto h = at::tanh(at::linear(x, w1, b1));
    const auto loss = at::cross_entropy_loss(at::linear(h, w2, b2), y);
    TensorList flat;
    for (const auto& g : torch::autograd::grad({loss}, {w1, b1, w2, b2})) flat.push_back(g.reshape({-1}));
    return at::cat(flat);
  }
};

double relative(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).norm() / b.norm()).item<double>();
}

EigenOptions eigen(int64_t n, Which which, Solver method, double tol = 1e-9, int64_t max_iter = 100) {
  EigenOptions o;
  o.n = n;
  o.which = which;
  o.method = method;
  o.tol = tol;
  o.max_iter = max_iter;
  return o;
}

// ---- products

TEST(Product, EqualsTheDenseHessianOverUnequalBatches) {
  const Net net;
  LossSurface surface(net.parameters, net.data);
  EXPECT_EQ(surface.size(), 43);
  const auto h = net.dense();
  const auto v = surface.random(5, "test", 0, ops::Distribution::normal);
  const auto u = surface.random(5, "test", 1, ops::Distribution::normal);
  // 1e-8: the differences that the oracle takes.
  EXPECT_LT(relative(surface.product(v), at::mv(h, v)), 1e-8);
  const auto both = surface.product(at::stack({v, u}));
  EXPECT_TRUE(at::equal(both[0], surface.product(v)));
  EXPECT_TRUE(at::equal(both[1], surface.product(u)));
  EXPECT_EQ(surface.products(), 5);
  EXPECT_LT(relative(surface.gradient(), net.whole_gradient()), 1e-14);
  for (const auto& p : net.parameters) EXPECT_FALSE(p.tensor.grad().defined());
}

TEST(Product, DifferencesAgreeAndPutTheWeightsBack) {
  for (const auto type : {at::kDouble, at::kFloat}) {
    const Net net(type);
    LossSurface surface(net.parameters, net.data);
    const auto v = surface.random(5, "test", 0, ops::Distribution::normal);
    const auto before = surface.weights();
    const auto exact = surface.product(v), close = surface.product(v, {.differences = true});
    // O(h^2) with h = 1e-2 and third derivatives of order 1; in float32 the gradient's 1e-7 over 1e-2.
    EXPECT_LT(relative(close, exact), 1e-3);
    EXPECT_GT(relative(close, exact), 0);
    EXPECT_TRUE(at::equal(surface.weights(), before));
    // The reach does not depend on the length of v.
    EXPECT_LT(relative(surface.product(v * 1e4, {.differences = true}), exact * 1e4), 1e-3);
    EXPECT_EQ(surface.product(surface.zeros(), {.differences = true}).abs().max().item<double>(), 0);
  }
}

TEST(Product, ALossThatIsLinearInAParameterHasNoCurvatureThere) {
  const auto a = leaf(at::ones({2}, at::kDouble)), b = leaf(at::ones({2}, at::kDouble));
  LossSurface mixed({{"a", a}, {"b", b}}, data_of([&](int64_t) { return (a * a).sum() + b.sum(); }));
  EXPECT_TRUE(
      at::equal(mixed.product(at::ones({4}, at::kDouble)), at::tensor({2., 2., 0., 0.}, at::kDouble)));
  LossSurface linear({{"a", a}, {"b", b}}, data_of([&](int64_t) { return b.sum(); }));
  EXPECT_EQ(linear.product(at::ones({4}, at::kDouble)).abs().sum().item<double>(), 0);
  const auto top = top_eigenvalues(linear, eigen(2, Which::LA, Solver::lanczos));
  EXPECT_EQ(top.values, (std::vector<double>{0, 0}));
  EXPECT_TRUE(top.converged[0] && top.converged[1]);
}

TEST(Product, MasksRestrictToTheActiveSubmatrix) {
  const Net net;
  const auto mask = (at::arange(20).view({5, 4}) % 3).eq(0);
  const TensorList masks{mask, {}, {}, at::tensor({1, 0, 1}).to(at::kBool)};
  LossSurface surface(net.parameters, net.data, masks);
  const auto active = at::cat({mask.reshape({-1}), at::ones({20}, at::kBool), masks[3]}).nonzero().view({-1});
  EXPECT_EQ(surface.active(), active.numel());
  auto h = net.dense().index_select(0, active).index_select(1, active);
  const auto values = eigenvalues(h);
  const auto top = top_eigenvalues(surface, eigen(2, Which::LA, Solver::lanczos));
  EXPECT_NEAR(top.values[0], values[values.size() - 1], 1e-8);
  EXPECT_NEAR(top.values[1], values[values.size() - 2], 1e-8);
  const auto off = surface.mask().logical_not();
  EXPECT_EQ(top.vectors[0].masked_select(off).abs().sum().item<double>(), 0);
  EXPECT_EQ(surface.gradient().masked_select(off).abs().sum().item<double>(), 0);
  EXPECT_EQ(surface.product(at::ones({43}, at::kDouble)).masked_select(off).abs().sum().item<double>(), 0);
}

TEST(Surface, FrozenTensorsAreLeftOutAndBadInputIsNamed) {
  Net net;
  net.parameters.push_back({"frozen", at::ones({7})});
  EXPECT_EQ(LossSurface(net.parameters, net.data).size(), 43);
  const auto error = [&](NamedTensors p, LossOverData d, TensorList masks = {}) {
    return message_of<ArgumentError>([&] { LossSurface(std::move(p), std::move(d), masks); });
  };
  expect_contains(error({{"frozen", at::ones({7})}}, net.data), "requires a gradient");
  expect_contains(error(net.parameters, data_of([](int64_t) { return at::Tensor(); }, {})), "no batches");
  expect_contains(error(net.parameters, data_of([](int64_t) { return at::Tensor(); }, {3, 0})),
                  "batch 1 has 0 samples");
  expect_contains(error(net.parameters, net.data, {{}}), "1 masks for 5");
  expect_contains(error({{"w", net.w1}}, net.data, {at::ones({2}, at::kBool)}), "'w'");
  expect_contains(error({{"w", net.w1}}, net.data, {at::zeros({5, 4}, at::kBool)}), "no active weight");
  expect_contains(error({{"w", net.w1}, {"w", net.w2}}, net.data), "w");

  const auto bad = [&](std::function<at::Tensor(int64_t)> loss) {
    LossSurface surface({{"w1", net.w1}}, data_of(std::move(loss)));
    return message_of<ArgumentError>([&] { surface.gradient(); });
  };
  expect_contains(bad([](int64_t) { return at::Tensor(); }), "returned nothing");
  expect_contains(bad([&](int64_t) { return net.w1 * 1; }), "[5, 4]");
  expect_contains(bad([](int64_t) { return at::ones({}); }), "does not depend");
  LossSurface surface(net.parameters, net.data);
  expect_contains(message_of<ArgumentError>([&] { surface.product(at::ones({3})); }), "[3]");
  expect_contains(message_of<ArgumentError>([&] { surface.block("w3"); }), "w3");
  const auto w = leaf(at::ones({2}, at::kBFloat16));
  LossSurface coarse({{"w", w}}, data_of([&](int64_t) { return (w * w).sum(); }));
  expect_contains(message_of<ArgumentError>([&] { coarse.product(at::ones({2}), {.differences = true}); }),
                  "BFloat16");
}

TEST(Product, SaysWhatToDoWhereThereIsNoSecondDerivative) {
  // Flash attention on the CPU has a first derivative only.
  torch::manual_seed(0);
  const auto q = leaf(at::randn({1, 2, 4, 8}));
  LossSurface surface(
      {{"q", q}}, data_of([&](int64_t) {
        return std::get<0>(at::_scaled_dot_product_flash_attention_for_cpu(q, q * 2, q * 3)).square().sum();
      }));
  const auto v = surface.random(0, "test", 0, ops::Distribution::normal);
  expect_contains(message_of<ArgumentError>([&] { surface.product(v); }), "finite differences");
  EXPECT_GT(surface.product(v, {.differences = true}).norm().item<double>(), 0);
}

// ---- eigenvalues

TEST(Eigenvalues, LargestAlgebraicAndLargestMagnitude) {
  for (const auto type : {at::kDouble, at::kFloat}) {
    const double tolerance = type == at::kDouble ? 1e-9 : 1e-5;  // float32: rounding of the products
    Quadratic q(diagonal({3, -5, 1}, type));
    for (const auto method : {Solver::lanczos, Solver::power}) {
      const auto la = top_eigenvalues(q.surface, eigen(1, Which::LA, method, tolerance, 500));
      EXPECT_NEAR(la.values[0], 3, tolerance);
      EXPECT_NEAR(std::abs(la.vectors[0][0].item<double>()), 1, tolerance);
      const auto lm = top_eigenvalues(q.surface, eigen(1, Which::LM, method, tolerance, 500));
      EXPECT_NEAR(lm.values[0], -5, tolerance);
      EXPECT_TRUE(la.converged[0] && lm.converged[0]);
    }
  }
}

TEST(Eigenvalues, BlocksBesideTheWhole) {
  const auto a = leaf(at::tensor({0.3}, at::kDouble)), b = leaf(at::tensor({-0.2}, at::kDouble));
  LossSurface surface({{"a", a}, {"b", b}},
                      data_of([&](int64_t) { return (1.5 * a * a + 0.5 * b * b + a * b).sum(); }));
  EXPECT_NEAR(top_eigenvalues(surface).values[0], 3.4142136, 5e-8);  // as many digits as are given
  const auto blocks = block_eigenvalues(surface);
  ASSERT_EQ(blocks.size(), 2u);
  EXPECT_EQ(blocks[0].first, "a");
  EXPECT_NEAR(blocks[0].second.values[0], 3, 1e-14);
  EXPECT_NEAR(blocks[1].second.values[0], 1, 1e-14);
  const auto one = block_eigenvalues(surface, {}, {"b"});
  ASSERT_EQ(one.size(), 1u);
  EXPECT_EQ(one[0].first, "b");
  expect_contains(message_of<ArgumentError>([&] { block_eigenvalues(surface, {}, {"c"}); }), "c");
}

TEST(Eigenvalues, OfANetworkByEveryMethod) {
  const Net net;
  const auto values = eigenvalues(net.dense());
  std::vector<double> descending(values.rbegin(), values.rend()), magnitude = descending;
  std::stable_sort(magnitude.begin(), magnitude.end(),
                   [](double x, double y) { return std::abs(x) > std::abs(y); });
  ASSERT_LT(values.front(), -1e-3) << "an indefinite Hessian is wanted";
  for (const auto which : {Which::LA, Which::LM})
    for (const auto method : {Solver::lanczos, Solver::power}) {
      LossSurface surface(net.parameters, net.data);
      // Power iteration converges slowly; an eigenvalue is within the residual of the value.
      const auto top = method == Solver::power ? top_eigenvalues(surface, eigen(1, which, method, 1e-2, 400))
                                               : top_eigenvalues(surface, eigen(3, which, method, 1e-6, 43));
      for (std::size_t j = 0; j < top.values.size(); ++j) {
        EXPECT_TRUE(top.converged[j]);
        EXPECT_NEAR(top.values[j], (which == Which::LA ? descending : magnitude)[j],
                    method == Solver::power ? top.residuals[j] : 1e-7);
        const auto v = top.vectors[static_cast<int64_t>(j)];
        EXPECT_NEAR(v.norm().item<double>(), 1, 1e-12);
        const double residual = (surface.product(v) - v * top.values[j]).norm().item<double>();
        EXPECT_NEAR(top.residuals[j], residual, 1e-12);
        for (std::size_t i = 0; i < j; ++i)
          EXPECT_LT(std::abs(v.dot(top.vectors[static_cast<int64_t>(i)]).item<double>()), 1e-10);
      }
    }
  // A block is at most the whole (interlacing).
  LossSurface surface(net.parameters, net.data);
  for (const auto& [name, block] : block_eigenvalues(surface))
    EXPECT_LE(block.values[0], descending[0] + 1e-9) << name;
}

TEST(Eigenvalues, PowerIterationDeflates) {
  Quadratic q(diagonal({5, -8, 3, -2, 1}));
  const auto la = top_eigenvalues(q.surface, eigen(3, Which::LA, Solver::power, 1e-8, 2000));
  const auto lm = top_eigenvalues(q.surface, eigen(3, Which::LM, Solver::power, 1e-8, 2000));
  for (std::size_t j = 0; j < 3; ++j) {
    EXPECT_TRUE(la.converged[j] && lm.converged[j]);
    EXPECT_NEAR(la.values[j], (std::vector<double>{5, 3, 1})[j],
                1e-12);  // the error is about the residual squared
    EXPECT_NEAR(lm.values[j], (std::vector<double>{-8, 5, 3})[j], 1e-12);
  }
}

TEST(Eigenvalues, NonConvergenceIsSaidAndProductsAreCounted) {
  Quadratic q(symmetric(60, 1));
  for (const auto method : {Solver::lanczos, Solver::power}) {
    const auto before = q.surface.products();
    const auto few = top_eigenvalues(q.surface, eigen(1, Which::LA, method, 1e-9, 4));
    EXPECT_FALSE(few.converged[0]);
    EXPECT_GT(few.residuals[0], 1e-9 * std::abs(few.values[0]));
    EXPECT_EQ(few.products, q.surface.products() - before);
  }
  EXPECT_EQ(top_eigenvalues(q.surface, eigen(1, Which::LM, Solver::power, 1e-9, 4)).products, 4);
  const auto lanczos = top_eigenvalues(q.surface, eigen(1, Which::LA, Solver::lanczos, 1e-9, 4));
  EXPECT_EQ(lanczos.products, 5);  // four steps and the check
  EXPECT_EQ(lanczos.history.size(), 4u);
}

TEST(Eigenvalues, LanczosNeedsFewerProducts) {
  for (const uint64_t seed : {1, 2, 3, 4, 5}) {
    const auto m = symmetric(80, seed);
    Quadratic q(at::mm(m, m.t()));
    const double exact = eigenvalues(q.a).back();
    const auto needed = [&](Solver method) {
      const auto top = top_eigenvalues(
          q.surface, eigen(1, Which::LA, method, 1e-8, 80 * (method == Solver::power ? 100 : 1)));
      for (std::size_t i = 0; i < top.history.size(); ++i)
        if (std::abs(top.history[i] - exact) <= 1e-3 * exact) return i + 1;
      return std::size_t{1} << 30;
    };
    EXPECT_LT(needed(Solver::lanczos) + 1, needed(Solver::power));  // its check is a product too
  }
}

TEST(Eigenvalues, RandomMatricesAndRepeatedOnes) {
  for (const uint64_t seed : {11, 12, 13}) {
    Quadratic q(symmetric(30, seed));
    const auto values = eigenvalues(q.a);
    const auto all = top_eigenvalues(q.surface, eigen(30, Which::LA, Solver::lanczos, 1e-9));
    for (std::size_t j = 0; j < 30; ++j) EXPECT_NEAR(all.values[j], values[29 - j], 1e-10);
  }
  // The space closes after one step of H = 2 I; fresh vectors find the other copies.
  Quadratic same(at::eye(6, at::kDouble) * 2);
  const auto top = top_eigenvalues(same.surface, eigen(4, Which::LA, Solver::lanczos));
  for (const double value : top.values) EXPECT_NEAR(value, 2, 1e-14);
  EXPECT_LT((at::mm(top.vectors, top.vectors.t()) - at::eye(4, at::kDouble)).abs().max().item<double>(),
            1e-12);
  Quadratic negative(diagonal({-3, -1, -2}));
  for (const auto method : {Solver::lanczos, Solver::power})
    EXPECT_NEAR(top_eigenvalues(negative.surface, eigen(1, Which::LA, method, 1e-9, 1000)).values[0], -1,
                1e-9);
}

TEST(Eigenvalues, RepeatWithTheSeedAndDifferWithAnother) {
  const Net net;
  LossSurface surface(net.parameters, net.data);
  auto o = eigen(1, Which::LA, Solver::lanczos, 1e-3, 6);
  const auto a = top_eigenvalues(surface, o), b = top_eigenvalues(surface, o);
  EXPECT_EQ(a.values, b.values);
  EXPECT_TRUE(at::equal(a.vectors, b.vectors));
  o.seed = 1;
  EXPECT_NE(top_eigenvalues(surface, o).values[0], a.values[0]);
}

TEST(Eigenvalues, TheChangeRuleIsThePeers) {
  Quadratic q(diagonal({4, 3, 2, 1}));
  auto o = eigen(1, Which::LM, Solver::power, 1e-3, 100);
  o.stop = Stop::change;
  const auto top = top_eigenvalues(q.surface, o);
  ASSERT_TRUE(top.converged[0]);
  const auto n = top.history.size();
  ASSERT_GE(n, 3u);
  const auto change = [&](std::size_t i) {
    return std::abs(top.history[i] - top.history[i - 1]) / (std::abs(top.history[i - 1]) + 1e-6);
  };
  EXPECT_LT(change(n - 1), 1e-3);
  EXPECT_GE(change(n - 2), 1e-3);
  EXPECT_EQ(top.values[0], top.history.back());  // the last one, not the one before
  EXPECT_EQ(top.products, static_cast<int64_t>(n));
}

TEST(Eigenvalues, BadOptions) {
  Quadratic q(diagonal({3, -5, 1}));
  const auto error = [&](EigenOptions o) {
    return message_of<ArgumentError>([&] { top_eigenvalues(q.surface, o); });
  };
  expect_contains(error(eigen(0, Which::LA, Solver::lanczos)), "n is 0");
  expect_contains(error(eigen(4, Which::LA, Solver::lanczos)), "n is 4");
  expect_contains(error(eigen(2, Which::LA, Solver::lanczos, 1e-3, 1)), "max_iter is 1");
  expect_contains(error(eigen(1, Which::LA, Solver::lanczos, -1)), "tol is -1");
  expect_contains(message_of<ArgumentError>([] { which_from_name("SA"); }), "SA");
  expect_contains(message_of<ArgumentError>([] { method_from_name("qr", Which::LA); }), "qr");
  expect_contains(message_of<ArgumentError>([] { stop_from_name("never"); }), "never");
  const auto w = leaf(at::ones({2}, at::kDouble));
  LossSurface broken({{"w", w}}, data_of([&](int64_t) { return (w * w).sum() * NAN; }));
  message_of<DivergenceError>([&] { top_eigenvalues(broken); });
}

// ---- trace and density

TEST(Trace, IsExactForADiagonalAndUnbiasedOtherwise) {
  Quadratic exact(diagonal({3, -5, 1}));
  const auto one = hessian_trace(exact.surface);
  EXPECT_NEAR(one.mean, -1, 1e-14);
  EXPECT_NEAR(one.standard_error, 0, 1e-14);
  EXPECT_TRUE(one.converged);
  EXPECT_EQ(one.samples.size(), 2u);

  Quadratic q(symmetric(25, 4));
  TraceOptions o;
  o.tol = 0;
  o.max_samples = 400;
  const auto many = hessian_trace(q.surface, o);
  ASSERT_EQ(many.samples.size(), 400u);
  EXPECT_FALSE(many.converged);
  EXPECT_LT(std::abs(many.mean - q.a.trace().item<double>()), 4 * many.standard_error);
  // 2 (||H||_F^2 - sum H_ii^2) over the number of samples; the estimate of a deviation from 400 is good to 10
  // %.
  const double off = q.a.square().sum().item<double>() - q.a.diagonal().square().sum().item<double>();
  EXPECT_NEAR(many.standard_error / std::sqrt(2 * off / 400), 1, 0.15);

  const Net net;
  LossSurface surface(net.parameters, net.data);
  const auto of_net = hessian_trace(surface, o);
  EXPECT_LT(std::abs(of_net.mean - net.dense().trace().item<double>()), 4 * of_net.standard_error);
  expect_contains(message_of<ArgumentError>([&] { hessian_trace(surface, {.max_samples = 1}); }),
                  "max_samples is 1");
}

TEST(Density, IntegratesToOneAndHasTheMoments) {
  const Net net;
  LossSurface surface(net.parameters, net.data);
  const auto values = eigenvalues(net.dense());
  DensityOptions o;
  o.runs = 4;
  o.steps = 43;
  const auto density = spectral_density(surface, o);
  double area = 0, mean = 0;
  for (std::size_t i = 1; i < density.grid.size(); ++i) {
    const double step = density.grid[i] - density.grid[i - 1];
    area += step * (density.density[i] + density.density[i - 1]) / 2;
    mean += step * density.density[i] * density.grid[i];
  }
  EXPECT_EQ(density.grid.size(), 10000u);
  EXPECT_NEAR(area, 1, 1e-12);
  double node_mean = 0;
  for (std::size_t run = 0; run < 4; ++run) {
    double total = 0;
    for (std::size_t i = 0; i < density.nodes[run].size(); ++i) {
      total += density.weights[run][i];
      node_mean += density.weights[run][i] * density.nodes[run][i] / 4;
    }
    EXPECT_NEAR(total, 1, 1e-12);
    // The whole space: the extreme nodes are the extreme eigenvalues.
    EXPECT_NEAR(density.nodes[run].back(), values.back(), 1e-7);
    EXPECT_NEAR(density.nodes[run].front(), values.front(), 1e-7);
  }
  // v^T H v of a unit Rademacher vector is the run's mean, so the density's mean is that of the nodes.
  EXPECT_NEAR(mean, node_mean, 1e-3);
  EXPECT_NEAR(density.grid.front(), values.front() - 0.01, 1e-7);
  EXPECT_NEAR(density.grid.back(), values.back() + 0.01, 1e-7);
  EXPECT_NEAR(density.sigma, std::sqrt(1e-5 * std::max(1.0, density.grid.back() - density.grid.front())),
              1e-12);
  EXPECT_EQ(density.products, 4 * 38)
      << "the space closes: the softmax has a null space of 6, of which a start meets one direction";
}

TEST(Density, OfTwoEigenvaluesHasTwoPeaks) {
  std::vector<double> values(40, 1.0);
  for (std::size_t i = 0; i < 10; ++i) values[i] = 5;
  Quadratic q(diagonal(values));
  const auto density = spectral_density(q.surface, {.runs = 1, .steps = 20});
  ASSERT_EQ(density.nodes[0].size(), 2u) << "the space closes after two steps";
  EXPECT_NEAR(density.nodes[0][0], 1, 1e-10);
  EXPECT_NEAR(density.nodes[0][1], 5, 1e-10);
  // A Rademacher vector has equal squares, so the weights are the exact shares.
  EXPECT_NEAR(density.weights[0][0], 0.75, 1e-10);
  EXPECT_NEAR(density.weights[0][1], 0.25, 1e-10);
  // Wide spectra keep their peaks on the grid.
  values[0] = 1e7;
  Quadratic wide(diagonal(values));
  const auto far = spectral_density(wide.surface, {.runs = 1, .steps = 20});
  EXPECT_GT(*std::max_element(far.density.begin(), far.density.end()), 0);
  EXPECT_GE(far.sigma, far.grid[1] - far.grid[0]);
  expect_contains(message_of<ArgumentError>([&] { spectral_density(q.surface, {.runs = 0}); }), "0 runs");
}

// ---- measures

/// Least squares of sharpness.md section 9.
struct LeastSquares {
  at::Tensor x = at::tensor({1., 2., 0., 1., 3., -1., 1., 1.}, at::kDouble).view({4, 2});
  at::Tensor y = at::tensor({1., 0., 2., -1.}, at::kDouble);
  at::Tensor w = leaf(at::tensor({0.5, -0.25}, at::kDouble));
  double at_point(double a, double b) const {
    return ((at::mv(x, at::tensor({a, b}, at::kDouble)) - y).square().mean() / 2).item<double>();
  }
  LossOverData data() const {
    return data_of([*this](int64_t) { return (at::mv(x, w) - y).square().mean() / 2; }, {4});
  }
  LossOverData halves() const {
    return data_of(
        [*this](int64_t b) {
          return (at::mv(x.narrow(0, 2 * b, 2), w) - y.narrow(0, 2 * b, 2)).square().mean() / 2;
        },
        {2, 2});
  }
};

TEST(Measures, OneStepOnTheWorkedExample) {
  const LeastSquares ls;
  const LossSurface surface({{"w", ls.w}}, ls.data());
  const auto g = surface.gradient();
  EXPECT_NEAR(g[0].item<double>(), -0.125, 1e-15);
  EXPECT_NEAR(g[1].item<double>(), -0.1875, 1e-15);
  const double n = std::hypot(0.125, 0.1875);
  const auto m = one_step(surface, 0.1);
  EXPECT_NEAR(m.loss, ls.at_point(0.5, -0.25), 1e-15);
  EXPECT_NEAR(m.value, ls.at_point(0.5 - 0.0125 / n, -0.25 - 0.01875 / n) - m.loss, 1e-15);
  // First order: value / rho -> ||g||.
  EXPECT_NEAR(one_step(surface, 1e-6).value / 1e-6, n, 1e-5);
  EXPECT_EQ(one_step(surface, 0).value, 0);
  EXPECT_TRUE(at::equal(ls.w, at::tensor({0.5, -0.25}, at::kDouble)));

  const LossSurface halves({{"w", ls.w}}, ls.halves());
  double expected = 0;
  for (int64_t b = 0; b < 2; ++b) {
    const LossSurface half({{"w", ls.w}}, data_of([&, b](int64_t) { return ls.halves().loss(b); }));
    expected += one_step(half, 0.1).value / 2;
  }
  const auto per_batch = m_sharpness(halves, 0.1);
  EXPECT_NEAR(per_batch.value, expected, 1e-15);
  EXPECT_NEAR(per_batch.loss, m.loss, 1e-15);
  EXPECT_GT(per_batch.value, m.value);
}

TEST(Measures, WorstCaseOfALinearLossIsTheDualNorm) {
  const auto g = at::tensor({3., -4., 0., 1.}, at::kDouble);
  const auto w = leaf(at::tensor({1., 2., 5., -0.5}, at::kDouble));
  const LossSurface surface({{"w", w}}, data_of([&](int64_t) { return (g * w).sum(); }));
  const auto weighted = (g * w.detach()).abs();
  const double rho = 0.3;
  const auto value = [&](bool linf, bool adaptive) {
    return worst_case(surface, {.rho = rho, .linf = linf, .adaptive = adaptive}).value;
  };
  EXPECT_NEAR(value(false, false), rho * g.norm().item<double>(), 1e-12);
  EXPECT_NEAR(value(true, false), rho * g.abs().sum().item<double>(), 1e-12);
  EXPECT_NEAR(value(false, true), rho * weighted.norm().item<double>(), 1e-12);
  EXPECT_NEAR(value(true, true), rho * weighted.sum().item<double>(), 1e-12);
  const double loss = (g * w).sum().item<double>();
  EXPECT_NEAR(keskar(surface, 0.1).value,
              100 * 0.1 * (g.abs() * (w.detach().abs() + 1)).sum().item<double>() / (1 + loss), 1e-10);
  const auto before = w.detach().clone();
  EXPECT_NEAR(probe(surface, rho).value, rho * g.norm().item<double>(), 1e-12);
  EXPECT_TRUE(at::equal(w.detach(), before));
}

TEST(Measures, WorstCaseOfAConvexQuadraticFindsTheTopEigenvector) {
  const auto m = symmetric(12, 8);
  Quadratic q(at::mm(m, m.t()));
  const double top = eigenvalues(q.a).back();
  // At w = 0 the gradient is zero: the start at w stays there, a random one rises.
  EXPECT_EQ(worst_case(q.surface, {.rho = 0.5, .restarts = 1}).value, 0);
  const auto found = worst_case(q.surface, {.rho = 0.5, .n_iter = 200, .restarts = 3});
  EXPECT_LE(found.value, 0.5 * 0.25 * top * (1 + 1e-12));
  EXPECT_NEAR(found.value, 0.5 * 0.25 * top, 1e-4 * top);
  EXPECT_EQ(q.w.abs().sum().item<double>(), 0);
}

TEST(Measures, MoreAscentFindsMoreAndStaysInTheBall) {
  const Net net;
  const LossSurface surface(net.parameters, net.data);
  double before = 0;
  for (const double rho : {0.0, 0.05, 0.1, 0.2, 0.4}) {
    const auto m = worst_case(surface, {.rho = rho});
    EXPECT_GE(m.value, before);
    EXPECT_GE(m.value, m_sharpness(surface, rho).value - 1e-12);  // its first step reaches the same point
    before = m.value;
  }
  EXPECT_GE(worst_case(surface, {.rho = 0.2, .n_iter = 100, .restarts = 3}).value,
            worst_case(surface, {.rho = 0.2, .n_iter = 100}).value);
  // The points that the ascent visits are in the ball, and in it off-mask is nothing.
  const auto w = leaf(at::tensor({1., -2., 0.5}, at::kDouble));
  const auto origin = w.detach().clone();
  const auto mask = at::tensor({1, 0, 1}).to(at::kBool);
  double farthest = 0, outside = 0;
  const LossSurface masked({{"w", w}}, data_of([&](int64_t) {
                             const auto delta = (w - origin).detach();
                             farthest = std::max(farthest, (delta / origin).norm().item<double>());
                             outside = std::max(outside, std::abs(delta[1].item<double>()));
                             return (w * w).sum() + w.sum().sin();
                           }),
                           {mask});
  for (const bool linf : {false, true}) {
    farthest = 0;
    worst_case(masked, {.rho = 0.1, .linf = linf, .adaptive = true, .restarts = 2});
    EXPECT_LE(farthest, (linf ? 0.1 * std::sqrt(2.0) : 0.1) * (1 + 1e-9));
    EXPECT_GT(farthest, 0.099);
  }
  average_case(masked, 0.1, 4, false, 0);
  probe(masked, 0.1);
  EXPECT_EQ(outside, 0);
}

TEST(Measures, TheStepIsHalvedAtTheCheckpoints) {
  // On the ball's surface of a bowl |w - c|^2 the ascent overshoots unless steps shrink; the exact maximum is
  // known.
  const auto w = leaf(at::tensor({0.1, 0.}, at::kDouble));
  const LossSurface surface({{"w", w}}, data_of([&](int64_t) {
                              return (w * w * at::tensor({1., 30.}, at::kDouble)).sum();
                            }));
  // max over |d| <= 1 of (0.1 + d1)^2 + 30 d2^2: d = (t, sqrt(1 - t^2)), t = 0.1 / 29.
  const double t = 0.1 / 29, best = std::pow(0.1 + t, 2) + 30 * (1 - t * t) - 0.01;
  EXPECT_NEAR(worst_case(surface, {.rho = 1, .n_iter = 60, .restarts = 2}).value, best, 1e-6);
}

TEST(Measures, SmallStepsReachAMaximumInsideTheBall) {
  // Steps of 2 rho jump over it for ever; 8 halvings in 200 iterations leave steps of 0.008.
  const auto w = leaf(at::zeros({2}, at::kDouble));
  const auto top = at::tensor({0.3, -0.2}, at::kDouble), d = at::tensor({1., 30.}, at::kDouble);
  const LossSurface surface({{"w", w}}, data_of([&](int64_t) { return -((w - top).square() * d).sum(); }));
  const auto found = worst_case(surface, {.rho = 1, .n_iter = 200});
  EXPECT_LE(found.loss + found.value, 0);
  EXPECT_NEAR(found.loss + found.value, 0, 30 * 0.008 * 0.008);
}

TEST(Measures, AverageCaseOfAQuadraticIsHalfTheTrace) {
  Quadratic q(symmetric(20, 6) + at::eye(20, at::kDouble) * 4, at::full({20}, 0.5, at::kDouble));
  const double sigma = 0.1;
  const auto plain = average_case(q.surface, sigma, 2000, false, 0);
  EXPECT_LT(std::abs(plain.value - sigma * sigma / 2 * q.a.trace().item<double>()), 4 * plain.standard_error);
  const auto adaptive = average_case(q.surface, sigma, 2000, true, 0);
  EXPECT_LT(std::abs(adaptive.value - 0.25 * sigma * sigma / 2 * q.a.trace().item<double>()),
            4 * adaptive.standard_error);
  EXPECT_LT(adaptive.standard_error, plain.standard_error);
  EXPECT_TRUE(std::isnan(average_case(q.surface, sigma, 1, false, 0).standard_error));
  EXPECT_EQ(average_case(q.surface, sigma, 3, false, 7).value,
            average_case(q.surface, sigma, 3, false, 7).value);
  EXPECT_NE(average_case(q.surface, sigma, 3, false, 7).value,
            average_case(q.surface, sigma, 3, false, 8).value);
}

TEST(Measures, GradientVarianceOverBatches) {
  const LeastSquares ls;
  const LossSurface halves({{"w", ls.w}}, ls.halves());
  const auto d = halves.gradient(0) - halves.gradient(1);
  EXPECT_NEAR(gradient_variance(halves), (d.square() / 2).mean().item<double>(), 1e-14);  // of two: d^2 / 2
  const LossSurface masked({{"w", ls.w}}, ls.halves(), {at::tensor({0, 1}).to(at::kBool)});
  EXPECT_NEAR(gradient_variance(masked), (d[1].square() / 2).item<double>(), 1e-14);
  const LossSurface one({{"w", ls.w}}, ls.data());
  expect_contains(message_of<ArgumentError>([&] { gradient_variance(one); }), "one batch");
  EXPECT_NEAR(normalized_overfitting_gap(1.0, 0.8), 0.25, 1e-15);
  EXPECT_NEAR(normalized_overfitting_gap(0.7, 0.8), 0.125, 1e-15);
  expect_contains(message_of<ArgumentError>([] { normalized_overfitting_gap(0.7, 0); }), "0.7 and 0");
}

TEST(Measures, AnExceptionInTheMiddlePutsTheWeightsBack) {
  const Net net;
  int64_t calls = 0, limit = 0;
  const auto data = data_of(
      [&](int64_t b) {
        if (++calls > limit) throw ArgumentError("the user's closure failed");
        return net.data.loss(b);
      },
      {8, 4});
  LossSurface surface(net.parameters, data);
  const auto before = surface.weights();
  const std::vector<std::function<void()>> actions{
      [&] { one_step(surface, 0.1); },
      [&] { m_sharpness(surface, 0.1); },
      [&] { average_case(surface, 0.1, 5, false, 0); },
      [&] { worst_case(surface, {.rho = 0.1, .restarts = 2}); },
      [&] { keskar(surface, 0.01); },
      [&] { probe(surface, 0.1); },
      [&] { top_eigenvalues(surface, {.product = {.differences = true}}); }};
  for (std::size_t i = 0; i < actions.size(); ++i)
    for (limit = 0; limit < 4; ++limit) {
      calls = 0;
      expect_contains(message_of<ArgumentError>(actions[i]), "closure failed");
      EXPECT_TRUE(at::equal(surface.weights(), before)) << i << " at call " << limit;
    }
}

TEST(Measures, BadInput) {
  const Net net;
  const LossSurface surface(net.parameters, net.data);
  const auto error = [](const std::function<void()>& action) { return message_of<ArgumentError>(action); };
  expect_contains(error([&] { one_step(surface, -1); }), "rho is -1");
  expect_contains(error([&] { m_sharpness(surface, NAN); }), "rho is nan");
  expect_contains(error([&] { average_case(surface, -1, 3, false, 0); }), "sigma is -1");
  expect_contains(error([&] { average_case(surface, 1, 0, false, 0); }), "draws is 0");
  expect_contains(error([&] { worst_case(surface, {.n_iter = 0}); }), "n_iter is 0");
  expect_contains(error([&] { worst_case(surface, {.restarts = 0}); }), "restarts is 0");
  expect_contains(error([&] { keskar(surface, -1e-3); }), "epsilon is -0.001");
  expect_contains(error([&] { probe(surface, 0.1, -1); }), "draws is -1");
}

// ---- networks of the library

TEST(Network, ConvolutionAndNormalisationInEvaluationMode) {
  nn::ModelOptions options;
  options.num_classes = 3;
  options.input_shape = {3, 8, 8};
  options.width = 0.25;
  nn::Model model(nn::build_graph("resnet20", options), RngStream(0, "test/init"));
  model.to(at::kDouble);
  torch::manual_seed(1);
  const auto x = at::randn({6, 3, 8, 8}, at::kDouble), y = at::arange(6) % 3;
  for (int i = 0; i < 3; ++i) model.forward(x);  // moves the running statistics
  model.train(false);
  NamedTensors statistics;
  for (const auto& b : model.buffers()) statistics.push_back({b.name, b.tensor.clone()});
  LossSurface surface(model.parameters(),
                      data_of([&](int64_t) { return at::cross_entropy_loss(model.forward(x), y); }, {6}), {},
                      model.buffers());
  const auto v = surface.random(0, "test", 0, ops::Distribution::normal);
  // Differences with a reach of 1e-5: ReLU's kinks are not met, third derivatives do not count.
  EXPECT_LT(relative(surface.product(v, {.differences = true, .step = 1e-5}), surface.product(v)), 1e-5);
  const auto top = top_eigenvalues(surface);
  EXPECT_TRUE(top.converged[0]);
  EXPECT_GT(top.values[0], 0);
  // In training mode the statistics would move; they are put back.
  model.train(true);
  one_step(surface, 0.1);
  surface.product(v);
  for (const auto& b : model.buffers()) EXPECT_TRUE(at::equal(b.tensor, get(statistics, b.name))) << b.name;
}

}  // namespace
}  // namespace glyptic::sharpness
