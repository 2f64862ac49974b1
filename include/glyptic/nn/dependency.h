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
  std::string name;  ///< weight of the first producer; without one, the first node that carries it
  std::vector<Slice> producers;   ///< output rows of conv / linear weights (and depthwise weights)
  std::vector<Slice> companions;  ///< biases, normalisation affine and statistics
  std::vector<Slice> consumers;   ///< input slices of conv / linear weights
  std::vector<int> nodes;         ///< every node whose output carries this space
  bool is_input = false;          ///< reaches the network's input: never pruned
  bool is_output = false;         ///< reaches the network's output: never pruned
  bool residual = false;          ///< carried by an add, a mul of two branches, or a scatter
  std::string fixed_because;  ///< not empty: never prunable, and why ("'w' is shared by nodes 'a' and 'b'")
  /// Not empty: removal shifts other channels' values, and why ("LayerNorm 'norm' normalises over the
  /// channels").
  std::string inexact_because;
  bool prunable(bool allow_inexact = false) const {
    return !is_input && !is_output && fixed_because.empty() && (allow_inexact || inexact_because.empty());
  }
};

/// A stretch of a node's channel dimension (dimension 1, or the features): the channels of one space, each
/// `repeat` entries wide.
struct Segment {
  int space = 0;
  int64_t channels = 0;
  int64_t repeat = 1;
  int64_t size() const { return channels * repeat; }
};

/// All spaces, and what each node's output is made of: one segment, or several after a concat.
struct ChannelMap {
  std::vector<ChannelSpace> spaces;           ///< `spaces[i].id == i`, ordered by their first producer
  std::vector<std::vector<Segment>> outputs;  ///< per node
};
ChannelMap map_channels(const Graph& graph);

/// All spaces, ordered by their first producer. Refused rather than guessed (`fixed_because`): tensors that
/// two nodes share, grouped convolutions other than depthwise ones, GroupNorm over several channels a group,
/// linear layers and LayerNorm over another dimension than the channels, log-softmax, broadcasts over
/// channels, and sums of concatenations that do not line up.
std::vector<ChannelSpace> channel_spaces(const Graph& graph);

/// A Chase channel group (a -> p): the active tensor's output rows are the passive tensors' input slices.
struct ChannelGroup {
  std::string active;             ///< weight whose rows are the channels
  std::vector<Slice> passive;     ///< input slices that read them
  std::vector<Slice> companions;  ///< the active's bias; normalisation and depthwise filters in between
  int64_t channels = 0;
};

/// The groups that may lose channels without touching anything shared: one producer and one reader, not
/// residual, not input or output. (So a stem that feeds both a block and its shortcut is exempt, as in
/// Chase.) With `conv_to_linear = false`, as in the released Chase code, a convolution whose channels are
/// read by a linear layer is left out; linear -> linear always counts.
std::vector<ChannelGroup> prunable_groups(const Graph& graph, bool conv_to_linear = false);

/// Weights of all convolutions and linear layers in the order of the graph, each once: what sparse training
/// masks.
std::vector<std::string> prunable_weights(const Graph& graph);

}  // namespace glyptic::nn
