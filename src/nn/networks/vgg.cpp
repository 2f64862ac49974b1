#include "glyptic/core/error.h"
#include "networks.h"

// Plain stacks of 3 x 3 conv - BN - ReLU (VGG, arXiv 1409.1556), ended by a global average pool and one
// linear layer. On 32 x 32 inputs VGG-19's last map is 2 x 2, so that the pool is the 2 x 2 average of the
// CIFAR form.
namespace glyptic::nn {
namespace {

std::vector<int64_t> widths_or(const NetworkOptions& options, const std::vector<int64_t>& own) {
  if (options.widths.empty()) return own;
  require(options.widths.size() == own.size(), "widths has ", options.widths.size(), " entries, expected ",
          own.size(), ", one per convolution");
  return options.widths;
}

int classifier(GraphBuilder& b, int x, const NetworkOptions& options, const std::string& name) {
  x = b.dropout(b.flatten(b.global_avg_pool(x)), options.dropout);
  return b.linear(name, x, options.num_classes, {.init = "normal:0.01", .bias_init = "zeros"});
}

}  // namespace

Graph vgg_small(const NetworkOptions& options) {
  GraphBuilder b;
  auto x = b.input(options.input_shape);
  int layer = 0;
  for (const auto width : widths_or(options, {64, 64, 128, 128, 256, 256})) {
    if (layer == 2 || layer == 4) x = b.max_pool(x, 2);
    const auto id = std::to_string(++layer);
    x = b.conv("conv" + id, x, options.scaled(width), 3,
               {.padding = 1, .bias = false, .init = options.init("kaiming_normal_fan_out")});
    x = b.relu(b.batch_norm("bn" + id, x));
  }
  return b.build(classifier(b, x, options, "fc"), options.network);
}

Graph vgg19_bn(const NetworkOptions& options) {
  // Pools stand before the third, fifth, ninth and thirteenth convolution.
  const std::vector<int64_t> widths =
      widths_or(options, {64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512, 512, 512, 512});
  GraphBuilder b;
  auto x = b.input(options.input_shape);
  int position = 0;  // in torchvision's `features`, where ReLUs and pools count too
  const auto next = [&] { return "features." + std::to_string(position++); };
  for (std::size_t layer = 0; layer < widths.size(); ++layer) {
    if (layer == 2 || layer == 4 || layer == 8 || layer == 12) {
      x = b.max_pool(x, 2);
      ++position;
    }
    x = b.conv(next(), x, options.scaled(widths[layer]), 3,
               {.padding = 1, .init = options.init("kaiming_normal_fan_out"), .bias_init = "zeros"});
    x = b.relu(b.batch_norm(next(), x));
    ++position;
  }
  return b.build(classifier(b, x, options, "classifier"), options.network);
}

}  // namespace glyptic::nn
