#include <gtest/gtest.h>
#include <torch/torch.h>

#include "cases.h"
#include "glyptic/core/philox.h"

namespace glyptic::ops {
namespace {

TEST(PhiloxFill, AllTypesHoldTheSameNumbers) {
  for (const auto distribution : {Distribution::uniform, Distribution::normal, Distribution::rademacher}) {
    auto plain = torch::empty({1003});
    philox_fill_(plain, 1, 2, 5, distribution);
    for (const auto type : {at::kDouble, at::kBFloat16, at::kHalf}) {
      auto other = torch::empty({1003}, type);
      philox_fill_(other, 1, 2, 5, distribution);
      EXPECT_TRUE(same_bits(other, plain.to(type))) << type;
    }
  }
}

TEST(PhiloxFill, GoesByTheIndexInTheShape) {
  auto plain = torch::empty({2, 3, 4, 5}),
       last = torch::empty({2, 3, 4, 5}).contiguous(at::MemoryFormat::ChannelsLast);
  auto gaps = torch::zeros({2, 3, 4, 10}).slice(3, 0, 10, 2);
  for (auto t : {plain, last, gaps}) {
    const auto version = t._version();
    philox_fill_(t, 7, 8, 0, Distribution::uniform);
    EXPECT_GT(t._version(), version);
    EXPECT_TRUE(at::equal(t, plain));
  }
  EXPECT_EQ(plain.view(-1)[17].item<float>(), philox_to_uniform(philox_u32(7, 8, 17)));
}

TEST(PhiloxFill, ThreadsDoNotChangeBits) {
  TensorList results;
  for (int n = 1; n <= 5; ++n) {
    const Threads threads(n);
    results.push_back(torch::empty({300001}));
    philox_fill_(results.back(), 1, 2, 3, Distribution::normal);
    EXPECT_TRUE(same_bits(results.back(), results.front()));
  }
}

TEST(PhiloxFill, RefusesByName) {
  EXPECT_EQ(refusal([] { philox_fill_(torch::ones({2}, at::kLong), 0, 0, 0, Distribution::uniform); }),
            "philox_fill_: out is int64, expected float32, float64, bfloat16 or float16");
  EXPECT_EQ(refusal([] { philox_fill_(torch::ones({2}), 0, 0, -1, Distribution::uniform); }),
            "philox_fill_: offset is -1, expected 0 or more");
}

TEST(Meta, ComputesShapesAndWritesNothing) {
  const auto meta = torch::empty({4, 3, 2, 2}, at::kMeta),
             mask = torch::empty({4, 3, 2, 2}, at::TensorOptions(at::kMeta).dtype(at::kBool));
  masked_sgd_({meta}, {meta}, {}, {mask}, {});
  masked_adamw_({meta}, {meta}, {meta}, {meta}, {mask}, {}, {});
  mask_apply_({meta}, {mask});
  EXPECT_EQ(mask_update_({meta}, {mask}, {{meta}}, {mask}).sizes(), (std::vector<int64_t>{1, 3}));
  const auto masks = topk_masks({meta}, {}, {}, {}, {5}, false, {});
  EXPECT_TRUE(masks[0].is_meta() && masks[0].scalar_type() == at::kBool && masks[0].sizes() == meta.sizes());
  EXPECT_EQ(channel_scores({meta}, {}, ChannelScore::umm)[0].sizes(), (std::vector<int64_t>{4}));
  EXPECT_EQ(
      channel_gather(meta, torch::empty({2}, at::TensorOptions(at::kMeta).dtype(at::kLong)), {}).sizes(),
      (std::vector<int64_t>{2, 3, 2, 2}));
  philox_fill_(meta, 0, 0, 0, Distribution::normal);
  EXPECT_NE(refusal([&] { masked_sgd_({meta}, {mask}, {}, {}, {}); }), "");
}

}  // namespace
}  // namespace glyptic::ops
