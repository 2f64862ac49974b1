// What goes and what stays: `plan_extraction`. What a plan then does with tensors is in extract_plan.cpp.
#include "glyptic/sparsity/extract.h"

#include <torch/torch.h>

#include <numeric>
#include <set>
#include <utility>

#include "extract_constants.h"
#include "glyptic/core/error.h"

namespace glyptic::sparsity {
namespace {

using nn::ChannelSpace;
using nn::Node;
using nn::Op;
using nn::Slice;

using Flags = std::vector<unsigned char>;

std::size_t as_index(int64_t i) {
  return static_cast<std::size_t>(i);
}

int64_t count(const Flags& flags) {
  return std::count(flags.begin(), flags.end(), 1);
}

std::vector<int64_t> positions(const Flags& flags) {
  std::vector<int64_t> list;
  for (std::size_t i = 0; i < flags.size(); ++i)
    if (flags[i]) list.push_back(static_cast<int64_t>(i));
  return list;
}

// What a layer makes of one entry of its input. Worse is later.
enum class Fate {
  unread,      // the weights on it are zero, in every row that stays
  zero,        // it is the constant 0
  absorbable,  // it is a constant that reaches every output position alike
  border,      // it is a constant, but zero padding makes the border see less of it
  varies       // it depends on the input
};

// A convolution (not grouped) or linear layer, and which of its kernels are not zero.
struct Filter {
  int node = -1;
  int input = -1;
  std::string weight;
  int64_t rows = 0, columns = 0;
  std::vector<unsigned char> used;  // [rows * columns]
};

class Planner {
 public:
  Planner(const nn::Graph& graph, const NamedTensors& tensors, const std::vector<Liveness>& liveness,
          const ExtractOptions& options)
      : graph_(graph), options_(options), explicit_(!liveness.empty()) {
    require(options.round_to >= 1, "plan_extraction: round_to is ", options.round_to, ", expected 1 or more");
    graph.validate();
    index_tensors(tensors);
    map_ = nn::map_channels(graph);
    constants_ = channel_constants(graph, tensors);
    for (const auto& space : map_.spaces) alive_.emplace_back(as_index(space.channels), 1);
    for (std::size_t i = 0; i < graph.nodes.size(); ++i)
      readers_.push_back(graph.consumers(static_cast<int>(i)));
    index_filters();
    read_liveness(liveness);
  }

  ExtractionPlan plan() {
    if (explicit_)
      judge_declared();
    else
      infer_dead();
    for (const auto& space : map_.spaces)
      if (candidate(space)) drop(space, keep_enough(space));
    if (options_.residual == Residual::index_add) {
      for (const auto& space : map_.spaces)
        if (shared(space))
          for (const auto& producer : space.producers) shorten_branch(space, producer);
      for (const auto& filter : filters_) narrow_reader(filter);
    }
    find_absorptions();
    build();
    note_widths();
    return std::move(plan_);
  }

 private:
  const Node& node(int index) const { return graph_.nodes[static_cast<std::size_t>(index)]; }

  void index_tensors(const NamedTensors& tensors) {
    check_names(tensors, "plan_extraction");
    for (const auto& entry : tensors) tensors_.emplace(entry.name, &entry.tensor);
    for (const auto& spec : graph_.tensors) {
      const auto found = tensors_.find(spec.name);
      require(found != tensors_.end(), "plan_extraction: tensor '", spec.name, "' is missing");
      require(found->second->sizes() == at::IntArrayRef(spec.shape), "plan_extraction: tensor '", spec.name,
              "' has shape ", shape_string(found->second->sizes()), ", expected ", shape_string(spec.shape));
    }
  }

  void index_filters() {
    filter_of_.assign(graph_.nodes.size(), -1);
    std::set<int> nodes;
    for (const auto& space : map_.spaces)
      for (const auto& slice : space.consumers) nodes.insert(slice.node);
    for (const int index : nodes) {
      const auto weight = node(index).tensor("weight");
      const auto& tensor = *tensors_.at(weight);
      filter_of_[static_cast<std::size_t>(index)] = static_cast<int>(filters_.size());
      filters_.push_back(
          {index, node(index).inputs[0], weight, tensor.size(0), tensor.size(1), nonzero_kernels(tensor)});
    }
  }

  // Which spaces may lose channels as a whole, and which are shared by an add and handled branch by branch.
  bool candidate(const ChannelSpace& space) const {
    return space.prunable(options_.allow_inexact) &&
           (!space.residual || options_.residual == Residual::all_dead);
  }
  bool shared(const ChannelSpace& space) const {
    return space.residual && space.prunable(options_.allow_inexact);
  }

  bool depthwise(const Slice& producer) const { return node(producer.node).integer("groups", 1) > 1; }

  // Liveness that was given
  // ------------------------------------------------------------------------------------

  void read_liveness(const std::vector<Liveness>& liveness) {
    std::map<std::string, const ChannelSpace*> space_of;
    std::vector<std::string> names;
    for (const auto& space : map_.spaces)
      for (const auto& producer : space.producers)
        if (space_of.emplace(producer.tensor, &space).second) names.push_back(producer.tensor);
    for (const auto& [weight, alive] : liveness) {
      const auto found = space_of.find(weight);
      require(found != space_of.end(), "liveness: no convolution or linear layer has a weight called '",
              weight, "'", did_you_mean(weight, names));
      const auto rows = tensors_.at(weight)->size(0);
      require(
          alive.defined() && alive.scalar_type() == at::kBool && alive.dim() == 1 && alive.size(0) == rows,
          "liveness of '", weight, "' must be a bool tensor of shape [", rows, "]");
      const auto flags = alive.to(at::kCPU).contiguous();
      Flags dead(as_index(rows));
      for (int64_t j = 0; j < rows; ++j) dead[as_index(j)] = !flags.data_ptr<bool>()[j];
      require(declared_.emplace(weight, dead).second, "liveness of '", weight, "' is given twice");
      if (count(dead) == 0) continue;
      const auto& space = *found->second;
      require(!space.is_output, "liveness of '", weight,
              "': its channels are the network's outputs; keep all alive");
      require(!space.is_input, "liveness of '", weight, "': its channels are tied to the network's inputs");
      require(space.fixed_because.empty(), "liveness of '", weight,
              "': its channels cannot be removed, because ", space.fixed_because);
      require(space.inexact_because.empty() || options_.allow_inexact, "liveness of '", weight,
              "': removing channels changes the others, because ", space.inexact_because,
              "; allow_inexact accepts it");
      if (space.residual && options_.residual == Residual::exempt)
        plan_.notes.push_back(
            str("'", weight, "': ", count(dead),
                " dead channels stay, because a residual sum shares them (residual = exempt)"));
    }
  }

  // Dead in every producer of the space. A depthwise filter follows its one producer: dead in either is dead.
  Flags declared_dead(const ChannelSpace& space) const {
    Flags dead(as_index(space.channels), 1), by_depthwise(as_index(space.channels), 0);
    std::size_t producers = 0;
    for (const auto& producer : space.producers) {
      const auto found = declared_.find(producer.tensor);
      const bool follows = depthwise(producer);
      producers += !follows;
      for (std::size_t j = 0; j < dead.size(); ++j) {
        const auto row = as_index(producer.offset) + j;
        const bool gone = found != declared_.end() && found->second[row];
        if (follows)
          by_depthwise[j] |= gone;
        else
          dead[j] &= gone;
      }
    }
    for (std::size_t j = 0; j < dead.size(); ++j)
      dead[j] = producers > 0 && (dead[j] || (producers == 1 && by_depthwise[j]));
    return dead;
  }

  void judge_declared() {
    for (const auto& space : map_.spaces) {
      if (!candidate(space)) continue;
      const auto dead = declared_dead(space);
      for (std::size_t j = 0; j < dead.size(); ++j) alive_[as_index(space.id)][j] = !dead[j];
    }
    // A constant that may not be absorbed stays, and then whatever it reads matters again.
    for (bool changed = true; changed;) {
      changed = false;
      for (const auto& space : map_.spaces) {
        if (!candidate(space)) continue;
        const auto fates = judge(space);
        auto& alive = alive_[as_index(space.id)];
        for (std::size_t j = 0; j < alive.size(); ++j)
          if (!alive[j] && must_stay(fates[j])) alive[j] = changed = true;
      }
    }
    for (const auto& space : map_.spaces)
      if (candidate(space)) refuse_inexact(space, judge(space));
  }

  // Liveness out of the tensors
  // ----------------------------------------------------------------------------------

  // A channel that goes frees what only its own filter read, so this repeats until nothing changes; from the
  // output backwards, since that is the way it spreads.
  void infer_dead() {
    for (bool changed = true; changed;) {
      changed = false;
      for (auto space = map_.spaces.rbegin(); space != map_.spaces.rend(); ++space) {
        if (!candidate(*space)) continue;
        const auto fates = judge(*space);
        auto& alive = alive_[as_index(space->id)];
        for (std::size_t j = 0; j < alive.size(); ++j)
          if (alive[j] && fates[j] != Fate::varies && !must_stay(fates[j])) {
            alive[j] = 0;
            changed = true;
          }
      }
    }
    for (const auto& space : map_.spaces)
      if (candidate(space)) refuse_inexact(space, judge(space));
  }

  // Judgement
  // ----------------------------------------------------------------------------------------------------

  bool must_stay(Fate fate) const {
    return !options_.absorb && (fate == Fate::absorbable || fate == Fate::border) && !options_.allow_inexact;
  }

  // Input entries that any of the `rows` reads.
  static Flags read_by(const Filter& filter, const Flags& rows) {
    Flags read(as_index(filter.columns), 0);
    for (int64_t o = 0; o < filter.rows; ++o) {
      if (!rows[as_index(o)]) continue;
      const auto* used = filter.used.data() + o * filter.columns;
      for (int64_t i = 0; i < filter.columns; ++i) read[as_index(i)] |= used[i];
    }
    return read;
  }

  Fate fate_of(const Filter& filter, const Flags& read, int64_t entry) const {
    if (!read[as_index(entry)]) return Fate::unread;
    const auto& q = constants_[static_cast<std::size_t>(filter.input)][as_index(entry)];
    if (!q) return Fate::varies;
    if (*q == 0) return Fate::zero;
    return reads_constants_evenly(node(filter.node)) ? Fate::absorbable : Fate::border;
  }

  const Filter& filter_of(const Slice& consumer) const {
    return filters_[static_cast<std::size_t>(filter_of_[static_cast<std::size_t>(consumer.node)])];
  }

  // The output rows of a filter that are alive.
  const Flags& live_rows(const Filter& filter) const {
    return alive_[as_index(map_.outputs[static_cast<std::size_t>(filter.node)][0].space)];
  }

  template <class Visit>
  void for_each_reading(const ChannelSpace& space, const Visit& visit) const {
    for (const auto& consumer : space.consumers) {
      const auto& filter = filter_of(consumer);
      const auto read = read_by(filter, live_rows(filter));
      for (int64_t j = 0; j < space.channels; ++j)
        for (int64_t r = 0; r < consumer.repeat; ++r) {
          const auto entry = consumer.offset + j * consumer.repeat + r;
          visit(j, filter, entry, fate_of(filter, read, entry));
        }
    }
  }

  // The worst that any reader makes of each channel.
  std::vector<Fate> judge(const ChannelSpace& space) const {
    std::vector<Fate> fates(as_index(space.channels), Fate::unread);
    for_each_reading(space, [&](int64_t j, const Filter&, int64_t, Fate fate) {
      fates[as_index(j)] = std::max(fates[as_index(j)], fate);
    });
    return fates;
  }

  void refuse_inexact(const ChannelSpace& space, const std::vector<Fate>& fates) {
    const auto& alive = alive_[as_index(space.id)];
    int64_t inexact = 0;
    for (std::size_t j = 0; j < fates.size(); ++j) inexact += !alive[j] && fates[j] >= Fate::border;
    if (inexact == 0) return;
    if (options_.allow_inexact) {
      plan_.notes.push_back(str("'", space.name, "': ", inexact,
                                " channels went although it changes the outputs (allow_inexact)"));
      return;
    }
    for_each_reading(space, [&](int64_t j, const Filter& filter, int64_t entry, Fate fate) {
      if (alive[as_index(j)] || fate < Fate::border) return;
      const auto which = str("channel ", j, " of '", space.name, "'");
      const auto where = str("'", node(filter.node).name, "' (", filter.weight, "[:, ", entry, "])");
      require(fate == Fate::border, which, " was declared dead, but its value depends on the input and ",
              where, " reads it; zero its filter or what reads it, or pass allow_inexact");
      const auto& q = constants_[static_cast<std::size_t>(filter.input)][as_index(entry)];
      throw ArgumentError(
          str(which, " is the constant ", *q, ", which ", where,
              " reads across a zero-padded border, so that no bias can replace it; zero what reads it, "
              "use absorb = false to keep it, or pass allow_inexact"));
    });
  }

  // Widths
  // -------------------------------------------------------------------------------------------------------

  // Adds the best of the dead to `kept` until there is one, and a multiple of round_to. Scores: mean |w| of
  // the channel's filters; ties go to the lower index.
  void keep_enough(Flags& kept, const std::vector<Slice>& producers, const std::string& name) {
    auto target = std::max<int64_t>(count(kept), 1);
    if (count(kept) == 0)
      plan_.notes.push_back(
          str("'", name, "': all ", kept.size(), " channels are dead; one stays, so that the layer does"));
    target = std::min((target + options_.round_to - 1) / options_.round_to * options_.round_to,
                      static_cast<int64_t>(kept.size()));
    if (target == count(kept)) return;
    auto scores = at::zeros({static_cast<int64_t>(kept.size())}, at::kDouble);
    for (const auto& producer : producers) {
      const auto& weight = *tensors_.at(producer.tensor);
      scores += weight.detach()
                    .slice(0, producer.offset, producer.offset + static_cast<int64_t>(kept.size()))
                    .flatten(1)
                    .abs()
                    .to(at::kDouble)
                    .mean(1)
                    .to(at::kCPU);
    }
    std::vector<int64_t> order(kept.size());
    std::iota(order.begin(), order.end(), int64_t{0});
    const auto* score = scores.data_ptr<double>();
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return score[a] > score[b]; });
    for (const auto j : order) {
      if (count(kept) == target) break;
      kept[as_index(j)] = 1;
    }
  }

  Flags keep_enough(const ChannelSpace& space) {
    auto kept = alive_[as_index(space.id)];
    if (count(kept) < space.channels) keep_enough(kept, space.producers, space.name);
    return kept;
  }

  Flags& keep(const std::string& tensor, int dim) {
    const auto size = tensors_.at(tensor)->size(dim);
    return keep_.try_emplace({tensor, dim}, as_index(size), 1).first->second;
  }

  void drop(const ChannelSpace& space, const Flags& kept) {
    if (count(kept) == space.channels) return;
    for (const int index : space.nodes)
      for (const auto& segment : map_.outputs[static_cast<std::size_t>(index)])
        if (segment.space == space.id) removed_[index] += (space.channels - count(kept)) * segment.repeat;
    for (const auto* slices : {&space.producers, &space.companions, &space.consumers})
      for (const auto& slice : *slices) drop(slice, kept);
  }

  void drop(const Slice& slice, const Flags& kept) {
    auto& flags = keep(slice.tensor, slice.dim);
    for (std::size_t j = 0; j < kept.size(); ++j)
      for (std::size_t r = 0; r < as_index(slice.repeat); ++r)
        flags[as_index(slice.offset) + j * as_index(slice.repeat) + r] &= kept[j];
  }

  // index_add
  // ----------------------------------------------------------------------------------------------------

  struct Insertion {
    Node node;
    int at;  // gather: the node that reads it; scatter: the node it reads
  };

  static bool keeps_channels(Op op) {
    switch (op) {
      case Op::batch_norm:
      case Op::group_norm:
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
        return true;
      default:
        return false;
    }
  }

  // A branch is a producer and what follows it, each with one reader, up to an add. There its dead channels
  // are constants: they need no filter, only their place in the sum.
  void shorten_branch(const ChannelSpace& space, const Slice& producer) {
    const auto listed = declared_.find(producer.tensor);
    if (depthwise(producer) || (explicit_ && listed == declared_.end())) return;
    std::vector<int> chain = {producer.node};
    const auto reader = [&] { return readers_[static_cast<std::size_t>(chain.back())]; };
    while (reader().size() == 1 && keeps_channels(node(reader()[0]).op)) chain.push_back(reader()[0]);
    const auto& constants = constants_[static_cast<std::size_t>(chain.back())];
    Flags kept(as_index(space.channels), 1);
    for (std::size_t j = 0; j < kept.size(); ++j) kept[j] = explicit_ ? !listed->second[j] : !constants[j];
    if (count(kept) == space.channels) return;
    if (reader().size() != 1 || node(reader()[0]).op != Op::add) {
      plan_.notes.push_back(
          str("'", producer.tensor, "': dead channels stay, because it is not a branch of its own"));
      return;
    }
    keep_enough(kept, {producer}, producer.tensor);

    std::vector<double> base(kept.size(), 0);
    for (std::size_t j = 0; j < kept.size(); ++j) {
      if (kept[j]) continue;
      require(
          constants[j] || options_.allow_inexact, "channel ", j, " of '", producer.tensor,
          "' was declared dead, but its value depends on the input; zero its filter, or pass allow_inexact");
      base[j] = constants[j].value_or(0);
    }
    for (const auto* slices : {&space.producers, &space.companions})
      for (const auto& slice : *slices)
        if (std::find(chain.begin(), chain.end(), slice.node) != chain.end()) drop(slice, kept);

    for (const int index : chain) removed_[index] += space.channels - count(kept);

    Node scatter{unique(node(producer.node).name + ".scatter"), Op::scatter, {chain.back()}, {}, {}};
    scatter.attributes["index"].ints = positions(kept);
    scatter.attributes["channels"].ints = {space.channels};
    if (std::any_of(base.begin(), base.end(), [](double v) { return v != 0; }))
      scatter.attributes["base"].reals = std::move(base);
    insertions_.push_back({std::move(scatter), chain.back()});
  }

  // A layer that reads a shared space takes only the channels that matter to it.
  void narrow_reader(const Filter& filter) {
    const auto read = read_by(filter, keep(filter.weight, 0));
    auto kept = keep(filter.weight, 1);
    const auto before = kept;
    int64_t entry = 0;
    for (const auto& segment : map_.outputs[static_cast<std::size_t>(filter.input)])
      for (int64_t i = 0; i < segment.size(); ++i, ++entry) {
        const auto fate = fate_of(filter, read, entry);
        if (shared(map_.spaces[as_index(segment.space)]) && fate <= Fate::absorbable && !must_stay(fate))
          kept[as_index(entry)] = 0;
      }
    const auto goal = std::min(
        (std::max<int64_t>(count(kept), 1) + options_.round_to - 1) / options_.round_to * options_.round_to,
        count(before));
    for (std::size_t i = 0; i < kept.size() && count(kept) < goal; ++i) kept[i] = before[i];
    if (kept == before) return;

    // The gather counts in what the small network's node puts out, where other segments may have shrunk.
    Node gather{unique(node(filter.node).name + ".gather"), Op::gather, {filter.input}, {}, {}};
    auto& index = gather.attributes["index"].ints;
    int64_t position = 0;
    for (std::size_t i = 0; i < kept.size(); ++i) {
      if (kept[i]) index.push_back(position);
      position += before[i];
    }
    keep(filter.weight, 1) = kept;
    insertions_.push_back({std::move(gather), filter.node});
  }

  // The result
  // ---------------------------------------------------------------------------------------------------

  void find_absorptions() {
    for (const auto& filter : filters_) {
      const auto dropped = keep_.find({filter.weight, 1});
      if (dropped == keep_.end() || (options_.allow_inexact && !options_.absorb)) continue;
      const auto read = read_by(filter, keep(filter.weight, 0));
      for (int64_t i = 0; i < filter.columns; ++i) {
        const auto& q = constants_[static_cast<std::size_t>(filter.input)][as_index(i)];
        if (dropped->second[as_index(i)] || !read[as_index(i)] || !q || *q == 0) continue;
        // A border only where inexactness was asked for; otherwise only dead rows, which nothing reads, see
        // it.
        if (!reads_constants_evenly(node(filter.node)) && !options_.allow_inexact) continue;
        plan_.absorptions.push_back({filter.weight, bias_of(filter.node), i, *q});
      }
    }
  }

  // Name of the layer's bias; a new one when it has none.
  std::string bias_of(int index) {
    const auto name = node(index).tensor("bias");
    if (!name.empty()) return name;
    const auto found = new_biases_.find(index);
    if (found != new_biases_.end()) return found->second;
    const auto weight = node(index).tensor("weight");
    const auto stem = weight.size() > 7 && weight.compare(weight.size() - 7, 7, ".weight") == 0
                          ? weight.substr(0, weight.size() - 7)
                          : weight;
    auto bias = stem + ".bias";
    while (tensors_.count(bias) == 1) bias += "_";
    return new_biases_[index] = bias;
  }

  std::string unique(std::string name) const {
    while (graph_.find_node(name) >= 0) name += "_";
    return name;
  }

  void build() {
    auto& small = plan_.graph;
    small.tensors = graph_.tensors;
    for (const auto& [key, flags] : keep_) {
      if (count(flags) == static_cast<int64_t>(flags.size())) continue;
      const auto& [tensor, dim] = key;
      small.find_tensor(tensor)->shape[static_cast<std::size_t>(dim)] = count(flags);
      plan_.dims.push_back({tensor, dim, static_cast<int64_t>(flags.size()), positions(flags)});
    }
    add_new_biases();
    for (const auto& node : graph_.nodes) {
      const auto bias = small.find_tensor(node.tensor("bias"));
      const auto weight = small.find_tensor(node.tensor("weight"));
      if (bias == nullptr || weight == nullptr || bias->fan_in == 0) continue;
      bias->fan_in = 1;
      for (std::size_t i = 1; i < weight->shape.size(); ++i) bias->fan_in *= weight->shape[i];
    }
    build_nodes();
    small.validate();
  }

  void note_widths() {
    std::string odd;
    for (const auto& dim : plan_.dims)
      if (dim.dim == 0 && dim.kept.size() % 8 != 0 && plan_.graph.find_tensor(dim.tensor)->shape.size() > 1)
        odd += str(odd.empty() ? "" : ", ", "'", dim.tensor, "' ", dim.kept.size());
    if (!odd.empty())
      plan_.notes.push_back(
          "widths that are not a multiple of 8 run slower on tensor cores (round_to = 8 avoids them): " +
          odd);
  }

  void add_new_biases() {
    auto& tensors = plan_.graph.tensors;
    for (const auto& [index, bias] : new_biases_) {
      const auto weight = node(index).tensor("weight");
      const auto at =
          std::find_if(tensors.begin(), tensors.end(), [&](const auto& spec) { return spec.name == weight; });
      tensors.insert(at + 1, {bias, {at->shape[0]}, true, "float32", "zeros", 0});
      if (const auto found = keep_.find({weight, 0}); found != keep_.end())
        plan_.dims.push_back({bias, 0, static_cast<int64_t>(found->second.size()), positions(found->second)});
    }
  }

  void build_nodes() {
    auto& small = plan_.graph;
    std::vector<int> moved(graph_.nodes.size());  // where each node's output is now
    const auto append = [&](Node node) {
      for (auto& input : node.inputs) input = moved[static_cast<std::size_t>(input)];
      small.nodes.push_back(std::move(node));
      return static_cast<int>(small.nodes.size()) - 1;
    };
    const auto insertion = [&](Op op, int at) -> const Node* {
      for (const auto& entry : insertions_)
        if (entry.node.op == op && entry.at == at) return &entry.node;
      return nullptr;
    };
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
      const int index = static_cast<int>(i);
      Node node = graph_.nodes[i];
      const auto* weight = small.find_tensor(node.tensor("weight"));
      if (node.op == Op::conv2d &&
          node.integer("groups", 1) == graph_.find_tensor(node.tensor("weight"))->shape[0] &&
          node.integer("groups", 1) > 1)
        node.attributes["groups"].ints = {weight->shape[0]};
      if (const auto found = removed_.find(index); node.op == Op::group_norm && found != removed_.end())
        node.attributes["num_groups"].ints = {node.integer("num_groups", 1) - found->second};
      if (const auto found = new_biases_.find(index); found != new_biases_.end())
        node.tensors["bias"] = found->second;

      if (const auto* gather = insertion(Op::gather, index)) {
        auto& source = moved[static_cast<std::size_t>(node.inputs[0])];
        const int whole = std::exchange(source, append(*gather));
        moved[i] = append(std::move(node));
        source = whole;
      } else {
        moved[i] = append(std::move(node));
      }
      if (const auto* scatter = insertion(Op::scatter, index)) moved[i] = append(*scatter);
    }
  }

  const nn::Graph& graph_;
  const ExtractOptions& options_;
  const bool explicit_;
  std::unordered_map<std::string, const at::Tensor*> tensors_;
  nn::ChannelMap map_;
  std::vector<ChannelConstants> constants_;
  std::vector<std::vector<int>> readers_;  // per node
  std::vector<Filter> filters_;
  std::vector<int> filter_of_;                         // per node, -1 without
  std::map<std::string, Flags> declared_;              // per weight, 1 is dead
  std::vector<Flags> alive_;                           // per space
  std::map<std::pair<std::string, int>, Flags> keep_;  // per tensor and dimension
  std::vector<Insertion> insertions_;
  std::map<int, std::string> new_biases_;  // per node
  std::map<int, int64_t> removed_;         // per node, channels that its output lost
  ExtractionPlan plan_;
};

}  // namespace

ExtractionPlan plan_extraction(const nn::Graph& graph, const NamedTensors& tensors,
                               const std::vector<Liveness>& liveness, const ExtractOptions& options) {
  return Planner(graph, tensors, liveness, options).plan();
}

}  // namespace glyptic::sparsity
