// Shape inference of one node: shared by the builder (which needs input widths while it writes a network), by
// `node_shapes` and by `Graph::validate`.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "glyptic/nn/graph.h"

namespace glyptic::nn {

using Shape = std::vector<int64_t>;

/// "[64, 3, 3, 3]".
std::string shape_text(const Shape& shape);

/// Product of the dimensions; ArgumentError naming `what` when it does not fit in 48 bits.
int64_t checked_numel(const Shape& shape, const std::string& what);

/// The spec of a tensor name, nullptr when there is none.
using TensorLookup = std::function<const TensorSpec*(const std::string&)>;

/// Output shape (without batch) of `node` whose inputs have the shapes `inputs`; every tensor the node uses
/// is checked against them. ArgumentError that names the node and, where one is to blame, the tensor.
Shape infer_shape(const Node& node, const std::vector<Shape>& inputs, const TensorLookup& find);

/// Attributes of a convolution or pooling as plain numbers.
struct Window {
  int64_t kernel[2] = {1, 1}, stride[2] = {1, 1}, padding[2] = {0, 0}, dilation[2] = {1, 1};
};

/// `key` as {h, w}: one number stands for both.
void read_pair(const Node& node, const std::string& key, int64_t otherwise, int64_t out[2]);
Window read_pool_window(const Node& node);
Window read_conv_window(const Node& node, const Shape& weight);

}  // namespace glyptic::nn
