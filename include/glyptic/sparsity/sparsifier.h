// The engine that every sparse-training method runs on. Life cycle, per optimizer step:
//
//   Sparsifier s(parameters, prunable, options, groups);   // masks are drawn, weights masked
//   for (...) {
//     loss.backward();
//     if (s.begin_step().run_optimizer) optimizer.step(s.masks());
//     s.end_step(states);                                  // masks may change; off-mask values are zero
//   }
//   s.remove();                                            // masks become plain zeros in plain weights
//
// The engine never calls the network and never owns the optimizer: it is given gradients and optimizer
// tensors.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "glyptic/core/named_tensor.h"
#include "glyptic/nn/dependency.h"
#include "glyptic/sparsity/masks.h"
#include "glyptic/sparsity/options.h"

namespace glyptic::sparsity {

/// What a method may touch besides masks: every parameter of the network, by name, with its state at this
/// step.
struct EventContext {
  int64_t step = 0;
  MaskEditor& editor;
  std::vector<Layer>& layers;
  const std::vector<ParameterState>& layer_states;
  const NamedTensors& parameters;  ///< all, prunable ones included
  const std::vector<ParameterState>& parameter_states;
};

/// The policy: when masks change and how. Methods are compositions of distribution, schedules and criteria.
class Method {
 public:
  virtual ~Method() = default;
  /// Weights each layer holds at the start; default: `layer_counts` of the distribution at the density.
  virtual std::vector<int64_t> initial_counts(const std::vector<Layer>& layers) const;
  virtual bool due(int64_t step) const = 0;
  virtual void update(EventContext& event) = 0;
  /// Positions that no longer exist (removed channels), bool per layer; empty when there are none.
  virtual NamedTensors liveness() const { return {}; }
  virtual NamedTensors state() const { return {}; }
  virtual void load_state(const NamedTensors&) {}

 protected:
  explicit Method(SparsityOptions options) : options_(std::move(options)) {}
  /// Weights of each layer by the options' distribution at an overall `density`.
  std::vector<int64_t> counts_at(double density, const std::vector<Layer>& layers) const;
  SparsityOptions options_;
};

struct MethodInfo {
  std::string name;
  std::string summary;    ///< one line
  std::string reference;  ///< arXiv id and section
  std::string source;     ///< full paper | released code | abstract and secondary | reconstruction
  Preset presets;         ///< the reference's values, applied when the method is chosen
  std::function<std::unique_ptr<Method>(const SparsityOptions&, const std::vector<Layer>&,
                                        const std::vector<nn::ChannelGroup>&)>
      make;
  bool needs_groups = false;  ///< works on channel groups
};
const std::vector<MethodInfo>& methods();
const MethodInfo& method_info(const std::string& name);

/// Names out of `prunable` after first/last layer and `exclude` (glob patterns) rules.
std::vector<std::string> select_layers(const std::vector<std::string>& prunable,
                                       const SparsityOptions& options);

class Sparsifier {
 public:
  /// `parameters`: every trainable tensor of the network (biases too). `prunable`: names of the weights that
  /// get masks, in network order, before the options' exemptions. `groups`: channel groups for methods that
  /// remove channels. Weights are masked at once. ArgumentError: bad options, nothing prunable, a name that
  /// is not a parameter, or a parameter that another sparsifier controls. With `state`, out of `state()`, the
  /// masks are those that were saved and none are drawn: the way to resume over weights that are loaded
  /// already, of which random masks would leave little.
  Sparsifier(NamedTensors parameters, const std::vector<std::string>& prunable, SparsityOptions options,
             std::vector<nn::ChannelGroup> groups = {}, const NamedTensors& state = {});
  ~Sparsifier();
  Sparsifier(const Sparsifier&) = delete;
  Sparsifier& operator=(const Sparsifier&) = delete;

  struct StepPlan {
    int64_t step = 0;  ///< 1-based number of the step under way
    bool masks_change = false;
    bool run_optimizer =
        true;  ///< false where the mask update replaces the weight update (RigL's Algorithm 1)
  };
  /// What the step now under way will do. Changes nothing.
  StepPlan begin_step() const;
  /// Finishes the step. `states[i]` belongs to parameters[i] (see `parameters()`), with the dense gradient.
  /// `masked = true` promises that the optimizer already left weights and state zero off-mask (the fused ones
  /// do). `skipped = true`: the optimizer skipped for inf/nan (GradScaler); masks stay, the step is not
  /// counted.
  void end_step(const std::vector<ParameterState>& states, bool masked = false, bool skipped = false);

  const SparsityOptions& options() const { return options_; }
  const NamedTensors& parameters() const { return parameters_; }
  const std::vector<Layer>& layers() const { return layers_; }
  int64_t step() const { return step_; }
  /// Mask of each parameter, undefined where it has none; the same order as `parameters()`.
  std::vector<at::Tensor> parameter_masks() const;
  NamedTensors masks() const;
  /// Alive channels, bool per active weight; empty for methods without channels.
  NamedTensors liveness() const { return method_->liveness(); }

  struct LayerStats {
    std::string name;
    std::vector<int64_t> shape;
    int64_t active = 0, size = 0;
  };
  struct Stats {
    int64_t step = 0, active = 0, size = 0, events = 0;
    int64_t parameters = 0;         ///< of the whole network
    int64_t parameters_active = 0;  ///< of the whole network, masked ones left out
    int64_t live_channels = 0, channels = 0;
    double explored = 0;  ///< share of positions that were ever active (R_s of ITOP)
    std::vector<LayerStats> layers;
    double density() const { return size ? static_cast<double>(active) / static_cast<double>(size) : 1.0; }
  };
  Stats stats() const;

  struct Event {
    int64_t step = 0, dropped = 0, grown = 0, active = 0, live_channels = 0;
  };
  const std::vector<Event>& events() const { return events_; }

  /// Everything that resuming needs: bit-packed masks, step, method state, and the options as text.
  /// `load_state` checks all of it before it changes anything (ArgumentError naming the tensor or the option
  /// that differs). `strict = false` lets the options differ that say when and how masks change; the method,
  /// and how many weights there are and where, must agree all the same.
  NamedTensors state() const;
  void load_state(const NamedTensors& state, bool strict = true);

  /// Lets go of the parameters: zeros stay zeros, nothing is enforced any more.
  void remove();
  /// Zeroes weights off-mask now (after the user loaded or changed them).
  void apply_masks();

  /// Applied in place to growth scores before selection: averages them over ranks that hold different
  /// gradients.
  std::function<void(ops::TensorList&)> reduce_scores;

 private:
  void update_masks(const std::vector<ParameterState>& states);
  void accumulate(const std::vector<ParameterState>& states);
  void draw_masks();
  void check_state(const NamedTensors& state, bool strict) const;
  void initialize_grown(const MaskEditor& editor, const std::vector<ParameterState>& layer_states);
  std::vector<ParameterState> layer_states(const std::vector<ParameterState>& states) const;
  bool can_change() const;

  SparsityOptions options_;
  NamedTensors parameters_;
  std::vector<Layer> layers_;
  std::vector<std::size_t> layer_of_parameter_;  ///< layers_.size() where a parameter has no mask
  std::vector<std::size_t> parameter_of_layer_;
  std::unique_ptr<Method> method_;
  ops::TensorList explored_;
  ops::TensorList score_sums_;  ///< gradients of the last steps before an event, when score_steps > 1
  int64_t step_ = 0;
  int64_t event_count_ = 0;
  std::set<std::string> collapsed_;  ///< layers that were warned about
  std::vector<Event> events_;
  bool removed_ = false;
};

}  // namespace glyptic::sparsity
