#include "glyptic/nn/builder.h"

#include "glyptic/core/error.h"
#include "shapes.h"

namespace glyptic::nn {
namespace {

Attribute ints(std::vector<int64_t> values) {
  return {std::move(values), {}, {}};
}
Attribute real(double value) {
  return {{}, {value}, {}};
}
Attribute word(std::string value) {
  return {{}, {}, std::move(value)};
}
Attribute extent(const Extent& value) {
  return ints({value.h, value.w});
}

}  // namespace

GraphBuilder::NodeId GraphBuilder::node(Node node) {
  std::vector<Shape> inputs;
  for (const int input : node.inputs) inputs.push_back(shape(input));
  shapes_.push_back(
      infer_shape(node, inputs, [&](const std::string& name) { return graph_.find_tensor(name); }));
  graph_.nodes.push_back(std::move(node));
  return static_cast<NodeId>(graph_.nodes.size()) - 1;
}

void GraphBuilder::tensor(TensorSpec spec) {
  require(graph_.find_tensor(spec.name) == nullptr, "GraphBuilder: two tensors are called '", spec.name, "'");
  graph_.tensors.push_back(std::move(spec));
}

const std::vector<int64_t>& GraphBuilder::shape(NodeId x) const {
  require(0 <= x && static_cast<std::size_t>(x) < shapes_.size(), "GraphBuilder: there is no node number ",
          x);
  return shapes_[static_cast<std::size_t>(x)];
}

GraphBuilder::NodeId GraphBuilder::plain(Op op, std::vector<NodeId> inputs) {
  return node({str(op_name(op), "_", graph_.nodes.size()), op, std::move(inputs), {}, {}});
}

GraphBuilder::NodeId GraphBuilder::input(std::vector<int64_t> shape) {
  require(graph_.nodes.empty(), "GraphBuilder: input() must be the first call, and the only one");
  return node({"input", Op::input, {}, {}, {{"shape", ints(std::move(shape))}}});
}

GraphBuilder::NodeId GraphBuilder::conv(const std::string& name, NodeId x, int64_t channels, Extent kernel,
                                        const ConvOptions& options) {
  const auto in = shape(x).front();
  require(channels >= 1, "conv '", name, "': ", channels, " output channels");
  require(options.groups >= 1 && in % options.groups == 0, "conv '", name, "': groups = ", options.groups,
          " does not divide ", in, " input channels");
  Node node{name, Op::conv2d, {x}, {{"weight", name + ".weight"}}, {}};
  node.attributes["stride"] = extent(options.stride);
  node.attributes["padding"] = extent(options.padding);
  if (options.dilation.h != 1 || options.dilation.w != 1)
    node.attributes["dilation"] = extent(options.dilation);
  if (options.groups != 1) node.attributes["groups"] = ints({options.groups});
  if (options.padding_mode != "zeros") node.attributes["padding_mode"] = word(options.padding_mode);
  const auto fan_in = in / options.groups;
  tensor({name + ".weight", {channels, fan_in, kernel.h, kernel.w}, true, "float32", options.init, 0});
  if (options.bias) {
    node.tensors["bias"] = name + ".bias";
    tensor({name + ".bias",
            {channels},
            true,
            "float32",
            options.bias_init,
            options.bias_init == "fan_in_uniform" ? fan_in * kernel.h * kernel.w : 0});
  }
  return this->node(std::move(node));
}

GraphBuilder::NodeId GraphBuilder::depthwise_conv(const std::string& name, NodeId x, Extent kernel,
                                                  ConvOptions options) {
  options.groups = channels(x);
  return conv(name, x, channels(x), kernel, options);
}

GraphBuilder::NodeId GraphBuilder::linear(const std::string& name, NodeId x, int64_t features,
                                          const LinearOptions& options) {
  require(features >= 1, "linear '", name, "': ", features, " output features");
  const auto in = shape(x).back();
  Node node{name, Op::linear, {x}, {{"weight", name + ".weight"}}, {}};
  tensor({name + ".weight", {features, in}, true, "float32", options.init, 0});
  if (options.bias) {
    node.tensors["bias"] = name + ".bias";
    tensor({name + ".bias",
            {features},
            true,
            "float32",
            options.bias_init,
            options.bias_init == "fan_in_uniform" ? in : 0});
  }
  return this->node(std::move(node));
}

GraphBuilder::NodeId GraphBuilder::normalise(Op op, const std::string& name, NodeId x, int64_t size,
                                             const NormOptions& options, int64_t groups) {
  Node node{name, op, {x}, {}, {{"eps", real(options.eps)}}};
  const auto add = [&](const char* role, Shape shape, bool trainable, const char* dtype, const char* init) {
    node.tensors[role] = name + "." + role;
    tensor({name + "." + role, std::move(shape), trainable, dtype, init, 0});
  };
  if (options.affine) {
    add("weight", {size}, true, "float32", "ones");
    add("bias", {size}, true, "float32", "zeros");
  }
  if (op == Op::batch_norm) {
    node.attributes["momentum"] = real(options.momentum);
    add("running_mean", {size}, false, "float32", "zeros");
    add("running_var", {size}, false, "float32", "ones");
    add("num_batches_tracked", {}, false, "int64", "zeros");
  }
  if (op == Op::group_norm) node.attributes["num_groups"] = ints({groups});
  return this->node(std::move(node));
}

GraphBuilder::NodeId GraphBuilder::batch_norm(const std::string& name, NodeId x, const NormOptions& options) {
  return normalise(Op::batch_norm, name, x, shape(x).front(), options, 0);
}

GraphBuilder::NodeId GraphBuilder::layer_norm(const std::string& name, NodeId x, const NormOptions& options) {
  return normalise(Op::layer_norm, name, x, shape(x).back(), options, 0);
}

GraphBuilder::NodeId GraphBuilder::group_norm(const std::string& name, NodeId x, int64_t groups,
                                              const NormOptions& options) {
  return normalise(Op::group_norm, name, x, shape(x).front(), options, groups);
}

GraphBuilder::NodeId GraphBuilder::dropout(NodeId x, double p) {
  if (p == 0) return x;
  return node({str("dropout_", graph_.nodes.size()), Op::dropout, {x}, {}, {{"p", real(p)}}});
}

GraphBuilder::NodeId GraphBuilder::max_pool(NodeId x, Extent kernel, const PoolOptions& options) {
  return node({str("max_pool2d_", graph_.nodes.size()),
               Op::max_pool2d,
               {x},
               {},
               {{"kernel", extent(kernel)},
                {"stride", extent(options.stride.h == 0 ? kernel : options.stride)},
                {"padding", extent(options.padding)}}});
}

GraphBuilder::NodeId GraphBuilder::avg_pool(NodeId x, Extent kernel, const PoolOptions& options) {
  return node({str("avg_pool2d_", graph_.nodes.size()),
               Op::avg_pool2d,
               {x},
               {},
               {{"kernel", extent(kernel)},
                {"stride", extent(options.stride.h == 0 ? kernel : options.stride)},
                {"padding", extent(options.padding)}}});
}

Graph GraphBuilder::build(NodeId x, const std::string& model) {
  node({"output", Op::output, {x}, {}, {}});
  auto graph = graph_;
  graph_.nodes.pop_back();  // the builder may go on, or end elsewhere
  shapes_.pop_back();
  graph.model = model;
  graph.validate();
  return graph;
}

}  // namespace glyptic::nn
