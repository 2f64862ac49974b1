// A graph with its tensors: the networks of the C++ API and of the command line.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "glyptic/core/named_tensor.h"
#include "glyptic/core/rng.h"
#include "glyptic/nn/graph.h"

namespace glyptic::nn {

struct Program;  // the graph compiled for the interpreter: private to model.cpp

/// Copies of a Model share its tensors, as copies of a tensor share its storage.
class Model {
 public:
  /// Initialises every tensor by its TensorSpec; tensor `name` draws from `rng.child(stream_id(name))`, so a
  /// tensor's values depend on the seed and its own name alone.
  Model(Graph graph, const RngStream& rng);
  /// Takes tensors as they are (shared, not copied); trained ones become leaves that require grad.
  /// ArgumentError naming a missing tensor, one that the graph has no place for, a wrong shape or dtype, or a
  /// trained tensor that is the result of a computation.
  Model(Graph graph, const NamedTensors& tensors);

  const Graph& graph() const { return graph_; }

  /// x: [N, C, H, W] (or [N, F]) -> the output node, e.g. logits [N, classes]. Differentiable; an activation
  /// is released after its last reader. In training mode BatchNorm uses batch statistics and moves its
  /// buffers once per call. A bfloat16 or float16 x on a float32 model computes in x's dtype on the float32
  /// masters (normalisation parameters and statistics stay float32); float64 needs `to(at::kDouble)` first.
  at::Tensor forward(const at::Tensor& x) const;
  /// All nodes' outputs (for hooks and tests), none of them overwritten by a later node.
  std::vector<at::Tensor> forward_all(const at::Tensor& x) const;

  void train(bool on = true) { training_ = on; }
  bool is_training() const { return training_; }

  NamedTensors parameters() const;  ///< trainable, in graph order; leaves that require grad
  NamedTensors buffers() const;
  NamedTensors state() const;  ///< both, in graph order
  /// Copies values into the existing tensors. ArgumentError (which tensor, both shapes) on any mismatch,
  /// before anything is changed; `strict = false` ignores names that are on one side only.
  void load(const NamedTensors& values, bool strict = true);

  /// The tensors keep their identity (optimizers and masks that hold them stay valid); gradients move along.
  void to(const at::Device& device);
  void to(at::MemoryFormat format);  ///< 4-D weights to NCHW or channels-last
  void to(at::ScalarType dtype);     ///< every floating-point tensor
  void zero_grad();                  ///< gradients become undefined, as in torch

  /// Dropout draws from torch's default generator, as torch.nn does, until it is given a stream: then a mask
  /// is a function of the stream and the node's name alone, so two forward passes drop the same and a resumed
  /// run repeats. Give each training step its own: `model.seed_dropout(rng.child(step))`.
  void seed_dropout(const RngStream& rng) { dropout_ = rng; }

 private:
  template <class Convert>
  void convert(const Convert& convert);
  at::Tensor run(const at::Tensor& x, std::vector<at::Tensor>* outputs) const;

  Graph graph_;
  NamedTensors tensors_;
  std::shared_ptr<const Program> program_;
  std::optional<RngStream> dropout_;
  bool training_ = true;
};

/// Options every builder understands. Zero / empty means the network's own default.
struct ModelOptions {
  int64_t num_classes = 0;           ///< 0: 1000 for the ImageNet forms, 10 for the others
  std::vector<int64_t> input_shape;  ///< {C, H, W}; mlp also takes {F}
  std::vector<int64_t> widths;       ///< mlp: hidden sizes; vgg-like: channels per conv
  double width = 1.0;                ///< multiplies every hidden width, at least 1
  double dropout = 0.0;              ///< mlp, lenet and vgg: before linear layers; wrn: between the two convs
  std::string conv_init;             ///< fan_in | fan_out: Kaiming normal by that fan in every convolution
};

/// Registered builders, all with logits out: mlp, lenet, lenet_bn, vgg19_bn, vgg_small, resnet20, resnet32,
/// resnet56, wide_resnet32, resnet18, resnet34, resnet50 (ImageNet form, torchvision names), resnet18_cifar,
/// resnet34_cifar, resnet50_cifar, wrn_22_2, wrn_28_10.
std::vector<std::string> model_names();
/// One line about `name`.
std::string model_summary(const std::string& name);
/// ArgumentError with did-you-mean for an unknown name, or for options the network cannot take.
Graph build_graph(const std::string& name, const ModelOptions& options = {});

}  // namespace glyptic::nn
