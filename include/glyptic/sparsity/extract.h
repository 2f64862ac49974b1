// From a masked network to a smaller dense one (sparse-training methods, structured extraction).
//
// `plan_extraction` decides, `apply` moves tensors. A plan is data: it prints, saves as JSON, applies to
// weights, masks, gradients and optimizer state alike, and is inverted by `expand`.
//
//   auto plan = plan_extraction(model.graph(), model.state());
//   nn::Model small(plan.graph, plan.apply_all(model.state()));
//   check_extraction(model.graph(), model.state(), plan);
//
// A channel goes when nothing that is left reads it, or when what is read is a constant q: q = 0 costs
// nothing, any other q moves into the reader's bias, which is exact unless zero padding makes the border see
// something else.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "glyptic/core/named_tensor.h"
#include "glyptic/nn/dependency.h"
#include "glyptic/nn/graph.h"

namespace glyptic::sparsity {

/// Channels that residual adds share.
enum class Residual {
  exempt,    ///< all stay, as in Chase's released code
  all_dead,  ///< one goes when it is dead in every branch of the sum
  index_add  ///< all stay on the skip path; each branch computes and reads only the channels it needs
             ///< (gather, scatter)
};

struct ExtractOptions {
  Residual residual = Residual::exempt;
  int64_t round_to = 1;  ///< keep the largest-score dead channels until the width is a multiple
  /// Move a dead channel's constant into the consumer's bias where that is exact. Without it such channels
  /// stay.
  bool absorb = true;
  /// Drop dead channels also where the outputs change: their constant reaches a zero-padded border (the bias
  /// then takes what the interior sees), their filters were declared dead but are not zero, or LayerNorm
  /// spans them.
  bool allow_inexact = false;
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
  /// other names and 0-dim tensors pass through uncopied. Not differentiable. Two-sided gather in one pass.
  at::Tensor apply(const std::string& name, const at::Tensor& tensor) const;
  /// All weights and buffers, absorptions included, ready for `nn::Model(plan.graph, ...)`: fresh storage
  /// throughout, so that training the small network leaves the large one alone.
  NamedTensors apply_all(const NamedTensors& tensors) const;
  /// Inverse of `apply`: dropped positions are `fill`.
  at::Tensor expand(const std::string& name, const at::Tensor& small, double fill = 0) const;

  std::string to_json() const;
  static ExtractionPlan from_json(const std::string& text);
  /// Table: space, kept / original.
  std::string to_string() const;
};

/// Liveness of the channels of a weight's rows: bool [C], `false` is dead. Weights that are not listed are
/// alive.
struct Liveness {
  std::string weight;
  at::Tensor alive;
};

/// `liveness` empty: a channel is dead when its output filter is all zero (or reads only channels that are
/// constant), or when every consumer's slice is zero in the rows that stay. Throws ArgumentError naming layer
/// and channel when a dead channel's constant cannot be absorbed exactly and `allow_inexact` is false. The
/// network's tensors are only read.
ExtractionPlan plan_extraction(const nn::Graph& graph, const NamedTensors& tensors,
                               const std::vector<Liveness>& liveness = {},
                               const ExtractOptions& options = {});

/// Runs both networks in eval mode, in float32, on `batch` random normal inputs, and returns max |large -
/// small| / max |large|. Error when it exceeds `tolerance` (0: never): then the extraction is not to
/// be trusted.
double check_extraction(const nn::Graph& graph, const NamedTensors& tensors, const ExtractionPlan& plan,
                        int64_t batch = 4, double tolerance = 1e-5, uint64_t seed = 0);

/// Folds every conv/linear -> BatchNorm pair for inference, after extraction (spec 5.5): W' = W gamma /
/// sqrt(var + eps), b' = beta + (b - mean) gamma / sqrt(var + eps). Pairs whose convolution has another
/// reader, or whose tensors are shared, stay. The result's tensors are fresh; eval mode only.
struct Folded {
  nn::Graph graph;
  NamedTensors tensors;
};
Folded fold_batchnorm(const nn::Graph& graph, const NamedTensors& tensors);

}  // namespace glyptic::sparsity
