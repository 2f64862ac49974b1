// Measured speed of inference: what a user would see, not what FLOPs promise.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "glyptic/nn/model.h"

namespace glyptic::experiment {

struct ThroughputOptions {
  std::vector<int64_t> batches = {1, 128};
  int64_t warmup = 10;   ///< calls that are not counted
  int64_t repeats = 50;  ///< most calls of each network at each batch size
  double seconds = 5.0;  ///< most time for each network at each batch size (at least 5 calls are made)
  bool channels_last = true;
};

struct Throughput {
  std::string network;
  int64_t batch = 0;
  double images_per_second = 0;                   ///< batch over the median time of a call
  double median_ms = 0, low_ms = 0, high_ms = 0;  ///< median, 5 % and 95 %
  int64_t calls = 0;
};

/// Times the networks in turn (A B C A B C ...), so that a drift of the machine's speed meets all alike.
/// Inference mode, eval, random input of `input_shape` on the networks' device. `between` runs before every
/// round of calls, and may throw to end the measurement.
std::vector<Throughput> measure_throughput(const std::vector<std::pair<std::string, nn::Model*>>& networks,
                                           const std::vector<int64_t>& input_shape,
                                           const ThroughputOptions& options,
                                           const std::function<void()>& between = {});

}  // namespace glyptic::experiment
