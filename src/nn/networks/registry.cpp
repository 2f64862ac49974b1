#include <set>

#include "glyptic/core/error.h"
#include "glyptic/core/named_tensor.h"
#include "networks.h"

namespace glyptic::nn {
namespace {

using Shape = std::vector<int64_t>;

struct Network {
  const char* name;
  Graph (*build)(const NetworkOptions&);
  int64_t num_classes;
  Shape input_shape;
  std::set<std::string> takes;  // of: widths, dropout, conv_init
  const char* summary;
};

const std::vector<Network>& networks() {
  static const Shape mnist = {1, 28, 28}, cifar = {3, 32, 32}, imagenet = {3, 224, 224};
  static const std::vector<Network> list = {
      {"mlp",
       mlp,
       10,
       mnist,
       {"widths", "dropout"},
       "multi-layer perceptron with ReLU, 784-300-100 unless told"},
      {"lenet",
       lenet,
       10,
       mnist,
       {"dropout", "conv_init"},
       "LeNet-5: two 5x5 convolutions (6, 16), then 120-84"},
      {"lenet_bn",
       lenet_bn,
       10,
       mnist,
       {"dropout", "conv_init"},
       "LeNet-5 with BatchNorm after each convolution"},
      {"vgg_small",
       vgg_small,
       10,
       mnist,
       {"widths", "dropout", "conv_init"},
       "VGG-like: six 3x3 conv-BN-ReLU, global average pool, 1.1 M parameters"},
      {"vgg19_bn",
       vgg19_bn,
       10,
       cifar,
       {"widths", "dropout", "conv_init"},
       "VGG-19 with BatchNorm in its CIFAR form: 16 convolutions, one linear layer"},
      {"resnet20",
       resnet20,
       10,
       cifar,
       {"conv_init"},
       "CIFAR ResNet-20, 16-32-64 channels, 1x1 conv + BN shortcuts"},
      {"resnet32",
       resnet32,
       10,
       cifar,
       {"conv_init"},
       "CIFAR ResNet-32, 16-32-64 channels, 1x1 conv + BN shortcuts"},
      {"resnet56",
       resnet56,
       10,
       cifar,
       {"conv_init"},
       "CIFAR ResNet-56, 16-32-64 channels, 1x1 conv + BN shortcuts"},
      {"wide_resnet32",
       wide_resnet32,
       10,
       cifar,
       {"conv_init"},
       "CIFAR ResNet-32 with 32-64-128 channels: 'ResNet-32' of the GraSP, MEST and ZO-SAM tables"},
      {"resnet18", resnet18, 1000, imagenet, {"conv_init"}, "ImageNet ResNet-18, torchvision names"},
      {"resnet34", resnet34, 1000, imagenet, {"conv_init"}, "ImageNet ResNet-34, torchvision names"},
      {"resnet50",
       resnet50,
       1000,
       imagenet,
       {"conv_init"},
       "ImageNet ResNet-50 v1.5 (stride in the 3x3 convolution), torchvision names"},
      {"resnet18_cifar",
       resnet18_cifar,
       10,
       cifar,
       {"conv_init"},
       "ResNet-18 for 32x32: 3x3 stem, no max pool, classifier without bias"},
      {"resnet34_cifar",
       resnet34_cifar,
       10,
       cifar,
       {"conv_init"},
       "ResNet-34 for 32x32: 3x3 stem, no max pool, classifier without bias"},
      {"resnet50_cifar",
       resnet50_cifar,
       10,
       cifar,
       {"conv_init"},
       "ResNet-50 for 32x32: 3x3 stem, no max pool, classifier without bias"},
      {"wrn_22_2",
       wrn_22_2,
       10,
       cifar,
       {"dropout", "conv_init"},
       "pre-activation wide residual network 22-2"},
      {"wrn_28_10",
       wrn_28_10,
       10,
       cifar,
       {"dropout", "conv_init"},
       "pre-activation wide residual network 28-10"},
  };
  return list;
}

const Network& network(const std::string& name) {
  for (const auto& entry : networks())
    if (name == entry.name) return entry;
  throw ArgumentError(str("unknown model '", name, "'", did_you_mean(name, model_names())));
}

}  // namespace

int64_t NetworkOptions::scaled(int64_t channels) const {
  return std::max<int64_t>(1, std::llround(static_cast<double>(channels) * width));
}

std::vector<std::string> model_names() {
  std::vector<std::string> names;
  for (const auto& entry : networks()) names.emplace_back(entry.name);
  return names;
}

std::string model_summary(const std::string& name) {
  return network(name).summary;
}

Graph build_graph(const std::string& name, const ModelOptions& options) {
  const auto& entry = network(name);
  const auto takes = [&](const char* option) { return entry.takes.count(option) == 1; };
  require(options.num_classes >= 0, "model '", name, "': num_classes is ", options.num_classes);
  require(std::isfinite(options.width) && options.width > 0 && options.width <= 64, "model '", name,
          "': width is ", options.width, ", expected a multiplier in (0, 64]");
  require(options.dropout >= 0 && options.dropout < 1, "model '", name, "': dropout is ", options.dropout,
          ", expected [0, 1)");
  require(options.dropout == 0 || takes("dropout"), "model '", name, "' has no dropout; leave it 0");
  require(options.widths.empty() || takes("widths"), "model '", name,
          "' has fixed widths; scale them all with 'width'");
  for (const auto width : options.widths)
    require(width >= 1, "model '", name, "': widths holds ", width, ", expected positive numbers");
  require(options.conv_init.empty() || takes("conv_init"), "model '", name,
          "' has no convolutions; leave conv_init empty");
  require(options.conv_init.empty() || options.conv_init == "fan_in" || options.conv_init == "fan_out",
          "model '", name, "': conv_init is '", options.conv_init, "', expected fan_in or fan_out");
  const auto& shape = options.input_shape;
  const bool flat = shape.size() == 1 && entry.build == mlp;
  require(shape.empty() || flat || shape.size() == 3, "model '", name, "': input_shape is ",
          shape_string(shape), ", expected [C, H, W]");
  const NetworkOptions filled{name,
                              options.num_classes == 0 ? entry.num_classes : options.num_classes,
                              shape.empty() ? entry.input_shape : shape,
                              options.widths,
                              options.width,
                              options.dropout,
                              options.conv_init.empty() ? "" : "kaiming_normal_" + options.conv_init};
  try {
    return entry.build(filled);
  } catch (const ArgumentError& error) {
    throw ArgumentError(str("model '", name, "': ", error.what()));
  }
}

}  // namespace glyptic::nn
