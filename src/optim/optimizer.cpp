#include "glyptic/optim/optimizer.h"

#include <torch/torch.h>

#include "glyptic/core/error.h"
#include "glyptic/ops/ops.h"

namespace glyptic::optim {

void OptimizerOptions::declare(Options& o) {
  o.field("name", name, "sgd, or adamw (decoupled decay), or adam (decay in the gradient)",
          one_of({"sgd", "adamw", "adam"}))
      .with_presets({{"adamw", {{"lr", 1e-3}, {"weight_decay", 1e-2}}},
                     {"adam", {{"lr", 1e-3}, {"weight_decay", 0.0}}}});
  o.field("lr", lr, "base learning rate", at_least(0));
  o.field("momentum", momentum, "sgd: momentum", from_below(0, 1));
  o.field("dampening", dampening, "sgd: dampening of the momentum", between(0, 1));
  o.field("nesterov", nesterov, "sgd: Nesterov momentum");
  o.field("beta1", beta1, "adam: decay of the first moment", from_below(0, 1));
  o.field("beta2", beta2, "adam: decay of the second moment", from_below(0, 1));
  o.field("eps", eps, "adam: added to the root of the second moment", above(0));
  o.field("weight_decay", weight_decay, "weight decay, of active weights only", at_least(0));
  o.field("decay_one_dimensional", decay_one_dimensional, "also decay biases and normalisation parameters");
  o.field("per_weight_step", per_weight_step,
          "adam: correct bias by each weight's own age since it was grown");
  o.field("max_grad_norm", max_grad_norm, "clip the norm of the masked gradients to this; 0: off",
          at_least(0));
}

Optimizer::Optimizer(NamedTensors parameters, OptimizerOptions options)
    : parameters_(std::move(parameters)),
      options_(std::move(options)),
      zeros_(parameters_.size()),
      lr_(options_.lr) {
  check_names(parameters_, "optimizer");
  require(!options_.nesterov || (options_.momentum > 0 && options_.dampening == 0),
          "optimizer.nesterov needs a momentum above 0 and no dampening");
  const auto slot = [&](const char* kind, at::ScalarType type) {
    Slot s{kind, {}};
    for (const auto& p : parameters_) {
      // Moments in float32, also of weights in half precision; float64 weights keep theirs.
      const auto own = type == at::kFloat && p.tensor.scalar_type() == at::kDouble ? at::kDouble : type;
      s.tensors.push_back(at::zeros_like(p.tensor, p.tensor.options().dtype(own).requires_grad(false)));
    }
    slots_.push_back(std::move(s));
  };
  if (options_.name == "sgd") {
    if (options_.momentum > 0) slot("momentum", at::kFloat);
  } else if (options_.name == "adamw" || options_.name == "adam") {
    slot("exp_avg", at::kFloat);
    slot("exp_avg_sq", at::kFloat);
    if (options_.per_weight_step) slot("weight_steps", at::kInt);
  } else {
    throw ArgumentError(str("optimizer.name is '", options_.name, "', expected one of sgd, adamw, adam",
                            did_you_mean(options_.name, {"sgd", "adamw", "adam"})));
  }
}

void Optimizer::zero_grad() {
  for (auto& p : parameters_) p.tensor.mutable_grad().reset();
}

// Clips by the norm of the masked gradient: at 95 % sparsity most of the dense norm sits on inactive weights.
void Optimizer::clip(const std::vector<at::Tensor>& masks) {
  double square = 0;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const auto& grad = parameters_[i].tensor.grad();
    if (!grad.defined()) continue;
    const auto active = i < masks.size() && masks[i].defined() ? grad * masks[i] : grad;
    square += active.to(at::kDouble).square().sum().item<double>();
  }
  const double norm = std::sqrt(square);
  if (norm <= options_.max_grad_norm) return;
  for (auto& p : parameters_)
    if (p.tensor.grad().defined()) p.tensor.mutable_grad().mul_(options_.max_grad_norm / norm);
}

Optimizer::Zeros Optimizer::look(std::size_t index, const at::Tensor& mask) const {
  Zeros seen;
  const auto add = [&](const at::Tensor& tensor) {
    const bool counted = !tensor.is_inference() && tensor.has_storage();
    if (counted) seen.push_back({tensor.storage(), tensor.const_data_ptr(), tensor._version()});
    return counted;
  };
  bool all = add(parameters_[index].tensor) && add(mask);
  for (const auto& slot : slots_) all = all && add(slot.tensors[index]);
  return all ? seen : Zeros{};
}

void Optimizer::step(const std::vector<at::Tensor>& masks, const std::vector<at::Tensor>& origins) {
  const at::NoGradGuard no_grad;
  require(masks.empty() || masks.size() == parameters_.size(), "optimizer step: ", masks.size(),
          " masks for ", parameters_.size(), " parameters");
  require(origins.empty() || origins.size() == parameters_.size(), "optimizer step: ", origins.size(),
          " origins for ", parameters_.size(), " parameters");
  if (options_.max_grad_norm > 0) clip(masks);
  ++steps_;
  // One fused call for each combination of (has an origin, has a mask, is decayed).
  for (const int kind : {0, 1, 2, 3, 4, 5, 6, 7}) {
    const bool masked = (kind & 1) != 0, decayed = (kind & 2) != 0, moved = (kind & 4) != 0;
    if (moved && origins.empty()) break;
    ops::TensorList weights, grads, keep, from;
    std::vector<ops::TensorList> state(slots_.size());
    std::vector<std::size_t> indices;
    bool zeros = masked;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const auto& weight = parameters_[i].tensor;
      const bool has_mask = i < masks.size() && masks[i].defined();
      if (!weight.grad().defined() || has_mask != masked ||
          (!origins.empty() && origins[i].defined()) != moved ||
          (options_.decay_one_dimensional || weight.dim() > 1) != decayed)
        continue;
      weights.push_back(weight);
      grads.push_back(weight.grad());
      if (moved) from.push_back(origins[i]);
      if (masked) {
        keep.push_back(masks[i]);
        indices.push_back(i);
        zeros = zeros && !zeros_[i].empty() && zeros_[i] == look(i, masks[i]);
      }
      for (std::size_t s = 0; s < slots_.size(); ++s) state[s].push_back(slots_[s].tensors[i]);
    }
    if (weights.empty()) continue;
    const double decay = decayed ? options_.weight_decay : 0;
    if (options_.name == "sgd") {
      ops::masked_sgd_(weights, grads, state.empty() ? ops::TensorList{} : state[0], keep,
                       {.lr = lr_,
                        .momentum = options_.momentum,
                        .dampening = options_.dampening,
                        .weight_decay = decay,
                        .nesterov = options_.nesterov,
                        .first_step = steps_ == 1,
                        .off_mask_is_zero = zeros},
                       from);
    } else {
      ops::masked_adamw_(weights, grads, state[0], state[1], keep,
                         options_.per_weight_step ? state[2] : ops::TensorList{},
                         {.lr = lr_,
                          .beta1 = options_.beta1,
                          .beta2 = options_.beta2,
                          .eps = options_.eps,
                          .weight_decay = decay,
                          .decoupled = options_.name == "adamw",
                          .step = steps_,
                          .off_mask_is_zero = zeros},
                         from);
    }
    for (const auto i : indices) zeros_[i] = look(i, masks[i]);
  }
}

std::vector<at::Tensor> Optimizer::state_of(std::size_t index) const {
  std::vector<at::Tensor> result;
  for (const auto& slot : slots_) result.push_back(slot.tensors[index]);
  return result;
}

NamedTensors Optimizer::state() const {
  NamedTensors result{{"optimizer.steps", at::tensor({steps_}, at::kLong)}};
  for (const auto& slot : slots_)
    for (std::size_t i = 0; i < parameters_.size(); ++i)
      result.push_back({"optimizer." + slot.kind + "." + parameters_[i].name, slot.tensors[i]});
  return result;
}

void Optimizer::load_state(const NamedTensors& state) {
  const at::NoGradGuard no_grad;
  const auto& steps = get(state, "optimizer.steps");
  require(steps.numel() == 1 && steps.scalar_type() == at::kLong, "optimizer.steps has the wrong shape");
  for (const auto& slot : slots_) {
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const auto name = "optimizer." + slot.kind + "." + parameters_[i].name;
      const auto& saved = get(state, name);
      require(saved.sizes() == slot.tensors[i].sizes(), "'", name, "' has shape ",
              shape_string(saved.sizes()), " in the checkpoint, but ", shape_string(slot.tensors[i].sizes()),
              " here");
    }
  }
  for (auto& slot : slots_)
    for (std::size_t i = 0; i < parameters_.size(); ++i)
      slot.tensors[i].copy_(get(state, "optimizer." + slot.kind + "." + parameters_[i].name));
  steps_ = steps.item<int64_t>();
}

void LrOptions::declare(Options& o) {
  o.field("schedule", schedule, "how the learning rate decays", one_of({"constant", "cosine", "step"}));
  o.field("warmup_epochs", warmup_epochs, "epochs of linear warm-up", at_least(0));
  o.field("min_factor", min_factor, "cosine: factor at the end of the run", between(0, 1));
  o.field("milestones", milestones, "step: fractions of the run after which the rate is multiplied by gamma",
          between(0, 1));
  o.field("gamma", gamma, "step: factor at each milestone", above_to(0, 1));
}

double lr_factor(const LrOptions& options, int64_t step, int64_t total, int64_t steps_per_epoch) {
  const auto warmup =
      static_cast<int64_t>(std::llround(options.warmup_epochs * static_cast<double>(steps_per_epoch)));
  if (step <= warmup) return static_cast<double>(step) / static_cast<double>(warmup);
  const double x =
      total > warmup ? static_cast<double>(step - 1 - warmup) / static_cast<double>(total - warmup) : 1.0;
  if (options.schedule == "cosine")
    return options.min_factor + (1 - options.min_factor) * (1 + std::cos(M_PI * x)) / 2;
  if (options.schedule == "step") {
    double factor = 1;
    for (const double milestone : options.milestones)
      if (static_cast<double>(step - 1) >= milestone * static_cast<double>(total) - 1e-9)
        factor *= options.gamma;
    return factor;
  }
  return 1;
}

}  // namespace glyptic::optim
