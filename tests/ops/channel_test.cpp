#include <gtest/gtest.h>
#include <torch/torch.h>

#include "cases.h"

namespace glyptic::ops {
namespace {

/// Straight loops in float64.
std::vector<double> scores_by_loops(const at::Tensor& weight, const at::Tensor& mask, ChannelScore score) {
  const auto w = weight.contiguous().to(at::kDouble).view({weight.size(0), -1});
  const auto m = mask.contiguous().view({weight.size(0), -1});
  const int64_t cell = weight.dim() > 2 ? w.size(1) / weight.size(1) : 1;
  std::vector<double> result;
  for (int64_t r = 0; r < w.size(0); ++r) {
    const double* row = w[r].data_ptr<double>();
    const bool* keep = m[r].data_ptr<bool>();
    double sum = 0, kept_sum = 0, kept = 0, nonzero = 0, kernels = 0;
    for (int64_t i = 0; i < w.size(1); ++i) {
      sum += std::fabs(row[i]);
      kept += keep[i];
      kept_sum += keep[i] ? std::fabs(row[i]) : 0;
      nonzero += row[i] != 0;
    }
    for (int64_t k = 0; k < w.size(1); k += cell) {
      bool any = false;
      for (int64_t i = k; i < k + cell; ++i) any = any || row[i] != 0;
      kernels += any;
    }
    const auto n = static_cast<double>(w.size(1));
    if (score == ChannelScore::umm) result.push_back(sum / n);
    if (score == ChannelScore::masked_mean) result.push_back(kept > 0 ? kept_sum / kept : 0);
    if (score == ChannelScore::density) result.push_back(nonzero / n);
    if (score == ChannelScore::kernel_density) result.push_back(kernels / (n / static_cast<double>(cell)));
  }
  return result;
}

TEST(ChannelScores, EqualLoops) {
  torch::manual_seed(1);
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16})
    for (const auto score : {ChannelScore::umm, ChannelScore::masked_mean, ChannelScore::density,
                             ChannelScore::kernel_density}) {
      TensorList weights, masks;
      for (const auto& shape :
           std::vector<std::vector<int64_t>>{{8, 3, 3, 3}, {5, 700}, {64, 64, 1, 1}, {3, 2, 5}, {9}}) {
        auto w = values(shape, type);
        auto m = torch::rand(shape) < 0.3;
        m[0].fill_(false);
        w.mul_(m);
        weights.push_back(w);
        masks.push_back(m);
        if (shape.size() == 4) {
          weights.push_back(w.contiguous(at::MemoryFormat::ChannelsLast));
          masks.push_back(m.contiguous(at::MemoryFormat::ChannelsLast));
        }
      }
      const auto scores = channel_scores(weights, masks, score);
      const auto composite = reference::channel_scores(weights, masks, score);
      for (std::size_t i = 0; i < weights.size(); ++i) {
        const auto expected = scores_by_loops(weights[i], masks[i], score);
        ASSERT_EQ(scores[i].scalar_type(), at::kFloat);
        ASSERT_EQ(scores[i].numel(), weights[i].size(0));
        for (int64_t r = 0; r < scores[i].numel(); ++r) {
          // One rounding to float32 of a float64 sum.
          const double tolerance = 1.2e-7 * std::fabs(expected[static_cast<std::size_t>(r)]);
          ASSERT_NEAR(scores[i][r].item<double>(), expected[static_cast<std::size_t>(r)], tolerance)
              << i << " " << r;
          ASSERT_NEAR(composite[i][r].item<double>(), expected[static_cast<std::size_t>(r)], tolerance)
              << i << " " << r;
        }
      }
    }
}

TEST(ChannelScores, ByHand) {
  const auto w = torch::tensor({{1.f, -3.f, 0.f, 0.f}, {0.f, 0.f, 0.f, 0.f}});
  const auto mask = torch::tensor({{true, true, false, false}, {false, false, false, false}});
  EXPECT_TRUE(at::equal(channel_scores({w}, {}, ChannelScore::umm)[0], torch::tensor({1.f, 0.f})));
  EXPECT_TRUE(
      at::equal(channel_scores({w}, {mask}, ChannelScore::masked_mean)[0], torch::tensor({2.f, 0.f})));
  EXPECT_TRUE(at::equal(channel_scores({w}, {}, ChannelScore::masked_mean)[0], torch::tensor({1.f, 0.f})));
  EXPECT_TRUE(at::equal(channel_scores({w}, {}, ChannelScore::density)[0], torch::tensor({.5f, 0.f})));
  // A kernel whose weights cancel is not empty.
  const auto cancel = torch::tensor({1.f, -1.f, 0.f, 0.f}).view({1, 2, 2, 1});
  EXPECT_TRUE(at::equal(channel_scores({cancel}, {}, ChannelScore::kernel_density)[0], torch::tensor({.5f})));
  EXPECT_TRUE(at::equal(channel_scores({torch::empty({3, 0})}, {}, ChannelScore::umm)[0], torch::zeros({3})));
  EXPECT_EQ(channel_scores({torch::empty({0, 3})}, {}, ChannelScore::umm)[0].numel(), 0);
  EXPECT_EQ(refusal([] { channel_scores({torch::ones({})}, {}, ChannelScore::umm); }),
            "channel_scores: weights[0] is a scalar, expected one output row or more");
}

TEST(ChannelGather, EqualsLoopsForEveryType) {
  torch::manual_seed(2);
  for (const auto type :
       {at::kFloat, at::kDouble, at::kHalf, at::kBool, at::kLong, at::kComplexDouble, at::kByte})
    for (const auto& shape :
         std::vector<std::vector<int64_t>>{{6, 5, 3, 3}, {40, 30}, {8, 4, 1, 1}, {7, 3, 2}, {9}}) {
      const auto weight = (torch::randn(shape, at::kDouble) * 100).to(type);
      for (const bool with_rows : {true, false})
        for (const bool with_cols : {true, false}) {
          if (with_cols && shape.size() < 2) continue;
          const auto rows = with_rows ? torch::randint(shape[0], {5}, at::kLong) : at::Tensor();
          const auto cols = with_cols ? torch::randperm(shape[1], at::kLong).slice(0, 0, 2) : at::Tensor();
          const auto out = channel_gather(weight, rows, cols);
          const int64_t n_rows = with_rows ? 5 : shape[0];
          ASSERT_EQ(out.size(0), n_rows);
          for (int64_t r = 0; r < n_rows; ++r) {
            const auto from = weight[with_rows ? rows[r].item<int64_t>() : r];
            if (!with_cols) {
              ASSERT_TRUE(at::equal(out[r], from));
              continue;
            }
            for (int64_t c = 0; c < 2; ++c) ASSERT_TRUE(at::equal(out[r][c], from[cols[c].item<int64_t>()]));
          }
          ASSERT_TRUE(same_bits(out, reference::channel_gather(weight, rows, cols)));
        }
    }
}

TEST(ChannelGather, KeepsChannelsLastAndTakesAnyInput) {
  const auto weight = torch::randn({6, 5, 3, 3}), rows = torch::tensor({5, 0, 3}),
             cols = torch::tensor({4, 4});
  const auto expected = weight.index_select(0, rows).index_select(1, cols);
  const auto out = channel_gather(weight.contiguous(at::MemoryFormat::ChannelsLast), rows, cols);
  EXPECT_TRUE(at::equal(out, expected));
  EXPECT_TRUE(out.is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_TRUE(at::equal(channel_gather(weight.transpose(0, 1), cols, {}),
                        weight.transpose(0, 1).index_select(0, cols)));
  EXPECT_EQ(channel_gather(weight, torch::empty({0}, at::kLong), {}).sizes(),
            (std::vector<int64_t>{0, 5, 3, 3}));
  for (int n = 1; n <= 5; ++n) {
    const Threads threads(n);
    const auto big = torch::arange(1 << 18, at::kFloat).view({512, 512});
    const auto order = torch::randperm(512, at::kLong);
    EXPECT_TRUE(
        at::equal(channel_gather(big, order, order), big.index_select(0, order).index_select(1, order)));
  }
}

TEST(ChannelGather, RefusesByName) {
  const auto weight = torch::ones({3, 4});
  EXPECT_EQ(
      refusal([&] {
        channel_gather(weight, torch::tensor({0, 3}), {});
      }),
      "channel_gather: rows holds the index 3, but weight has shape [3, 4], so indices run from 0 to 2");
  EXPECT_EQ(
      refusal([&] { channel_gather(weight, {}, torch::tensor({-1})); }),
      "channel_gather: cols holds the index -1, but weight has shape [3, 4], so indices run from 0 to 3");
  EXPECT_EQ(refusal([&] { channel_gather(weight, torch::tensor({0}, at::kInt), {}); }),
            "channel_gather: rows is int32, expected int64");
  EXPECT_EQ(refusal([&] { channel_gather(torch::ones({3}), {}, torch::tensor({0})); }),
            "channel_gather: weight has shape [3], so there is no cols to choose; leave cols undefined");
}

}  // namespace
}  // namespace glyptic::ops
