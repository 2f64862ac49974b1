// Sharpness-aware steps: SAM (arXiv 2010.01412) and its family over named tensors. One step:
//
//   1. g = gradient at w (pass 1: normalisation statistics move, metrics are of this pass)
//   2. w <- w + eps, eps = rho g / (||g|| + eps0), the norm over all tensors together
//   3. g_s = gradient at w + eps (pass 2: the same batch, the same random numbers, statistics frozen)
//   4. w restored bit for bit into unchanged storage; the base optimizer steps with d, for SAM d = g_s
//
// Methods differ in where the ascent comes from, on which steps it is made, and how d is made of g and g_s;
// they are listed by `methods()`. The engine never sees a model class: an `Objective` evaluates the loss as
// often as a method needs, a `BaseOptimizer` steps. Whatever is thrown in between, the weights, the
// statistics and the random generators are put back first.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "glyptic/core/named_tensor.h"
#include "glyptic/ops/perturb.h"
#include "glyptic/sharpness/options.h"

namespace glyptic::optim {
class Optimizer;
}

namespace glyptic::sharpness {

using ops::TensorList;

/// The loss of the batch that a step is about, on the weights as they are now.
class Objective {
 public:
  virtual ~Objective() = default;
  /// Micro-batches of the step. Each counts the same; gradients are their mean.
  virtual int64_t batches() const { return 1; }
  /// Forward pass on one micro-batch: a scalar, or one loss per sample ([B]), with a graph unless gradient
  /// mode is off. Must be repeatable: it is called 1 to 2m+1 times a step.
  virtual at::Tensor loss(int64_t batch) = 0;
  /// The same for some samples only (int64 indices). Methods that drop samples save their cost with it; by
  /// default all are evaluated and some are not used.
  virtual bool selects_samples() const { return false; }
  virtual at::Tensor loss_of(int64_t batch, const at::Tensor& rows);
  /// From losses to the scalar whose gradient is taken; `second` after an ascent. Default: the mean.
  virtual at::Tensor reduce(const at::Tensor& losses, int64_t batch, bool second);
  /// Called before each forward pass that makes a gradient: whether that gradient is to be averaged over
  /// processes (by whatever the module does by itself, such as DistributedDataParallel).
  virtual void synchronize(bool on) { static_cast<void>(on); }
  /// Adds the gradient of a scalar to the parameters' `.grad`.
  virtual void backward(const at::Tensor& loss);
  /// After a pass whose gradients the method reads; a loss scaler unscales here. False: they hold inf or NaN.
  virtual bool finish_pass() { return true; }

  /// Several processes, each with its part of the batch.
  virtual bool distributed() const { return false; }
  virtual void all_reduce_mean(const TensorList& tensors) { static_cast<void>(tensors); }
  /// False when `synchronize` averages nothing, so that the engine has to.
  virtual bool averages() const { return true; }
};

/// An Objective from one closure that returns the loss.
class ClosureObjective final : public Objective {
 public:
  explicit ClosureObjective(std::function<at::Tensor(int64_t batch)> loss, int64_t batches = 1)
      : loss_(std::move(loss)), batches_(batches) {}
  int64_t batches() const override { return batches_; }
  at::Tensor loss(int64_t batch) override { return loss_(batch); }

 private:
  std::function<at::Tensor(int64_t)> loss_;
  int64_t batches_;
};

/// What updates the weights from their `.grad`.
class BaseOptimizer {
 public:
  virtual ~BaseOptimizer() = default;
  virtual void step() = 0;
  /// Restores and steps in one pass over memory: `origins[i]`, where defined, is what parameter i held before
  /// the ascent. False when it cannot: then nothing was done.
  virtual bool step_from(const TensorList& origins) { return static_cast<void>(origins), false; }
  /// Learning rate of parameter i.
  virtual double lr(std::size_t i) const = 0;
  /// Momentum of parameter i, undefined where there is none yet.
  virtual at::Tensor momentum(std::size_t i) const { return static_cast<void>(i), at::Tensor(); }
};

/// optim::Optimizer as a base. `masks` as for its step.
std::unique_ptr<BaseOptimizer> base_of(optim::Optimizer& optimizer, TensorList masks = {});

struct StepOptions {
  /// Per parameter, undefined where everything is kept, or empty. The ascent is zero off-mask.
  TensorList masks;
  /// The step only wants the gradient at w, all-reduced: a mask update takes the place of the weight update.
  bool gradient_only = false;
  /// Keep what growth ranks by: the gradient of the first pass that makes one.
  bool keep_growth = false;
};

struct StepResult {
  at::Tensor loss;       ///< of the first pass with a gradient, the mean over the batch; detached
  at::Tensor losses;     ///< [B] of that pass where the objective gives them and there is one micro-batch
  bool skipped = false;  ///< a gradient was not finite: weights are as before, the base did not step
  bool ascended = false;
  int64_t forwards = 0, backwards = 0;
  at::Tensor gradient_norm;   ///< float64 [1], ||g|| at w; undefined where no gradient was taken there
  at::Tensor perturbed_norm;  ///< float64 [1], ||g_s||
  TensorList growth;          ///< per parameter, all-reduced; empty unless keep_growth or gradient_only
};

class Method;
class Slice;

struct MethodInfo {
  std::string name;
  std::string summary;    ///< one line
  std::string reference;  ///< arXiv id
  std::string source;     ///< full paper | released code | abstract and secondary | reconstruction
  Preset presets;         ///< the reference's values, applied when the method is chosen
  std::function<std::unique_ptr<Method>(const SharpnessOptions&)> make;
};
const std::vector<MethodInfo>& methods();
const MethodInfo& method_info(const std::string& name);

class Sharpness {
 public:
  /// `parameters`: what may be perturbed. `statistics`: buffers that forward passes move (running_mean,
  /// running_var, num_batches_tracked) and that pass 2 must leave alone. ArgumentError for bad options.
  Sharpness(NamedTensors parameters, SharpnessOptions options, TensorList statistics = {});
  ~Sharpness();
  Sharpness(const Sharpness&) = delete;
  Sharpness& operator=(const Sharpness&) = delete;

  StepResult step(Objective& objective, BaseOptimizer& base, const StepOptions& options = {});

  /// The two halves by themselves, for loops that run the passes: `.grad` holds g before the first and g_s
  /// before the second. ArgumentError when they are called out of order or a gradient is missing altogether.
  void first_step(const BaseOptimizer& base, const TensorList& masks = {});
  void second_step(BaseOptimizer& base);
  bool between() const { return open_ != nullptr; }
  /// Puts w back, as after an exception; nothing where there is no perturbation.
  void restore();
  /// The same, and forgets a first_step().
  void cancel();

  const SharpnessOptions& options() const { return options_; }
  const NamedTensors& parameters() const { return parameters_; }
  void set_statistics(TensorList statistics) { statistics_ = std::move(statistics); }
  /// One radius per parameter in place of `rho` (parameter groups); empty: the option.
  void set_rho(std::vector<double> rho);
  /// The radius of parameter i at this step, schedule included.
  double rho(std::size_t i, double lr) const;
  /// Steps that were made, skipped ones too.
  int64_t steps() const { return steps_; }
  int64_t skipped_steps() const { return skipped_; }

  /// Everything that resuming needs: counters, and the buffers of methods that keep some. `load_state` checks
  /// all of it before anything changes (ArgumentError).
  NamedTensors state() const;
  void load_state(const NamedTensors& state);

 private:
  friend class Slice;
  bool run(Slice& slice, bool synchronize);
  void finish(Slice& slice, BaseOptimizer& base, bool from_perturbed);

  NamedTensors parameters_;
  SharpnessOptions options_;
  TensorList statistics_;
  std::unique_ptr<Method> method_;
  std::vector<double> rho_;
  TensorList backups_;                  ///< per parameter, memory that is kept
  std::vector<std::size_t> perturbed_;  ///< parameters that are not at w now
  int64_t steps_ = 0, skipped_ = 0;
  std::unique_ptr<Slice> open_;  ///< between first_step and second_step
};

}  // namespace glyptic::sharpness
