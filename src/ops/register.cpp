// torch.ops.glyptic.*: schemas and registrations. One function serves CPU, CUDA, Meta and, through the
// composite, every other device; it checks its arguments and picks the path itself (ops.cpp). In-place
// operators take no part in autograd, so their Autograd kernels fall through; what has a gradient:
// autograd.cpp.
#include <torch/library.h>

#include "support.h"

namespace glyptic::ops {

namespace {

constexpr const char* kScores[] = {"magnitude", "mest", "taylor", "random", "raw"};
constexpr const char* kChannelScores[] = {"umm", "masked_mean", "density", "kernel_density"};

void sgd(at::TensorList weights, at::TensorList grads, at::TensorList momenta, at::TensorList masks,
         double lr, double momentum, double dampening, double weight_decay, bool nesterov, bool maximize,
         bool first_step, bool off_mask_is_zero) {
  masked_sgd_(list(weights), list(grads), list(momenta), list(masks),
              {lr, momentum, dampening, weight_decay, nesterov, maximize, first_step, off_mask_is_zero});
}

void restore_sgd(at::TensorList weights, at::TensorList origins, at::TensorList grads, at::TensorList momenta,
                 at::TensorList masks, double lr, double momentum, double dampening, double weight_decay,
                 bool nesterov, bool maximize, bool first_step, bool off_mask_is_zero) {
  masked_sgd_(list(weights), list(grads), list(momenta), list(masks),
              {lr, momentum, dampening, weight_decay, nesterov, maximize, first_step, off_mask_is_zero},
              list(origins));
}

void adamw(at::TensorList weights, at::TensorList grads, at::TensorList exp_avgs, at::TensorList exp_avg_sqs,
           at::TensorList masks, at::TensorList weight_steps, double lr, double beta1, double beta2,
           double eps, double weight_decay, bool decoupled, bool maximize, int64_t step,
           bool off_mask_is_zero) {
  masked_adamw_(list(weights), list(grads), list(exp_avgs), list(exp_avg_sqs), list(masks),
                list(weight_steps),
                {lr, beta1, beta2, eps, weight_decay, decoupled, maximize, step, off_mask_is_zero});
}

void restore_adamw(at::TensorList weights, at::TensorList origins, at::TensorList grads,
                   at::TensorList exp_avgs, at::TensorList exp_avg_sqs, at::TensorList masks,
                   at::TensorList weight_steps, double lr, double beta1, double beta2, double eps,
                   double weight_decay, bool decoupled, bool maximize, int64_t step, bool off_mask_is_zero) {
  masked_adamw_(
      list(weights), list(grads), list(exp_avgs), list(exp_avg_sqs), list(masks), list(weight_steps),
      {lr, beta1, beta2, eps, weight_decay, decoupled, maximize, step, off_mask_is_zero}, list(origins));
}

void apply(at::TensorList tensors, at::TensorList masks) {
  mask_apply_(list(tensors), list(masks));
}

std::vector<at::Tensor> topk(at::TensorList a, at::TensorList b, at::TensorList candidates,
                             at::TensorList exclude, at::IntArrayRef k, bool across, c10::string_view score,
                             double mest_lambda, bool merge_excluded, int64_t seed, int64_t stream) {
  TopKArgs args;
  args.score = named<Score>("topk_masks", "score", score, kScores);
  args.lambda = mest_lambda;
  args.merge_excluded = merge_excluded;
  args.seed = static_cast<uint64_t>(seed);
  args.stream = static_cast<uint64_t>(stream);
  return topk_masks(list(a), list(b), list(candidates), list(exclude), k.vec(), across, args);
}

at::Tensor update(at::TensorList weights, at::TensorList masks, at::TensorList states,
                  at::IntArrayRef state_counts, at::TensorList new_masks) {
  std::vector<TensorList> per_weight;
  int64_t total = 0;
  for (const auto n : state_counts) {
    require(n >= 0 && total + n <= static_cast<int64_t>(states.size()), "mask_update_: state_counts holds ",
            n, ", but states has ", states.size(),
            " tensors; expected the number of state tensors of each weight");
    const auto part = states.slice(static_cast<std::size_t>(total), static_cast<std::size_t>(n));
    per_weight.push_back(part.vec());
    total += n;
  }
  require(total == static_cast<int64_t>(states.size()), "mask_update_: state_counts add up to ", total,
          ", but states has ", states.size(), " tensors");
  return mask_update_(list(weights), list(masks), per_weight, list(new_masks));
}

std::vector<at::Tensor> scores(at::TensorList weights, at::TensorList masks, c10::string_view score) {
  return channel_scores(list(weights), list(masks),
                        named<ChannelScore>("channel_scores", "score", score, kChannelScores));
}

at::Tensor gather(const at::Tensor& weight, const std::optional<at::Tensor>& rows,
                  const std::optional<at::Tensor>& cols) {
  return channel_gather(weight, rows.value_or(at::Tensor()), cols.value_or(at::Tensor()));
}

void fill(const at::Tensor& out, int64_t seed, int64_t stream, int64_t offset,
          c10::string_view distribution) {
  philox_fill_(out, static_cast<uint64_t>(seed), static_cast<uint64_t>(stream), offset,
               named<Distribution>("philox_fill_", "distribution", distribution, kDistributions));
}

void implement(torch::Library& m) {
  m.impl("masked_sgd_", TORCH_FN(sgd));
  m.impl("masked_adamw_", TORCH_FN(adamw));
  m.impl("restore_sgd_", TORCH_FN(restore_sgd));
  m.impl("restore_adamw_", TORCH_FN(restore_adamw));
  m.impl("mask_apply_", TORCH_FN(apply));
  m.impl("topk_masks", TORCH_FN(topk));
  m.impl("mask_update_", TORCH_FN(update));
  m.impl("channel_scores", TORCH_FN(scores));
  m.impl("channel_gather", TORCH_FN(gather));
  m.impl("philox_fill_", TORCH_FN(fill));
}

}  // namespace

TORCH_LIBRARY(glyptic, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "masked_sgd_(Tensor(a!)[] weights, Tensor[] grads, Tensor(b!)[] momenta, Tensor[] masks, *, float lr, "
      "float momentum=0.0, float dampening=0.0, float weight_decay=0.0, bool nesterov=False, "
      "bool maximize=False, bool first_step=False, bool off_mask_is_zero=False) -> ()",
      tags);
  m.def(
      "masked_adamw_(Tensor(a!)[] weights, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
      "Tensor[] masks, Tensor(d!)[] weight_steps, *, float lr, float beta1=0.9, float beta2=0.999, "
      "float eps=1e-08, float weight_decay=0.01, bool decoupled=True, bool maximize=False, int step=1, "
      "bool off_mask_is_zero=False) -> ()",
      tags);
  m.def(
      "restore_sgd_(Tensor(a!)[] weights, Tensor[] origins, Tensor[] grads, Tensor(b!)[] momenta, "
      "Tensor[] masks, *, float lr, float momentum=0.0, float dampening=0.0, float weight_decay=0.0, "
      "bool nesterov=False, bool maximize=False, bool first_step=False, bool off_mask_is_zero=False) -> ()",
      tags);
  m.def(
      "restore_adamw_(Tensor(a!)[] weights, Tensor[] origins, Tensor[] grads, Tensor(b!)[] exp_avgs, "
      "Tensor(c!)[] exp_avg_sqs, Tensor[] masks, Tensor(d!)[] weight_steps, *, float lr, float beta1=0.9, "
      "float beta2=0.999, float eps=1e-08, float weight_decay=0.01, bool decoupled=True, "
      "bool maximize=False, int step=1, bool off_mask_is_zero=False) -> ()",
      tags);
  m.def("mask_apply_(Tensor(a!)[] tensors, Tensor[] masks) -> ()", tags);
  m.def(
      "topk_masks(Tensor[] a, Tensor[] b, Tensor[] candidates, Tensor[] exclude, int[] k, *, "
      "bool across_tensors=False, str score='magnitude', float mest_lambda=0.0, bool merge_excluded=False, "
      "int seed=0, int stream=0) "
      "-> Tensor[]",
      tags);
  m.def(
      "mask_update_(Tensor(a!)[] weights, Tensor(b!)[] masks, Tensor(c!)[] states, int[] state_counts, "
      "Tensor[] new_masks) -> Tensor",
      tags);
  m.def("channel_scores(Tensor[] weights, Tensor[] masks, *, str score='umm') -> Tensor[]", tags);
  m.def("channel_gather(Tensor weight, Tensor? rows=None, Tensor? cols=None) -> Tensor", tags);
  m.def(
      "philox_fill_(Tensor(a!) out, *, int seed, int stream, int offset=0, str distribution='uniform') -> ()",
      tags);
}

TORCH_LIBRARY_IMPL(glyptic, CPU, m) {
  implement(m);
}
TORCH_LIBRARY_IMPL(glyptic, CUDA, m) {
  implement(m);
}
TORCH_LIBRARY_IMPL(glyptic, Meta, m) {
  implement(m);
}
// Also serves calls whose lists of tensors are all empty.
TORCH_LIBRARY_IMPL(glyptic, CompositeExplicitAutograd, m) {
  implement(m);
}

TORCH_LIBRARY_IMPL(glyptic, Autograd, m) {
  for (const char* name : {"masked_sgd_", "masked_adamw_", "restore_sgd_", "restore_adamw_", "mask_apply_",
                           "topk_masks", "mask_update_", "channel_scores", "philox_fill_"})
    m.impl(name, torch::CppFunction::makeFallthrough());
}

}  // namespace glyptic::ops
