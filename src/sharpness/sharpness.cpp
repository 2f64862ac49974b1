#include "glyptic/sharpness/sharpness.h"

#include <ATen/Context.h>
#include <torch/torch.h>

#include <cmath>
#include <unordered_set>

#include "glyptic/core/distributed.h"
#include "glyptic/core/error.h"
#include "glyptic/optim/optimizer.h"
#include "slice.h"

namespace glyptic::sharpness {

// ---- defaults of the objective

at::Tensor Objective::loss_of(int64_t batch, const at::Tensor& rows) {
  const auto losses = loss(batch);
  require(losses.dim() == 1, "this method needs one loss per sample ([B]), but the closure returned shape ",
          shape_string(losses.sizes()), "; use reduction='none'");
  return losses.index_select(0, rows);
}

at::Tensor Objective::reduce(const at::Tensor& losses, int64_t, bool) {
  return losses.dim() > 0 ? losses.mean() : losses;
}

void Objective::backward(const at::Tensor& loss) {
  loss.backward();
}

// ---- optim::Optimizer as a base

namespace {

class MaskedBase final : public BaseOptimizer {
 public:
  MaskedBase(optim::Optimizer& optimizer, TensorList masks)
      : optimizer_(optimizer), masks_(std::move(masks)) {}
  void step() override { optimizer_.step(masks_); }
  bool step_from(const TensorList& origins) override {
    optimizer_.step(masks_, origins);
    return true;
  }
  double lr(std::size_t) const override { return optimizer_.lr(); }
  at::Tensor momentum(std::size_t i) const override {
    const auto state = optimizer_.state_of(i);
    return optimizer_.steps() > 0 && !state.empty() ? state[0] : at::Tensor();
  }

 private:
  optim::Optimizer& optimizer_;
  TensorList masks_;
};

}  // namespace

std::unique_ptr<BaseOptimizer> base_of(optim::Optimizer& optimizer, TensorList masks) {
  return std::make_unique<MaskedBase>(optimizer, std::move(masks));
}

// ---- what a pass may not move

Frozen::Frozen(const TensorList& statistics) : tensors_(statistics) {
  const at::NoGradGuard no_grad;
  for (const auto& tensor : tensors_) saved_.push_back(tensor.clone());
}

Frozen::~Frozen() {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < tensors_.size(); ++i) tensors_[i].copy_(saved_[i]);
}

// ---- one ascent and descent

const at::Tensor& Slice::mask_of(std::size_t parameter) const {
  static const at::Tensor none;
  return step_options.masks.empty() ? none : step_options.masks[parameter];
}

// The first call notes where the generators stand, each later one puts them back there: the passes of a step
// see the same dropout masks.
void Slice::reset_generators() {
  if (!options().match_rng) return;
  if (!generators_.empty()) {
    for (auto& [generator, state] : generators_) {
      const std::lock_guard<std::mutex> lock(generator.mutex());
      generator.set_state(state);
    }
    return;
  }
  std::unordered_set<at::Device> devices{at::Device(at::kCPU)};
  for (const auto& p : engine.parameters_)
    if (p.tensor.is_cuda()) devices.insert(p.tensor.device());
  for (const auto& device : devices) {
    auto generator = at::globalContext().defaultGenerator(device);
    const std::lock_guard<std::mutex> lock(generator.mutex());
    generators_.emplace_back(generator, generator.get_state());
  }
}

at::Tensor Slice::forward(int64_t batch) {
  ++result.forwards;
  const auto losses = objective->loss(batch);
  require(losses.defined(), "the closure returned nothing; it must return the loss");
  require(
      !at::GradMode::is_enabled() || losses.requires_grad(),
      "the closure's loss does not depend on the parameters; run the forward pass inside the closure, with "
      "gradients enabled");
  require(!first_loss_.defined() || !losses.is_same(first_loss_),
          "the closure returned the very loss of the first pass, whose graph is gone; it must run the "
          "forward pass "
          "again each time it is called");
  return losses;
}

bool Slice::evaluate(bool second, bool synchronize, bool freeze) {
  for (const auto& p : engine.parameters_) p.tensor.mutable_grad().reset();
  const Frozen frozen(freeze ? engine.statistics_ : TensorList{});
  reset_generators();
  at::Tensor mean;
  {
    const at::AutoGradMode enable(true);
    for (int64_t i = 0; i < count_; ++i) {
      objective->synchronize(synchronize && i + 1 == count_);
      const auto losses = forward(first_ + i);
      auto loss = objective->reduce(losses, first_ + i, second);
      if (!second && count_ == 1 && losses.dim() == 1) result.losses = losses.detach();
      const auto part = loss.detach() / static_cast<double>(count_);
      mean = mean.defined() ? mean + part : part;
      if (!second) first_loss_ = losses;
      if (count_ > 1) loss = loss / static_cast<double>(count_);
      objective->backward(loss);
      ++result.backwards;
    }
  }
  synchronized = synchronize || !objective->distributed();
  const bool finite = objective->finish_pass();
  gather();
  if (synchronize && objective->distributed() && !objective->averages())
    objective->all_reduce_mean(gradients);
  if (options().loss_weight_decay != 0) {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < weights.size(); ++i)
      gradients[i].add_(weights[i], options().loss_weight_decay);
  }
  if (!second || !result.loss.defined()) {
    const auto share = mean * (static_cast<double>(count_) / static_cast<double>(objective->batches()));
    result.loss = result.loss.defined() ? result.loss + share : share;
  }
  return finite;
}

std::vector<at::Tensor> Slice::probe() {
  const at::NoGradGuard no_grad;
  const Frozen frozen(engine.statistics_);
  reset_generators();
  std::vector<at::Tensor> losses;
  for (int64_t i = 0; i < count_; ++i) losses.push_back(forward(first_ + i));
  return losses;
}

at::Tensor Slice::probe_loss() {
  at::Tensor sum;
  const auto losses = probe();
  for (std::size_t i = 0; i < losses.size(); ++i) {
    const auto wide = losses[i].dim() > 0 ? losses[i].to(at::kDouble) : losses[i];
    const auto loss =
        objective->reduce(wide, first_ + static_cast<int64_t>(i), false).to(at::kDouble).reshape({1});
    sum = sum.defined() ? sum + loss : loss;
  }
  return sum / static_cast<double>(count_);
}

void Slice::gather() {
  index.clear();
  weights.clear();
  gradients.clear();
  masks.clear();
  norm = at::Tensor();
  for (std::size_t i = 0; i < engine.parameters_.size(); ++i) {
    const auto& weight = engine.parameters_[i].tensor;
    const auto& gradient = weight.grad();
    if (!gradient.defined()) continue;
    require(gradient.layout() == at::kStrided, "the gradient of '", engine.parameters_[i].name,
            "' is sparse, which sharpness-aware steps do not take; build the embedding with sparse=False");
    index.push_back(i);
    weights.push_back(weight);
    gradients.push_back(gradient);
    if (!step_options.masks.empty()) masks.push_back(mask_of(i));
  }
  require(
      !index.empty(),
      "no parameter has a gradient; is the loss made of this model's parameters, and are they trainable?");
}

void Slice::add_growth() {
  const double share = static_cast<double>(count_) / static_cast<double>(objective->batches());
  result.growth.resize(engine.parameters_.size());
  for (std::size_t i = 0; i < index.size(); ++i) {
    auto& sum = result.growth[index[i]];
    const auto part = gradients[i] * share;  // a copy: methods and clipping work in place
    sum = sum.defined() ? sum + part : part;
  }
}

void Slice::keep() {
  kept = gradients;
  for (const auto i : index) engine.parameters_[i].tensor.mutable_grad().reset();
}

void Slice::take_all() {
  index.clear();
  weights.clear();
  masks.clear();
  for (std::size_t i = 0; i < engine.parameters_.size(); ++i) {
    index.push_back(i);
    weights.push_back(engine.parameters_[i].tensor);
    if (!step_options.masks.empty()) masks.push_back(mask_of(i));
  }
}

at::Tensor Slice::norm_of(const TensorList& x, bool metric) const {
  TensorList scaled_by;
  if (metric && options().adaptive != "none") {
    for (const auto& weight : weights)
      scaled_by.push_back(options().adaptive == "all" || weight.dim() > 1 ? weight : at::Tensor());
  }
  return ops::inner_products(x, {}, scaled_by, masks, options().eta).slice(0, 0, 1).sqrt();
}

at::Tensor Slice::products(const TensorList& a, const TensorList& b) const {
  return ops::inner_products(a, b, {}, masks);
}

at::Tensor Slice::scalar(double value) const {
  return at::full({1}, value, weights[0].options().dtype(at::kDouble).requires_grad(false));
}

at::Tensor Slice::scalars(std::initializer_list<at::Tensor> values) const {
  std::vector<at::Tensor> flat;
  for (const auto& value : values) flat.push_back(value.reshape({1}));
  return at::cat(flat);
}

// Kept from step to step, and made anew when the parameter was moved or converted.
const at::Tensor& Slice::backup_memory(std::size_t parameter) const {
  auto& backup = engine.backups_[parameter];
  const auto& weight = engine.parameters_[parameter].tensor;
  if (!backup.defined() || !backup.is_same_size(weight) || backup.device() != weight.device() ||
      backup.strides() != weight.strides() || backup.dtype() != weight.dtype())
    backup = at::empty_like(weight, weight.options().requires_grad(false));
  return backup;
}

bool Slice::ascend_within(TensorList chosen, bool norm_of_chosen, double scale) {
  for (std::size_t i = 0; i < chosen.size(); ++i)
    if (!masks.empty() && masks[i].defined()) chosen[i] = chosen[i].logical_and(masks[i]);
  const auto full = norm;
  std::swap(masks, chosen);
  ascend(gradients, norm_of_chosen ? norm_of(gradients, true) : full, scale);
  std::swap(masks, chosen);
  return true;
}

bool Slice::ascend(const TensorList& directions, const at::Tensor& norm, double scale) {
  const at::NoGradGuard no_grad;
  ops::AscendArgs args;
  args.eta = options().eta;
  args.eps0 = options().eps0;
  args.max_norm = options().norm == "linf";
  TensorList backups;
  for (std::size_t i = 0; i < index.size(); ++i) {
    backups.push_back(backup_memory(index[i]));
    args.rho.push_back(scale * engine.rho(index[i], base->lr(index[i])));
    args.adaptive.push_back(options().adaptive == "all" ||
                            (options().adaptive == "weights" && weights[i].dim() > 1));
  }
  engine.perturbed_ = index;  // before anything moves
  ops::ascend_(weights, backups, directions, norm, masks, args);
  result.ascended = true;
  return true;
}

void Slice::back_up_all() {
  const at::NoGradGuard no_grad;
  for (const auto i : index) backup_memory(i).copy_(engine.parameters_[i].tensor.detach());
  engine.perturbed_ = index;
}

TensorList Slice::pick(TensorList& buffers) const {
  TensorList result;
  for (std::size_t i = 0; i < index.size(); ++i) {
    auto& buffer = buffers[index[i]];
    if (!buffer.defined()) buffer = at::zeros_like(weights[i], weights[i].options().requires_grad(false));
    result.push_back(buffer);
  }
  return result;
}

// ---- the engine

Sharpness::Sharpness(NamedTensors parameters, SharpnessOptions options, TensorList statistics)
    : parameters_(std::move(parameters)), options_(std::move(options)), statistics_(std::move(statistics)) {
  options_.check();
  require(!parameters_.empty(), "sharpness: there are no parameters");
  const auto& info = method_info(options_.method);
  method_ = info.make(options_);
  method_->bind(options_, parameters_.size());
  backups_.resize(parameters_.size());
}

Sharpness::~Sharpness() {
  restore();
}

void Sharpness::restore() {
  const at::NoGradGuard no_grad;
  for (const auto i : perturbed_) parameters_[i].tensor.copy_(backups_[i]);
  perturbed_.clear();
}

void Sharpness::cancel() {
  open_.reset();
  restore();
}

void Sharpness::set_rho(std::vector<double> rho) {
  require(rho.empty() || rho.size() == parameters_.size(), "set_rho: ", rho.size(), " radii for ",
          parameters_.size(), " parameters");
  for (const double r : rho) require(r >= 0 && std::isfinite(r), "rho is ", r, ", expected a number >= 0");
  rho_ = std::move(rho);
}

double Sharpness::rho(std::size_t i, double lr) const {
  const double most = rho_.empty() ? options_.rho : rho_[i];
  if (options_.rho_schedule == "constant") return most;
  if (options_.rho_schedule == "lr") {
    if (options_.lr_max == options_.lr_min) return most;
    return options_.rho_min +
           (most - options_.rho_min) * (lr - options_.lr_min) / (options_.lr_max - options_.lr_min);
  }
  const double t = std::min(
      1.0, static_cast<double>(steps_) / static_cast<double>(std::max<int64_t>(1, options_.total_steps)));
  const double left = options_.rho_schedule == "cosine" ? (1 + std::cos(M_PI * t)) / 2 : 1 - t;
  return options_.rho_min + (most - options_.rho_min) * left;
}

namespace {

bool finite(const at::Tensor& norm) {
  return std::isfinite(norm.item<double>());
}

/// Puts the weights back unless the step came to its end.
class Undo {
 public:
  explicit Undo(Sharpness& engine) : engine_(engine) {}
  ~Undo() { engine_.restore(); }

 private:
  Sharpness& engine_;
};

}  // namespace

// Steps 1 to 3 of the algorithm; afterwards `.grad` holds d. False: a gradient is not finite.
bool Sharpness::run(Slice& s, bool synchronize) {
  const bool due = steps_ >= options_.start_step && (steps_ - options_.start_step) % options_.interval == 0;
  const bool ascends = due && method_->ascends(s);
  const bool first = !ascends || method_->gradient_first();
  auto& result = s.result;
  if (first) {
    if (!s.evaluate(false, synchronize && (!ascends || options_.sync_perturbation), false)) return false;
    s.norm = s.norm_of(s.gradients);
    if (!result.gradient_norm.defined()) result.gradient_norm = s.norm;
    // With several processes all must agree, which they do on the averaged gradient below.
    if (options_.check_finite && !s.objective->distributed() && !finite(s.norm)) return false;
    if (s.step_options.keep_growth) s.add_growth();
  }
  if (!ascends || !method_->ascend(s)) {
    if (!first && !s.evaluate(false, synchronize, false)) return false;
    method_->without_ascent(s);
  } else {
    if (method_->keeps_gradient()) s.keep();
    if (!method_->second_pass(s, synchronize && method_->linear(), first && options_.freeze_statistics))
      return false;
    method_->combine(s);
  }
  if (synchronize && !s.synchronized) s.objective->all_reduce_mean(s.gradients);
  return true;
}

StepResult Sharpness::step(Objective& objective, BaseOptimizer& base, const StepOptions& options) {
  require(!open_, "step() was called between first_step() and second_step(); call second_step() first");
  require(options.masks.empty() || options.masks.size() == parameters_.size(),
          "sharpness step: ", options.masks.size(), " masks for ", parameters_.size(), " parameters");
  const at::NoGradGuard no_grad;
  const Undo undo(*this);
  StepResult result;
  const int64_t batches = objective.batches();
  require(batches >= 1, "the step has no micro-batch");

  if (options.gradient_only) {
    Slice s(*this, &objective, base, options, result, 0, batches);
    result.skipped = !s.evaluate(false, true, false);
    if (!s.synchronized) objective.all_reduce_mean(s.gradients);
    s.norm = result.gradient_norm = s.norm_of(s.gradients);
    result.skipped = result.skipped || (options_.check_finite && !finite(s.norm));
    result.growth.resize(parameters_.size());
    for (std::size_t i = 0; i < s.index.size(); ++i) result.growth[s.index[i]] = s.gradients[i];
    result.skipped ? ++skipped_ : ++steps_;
    return result;
  }

  // One ascent for all micro-batches together, or one for each (m-sharpness with m their size).
  const bool each = options_.accumulation == "micro" && batches > 1;
  TensorList sums(each ? parameters_.size() : 0);
  std::unique_ptr<Slice> s;
  for (int64_t batch = 0; batch < (each ? batches : 1); ++batch) {
    s = std::make_unique<Slice>(*this, &objective, base, options, result, batch, each ? 1 : batches);
    if (!run(*s, !each)) {
      restore();
      ++skipped_;
      result.skipped = true;
      return result;
    }
    if (!each) break;
    restore();
    for (std::size_t i = 0; i < s->index.size(); ++i) {
      auto& sum = sums[s->index[i]];
      const auto part = s->gradients[i] / static_cast<double>(batches);
      sum = sum.defined() ? sum + part : part;
    }
  }
  if (each) {
    for (std::size_t i = 0; i < sums.size(); ++i) parameters_[i].tensor.mutable_grad() = sums[i];
    s->gather();
    if (objective.distributed()) objective.all_reduce_mean(s->gradients);
  }
  if (options.keep_growth) {
    const bool at_w = !result.growth.empty();
    if (!at_w) s->add_growth();  // methods whose only gradient is the perturbed one
    TensorList defined;
    for (const auto& tensor : result.growth)
      if (tensor.defined()) defined.push_back(tensor);
    if (objective.distributed() && at_w) objective.all_reduce_mean(defined);
  }
  result.perturbed_norm = s->norm_of(s->gradients);
  if (options_.check_finite && !finite(result.perturbed_norm)) {
    ++skipped_;
    result.skipped = true;
    return result;
  }
  s->norm = result.perturbed_norm;
  finish(*s, base, !each);
  return result;
}

// Step 4: clip, restore, step.
void Sharpness::finish(Slice& s, BaseOptimizer& base, bool from_perturbed) {
  if (options_.max_grad_norm > 0) {
    // Acts on d alone (the codes do). On the device: no read-back.
    const auto scale = (options_.max_grad_norm / s.norm).clamp_max(1.0);
    for (const auto& gradient : s.gradients)
      gradient.mul_(scale.to(gradient.device(), gradient.scalar_type()));
  }
  TensorList origins;
  if (from_perturbed && !perturbed_.empty()) {
    origins.resize(parameters_.size());
    for (const auto i : perturbed_)
      if (parameters_[i].tensor.grad().defined()) origins[i] = backups_[i];
  }
  if (!origins.empty() && base.step_from(origins)) {
    for (const auto i : perturbed_)
      if (!origins[i].defined()) parameters_[i].tensor.copy_(backups_[i]);
    perturbed_.clear();
  } else {
    restore();
    base.step();
  }
  method_->after_step(s);
  ++steps_;
}

void Sharpness::first_step(const BaseOptimizer& base, const TensorList& masks) {
  require(!open_, "first_step() was called twice; call second_step() after the second backward pass");
  require(method_->gradient_first(), "'", options_.method,
          "' has no gradient in its first pass, so its step cannot be cut in two; call step(closure)");
  const at::NoGradGuard no_grad;
  struct Halves : Slice {
    StepOptions halves_options;
    StepResult halves_result;
    Halves(Sharpness& engine, const BaseOptimizer& base)
        : Slice(engine, nullptr, base, halves_options, halves_result, 0, 1) {}
  };
  auto s = std::make_unique<Halves>(*this, base);
  s->halves_options.masks = masks;
  s->gather();
  s->norm = s->norm_of(s->gradients);
  const bool due = steps_ >= options_.start_step && (steps_ - options_.start_step) % options_.interval == 0;
  if (due && method_->ascends(*s)) method_->ascend(*s);
  if (method_->keeps_gradient()) s->keep();
  open_ = std::move(s);
}

void Sharpness::second_step(BaseOptimizer& base) {
  require(open_ != nullptr, "second_step() was called without first_step()");
  const at::NoGradGuard no_grad;
  const Undo undo(*this);
  const auto s = std::move(open_);
  s->base = &base;
  s->gather();
  if (s->result.ascended)
    method_->combine(*s);
  else
    method_->without_ascent(*s);
  s->norm = s->norm_of(s->gradients);
  if (options_.check_finite && !finite(s->norm)) {
    ++skipped_;
    return;
  }
  finish(*s, base, true);
}

NamedTensors Sharpness::state() const {
  require(!open_ && perturbed_.empty(),
          "the state was asked for between the two passes, while the weights are perturbed; ask for it after "
          "the step");
  NamedTensors result{{"sharpness.steps", at::tensor({steps_, skipped_}, at::kLong)}};
  for (const auto& [name, value] : method_->numbers())
    result.push_back({"sharpness." + name, at::tensor({*value}, at::kDouble)});
  for (const auto& buffer : method_->buffers())
    for (std::size_t i = 0; i < parameters_.size(); ++i)
      if ((*buffer.tensors)[i].defined())
        result.push_back({"sharpness." + buffer.kind + "." + parameters_[i].name, (*buffer.tensors)[i]});
  return result;
}

void Sharpness::load_state(const NamedTensors& state) {
  require(!open_ && perturbed_.empty(), "a state cannot be loaded between the two passes");
  const at::NoGradGuard no_grad;
  const auto& steps = get(state, "sharpness.steps");
  require(steps.numel() == 2 && steps.scalar_type() == at::kLong, "sharpness.steps has the wrong shape");
  std::vector<std::pair<double*, double>> numbers;
  for (const auto& [name, value] : method_->numbers())
    numbers.emplace_back(value, get(state, "sharpness." + name).item<double>());
  std::vector<std::pair<at::Tensor*, at::Tensor>> tensors;
  for (const auto& buffer : method_->buffers()) {
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const auto name = "sharpness." + buffer.kind + "." + parameters_[i].name;
      const auto* saved = find(state, name);
      const auto& weight = parameters_[i].tensor;
      if (saved)
        require(saved->sizes() == weight.sizes(), "'", name, "' has shape ", shape_string(saved->sizes()),
                " in the saved state, but its parameter has ", shape_string(weight.sizes()));
      tensors.emplace_back(
          &(*buffer.tensors)[i],
          saved ? at::empty_like(weight, weight.options().dtype(saved->dtype()).requires_grad(false))
                      .copy_(*saved)
                : at::Tensor());
    }
  }
  for (auto& [to, value] : numbers) *to = value;
  for (auto& [to, value] : tensors) *to = value;
  steps_ = steps[0].item<int64_t>();
  skipped_ = steps[1].item<int64_t>();
}

}  // namespace glyptic::sharpness
