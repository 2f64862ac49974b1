// Which entries of which dimensions of which tensors live and die together, for any program of tensor
// operations: the dependency graph of DepGraph (arXiv 2301.12900), but by single entries instead of whole
// layers.
//
// Every entry of every dimension is a conjunction of *atoms*: it is there as long as all of its atoms are.
// Operations relate entries: an addition says that entry j of its operands is the same; `view(B, H, D)` of
// [B, H * D] says that entry h * D + d is "h and d"; a concatenation strings entries together; a grouped
// convolution says that its channels are "group and offset". What cannot lose entries (batch, space, classes,
// an unknown operation) is the empty conjunction. Relations only ever merge or pin, so that whatever is
// removed afterwards leaves every operation well formed: heads stay rectangular, groups equal, tied weights
// tied.
//
//   AxisGraph g;
//   int x = g.add({"x", Rule::input, {}, {8, 3, 32, 32}});
//   int w = g.add({"w", Rule::parameter, {}, {16, 3, 3, 3}, {}, "conv.weight"});
//   int y = g.add({"conv", Rule::conv, {x, w}, {8, 16, 32, 32}, {1, 0}});
//   ...
//   g.groups();   // what can be removed, with all that goes with it
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

namespace glyptic::nn {

/// What an operation does to dimensions. `shape` is always the result's, batch included.
enum class Rule {
  input,        ///< nothing of it can go
  parameter,    ///< word: name of the tensor; the same name twice is the same tensor
  constant,     ///< nothing of it can go
  fill,         ///< zeros, ones: any entry can go
  elementwise,  ///< inputs broadcast against each other
  contract,     ///< word: an einsum equation over the inputs, "abc,cd->abd"
  conv,  ///< x, weight [O, I / groups, ...], [bias]; ints: groups, transposed (weight [I, O / groups, ...])
  channelwise,  ///< x, then vectors along dimension ints[0]: BatchNorm in eval mode, PReLU
  group_norm,   ///< x, [weight], [bias]; ints: groups
  layer_norm,   ///< x, [weight], [bias]; ints: how many last dimensions are normalised; RMSNorm too
  reduce,       ///< ints: keepdim, dimensions...; word: "sum", "mean", ...
  reshape,      ///< to `shape`
  permute,      ///< ints: dimensions
  slice,        ///< ints: dimension, start, step
  take,         ///< ints: dimension, entries in the order of the result (flip, roll, index_select)
  select,       ///< ints: dimension, which goes and whose other entries must stay
  concat,       ///< ints: dimension
  expand,       ///< to `shape`, aligned at the end
  tile,         ///< ints: repetitions of each dimension of `shape`
  pad,          ///< ints: dimension, entries before, entries after; they are constant
  along,        ///< ints: dimensions that must stay as they are (softmax, pooling, sort); word: why
  embedding,    ///< ids, weight [V, D]
  opaque,       ///< nothing that goes in or comes out can lose entries; word: why
  output        ///< nothing of it can go
};
const char* rule_name(Rule rule);
/// ArgumentError for an unknown name.
Rule rule_from_name(const std::string& name);

struct AxisNode {
  std::string name;  ///< for messages: module path and operation
  Rule rule = Rule::opaque;
  std::vector<int> inputs;
  std::vector<int64_t> shape;
  std::vector<int64_t> ints;
  std::string word;
};

/// A dimension of a tensor that loses entries with a group.
struct AxisMember {
  std::string tensor;
  int dim = 0;
  int64_t entries = 0;  ///< per unit of the group
};

/// Units that can be removed one by one; all of them touch the same dimensions.
struct AxisGroup {
  std::string name;  ///< the first tensor whose rows they are
  int64_t size = 0;
  std::vector<AxisMember> members;
  /// Not empty: other entries' values change with a removal, and why ("LayerNorm 'norm' normalises over it").
  std::string inexact_because;
  /// Groups that divide some dimension with this one and are closer to its end (the heads' groups name the
  /// head dimension's): usually only one of the two is pruned.
  std::vector<int> inner;
};

/// Alive flags, by group and unit.
using Alive = std::vector<std::vector<unsigned char>>;

class AxisGraph {
 public:
  AxisGraph();
  /// Applies the node's rule and returns its number. ArgumentError: names the node and what does not fit.
  int add(AxisNode node);

  const std::vector<AxisNode>& nodes() const { return nodes_; }
  /// Tensors in the order of their first use, with their shapes.
  const std::vector<std::pair<std::string, std::vector<int64_t>>>& tensors() const { return tensors_; }
  /// What can be removed, in the order of the tensors. Ends the building: `add` is an error afterwards.
  const std::vector<AxisGroup>& groups();
  /// Everything alive.
  Alive all();

  /// For each entry of a tensor's dimension, the (group, unit) pairs that it needs.
  std::vector<std::vector<std::pair<int, int64_t>>> units(const std::string& tensor, int dim);
  /// The same, visited: `visit(entry, group, unit)`.
  template <class Visit>
  void for_each_unit(const std::string& tensor, int dim, const Visit& visit) {
    const auto& entries = tensor_dim(tensor, dim).entries;
    for (std::size_t k = 0; k < entries.size(); ++k) {
      const auto e = static_cast<std::size_t>(entries[k]);
      for (auto u = unit_begin_[e]; u < unit_begin_[e + 1]; ++u)
        visit(static_cast<int64_t>(k), unit_list_[u].first, unit_list_[u].second);
    }
  }
  /// Entries that stay, ascending. Of a tensor's dimension, and of a node's result.
  std::vector<int64_t> kept(const std::string& tensor, int dim, const Alive& alive);
  std::vector<int64_t> kept(int node, int dim, const Alive& alive);
  /// Why entries of a tensor's dimension must stay, "" when they need not.
  std::string fixed_because(const std::string& tensor, int dim);

 private:
  struct Dim {
    int64_t size = 0;
    std::vector<int> entries;  ///< elements; empty: nothing can go
    bool fixed() const { return entries.empty(); }
  };
  using Dims = std::vector<Dim>;
  struct Atom {
    int parent = 0;
    int axis = 0;
    bool bound = false;  ///< it is the conjunction `tuple`; an empty one is a fixed atom
    std::vector<int> tuple;
    int reason = 0;  ///< why it is fixed
  };

  const Dim& tensor_dim(const std::string& tensor, int dim);
  std::vector<int64_t> kept(const Dim& dim, const Alive& alive) const;
  Dims apply(const AxisNode& node, std::size_t index);
  Dims parameter(const AxisNode& node);
  Dims elementwise(const AxisNode& node);
  Dims contract(const AxisNode& node);
  Dims conv(const AxisNode& node);
  Dims group_norm(const AxisNode& node);
  Dims reshape(const Dims& in, const std::vector<int64_t>& shape, const AxisNode& node);
  Dims expand(const AxisNode& node);

  const Dims& in(const AxisNode& node, std::size_t k) const;
  static Dim fixed(int64_t size) { return {size, {}}; }
  Dim fresh(int64_t size);
  Dim merge(const std::vector<const Dim*>& dims, const AxisNode& node);
  void match(const Dim& a, const Dim& b, const AxisNode& node);
  void pin(const Dim& dim, const std::string& why);
  void mark_inexact(const Dim& dim, const std::string& why);

  int element(std::vector<int> tuple);
  int root(int atom);
  void expand_atom(int atom, std::vector<int>& out);
  std::vector<int> resolve(int element);
  void unify(int a, int b, int reason);
  void unite(int a, int b);
  void bind(int atom, const std::vector<int>& tuple, int reason);
  void pin_atom(int atom, int reason);
  int reason(const std::string& why);
  void require_building() const;

  std::vector<AxisNode> nodes_;
  std::vector<Dims> results_;
  std::vector<std::pair<std::string, std::vector<int64_t>>> tensors_;
  std::unordered_map<std::string, std::size_t> tensor_index_;
  std::vector<Dims> tensor_dims_;
  std::vector<Atom> atoms_;
  std::vector<int64_t> axis_sizes_;
  struct Hash {
    std::size_t operator()(const std::vector<int>& tuple) const {
      std::size_t h = 14695981039346656037ull;  // FNV-1a
      for (const int atom : tuple) h = (h ^ static_cast<std::size_t>(atom)) * 1099511628211ull;
      return h;
    }
  };
  std::vector<std::vector<int>> elements_;  ///< tuples of atoms; element 0 is the empty one
  std::unordered_map<std::vector<int>, int, Hash> element_of_;
  std::vector<std::string> reasons_;
  std::map<std::string, int> reason_of_;
  std::vector<std::pair<int, int>> inexact_;  ///< (element, reason)

  bool grouped_ = false;
  std::vector<AxisGroup> groups_;
  std::vector<std::pair<int, int64_t>> unit_of_;  ///< by root atom: group (or -1) and unit
  /// (group, unit) pairs of element e: unit_list_[unit_begin_[e]] and on.
  std::vector<std::size_t> unit_begin_;
  std::vector<std::pair<int, int64_t>> unit_list_;
};

}  // namespace glyptic::nn
