// The registered networks. Each file in this folder is one family, written with GraphBuilder.
#pragma once

#include <string>
#include <vector>

#include "glyptic/nn/builder.h"
#include "glyptic/nn/model.h"

namespace glyptic::nn {

/// ModelOptions with the network's own defaults filled in, and the options that it cannot take refused.
struct NetworkOptions {
  std::string network;
  int64_t num_classes;
  std::vector<int64_t> input_shape;
  std::vector<int64_t> widths;
  double width;
  double dropout;
  std::string conv_init;

  /// `channels` times the width multiplier, rounded, at least 1.
  int64_t scaled(int64_t channels) const;
  /// Initialisation of convolutions: the user's choice, or `otherwise`.
  std::string init(const std::string& otherwise) const { return conv_init.empty() ? otherwise : conv_init; }
};

Graph mlp(const NetworkOptions& options);

Graph lenet(const NetworkOptions& options);
Graph lenet_bn(const NetworkOptions& options);

Graph vgg_small(const NetworkOptions& options);
Graph vgg19_bn(const NetworkOptions& options);

Graph resnet18(const NetworkOptions& options);
Graph resnet34(const NetworkOptions& options);
Graph resnet50(const NetworkOptions& options);
Graph resnet18_cifar(const NetworkOptions& options);
Graph resnet34_cifar(const NetworkOptions& options);
Graph resnet50_cifar(const NetworkOptions& options);

Graph resnet20(const NetworkOptions& options);
Graph resnet32(const NetworkOptions& options);
Graph resnet56(const NetworkOptions& options);
Graph wide_resnet32(const NetworkOptions& options);

Graph wrn_22_2(const NetworkOptions& options);
Graph wrn_28_10(const NetworkOptions& options);

}  // namespace glyptic::nn
