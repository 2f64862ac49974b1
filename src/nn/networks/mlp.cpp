#include "networks.h"

namespace glyptic::nn {

Graph mlp(const NetworkOptions& options) {
  const LinearOptions he{.init = "kaiming_normal_fan_in", .bias_init = "zeros"};
  const auto hidden = options.widths.empty() ? std::vector<int64_t>{300, 100} : options.widths;
  GraphBuilder b;
  auto x = b.input(options.input_shape);
  if (options.input_shape.size() > 1) x = b.flatten(x);
  int layer = 1;
  for (const auto width : hidden) {
    x = b.relu(b.linear("fc" + std::to_string(layer++), x, options.scaled(width), he));
    x = b.dropout(x, options.dropout);
  }
  return b.build(b.linear("fc" + std::to_string(layer), x, options.num_classes, he), options.network);
}

}  // namespace glyptic::nn
