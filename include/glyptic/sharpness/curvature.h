// Curvature and sharpness of a loss over a data set, on any module: Hessian-vector products by a second
// backward pass, extreme eigenvalues, trace, spectral density, and the sharpness measures of the literature.
//
// Everything is written over named tensors and a closure. A `LossSurface` is the mean loss over fixed data as
// a function of the weights; vectors in weight space are flat, the tensors one after another. The caller puts
// its module in evaluation mode: with batch statistics or dropout there is no one function to differentiate.
// Weights that a measure moves are put back bit for bit, whatever is thrown; `.grad` is never touched.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "glyptic/core/named_tensor.h"
#include "glyptic/ops/ops.h"

namespace glyptic::sharpness {

using ops::TensorList;

/// A fixed data set, batch by batch.
struct LossOverData {
  int64_t batches = 0;
  /// The mean loss of a batch on the weights as they are, a scalar with a graph while gradients are enabled.
  std::function<at::Tensor(int64_t batch)> loss;
  /// Samples of a batch: its weight in the mean over the data.
  std::function<int64_t(int64_t batch)> samples;
};

struct ProductOptions {
  /// (grad L(w + h v) - grad L(w - h v)) / (2h) instead of a second backward pass: two gradients per product,
  /// no graph of the gradient in memory, and it works where an operator has no second derivative. The error
  /// is O(h^2) plus the gradient's rounding over `step`; for float32 and float64 weights.
  bool differences = false;
  /// ||h v||: how far the differences reach.
  double step = 1e-2;
};

class LossSurface {
 public:
  /// Tensors that do not require gradients are left out. `masks`: one per tensor of `parameters`, undefined
  /// where every weight is active, or empty; vectors, gradients and products are zero off-mask. `buffers` are
  /// put back after each evaluation. ArgumentError for no batches, empty batches, repeated names, masks of
  /// another shape, and when nothing requires a gradient.
  LossSurface(NamedTensors parameters, LossOverData data, const TensorList& masks = {},
              NamedTensors buffers = {});

  const NamedTensors& parameters() const { return parameters_; }
  const NamedTensors& buffers() const { return buffers_; }
  int64_t size() const { return size_; }      ///< d, the length of a vector
  int64_t active() const { return active_; }  ///< entries that masks leave
  int64_t batches() const { return data_.batches; }
  double share(int64_t batch) const { return shares_[static_cast<std::size_t>(batch)]; }
  /// Hessian-vector products made so far on this surface.
  int64_t products() const { return products_; }

  /// Vectors are float64 where a parameter is, float32 otherwise, on the device of the first parameter.
  at::Tensor zeros(int64_t rows = 0) const;               ///< [d], or [rows, d]
  at::Tensor flatten(const TensorList& tensors) const;    ///< undefined entries are zero
  TensorList split(const at::Tensor& vector) const;       ///< views of the parameters' shapes
  at::Tensor weights() const;                             ///< a flat copy
  const at::Tensor& mask() const { return mask_; }        ///< bool [d], undefined where all is active
  at::Tensor scale_of(double constant, double of) const;  ///< [d], constant + of |w|
  /// Philox numbers; those of a tensor depend on seed, name of the purpose, index and the tensor's name
  /// alone.
  at::Tensor random(uint64_t seed, const char* purpose, uint64_t index, ops::Distribution distribution) const;

  /// Mean loss over the data, or of one batch; no graph. May be inf or NaN.
  double loss(int64_t batch = -1) const;
  /// Its gradient, [d]; `loss`, where given, receives the loss of the same pass.
  at::Tensor gradient(int64_t batch = -1, double* loss = nullptr) const;
  /// H v for v [d], or for each row of [k, d]. Several rows share the forward and the first backward pass.
  /// One product costs about 3.5 gradients and holds the graph of one batch's gradient. ArgumentError where
  /// an operator has no second derivative.
  at::Tensor product(const at::Tensor& vectors, const ProductOptions& options = {});

  /// The surface of one tensor, all others fixed: its Hessian is that diagonal block.
  LossSurface block(const std::string& name) const;

 private:
  friend class Excursion;
  at::Tensor evaluate(int64_t batch) const;
  std::vector<int64_t> batch_list(int64_t batch) const;

  NamedTensors parameters_, buffers_;
  LossOverData data_;
  std::vector<double> shares_;
  std::vector<int64_t> offsets_;
  at::Tensor mask_;
  at::Tensor zero_;  ///< [0], the vectors' type and device
  int64_t size_ = 0, active_ = 0, products_ = 0;
};

/// The weights away from where they are; the destructor puts them back bit for bit, into unchanged storage.
class Excursion {
 public:
  explicit Excursion(const LossSurface& surface, bool with_buffers = false);
  ~Excursion();
  Excursion(const Excursion&) = delete;
  Excursion& operator=(const Excursion&) = delete;
  /// w + scale * direction, from where the weights were at construction.
  void to(const at::Tensor& direction, double scale = 1);
  void to(const TensorList& parameters, const TensorList& buffers = {});

 private:
  const LossSurface& surface_;
  TensorList origin_, buffer_origin_;
};

// ---- eigenvalues

enum class Which { LA, LM };  ///< largest algebraic; largest magnitude, negative ones included
enum class Solver {
  lanczos,
  power
};  ///< Krylov space with full re-orthogonalisation; power iteration, deflation
enum class Stop { residual, change };
Which which_from_name(const std::string& name);
Stop stop_from_name(const std::string& name);
/// "auto": lanczos for LA, power iteration for LM, as the usual tools do.
Solver method_from_name(const std::string& name, Which which);

struct EigenOptions {
  int64_t n = 1;
  Which which = Which::LA;
  Solver method = Solver::lanczos;
  /// Lanczos steps in all; power iterations per eigenvalue. Lanczos keeps that many vectors of d numbers.
  int64_t max_iter = 100;
  /// residual: ||H v - lambda v|| <= tol |lambda|, which makes the eigenvalue's relative error at most tol,
  /// and about tol^2 where it is well separated. change: two successive values differ by less than tol
  /// relatively.
  Stop stop = Stop::residual;
  double tol = 1e-3;
  uint64_t seed = 0;
  ProductOptions product;
};

struct EigenResult {
  std::vector<double> values;     ///< <v, H v>; best first
  at::Tensor vectors;             ///< [n, d], unit rows
  std::vector<double> residuals;  ///< ||H v - lambda v||, from a product with the returned v
  /// By the rule of `stop`; with deflation, off the vectors that were found before.
  std::vector<bool> converged;
  int64_t products = 0;         ///< all that were made, checks included
  std::vector<double> history;  ///< the first eigenvalue's estimate after each product
};

/// Lanczos finds one vector of a repeated eigenvalue before others; power iteration finds them all. LA by
/// power iteration: where the largest in magnitude is mu < 0, it iterates on H - mu I. ArgumentError for n
/// outside 1 to the number of active weights, max_iter < n, tol < 0.
EigenResult top_eigenvalues(LossSurface& surface, const EigenOptions& options = {});

/// The same for the diagonal block of each tensor, in order.
std::vector<std::pair<std::string, EigenResult>> block_eigenvalues(
    LossSurface& surface, const EigenOptions& options = {}, const std::vector<std::string>& names = {});

// ---- trace and density

struct TraceOptions {
  int64_t max_samples = 100;
  double tol = 1e-3;  ///< stops when the running mean changes by less, relatively; 0: takes all samples
  uint64_t seed = 0;
  ProductOptions product;
};

struct TraceResult {
  double mean = 0, standard_error = 0;
  std::vector<double> samples;  ///< v^T H v
  bool converged = false;       ///< the rule of `tol` was met; the error to quote is the standard error
  int64_t products = 0;
};

/// Hutchinson's estimate with Rademacher vectors. The variance of a sample is 2 (||H||_F^2 - sum H_ii^2).
TraceResult hessian_trace(LossSurface& surface, const TraceOptions& options = {});

struct DensityOptions {
  int64_t runs = 1, steps = 100, points = 10000;
  uint64_t seed = 0;
  ProductOptions product;
};

struct SpectralDensity {
  std::vector<double> grid, density;                ///< the integral is 1
  std::vector<std::vector<double>> nodes, weights;  ///< of each run; weights add up to 1
  double sigma = 0;                                 ///< of the Gaussians
  int64_t products = 0;
};

/// Stochastic Lanczos quadrature. sigma^2 = 1e-5 max(1, range), and sigma at least one step of the grid.
SpectralDensity spectral_density(LossSurface& surface, const DensityOptions& options = {});

// ---- scalars

struct Measure {
  double value = 0;           ///< loss units unless said otherwise
  double loss = 0;            ///< at w
  double standard_error = 0;  ///< 0 where nothing is sampled
};

/// L(w + rho g/||g||) - L(w), g over all data; 0 where g = 0.
Measure one_step(const LossSurface& surface, double rho);
/// The same for each batch by itself, averaged: m-sharpness with m the batch size.
Measure m_sharpness(const LossSurface& surface, double rho);
/// E L(w + delta) - L(w), delta ~ N(0, sigma^2) per weight, times |w| if adaptive; `draws` forward passes.
Measure average_case(const LossSurface& surface, double sigma, int64_t draws, bool adaptive, uint64_t seed);

struct WorstCaseOptions {
  double rho = 0.05;
  bool linf = false;      ///< the ball of the maximum norm, not l2
  bool adaptive = false;  ///< the ball of delta / |w|
  int64_t n_iter = 20;
  int64_t restarts = 1;  ///< the first starts at w, others at random points of the ball
  uint64_t seed = 0;
};
/// Mean over batches of max L_b(w + delta) - L_b(w) in the ball, by projected ascent with momentum 0.75 and
/// the step sizes of Auto-PGD (arXiv 2003.01690). A lower bound of the maximum. n_iter + 1 gradients per
/// batch and restart; 4d numbers.
Measure worst_case(const LossSurface& surface, const WorstCaseOptions& options);
/// 100 (max L - L) / (1 + L) over |delta_i| <= epsilon (|w_i| + 1), on all data at once (arXiv 1609.04836).
Measure keskar(const LossSurface& surface, double epsilon, int64_t n_iter = 20, uint64_t seed = 0);
/// max over `draws` random unit directions and the gradient's of L(w + rho v) - L(w).
Measure probe(const LossSurface& surface, double rho, int64_t draws = 20, uint64_t seed = 0);
/// Mean over active weights of the unbiased variance over batches of the gradient. ArgumentError for one
/// batch.
double gradient_variance(const LossSurface& surface);
/// |train - test| / test, of accuracies (arXiv 2510.24919, eq. 1).
double normalized_overfitting_gap(double train, double test);

}  // namespace glyptic::sharpness
