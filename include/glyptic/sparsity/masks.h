// What a mask event sees and may do. The engine opens a `MaskEditor` on the network, a method edits, the
// engine commits once: weights and optimizer state follow the masks in one pass.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "glyptic/core/named_tensor.h"
#include "glyptic/core/rng.h"
#include "glyptic/ops/ops.h"

namespace glyptic::sparsity {

/// A prunable tensor and its mask (bool, same shape, true keeps). Invariant after every step: weight ==
/// weight * mask.
struct Layer {
  std::string name;
  at::Tensor weight;
  at::Tensor mask;
  int64_t active = 0;  ///< sum(mask)
  int64_t size() const { return weight.numel(); }
};

/// What belongs to one parameter at one step (the optimizer boundary): its gradient, undefined when there is
/// none, and the optimizer's tensors of the parameter's own shape.
struct ParameterState {
  at::Tensor grad;
  std::vector<at::Tensor> state;
};

/// How positions are ranked.
enum class Criterion { magnitude, mest, taylor, gradient, momentum, random };
Criterion criterion_from_name(const std::string& name, const char* option);

class MaskEditor {
 public:
  /// `states[l]` belongs to layers[l]; `dead[l]`, when not empty, marks positions that may never be active.
  MaskEditor(std::vector<Layer>& layers, const std::vector<ParameterState>& states, RngStream rng,
             double lambda, double drop_noise);

  const std::vector<Layer>& layers() const { return layers_; }
  std::vector<int64_t> counts();  ///< active per layer, edits so far included
  int64_t active();
  int64_t size() const;

  /// Positions outside which nothing grows (bool per layer, true = dead), e.g. removed channels.
  void set_dead(ops::TensorList dead) { dead_ = std::move(dead); }

  /// Prunes each layer down to its `keep[l]` best active positions, or all of them together to `keep`.
  void keep(const std::vector<int64_t>& keep, Criterion criterion);
  void keep_global(int64_t keep, Criterion criterion);
  /// Activates the `grow[l]` best of each layer's inactive live positions, or `grow` over all layers.
  /// Positions dropped a moment ago are candidates too: regrown, they keep weight and state. Returns how many
  /// grew, fewer only where candidates run out (with a warning).
  int64_t grow(const std::vector<int64_t>& grow, Criterion criterion);
  int64_t grow_global(int64_t grow, Criterion criterion);
  /// Drops this share of each layer's active weights, or of all of them together, and grows as many: counts
  /// stay.
  void exchange(double share, bool round_up, bool global, Criterion drop, Criterion grow);

  struct Report {
    int64_t dropped = 0, grown = 0, active = 0;
  };
  /// Puts the edits in force on masks, weights and optimizer state. `remember_grown` fills `grown()`.
  Report commit(bool remember_grown = false);
  /// Bool per layer: active now and not before this event; undefined where nothing changed.
  const ops::TensorList& grown() const { return grown_; }

 private:
  struct Scores {
    ops::TensorList a, b;
    ops::TopKArgs args;
  };
  Scores scores(Criterion criterion, const char* purpose) const;
  ops::TensorList excluded() const;
  void select(const std::vector<int64_t>& k, bool global, Criterion criterion, bool growing);

  std::vector<Layer>& layers_;
  const std::vector<ParameterState>& states_;
  RngStream rng_;
  double lambda_, drop_noise_;
  ops::TensorList kept_;         ///< edited masks
  std::vector<int64_t> counts_;  ///< their sums, empty when unknown (after a global selection)
  ops::TensorList dead_;
  ops::TensorList grown_;
};

}  // namespace glyptic::sparsity
