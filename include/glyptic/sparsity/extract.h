// From a masked network to a smaller dense one (sparse-training methods, structured extraction).
//
// `plan_extraction` decides, `apply` moves tensors. A plan is data: it prints, saves as JSON, applies to
// weights, masks, gradients and optimizer state alike, and is inverted by `expand`.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "glyptic/core/named_tensor.h"
#include "glyptic/nn/dependency.h"
#include "glyptic/nn/graph.h"

namespace glyptic::sparsity {

enum class Residual { exempt, all_dead, index_add };

struct ExtractOptions {
  Residual residual = Residual::exempt;
  int64_t round_to = 1;  ///< keep the largest-score dead channels until the width is a multiple
  bool absorb = true;    ///< move a dead channel's constant into the consumer's bias where that is exact
  bool allow_inexact = false;  ///< drop it even where it is not
};

/// What is kept of one dimension of one tensor: original indices, ascending.
struct DimKeep {
  std::string tensor;
  int dim = 0;
  int64_t original = 0;
  std::vector<int64_t> kept;
};

/// A constant that moves into a consumer's bias: bias += weight[:, dropped slice] summed over the kernel x
/// value.
struct Absorption {
  std::string weight;   ///< consumer
  std::string bias;     ///< consumer's bias (created when the layer had none)
  int64_t channel = 0;  ///< original index in the consumer's input dimension
  double value = 0;     ///< the constant q_j (spec 5.2)
};

struct ExtractionPlan {
  std::vector<DimKeep> dims;
  std::vector<Absorption> absorptions;
  nn::Graph graph;                 ///< of the small network
  std::vector<std::string> notes;  ///< warnings: a space kept one channel, a width not a multiple of 8, ...

  /// Slices a tensor called `name` (a weight, its mask, gradient or optimizer state) of the original shape;
  /// other names and 0-dim tensors pass through. Two-sided gather in one pass.
  at::Tensor apply(const std::string& name, const at::Tensor& tensor) const;
  /// All weights and buffers, absorptions included, ready for `nn::Model(plan.graph, ...)`.
  NamedTensors apply_all(const NamedTensors& tensors) const;
  /// Inverse of `apply`: dropped positions are `fill`.
  at::Tensor expand(const std::string& name, const at::Tensor& small, double fill = 0) const;

  std::string to_json() const;
  static ExtractionPlan from_json(const std::string& text);
  /// Table: space, kept / original.
  std::string to_string() const;
};

/// Liveness of the channels of a weight's rows: bool [C].
struct Liveness {
  std::string weight;
  at::Tensor alive;
};

/// `liveness` empty: a channel is dead when its output filter is all zero, or when every consumer's slice is.
/// Throws ArgumentError naming layer and channel when a dead channel's constant cannot be absorbed exactly
/// and `allow_inexact` is false. The network's tensors are only read.
ExtractionPlan plan_extraction(const nn::Graph& graph, const NamedTensors& tensors,
                               const std::vector<Liveness>& liveness = {},
                               const ExtractOptions& options = {});

/// Folds every conv/linear -> BatchNorm pair in eval mode (after extraction, spec 5.5).
struct Folded {
  nn::Graph graph;
  NamedTensors tensors;
};
Folded fold_batchnorm(const nn::Graph& graph, const NamedTensors& tensors);

}  // namespace glyptic::sparsity
