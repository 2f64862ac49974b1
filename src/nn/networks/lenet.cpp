#include "networks.h"

// LeNet-5 (LeCun et al., 1998) as it is trained today: ReLU, max pooling, full connections between the maps.
// A 28 x 28 image is padded to the 32 x 32 that the network was drawn for.
namespace glyptic::nn {
namespace {

Graph lenet5(const NetworkOptions& options, bool normalise) {
  GraphBuilder b;
  const auto block = [&](int number, int x, int64_t channels, int64_t padding) {
    const auto id = std::to_string(number);
    x = b.conv("conv" + id, x, options.scaled(channels), 5,
               {.padding = padding, .bias = !normalise, .init = options.init("kaiming_uniform")});
    if (normalise) x = b.batch_norm("bn" + id, x);
    return b.max_pool(b.relu(x), 2);
  };
  auto x = b.input(options.input_shape);
  x = block(1, x, 6, options.input_shape[1] < 32 ? 2 : 0);
  x = block(2, x, 16, 0);
  x = b.flatten(x);
  x = b.relu(b.linear("fc1", x, options.scaled(120)));
  x = b.relu(b.linear("fc2", b.dropout(x, options.dropout), options.scaled(84)));
  x = b.linear("fc3", b.dropout(x, options.dropout), options.num_classes);
  return b.build(x, options.network);
}

}  // namespace

Graph lenet(const NetworkOptions& options) {
  return lenet5(options, false);
}
Graph lenet_bn(const NetworkOptions& options) {
  return lenet5(options, true);
}

}  // namespace glyptic::nn
