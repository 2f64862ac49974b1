// Structured pruning of any traced network: which units of which groups stay, decided by an importance, as
// data. Criteria and group rules: Torch-Pruning's (DepGraph, arXiv 2301.12900) unless said otherwise.
//
//   nn::AxisGraph graph = ...;                       // traced
//   auto plan = plan_pruning(graph, weights, {}, {.ratio = 0.5});
//   for (auto& [name, tensor] : weights) tensor = plan.apply(name, tensor);
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "glyptic/core/named_tensor.h"
#include "glyptic/nn/axes.h"

namespace glyptic::pruning {

/// Score of a unit: larger is more worth keeping. `member` is one dimension of one tensor that the unit has
/// entries in; a group's score is the mean over its members, in float64.
enum class Importance {
  l1,        ///< sum |w| of the entries
  l2,        ///< sum w^2 of the entries
  bn_scale,  ///< |gamma| of the vectors called "weight" (network slimming); groups without one: l2 of all
  umm,       ///< mean |w| of the producers' rows (Chase); groups without rows: of all members
  lamp,      ///< l2, divided by the sum over the group's units that are not less important
  taylor,    ///< sum |w g|; needs gradients
  random     ///< Philox uniform of (seed, group, unit)
};
Importance importance_from_name(const std::string& name);

enum class Scope {
  local,      ///< the same ratio in every group
  global,     ///< one ranking over all groups, each score divided by its group's mean
  isomorphic  ///< one ranking among groups whose members have the same ranks and dimensions
};
Scope scope_from_name(const std::string& name);

struct PruneOptions {
  double ratio = 0.5;  ///< share of a group's units that goes, in [0, 1)
  std::map<std::string, double>
      ratios;  ///< by name or glob of a group or of a tensor in it; wins over `ratio`
  Importance importance = Importance::l2;
  Scope scope = Scope::local;
  int64_t round_to = 1;             ///< units that stay: rounded up to a multiple (where there are as many)
  double max_ratio = 1;             ///< no group loses more than this share
  std::vector<std::string> ignore;  ///< names or globs: groups and tensors that are left alone
  /// Where dimensions divide one another (heads x head size, groups x offsets): "inner" prunes what is
  /// closest to the end, "outer" the other way round.
  std::string factor = "inner";
  uint64_t seed = 0;  ///< of `random`
};

struct GroupPlan {
  std::string name;
  int64_t size = 0;
  std::vector<int64_t> kept;  ///< units, ascending
  std::vector<nn::AxisMember> members;
  std::string note;  ///< why nothing was removed, or what makes removal inexact
};

/// What stays of one dimension: original indices, ascending.
struct Kept {
  std::string tensor;
  int dim = 0;
  int64_t original = 0;
  std::vector<int64_t> indices;
  int rank = 0;  ///< dimensions of the tensor
};

struct PrunePlan {
  std::vector<GroupPlan> groups;
  std::vector<Kept> dims;  ///< only those that lose something

  /// The slices that stay; other names and shapes are errors that name the tensor. Copies.
  at::Tensor apply(const std::string& name, const at::Tensor& tensor) const;
  /// A copy with zeros where entries go: the tensor of the masked network.
  at::Tensor mask(const std::string& name, const at::Tensor& tensor) const;
  std::string to_json() const;
  /// DataError with what and where.
  static PrunePlan from_json(const std::string& text);
  /// One line a group: kept / size, name, members.
  std::string to_string() const;
};

/// Importance of every unit, by group. `gradients` (same names) only for taylor.
std::vector<std::vector<double>> unit_importance(nn::AxisGraph& graph, const NamedTensors& tensors,
                                                 const NamedTensors& gradients, const PruneOptions& options);

/// ArgumentError: an option out of range, a name that matches nothing, a score that is not finite.
PrunePlan plan_pruning(nn::AxisGraph& graph, const NamedTensors& tensors, const NamedTensors& gradients,
                       const PruneOptions& options);

/// The plan that keeps exactly these units. At least one of each group must stay.
PrunePlan plan_from_alive(nn::AxisGraph& graph, const nn::Alive& alive);

/// Alive flags of a plan on a graph traced anew, read off the entries that the plan keeps; ArgumentError
/// where the graph would not lose the same entries.
nn::Alive alive_of(nn::AxisGraph& graph, const PrunePlan& plan);

}  // namespace glyptic::pruning
