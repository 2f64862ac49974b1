// SGD and AdamW as fused masked steps, for the C++ API and the command line. (In Python any torch.optim
// optimizer does; see glyptic.sparsity.)
#pragma once

#include <c10/core/Storage.h>

#include <memory>
#include <string>
#include <vector>

#include "glyptic/core/named_tensor.h"
#include "glyptic/core/options.h"

namespace glyptic::optim {

struct OptimizerOptions {
  std::string name = "sgd";
  double lr = 0.1;
  double momentum = 0.9;
  double dampening = 0.0;
  bool nesterov = false;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 5e-4;
  bool decay_one_dimensional = true;  ///< false: biases and normalisation parameters are not decayed
  bool per_weight_step = false;  ///< adam: bias correction by each weight's own age (spec 1.6, grow_state)
  double max_grad_norm = 0.0;    ///< clip the norm of the masked gradients; 0: off
  void declare(Options& options);
};

class Optimizer {
 public:
  Optimizer(NamedTensors parameters, OptimizerOptions options);

  /// One step from the parameters' `.grad`, which stays intact (except for clipping, which scales it).
  /// `masks`, when given, has one entry per parameter, undefined where everything is kept; off-mask weights
  /// and state end up zero. From the second step under a mask on, memory without an active weight is not
  /// touched (ops::SgdArgs::off_mask_is_zero), as long as nobody but this class wrote to the weight, its
  /// state or the mask in between. Version counters tell; a write past them, through `.data()`, needs
  /// Sparsifier::apply_masks() after it.
  /// `origins`, when given, has one entry per parameter: where one is defined, the step starts from it and
  /// the weight is only written (what undoes a perturbation and steps in one pass).
  void step(const std::vector<at::Tensor>& masks = {}, const std::vector<at::Tensor>& origins = {});
  void zero_grad();

  void set_lr(double lr) { lr_ = lr; }
  double lr() const { return lr_; }
  int64_t steps() const { return steps_; }
  const NamedTensors& parameters() const { return parameters_; }
  const OptimizerOptions& options() const { return options_; }

  /// State tensors of parameter `index`, of its own shape: momentum, or first and second moment (and weight
  /// steps).
  std::vector<at::Tensor> state_of(std::size_t index) const;
  /// Named "optimizer.<kind>.<parameter>", plus "optimizer.steps".
  NamedTensors state() const;
  /// Checked before anything changes: ArgumentError naming the tensor that is missing or of another shape.
  void load_state(const NamedTensors& state);

 private:
  struct Slot {
    std::string kind;                 ///< "momentum", "exp_avg", ...
    std::vector<at::Tensor> tensors;  ///< per parameter
  };
  /// The memory of a tensor at a moment. Holds it, so that other memory cannot come to lie at its address.
  struct Seen {
    c10::Storage storage;
    const void* data = nullptr;
    int64_t version = 0;
    bool operator==(const Seen& other) const { return data == other.data && version == other.version; }
  };
  /// Weight, mask and state of one parameter as a masked step left them; empty before there was one.
  using Zeros = std::vector<Seen>;
  void clip(const std::vector<at::Tensor>& masks);
  Zeros look(std::size_t index, const at::Tensor& mask) const;

  NamedTensors parameters_;
  OptimizerOptions options_;
  std::vector<Slot> slots_;
  std::vector<Zeros> zeros_;  ///< per parameter: while `look` still sees this, everything off-mask is zero
  double lr_;
  int64_t steps_ = 0;
};

struct LrOptions {
  std::string schedule = "cosine";
  double warmup_epochs = 0.0;
  double min_factor = 0.0;
  std::vector<double> milestones;  ///< step: fractions of the run
  double gamma = 0.1;
  void declare(Options& options);
};

/// Factor on the base rate for the 1-based `step` of `total`: linear warm-up from 1/w to 1 over w steps, then
/// constant, cosine to min_factor, or step decay by gamma at each milestone.
double lr_factor(const LrOptions& options, int64_t step, int64_t total, int64_t steps_per_epoch);

}  // namespace glyptic::optim
