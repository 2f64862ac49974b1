#include <gtest/gtest.h>
#include <torch/torch.h>

#include "cases.h"
#include "glyptic/core/philox.h"

namespace glyptic::ops {
namespace {

constexpr Score kScores[] = {Score::magnitude, Score::mest, Score::taylor, Score::random, Score::raw};

/// Few distinct values, so that most choices are ties.
TensorList tied_weights(at::ScalarType type) {
  auto list = some_weights(type);
  for (auto& t : list) t.copy_(torch::randint(-2, 3, t.sizes()).to(type) * 0.5);
  return list;
}

// The composite sorts; the kernels select. tests/kernels has the same against loops.
TEST(TopKMasks, EqualsTheComposite) {
  torch::manual_seed(1);
  for (int trial = 0; trial < 120; ++trial) {
    const auto type = trial % 6 == 5 ? at::kBFloat16 : at::kFloat;
    const auto a = trial % 2 ? tied_weights(type) : some_weights(type);
    const auto b = values_like(a);
    TopKArgs args;
    args.score = kScores[trial % 5];
    args.merge_excluded = trial % 2;
    args.lambda = 0.3, args.seed = 99, args.stream = static_cast<uint64_t>(trial);
    const auto candidates = trial % 3 ? masks_like(a, 0.5) : TensorList{};
    const auto exclude = trial % 4 ? masks_like(a, 0.3) : TensorList{};
    const bool global = trial % 7 < 3;
    std::vector<int64_t> k;
    int64_t total = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      auto eligible = torch::ones(a[i].sizes(), at::kBool);
      if (!candidates.empty()) eligible = eligible.logical_and(candidates[i]);
      if (!exclude.empty()) eligible = eligible.logical_and(exclude[i].logical_not());
      const auto n = eligible.sum().item<int64_t>();
      total += n;
      k.push_back(trial % 5 == 0 ? n : trial % 5 == 1 ? 0 : n / 3);
    }
    if (global) k = {trial % 5 == 0 ? total : trial % 5 == 1 ? 0 : total / 3};
    const auto expected = reference::topk_masks(a, b, candidates, exclude, k, global, args);
    for (const int n : {1, trial % 20 ? 2 : 5}) {
      const Threads threads(n);
      const auto masks = topk_masks(a, b, candidates, exclude, k, global, args);
      ASSERT_TRUE(same_bits(masks, expected)) << "trial " << trial;
      for (std::size_t i = 0; i < a.size(); ++i)
        if (a[i].is_non_overlapping_and_dense()) ASSERT_EQ(masks[i].strides(), a[i].strides());
    }
  }
}

TEST(TopKMasks, TiesGoToTheLowerIndexOfTheShapeInAnyLayout) {
  const auto plain = torch::ones({2, 3, 2, 2}), last = plain.contiguous(at::MemoryFormat::ChannelsLast);
  auto first_five = torch::zeros({24}, at::kBool);
  first_five.slice(0, 0, 5).fill_(true);
  for (const auto& t : {plain, last})
    EXPECT_TRUE(at::equal(topk_masks({t}, {}, {}, {}, {5}, false, {})[0].contiguous().view(-1), first_five));
}

TEST(TopKMasks, GlobalTiesGoToTheEarlierTensor) {
  const auto masks =
      topk_masks({torch::tensor({1.f, 3.f, 1.f}), torch::tensor({1.f, 2.f})}, {}, {}, {}, {4}, true, {});
  EXPECT_TRUE(at::equal(masks[0], torch::tensor({true, true, true})));
  EXPECT_TRUE(at::equal(masks[1], torch::tensor({false, true})));
}

TEST(TopKMasks, AScoreOfZeroStaysSelectable) {
  const auto masks = topk_masks({torch::tensor({0.f, 5.f, -0.f, 0.f})}, {},
                                {torch::tensor({true, false, true, true})}, {}, {2}, false, {});
  EXPECT_TRUE(at::equal(masks[0], torch::tensor({true, false, true, false})));
}

TEST(TopKMasks, TaylorScoresDoNotUnderflow) {
  TopKArgs args;
  args.score = Score::taylor;
  const auto masks = topk_masks({torch::tensor({1e-15f, 2e-15f, 3e-15f})}, {torch::full({3}, 1e-15f)}, {}, {},
                                {1}, false, args);
  EXPECT_TRUE(at::equal(masks[0], torch::tensor({false, false, true})));
}

TEST(TopKMasks, RandomChoiceIsUniformAndSeeded) {
  TopKArgs args;
  args.score = Score::random, args.seed = 3;
  auto counts = torch::zeros({10});
  for (uint64_t trial = 0; trial < 4000; ++trial) {
    args.stream = 100 * trial;
    const auto mask = topk_masks({torch::zeros({10})}, {}, {}, {}, {3}, false, args)[0];
    ASSERT_EQ(mask.sum().item<int64_t>(), 3);
    counts += mask.to(at::kFloat);
  }
  // Binomial(4000, 0.3): standard deviation 29; five of them.
  EXPECT_LT((counts - 1200).abs().max().item<float>(), 145);
  const auto two =
      topk_masks({torch::zeros({1000}), torch::zeros({1000})}, {}, {}, {}, {300, 300}, false, args);
  EXPECT_FALSE(at::equal(two[0], two[1]));  // each tensor has its own stream
  std::vector<std::pair<uint32_t, int64_t>> words;
  for (int64_t i = 0; i < 1000; ++i)
    words.emplace_back(philox_u32(args.seed, args.stream + 1, static_cast<uint64_t>(i)), -i);
  std::sort(words.rbegin(), words.rend());
  for (std::size_t i = 0; i < words.size(); ++i) EXPECT_EQ(two[1][-words[i].second].item<bool>(), i < 300);
}

TEST(TopKMasks, NoTensorsAndNoElements) {
  EXPECT_TRUE(topk_masks({}, {}, {}, {}, {}, false, {}).empty());
  EXPECT_EQ(topk_masks({torch::empty({0, 3})}, {}, {}, {}, {0}, false, {})[0].sizes(),
            (std::vector<int64_t>{0, 3}));
}

TEST(TopKMasks, RefusesByName) {
  const auto good = torch::ones({4});
  for (const bool global : {false, true})
    for (const auto type : {at::kFloat, at::kDouble}) {
      const auto ok = good.to(type), bad = torch::tensor({1.f, NAN, 2.f, INFINITY}).to(type);
      const std::vector<int64_t> k = global ? std::vector<int64_t>{1} : std::vector<int64_t>{1, 1};
      EXPECT_EQ(
          refusal([&] {
            topk_masks({ok, bad}, {}, {}, {}, k, global, {});
          }),
          "topk_masks: 2 of the candidates' scores in tensor 1 of the list are NaN or Inf; the weights or "
          "gradients have diverged");
      const std::vector<int64_t> many = global ? std::vector<int64_t>{9} : std::vector<int64_t>{1, 5};
      EXPECT_EQ(refusal([&] {
                  topk_masks({ok, ok}, {}, {}, {}, many, global, {});
                }),
                global ? "topk_masks: k is 9, but the tensors have only 8 candidates together"
                       : "topk_masks: k[1] is 5, but tensor 1 has only 4 candidates");
    }
  // Outside the candidates anything goes.
  topk_masks({torch::tensor({1.f, NAN})}, {}, {}, {torch::tensor({false, true})}, {1}, false, {});
  EXPECT_EQ(refusal([&] {
              topk_masks({good}, {}, {}, {}, {1, 2}, false, {});
            }),
            "topk_masks: k has 2 entries, expected 1, one per tensor of a");
  EXPECT_EQ(refusal([&] { topk_masks({good}, {}, {}, {}, {-1}, false, {}); }),
            "topk_masks: k[0] is -1, expected 0 or more");
  TopKArgs args;
  args.score = Score::mest;
  EXPECT_EQ(refusal([&] { topk_masks({good}, {}, {}, {}, {1}, false, args); }),
            "topk_masks: b has 0 tensors, but a has 1; expected one each");
  EXPECT_EQ(refusal([&] { topk_masks({torch::ones({4}, at::kLong)}, {}, {}, {}, {1}, false, {}); }),
            "topk_masks: a[0] is int64, expected a floating-point type");
}

}  // namespace
}  // namespace glyptic::ops
