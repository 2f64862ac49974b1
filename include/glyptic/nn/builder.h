// Writes a `Graph` the way one writes a forward pass. Each call adds a node and returns its number, which
// later calls read; input widths are inferred, tensors are named "<node>.weight" and so on, as a
// torch.nn.Module of that name would call them.
//
//   GraphBuilder b;
//   auto x = b.input({1, 28, 28});
//   x = b.relu(b.batch_norm("bn1", b.conv("conv1", x, 64, 3, {.padding = 1, .bias = false})));
//   x = b.flatten(b.global_avg_pool(x));
//   Graph graph = b.build(b.linear("fc", x, 10));
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "glyptic/nn/graph.h"

namespace glyptic::nn {

/// A size in both directions: `3` is 3 x 3, `{1, 3}` one row of three.
struct Extent {
  int64_t h, w;
  Extent(int64_t both) : h(both), w(both) {}  // NOLINT(google-explicit-constructor): kernels read as numbers
  Extent(int64_t rows, int64_t columns) : h(rows), w(columns) {}
};

/// Defaults are those of torch.nn.Conv2d, initialisation included. `init` and `bias_init` as in
/// TensorSpec::init.
struct ConvOptions {
  Extent stride = 1;
  Extent padding = 0;
  Extent dilation = 1;
  int64_t groups = 1;
  bool bias = true;
  std::string padding_mode = "zeros";  ///< zeros | reflect | replicate | circular
  std::string init = "kaiming_uniform";
  std::string bias_init = "fan_in_uniform";
};

struct LinearOptions {
  bool bias = true;
  std::string init = "kaiming_uniform";
  std::string bias_init = "fan_in_uniform";
};

struct NormOptions {
  bool affine = true;
  double eps = 1e-5;
  double momentum = 0.1;  ///< batch_norm only
};

struct PoolOptions {
  Extent stride = 0;  ///< 0: the kernel
  Extent padding = 0;
};

class GraphBuilder {
 public:
  using NodeId = int;

  /// First of all calls, once. Shape without the batch dimension.
  NodeId input(std::vector<int64_t> shape);

  NodeId conv(const std::string& name, NodeId x, int64_t channels, Extent kernel,
              const ConvOptions& options = {});
  /// groups = channels of x.
  NodeId depthwise_conv(const std::string& name, NodeId x, Extent kernel, ConvOptions options = {});
  NodeId linear(const std::string& name, NodeId x, int64_t features, const LinearOptions& options = {});
  NodeId batch_norm(const std::string& name, NodeId x, const NormOptions& options = {});
  NodeId layer_norm(const std::string& name, NodeId x, const NormOptions& options = {});
  NodeId group_norm(const std::string& name, NodeId x, int64_t groups, const NormOptions& options = {});

  NodeId relu(NodeId x) { return plain(Op::relu, {x}); }
  NodeId gelu(NodeId x) { return plain(Op::gelu, {x}); }
  NodeId silu(NodeId x) { return plain(Op::silu, {x}); }
  NodeId sigmoid(NodeId x) { return plain(Op::sigmoid, {x}); }
  NodeId tanh(NodeId x) { return plain(Op::tanh, {x}); }
  NodeId dropout(NodeId x, double p);  ///< x itself when p is 0
  NodeId max_pool(NodeId x, Extent kernel, const PoolOptions& options = {});
  NodeId avg_pool(NodeId x, Extent kernel, const PoolOptions& options = {});
  NodeId global_avg_pool(NodeId x) { return plain(Op::global_avg_pool, {x}); }
  NodeId flatten(NodeId x) { return plain(Op::flatten, {x}); }
  NodeId add(std::vector<NodeId> terms) { return plain(Op::add, std::move(terms)); }
  NodeId mul(NodeId x, NodeId gate) { return plain(Op::mul, {x, gate}); }
  NodeId concat(std::vector<NodeId> parts) { return plain(Op::concat, std::move(parts)); }
  NodeId log_softmax(NodeId x) { return plain(Op::log_softmax, {x}); }

  /// Any node; the calls above are short for this. Tensors must have been added.
  NodeId node(Node node);
  void tensor(TensorSpec spec);

  /// Shape of a node's output, without the batch dimension.
  const std::vector<int64_t>& shape(NodeId x) const;
  int64_t channels(NodeId x) const { return shape(x).front(); }

  /// Ends the network in `x`. The graph is validated.
  Graph build(NodeId x, const std::string& model = "");

 private:
  NodeId plain(Op op, std::vector<NodeId> inputs);
  NodeId normalise(Op op, const std::string& name, NodeId x, int64_t size, const NormOptions& options,
                   int64_t groups);

  Graph graph_;
  std::vector<std::vector<int64_t>> shapes_;
};

}  // namespace glyptic::nn
