#include "glyptic/experiment/throughput.h"

#include <torch/torch.h>

#include <chrono>

#include "glyptic/core/error.h"

namespace glyptic::experiment {

namespace {

double percentile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const double at = q * static_cast<double>(values.size() - 1);
  const auto low = static_cast<std::size_t>(at);
  const auto high = std::min(low + 1, values.size() - 1);
  return values[low] + (at - static_cast<double>(low)) * (values[high] - values[low]);
}

}  // namespace

std::vector<Throughput> measure_throughput(const std::vector<std::pair<std::string, nn::Model*>>& networks,
                                           const std::vector<int64_t>& input_shape,
                                           const ThroughputOptions& options,
                                           const std::function<void()>& between) {
  const c10::InferenceMode inference;
  std::vector<Throughput> result;
  for (auto& [name, network] : networks) {
    network->train(false);
    if (options.channels_last) network->to(at::MemoryFormat::ChannelsLast);
  }
  for (const auto batch : options.batches) {
    std::vector<int64_t> shape{batch};
    shape.insert(shape.end(), input_shape.begin(), input_shape.end());
    const auto device = networks.front().second->parameters().front().tensor.device();
    auto x = RngStream(0, "throughput").normal(shape).to(device);
    if (options.channels_last && x.dim() == 4) x = x.contiguous(at::MemoryFormat::ChannelsLast);
    std::vector<std::vector<double>> times(networks.size());
    const auto call = [&](std::size_t i) {
      if (x.is_cuda()) torch::cuda::synchronize();
      const auto start = std::chrono::steady_clock::now();
      networks[i].second->forward(x);
      if (x.is_cuda()) torch::cuda::synchronize();
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    for (int64_t r = 0; r < options.warmup; ++r) {
      if (between) between();
      for (std::size_t i = 0; i < networks.size(); ++i) call(i);
    }
    double slowest = 0;
    for (int64_t r = 0; r < options.repeats && (r < 5 || slowest < options.seconds); ++r) {
      if (between) between();
      for (std::size_t i = 0; i < networks.size(); ++i) times[i].push_back(call(i));
      slowest = 0;
      for (const auto& list : times)
        slowest = std::max(slowest, std::accumulate(list.begin(), list.end(), 0.0));
    }
    for (std::size_t i = 0; i < networks.size(); ++i) {
      Throughput row;
      row.network = networks[i].first;
      row.batch = batch;
      row.median_ms = 1e3 * percentile(times[i], 0.5);
      row.low_ms = 1e3 * percentile(times[i], 0.05);
      row.high_ms = 1e3 * percentile(times[i], 0.95);
      row.images_per_second = 1e3 * static_cast<double>(batch) / row.median_ms;
      row.calls = static_cast<int64_t>(times[i].size());
      result.push_back(row);
    }
  }
  return result;
}

}  // namespace glyptic::experiment
