// The CUDA kernels of sharpness-aware steps against the CPU: the same bits, sums included, because both add
// in the same order. Each test skips where there is no device.
#include <gtest/gtest.h>
#include <torch/cuda.h>
#include <torch/torch.h>

#include "../ops/cases.h"
#include "glyptic/ops/perturb.h"

namespace glyptic::ops {
namespace {

class GpuPerturb : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no CUDA device";
    torch::manual_seed(1);
    for (const auto& shape : std::vector<std::vector<int64_t>>{{4, 3}, {1}, {33}, {70001}, {128, 64, 3, 3}}) {
      w.push_back(values(shape));
      g.push_back(values(shape));
      masks.push_back(torch::rand(shape) < 0.4);
    }
    masks[2] = at::Tensor();
  }
  static TensorList on_gpu(const TensorList& list) {
    TensorList result;
    for (const auto& t : list) result.push_back(t.defined() ? t.cuda() : t);
    return result;
  }
  static TensorList on_cpu(const TensorList& list) {
    TensorList result;
    for (const auto& t : list) result.push_back(t.cpu());
    return result;
  }
  TensorList w, g, masks;
};

TEST_F(GpuPerturb, InnerProducts) {
  const auto cpu = inner_products(w, g, w, masks, 0.01);
  const auto gpu = inner_products(on_gpu(w), on_gpu(g), on_gpu(w), on_gpu(masks), 0.01);
  EXPECT_TRUE(gpu.is_cuda());
  EXPECT_TRUE(same_bits(gpu.cpu(), cpu));
}

TEST_F(GpuPerturb, Ascend) {
  for (int options = 0; options < 4; ++options) {
    AscendArgs args;
    args.rho = {0.3};
    args.eta = 0.01;
    args.max_norm = options & 1;
    if (options & 2) args.adaptive = std::vector<bool>(w.size(), true);
    const auto norm = at::full({1}, 2.5, at::kDouble);
    auto gw = on_gpu(w), backups = on_gpu(g);
    ascend_(gw, backups, on_gpu(g), norm.cuda(), on_gpu(masks), args);
    auto cw = clones(w), cpu_backups = clones(w);
    ascend_(cw, cpu_backups, g, norm, masks, args);
    EXPECT_TRUE(same_bits(on_cpu(gw), cw)) << options;
    EXPECT_TRUE(same_bits(on_cpu(backups), w));
  }
}

TEST_F(GpuPerturb, EmaDirectionAndCombine) {
  for (const bool first : {true, false}) {
    auto gg = on_gpu(g), gm = on_gpu(w), cg = clones(g), cm = clones(w);
    const auto gpu = ema_direction_(gg, gm, on_gpu(masks), 0.7, 0.9, first);
    const auto cpu = ema_direction_(cg, cm, masks, 0.7, 0.9, first);
    EXPECT_TRUE(same_bits(gpu.cpu(), cpu));
    EXPECT_TRUE(same_bits(on_cpu(gg), cg) && same_bits(on_cpu(gm), cm));
  }
  const auto c = torch::tensor({1.25, -0.3}, at::kDouble);
  auto ga = on_gpu(w), ca = clones(w);
  combine_(ga, on_gpu(g), c.cuda());
  combine_(ca, g, c);
  EXPECT_TRUE(same_bits(on_cpu(ga), ca));
}

TEST_F(GpuPerturb, NoiseAscend) {
  for (const auto distribution : {Distribution::normal, Distribution::rademacher}) {
    NoiseArgs args;
    args.seed = 5;
    args.streams = {3, 4};
    args.distribution = distribution;
    const auto c = torch::tensor({0.5, -0.25}, at::kDouble);
    auto gw = on_gpu(w), cw = clones(w);
    const auto gpu = noise_ascend_(gw, on_gpu(g), on_gpu(masks), c.cuda(), args);
    const auto cpu = noise_ascend_(cw, g, masks, c, args);
    EXPECT_TRUE(same_bits(gpu.cpu(), cpu));
    EXPECT_TRUE(same_bits(on_cpu(gw), cw));
  }
}

TEST_F(GpuPerturb, RestoringSteps) {
  masks[2] = torch::rand({33}) < 0.4;
  auto v = values_like(w), gw = on_gpu(g), gv = on_gpu(v);
  SgdArgs sgd;
  sgd.momentum = 0.9, sgd.weight_decay = 1e-3;
  masked_sgd_(gw, on_gpu(g), gv, on_gpu(masks), sgd, on_gpu(w));
  auto cw = clones(g);
  masked_sgd_(cw, g, v, masks, sgd, w);
  EXPECT_TRUE(same_bits(on_cpu(gw), cw) && same_bits(on_cpu(gv), v));
  auto m = values_like(w), s = values_like(w);
  for (auto& t : s) t.abs_();
  auto gm = on_gpu(m), gs = on_gpu(s);
  gw = on_gpu(g);
  masked_adamw_(gw, on_gpu(g), gm, gs, on_gpu(masks), {}, {}, on_gpu(w));
  cw = clones(g);
  masked_adamw_(cw, g, m, s, masks, {}, {}, w);
  EXPECT_TRUE(same_bits(on_cpu(gw), cw) && same_bits(on_cpu(gm), m) && same_bits(on_cpu(gs), s));
}

}  // namespace
}  // namespace glyptic::ops
