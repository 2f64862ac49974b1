#include "glyptic/nn/axes.h"

#include <numeric>
#include <set>

#include "glyptic/core/error.h"
#include "glyptic/core/named_tensor.h"

namespace glyptic::nn {
namespace {

constexpr std::pair<Rule, const char*> kRules[] = {
    {Rule::input, "input"},
    {Rule::parameter, "parameter"},
    {Rule::constant, "constant"},
    {Rule::fill, "fill"},
    {Rule::elementwise, "elementwise"},
    {Rule::contract, "contract"},
    {Rule::conv, "conv"},
    {Rule::channelwise, "channelwise"},
    {Rule::group_norm, "group_norm"},
    {Rule::layer_norm, "layer_norm"},
    {Rule::reduce, "reduce"},
    {Rule::reshape, "reshape"},
    {Rule::permute, "permute"},
    {Rule::slice, "slice"},
    {Rule::take, "take"},
    {Rule::select, "select"},
    {Rule::concat, "concat"},
    {Rule::expand, "expand"},
    {Rule::tile, "tile"},
    {Rule::pad, "pad"},
    {Rule::along, "along"},
    {Rule::embedding, "embedding"},
    {Rule::opaque, "opaque"},
    {Rule::output, "output"},
};

// Above this a merged dimension is not worth its memory: nothing of it can go.
constexpr int64_t kLargestMerge = int64_t{1} << 24;

std::size_t as_index(int64_t i) {
  return static_cast<std::size_t>(i);
}

std::string at_node(const AxisNode& node) {
  return str("'", node.name, "' (", rule_name(node.rule), ")");
}

}  // namespace

const char* rule_name(Rule rule) {
  for (const auto& [candidate, name] : kRules)
    if (candidate == rule) return name;
  return "unknown";
}

Rule rule_from_name(const std::string& name) {
  std::vector<std::string> names;
  for (const auto& [rule, candidate] : kRules) {
    if (name == candidate) return rule;
    names.emplace_back(candidate);
  }
  throw ArgumentError(str("unknown rule '", name, "'", did_you_mean(name, names)));
}

AxisGraph::AxisGraph() : elements_{{}}, reasons_{""} {
  element_of_[{}] = 0;
}

// Atoms and elements
// --------------------------------------------------------------------------------------------------

int AxisGraph::reason(const std::string& why) {
  const auto [found, added] = reason_of_.emplace(why, static_cast<int>(reasons_.size()));
  if (added) reasons_.push_back(why);
  return found->second;
}

int AxisGraph::element(std::vector<int> tuple) {
  const auto [found, added] = element_of_.emplace(std::move(tuple), static_cast<int>(elements_.size()));
  if (added) elements_.push_back(found->first);
  return found->second;
}

AxisGraph::Dim AxisGraph::fresh(int64_t size) {
  if (size <= 1) return fixed(size);  // the only entry can never go
  const int axis = static_cast<int>(axis_sizes_.size());
  axis_sizes_.push_back(size);
  Dim dim{size, {}};
  dim.entries.reserve(as_index(size));
  for (int64_t i = 0; i < size; ++i) {
    const int atom = static_cast<int>(atoms_.size());
    atoms_.push_back({atom, axis, false, {}, 0});
    dim.entries.push_back(element({atom}));
  }
  return dim;
}

int AxisGraph::root(int atom) {
  while (atoms_[as_index(atom)].parent != atom) {
    auto& parent = atoms_[as_index(atom)].parent;
    parent = atoms_[as_index(parent)].parent;
    atom = parent;
  }
  return atom;
}

void AxisGraph::expand_atom(int atom, std::vector<int>& out) {
  atom = root(atom);
  if (atoms_[as_index(atom)].bound) {
    for (const int part : atoms_[as_index(atom)].tuple) expand_atom(part, out);
  } else if (std::find(out.begin(), out.end(), atom) == out.end()) {
    out.push_back(atom);
  }
}

std::vector<int> AxisGraph::resolve(int element) {
  std::vector<int> atoms;
  for (const int atom : elements_[as_index(element)]) expand_atom(atom, atoms);
  return atoms;
}

void AxisGraph::pin_atom(int atom, int why) {
  atom = root(atom);
  auto& a = atoms_[as_index(atom)];
  if (a.bound) {
    const auto parts = a.tuple;
    for (const int part : parts) pin_atom(part, why);
    return;
  }
  a.bound = true;
  a.reason = why;
}

void AxisGraph::unite(int a, int b) {
  a = root(a);
  b = root(b);
  if (a == b) return;
  if (b < a) std::swap(a, b);
  atoms_[as_index(b)].parent = a;
}

void AxisGraph::bind(int atom, const std::vector<int>& tuple, int why) {
  // "a is a and c" holds only while c stays.
  if (std::find(tuple.begin(), tuple.end(), atom) != tuple.end()) {
    for (const int other : tuple)
      if (other != atom) pin_atom(other, why);
    return;
  }
  atoms_[as_index(atom)].bound = true;
  atoms_[as_index(atom)].tuple = tuple;
}

// Makes two conjunctions equivalent. Sufficient is always enough: atoms are united factor by factor, counted
// from the innermost, where the sizes of their axes tell which belong together; else all of them stay.
void AxisGraph::unify(int x, int y, int why) {
  if (x == y) return;
  // Nearly every entry is one free atom.
  if (const auto& p = elements_[as_index(x)], &q = elements_[as_index(y)]; p.size() == 1 && q.size() == 1) {
    const int a = root(p[0]), b = root(q[0]);
    if (a == b) return;
    if (!atoms_[as_index(a)].bound && !atoms_[as_index(b)].bound) return unite(a, b);
  }
  const auto a = resolve(x), b = resolve(y);
  if (a == b) return;
  if (a.empty() || b.empty()) {
    for (const int atom : a) pin_atom(atom, why);
    for (const int atom : b) pin_atom(atom, why);
    return;
  }
  if (a.size() == 1 && b.size() == 1) return unite(a[0], b[0]);
  if (a.size() == 1) return bind(a[0], b, why);
  if (b.size() == 1) return bind(b[0], a, why);

  const auto size = [&](int atom) { return axis_sizes_[as_index(atoms_[as_index(atom)].axis)]; };
  std::vector<std::pair<std::vector<int>, std::vector<int>>> runs;
  std::vector<int> alone;  // factors without a counterpart, such as a batch folded into the heads
  auto i = a.size(), j = b.size();
  bool lined_up = true;
  while (lined_up && i > 0 && j > 0) {
    std::vector<int> left{a[--i]}, right{b[--j]};
    int64_t p = size(left.front()), q = size(right.front());
    while (p != q && (p < q ? i > 0 : j > 0)) {
      if (p < q) {
        left.insert(left.begin(), a[--i]);
        p *= size(left.front());
      } else {
        right.insert(right.begin(), b[--j]);
        q *= size(right.front());
      }
    }
    lined_up = p == q && (left.size() == 1 || right.size() == 1);
    runs.emplace_back(std::move(left), std::move(right));
  }
  while (i > 0) alone.push_back(a[--i]);
  while (j > 0) alone.push_back(b[--j]);
  if (lined_up) {
    for (const int atom : alone) pin_atom(atom, why);
    for (const auto& [left, right] : runs) unify(element(left), element(right), why);
  } else if (a.size() == b.size()) {
    for (std::size_t k = 0; k < a.size(); ++k) unify(element({a[k]}), element({b[k]}), why);
  } else {
    for (const auto* side : {&a, &b})
      for (const int atom : *side) pin_atom(atom, why);
  }
}

// Dimensions
// ----------------------------------------------------------------------------------------------------------

void AxisGraph::pin(const Dim& dim, const std::string& why) {
  if (dim.fixed()) return;
  const int number = reason(why);
  for (const int e : dim.entries)
    for (const int atom : elements_[as_index(e)]) pin_atom(atom, number);
}

void AxisGraph::mark_inexact(const Dim& dim, const std::string& why) {
  if (dim.fixed()) return;
  const int number = reason(why);
  for (const int e : dim.entries) inexact_.emplace_back(e, number);
}

void AxisGraph::match(const Dim& a, const Dim& b, const AxisNode& node) {
  require(a.size == b.size, at_node(node), ": dimensions of ", a.size, " and ", b.size,
          " entries do not fit each other");
  if (a.fixed() && b.fixed()) return;
  const auto why = str("'", node.name, "' joins it with something that must stay");
  if (a.fixed()) return pin(b, why);
  if (b.fixed()) return pin(a, why);
  const int number = reason(why);
  for (std::size_t k = 0; k < a.entries.size(); ++k) unify(a.entries[k], b.entries[k], number);
}

// [d0, d1, ...] seen as one dimension.
AxisGraph::Dim AxisGraph::merge(const std::vector<const Dim*>& dims, const AxisNode& node) {
  int64_t size = 1;
  bool free = false;
  for (const auto* dim : dims) {
    size *= dim->size;
    free = free || !dim->fixed();
  }
  if (!free) return fixed(size);
  if (dims.size() == 1) return *dims[0];
  if (size > kLargestMerge) {
    for (const auto* dim : dims) pin(*dim, str("'", node.name, "' merges it into ", size, " entries"));
    return fixed(size);
  }
  Dim flat{1, {0}};
  for (const auto* dim : dims) {
    Dim next{flat.size * dim->size, {}};
    next.entries.reserve(as_index(next.size));
    for (const int outer : flat.entries)
      for (int64_t k = 0; k < dim->size; ++k) {
        const int inner = dim->fixed() ? 0 : dim->entries[as_index(k)];
        if (inner == 0 || outer == 0) {
          next.entries.push_back(inner == 0 ? outer : inner);
          continue;
        }
        auto tuple = elements_[as_index(outer)];
        const auto& more = elements_[as_index(inner)];
        tuple.insert(tuple.end(), more.begin(), more.end());
        next.entries.push_back(element(std::move(tuple)));
      }
    flat = std::move(next);
  }
  return flat;
}

const AxisGraph::Dims& AxisGraph::in(const AxisNode& node, std::size_t k) const {
  require(k < node.inputs.size(), at_node(node), ": it has ", node.inputs.size(), " inputs, expected more");
  return results_[as_index(node.inputs[k])];
}

// Rules
// ---------------------------------------------------------------------------------------------------------------

AxisGraph::Dims AxisGraph::parameter(const AxisNode& node) {
  require(!node.word.empty(), at_node(node), ": the parameter has no name");
  const auto [found, added] = tensor_index_.emplace(node.word, tensors_.size());
  if (!added) {
    require(tensors_[found->second].second == node.shape, "tensor '", node.word,
            "' is used with two different shapes");
    return tensor_dims_[found->second];
  }
  tensors_.emplace_back(node.word, node.shape);
  Dims dims;
  for (const auto size : node.shape) dims.push_back(fresh(size));
  tensor_dims_.push_back(dims);
  return dims;
}

AxisGraph::Dims AxisGraph::elementwise(const AxisNode& node) {
  const auto rank = node.shape.size();
  Dims out;
  for (const auto size : node.shape) out.push_back(fixed(size));
  std::vector<unsigned char> seen(rank, 0);
  for (std::size_t k = 0; k < node.inputs.size(); ++k) {
    const auto& dims = in(node, k);
    require(dims.size() <= rank, at_node(node), ": input ", k, " has more dimensions than the result");
    const auto shift = rank - dims.size();
    for (std::size_t d = 0; d < dims.size(); ++d) {
      if (dims[d].size == 1) continue;  // broadcast
      if (seen[shift + d]) {
        match(out[shift + d], dims[d], node);
      } else {
        require(dims[d].size == out[shift + d].size, at_node(node), ": input ", k, " has ", dims[d].size,
                " entries in a dimension of ", out[shift + d].size);
        out[shift + d] = dims[d];
        seen[shift + d] = 1;
      }
    }
  }
  return out;
}

AxisGraph::Dims AxisGraph::contract(const AxisNode& node) {
  const auto arrow = node.word.find("->");
  require(arrow != std::string::npos, at_node(node), ": '", node.word, "' is not an einsum equation");
  std::map<char, Dim> letters;
  std::size_t k = 0, d = 0;
  for (std::size_t c = 0; c <= arrow; ++c) {
    if (c == arrow || node.word[c] == ',') {
      require(d == in(node, k).size(), at_node(node), ": '", node.word, "' names ", d,
              " dimensions of input ", k, ", which has ", in(node, k).size());
      ++k;
      d = 0;
      continue;
    }
    require(d < in(node, k).size(), at_node(node), ": '", node.word, "' names too many dimensions");
    const auto& dim = in(node, k)[d++];
    const auto [found, added] = letters.emplace(node.word[c], dim);
    if (added) continue;
    if (found->second.size == 1)
      found->second = dim;  // broadcast
    else if (dim.size > 1)
      match(found->second, dim, node);
  }
  Dims out;
  for (auto c = arrow + 2; c < node.word.size(); ++c) {
    const auto found = letters.find(node.word[c]);
    require(found != letters.end(), at_node(node), ": '", node.word, "' makes '", node.word[c],
            "' out of nothing");
    out.push_back(found->second);
  }
  return out;
}

AxisGraph::Dims AxisGraph::conv(const AxisNode& node) {
  const auto &x = in(node, 0), &w = in(node, 1);
  require(node.ints.size() == 2 && node.ints[0] >= 1, at_node(node), ": expected groups and transposed");
  require(x.size() == node.shape.size() && w.size() == x.size() && x.size() >= 3, at_node(node),
          ": input and weight must have a batch or row dimension, channels and space");
  const int64_t groups = node.ints[0];
  const bool transposed = node.ints[1] != 0;
  const auto why = str("'", node.name, "' slides over it");
  for (std::size_t d = 2; d < x.size(); ++d) {
    pin(x[d], why);
    pin(w[d], why);
  }
  Dim out;
  if (groups == 1) {
    match(x[1], w[transposed ? 0 : 1], node);
    out = w[transposed ? 1 : 0];
  } else {
    // Channels are (group, offset), so that every group keeps as many.
    const auto inputs = x[1].size / groups, outputs = node.shape[1] / groups;
    const Dim group = fresh(groups), input = fresh(inputs), output = fresh(outputs);
    match(x[1], merge({&group, &input}, node), node);
    out = merge({&group, &output}, node);
    match(w[0], transposed ? merge({&group, &input}, node) : out, node);
    match(w[1], transposed ? output : input, node);
  }
  if (node.inputs.size() > 2) match(in(node, 2)[0], out, node);
  Dims dims{x[0], out};
  for (std::size_t d = 2; d < x.size(); ++d) dims.push_back(fixed(node.shape[d]));
  return dims;
}

AxisGraph::Dims AxisGraph::group_norm(const AxisNode& node) {
  const auto& x = in(node, 0);
  require(node.ints.size() == 1 && node.ints[0] >= 1 && x.size() >= 2 && x[1].size % node.ints[0] == 0,
          at_node(node), ": the groups do not divide the channels");
  const Dim group = fresh(node.ints[0]), offset = fresh(x[1].size / node.ints[0]);
  match(x[1], merge({&group, &offset}, node), node);
  mark_inexact(offset, str("GroupNorm '", node.name, "' normalises over it"));
  for (std::size_t k = 1; k < node.inputs.size(); ++k) match(x[1], in(node, k)[0], node);
  return x;
}

AxisGraph::Dims AxisGraph::reshape(const Dims& from, const std::vector<int64_t>& shape,
                                   const AxisNode& node) {
  Dims out;
  int64_t in_numel = 1, out_numel = 1;
  for (const auto& dim : from) in_numel *= dim.size;
  for (const auto size : shape) out_numel *= size;
  require(in_numel == out_numel, at_node(node), ": ", in_numel, " entries become ", out_numel);
  if (in_numel == 0) {
    for (const auto size : shape) out.push_back(fixed(size));
    return out;
  }
  std::size_t i = 0, j = 0;
  while (i < from.size() || j < shape.size()) {
    // The smallest block of dimensions that turns into a block of as many entries.
    const auto i0 = i, j0 = j;
    int64_t p = i < from.size() ? from[i++].size : 1, q = j < shape.size() ? shape[j++] : 1;
    while (p != q) p < q ? p *= from[i++].size : q *= shape[j++];
    std::vector<const Dim*> sources;
    for (auto k = i0; k < i; ++k)
      if (from[k].size > 1) sources.push_back(&from[k]);
    std::vector<std::size_t> targets;
    for (auto k = j0; k < j; ++k) {
      out.push_back(fixed(shape[k]));
      if (shape[k] > 1) targets.push_back(k);
    }
    if (targets.empty()) continue;
    const Dim flat = merge(sources, node);
    if (flat.fixed()) continue;
    if (targets.size() == 1) {
      out[targets[0]] = flat;
      continue;
    }
    std::vector<const Dim*> parts;
    for (const auto k : targets) {
      out[k] = fresh(shape[k]);
      parts.push_back(&out[k]);
    }
    match(flat, merge(parts, node), node);
  }
  return out;
}

AxisGraph::Dims AxisGraph::expand(const AxisNode& node) {
  const auto& x = in(node, 0);
  const auto shift = node.shape.size() - x.size();
  Dims out;
  for (std::size_t d = 0; d < node.shape.size(); ++d) {
    if (d >= shift && x[d - shift].size == node.shape[d])
      out.push_back(x[d - shift]);
    else
      out.push_back(fresh(node.shape[d]));  // copies: any of them can go, if what meets them can
  }
  return out;
}

AxisGraph::Dims AxisGraph::apply(const AxisNode& node, std::size_t index) {
  for (const int input : node.inputs)
    require(0 <= input && as_index(input) < index, at_node(node), ": input ", input,
            " does not come before it");
  const auto integer = [&](std::size_t k) {
    require(k < node.ints.size(), at_node(node), ": it needs more than ", node.ints.size(), " integers");
    return node.ints[k];
  };
  const auto dimension = [&](std::size_t k, std::size_t rank) {
    const auto d = integer(k);
    require(0 <= d && as_index(d) < rank, at_node(node), ": there is no dimension ", d);
    return as_index(d);
  };
  const auto all_fixed = [&] {
    Dims dims;
    for (const auto size : node.shape) dims.push_back(fixed(size));
    return dims;
  };

  switch (node.rule) {
    case Rule::input:
    case Rule::constant:
      return all_fixed();
    case Rule::fill: {
      Dims dims;
      for (const auto size : node.shape) dims.push_back(fresh(size));
      return dims;
    }
    case Rule::parameter:
      return parameter(node);
    case Rule::elementwise:
      return elementwise(node);
    case Rule::contract:
      return contract(node);
    case Rule::conv:
      return conv(node);
    case Rule::channelwise: {
      const auto& x = in(node, 0);
      const auto d = dimension(0, x.size());
      for (std::size_t k = 1; k < node.inputs.size(); ++k) match(x[d], in(node, k)[0], node);
      return x;
    }
    case Rule::group_norm:
      return group_norm(node);
    case Rule::layer_norm: {
      const auto& x = in(node, 0);
      const auto last = as_index(integer(0));
      require(1 <= last && last <= x.size(), at_node(node), ": it normalises ", last, " dimensions");
      auto out = elementwise(node);
      for (auto d = x.size() - last; d < x.size(); ++d)
        mark_inexact(x[d], str("'", node.name, "' normalises over it"));
      return out;
    }
    case Rule::reduce: {
      const auto& x = in(node, 0);
      std::set<std::size_t> gone;
      for (std::size_t k = 1; k < node.ints.size(); ++k) gone.insert(dimension(k, x.size()));
      Dims out;
      for (std::size_t d = 0; d < x.size(); ++d) {
        if (gone.count(d) == 0)
          out.push_back(x[d]);
        else if (mark_inexact(x[d], str("'", node.name, "' takes the ", node.word, " over it"));
                 integer(0) != 0)
          out.push_back(fixed(1));
      }
      return out;
    }
    case Rule::reshape:
      return reshape(in(node, 0), node.shape, node);
    case Rule::permute: {
      Dims out;
      for (std::size_t d = 0; d < node.ints.size(); ++d)
        out.push_back(in(node, 0)[dimension(d, in(node, 0).size())]);
      return out;
    }
    case Rule::slice:
    case Rule::take: {
      auto out = in(node, 0);
      const auto d = dimension(0, out.size());
      const Dim from = out[d];
      out[d] = fixed(node.shape.at(d));
      for (int64_t k = 0; k < out[d].size; ++k) {
        const auto entry = node.rule == Rule::slice ? integer(1) + k * integer(2) : integer(as_index(k) + 1);
        require(0 <= entry && entry < from.size, at_node(node), ": there is no entry ", entry);
        if (!from.fixed()) out[d].entries.push_back(from.entries[as_index(entry)]);
      }
      return out;
    }
    case Rule::select: {
      auto out = in(node, 0);
      const auto d = dimension(0, out.size());
      pin(out[d], str("'", node.name, "' takes one entry of it by its number"));
      out.erase(out.begin() + static_cast<std::ptrdiff_t>(d));
      return out;
    }
    case Rule::concat: {
      auto out = in(node, 0);
      const auto d = dimension(0, out.size());
      Dim joined{0, {}};
      bool free = false;
      for (std::size_t k = 0; k < node.inputs.size(); ++k) {
        const auto& part = in(node, k);
        require(part.size() == out.size(), at_node(node), ": its inputs differ in rank");
        for (std::size_t e = 0; k > 0 && e < out.size(); ++e)
          if (e != d) match(out[e], part[e], node);
        joined.size += part[d].size;
        free = free || !part[d].fixed();
        for (int64_t j = 0; j < part[d].size; ++j)
          joined.entries.push_back(part[d].fixed() ? 0 : part[d].entries[as_index(j)]);
      }
      if (!free) joined.entries.clear();
      out[d] = std::move(joined);
      return out;
    }
    case Rule::expand:
      return expand(node);
    case Rule::tile: {
      const auto& x = in(node, 0);
      const auto shift = node.shape.size() - x.size();
      Dims out;
      for (std::size_t d = 0; d < node.shape.size(); ++d) {
        Dim dim = fixed(node.shape[d]);
        if (d >= shift && !x[d - shift].fixed())
          for (int64_t j = 0; j < dim.size; ++j)
            dim.entries.push_back(x[d - shift].entries[as_index(j % x[d - shift].size)]);
        out.push_back(std::move(dim));
      }
      return out;
    }
    case Rule::pad: {
      auto out = in(node, 0);
      const auto d = dimension(0, out.size());
      const auto before = integer(1), after = integer(2);
      Dim dim = fixed(out[d].size + before + after);
      if (!out[d].fixed() && before >= 0 && after >= 0) {
        dim.entries.assign(as_index(before), 0);
        dim.entries.insert(dim.entries.end(), out[d].entries.begin(), out[d].entries.end());
        dim.entries.insert(dim.entries.end(), as_index(after), 0);
      } else {
        pin(out[d], str("'", node.name, "' crops it"));
      }
      out[d] = std::move(dim);
      return out;
    }
    case Rule::along: {
      auto out = in(node, 0);
      for (std::size_t k = 0; k < node.ints.size(); ++k) {
        const auto d = dimension(k, out.size());
        pin(out[d], str("'", node.name, "' ", node.word));
        out[d] = fixed(node.shape.at(d));
      }
      return out;
    }
    case Rule::embedding: {
      const auto& w = in(node, 1);
      pin(w.at(0), str("'", node.name, "' looks rows up by their number"));
      auto out = in(node, 0);
      out.push_back(w.at(1));
      return out;
    }
    case Rule::opaque:
    case Rule::output: {
      const auto why = node.rule == Rule::output ? std::string("it is an output of the network")
                                                 : str("'", node.name, "' ", node.word);
      for (std::size_t k = 0; k < node.inputs.size(); ++k)
        for (const auto& dim : in(node, k)) pin(dim, why);
      return all_fixed();
    }
  }
  throw ArgumentError(str(at_node(node), ": unknown rule"));
}

void AxisGraph::require_building() const {
  require(!grouped_, "the axis graph is closed: its groups were already asked for");
}

int AxisGraph::add(AxisNode node) {
  require_building();
  auto dims = apply(node, nodes_.size());
  require(dims.size() == node.shape.size(), at_node(node), ": the rule gives ", dims.size(),
          " dimensions, the result has ", node.shape.size());
  for (std::size_t d = 0; d < dims.size(); ++d)
    require(dims[d].size == node.shape[d], at_node(node), ": the rule gives ", dims[d].size,
            " entries in dimension ", d, ", the result has ", node.shape[d]);
  nodes_.push_back(std::move(node));
  results_.push_back(std::move(dims));
  return static_cast<int>(nodes_.size()) - 1;
}

// Groups
// --------------------------------------------------------------------------------------------------------------

const std::vector<AxisGroup>& AxisGraph::groups() {
  if (grouped_) return groups_;
  grouped_ = true;
  // Where each atom occurs: (tensor, dimension, entries).
  struct Use {
    std::size_t tensor;
    int dim;
    int64_t entries;
    bool operator<(const Use& o) const {
      return std::tie(tensor, dim, entries) < std::tie(o.tensor, o.dim, o.entries);
    }
  };
  std::vector<std::vector<Use>> uses(atoms_.size());
  std::vector<int> order;
  for (std::size_t t = 0; t < tensors_.size(); ++t)
    for (std::size_t d = 0; d < tensor_dims_[t].size(); ++d)
      for (const int e : tensor_dims_[t][d].entries) {
        const auto atoms = resolve(e);
        for (std::size_t k = 0; k < atoms.size(); ++k) {
          auto& list = uses[as_index(atoms[k])];
          if (list.empty()) order.push_back(atoms[k]);
          if (!list.empty() && list.back().tensor == t && list.back().dim == static_cast<int>(d))
            ++list.back().entries;
          else
            list.push_back({t, static_cast<int>(d), 1});
        }
      }

  unit_of_.assign(atoms_.size(), {-1, 0});
  std::map<std::pair<int, std::vector<Use>>, int> by_signature;
  std::set<std::string> names;
  for (const int atom : order) {
    const auto& list = uses[as_index(atom)];
    const auto [found, added] = by_signature.emplace(std::make_pair(atoms_[as_index(atom)].axis, list),
                                                     static_cast<int>(groups_.size()));
    if (added) {
      AxisGroup group;
      for (const auto& use : list) {
        const auto& [name, shape] = tensors_[use.tensor];
        group.members.push_back({name, use.dim, use.entries});
        if (group.name.empty() && use.dim == 0 && shape.size() > 1) group.name = name;
      }
      if (group.name.empty()) group.name = group.members.front().tensor;
      const auto base = group.name;
      for (int n = 2; !names.insert(group.name).second; ++n) group.name = str(base, "#", n);
      groups_.push_back(std::move(group));
    }
    auto& group = groups_[as_index(found->second)];
    unit_of_[as_index(atom)] = {found->second, group.size++};
  }
  for (const auto& [element, why] : inexact_)
    for (const int atom : resolve(element))
      if (const auto g = unit_of_[as_index(atom)].first;
          g >= 0 && groups_[as_index(g)].inexact_because.empty())
        groups_[as_index(g)].inexact_because = reasons_[as_index(why)];
  unit_begin_.assign(1, 0);
  unit_begin_.reserve(elements_.size() + 1);
  for (std::size_t e = 0; e < elements_.size(); ++e) {
    for (const int atom : resolve(static_cast<int>(e)))
      if (unit_of_[as_index(atom)].first >= 0) unit_list_.push_back(unit_of_[as_index(atom)]);
    unit_begin_.push_back(unit_list_.size());
  }
  std::set<std::pair<int, int>> inner;
  std::pair<int, int> last{-1, -1};
  for (const auto& dims : tensor_dims_)
    for (const auto& dim : dims)
      for (const int e : dim.entries)
        for (auto i = unit_begin_[as_index(e)]; i < unit_begin_[as_index(e) + 1]; ++i)
          for (auto j = i + 1; j < unit_begin_[as_index(e) + 1]; ++j) {
            const std::pair<int, int> pair{unit_list_[i].first, unit_list_[j].first};
            if (pair == last || pair.first == pair.second) continue;
            last = pair;
            if (inner.insert(pair).second) groups_[as_index(pair.first)].inner.push_back(pair.second);
          }
  return groups_;
}

Alive AxisGraph::all() {
  Alive alive;
  for (const auto& group : groups()) alive.emplace_back(as_index(group.size), 1);
  return alive;
}

const AxisGraph::Dim& AxisGraph::tensor_dim(const std::string& tensor, int dim) {
  groups();
  const auto found = tensor_index_.find(tensor);
  require(found != tensor_index_.end(), "no tensor called '", tensor, "' was traced");
  const auto& dims = tensor_dims_[found->second];
  require(0 <= dim && as_index(dim) < dims.size(), "tensor '", tensor, "' has no dimension ", dim);
  return dims[as_index(dim)];
}

std::vector<std::vector<std::pair<int, int64_t>>> AxisGraph::units(const std::string& tensor, int dim) {
  std::vector<std::vector<std::pair<int, int64_t>>> result(as_index(tensor_dim(tensor, dim).size));
  for_each_unit(tensor, dim, [&](int64_t entry, int group, int64_t unit) {
    result[as_index(entry)].emplace_back(group, unit);
  });
  return result;
}

std::vector<int64_t> AxisGraph::kept(const Dim& dim, const Alive& alive) const {
  std::vector<int64_t> list;
  list.reserve(as_index(dim.size));
  for (int64_t k = 0; k < dim.size; ++k) {
    bool stays = true;
    if (!dim.fixed()) {
      const auto e = as_index(dim.entries[as_index(k)]);
      for (auto u = unit_begin_[e]; u < unit_begin_[e + 1]; ++u)
        stays = stays && alive[as_index(unit_list_[u].first)][as_index(unit_list_[u].second)] != 0;
    }
    if (stays) list.push_back(k);
  }
  return list;
}

std::vector<int64_t> AxisGraph::kept(const std::string& tensor, int dim, const Alive& alive) {
  return kept(tensor_dim(tensor, dim), alive);
}

std::vector<int64_t> AxisGraph::kept(int node, int dim, const Alive& alive) {
  groups();
  return kept(results_.at(as_index(node)).at(as_index(dim)), alive);
}

std::string AxisGraph::fixed_because(const std::string& tensor, int dim) {
  const auto found = tensor_index_.find(tensor);
  require(found != tensor_index_.end(), "no tensor called '", tensor, "' was traced");
  const auto& d = tensor_dims_[found->second].at(as_index(dim));
  if (d.fixed()) return "it has one entry";
  for (const int e : d.entries)
    if (resolve(e).empty())
      for (const int atom : elements_[as_index(e)]) {
        // The reason lies with whichever of its parts was pinned.
        std::vector<int> stack{atom};
        while (!stack.empty()) {
          const auto& a = atoms_[as_index(root(stack.back()))];
          stack.pop_back();
          if (a.bound && a.tuple.empty()) return reasons_[as_index(a.reason)];
          stack.insert(stack.end(), a.tuple.begin(), a.tuple.end());
        }
      }
  return "";
}

}  // namespace glyptic::nn
