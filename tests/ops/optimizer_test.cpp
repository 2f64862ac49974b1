#include <gtest/gtest.h>
#include <torch/torch.h>

#include "cases.h"

namespace glyptic::ops {
namespace {

SgdArgs sgd_args(int options) {
  SgdArgs args;
  args.lr = 0.05;
  args.momentum = options & 1 ? 0.9 : 0;
  args.dampening = options & 2 ? 0.1 : 0;
  args.weight_decay = options & 4 ? 5e-4 : 0;
  args.nesterov = (options & 1) && (options & 8);
  args.maximize = options & 16;
  args.first_step = options & 32;
  return args;
}

TEST(MaskedSgd, EqualsTheCompositeBitForBit) {
  torch::manual_seed(1);
  for (int options = 0; options < 64; ++options)
    for (const bool masked : {true, false}) {
      const auto args = sgd_args(options);
      auto w = some_weights();
      const auto g = values_like(w), g_before = clones(g);
      auto v = args.momentum != 0 ? values_like(w) : TensorList{};
      const auto masks = masked ? masks_like(w, 0.4) : TensorList{};
      auto expected_w = clones(w), expected_v = clones(v);
      reference::masked_sgd_(expected_w, g, expected_v, masks, args);
      masked_sgd_(w, g, v, masks, args);
      ASSERT_TRUE(same_bits(w, expected_w)) << options;
      ASSERT_TRUE(same_bits(v, expected_v)) << options;
      ASSERT_TRUE(same_bits(g, g_before));
      for (std::size_t i = 0; i < masks.size(); ++i)
        ASSERT_TRUE(same_bits(w[i], at::where(masks[i], w[i], at::zeros({}))));  // +0 where pruned
    }
}

TEST(MaskedSgd, OneStepByHand) {
  // g' = 0.5 + 0.1 * 2 = 0.7; v = 0.9 * 1 + 0.5 * 0.7 = 1.25; d = 0.7 + 0.9 * 1.25 = 1.825; w = 2 - 0.1
  // * 1.825.
  auto w = torch::full({2}, 2.0, at::kDouble), v = torch::ones({2}, at::kDouble);
  SgdArgs args;
  args.lr = 0.1, args.momentum = 0.9, args.dampening = 0.5, args.weight_decay = 0.1, args.nesterov = true;
  for (const auto type : {at::kDouble, at::kFloat}) {
    auto wt = w.to(type).clone(), vt = v.to(type).clone();
    masked_sgd_({wt}, {torch::full({2}, 0.5, type)}, {vt}, {torch::tensor({true, false})}, args);
    // A few roundings of float32 at magnitude 2.
    EXPECT_NEAR(wt[0].item<double>(), 1.8175, 1e-6);
    EXPECT_NEAR(vt[0].item<double>(), 1.25, 1e-6);
    EXPECT_EQ(wt[1].item<double>(), 0);
    EXPECT_EQ(vt[1].item<double>(), 0);
  }
}

TEST(MaskedSgd, FollowsTorchOnTheWholeTrajectory) {
  torch::manual_seed(2);
  for (const bool nesterov : {false, true}) {
    auto theirs = torch::randn({50, 40}, at::kDouble).requires_grad_(), ours = theirs.detach().clone();
    auto velocity = at::zeros_like(ours);
    torch::optim::SGD optimizer(
        {theirs}, torch::optim::SGDOptions(0.1).momentum(0.9).weight_decay(1e-3).nesterov(nesterov));
    for (int step = 0; step < 20; ++step) {
      const auto g = torch::randn({50, 40}, at::kDouble);
      theirs.mutable_grad() = g;
      optimizer.step();
      SgdArgs args;
      args.lr = 0.1, args.momentum = 0.9, args.weight_decay = 1e-3, args.nesterov = nesterov;
      args.first_step = step == 0;
      masked_sgd_({ours}, {g}, {velocity}, {}, args);
      // Contraction in ATen's kernels differs by roundings of float64.
      ASSERT_LT((ours - theirs).abs().max().item<double>(), 1e-12);
    }
  }
}

TEST(MaskedSgd, FirstStepDoesNotReadTheVelocity) {
  auto w = torch::ones({3}), v = torch::full({3}, NAN);
  SgdArgs args;
  args.momentum = 0.9, args.first_step = true, args.lr = 0.5;
  masked_sgd_({w}, {torch::ones({3})}, {v}, {}, args);
  EXPECT_TRUE(at::equal(w, torch::full({3}, 0.5)));
  EXPECT_TRUE(at::equal(v, torch::ones({3})));
}

AdamArgs adam_args(int options) {
  AdamArgs args;
  args.lr = 1e-2;
  args.weight_decay = options & 1 ? 1e-2 : 0;
  args.decoupled = options & 2;
  args.maximize = options & 4;
  args.step = options & 8 ? 1000 : 1;
  return args;
}

TEST(MaskedAdamW, EqualsTheCompositeBitForBit) {
  torch::manual_seed(3);
  for (int options = 0; options < 16; ++options)
    for (const bool masked : {true, false})
      for (const bool counted : {true, false}) {
        const auto args = adam_args(options);
        auto w = some_weights();
        const auto g = values_like(w);
        auto m = values_like(w), v = values_like(w);
        for (auto& t : v) t.copy_(t.square());
        TensorList steps;
        if (counted)
          for (const auto& t : w) steps.push_back(at::randint_like(t, 0, 30).to(at::kInt));
        const auto masks = masked ? masks_like(w, 0.4) : TensorList{};
        auto ew = clones(w), em = clones(m), ev = clones(v), es = clones(steps);
        reference::masked_adamw_(ew, g, em, ev, masks, es, args);
        masked_adamw_(w, g, m, v, masks, steps, args);
        ASSERT_TRUE(same_bits(w, ew)) << options;
        ASSERT_TRUE(same_bits(m, em)) << options;
        ASSERT_TRUE(same_bits(v, ev)) << options;
        ASSERT_TRUE(same_bits(steps, es)) << options;
      }
}

TEST(MaskedAdamW, FollowsTorchOnTheWholeTrajectory) {
  torch::manual_seed(4);
  auto theirs = torch::randn({50, 40}, at::kDouble).requires_grad_(), ours = theirs.detach().clone();
  auto m = at::zeros_like(ours), v = at::zeros_like(ours);
  torch::optim::AdamW optimizer({theirs}, torch::optim::AdamWOptions(1e-2).weight_decay(1e-2));
  for (int step = 1; step <= 20; ++step) {
    const auto g = torch::randn({50, 40}, at::kDouble);
    theirs.mutable_grad() = g;
    optimizer.step();
    AdamArgs args;
    args.lr = 1e-2, args.step = step;
    masked_adamw_({ours}, {g}, {m}, {v}, {}, {}, args);
    // Roundings of float64, amplified by 1 / sqrt(v) at the first steps.
    ASSERT_LT((ours - theirs).abs().max().item<double>(), 1e-11);
  }
}

TEST(MaskedAdamW, CountersThatAgreeEqualOneStepCount) {
  torch::manual_seed(5);
  auto w = torch::randn({1000}), g = torch::randn({1000}), m = torch::randn({1000}), v = torch::rand({1000});
  auto w2 = w.clone(), m2 = m.clone(), v2 = v.clone(), steps = torch::full({1000}, 6, at::kInt);
  AdamArgs args;
  args.step = 7;
  masked_adamw_({w}, {g}, {m}, {v}, {}, {}, args);
  masked_adamw_({w2}, {g}, {m2}, {v2}, {}, {steps}, args);
  EXPECT_TRUE(same_bits(w, w2));
  EXPECT_TRUE(at::equal(steps, torch::full({1000}, 7, at::kInt)));
}

// The first move of a grown weight (zero state) under a tensor-wide count: lr (1-b1) / sqrt(1-b2) in the
// limit of large t, 2.515 lr at t = 1000; a counter of its own makes it lr.
TEST(MaskedAdamW, FirstMoveOfAGrownWeight) {
  AdamArgs args;
  args.lr = 1, args.weight_decay = 0, args.eps = 0;
  const auto move = [&](int64_t t, bool counted) {
    auto w = torch::zeros({1}), m = torch::zeros({1}), v = torch::zeros({1}),
         steps = torch::zeros({1}, at::kInt);
    args.step = t;
    masked_adamw_({w}, {torch::ones({1})}, {m}, {v}, {}, counted ? TensorList{steps} : TensorList{}, args);
    return -w.item<double>();
  };
  EXPECT_NEAR(move(1000000, false), 3.162, 1e-3);  // quoted to three decimals
  EXPECT_NEAR(move(1000, false), 2.515, 1e-3);
  EXPECT_NEAR(move(1000, true), 1, 1e-5);  // roundings of float32, and of 1 - beta
}

TEST(MaskedAdamW, BetasBeyondTheTableTakeTheComposite) {
  auto w = torch::ones({4}), m = torch::zeros({4}), v = torch::zeros({4}),
       steps = torch::zeros({4}, at::kInt);
  AdamArgs args;
  args.beta2 = 0.9999999, args.weight_decay = 0, args.lr = 0.5;
  masked_adamw_({w}, {torch::ones({4})}, {m}, {v}, {}, {steps}, args);
  // 1 - beta2 has seven digits left in float32.
  EXPECT_NEAR(w[0].item<double>(), 0.5, 1e-2);
}

// Of every layout and type, also those that the composite serves and that need not use the promise.
TEST(Optimizers, PromiseOfZerosOffMaskChangesNoBit) {
  torch::manual_seed(8);
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16})
    for (const double density : {0.02, 0.1, 0.6})
      for (const bool counted : {false, true}) {
        auto w = some_weights(type);
        w.push_back(values({257, 300}, type));           // several chunks
        w.push_back(values({70001}, type).slice(0, 1));  // not aligned to a cache line
        const auto g = values_like(w), masks = masks_like(w, density);
        auto v = values_like(w), m = values_like(w), s = values_like(w);
        for (auto& t : s) t.copy_(t.square());
        TensorList steps;
        if (counted)
          for (const auto& t : w) steps.push_back(at::randint_like(t, 0, 30).to(at::kInt));
        for (const auto* list : {&w, &v, &m, &s, &steps})
          if (!list->empty()) mask_apply_(*list, masks);
        auto ew = clones(w), ev = clones(v), em = clones(m), es = clones(s), esteps = clones(steps);
        for (const bool promised : {false, true}) {
          SgdArgs sgd;
          sgd.momentum = 0.9, sgd.weight_decay = 1e-3, sgd.off_mask_is_zero = promised;
          AdamArgs adam;
          adam.off_mask_is_zero = promised;
          masked_sgd_(promised ? w : ew, g, promised ? v : ev, masks, sgd);
          masked_adamw_(promised ? w : ew, g, promised ? m : em, promised ? s : es, masks,
                        promised ? steps : esteps, adam);
        }
        ASSERT_TRUE(same_bits(w, ew) && same_bits(v, ev) && same_bits(m, em) && same_bits(s, es) &&
                    same_bits(steps, esteps))
            << type << " density " << density;
      }
}

TEST(Optimizers, ServeEveryFloatingType) {
  torch::manual_seed(6);
  for (const auto type : {at::kDouble, at::kBFloat16, at::kHalf}) {
    auto w = some_weights(type);
    const auto g = values_like(w), masks = masks_like(w, 0.5);
    auto v = values_like(w), m = values_like(w), s = values_like(w);
    for (auto& t : s) t.copy_(t.square());
    SgdArgs args;
    args.momentum = 0.9;
    masked_sgd_(w, g, v, masks, args);
    masked_adamw_(w, g, m, s, masks, {}, {});
    for (std::size_t i = 0; i < w.size(); ++i)
      for (const auto& t : {w[i], v[i], m[i], s[i]})
        ASSERT_TRUE(t.masked_select(masks[i].logical_not()).eq(0).all().item<bool>());
  }
}

TEST(Optimizers, ThreadsDoNotChangeBits) {
  torch::manual_seed(7);
  const auto w0 = torch::randn({300, 1000}), g = torch::randn({300, 1000}),
             mask = torch::rand({300, 1000}) < 0.1;
  TensorList reference;
  for (int n = 1; n <= 5; ++n) {
    const Threads threads(n);
    auto w = w0.clone(), v = torch::ones_like(w), m = torch::ones_like(w), s = torch::ones_like(w);
    SgdArgs args;
    args.momentum = 0.9, args.weight_decay = 1e-4;
    masked_sgd_({w}, {g}, {v}, {mask}, args);
    masked_adamw_({w}, {g}, {m}, {s}, {mask}, {}, {});
    if (reference.empty()) reference = {w, v, m, s};
    ASSERT_TRUE(same_bits({w, v, m, s}, reference));
  }
}

TEST(Optimizers, WriteToLeavesAndTellAutograd) {
  auto w = torch::ones({3}).requires_grad_(), other = torch::ones({3}).requires_grad_();
  const auto before = w._version();
  auto loss = (w * other).sum();
  masked_sgd_({w}, {torch::ones({3})}, {}, {torch::tensor({true, false, true})}, {});
  EXPECT_EQ(w._version(), before + 1);
  EXPECT_TRUE(w.is_leaf() && w.requires_grad());
  EXPECT_ANY_THROW(loss.backward());  // the product needs the old w
}

TEST(Optimizers, RefuseByName) {
  const auto a = torch::ones({4, 4}), b = torch::ones({4, 3});
  const auto bools = [](at::IntArrayRef shape) { return torch::ones(shape, at::kBool); };
  EXPECT_EQ(refusal([&] {
              masked_sgd_({a, b}, {a, b}, {}, {bools({4, 4}), bools({3, 4})}, {});
            }),
            "masked_sgd_: masks[1] has shape [3, 4], but weights[1] has [4, 3]");
  EXPECT_EQ(refusal([&] {
              masked_sgd_({a}, {a, b}, {}, {}, {});
            }),
            "masked_sgd_: grads has 2 tensors, but weights has 1; expected one each");
  EXPECT_EQ(refusal([&] { masked_sgd_({a}, {a.to(at::kDouble)}, {}, {}, {}); }),
            "masked_sgd_: grads[0] is float64, but weights[0] is float32");
  EXPECT_EQ(refusal([&] { masked_sgd_({a}, {a}, {}, {a}, {}); }),
            "masked_sgd_: masks[0] is float32, expected bool");
  EXPECT_EQ(refusal([&] { masked_sgd_({a}, {at::Tensor()}, {}, {}, {}); }),
            "masked_sgd_: grads[0] is undefined");
  EXPECT_EQ(refusal([&] {
              masked_sgd_({a}, {torch::ones({4, 4}, at::kMeta)}, {}, {}, {});
            }),
            "masked_sgd_: grads[0] is on meta, but weights[0] is on cpu");
  EXPECT_EQ(
      refusal([&] {
        masked_sgd_({a, a}, {b, b}, {}, {}, {});
      }),
      "masked_sgd_: weights[1] is the memory of an earlier tensor of the list; list a tied weight once");
  SgdArgs args;
  args.lr = NAN;
  EXPECT_EQ(refusal([&] { masked_sgd_({a}, {a.clone()}, {}, {}, args); }),
            "masked_sgd_: lr is nan, expected a finite number");
  args.lr = 1, args.momentum = 0.9;
  EXPECT_EQ(refusal([&] { masked_sgd_({a}, {a.clone()}, {}, {}, args); }),
            "masked_sgd_: momenta has 0 tensors, but weights has 1; expected one each");
  AdamArgs adam;
  adam.step = 0;
  EXPECT_EQ(refusal([&] { masked_adamw_({a}, {a.clone()}, {a.clone()}, {a.clone()}, {}, {}, adam); }),
            "masked_adamw_: step is 0, expected 1 for the first step, then 2, 3, ...");
  adam.step = 1, adam.beta2 = 1;
  EXPECT_EQ(refusal([&] { masked_adamw_({a}, {a.clone()}, {a.clone()}, {a.clone()}, {}, {}, adam); }),
            "masked_adamw_: beta2 is 1, expected 0 <= beta2 < 1");
  EXPECT_EQ(refusal([&] { masked_adamw_({a}, {a.clone()}, {a.clone()}, {a.clone()}, {}, {a.clone()}, {}); }),
            "masked_adamw_: weight_steps[0] is float32, expected int32");
  EXPECT_EQ(at::ones({4, 4}).equal(a), true);  // refused before anything was written
  masked_sgd_({}, {}, {}, {}, {});
}

}  // namespace
}  // namespace glyptic::ops
