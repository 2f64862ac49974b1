#include "networks.h"

// Wide residual networks (arXiv 1605.07146): BN and ReLU come before each convolution. Where a block changes
// the shape, its first BN - ReLU serves the 1 x 1 shortcut too.
namespace glyptic::nn {
namespace {

// Depth 6 n + 4: three stages of n blocks, 16 k, 32 k and 64 k channels wide.
Graph wrn(const NetworkOptions& options, int depth, int64_t k) {
  const auto init = options.init("kaiming_normal_fan_out");
  GraphBuilder b;
  const auto conv = [&](const std::string& name, int x, int64_t channels, int64_t kernel, int64_t stride) {
    return b.conv(name, x, channels, kernel,
                  {.stride = stride, .padding = kernel / 2, .bias = false, .init = init});
  };
  const auto block = [&](const std::string& name, int x, int64_t channels, int64_t stride) {
    const bool same = stride == 1 && b.channels(x) == channels;
    const auto activated = b.relu(b.batch_norm(name + ".bn1", x));
    auto y = b.relu(b.batch_norm(name + ".bn2", conv(name + ".conv1", activated, channels, 3, stride)));
    y = conv(name + ".conv2", b.dropout(y, options.dropout), channels, 3, 1);
    return b.add({y, same ? x : conv(name + ".shortcut", activated, channels, 1, stride)});
  };

  auto x = conv("conv1", b.input(options.input_shape), options.scaled(16), 3, 1);
  for (int stage = 0; stage < 3; ++stage)
    for (int i = 0; i < (depth - 4) / 6; ++i)
      x = block("block" + std::to_string(stage + 1) + "." + std::to_string(i), x,
                options.scaled((int64_t{16} << stage) * k), i == 0 && stage > 0 ? 2 : 1);
  x = b.flatten(b.global_avg_pool(b.relu(b.batch_norm("bn", x))));
  return b.build(b.linear("fc", x, options.num_classes, {.bias_init = "zeros"}), options.network);
}

}  // namespace

Graph wrn_22_2(const NetworkOptions& options) {
  return wrn(options, 22, 2);
}
Graph wrn_28_10(const NetworkOptions& options) {
  return wrn(options, 28, 10);
}

}  // namespace glyptic::nn
