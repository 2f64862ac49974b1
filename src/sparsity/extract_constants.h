// Which channels of a network are constants in eval mode, whatever the input, and which.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "glyptic/core/named_tensor.h"
#include "glyptic/nn/graph.h"

namespace glyptic::sparsity {

/// Per entry of dimension 1 of a node's output: the value that it has at every position of every sample.
using ChannelConstants = std::vector<std::optional<double>>;

/// One vector per node. A filter that is zero, or that reads only constants (not across a zero-padded border,
/// unless they are zero), gives a constant; normalisation, activations, pooling, flatten, add, mul and concat
/// carry it on.
std::vector<ChannelConstants> channel_constants(const nn::Graph& graph, const NamedTensors& tensors);

/// Whether a constant input channel of this convolution or linear layer adds the same to every output
/// position.
bool reads_constants_evenly(const nn::Node& node);

/// For a weight [O, I, ...]: bytes [O * I], 1 where any entry of the kernel is not zero.
std::vector<unsigned char> nonzero_kernels(const at::Tensor& weight);

}  // namespace glyptic::sparsity
