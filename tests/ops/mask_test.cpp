#include <gtest/gtest.h>
#include <torch/torch.h>

#include "cases.h"

namespace glyptic::ops {
namespace {

constexpr at::ScalarType kTypes[] = {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf,
                                     at::kInt,   at::kLong,   at::kByte};

TEST(MaskApply, ClearsWhatIsNotKeptEvenNaN) {
  auto t = torch::tensor({1.0f, NAN, INFINITY, -2.0f, -INFINITY});
  mask_apply_({t}, {torch::tensor({true, false, false, false, false})});
  EXPECT_TRUE(same_bits(t, torch::tensor({1.0f, 0.0f, 0.0f, 0.0f, 0.0f})));
}

TEST(MaskApply, EqualsTheCompositeForAllTypes) {
  torch::manual_seed(1);
  for (const auto type : kTypes) {
    auto tensors = some_weights(type);
    tensors.push_back(torch::randn({5, 5}, at::kComplexDouble));
    const auto masks = masks_like(tensors, 0.5);
    auto expected = clones(tensors);
    reference::mask_apply_(expected, masks);
    mask_apply_(tensors, masks);
    ASSERT_TRUE(same_bits(tensors, expected)) << type;
  }
}

TEST(MaskUpdate, EqualsTheDefinition) {
  torch::manual_seed(2);
  for (int trial = 0; trial < 20; ++trial) {
    auto w = some_weights();
    const double before = trial % 3 == 0 ? 1 : 0.4, after = trial % 4 == 0 ? 0 : 0.5;
    auto masks = masks_like(w, before);
    const auto next = masks_like(w, after), old = clones(masks);
    std::vector<TensorList> states(w.size());
    for (std::size_t i = 0; i < w.size(); ++i) {
      states[i] = values_like(TensorList(i % 3, w[i]));
      if (i % 2) states[i].push_back(at::randint_like(w[i], 0, 9).to(at::kInt));
    }
    auto expected_w = clones(w);
    std::vector<TensorList> expected_states;
    for (const auto& s : states) expected_states.push_back(clones(s));
    const auto counts = mask_update_(w, masks, states, next);
    ASSERT_EQ(counts.sizes(), (std::vector<int64_t>{static_cast<int64_t>(w.size()), 3}));
    for (std::size_t i = 0; i < w.size(); ++i) {
      ASSERT_TRUE(same_bits(masks[i], next[i]));
      const auto check = [&](const at::Tensor& got, const at::Tensor& was) {
        const auto g = got.contiguous().view(-1), e = was.contiguous().view(-1);
        const auto o = old[i].contiguous().view(-1), n = next[i].contiguous().view(-1);
        int64_t dropped = 0, grown = 0, active = 0;
        for (int64_t j = 0; j < g.numel(); ++j) {
          const bool a = o[j].item<bool>(), b = n[j].item<bool>();
          dropped += a && !b, grown += b && !a, active += b;
          const double want = a && b ? e[j].item<double>() : 0;
          if (g[j].item<double>() != want) return false;
        }
        return counts[static_cast<int64_t>(i)].equal(torch::tensor({dropped, grown, active}));
      };
      if (w[i].numel() > 1000) continue;  // the loops above are slow; the next test covers large tensors
      ASSERT_TRUE(check(w[i], expected_w[i])) << i;
      for (std::size_t s = 0; s < states[i].size(); ++s)
        ASSERT_TRUE(check(states[i][s], expected_states[i][s])) << i;
    }
  }
}

TEST(MaskUpdate, EqualsTheCompositeForAllTypesAndThreads) {
  torch::manual_seed(3);
  for (const auto type : kTypes)
    for (const int n : {1, 2, 5}) {
      const Threads threads(n);
      auto w = some_weights(type), masks = masks_like(w, 0.5);
      const auto next = masks_like(w, 0.5);
      std::vector<TensorList> states;
      for (const auto& t : w) states.push_back({t.clone(), t.clone().to(at::kDouble)});
      auto ew = clones(w), em = clones(masks);
      std::vector<TensorList> es;
      for (const auto& s : states) es.push_back(clones(s));
      const auto expected = reference::mask_update_(ew, em, es, next);
      const auto counts = mask_update_(w, masks, states, next);
      ASSERT_TRUE(at::equal(counts, expected));
      ASSERT_TRUE(same_bits(w, ew));
      ASSERT_TRUE(same_bits(masks, em));
      for (std::size_t i = 0; i < states.size(); ++i) ASSERT_TRUE(same_bits(states[i], es[i]));
    }
}

TEST(MaskUpdate, SameMaskChangesNothing) {
  auto w = torch::randn({100}), mask = torch::ones({100}, at::kBool);
  const auto before = w.clone();
  const auto counts = mask_update_({w}, {mask}, {}, {mask});
  EXPECT_TRUE(at::equal(counts, torch::tensor({{0, 0, 100}}, at::kLong)));
  EXPECT_TRUE(same_bits(w, before));
}

// Appendix B of the method's description: f = 0.4, five active of ten.
TEST(MaskUpdate, OneRigLEventByHand) {
  auto w = torch::tensor({.9f, -.05f, .4f, .3f, -.2f, 0.f, 0.f, 0.f, 0.f, 0.f});
  auto mask = torch::zeros({10}, at::kBool);
  mask.slice(0, 0, 5).fill_(true);
  const auto g = torch::tensor({.1f, .8f, .2f, 0.f, .05f, -.7f, .9f, .1f, 0.f, -.3f});
  auto v = torch::tensor({1.f, 2.f, 3.f, 4.f, 5.f, 0.f, 0.f, 0.f, 0.f, 0.f});
  const auto keep = topk_masks({w}, {}, {mask}, {}, {3}, false, {});
  EXPECT_TRUE(at::equal(keep[0].nonzero().view(-1), torch::tensor({0, 2, 3})));
  const auto grow = topk_masks({g}, {}, {}, keep, {2}, false, {});
  EXPECT_TRUE(at::equal(grow[0].nonzero().view(-1), torch::tensor({1, 6})));
  TopKArgs merge;
  merge.merge_excluded = true;
  const auto next = topk_masks({g}, {}, {}, keep, {2}, false, merge);
  EXPECT_TRUE(at::equal(next[0], keep[0].logical_or(grow[0])));
  const auto counts = mask_update_({w}, {mask}, {{v}}, next);
  EXPECT_TRUE(at::equal(mask.nonzero().view(-1), torch::tensor({0, 1, 2, 3, 6})));
  EXPECT_TRUE(same_bits(w, torch::tensor({.9f, -.05f, .4f, .3f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f})));
  EXPECT_TRUE(same_bits(v, torch::tensor({1.f, 2.f, 3.f, 4.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f})));
  EXPECT_TRUE(at::equal(counts, torch::tensor({{1, 1, 5}}, at::kLong)));
}

TEST(Masks, RefuseByName) {
  const auto a = torch::ones({4, 4});
  const auto mask = torch::ones({4, 4}, at::kBool);
  EXPECT_EQ(refusal([&] { mask_apply_({a}, {}); }),
            "mask_apply_: masks has 0 tensors, but tensors has 1; expected one each");
  EXPECT_EQ(refusal([&] {
              mask_update_({a}, {mask}, {{a, torch::ones({4})}}, {mask});
            }),
            "mask_update_: states[0][1] has shape [4], but weights[0] has [4, 4]");
  EXPECT_EQ(
      refusal([&] {
        mask_update_({a}, {mask}, {{}, {}}, {mask});
      }),
      "mask_update_: states has 2 lists, but weights has 1 tensors; expected one list each, or none at all");
  EXPECT_EQ(refusal([&] { mask_update_({a}, {mask}, {}, {mask.to(at::kByte)}); }),
            "mask_update_: new_masks[0] is uint8, expected bool");
}

}  // namespace
}  // namespace glyptic::ops
