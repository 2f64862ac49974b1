// The operators of sharpness-aware steps, over lists of tensors. As in ops.h: CPU and CUDA kernels for
// float32 in any dense layout that the tensors of an entry share, a composite of ATen calls for everything
// else, errors that name the argument. Scalars that come out of reductions are float64 tensors on the device
// of the first tensor and are never read by the host, so that a step can be captured in a CUDA graph.
//
// A list of masks is empty, or has one entry per tensor, undefined where everything counts.
#pragma once

#include "glyptic/ops/ops.h"

namespace glyptic::ops {

/// float64 [3]: sum (t a)^2, sum a b, sum b b over all tensors, where masks are true. t = |weight| + eta
/// where `weights` has a defined entry, else 1. `b` may be empty. Sums are made in an order that depends on
/// the sizes alone. 4 to 13 bytes per element.
at::Tensor inner_products(const TensorList& a, const TensorList& b, const TensorList& weights,
                          const TensorList& masks, double eta = 0);

struct AscendArgs {
  double eta = 0;              ///< of t = |w| + eta
  double eps0 = 1e-12;         ///< added to the norm
  bool max_norm = false;       ///< w += rho sign(h) instead: the ball of the maximum norm
  std::vector<double> rho;     ///< one for all, or one per tensor
  std::vector<bool> adaptive;  ///< empty, or per tensor: w += f t^2 h instead of w += f h
};
/// backups = weights;  weights += rho / (norm + eps0) t^2 directions where masks are true. Nothing moves when
/// `norm` (float64 [1]) is 0 or not finite; backups are written all the same. 16 bytes per weight.
void ascend_(const TensorList& weights, const TensorList& backups, const TensorList& directions,
             const at::Tensor& norm, const TensorList& masks, const AscendArgs& args);

/// gradients = g - sigma m, averages = lambda m + (1 - lambda) g with the m of before (first step: both
/// become g). Both are 0 off-mask. Returns float64 [1], the squares of the new `gradients`. 16 bytes per
/// weight.
at::Tensor ema_direction_(const TensorList& gradients, const TensorList& averages, const TensorList& masks,
                          double sigma, double lambda, bool first);

/// a = c[0] a + c[1] b, `coefficients` float64 [2]. 12 bytes per element.
void combine_(const TensorList& a, const TensorList& b, const at::Tensor& coefficients);

struct NoiseArgs {
  uint64_t seed = 0;
  std::vector<uint64_t> streams;  ///< one per draw
  Distribution distribution = Distribution::normal;
};
/// weights = origins + n where masks are true, n = sum_j coefficients[j] u_j (float64 [draws]); u_j is stream
/// j of Philox over all tensors, each beginning at a multiple of four numbers. Returns float64 [1], sum n^2.
/// With an empty list of weights only the sum is made. 8 bytes per weight: no u_j is ever stored.
at::Tensor noise_ascend_(const TensorList& weights, const TensorList& origins, const TensorList& masks,
                         const at::Tensor& coefficients, const NoiseArgs& args);

namespace reference {
at::Tensor inner_products(const TensorList& a, const TensorList& b, const TensorList& weights,
                          const TensorList& masks, double eta);
void ascend_(const TensorList& weights, const TensorList& backups, const TensorList& directions,
             const at::Tensor& norm, const TensorList& masks, const AscendArgs& args);
at::Tensor ema_direction_(const TensorList& gradients, const TensorList& averages, const TensorList& masks,
                          double sigma, double lambda, bool first);
void combine_(const TensorList& a, const TensorList& b, const at::Tensor& coefficients);
at::Tensor noise_ascend_(const TensorList& weights, const TensorList& origins, const TensorList& masks,
                         const at::Tensor& coefficients, const NoiseArgs& args);
}  // namespace reference

}  // namespace glyptic::ops
