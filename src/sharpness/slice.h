// One ascent and descent: what a method works with. Internal to src/sharpness.
#pragma once

#include <ATen/core/Generator.h>

#include "glyptic/sharpness/sharpness.h"

namespace glyptic::sharpness {

/// The gradients of some micro-batches of a step, in lists over the parameters that have one.
class Slice {
 public:
  Slice(Sharpness& engine, Objective* objective, const BaseOptimizer& base, const StepOptions& options,
        StepResult& result, int64_t first, int64_t count)
      : engine(engine),
        objective(objective),
        base(&base),
        step_options(options),
        result(result),
        first_(first),
        count_(count) {}

  Sharpness& engine;
  Objective* objective;  ///< null between first_step and second_step
  const BaseOptimizer* base;
  const StepOptions& step_options;
  StepResult& result;

  std::vector<std::size_t> index;  ///< of each entry below among the engine's parameters
  TensorList weights, gradients, masks;
  TensorList kept;  ///< the gradient at w, after `keep()`, in the order that `index` had then
  at::Tensor norm;  ///< float64 [1], of the gradient that is in `gradients`; made when asked for
  bool synchronized = false;

  const SharpnessOptions& options() const { return engine.options_; }
  /// 0-based number of the step under way, and of its first micro-batch.
  int64_t step() const { return engine.steps_; }
  int64_t first() const { return first_; }
  /// The radius of entry i, and the copy of its weight that was made before the ascent.
  double rho(std::size_t i) const { return engine.rho(index[i], base->lr(index[i])); }
  const at::Tensor& backup(std::size_t i) const { return engine.backups_[index[i]]; }
  void restore() { engine.restore(); }
  const at::Tensor& mask_of(std::size_t parameter) const;

  /// Zeroes gradients, then forward and backward over the micro-batches. `second`: after an ascent.
  bool evaluate(bool second, bool synchronize, bool freeze);
  /// Forward passes without a gradient and with frozen statistics; losses per sample or scalars.
  std::vector<at::Tensor> probe();
  /// The mean of what `probe` gives, float64 [1], after the objective's reduction.
  at::Tensor probe_loss();
  /// Looks at `.grad` again.
  void gather();
  /// Adds the gradient to what growth will rank by.
  void add_growth();
  /// Puts `.grad` of now aside; the next pass makes new ones.
  void keep();

  /// sqrt(<x, x>) where masks are true; with `metric` of T x (ASAM).
  at::Tensor norm_of(const TensorList& x, bool metric = false) const;
  at::Tensor products(const TensorList& a, const TensorList& b) const;
  at::Tensor scalars(std::initializer_list<at::Tensor> values) const;
  at::Tensor scalar(double value) const;
  /// w <- w + scale rho T^2 h / (norm + eps0), backing up. False where there is nothing to move.
  bool ascend(const TensorList& directions, const at::Tensor& norm, double scale = 1.0);
  /// The same along the gradient, in the entries that `chosen` (one mask each) marks; the norm is theirs, T
  /// included, or that of the whole gradient.
  bool ascend_within(TensorList chosen, bool norm_of_chosen, double scale = 1.0);
  /// Marks all parameters as moved, after copying them: for methods that move weights by themselves.
  void back_up_all();
  /// Everything that may be perturbed, in order, for methods that start without a gradient.
  void take_all();

  /// State of the method for the parameters of `index`, zero at first.
  TensorList pick(TensorList& buffers) const;
  void reset_generators();

 private:
  friend class Sharpness;
  at::Tensor forward(int64_t batch);
  const at::Tensor& backup_memory(std::size_t parameter) const;
  int64_t first_, count_;
  std::vector<std::pair<at::Generator, at::Tensor>> generators_;
  at::Tensor first_loss_;
};

/// Random generators, normalisation statistics: what a pass may not move.
class Frozen {
 public:
  explicit Frozen(const TensorList& statistics);
  ~Frozen();
  Frozen(const Frozen&) = delete;
  Frozen& operator=(const Frozen&) = delete;

 private:
  TensorList tensors_, saved_;
};

/// What distinguishes one member of the family from another.
class Method {
 public:
  virtual ~Method() = default;
  /// False on steps that take the gradient at w and nothing else.
  virtual bool ascends(const Slice&) const { return true; }
  /// False when the ascent needs no gradient at w.
  virtual bool gradient_first() const { return true; }
  /// Moves the weights. False: the step goes on with the gradient at w.
  virtual bool ascend(Slice& s) = 0;
  /// `combine` reads the gradient at w (`s.kept`).
  virtual bool keeps_gradient() const { return false; }
  /// Pass 2; by default all samples.
  virtual bool second_pass(Slice& s, bool synchronize, bool freeze) {
    return s.evaluate(true, synchronize, freeze);
  }
  /// `.grad` holds g_s and shall hold d.
  virtual void combine(Slice&) {}
  /// d is g_s of all processes together, so that pass 2 may average by itself.
  virtual bool linear() const { return true; }
  /// `.grad` holds g on a step without an ascent and shall hold d.
  virtual void without_ascent(Slice&) {}
  /// The base optimizer has stepped.
  virtual void after_step(Slice&) {}

  struct Buffer {
    std::string kind;
    TensorList* tensors;  ///< per parameter, undefined where there is none yet
  };
  virtual std::vector<Buffer> buffers() { return {}; }
  /// Numbers that are state.
  virtual std::vector<std::pair<std::string, double*>> numbers() { return {}; }

  void bind(const SharpnessOptions& options, std::size_t parameters) {
    options_ = &options;
    for (auto& buffer : buffers()) buffer.tensors->resize(parameters);
  }

 protected:
  const SharpnessOptions& options() const { return *options_; }

 private:
  const SharpnessOptions* options_ = nullptr;
};

}  // namespace glyptic::sharpness
