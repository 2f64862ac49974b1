#include "networks.h"

// Residual networks (arXiv 1512.03385). The ImageNet form has torchvision's state_dict, name by name and in
// its order; its bottlenecks stride in the 3 x 3 convolution (v1.5). The CIFAR forms differ in stem and
// classifier.
namespace glyptic::nn {
namespace {

class ResNet {
 public:
  ResNet(const NetworkOptions& options, std::string init) : options_(options), init_(std::move(init)) {}

  int input() { return b_.input(options_.input_shape); }

  /// 7 x 7 stride 2 and a max pool.
  int imagenet_stem(int x, int64_t channels) {
    x = b_.relu(conv_bn("conv1", "bn1", x, channels, 7, 2));
    return b_.max_pool(x, 3, {.stride = 2, .padding = 1});
  }
  /// 3 x 3 stride 1.
  int cifar_stem(int x, int64_t channels) { return b_.relu(conv_bn("conv1", "bn1", x, channels, 3, 1)); }

  int basic_stage(const std::string& name, int x, int blocks, int64_t channels, int64_t stride) {
    for (int i = 0; i < blocks; ++i) {
      const auto block = name + "." + std::to_string(i);
      const auto s = i == 0 ? stride : 1;
      auto y = b_.relu(conv_bn(block + ".conv1", block + ".bn1", x, channels, 3, s));
      y = conv_bn(block + ".conv2", block + ".bn2", y, channels, 3, 1);
      x = b_.relu(b_.add({y, shortcut(block, x, channels, s)}));
    }
    return x;
  }

  int bottleneck_stage(const std::string& name, int x, int blocks, int64_t channels, int64_t stride) {
    for (int i = 0; i < blocks; ++i) {
      const auto block = name + "." + std::to_string(i);
      const auto s = i == 0 ? stride : 1;
      auto y = b_.relu(conv_bn(block + ".conv1", block + ".bn1", x, channels, 1, 1));
      y = b_.relu(conv_bn(block + ".conv2", block + ".bn2", y, channels, 3, s));
      y = conv_bn(block + ".conv3", block + ".bn3", y, 4 * channels, 1, 1);
      x = b_.relu(b_.add({y, shortcut(block, x, 4 * channels, s)}));
    }
    return x;
  }

  Graph classify(int x, const LinearOptions& linear) {
    x = b_.flatten(b_.global_avg_pool(x));
    return b_.build(b_.linear("fc", x, options_.num_classes, linear), options_.network);
  }

 private:
  int conv_bn(const std::string& conv, const std::string& bn, int x, int64_t channels, int64_t kernel,
              int64_t stride) {
    x = b_.conv(conv, x, channels, kernel,
                {.stride = stride, .padding = kernel / 2, .bias = false, .init = init_});
    return b_.batch_norm(bn, x);
  }
  int shortcut(const std::string& block, int x, int64_t channels, int64_t stride) {
    if (stride == 1 && b_.channels(x) == channels) return x;
    return conv_bn(block + ".downsample.0", block + ".downsample.1", x, channels, 1, stride);
  }

  const NetworkOptions& options_;
  std::string init_;
  GraphBuilder b_;
};

enum class Form { imagenet, cifar };
enum class Block { basic, bottleneck };

Graph four_stages(const NetworkOptions& options, Form form, Block block, const std::vector<int>& depths) {
  ResNet net(options, options.init("kaiming_normal_fan_out"));
  auto x = net.input();
  const auto stem = options.scaled(64);
  x = form == Form::imagenet ? net.imagenet_stem(x, stem) : net.cifar_stem(x, stem);
  for (int stage = 0; stage < 4; ++stage) {
    const auto name = "layer" + std::to_string(stage + 1);
    const auto channels = options.scaled(int64_t{64} << stage);
    const int64_t stride = stage == 0 ? 1 : 2;
    const auto depth = depths[static_cast<std::size_t>(stage)];
    x = block == Block::basic ? net.basic_stage(name, x, depth, channels, stride)
                              : net.bottleneck_stage(name, x, depth, channels, stride);
  }
  return net.classify(x, {.bias = form == Form::imagenet});
}

// Depth 6 n + 2: three stages of n basic blocks.
Graph three_stages(const NetworkOptions& options, int depth, int64_t base, const std::string& conv_init,
                   const LinearOptions& linear) {
  ResNet net(options, options.init(conv_init));
  auto x = net.cifar_stem(net.input(), options.scaled(base));
  const int blocks = (depth - 2) / 6;
  for (int stage = 0; stage < 3; ++stage)
    x = net.basic_stage("layer" + std::to_string(stage + 1), x, blocks, options.scaled(base << stage),
                        stage == 0 ? 1 : 2);
  return net.classify(x, linear);
}

Graph cifar_resnet(const NetworkOptions& options, int depth) {
  return three_stages(options, depth, 16, "kaiming_normal_fan_in",
                      {.init = "kaiming_normal_fan_in", .bias_init = "zeros"});
}

}  // namespace

Graph resnet18(const NetworkOptions& o) {
  return four_stages(o, Form::imagenet, Block::basic, {2, 2, 2, 2});
}
Graph resnet34(const NetworkOptions& o) {
  return four_stages(o, Form::imagenet, Block::basic, {3, 4, 6, 3});
}
Graph resnet50(const NetworkOptions& o) {
  return four_stages(o, Form::imagenet, Block::bottleneck, {3, 4, 6, 3});
}
Graph resnet18_cifar(const NetworkOptions& o) {
  return four_stages(o, Form::cifar, Block::basic, {2, 2, 2, 2});
}
Graph resnet34_cifar(const NetworkOptions& o) {
  return four_stages(o, Form::cifar, Block::basic, {3, 4, 6, 3});
}
Graph resnet50_cifar(const NetworkOptions& o) {
  return four_stages(o, Form::cifar, Block::bottleneck, {3, 4, 6, 3});
}

Graph resnet20(const NetworkOptions& o) {
  return cifar_resnet(o, 20);
}
Graph resnet32(const NetworkOptions& o) {
  return cifar_resnet(o, 32);
}
Graph resnet56(const NetworkOptions& o) {
  return cifar_resnet(o, 56);
}
Graph wide_resnet32(const NetworkOptions& o) {
  return three_stages(o, 32, 32, "kaiming_normal_fan_out", {.init = "normal:0.01", .bias_init = "zeros"});
}

}  // namespace glyptic::nn
