// A graph with its tensors: the networks of the C++ API and of the command line.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "glyptic/core/named_tensor.h"
#include "glyptic/core/rng.h"
#include "glyptic/nn/graph.h"

namespace glyptic::nn {

class Model {
 public:
  /// Initialises every tensor by its TensorSpec; tensor `name` draws from `rng.child(stream_id(name))`, so a
  /// tensor's values depend on the seed and its own name alone.
  Model(Graph graph, const RngStream& rng);
  /// Takes tensors as they are (shared, not copied). ArgumentError naming a missing tensor or a wrong shape.
  Model(Graph graph, const NamedTensors& tensors);

  const Graph& graph() const { return graph_; }

  /// x: [N, C, H, W] (or [N, F]) float32, bfloat16 or float64 -> the output node, e.g. logits [N, classes].
  /// Differentiable. In training mode BatchNorm uses batch statistics and moves its buffers once per call.
  at::Tensor forward(const at::Tensor& x) const;
  /// All nodes' outputs (for hooks and tests).
  std::vector<at::Tensor> forward_all(const at::Tensor& x) const;

  void train(bool on = true) { training_ = on; }
  bool is_training() const { return training_; }

  NamedTensors parameters() const;  ///< trainable, in graph order; leaves that require grad
  NamedTensors buffers() const;
  NamedTensors state() const;       ///< both, in graph order
  /// Copies values into the existing tensors. ArgumentError (which tensor, both shapes) on any mismatch, before
  /// anything is changed; `strict = false` ignores names that are on one side only.
  void load(const NamedTensors& values, bool strict = true);

  void to(const at::Device& device);
  void to(at::MemoryFormat format);  ///< 4-D weights to NCHW or channels-last
  void zero_grad();

 private:
  Graph graph_;
  NamedTensors tensors_;
  bool training_ = true;
};

/// Options every builder understands. Zero / empty means the network's own default.
struct ModelOptions {
  int64_t num_classes = 10;
  std::vector<int64_t> input_shape;  ///< {C, H, W}
  std::vector<int64_t> widths;       ///< mlp: hidden sizes; vgg-like: channels per conv
  double width = 1.0;                ///< multiplies every hidden width, at least 1
  double dropout = 0.0;
};

/// Registered builders: mlp, lenet, lenet_bn, vgg19_bn, vgg_small, resnet20, resnet32, resnet56, wide_resnet32,
/// resnet18, resnet34, resnet50 (ImageNet form, torchvision names), resnet18_cifar, resnet34_cifar,
/// resnet50_cifar, wrn_22_2, wrn_28_10.
std::vector<std::string> model_names();
/// One line about `name`.
std::string model_summary(const std::string& name);
/// ArgumentError with did-you-mean for an unknown name, or for options the network cannot take.
Graph build_graph(const std::string& name, const ModelOptions& options = {});

}  // namespace glyptic::nn
