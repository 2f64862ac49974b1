// The operators on 25 million weights in the shapes of ResNet-50, each beside its floor: `bytes` that have to
// move, and `GB/s` of them, to be read beside the plain copy of the same run. Threads: at::get_num_threads()
// (OMP_NUM_THREADS).
#include <benchmark/benchmark.h>
#include <torch/torch.h>

#include <algorithm>
#include <functional>

#include "glyptic/ops/ops.h"

namespace glyptic::ops {
namespace {

/// Weights of all convolutions and of the classifier of ResNet-50: 54 tensors, 25.5 M weights.
std::vector<std::vector<int64_t>> resnet50_shapes() {
  std::vector<std::vector<int64_t>> shapes = {{64, 3, 7, 7}};
  int64_t in = 64;
  const int64_t blocks[] = {3, 4, 6, 3};
  for (int stage = 0; stage < 4; ++stage) {
    const int64_t width = int64_t{64} << stage, out = 4 * width;
    for (int64_t block = 0; block < blocks[stage]; ++block) {
      shapes.push_back({width, in, 1, 1});
      shapes.push_back({width, width, 3, 3});
      shapes.push_back({out, width, 1, 1});
      if (block == 0) shapes.push_back({out, in, 1, 1});
      in = out;
    }
  }
  shapes.push_back({1000, 2048});
  return shapes;
}

struct Network {
  TensorList weights, grads, momenta, squares, masks;
  int64_t size = 0;

  Network() {
    torch::manual_seed(1);
    for (const auto& shape : resnet50_shapes()) {
      weights.push_back(torch::randn(shape) * 0.05);
      grads.push_back(torch::randn(shape) * 0.01);
      momenta.push_back(torch::zeros(shape));
      squares.push_back(torch::ones(shape));
      masks.push_back(torch::rand(shape) < 0.1);
      size += weights.back().numel();
    }
    mask_apply_(weights, masks);
  }
};

Network& network() {
  static Network one;
  return one;
}

void floor_of(benchmark::State& state, double bytes) {
  state.counters["bytes"] = bytes;
  state.counters["GB/s"] =
      benchmark::Counter(bytes * static_cast<double>(state.iterations()) / 1e9, benchmark::Counter::kIsRate);
  state.counters["threads"] = at::get_num_threads();
}

void BM_copy(benchmark::State& state) {
  const auto from = torch::randn({network().size});
  auto to = torch::empty_like(from);
  for (auto _ : state) to.copy_(from);
  floor_of(state, 8.0 * static_cast<double>(from.numel()));
}

void BM_masked_sgd(benchmark::State& state) {
  auto& n = network();
  SgdArgs args;
  args.lr = 1e-4, args.momentum = 0.9, args.weight_decay = 1e-4;
  for (auto _ : state) masked_sgd_(n.weights, n.grads, n.momenta, n.masks, args);
  floor_of(state, 21.0 * static_cast<double>(n.size));
}

void BM_masked_adamw(benchmark::State& state) {
  auto& n = network();
  AdamArgs args;
  args.lr = 1e-4;
  for (auto _ : state) masked_adamw_(n.weights, n.grads, n.momenta, n.squares, n.masks, {}, args);
  floor_of(state, 29.0 * static_cast<double>(n.size));
}

/// Masks of a density in per mille, and copies of the weights and their state that are zero off them.
struct MaskedNetwork {
  explicit MaskedNetwork(double density) {
    for (const auto& w : network().weights) {
      masks.push_back(torch::rand(w.sizes()) < density);
      weights.push_back(torch::randn(w.sizes()) * masks.back() * 0.05);
      momenta.push_back(torch::zeros_like(w));
      squares.push_back(masks.back().to(at::kFloat));
    }
  }
  TensorList weights, momenta, squares, masks;
};

/// The floor under `off_mask_is_zero`: all masks, and the rest of the lines of 16 that hold an active weight.
double active_line_bytes(const TensorList& masks, double bytes_per_weight) {
  double all = 0, active = 0;
  for (const auto& mask : masks) {
    const auto flat = mask.view(-1);
    const auto whole = flat.numel() / 16 * 16;
    all += static_cast<double>(flat.numel());
    active += static_cast<double>(flat.numel() - whole) +
              16.0 * flat.slice(0, 0, whole).view({-1, 16}).any(1).sum().item<double>();
  }
  return all + (bytes_per_weight - 1) * active;
}

void BM_masked_sgd_zero_off_mask(benchmark::State& state) {
  MaskedNetwork n(static_cast<double>(state.range(0)) / 1000);
  SgdArgs args;
  args.lr = 1e-4, args.momentum = 0.9, args.weight_decay = 1e-4, args.off_mask_is_zero = true;
  for (auto _ : state) masked_sgd_(n.weights, network().grads, n.momenta, n.masks, args);
  floor_of(state, active_line_bytes(n.masks, 21));
}

void BM_masked_adamw_zero_off_mask(benchmark::State& state) {
  MaskedNetwork n(static_cast<double>(state.range(0)) / 1000);
  AdamArgs args;
  args.lr = 1e-4, args.off_mask_is_zero = true;
  for (auto _ : state) masked_adamw_(n.weights, network().grads, n.momenta, n.squares, n.masks, {}, args);
  floor_of(state, active_line_bytes(n.masks, 29));
}

void BM_masked_adamw_counted(benchmark::State& state) {
  auto& n = network();
  TensorList steps;
  for (const auto& w : n.weights) steps.push_back(torch::randint(0, 1000, w.sizes(), at::kInt));
  AdamArgs args;
  args.lr = 1e-4;
  for (auto _ : state) masked_adamw_(n.weights, n.grads, n.momenta, n.squares, n.masks, steps, args);
  floor_of(state, 37.0 * static_cast<double>(n.size));
}

void BM_mask_apply(benchmark::State& state) {
  auto& n = network();
  for (auto _ : state) mask_apply_(n.weights, n.masks);
  floor_of(state, 9.0 * static_cast<double>(n.size));
}

void BM_topk_global(benchmark::State& state) {
  auto& n = network();
  TopKArgs args;
  args.score = static_cast<Score>(state.range(0));
  const bool two = args.score == Score::mest || args.score == Score::taylor;
  args.lambda = 0.1;
  for (auto _ : state)
    benchmark::DoNotOptimize(
        topk_masks(n.grads, two ? n.momenta : TensorList{}, {}, {}, {n.size / 10}, true, args));
  const double per_weight = args.score == Score::random ? 1 : two ? 9 : 5;
  floor_of(state, per_weight * static_cast<double>(n.size));
}

/// The honest baseline of selection: one thread, the magnitudes already there.
void BM_nth_element(benchmark::State& state) {
  auto& n = network();
  std::vector<float> magnitudes, work;
  for (const auto& g : n.grads) {
    const auto a = g.abs();
    magnitudes.insert(magnitudes.end(), a.const_data_ptr<float>(), a.const_data_ptr<float>() + a.numel());
  }
  for (auto _ : state) {
    state.PauseTiming();
    work = magnitudes;
    state.ResumeTiming();
    std::nth_element(work.begin(), work.begin() + n.size / 10, work.end(), std::greater<float>());
    benchmark::DoNotOptimize(work.data());
  }
  floor_of(state, 4.0 * static_cast<double>(n.size));
}

/// One RigL event: keep the largest 70 % of the active weights of each layer, grow as many by |gradient|.
void BM_rigl_update(benchmark::State& state) {
  auto& n = network();
  std::vector<int64_t> keep, grow;
  for (const auto& m : n.masks) {
    const auto active = m.sum().item<int64_t>();
    keep.push_back(active - static_cast<int64_t>(0.3 * static_cast<double>(active)));
    grow.push_back(active - keep.back());
  }
  TopKArgs merge;
  merge.merge_excluded = true;
  for (auto _ : state) {
    const auto kept = topk_masks(n.weights, {}, n.masks, {}, keep, false, {});
    const auto next = topk_masks(n.grads, {}, {}, kept, grow, false, merge);
    std::vector<TensorList> states;
    for (const auto& v : n.momenta) states.push_back({v});
    benchmark::DoNotOptimize(mask_update_(n.weights, n.masks, states, next));
  }
  // Selections 6 + 6 (score, predicate, mask), update 19.
  floor_of(state, 31.0 * static_cast<double>(n.size));
}

void BM_mask_update(benchmark::State& state) {
  auto& n = network();
  std::vector<TensorList> states;
  for (const auto& v : n.momenta) states.push_back({v});
  TensorList next;
  for (const auto& m : n.masks) next.push_back(torch::rand(m.sizes()) < 0.1);
  for (auto _ : state) benchmark::DoNotOptimize(mask_update_(n.weights, n.masks, states, next));
  floor_of(state, 19.0 * static_cast<double>(n.size));
}

void BM_channel_scores(benchmark::State& state) {
  auto& n = network();
  const auto score = static_cast<ChannelScore>(state.range(0));
  const bool masked = score == ChannelScore::masked_mean;
  for (auto _ : state)
    benchmark::DoNotOptimize(channel_scores(n.weights, masked ? n.masks : TensorList{}, score));
  floor_of(state, (masked ? 5.0 : 4.0) * static_cast<double>(n.size));
}

void BM_channel_gather(benchmark::State& state) {
  const auto weight = torch::randn({512, 512, 3, 3});
  const auto rows = std::get<0>(torch::randperm(512, at::kLong).slice(0, 0, 256).sort());
  for (auto _ : state) benchmark::DoNotOptimize(channel_gather(weight, rows, rows));
  floor_of(state, 8.0 * 256 * 256 * 9);
}

void BM_philox_fill(benchmark::State& state) {
  auto out = torch::empty({network().size});
  for (auto _ : state) philox_fill_(out, 1, 2, 0, static_cast<Distribution>(state.range(0)));
  floor_of(state, 4.0 * static_cast<double>(out.numel()));
}

BENCHMARK(BM_copy)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(BM_masked_sgd)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(BM_masked_adamw)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(BM_masked_sgd_zero_off_mask)
    ->Arg(100)
    ->Arg(20)
    ->ArgName("permille")
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(BM_masked_adamw_zero_off_mask)
    ->Arg(100)
    ->Arg(20)
    ->ArgName("permille")
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(BM_masked_adamw_counted)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(BM_mask_apply)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(BM_topk_global)->DenseRange(0, 4)->ArgName("score")->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(BM_nth_element)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(BM_rigl_update)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(BM_mask_update)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(BM_channel_scores)
    ->DenseRange(0, 3)
    ->ArgName("score")
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(BM_channel_gather)->Unit(benchmark::kMicrosecond)->UseRealTime();
BENCHMARK(BM_philox_fill)
    ->DenseRange(0, 2)
    ->ArgName("distribution")
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace glyptic::ops
