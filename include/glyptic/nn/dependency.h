// Channel dependencies: which slices of which tensors live and die together (the grouping idea of DepGraph,
// arXiv 2301.12900, worked out here on our own graph).
#pragma once

#include <string>
#include <vector>

#include "glyptic/nn/graph.h"

namespace glyptic::nn {

/// One use of a channel space by a tensor. Channel j of the space owns the indices offset + j * repeat ... +
/// repeat - 1 of `dim` (repeat > 1 after flattening [C, H, W]; offset > 0 after a concat).
struct Slice {
  int node = -1;
  std::string tensor;
  int dim = 0;
  int64_t offset = 0;
  int64_t repeat = 1;
};

/// An index space of channels.
struct ChannelSpace {
  int id = 0;
  int64_t channels = 0;
  std::string name;               ///< weight of the first producer
  std::vector<Slice> producers;   ///< output rows of conv / linear weights (and depthwise weights)
  std::vector<Slice> companions;  ///< biases, normalisation affine and statistics
  std::vector<Slice> consumers;   ///< input slices of conv / linear weights
  std::vector<int> nodes;         ///< every node whose output carries this space
  bool is_input = false;          ///< reaches the network's input: never pruned
  bool is_output = false;         ///< reaches the network's output: never pruned
  bool residual = false;          ///< carried by an add, a mul of two branches, or a scatter
  std::string fixed_because;  ///< not empty: never prunable, and why ("LayerNorm over channels in 'norm'")
  bool prunable() const { return !is_input && !is_output && fixed_because.empty(); }
};

/// All spaces, ordered by their first producer.
std::vector<ChannelSpace> channel_spaces(const Graph& graph);

/// A Chase channel group (a -> p): the active tensor's output rows are the passive tensors' input slices.
struct ChannelGroup {
  std::string active;             ///< weight whose rows are the channels
  std::vector<Slice> passive;     ///< input slices that read them
  std::vector<Slice> companions;  ///< the active's bias; normalisation in between
  int64_t channels = 0;
};

/// The groups that may lose channels without touching anything shared: one producer, not residual, not input
/// or output. With `conv_to_linear = false` (as in the released Chase code) a convolution whose channels are
/// read by a linear layer is left out; linear -> linear always counts.
std::vector<ChannelGroup> prunable_groups(const Graph& graph, bool conv_to_linear = false);

}  // namespace glyptic::nn
