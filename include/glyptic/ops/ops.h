// The operators, as C++ functions. Each is registered as `torch.ops.glyptic.<name>` with CPU, CUDA (where
// built) and Meta kernels and a composite out of ATen calls (`glyptic::ops::reference::<name>`), which serves
// every other dtype and device and is the oracle of the tests. Argument errors name the argument.
//
// Lists of tensors are "one entry per parameter". Masks are bool, `true` keeps; an empty list of masks means
// everything is kept. All in-place operators run outside autograd, bump version counters, and return nothing.
//
// "x * mask" means: x where the mask is true, +0 where it is false, also if x was NaN or -0. Fast paths serve
// float32 (masks and gathers: any type) in any dense layout that the tensors of an entry share; other entries
// of the same call go through the composite. The results of the CPU and CUDA kernels agree bit for bit, and
// depend neither on the number of threads nor on the instruction set. In Python, enumerations are strings
// ("magnitude", "umm", "normal"), `global` is `across_tensors`, `lambda` is `mest_lambda`, and the states of
// mask_update_ are one flat list with a count per weight.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace glyptic::ops {

using TensorList = std::vector<at::Tensor>;

/// One fused step of masked SGD in one pass over memory (21 bytes per float32 weight: floor of read w, g, v,
/// mask, write w, v):
///   g' = grad + weight_decay * w;  v = momentum * v + (1 - dampening) * g'   (v = g' on the first step, as
///   torch); d = nesterov ? g' + momentum * v : v;  w = (w - lr * d) * mask;  v = v * mask.
/// `grads` are left intact (growth needs them dense). `momenta` may be empty when momentum is 0.
struct SgdArgs {
  double lr = 0.1, momentum = 0, dampening = 0, weight_decay = 0;
  bool nesterov = false, maximize = false, first_step = false;
  /// The caller promises that weights and state are +0 already where the mask is false, as every masked step
  /// leaves them. Then the result is the same, and memory without an active weight is not touched: at a
  /// density of 0.1 a fifth of all cache lines, at 0.02 three quarters. A broken promise goes unnoticed: such
  /// a weight or momentum may keep its value.
  bool off_mask_is_zero = false;
};
/// With `origins`, one per weight, the step starts from there and the weights are only written: what undoes a
/// perturbation and steps in one pass (`torch.ops.glyptic.restore_sgd_`), 25 bytes.
void masked_sgd_(const TensorList& weights, const TensorList& grads, const TensorList& momenta,
                 const TensorList& masks, const SgdArgs& args, const TensorList& origins = {});

/// One fused step of masked AdamW (decoupled decay; `decoupled = false` is Adam with L2), 29 bytes per
/// weight:
///   w *= 1 - lr * wd;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;
///   w -= lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps);  then w, m, v *= mask.
/// t = `step` (1-based) for all weights, or per weight out of `weight_steps` (int32, incremented where
/// active, and zeroed where masked) when that list is not empty.
struct AdamArgs {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 1e-2;
  bool decoupled = true, maximize = false;
  int64_t step = 1;
  bool off_mask_is_zero = false;  ///< the promise of SgdArgs, of weights, moments and weight_steps
};
/// `origins`: as for masked_sgd_ (`torch.ops.glyptic.restore_adamw_`).
void masked_adamw_(const TensorList& weights, const TensorList& grads, const TensorList& exp_avgs,
                   const TensorList& exp_avg_sqs, const TensorList& masks, const TensorList& weight_steps,
                   const AdamArgs& args, const TensorList& origins = {});

/// tensors[i] = mask ? tensors[i] : 0 (also where it was NaN or Inf), in place. 9 bytes per weight.
void mask_apply_(const TensorList& tensors, const TensorList& masks);

/// Scores are computed on the fly and never stored.
enum class Score : int64_t {
  magnitude = 0,  ///< |a|
  mest = 1,       ///< |a| + lambda |b|  (MEST, arXiv 2110.14032)
  taylor = 2,     ///< (a b)^2, ranked by |a b|, which cannot underflow
  random = 3,     ///< Philox word of (seed, stream + position in the list, index): a uniform choice
  raw = 4         ///< a itself, any sign
};

/// Exact top-k (how: kernels/topk.h). Ties go to the lower index (global: to the earlier tensor, then the
/// lower index). A non-finite score of a candidate is an ArgumentError that names the position in the list.
struct TopKArgs {
  Score score = Score::magnitude;
  double lambda = 0;
  uint64_t seed = 0, stream = 0;
  bool merge_excluded = false;  ///< masks are also true where `exclude` is: kept and grown in one pass
};
/// Returns bool masks of the shapes of `a`, true on the k selected.
/// Candidates: where `candidates` (empty list: everywhere) and not `exclude` (empty: nowhere).
/// k has one entry per tensor (per-layer selection), or exactly one with `global = true`.
/// ArgumentError when k exceeds the number of candidates.
TensorList topk_masks(const TensorList& a, const TensorList& b, const TensorList& candidates,
                      const TensorList& exclude, const std::vector<int64_t>& k, bool global,
                      const TopKArgs& args);

/// Puts `new_masks` in force, in one pass: masks = new_masks; weights and every state tensor are 0 where the
/// new mask is false, and where it is true but the old one was false (grown); entries true in both are
/// untouched. `states[i]` are the optimizer tensors of weight i, of any type. Returns int64 [L, 3] on the
/// device of the first weight: dropped, grown, now active.
at::Tensor mask_update_(const TensorList& weights, const TensorList& masks,
                        const std::vector<TensorList>& states, const TensorList& new_masks);

/// Per output row of each weight ([C, ...] -> float32 [C]). Only masked_mean reads `masks`.
enum class ChannelScore : int64_t {
  umm = 0,            ///< mean of |w| over all positions, masked zeros included (Chase, arXiv 2305.19454)
  masked_mean = 1,    ///< mean of |w| over mask = 1; 0 for an empty row
  density = 2,        ///< fraction of w != 0
  kernel_density = 3  ///< fraction of k x k kernels with any w != 0
};
TensorList channel_scores(const TensorList& weights, const TensorList& masks, ChannelScore score);

/// weight[rows][:, cols, ...] in one pass, any dtype. An undefined index keeps that dimension. Indices int64,
/// in range, any order. `torch.ops.glyptic.channel_gather` is differentiable in `weight`; this function is
/// not.
at::Tensor channel_gather(const at::Tensor& weight, const at::Tensor& rows, const at::Tensor& cols);

/// Fills a float32, float64, bfloat16 or float16 tensor from a Philox stream: index i of the flattened tensor
/// gets number `offset + i` (of what: kernels/philox_fill.h). The same bits on CPU and CUDA. Each number is a
/// float32 that is converted to the type of `out`: [0, 1), standard normal, or +-1.
enum class Distribution : int64_t { uniform = 0, normal = 1, rademacher = 2 };
void philox_fill_(const at::Tensor& out, uint64_t seed, uint64_t stream, int64_t offset,
                  Distribution distribution);

namespace reference {
void masked_sgd_(const TensorList& weights, const TensorList& grads, const TensorList& momenta,
                 const TensorList& masks, const SgdArgs& args);
void masked_adamw_(const TensorList& weights, const TensorList& grads, const TensorList& exp_avgs,
                   const TensorList& exp_avg_sqs, const TensorList& masks, const TensorList& weight_steps,
                   const AdamArgs& args);
void mask_apply_(const TensorList& tensors, const TensorList& masks);
TensorList topk_masks(const TensorList& a, const TensorList& b, const TensorList& candidates,
                      const TensorList& exclude, const std::vector<int64_t>& k, bool global,
                      const TopKArgs& args);
at::Tensor mask_update_(const TensorList& weights, const TensorList& masks,
                        const std::vector<TensorList>& states, const TensorList& new_masks);
TensorList channel_scores(const TensorList& weights, const TensorList& masks, ChannelScore score);
at::Tensor channel_gather(const at::Tensor& weight, const at::Tensor& rows, const at::Tensor& cols);
}  // namespace reference

}  // namespace glyptic::ops
