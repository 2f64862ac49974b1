#include "glyptic/pruning/plan.h"

#include <fnmatch.h>
#include <torch/torch.h>

#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <sstream>

#include "../core/json.h"
#include "glyptic/core/error.h"
#include "glyptic/core/rng.h"
#include "glyptic/ops/ops.h"

namespace glyptic::pruning {
namespace {

using nlohmann::ordered_json;

constexpr const char* kFormat = "glyptic pruning plan";

std::size_t as_index(int64_t i) {
  return static_cast<std::size_t>(i);
}

template <class Enum>
Enum from_name(const std::string& name, const char* what,
               const std::vector<std::pair<const char*, Enum>>& all) {
  std::vector<std::string> names;
  for (const auto& [candidate, value] : all) {
    if (name == candidate) return value;
    names.emplace_back(candidate);
  }
  std::string list;
  for (const auto& candidate : names) list += (list.empty() ? "" : ", ") + candidate;
  throw ArgumentError(str(what, " is '", name, "', expected ", list, did_you_mean(name, names)));
}

bool fits(const std::string& pattern, const std::string& name) {
  return fnmatch(pattern.c_str(), name.c_str(), 0) == 0 ||
         (name.size() > pattern.size() && name.compare(0, pattern.size(), pattern) == 0 &&
          name[pattern.size()] == '.');  // a module's name stands for its tensors
}

bool matches(const std::string& pattern, const nn::AxisGroup& group) {
  return fits(pattern, group.name) || std::any_of(group.members.begin(), group.members.end(),
                                                  [&](const auto& m) { return fits(pattern, m.tensor); });
}

// The groups that a name or glob speaks of; ArgumentError when there are none.
std::vector<std::size_t> matching(const std::string& pattern, const std::vector<nn::AxisGroup>& groups,
                                  const char* option) {
  std::vector<std::size_t> found;
  std::vector<std::string> names;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    if (matches(pattern, groups[g])) found.push_back(g);
    for (const auto& member : groups[g].members) names.push_back(member.tensor);
  }
  require(!found.empty(), option, ": no group has a tensor called '", pattern, "'",
          did_you_mean(pattern, names));
  return found;
}

// Sums of squares (or of absolute values) over everything but `dim`: float64 on the CPU. Kernel positions
// first, they lie side by side.
/// Squares or magnitudes, summed over all dimensions but the first two: what the sums of both of these start
/// from.
at::Tensor per_kernel(const at::Tensor& values, bool squares) {
  auto terms = squares ? values.square() : values.abs();
  if (terms.dim() <= 2) return terms;
  terms = terms.flatten(2);
  return terms.size(2) == 1 ? terms.squeeze(2) : terms.sum(2);
}

/// The sum per entry of one dimension; `terms` out of per_kernel where that has the dimension.
at::Tensor per_entry(at::Tensor terms, int dim) {
  std::vector<int64_t> others;
  for (int64_t d = 0; d < terms.dim(); ++d)
    if (d != dim) others.push_back(d);
  if (!others.empty()) terms = terms.sum(others);
  return terms.to(at::kCPU, at::kDouble).contiguous();
}

std::string pattern_of(const nn::AxisGroup& group, const std::map<std::string, int64_t>& rank) {
  std::vector<std::string> parts;
  for (const auto& member : group.members)
    parts.push_back(str(rank.at(member.tensor), ":", member.dim, ":", member.entries > 1));
  std::sort(parts.begin(), parts.end());
  std::string text;
  for (const auto& part : parts) text += part + " ";
  return text;
}

}  // namespace

Importance importance_from_name(const std::string& name) {
  return from_name<Importance>(name, "importance",
                               {{"l1", Importance::l1},
                                {"l2", Importance::l2},
                                {"bn_scale", Importance::bn_scale},
                                {"umm", Importance::umm},
                                {"lamp", Importance::lamp},
                                {"taylor", Importance::taylor},
                                {"random", Importance::random}});
}

Scope scope_from_name(const std::string& name) {
  return from_name<Scope>(
      name, "scope", {{"local", Scope::local}, {"global", Scope::global}, {"isomorphic", Scope::isomorphic}});
}

std::vector<std::vector<double>> unit_importance(nn::AxisGraph& graph, const NamedTensors& tensors,
                                                 const NamedTensors& gradients, const PruneOptions& options) {
  const at::NoGradGuard no_grad;
  const auto& groups = graph.groups();
  std::unordered_map<std::string, const at::Tensor*> value, gradient;
  for (const auto& entry : tensors) value[entry.name] = &entry.tensor;
  for (const auto& entry : gradients) gradient[entry.name] = &entry.tensor;

  // Sums per unit of one member: every entry adds to the units it needs.
  const auto sums = [&](std::size_t g, const nn::AxisMember& member, const at::Tensor& entries) {
    std::vector<double> result(as_index(groups[g].size), 0);
    const auto* data = entries.data_ptr<double>();
    graph.for_each_unit(member.tensor, member.dim, [&](int64_t entry, int group, int64_t unit) {
      if (group == static_cast<int>(g)) result[as_index(unit)] += data[entry];
    });
    return result;
  };

  std::map<std::pair<std::string, int>, at::Tensor> cache;
  std::map<std::string, at::Tensor> kernels;  // both of a weight's first dimensions usually have units
  const auto entries_of = [&](const nn::AxisMember& member, Importance kind) -> const at::Tensor& {
    auto& entries = cache[{member.tensor, member.dim}];
    if (entries.defined()) return entries;
    const auto found = value.find(member.tensor);
    require(found != value.end(), "plan_pruning: tensor '", member.tensor, "' is missing");
    auto w = found->second->detach();
    if (kind == Importance::taylor) {
      const auto g = gradient.find(member.tensor);
      require(g != gradient.end() && g->second->defined(), "importance taylor: '", member.tensor,
              "' has no gradient; run loss.backward() first");
      w = w * g->second->detach();
    }
    const bool squares = kind == Importance::l2 || kind == Importance::lamp;
    if (member.dim >= 2) return entries = per_entry(squares ? w.square() : w.abs(), member.dim);
    auto& terms = kernels[member.tensor];
    if (!terms.defined()) terms = per_kernel(w, squares);
    return entries = per_entry(terms, member.dim);
  };

  std::vector<std::vector<double>> scores;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const auto& group = groups[g];
    const auto n = as_index(group.size);
    std::vector<double> score(n, 0);
    if (options.importance == Importance::random) {
      const RngStream rng = RngStream(options.seed, "pruning/random").child(g);
      for (std::size_t u = 0; u < n; ++u) score[u] = rng.uniform(u);
      scores.push_back(std::move(score));
      continue;
    }
    // Which members speak: trained tensors, narrowed by the criterion where that leaves any.
    std::vector<nn::AxisMember> members;
    auto kind = options.importance;
    const auto pick = [&](const auto& wanted, bool trained = true) {
      for (const auto& member : group.members) {
        const auto found = value.find(member.tensor);
        require(found != value.end(), "plan_pruning: tensor '", member.tensor, "' is missing");
        if (!found->second->is_floating_point() || (trained && !found->second->requires_grad())) continue;
        if (wanted(member, *found->second)) members.push_back(member);
      }
    };
    const auto ends_in_weight = [](const std::string& name) {
      return name == "weight" || (name.size() > 7 && name.compare(name.size() - 7, 7, ".weight") == 0);
    };
    if (kind == Importance::bn_scale)
      pick([&](const auto& m, const at::Tensor& t) { return t.dim() == 1 && ends_in_weight(m.tensor); });
    else if (kind == Importance::umm)
      pick([](const auto& m, const at::Tensor& t) { return t.dim() > 1 && m.dim == 0; });
    if (members.empty()) {
      if (kind == Importance::bn_scale) kind = Importance::l2;
      if (kind == Importance::umm) kind = Importance::l1;
      pick([](const auto&, const at::Tensor&) { return true; });
      if (members.empty()) pick([](const auto&, const at::Tensor&) { return true; }, false);
    }
    for (const auto& member : members) {
      auto part = sums(g, member, entries_of(member, kind));
      double scale = 1.0 / static_cast<double>(members.size());
      if (kind == Importance::umm)
        scale *= static_cast<double>(value.at(member.tensor)->size(member.dim)) /
                 static_cast<double>(value.at(member.tensor)->numel() * member.entries);
      for (std::size_t u = 0; u < n; ++u) score[u] += part[u] * scale;
    }
    if (kind == Importance::lamp) {
      std::vector<std::size_t> order(n);
      std::iota(order.begin(), order.end(), std::size_t{0});
      // Among equals the higher index comes first, so that the lower one scores more.
      std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return score[a] != score[b] ? score[a] < score[b] : a > b;
      });
      double suffix = 0;
      for (auto it = order.rbegin(); it != order.rend(); ++it) {
        const double s = score[*it];
        suffix += s;
        score[*it] = suffix > 0 ? s / suffix : 0;
      }
    }
    for (std::size_t u = 0; u < n; ++u)
      require(std::isfinite(score[u]), "the importance of unit ", u, " of group '", group.name,
              "' is not finite");
    scores.push_back(std::move(score));
  }
  return scores;
}

namespace {

// Groups whose dimensions divide one another: only one of them is pruned, the inner or the outer one.
std::vector<unsigned char> chosen_factors(const std::vector<nn::AxisGroup>& groups,
                                          const std::vector<unsigned char>& usable,
                                          const std::string& factor) {
  require(factor == "inner" || factor == "outer", "factor is '", factor, "', expected inner or outer");
  std::vector<std::vector<std::size_t>> ahead(groups.size());  // whoever wins over a group
  for (std::size_t g = 0; g < groups.size(); ++g)
    for (const int inner : groups[g].inner) {
      // Two or three of something (a depthwise multiplier) are too few to choose from.
      const bool coarse = groups[as_index(inner)].size < 4 && usable[g] && groups[g].size >= 4;
      if (factor == "inner" && !coarse)
        ahead[g].push_back(as_index(inner));
      else
        ahead[as_index(inner)].push_back(g);
    }
  std::vector<int> state(groups.size(), 0);  // 0 unknown, 1 under way, 2 chosen, 3 not
  const std::function<bool(std::size_t)> chosen = [&](std::size_t g) {
    if (state[g] >= 1) return state[g] == 2;
    state[g] = 1;
    bool free = usable[g] != 0;
    for (const auto other : ahead[g]) free = free && !chosen(other);
    state[g] = free ? 2 : 3;
    return free;
  };
  std::vector<unsigned char> result(groups.size());
  for (std::size_t g = 0; g < groups.size(); ++g) result[g] = chosen(g);
  return result;
}

// Units that go: the lowest scores, ties to the higher index.
std::vector<std::size_t> ascending(const std::vector<double>& score) {
  std::vector<std::size_t> order(score.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return score[a] != score[b] ? score[a] < score[b] : a > b;
  });
  return order;
}

}  // namespace

PrunePlan plan_pruning(nn::AxisGraph& graph, const NamedTensors& tensors, const NamedTensors& gradients,
                       const PruneOptions& options) {
  const auto in_range = [](double ratio) { return ratio >= 0 && ratio < 1; };
  require(in_range(options.ratio), "ratio is ", options.ratio, ", expected a number in [0, 1)");
  require(options.max_ratio > 0 && options.max_ratio <= 1, "max_ratio is ", options.max_ratio,
          ", expected a number in (0, 1]");
  require(options.round_to >= 1, "round_to is ", options.round_to, ", expected 1 or more");
  const auto& groups = graph.groups();
  std::vector<double> ratio(groups.size(), options.ratio);
  std::vector<unsigned char> own(groups.size(), 0), usable(groups.size(), 1);
  for (const auto& [pattern, value] : options.ratios) {
    require(in_range(value), "ratios['", pattern, "'] is ", value, ", expected a number in [0, 1)");
    for (const auto g : matching(pattern, groups, "ratios")) {
      ratio[g] = value;
      own[g] = 1;
    }
  }
  std::vector<unsigned char> ignored(groups.size(), 0);
  for (const auto& pattern : options.ignore) {
    std::vector<std::string> names;
    for (const auto& entry : tensors) names.push_back(entry.name);
    require(std::any_of(names.begin(), names.end(), [&](const auto& name) { return fits(pattern, name); }) ||
                std::any_of(groups.begin(), groups.end(), [&](const auto& g) { return matches(pattern, g); }),
            "ignore: the model has no module, tensor or group called '", pattern, "'",
            did_you_mean(pattern, names));
  }
  for (const auto& pattern : options.ignore)
    for (std::size_t g = 0; g < groups.size(); ++g) ignored[g] |= matches(pattern, groups[g]);
  for (std::size_t g = 0; g < groups.size(); ++g)
    usable[g] = !ignored[g] && ratio[g] > 0 && groups[g].size > 1;
  // What no weight has a part in (an index buffer, a table of constants) is not worth a channel.
  std::set<std::string> weights;
  for (const bool trained : {true, false}) {
    for (const auto& [name, tensor] : tensors)
      if (tensor.requires_grad() == trained && tensor.is_floating_point()) weights.insert(name);
    if (!weights.empty()) break;  // nothing is trained: a frozen model
  }
  for (std::size_t g = 0; g < groups.size(); ++g)
    usable[g] = usable[g] && std::any_of(groups[g].members.begin(), groups[g].members.end(),
                                         [&](const auto& m) { return weights.count(m.tensor) > 0; });
  const auto chosen = chosen_factors(groups, usable, options.factor);

  const auto scores = unit_importance(graph, tensors, gradients, options);
  auto alive = graph.all();
  const auto least = [&](std::size_t g) {  // units that stay at least
    const auto n = static_cast<double>(groups[g].size);
    auto keep = std::max<int64_t>(1, static_cast<int64_t>(n * (1 - options.max_ratio) + 1e-9));
    return keep;
  };
  const auto rounded = [&](std::size_t g, int64_t keep) {
    keep = (keep + options.round_to - 1) / options.round_to * options.round_to;
    return std::min(keep, groups[g].size);
  };
  // Removes the lowest units of a group until `keep` stay.
  const auto keep_best = [&](std::size_t g, int64_t keep) {
    const auto order = ascending(scores[g]);
    for (std::size_t k = 0; k + as_index(keep) < order.size(); ++k) alive[g][order[k]] = 0;
  };
  const auto keep_by_ratio = [&](std::size_t g) {
    // C - trunc(C (1 - ratio)) go, as in Torch-Pruning; 1e-9 heals 10 * (1 - .9) = .9999999.
    const auto keep = static_cast<int64_t>(static_cast<double>(groups[g].size) * (1 - ratio[g]) + 1e-9);
    return rounded(g, std::max(keep, least(g)));
  };

  if (options.scope == Scope::local) {
    for (std::size_t g = 0; g < groups.size(); ++g)
      if (chosen[g]) keep_best(g, keep_by_ratio(g));
  } else {
    std::map<std::string, int64_t> rank;
    for (const auto& [name, shape] : graph.tensors()) rank[name] = static_cast<int64_t>(shape.size());
    std::map<std::string, std::vector<std::size_t>> pools;
    for (std::size_t g = 0; g < groups.size(); ++g) {
      if (!chosen[g]) continue;
      if (own[g])
        keep_best(g, keep_by_ratio(g));  // what was asked for by name is not up for ranking
      else
        pools[options.scope == Scope::global ? "" : pattern_of(groups[g], rank)].push_back(g);
    }
    for (const auto& [key, pool] : pools) {
      struct Entry {
        double score;
        std::size_t group, unit;
      };
      std::vector<Entry> entries;
      for (const auto g : pool) {
        const double mean =
            std::accumulate(scores[g].begin(), scores[g].end(), 0.0) / static_cast<double>(scores[g].size());
        for (std::size_t u = 0; u < scores[g].size(); ++u)
          entries.push_back({mean > 0 ? scores[g][u] / mean : 0, g, u});
      }
      auto remove = static_cast<int64_t>(entries.size()) -
                    static_cast<int64_t>(static_cast<double>(entries.size()) * (1 - options.ratio) + 1e-9);
      std::stable_sort(entries.begin(), entries.end(),
                       [](const Entry& a, const Entry& b) { return a.score < b.score; });
      std::map<std::size_t, int64_t> left;
      for (const auto g : pool) left[g] = groups[g].size;
      for (const auto& entry : entries) {
        if (remove == 0) break;
        if (left[entry.group] <= least(entry.group)) continue;
        --left[entry.group];
        --remove;
      }
      for (const auto g : pool) keep_best(g, rounded(g, left[g]));
    }
  }

  auto plan = plan_from_alive(graph, alive);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    auto& note = plan.groups[g].note;
    if (ignored[g])
      note = "ignored";
    else if (usable[g] && !chosen[g])
      note = str("left alone: another factor of its dimension is pruned (factor = ", options.factor, ")");
  }
  return plan;
}

PrunePlan plan_from_alive(nn::AxisGraph& graph, const nn::Alive& alive) {
  const auto& groups = graph.groups();
  require(alive.size() == groups.size(), "alive flags of ", alive.size(), " groups, expected ",
          groups.size());
  PrunePlan plan;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    require(static_cast<int64_t>(alive[g].size()) == groups[g].size, "alive flags of group '", groups[g].name,
            "': ", alive[g].size(), " units, expected ", groups[g].size);
    GroupPlan group{groups[g].name, groups[g].size, {}, groups[g].members, ""};
    for (std::size_t u = 0; u < alive[g].size(); ++u)
      if (alive[g][u]) group.kept.push_back(static_cast<int64_t>(u));
    require(!group.kept.empty(), "group '", group.name, "' would lose all of its ", group.size,
            " units; keep one");
    if (static_cast<int64_t>(group.kept.size()) < group.size && !groups[g].inexact_because.empty())
      group.note = groups[g].inexact_because;
    plan.groups.push_back(std::move(group));
  }
  for (const auto& [name, shape] : graph.tensors())
    for (std::size_t d = 0; d < shape.size(); ++d) {
      auto kept = graph.kept(name, static_cast<int>(d), alive);
      require(!kept.empty() || shape[d] == 0, "'", name, "' would lose all of dimension ", d);
      if (static_cast<int64_t>(kept.size()) < shape[d])
        plan.dims.push_back(
            {name, static_cast<int>(d), shape[d], std::move(kept), static_cast<int>(shape.size())});
    }
  return plan;
}

nn::Alive alive_of(nn::AxisGraph& graph, const PrunePlan& plan) {
  auto alive = graph.all();
  std::map<std::pair<std::string, int>, const Kept*> kept;
  for (const auto& keep : plan.dims) kept[{keep.tensor, keep.dim}] = &keep;
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const auto& [name, shape] : graph.tensors()) shapes[name] = shape;
  for (const auto& [key, keep] : kept) {
    const auto shape = shapes.find(key.first);
    require(shape != shapes.end() && static_cast<std::size_t>(key.second) < shape->second.size() &&
                shape->second[as_index(key.second)] == keep->original,
            "the plan keeps ", keep->indices.size(), " of ", keep->original, " entries of '", key.first,
            "' dimension ", key.second, ", which the model does not have; it was made for another model");
    // A unit stays exactly if some entry that needs it does.
    std::vector<unsigned char> is_kept(as_index(keep->original), 0);
    for (const auto index : keep->indices) is_kept[as_index(index)] = 1;
    std::map<int, std::vector<unsigned char>> stays;
    graph.for_each_unit(key.first, key.second, [&](int64_t entry, int group, int64_t unit) {
      auto& flags = stays[group];
      if (flags.empty()) flags = alive[as_index(group)], std::fill(flags.begin(), flags.end(), 2);
      auto& flag = flags[as_index(unit)];
      if (flag == 2) flag = 0;
      flag |= is_kept[as_index(entry)];
    });
    for (const auto& [group, flags] : stays)
      for (std::size_t u = 0; u < flags.size(); ++u)
        alive[as_index(group)][u] &= static_cast<unsigned char>(flags[u] != 0);
  }
  for (const auto& [name, shape] : graph.tensors())
    for (std::size_t d = 0; d < shape.size(); ++d) {
      const auto found = kept.find({name, static_cast<int>(d)});
      const auto now = graph.kept(name, static_cast<int>(d), alive);
      const bool same =
          found == kept.end() ? static_cast<int64_t>(now.size()) == shape[d] : now == found->second->indices;
      require(same, "the plan does not fit the model at '", name, "' dimension ", d,
              ": other entries depend on each other; it was made for another model");
    }
  return alive;
}

// Tensors
// -------------------------------------------------------------------------------------------------------------

at::Tensor PrunePlan::apply(const std::string& name, const at::Tensor& tensor) const {
  at::Tensor result = tensor.detach();
  at::Tensor rows, columns;
  for (const auto& keep : dims) {
    if (keep.tensor != name) continue;
    require(keep.dim < result.dim() && result.size(keep.dim) == keep.original, "apply: '", name,
            "' has shape ", shape_string(tensor.sizes()), ", the plan expects ", keep.original,
            " entries in dimension ", keep.dim);
    const auto index = torch::tensor(keep.indices, torch::kLong).to(result.device());
    if (keep.dim == 0)
      rows = index;
    else if (keep.dim == 1)
      columns = index;
    else
      result = result.index_select(keep.dim, index);
  }
  if (result.dim() >= 2 && (rows.defined() || columns.defined()))
    return ops::channel_gather(result, rows, columns);  // both in one pass
  if (rows.defined()) return result.index_select(0, rows);
  return result.is_alias_of(tensor) ? result.clone() : result;
}

at::Tensor PrunePlan::mask(const std::string& name, const at::Tensor& tensor) const {
  at::Tensor result = tensor.detach().clone();
  for (const auto& keep : dims) {
    if (keep.tensor != name) continue;
    require(keep.dim < result.dim() && result.size(keep.dim) == keep.original, "mask: '", name,
            "' has shape ", shape_string(tensor.sizes()), ", the plan expects ", keep.original,
            " entries in dimension ", keep.dim);
    auto gone = torch::ones({keep.original}, torch::kBool);
    gone.index_fill_(0, torch::tensor(keep.indices, torch::kLong), false);
    result.index_fill_(keep.dim, gone.nonzero().view(-1).to(result.device()), 0);
  }
  return result;
}

std::string PrunePlan::to_string() const {
  std::size_t width = 0;
  for (const auto& group : groups) width = std::max(width, group.name.size());
  std::ostringstream out;
  for (const auto& group : groups) {
    out << group.name << std::string(width - group.name.size() + 2, ' ') << group.kept.size() << " / "
        << group.size << "  ";
    for (std::size_t m = 0; m < group.members.size() && m < 12; ++m)
      out << (m ? ", " : "") << group.members[m].tensor << '[' << group.members[m].dim << ']';
    if (group.members.size() > 12) out << ", and " << group.members.size() - 12 << " more";
    if (!group.note.empty()) out << "  (" << group.note << ')';
    out << '\n';
  }
  return out.str();
}

std::string PrunePlan::to_json() const {
  ordered_json document;
  document["format"] = kFormat;
  document["version"] = 1;
  auto& group_list = document["groups"] = ordered_json::array();
  for (const auto& group : groups) {
    ordered_json members = ordered_json::array();
    for (const auto& m : group.members)
      members.push_back({{"tensor", m.tensor}, {"dim", m.dim}, {"entries", m.entries}});
    group_list.push_back({{"name", group.name},
                          {"size", group.size},
                          {"kept", group.kept},
                          {"members", members},
                          {"note", group.note}});
  }
  auto& dim_list = document["dims"] = ordered_json::array();
  for (const auto& keep : dims)
    dim_list.push_back({{"tensor", keep.tensor},
                        {"dim", keep.dim},
                        {"rank", keep.rank},
                        {"original", keep.original},
                        {"kept", keep.indices}});
  return document.dump(1) + "\n";
}

namespace {

void check_ascending(const std::vector<int64_t>& list, int64_t below, const std::string& where) {
  int64_t last = -1;
  for (const auto i : list) {
    require<DataError>(last < i && i < below, where, ": index ", i, " is out of order or not below ", below);
    last = i;
  }
  require<DataError>(!list.empty(), where, ": nothing is kept");
}

}  // namespace

PrunePlan PrunePlan::from_json(const std::string& text) {
  PrunePlan plan;
  std::string where = "pruning plan JSON";
  try {
    const auto document = files::parse_json<ordered_json>(text, where);
    require<DataError>(document.is_object(), where, " is not an object");
    require<DataError>(document.at("format") == kFormat && document.at("version") == 1, where,
                       ": it is not version 1 of '", kFormat, "'");
    for (const auto& entry : document.at("groups")) {
      where = str("pruning plan JSON: groups[", plan.groups.size(), "]");
      GroupPlan group{entry.at("name").get<std::string>(),
                      entry.at("size").get<int64_t>(),
                      entry.at("kept").get<std::vector<int64_t>>(),
                      {},
                      entry.at("note").get<std::string>()};
      for (const auto& m : entry.at("members"))
        group.members.push_back(
            {m.at("tensor").get<std::string>(), m.at("dim").get<int>(), m.at("entries").get<int64_t>()});
      check_ascending(group.kept, group.size, where);
      plan.groups.push_back(std::move(group));
    }
    for (const auto& entry : document.at("dims")) {
      where = str("pruning plan JSON: dims[", plan.dims.size(), "]");
      Kept keep{entry.at("tensor").get<std::string>(), entry.at("dim").get<int>(),
                entry.at("original").get<int64_t>(), entry.at("kept").get<std::vector<int64_t>>(),
                entry.at("rank").get<int>()};
      require<DataError>(0 <= keep.dim && keep.dim < keep.rank && keep.rank <= 64, where, ": dim ", keep.dim,
                         " is not one of ", keep.rank);
      check_ascending(keep.indices, keep.original, where);
      plan.dims.push_back(std::move(keep));
    }
  } catch (const nlohmann::json::exception& error) {
    throw DataError(str(where, ": ", error.what()));
  }
  return plan;
}

}  // namespace glyptic::pruning
