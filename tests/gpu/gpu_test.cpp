// The CUDA kernels against the composite and against the CPU: the same bits, because both round every
// operation by itself. Each test skips where there is no device.
#include <gtest/gtest.h>
#include <torch/cuda.h>
#include <torch/torch.h>

#include <chrono>
#include <cstdio>

#include "../ops/cases.h"

namespace glyptic::ops {
namespace {

class Gpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no CUDA device";
    torch::manual_seed(1);
  }
};

TensorList on_gpu(const TensorList& list) {
  TensorList result;
  for (const auto& t : list) {
    auto copy = at::empty_like(t, t.options().device(at::kCUDA));  // keeps the layout
    copy.copy_(t);
    result.push_back(copy);
  }
  return result;
}

TensorList on_cpu(const TensorList& list) {
  TensorList result;
  for (const auto& t : list) result.push_back(t.cpu());
  return result;
}

/// Small shapes, plus tensors of several chunks whose lengths no vector width divides.
TensorList gpu_weights(at::ScalarType type = at::kFloat) {
  auto list = some_weights(type);
  list.push_back(values({70001}, type));
  list.push_back(values({128, 64, 3, 3}, type));
  list.push_back(values({50002}, type).slice(0, 1));  // not aligned to a vector
  return list;
}

TEST_F(Gpu, MaskedSgdEqualsTheCpu) {
  for (int options = 0; options < 32; ++options)
    for (const bool masked : {true, false}) {
      SgdArgs args;
      args.lr = 0.05, args.dampening = 0.1;
      args.momentum = options & 1 ? 0.9 : 0;
      args.nesterov = (options & 3) == 3;
      args.weight_decay = options & 4 ? 5e-4 : 0;
      args.maximize = options & 8;
      args.first_step = options & 16;
      auto w = gpu_weights();
      const auto g = values_like(w), masks = masked ? masks_like(w, 0.3) : TensorList{};
      auto v = args.momentum != 0 ? values_like(w) : TensorList{};
      auto gw = on_gpu(w), gv = on_gpu(v);
      masked_sgd_(gw, on_gpu(g), gv, on_gpu(masks), args);
      masked_sgd_(w, g, v, masks, args);
      ASSERT_TRUE(same_bits(on_cpu(gw), w)) << options;
      ASSERT_TRUE(same_bits(on_cpu(gv), v)) << options;
    }
}

TEST_F(Gpu, MaskedAdamWEqualsTheCpu) {
  for (int options = 0; options < 16; ++options) {
    AdamArgs args;
    args.lr = 1e-2, args.step = 12;
    args.weight_decay = options & 1 ? 1e-2 : 0;
    args.decoupled = options & 2;
    auto w = gpu_weights();
    const auto g = values_like(w), masks = options & 4 ? masks_like(w, 0.3) : TensorList{};
    auto m = values_like(w), v = values_like(w);
    for (auto& t : v) t.copy_(t.square());
    TensorList steps;
    if (options & 8)
      for (const auto& t : w) steps.push_back(at::randint_like(t, 0, 30).to(at::kInt));
    auto gw = on_gpu(w), gm = on_gpu(m), gv = on_gpu(v), gs = on_gpu(steps);
    masked_adamw_(gw, on_gpu(g), gm, gv, on_gpu(masks), gs, args);
    masked_adamw_(w, g, m, v, masks, steps, args);
    ASSERT_TRUE(same_bits(on_cpu(gw), w)) << options;
    ASSERT_TRUE(same_bits(on_cpu(gm), m)) << options;
    ASSERT_TRUE(same_bits(on_cpu(gv), v)) << options;
    ASSERT_TRUE(same_bits(on_cpu(gs), steps)) << options;
  }
}

TEST_F(Gpu, PromiseOfZerosOffMaskChangesNoBit) {
  for (const double density : {0.02, 0.1, 0.6}) {
    auto w = gpu_weights();
    const auto g = values_like(w), masks = masks_like(w, density);
    auto v = values_like(w), m = values_like(w), s = values_like(w);
    TensorList steps;
    for (auto& t : s) t.copy_(t.square());
    for (const auto& t : w) steps.push_back(at::randint_like(t, 0, 30).to(at::kInt));
    for (const auto* list : {&w, &v, &m, &s, &steps}) mask_apply_(*list, masks);
    auto gw = on_gpu(w), gv = on_gpu(v), gm = on_gpu(m), gs = on_gpu(s), gsteps = on_gpu(steps);
    SgdArgs sgd;
    sgd.momentum = 0.9, sgd.weight_decay = 1e-3;
    AdamArgs adam;
    masked_sgd_(w, g, v, masks, sgd);
    masked_adamw_(w, g, m, s, masks, steps, adam);
    sgd.off_mask_is_zero = adam.off_mask_is_zero = true;
    masked_sgd_(gw, on_gpu(g), gv, on_gpu(masks), sgd);
    masked_adamw_(gw, on_gpu(g), gm, gs, on_gpu(masks), gsteps, adam);
    ASSERT_TRUE(same_bits(on_cpu(gw), w) && same_bits(on_cpu(gv), v) && same_bits(on_cpu(gm), m) &&
                same_bits(on_cpu(gs), s) && same_bits(on_cpu(gsteps), steps))
        << density;
  }
}

TEST_F(Gpu, MasksEqualTheComposite) {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16, at::kByte}) {
    auto w = on_gpu(gpu_weights(type));
    const auto masks = masks_like(w, 0.4), next = masks_like(w, 0.4);
    auto expected = clones(w), applied = clones(w);
    reference::mask_apply_(expected, masks);
    mask_apply_(applied, masks);
    ASSERT_TRUE(same_bits(on_cpu(applied), on_cpu(expected)));
    std::vector<TensorList> states, expected_states;
    for (const auto& t : w) {
      states.push_back({t.clone(), t.to(at::kInt)});
      expected_states.push_back({t.clone(), t.to(at::kInt)});
    }
    auto ew = clones(w), em = clones(masks), gm = clones(masks);
    const auto expected_counts = reference::mask_update_(ew, em, expected_states, next);
    const auto counts = mask_update_(w, gm, states, next);
    ASSERT_TRUE(at::equal(counts, expected_counts));
    ASSERT_TRUE(same_bits(on_cpu(w), on_cpu(ew)));
    ASSERT_TRUE(same_bits(on_cpu(gm), on_cpu(em)));
    for (std::size_t i = 0; i < states.size(); ++i)
      ASSERT_TRUE(same_bits(on_cpu(states[i]), on_cpu(expected_states[i])));
  }
}

TEST_F(Gpu, TopKEqualsTheCpu) {
  for (int trial = 0; trial < 60; ++trial) {
    auto a = gpu_weights();
    if (trial % 2)
      for (auto& t : a) t.copy_(torch::randint(-2, 3, t.sizes()) * 0.5);  // mostly ties
    const auto b = values_like(a);
    TopKArgs args;
    args.score = static_cast<Score>(trial % 5), args.lambda = 0.3, args.seed = 4;
    args.stream = static_cast<uint64_t>(trial);
    const auto candidates = trial % 3 ? masks_like(a, 0.5) : TensorList{};
    const auto exclude = trial % 4 ? masks_like(a, 0.2) : TensorList{};
    args.merge_excluded = trial % 2;
    const bool global = trial % 7 < 3;
    std::vector<int64_t> k;
    int64_t total = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      auto eligible = candidates.empty() ? torch::ones(a[i].sizes(), at::kBool) : candidates[i];
      if (!exclude.empty()) eligible = eligible.logical_and(exclude[i].logical_not());
      const auto n = eligible.sum().item<int64_t>();
      total += n;
      k.push_back(trial % 5 == 0 ? n : n / 3);
    }
    if (global) k = {trial % 5 == 0 ? total : total / 3};
    const auto expected = topk_masks(a, b, candidates, exclude, k, global, args);
    const auto masks = topk_masks(on_gpu(a), on_gpu(b), on_gpu(candidates), on_gpu(exclude), k, global, args);
    ASSERT_TRUE(same_bits(on_cpu(masks), expected)) << trial;
  }
  const auto bad = torch::tensor({1.f, NAN}).cuda();
  EXPECT_NE(refusal([&] { topk_masks({bad}, {}, {}, {}, {1}, false, {}); }).find("tensor 0"),
            std::string::npos);
  EXPECT_NE(
      refusal([&] { topk_masks({bad.nan_to_num()}, {}, {}, {}, {3}, false, {}); }).find("only 2 candidates"),
      std::string::npos);
}

TEST_F(Gpu, ChannelsEqualTheCpu) {
  const auto w = gpu_weights();
  TensorList rows;
  for (const auto& t : w)
    if (t.dim() >= 1) rows.push_back(t);
  const auto masks = masks_like(rows, 0.3);
  for (const auto score :
       {ChannelScore::umm, ChannelScore::masked_mean, ChannelScore::density, ChannelScore::kernel_density})
    ASSERT_TRUE(same_bits(on_cpu(channel_scores(on_gpu(rows), on_gpu(masks), score)),
                          channel_scores(rows, masks, score)));
  for (const auto type : {at::kFloat, at::kHalf, at::kByte, at::kComplexDouble}) {
    const auto weight = (torch::randn({40, 30, 3, 3}) * 50).to(type);
    const auto r = torch::randperm(40, at::kLong).slice(0, 0, 17),
               c = torch::randperm(30, at::kLong).slice(0, 0, 9);
    ASSERT_TRUE(
        same_bits(channel_gather(weight.cuda(), r.cuda(), c.cuda()).cpu(), channel_gather(weight, r, c)));
    ASSERT_TRUE(same_bits(channel_gather(weight.cuda(), {}, c.cuda()).cpu(), channel_gather(weight, {}, c)));
  }
}

TEST_F(Gpu, PhiloxFillEqualsTheCpu) {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf})
    for (const auto distribution : {Distribution::uniform, Distribution::normal, Distribution::rademacher})
      for (const int64_t offset : {0, 1, 3, 1001}) {
        auto cpu = torch::empty({1000003}, type),
             gpu = torch::empty({1000003}, cpu.options().device(at::kCUDA));
        philox_fill_(cpu, 5, 6, offset, distribution);
        philox_fill_(gpu, 5, 6, offset, distribution);
        ASSERT_TRUE(same_bits(gpu.cpu(), cpu));
      }
}

double milliseconds(const std::function<void()>& body) {
  std::vector<double> times;
  for (int i = 0; i < 25; ++i) {
    torch::cuda::synchronize();
    const auto start = std::chrono::steady_clock::now();
    for (int j = 0; j < 10; ++j) body();
    torch::cuda::synchronize();
    times.push_back(
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count() / 10);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// Not a threshold, which would depend on the device: what a person reads beside a measured copy.
TEST_F(Gpu, PrintsBandwidth) {
  const int64_t n = 25'000'000;
  auto w = torch::randn({n}, at::kCUDA), g = torch::randn_like(w), v = torch::zeros_like(w),
       other = torch::empty_like(w);
  const auto mask = torch::rand_like(w) < 0.1;
  SgdArgs args;
  args.momentum = 0.9, args.weight_decay = 1e-4;
  const auto report = [](const char* what, double bytes, double ms) {
    std::printf("%-32s %8.3f ms %8.1f GB/s\n", what, ms, bytes / ms / 1e6);
  };
  const auto size = static_cast<double>(n);
  report("copy", 8 * size, milliseconds([&] { other.copy_(w); }));
  report("masked_sgd_ (21 B/weight)", 21 * size,
         milliseconds([&] { masked_sgd_({w}, {g}, {v}, {mask}, args); }));
  report("topk_masks global, k = 10 %", 17 * size,
         milliseconds([&] { topk_masks({g}, {}, {}, {}, {n / 10}, true, {}); }));
  report("philox_fill_ normal", 4 * size,
         milliseconds([&] { philox_fill_(other, 1, 2, 0, Distribution::normal); }));
  EXPECT_TRUE(w.isfinite().all().item<bool>());
}

}  // namespace
}  // namespace glyptic::ops
