// The operators of sharpness-aware steps against straight loops in float64 and the composite.
#include "glyptic/ops/perturb.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "cases.h"

namespace glyptic::ops {
namespace {

constexpr double kLengthRounding = 1e-13;  // float64 sums of up to 32,000 terms, in two orders

/// Masks for some entries, none for others.
TensorList some_masks(const TensorList& list, double density) {
  auto masks = masks_like(list, density);
  for (std::size_t i = 1; i < masks.size(); i += 3) masks[i] = at::Tensor();
  return masks;
}

at::Tensor kept(const at::Tensor& mask, const at::Tensor& x) {
  return mask.defined() ? at::where(mask, x, at::zeros({}, x.options())) : x;
}

void expect_sum(double got, double expected, double scale) {
  EXPECT_NEAR(got, expected, kLengthRounding * std::max(scale, 1e-30));
}

TEST(InnerProducts, EqualLoops) {
  torch::manual_seed(1);
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (const double density : {0.0, 0.3, 1.0}) {
      const auto a = some_weights(type), b = values_like(a), w = values_like(a);
      const auto masks = some_masks(a, density);
      TensorList metric = w;
      for (std::size_t i = 0; i < metric.size(); i += 2) metric[i] = at::Tensor();
      double aa = 0, ab = 0, bb = 0, taa = 0, size = 0;
      for (std::size_t i = 0; i < a.size(); ++i) {
        const auto x = kept(masks[i], a[i].to(at::kDouble)), y = kept(masks[i], b[i].to(at::kDouble));
        const auto t =
            metric[i].defined() ? metric[i].to(at::kDouble).abs() + 0.01 : at::ones({}, at::kDouble);
        aa += (x * x).sum().item<double>();
        ab += (x * y).sum().item<double>();
        bb += (y * y).sum().item<double>();
        taa += (t * x * t * x).sum().item<double>();
        size += (x * y).abs().sum().item<double>();
      }
      const auto all = inner_products(a, b, {}, masks);
      expect_sum(all[0].item<double>(), aa, aa);
      expect_sum(all[1].item<double>(), ab, size);
      expect_sum(all[2].item<double>(), bb, bb);
      const auto alone = inner_products(a, {}, {}, masks);
      EXPECT_EQ(alone[0].item<double>(), all[0].item<double>());
      EXPECT_EQ(alone[1].item<double>(), 0);
      expect_sum(inner_products(a, {}, metric, masks, 0.01)[0].item<double>(), taa, taa);
      const auto composite = reference::inner_products(a, b, {}, masks, 0);
      expect_sum(composite[0].item<double>(), aa, aa);
    }
  }
}

TEST(InnerProducts, DoNotDependOnThreads) {
  torch::manual_seed(2);
  const TensorList a{values({300, 700}), values({5}), values({70000})}, b = values_like(a);
  at::Tensor first;
  for (const int n : {1, 2, 5}) {
    const Threads threads(n);
    const auto sums = inner_products(a, b, a, {}, 0.5);
    if (!first.defined()) first = sums;
    EXPECT_TRUE(same_bits(sums, first));
  }
}

TEST(InnerProducts, DoNotOverflowWhereFloatWould) {
  const auto x = at::full({1000}, 1e30f);
  EXPECT_NEAR(inner_products({x}, {}, {}, {})[0].item<double>() / 1e63, 1.0,
              1e-6);  // 1e30 is no float32 exactly
}

TEST(Ascend, EqualsTheComposite) {
  torch::manual_seed(3);
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (int options = 0; options < 8; ++options) {
      auto w = some_weights(type);
      const auto before = clones(w), h = values_like(w);
      const auto masks = options & 1 ? some_masks(w, 0.4) : TensorList{};
      AscendArgs args;
      args.max_norm = options & 2;
      args.eta = 0.01;
      for (std::size_t i = 0; i < w.size(); ++i) args.rho.push_back(0.1 * static_cast<double>(i % 4));
      if (options & 4)
        for (std::size_t i = 0; i < w.size(); ++i) args.adaptive.push_back(i % 2 == 0);
      const auto norm = at::full({1}, 3.7, at::kDouble);
      auto expected = clones(w), backups = values_like(w), expected_backups = values_like(w);
      reference::ascend_(expected, expected_backups, h, norm, masks, args);
      ascend_(w, backups, h, norm, masks, args);
      for (std::size_t i = 0; i < w.size(); ++i) {
        EXPECT_TRUE(same_bits(backups[i], before[i]));
        // The factor rho / norm is rounded to float32 once here, and in float32 there.
        EXPECT_TRUE(at::allclose(w[i], expected[i], 1e-6, 1e-7)) << options << " tensor " << i;
        if (!masks.empty() && masks[i].defined())
          EXPECT_TRUE(same_bits(at::where(masks[i], before[i], w[i]), before[i]));
      }
    }
  }
}

TEST(Ascend, MovesNothingWithoutADirection) {
  for (const double norm :
       {0.0, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    for (const auto type : {at::kFloat, at::kDouble}) {
      auto w = some_weights(type);
      const auto before = clones(w);
      TensorList h = values_like(w), backups = values_like(w);
      for (const auto& t : h) t.fill_(std::numeric_limits<double>::quiet_NaN());
      AscendArgs args;
      args.rho = {0.5};
      ascend_(w, backups, h, at::full({1}, norm, at::kDouble), {}, args);
      EXPECT_TRUE(same_bits(w, before));
      EXPECT_TRUE(same_bits(backups, before));
    }
  }
}

TEST(EmaDirection, EqualsTheComposite) {
  torch::manual_seed(4);
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (const bool first : {true, false}) {
      auto g = some_weights(type), m = values_like(g);
      const auto masks = some_masks(g, 0.4);
      auto expected_g = clones(g), expected_m = clones(m);
      const auto expected = reference::ema_direction_(expected_g, expected_m, masks, 0.7, 0.9, first);
      const auto squares = ema_direction_(g, m, masks, 0.7, 0.9, first);
      // Float32: each h may differ in its last bit, so the squares do by 1e-7 of themselves.
      expect_sum(squares.item<double>(), expected.item<double>(),
                 expected.item<double>() * (type == at::kFloat ? 1e6 : 1));
      for (std::size_t i = 0; i < g.size(); ++i) {
        EXPECT_TRUE(at::allclose(g[i], expected_g[i], 1e-6, 1e-7));  // two roundings, each way
        EXPECT_TRUE(at::allclose(m[i], expected_m[i], 1e-6, 1e-7));
        if (masks[i].defined())
          EXPECT_EQ(m[i].masked_select(masks[i].logical_not()).abs().sum().item<double>(), 0);
      }
    }
  }
}

TEST(Combine, EqualsTheComposite) {
  torch::manual_seed(5);
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    auto a = some_weights(type);
    const auto b = values_like(a);
    auto expected = clones(a);
    const auto c = torch::tensor({1.25, -0.3}, at::kDouble);
    reference::combine_(expected, b, c);
    combine_(a, b, c);
    for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(at::allclose(a[i], expected[i], 1e-6, 1e-7));
  }
}

TEST(NoiseAscend, EqualsTheCompositeAndItsOwnSum) {
  torch::manual_seed(6);
  for (const auto distribution : {Distribution::normal, Distribution::rademacher}) {
    for (const std::size_t draws : {1, 3}) {
      TensorList origins;
      for (const auto& shape : some_shapes()) origins.push_back(values(shape));
      origins.push_back(values({30000}));
      const auto masks = some_masks(origins, 0.5);
      NoiseArgs args;
      args.seed = 9;
      args.distribution = distribution;
      for (std::size_t j = 0; j < draws; ++j) args.streams.push_back(100 + j);
      const auto c = torch::randn({static_cast<int64_t>(draws)}, at::kDouble);
      auto w = values_like(origins), expected = values_like(origins);
      const auto squares = noise_ascend_(w, origins, masks, c, args);
      const auto composite = reference::noise_ascend_(expected, origins, masks, c, args);
      EXPECT_NEAR(squares.item<double>(), composite.item<double>(), 1e-6 * composite.item<double>());
      double sum = 0;
      for (std::size_t i = 0; i < w.size(); ++i) {
        EXPECT_TRUE(at::allclose(w[i], expected[i], 1e-6, 1e-6)) << i;  // the order of draws' roundings
        if (masks[i].defined()) EXPECT_TRUE(same_bits(at::where(masks[i], origins[i], w[i]), origins[i]));
        sum += (w[i] - origins[i]).to(at::kDouble).square().sum().item<double>();
      }
      // w - origin is rounded where the weight is: 2^-24 of values up to 5.
      EXPECT_NEAR(squares.item<double>(), sum, 1e-5 * sum);
      EXPECT_TRUE(same_bits(noise_ascend_({}, origins, masks, c, args), squares));
      for (const int n : {1, 3}) {
        const Threads threads(n);
        auto again = values_like(origins);
        EXPECT_TRUE(same_bits(noise_ascend_(again, origins, masks, c, args), squares));
        EXPECT_TRUE(same_bits(again, w));
      }
    }
  }
}

TEST(NoiseAscend, CoefficientZeroLeavesWeights) {
  const TensorList origins{values({1000})};
  auto w = values_like(origins);
  NoiseArgs args;
  args.streams = {1};
  noise_ascend_(w, origins, {}, at::zeros({1}, at::kDouble), args);
  EXPECT_TRUE(at::equal(w[0], origins[0]));
}

TEST(RestoringSteps, StartFromTheOrigin) {
  torch::manual_seed(7);
  for (const auto type : {at::kFloat, at::kDouble}) {
    for (int options = 0; options < 16; ++options) {
      const bool masked = options & 1;
      auto w = some_weights(type);
      const auto masks = masked ? masks_like(w, 0.4) : TensorList{};
      const auto g = values_like(w);
      auto v = values_like(w), u = values_like(w);
      for (const auto& t : u) t.abs_();
      if (masked && (options & 8)) {  // the promise of zeros off-mask
        mask_apply_(w, masks);
        mask_apply_(v, masks);
        mask_apply_(u, masks);
      }
      const auto origins = clones(w);
      SgdArgs sgd;
      sgd.momentum = options & 2 ? 0.9 : 0;
      sgd.weight_decay = options & 4 ? 0.01 : 0;
      sgd.off_mask_is_zero = options & 8;
      auto expected = clones(origins), expected_v = clones(v);
      masked_sgd_(expected, g, expected_v, masks, sgd);
      auto moved = values_like(w), moved_v = clones(v);
      if (masked && (options & 8)) mask_apply_(moved, masks);
      masked_sgd_(moved, g, moved_v, masks, sgd, origins);
      EXPECT_TRUE(same_bits(moved, expected)) << options;
      EXPECT_TRUE(same_bits(moved_v, expected_v));

      AdamArgs adam;
      adam.weight_decay = options & 4 ? 0.01 : 0;
      adam.decoupled = options & 2;
      adam.off_mask_is_zero = options & 8;
      auto em = clones(v), ev = clones(u), gm = clones(v), gv = clones(u);
      expected = clones(origins);
      masked_adamw_(expected, g, em, ev, masks, {}, adam);
      moved = values_like(w);
      if (masked && (options & 8)) mask_apply_(moved, masks);
      masked_adamw_(moved, g, gm, gv, masks, {}, adam, origins);
      EXPECT_TRUE(same_bits(moved, expected)) << options;
      EXPECT_TRUE(same_bits(gm, em) && same_bits(gv, ev));
    }
  }
}

TEST(Perturbations, NameTheArgument) {
  const auto w = values({3}), h = values({3});
  const auto norm = at::ones({1}, at::kDouble);
  AscendArgs args;
  args.rho = {0.1};
  EXPECT_NE(
      refusal([&] { ascend_({w}, {values({4})}, {h}, norm, {}, args); }).find("backups[0] has shape [4]"),
      std::string::npos);
  EXPECT_NE(refusal([&] { ascend_({w}, {h}, {h}, at::ones({1}), {}, args); }).find("norm must be"),
            std::string::npos);
  EXPECT_NE(
      refusal([&] { ascend_({w}, {h}, {h}, norm, {h}, args); }).find("masks[0] is float32, expected bool"),
      std::string::npos);
  args.rho = {0.1, 0.2};
  EXPECT_NE(refusal([&] { ascend_({w}, {h}, {h}, norm, {}, args); }).find("rho has 2 entries for 1"),
            std::string::npos);
  EXPECT_NE(refusal([&] { combine_({w}, {h}, norm); }).find("coefficients must be"), std::string::npos);
  EXPECT_NE(refusal([&] { inner_products({w}, {h, h}, {}, {}); }).find("b has 2 tensors"), std::string::npos);
  NoiseArgs noise;
  EXPECT_NE(refusal([&] {
              noise_ascend_({}, {w}, {}, at::empty({0}, at::kDouble), noise);
            }).find("streams is empty"),
            std::string::npos);
  noise.streams = {1};
  noise.distribution = Distribution::uniform;
  EXPECT_NE(refusal([&] { noise_ascend_({}, {w}, {}, norm, noise); }).find("uniform"), std::string::npos);
}

}  // namespace
}  // namespace glyptic::ops
