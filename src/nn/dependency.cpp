#include "glyptic/nn/dependency.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "glyptic/core/error.h"

namespace glyptic::nn {
namespace {

bool is_depthwise(const Node& node, const std::vector<int64_t>& in, const std::vector<int64_t>& out) {
  return node.op == Op::conv2d && node.integer("groups", 1) > 1 && node.integer("groups", 1) == in[0] &&
         in[0] == out[0];
}

// Walks the nodes once: a producer opens a space, an add unites those of its operands, everything else passes
// its input's on. Spaces are kept in a union-find until the walk ends.
class Tracer {
 public:
  explicit Tracer(const Graph& graph) : graph_(graph), shapes_(node_shapes(graph)) {}

  ChannelMap trace() {
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) outputs_.push_back(visit(i));
    fix_shared_tensors();
    return collect();
  }

 private:
  using Segments = std::vector<Segment>;

  int open(int64_t channels) {
    const int id = static_cast<int>(parents_.size());
    parents_.push_back(id);
    ChannelSpace space;
    space.channels = channels;
    spaces_.push_back(std::move(space));
    return id;
  }

  int root(int id) {
    while (parents_[static_cast<std::size_t>(id)] != id) id = parents_[static_cast<std::size_t>(id)];
    return id;
  }

  ChannelSpace& space(int id) { return spaces_[static_cast<std::size_t>(root(id))]; }

  void unite(int a, int b) {
    a = root(a);
    b = root(b);
    if (a == b) return;
    if (b < a) std::swap(a, b);
    parents_[static_cast<std::size_t>(b)] = a;
    auto& into = spaces_[static_cast<std::size_t>(a)];
    const auto& from = spaces_[static_cast<std::size_t>(b)];
    into.is_input |= from.is_input;
    into.is_output |= from.is_output;
    into.residual |= from.residual;
    if (into.fixed_because.empty()) into.fixed_because = from.fixed_because;
    if (into.inexact_because.empty()) into.inexact_because = from.inexact_because;
  }

  void fix(const Segments& segments, const std::string& why) {
    for (const auto& segment : segments)
      if (auto& reason = space(segment.space).fixed_because; reason.empty()) reason = why;
  }

  void join(const Segments& a, const Segments& b, const Node& node) {
    const bool lined_up = std::equal(
        a.begin(), a.end(), b.begin(), b.end(),
        [](const Segment& x, const Segment& y) { return x.channels == y.channels && x.repeat == y.repeat; });
    if (!lined_up) {
      const auto why = str(op_name(node.op), " '", node.name, "' joins concatenations that do not line up");
      fix(a, why);
      fix(b, why);
    }
    for (std::size_t i = 0; lined_up && i < a.size(); ++i) unite(a[i].space, b[i].space);
    for (const auto* segments : {&a, &b})
      for (const auto& segment : *segments) space(segment.space).residual = true;
  }

  Segments fresh(int64_t channels) { return {{open(channels), channels, 1}}; }

  Segments fresh_fixed(int64_t channels, const std::string& why) {
    auto segments = fresh(channels);
    fix(segments, why);
    return segments;
  }

  Segments visit(std::size_t index) {
    const auto& node = graph_.nodes[index];
    const auto& shape = shapes_[index];
    const auto in = [&](std::size_t k) -> const Segments& {
      return outputs_[static_cast<std::size_t>(node.inputs[k])];
    };
    const auto in_shape = [&](std::size_t k) -> const std::vector<int64_t>& {
      return shapes_[static_cast<std::size_t>(node.inputs[k])];
    };
    switch (node.op) {
      case Op::input: {
        auto segments = fresh(shape[0]);
        space(segments[0].space).is_input = true;
        return segments;
      }
      case Op::conv2d: {
        if (is_depthwise(node, in_shape(0), shape)) return in(0);
        if (node.integer("groups", 1) == 1) return fresh(shape[0]);
        const auto why = str("convolution '", node.name, "' has groups that are not depthwise");
        fix(in(0), why);
        return fresh_fixed(shape[0], why);
      }
      case Op::linear: {
        if (shape.size() == 1) return fresh(shape[0]);
        const auto why = str("linear '", node.name, "' acts on another dimension than the channels");
        fix(in(0), why);
        return fresh_fixed(shape[0], why);
      }
      case Op::layer_norm:
        if (shape.size() > 1) {
          fix(in(0), str("LayerNorm '", node.name, "' acts on another dimension than the channels"));
        } else {
          for (const auto& segment : in(0))
            if (auto& why = space(segment.space).inexact_because; why.empty())
              why = str("LayerNorm '", node.name, "' normalises over the channels");
        }
        return in(0);
      case Op::group_norm:
        if (node.integer("num_groups", 1) != shape[0])
          fix(in(0), str("GroupNorm '", node.name, "' normalises over several channels"));
        return in(0);
      case Op::flatten: {
        auto segments = in(0);
        for (auto& segment : segments) segment.repeat *= shape[0] / in_shape(0)[0];
        return segments;
      }
      case Op::add:
        for (std::size_t k = 1; k < node.inputs.size(); ++k) join(in(0), in(k), node);
        return in(0);
      case Op::mul:
        if (in_shape(0)[0] == in_shape(1)[0]) {
          join(in(0), in(1), node);
          return in(0);
        } else {
          const std::size_t gate = in_shape(0)[0] == 1 ? 0 : 1;
          fix(in(gate), str("mul '", node.name, "' broadcasts its one channel"));
          return in(1 - gate);
        }
      case Op::concat: {
        Segments segments;
        for (std::size_t k = 0; k < node.inputs.size(); ++k)
          segments.insert(segments.end(), in(k).begin(), in(k).end());
        return segments;
      }
      case Op::log_softmax:
        fix(in(0), str("log-softmax '", node.name, "' normalises over the channels"));
        return in(0);
      case Op::gather:
      case Op::scatter: {
        const auto why = str(op_name(node.op), " '", node.name, "' numbers its channels");
        fix(in(0), why);
        auto segments = fresh_fixed(shape[0], why);
        space(segments[0].space).residual = node.op == Op::scatter;
        return segments;
      }
      case Op::output:
        for (const auto& segment : in(0)) space(segment.space).is_output = true;
        return in(0);
      case Op::batch_norm:
      case Op::relu:
      case Op::gelu:
      case Op::silu:
      case Op::sigmoid:
      case Op::tanh:
      case Op::dropout:
      case Op::max_pool2d:
      case Op::avg_pool2d:
      case Op::global_avg_pool:
      case Op::identity:
        return in(0);
    }
    throw ArgumentError(str("node '", node.name, "': unknown operation"));
  }

  // A slice taken out of a tensor for one node would be missing for the other.
  void fix_shared_tensors() {
    std::map<std::string, std::size_t> users;
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i)
      for (const auto& [role, tensor] : graph_.nodes[i].tensors) {
        const auto [found, first] = users.emplace(tensor, i);
        if (first) continue;
        const auto& other = graph_.nodes[found->second];
        const auto why =
            str("'", tensor, "' is shared by nodes '", other.name, "' and '", graph_.nodes[i].name, "'");
        for (const auto user : {found->second, i}) {
          fix(outputs_[user], why);
          for (const int input : graph_.nodes[user].inputs)
            fix(outputs_[static_cast<std::size_t>(input)], why);
        }
      }
  }

  void add_slices(std::vector<Slice> ChannelSpace::*list, std::size_t node, const std::string& role, int dim,
                  const Segments& segments) {
    const auto tensor = graph_.nodes[node].tensor(role);
    if (tensor.empty()) return;
    int64_t offset = 0;
    for (const auto& segment : segments) {
      (space(segment.space).*list).push_back({static_cast<int>(node), tensor, dim, offset, segment.repeat});
      offset += segment.size();
    }
  }

  ChannelMap collect() {
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
      const auto& node = graph_.nodes[i];
      const auto& out = outputs_[i];
      const bool filters = node.op == Op::conv2d || (node.op == Op::linear && shapes_[i].size() == 1);
      if (filters) {
        add_slices(&ChannelSpace::producers, i, "weight", 0, out);
        add_slices(&ChannelSpace::companions, i, "bias", 0, out);
        if (node.integer("groups", 1) == 1)
          add_slices(&ChannelSpace::consumers, i, "weight", 1,
                     outputs_[static_cast<std::size_t>(node.inputs[0])]);
      } else if (node.op != Op::linear) {
        for (const auto* role : {"weight", "bias", "running_mean", "running_var"})
          add_slices(&ChannelSpace::companions, i, role, 0, out);
      }
      for (const auto& segment : out) {
        auto& nodes = space(segment.space).nodes;
        if (nodes.empty() || nodes.back() != static_cast<int>(i)) nodes.push_back(static_cast<int>(i));
      }
    }

    std::vector<int> order;
    for (std::size_t id = 0; id < spaces_.size(); ++id)
      if (parents_[id] == static_cast<int>(id)) order.push_back(static_cast<int>(id));
    const auto first = [&](int id) {
      const auto& space = spaces_[static_cast<std::size_t>(id)];
      return space.producers.empty() ? space.nodes.front() : space.producers.front().node;
    };
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return first(a) < first(b); });

    ChannelMap map;
    std::vector<int> number(spaces_.size(), -1);
    for (const int id : order) {
      auto& space = spaces_[static_cast<std::size_t>(id)];
      space.id = number[static_cast<std::size_t>(id)] = static_cast<int>(map.spaces.size());
      space.name = space.producers.empty() ? graph_.nodes[static_cast<std::size_t>(space.nodes.front())].name
                                           : space.producers.front().tensor;
      map.spaces.push_back(std::move(space));
    }
    for (auto& segments : outputs_)
      for (auto& segment : segments) segment.space = number[static_cast<std::size_t>(root(segment.space))];
    map.outputs = std::move(outputs_);
    return map;
  }

  const Graph& graph_;
  std::vector<std::vector<int64_t>> shapes_;
  std::vector<int> parents_;
  std::vector<ChannelSpace> spaces_;
  std::vector<Segments> outputs_;
};

}  // namespace

ChannelMap map_channels(const Graph& graph) {
  return Tracer(graph).trace();
}

std::vector<ChannelSpace> channel_spaces(const Graph& graph) {
  return map_channels(graph).spaces;
}

std::vector<ChannelGroup> prunable_groups(const Graph& graph, bool conv_to_linear) {
  const auto op = [&](const Slice& slice) { return graph.nodes[static_cast<std::size_t>(slice.node)].op; };
  const auto depthwise = [&](const Slice& slice) {
    return graph.nodes[static_cast<std::size_t>(slice.node)].integer("groups", 1) > 1;
  };
  std::vector<ChannelGroup> groups;
  for (const auto& space : channel_spaces(graph)) {
    if (!space.prunable() || space.residual || space.consumers.empty()) continue;
    ChannelGroup group;
    group.companions = space.companions;
    group.passive = space.consumers;
    group.channels = space.channels;
    std::vector<Slice> active;
    for (const auto& producer : space.producers)
      (depthwise(producer) ? group.companions : active).push_back(producer);
    const auto elsewhere = [&](const Slice& slice) { return slice.tensor != space.consumers.front().tensor; };
    if (active.size() != 1 || std::any_of(space.consumers.begin(), space.consumers.end(), elsewhere))
      continue;
    const bool into_linear = std::any_of(space.consumers.begin(), space.consumers.end(),
                                         [&](const Slice& slice) { return op(slice) == Op::linear; });
    if (op(active[0]) == Op::conv2d && into_linear && !conv_to_linear) continue;
    group.active = active[0].tensor;
    groups.push_back(std::move(group));
  }
  return groups;
}

std::vector<std::string> prunable_weights(const Graph& graph) {
  std::vector<std::string> names;
  for (const auto& node : graph.nodes) {
    if (node.op != Op::conv2d && node.op != Op::linear) continue;
    const auto name = node.tensor("weight");
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  return names;
}

}  // namespace glyptic::nn
