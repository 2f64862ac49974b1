#include <gtest/gtest.h>
#include <torch/torch.h>

#include <set>

#include "glyptic/core/error.h"
#include "glyptic/core/named_tensor.h"
#include "glyptic/core/rng.h"

namespace glyptic {
namespace {

// Known-answer vectors of the Random123 distribution for philox4x32-10.
TEST(Philox, KnownAnswers) {
  const auto zero = philox4x32(0, 0, 0, 0, 0, 0);
  EXPECT_EQ(zero.x[0], 0x6627e8d5u);
  EXPECT_EQ(zero.x[1], 0xe169c58du);
  EXPECT_EQ(zero.x[2], 0xbc57ac4cu);
  EXPECT_EQ(zero.x[3], 0x9b00dbd8u);
  const auto ones = philox4x32(~0u, ~0u, ~0u, ~0u, ~0u, ~0u);
  EXPECT_EQ(ones.x[0], 0x408f276du);
  EXPECT_EQ(ones.x[1], 0x41c83b0eu);
  EXPECT_EQ(ones.x[2], 0xa20bc7c6u);
  EXPECT_EQ(ones.x[3], 0x6d5451fdu);
  const auto pi = philox4x32(0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0);
  EXPECT_EQ(pi.x[0], 0xd16cfe09u);
  EXPECT_EQ(pi.x[1], 0x94fdccebu);
  EXPECT_EQ(pi.x[2], 0x5001e420u);
  EXPECT_EQ(pi.x[3], 0x24126ea1u);
}

TEST(RngStream, NamesSeparateAndOrderDoesNotMatter) {
  const RngStream a(7, "a"), b(7, "b"), again(7, "a");
  EXPECT_NE(a.u32(0), b.u32(0));
  EXPECT_NE(a.u32(3), RngStream(8, "a").u32(3));
  const auto late = a.u32(1000000);
  EXPECT_EQ(again.u32(1000000), late);
  EXPECT_NE(a.child(0).u32(0), a.child(1).u32(0));
  EXPECT_NE(a.child(0).u32(0), a.u32(0));
}

TEST(RngStream, PermutationIsOneAndUniform) {
  const RngStream rng(1, "p");
  int first[5] = {};
  for (uint64_t trial = 0; trial < 5000; ++trial) {
    const auto order = rng.child(trial).permutation(5);
    EXPECT_EQ(std::set<int64_t>(order.begin(), order.end()).size(), 5u);
    ++first[order[0]];
  }
  // Binomial(5000, 1/5): standard deviation 28; five of them bound a false alarm below 1e-5.
  for (const int count : first) EXPECT_NEAR(count, 1000, 142);
}

TEST(RngStream, NormalHasItsMoments) {
  const auto x = RngStream(3, "n").normal({200001});
  // Standard error of the mean is 1/447, of the variance sqrt(2)/447: five of each.
  EXPECT_NEAR(x.mean().item<double>(), 0, 5 / 447.0);
  EXPECT_NEAR(x.var().item<double>(), 1, 5 * 1.4143 / 447.0);
  EXPECT_TRUE(at::equal(x.slice(0, 0, 100), RngStream(3, "n").normal({100})));
}

TEST(RngStream, SampleRefusesTooMany) {
  EXPECT_THROW(RngStream(1, "s").sample(3, 4), ArgumentError);
}

TEST(DidYouMean, FindsTypos) {
  EXPECT_EQ(did_you_mean("densty", {"density", "drop_fraction"}), "; did you mean 'density'?");
  EXPECT_EQ(did_you_mean("zzz", {"density"}), "");
}

TEST(AlignedCopy, IsAligned) {
  auto base = torch::arange(101, torch::kFloat).slice(0, 1);
  auto copy = aligned_copy(base);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(copy.data_ptr()) % 16, 0u);
  EXPECT_TRUE(at::equal(copy, base));
}

}  // namespace
}  // namespace glyptic
