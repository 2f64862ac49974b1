#include "glyptic/sharpness/curvature.h"

#include <torch/torch.h>

#include <Eigen/Eigenvalues>
#include <cmath>
#include <limits>
#include <unordered_set>

#include "glyptic/core/error.h"
#include "glyptic/core/rng.h"
#include "slice.h"

namespace glyptic::sharpness {

namespace {

double inner_of(const at::Tensor& a, const at::Tensor& b) {  // in float64, whatever the vectors are
  return ops::inner_products({a}, {b}, {}, {}).index({1}).item<double>();
}

double norm_of(const at::Tensor& a) {
  return std::sqrt(ops::inner_products({a}, {}, {}, {}).index({0}).item<double>());
}

void check_radius(const char* name, double value) {
  require(std::isfinite(value) && value >= 0, name, " is ", value,
          ", expected a finite number of at least 0");
}

[[noreturn]] void no_second_derivative(const std::exception& error) {
  std::string text = error.what();
  text = text.substr(0, text.find('\n'));
  throw ArgumentError(str(
      "the Hessian-vector product needs a second derivative that an operator of this network does not have; "
      "take products by finite differences instead, or another implementation of the operator (",
      text, ")"));
}

}  // namespace

// ---- the surface

LossSurface::LossSurface(NamedTensors parameters, LossOverData data, const TensorList& masks,
                         NamedTensors buffers)
    : buffers_(std::move(buffers)), data_(std::move(data)) {
  check_names(parameters, "LossSurface");
  require(masks.empty() || masks.size() == parameters.size(), "LossSurface: ", masks.size(), " masks for ",
          parameters.size(), " parameters");
  require(data_.batches > 0, "LossSurface: the data have no batches");
  require(data_.loss != nullptr && data_.samples != nullptr,
          "LossSurface: the data have no loss or no sizes");
  TensorList kept;
  bool wide = false, masked = false;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto& [name, tensor] = parameters[i];
    if (!tensor.requires_grad()) continue;
    require(tensor.is_floating_point() && tensor.layout() == at::kStrided, "LossSurface: '", name, "' is ",
            tensor.scalar_type(), "; expected a dense floating-point tensor");
    const auto mask = masks.empty() ? at::Tensor() : masks[i];
    require(!mask.defined() || mask.sizes() == tensor.sizes(), "LossSurface: the mask of '", name,
            "' has shape ", mask.defined() ? shape_string(mask.sizes()) : "", ", its weight ",
            shape_string(tensor.sizes()));
    wide |= tensor.scalar_type() == at::kDouble;
    masked |= mask.defined();
    kept.push_back(mask);
    offsets_.push_back(size_);
    size_ += tensor.numel();
    parameters_.push_back(parameters[i]);
  }
  require(!parameters_.empty(),
          "LossSurface: no parameter requires a gradient; unfreeze those whose curvature is asked for");
  const auto device = parameters_[0].tensor.device();
  active_ = size_;
  if (masked) {
    std::vector<at::Tensor> flat;
    for (std::size_t i = 0; i < kept.size(); ++i)
      flat.push_back(kept[i].defined()
                         ? kept[i].to(device, at::kBool).reshape({-1})
                         : at::ones({parameters_[i].tensor.numel()}, at::device(device).dtype(at::kBool)));
    mask_ = at::cat(flat);
    active_ = mask_.sum().item<int64_t>();
    require(active_ > 0, "LossSurface: the masks leave no active weight");
  }
  zero_ = at::empty({0}, at::device(device).dtype(wide ? at::kDouble : at::kFloat));
  double total = 0;
  for (int64_t b = 0; b < data_.batches; ++b) {
    const auto samples = data_.samples(b);
    require(samples > 0, "LossSurface: batch ", b, " has ", samples, " samples");
    shares_.push_back(static_cast<double>(samples));
    total += static_cast<double>(samples);
  }
  for (auto& share : shares_) share /= total;
}

at::Tensor LossSurface::zeros(int64_t rows) const {
  return rows > 0 ? at::zeros({rows, size_}, zero_.options()) : at::zeros({size_}, zero_.options());
}

TensorList LossSurface::split(const at::Tensor& vector) const {
  TensorList parts;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const auto& p = parameters_[i].tensor;
    parts.push_back(vector.narrow(0, offsets_[i], p.numel()).view(p.sizes()));
  }
  return parts;
}

at::Tensor LossSurface::flatten(const TensorList& tensors) const {
  const at::NoGradGuard no_grad;
  auto result = zeros();
  const auto parts = split(result);
  for (std::size_t i = 0; i < parts.size(); ++i)
    if (tensors[i].defined()) parts[i].copy_(tensors[i]);
  return result;
}

at::Tensor LossSurface::weights() const {
  TensorList list;
  for (const auto& p : parameters_) list.push_back(p.tensor);
  return flatten(list);
}

at::Tensor LossSurface::scale_of(double constant, double of) const {
  auto result = of == 0 ? zeros() : weights().abs_().mul_(of);
  return result.add_(constant);
}

at::Tensor LossSurface::random(uint64_t seed, const char* purpose, uint64_t index,
                               ops::Distribution distribution) const {
  auto result = zeros();
  const auto base = RngStream(seed, purpose).child(index);
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    ops::philox_fill_(result.narrow(0, offsets_[i], parameters_[i].tensor.numel()), seed,
                      base.child(stream_id(parameters_[i].name)).stream(), 0, distribution);
  if (mask_.defined()) result.masked_fill_(mask_.logical_not(), 0);
  return result;
}

std::vector<int64_t> LossSurface::batch_list(int64_t batch) const {
  if (batch >= 0) return {batch};
  std::vector<int64_t> all(static_cast<std::size_t>(data_.batches));
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int64_t>(i);
  return all;
}

at::Tensor LossSurface::evaluate(int64_t batch) const {
  const auto loss = data_.loss(batch);
  require(loss.defined(), "the loss closure returned nothing; it must return the mean loss of the batch");
  require(loss.numel() == 1 && loss.is_floating_point(), "the loss closure returned ", loss.scalar_type(),
          " of shape ", shape_string(loss.sizes()), "; expected the mean loss of the batch, one number");
  require(
      !at::GradMode::is_enabled() || loss.requires_grad(),
      "the loss does not depend on the parameters; run the forward pass inside the closure, on these very "
      "tensors, with gradients enabled");
  return loss.reshape({});
}

namespace {
TensorList tensors_of(const NamedTensors& named) {
  TensorList list;
  for (const auto& entry : named) list.push_back(entry.tensor);
  return list;
}
}  // namespace

double LossSurface::loss(int64_t batch) const {
  const at::NoGradGuard no_grad;
  const Frozen frozen(tensors_of(buffers_));
  at::Tensor sum;
  for (const auto b : batch_list(batch)) {
    const auto part = evaluate(b).to(at::kDouble) * (batch < 0 ? share(b) : 1.0);
    sum = sum.defined() ? sum + part : part;
  }
  return sum.item<double>();
}

at::Tensor LossSurface::gradient(int64_t batch, double* loss) const {
  const Frozen frozen(tensors_of(buffers_));
  const auto inputs = tensors_of(parameters_);
  auto result = zeros();
  const auto parts = split(result);
  at::Tensor sum;
  for (const auto b : batch_list(batch)) {
    const double factor = batch < 0 ? share(b) : 1.0;
    std::vector<at::Tensor> grads;
    {
      const at::AutoGradMode enable(true);
      const auto value = evaluate(b);
      grads = torch::autograd::grad({value}, inputs, {}, false, false, true);
      const auto part = value.detach().to(at::kDouble) * factor;
      sum = sum.defined() ? sum + part : part;
    }
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < parts.size(); ++i)
      if (grads[i].defined()) parts[i].add_(grads[i].to(parts[i].options()), factor);
  }
  if (mask_.defined()) result.masked_fill_(mask_.logical_not(), 0);
  if (loss != nullptr) *loss = sum.item<double>();
  return result;
}

at::Tensor LossSurface::product(const at::Tensor& vectors, const ProductOptions& options) {
  require(vectors.dim() >= 1 && vectors.dim() <= 2 && vectors.size(-1) == size_,
          "product: a vector of shape ", shape_string(vectors.sizes()), " for ", size_, " weights");
  require(std::isfinite(options.step) && options.step > 0, "product: step is ", options.step,
          ", expected above 0");
  const auto rows = vectors.dim() == 2 ? vectors.size(0) : 1;
  auto v = vectors.detach().to(zero_.options()).reshape({rows, size_});
  if (mask_.defined()) v = v.masked_fill(mask_.logical_not(), 0);
  auto result = zeros(rows);
  if (options.differences) {
    for (const auto& p : parameters_)
      require(p.tensor.scalar_type() == at::kFloat || p.tensor.scalar_type() == at::kDouble, "product: '",
              p.name, "' is ", p.tensor.scalar_type(),
              ", too coarse for differences of gradients; use float32 or float64");
    Excursion excursion(*this);
    for (int64_t k = 0; k < rows; ++k) {
      const double length = norm_of(v[k]);
      if (length == 0) continue;
      const double h = options.step / length;
      excursion.to(v[k], h);
      const auto plus = gradient();
      excursion.to(v[k], -h);
      result[k].copy_(plus.sub_(gradient()).div_(2 * h));
    }
  } else {
    const Frozen frozen(tensors_of(buffers_));
    const auto inputs = tensors_of(parameters_);
    for (int64_t b = 0; b < data_.batches; ++b) {
      const at::AutoGradMode enable(true);
      std::vector<at::Tensor> outputs;
      std::vector<std::size_t> index;
      const auto grads = torch::autograd::grad({evaluate(b)}, inputs, {}, true, true, true);
      for (std::size_t i = 0; i < grads.size(); ++i) {
        if (!grads[i].defined() || !grads[i].requires_grad()) continue;  // the loss is linear in it
        outputs.push_back(grads[i]);
        index.push_back(i);
      }
      if (outputs.empty()) continue;
      for (int64_t k = 0; k < rows; ++k) {
        const auto parts = split(v[k]);
        std::vector<at::Tensor> along;
        for (std::size_t j = 0; j < index.size(); ++j)
          along.push_back(parts[index[j]].to(outputs[j].options()));
        std::vector<at::Tensor> second;
        try {
          second = torch::autograd::grad(outputs, inputs, along, k + 1 < rows, false, true);
        } catch (const c10::Error& error) {
          no_second_derivative(error);
        }
        const at::NoGradGuard no_grad;
        const auto out = split(result[k]);
        for (std::size_t i = 0; i < out.size(); ++i)
          if (second[i].defined()) out[i].add_(second[i].to(out[i].options()), share(b));
      }
    }
  }
  products_ += rows;
  if (mask_.defined()) result.masked_fill_(mask_.logical_not(), 0);
  return vectors.dim() == 2 ? result : result[0];
}

LossSurface LossSurface::block(const std::string& name) const {
  static_cast<void>(get(parameters_, name));
  TensorList masks;
  NamedTensors one;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (parameters_[i].name != name) continue;
    one.push_back(parameters_[i]);
    if (mask_.defined()) masks.push_back(split(mask_)[i]);
  }
  return LossSurface(std::move(one), data_, masks, buffers_);
}

// ---- away from the weights

Excursion::Excursion(const LossSurface& surface, bool with_buffers) : surface_(surface) {
  const at::NoGradGuard no_grad;
  for (const auto& p : surface.parameters_) origin_.push_back(p.tensor.detach().clone());
  if (with_buffers)
    for (const auto& b : surface.buffers_) buffer_origin_.push_back(b.tensor.clone());
}

Excursion::~Excursion() {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < origin_.size(); ++i) surface_.parameters_[i].tensor.copy_(origin_[i]);
  for (std::size_t i = 0; i < buffer_origin_.size(); ++i)
    surface_.buffers_[i].tensor.copy_(buffer_origin_[i]);
}

void Excursion::to(const at::Tensor& direction, double scale) {
  const at::NoGradGuard no_grad;
  const auto parts = surface_.split(direction);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto& w = surface_.parameters_[i].tensor;
    w.copy_(at::add(origin_[i], parts[i].to(w.options().requires_grad(false)), scale));
  }
}

void Excursion::to(const TensorList& parameters, const TensorList& buffers) {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < parameters.size(); ++i)
    if (parameters[i].defined()) surface_.parameters_[i].tensor.copy_(origin_[i] + parameters[i]);
  for (std::size_t i = 0; i < buffers.size(); ++i)
    if (buffers[i].defined()) surface_.buffers_[i].tensor.copy_(buffer_origin_[i] + buffers[i]);
}

// ---- eigenvalues

Which which_from_name(const std::string& name) {
  if (name == "LA") return Which::LA;
  require(name == "LM", "which is '", name, "', expected LA (largest algebraic) or LM (largest magnitude)");
  return Which::LM;
}

Stop stop_from_name(const std::string& name) {
  if (name == "residual") return Stop::residual;
  require(name == "change", "stop is '", name, "', expected residual or change");
  return Stop::change;
}

Solver method_from_name(const std::string& name, Which which) {
  if (name == "auto") return which == Which::LA ? Solver::lanczos : Solver::power;
  if (name == "lanczos") return Solver::lanczos;
  require(name == "power", "method is '", name, "', expected auto, lanczos or power");
  return Solver::power;
}

namespace {

/// An orthonormal basis of the Krylov space of H and a start vector, and the tridiagonal matrix of H in it.
class Krylov {
 public:
  Krylov(LossSurface& surface, const ProductOptions& options, at::Tensor start, int64_t most)
      : surface_(surface), options_(options), basis_(at::empty({most, surface.size()}, start.options())) {
    basis_[0].copy_(start.div_(norm_of(start)));
  }

  int64_t size() const { return static_cast<int64_t>(diagonal_.size()); }
  const std::vector<double>& diagonal() const { return diagonal_; }
  /// Norm of what H v_k has outside of the space: the coupling to the next vector.
  double last() const { return coupling_.back(); }
  bool full() const { return size() == basis_.size(0) || exhausted_; }
  at::Tensor basis() const { return basis_.narrow(0, 0, size()); }

  /// One product. Where the space is invariant, it goes on from a fresh vector `restart` (not if undefined).
  void extend(const std::function<at::Tensor()>& restart) {
    const auto k = size();
    const auto v = basis_[k];
    auto w = surface_.product(v, options_);
    diagonal_.push_back(inner_of(v, w));
    orthogonalize(w, k + 1);
    double rest = norm_of(w);
    scale_ = std::max(scale_, std::abs(diagonal_.back()) + rest);
    const double eps = w.scalar_type() == at::kDouble ? 1e-15 : 1e-7;
    if (!(rest > 10 * eps * scale_)) rest = 0;  // rounding, and 0 / 0 where H = 0
    require<DivergenceError>(std::isfinite(diagonal_.back()) && std::isfinite(rest),
                             "a Hessian-vector product is not finite; are the weights and the loss?");
    coupling_.push_back(rest);
    if (k + 1 == basis_.size(0)) return;
    if (rest == 0) {
      if (!restart) {
        exhausted_ = true;
        return;
      }
      w = restart();
      const double before = norm_of(w);
      orthogonalize(w, k + 1);
      const double after = norm_of(w);
      if (!(after > 1e-4 * before)) {
        exhausted_ = true;
        return;
      }
      w.div_(after);
      orthogonalize(w, k + 1);
      basis_[k + 1].copy_(w.div_(norm_of(w)));
      return;
    }
    basis_[k + 1].copy_(w.div_(rest));
  }

  struct Ritz {
    Eigen::VectorXd values;   ///< ascending
    Eigen::MatrixXd vectors;  ///< columns
  };
  Ritz ritz() const {
    const auto k = size();
    Eigen::VectorXd d(k), e(std::max<int64_t>(k - 1, 0));
    for (int64_t i = 0; i < k; ++i) d[i] = diagonal_[static_cast<std::size_t>(i)];
    for (int64_t i = 0; i + 1 < k; ++i) e[i] = coupling_[static_cast<std::size_t>(i)];
    Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver;
    solver.computeFromTridiagonal(d, e, Eigen::ComputeEigenvectors);
    require<Error>(solver.info() == Eigen::Success,
                   "the eigenvalues of a tridiagonal matrix did not converge");
    return {solver.eigenvalues(), solver.eigenvectors()};
  }

 private:
  /// Against the first k vectors, twice: once leaves rounding errors that grow with the number of steps.
  void orthogonalize(at::Tensor& w, int64_t k) const {
    const auto q = basis_.narrow(0, 0, k);
    for (int pass = 0; pass < 2; ++pass) w.sub_(at::mv(q.t(), at::mv(q, w)));
  }

  LossSurface& surface_;
  ProductOptions options_;
  at::Tensor basis_;
  std::vector<double> diagonal_, coupling_;
  double scale_ = 0;
  bool exhausted_ = false;
};

bool small_change(double now, double before, double tol) {
  return std::abs(now - before) / (std::abs(before) + 1e-6) < tol;
}

EigenResult by_lanczos(LossSurface& surface, const EigenOptions& o) {
  const auto n = o.n;
  uint64_t draw = 0;
  const auto fresh = [&] {
    return surface.random(o.seed, "curvature/start", draw++, ops::Distribution::normal);
  };
  Krylov krylov(surface, o.product, fresh(), std::min(o.max_iter, surface.active()));
  EigenResult result;
  std::vector<double> before;
  std::vector<int64_t> order;
  Krylov::Ritz ritz;
  std::vector<bool> steady(static_cast<std::size_t>(n), false);
  while (!krylov.full()) {
    krylov.extend(fresh);
    const auto k = krylov.size();
    ritz = krylov.ritz();
    order.resize(static_cast<std::size_t>(k));
    for (int64_t i = 0; i < k; ++i) order[static_cast<std::size_t>(i)] = k - 1 - i;
    if (o.which == Which::LM)
      std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) {
        return std::abs(ritz.values[i]) > std::abs(ritz.values[j]);
      });
    result.history.push_back(ritz.values[order[0]]);
    if (k < n) continue;
    bool done = true;
    std::vector<double> now;
    for (int64_t j = 0; j < n; ++j) {
      const auto i = order[static_cast<std::size_t>(j)];
      const double value = ritz.values[i];
      now.push_back(value);
      if (o.stop == Stop::residual)
        done &= krylov.last() * std::abs(ritz.vectors(k - 1, i)) <= o.tol * std::abs(value);
      else
        done &= steady[static_cast<std::size_t>(j)] =
            !before.empty() && small_change(value, before[static_cast<std::size_t>(j)], o.tol);
    }
    before = std::move(now);
    if (done) break;
  }
  const auto k = krylov.size();
  require<Error>(k >= n, "Lanczos found ", k, " directions for ", n, " eigenvalues");
  auto combine = at::empty({n, k}, at::kDouble);
  auto access = combine.accessor<double, 2>();
  for (int64_t j = 0; j < n; ++j)
    for (int64_t i = 0; i < k; ++i) access[j][i] = ritz.vectors(i, order[static_cast<std::size_t>(j)]);
  result.vectors = at::mm(combine.to(krylov.basis().options()), krylov.basis());
  for (int64_t j = 0; j < n; ++j) result.vectors[j].div_(norm_of(result.vectors[j]));
  const auto images = surface.product(result.vectors, o.product);
  // Where the eigenvalue is 0, the bound is that of rounding.
  const double floor = (result.vectors.scalar_type() == at::kDouble ? 1e-13 : 1e-5) *
                       std::max(std::abs(ritz.values[0]), std::abs(ritz.values[k - 1]));
  for (int64_t j = 0; j < n; ++j) {
    const auto v = result.vectors[j], image = images[j];
    const double value = inner_of(v, image);
    const double residual = norm_of(image - v * value);
    result.values.push_back(value);
    result.residuals.push_back(residual);
    const bool exact = residual <= std::max(o.tol * std::abs(value), floor);
    result.converged.push_back(o.stop == Stop::residual ? exact
                                                        : exact || steady[static_cast<std::size_t>(j)]);
  }
  return result;
}

EigenResult by_power(LossSurface& surface, const EigenOptions& o) {
  EigenResult result;
  result.vectors = surface.zeros(o.n);
  uint64_t draw = 0;
  struct Pair {
    at::Tensor vector;
    double value = 0, residual = 0;
    bool converged = false;
  };
  const auto deflated = [&](at::Tensor v, int64_t found) {
    const auto q = result.vectors.narrow(0, 0, found);
    for (int pass = 0; pass < 2 && found > 0; ++pass) v = v - at::mv(q.t(), at::mv(q, v));
    return v;
  };
  // The largest in magnitude of H - shift I, off the vectors that were found.
  const auto iterate = [&](int64_t found, double shift) {
    Pair pair;
    auto v = surface.random(o.seed, "curvature/start", draw++, ops::Distribution::normal);
    double before = std::numeric_limits<double>::quiet_NaN();
    for (int64_t it = 0; it < o.max_iter; ++it) {
      v = deflated(v, found);
      const double length = norm_of(v);
      if (length == 0) {  // what is left of the space is mapped to 0
        pair.converged = true;
        break;
      }
      v = v / length;
      auto image = surface.product(v, o.product);
      pair.vector = v;
      pair.value = inner_of(v, image);
      require<DivergenceError>(std::isfinite(pair.value),
                               "a Hessian-vector product is not finite; are the weights and the loss?");
      pair.residual = norm_of(image - v * pair.value);
      if (found == 0) result.history.push_back(pair.value);
      // What the vectors found before have left of an error cannot go away here, so it does not count.
      const double missing = found == 0 ? pair.residual : norm_of(deflated(image, found) - v * pair.value);
      pair.converged = o.stop == Stop::residual ? missing <= o.tol * std::abs(pair.value)
                                                : small_change(pair.value - shift, before - shift, o.tol);
      if (pair.converged) break;
      before = pair.value;
      v = shift == 0 ? image : image - v * shift;
    }
    return pair;
  };
  double shift = 0;
  for (int64_t j = 0; j < o.n; ++j) {
    auto pair = iterate(j, shift);
    if (o.which == Which::LA && shift == 0 && pair.value < 0) {
      shift = pair.value;
      if (j == 0) result.history.clear();
      pair = iterate(j, shift);
    }
    require<Error>(pair.vector.defined(), "power iteration found no direction off the first ", j,
                   " eigenvectors");
    result.vectors[j].copy_(pair.vector);
    result.values.push_back(pair.value);
    result.residuals.push_back(pair.residual);
    result.converged.push_back(pair.converged);
  }
  return result;
}

}  // namespace

EigenResult top_eigenvalues(LossSurface& surface, const EigenOptions& options) {
  require(options.n >= 1 && options.n <= surface.active(), "top_eigenvalues: n is ", options.n,
          ", expected 1 to ", surface.active(), ", the active weights");
  require(options.max_iter >= options.n, "top_eigenvalues: max_iter is ", options.max_iter,
          ", expected at least n = ", options.n);
  require(std::isfinite(options.tol) && options.tol >= 0, "top_eigenvalues: tol is ", options.tol,
          ", expected a finite number of at least 0");
  const at::NoGradGuard no_grad;
  const auto before = surface.products();
  auto result = options.method == Solver::lanczos ? by_lanczos(surface, options) : by_power(surface, options);
  result.products = surface.products() - before;
  return result;
}

std::vector<std::pair<std::string, EigenResult>> block_eigenvalues(LossSurface& surface,
                                                                   const EigenOptions& options,
                                                                   const std::vector<std::string>& names) {
  for (const auto& name : names) static_cast<void>(get(surface.parameters(), name));
  std::vector<std::pair<std::string, EigenResult>> result;
  for (const auto& p : surface.parameters()) {
    if (!names.empty() && std::find(names.begin(), names.end(), p.name) == names.end()) continue;
    auto block = surface.block(p.name);
    auto fitted = options;
    fitted.n = std::min(options.n, block.active());
    result.emplace_back(p.name, top_eigenvalues(block, fitted));
  }
  return result;
}

// ---- trace and density

TraceResult hessian_trace(LossSurface& surface, const TraceOptions& o) {
  require(o.max_samples >= 2, "hessian_trace: max_samples is ", o.max_samples, ", expected at least 2");
  require(std::isfinite(o.tol) && o.tol >= 0, "hessian_trace: tol is ", o.tol,
          ", expected a finite number of at least 0");
  const at::NoGradGuard no_grad;
  constexpr int64_t kAtOnce = 4;  // they share the first two passes; more would only hold more memory
  const auto before = surface.products();
  TraceResult result;
  double sum = 0;
  while (!result.converged && static_cast<int64_t>(result.samples.size()) < o.max_samples) {
    const auto done = static_cast<int64_t>(result.samples.size());
    const auto rows = std::min(kAtOnce, o.max_samples - done);
    auto v = surface.zeros(rows);
    for (int64_t k = 0; k < rows; ++k)
      v[k].copy_(surface.random(o.seed, "curvature/trace", static_cast<uint64_t>(done + k),
                                ops::Distribution::rademacher));
    const auto image = surface.product(v, o.product);
    for (int64_t k = 0; k < rows; ++k) {
      const auto count = static_cast<double>(result.samples.size());
      result.samples.push_back(inner_of(v[k], image[k]));
      sum += result.samples.back();
      const double mean = sum / (count + 1);
      if (count > 0 && small_change(mean, result.mean, o.tol)) result.converged = true;
      result.mean = mean;
      if (result.converged) break;
    }
  }
  const auto n = static_cast<double>(result.samples.size());
  double squares = 0;
  for (const double x : result.samples) squares += (x - result.mean) * (x - result.mean);
  result.standard_error = std::sqrt(squares / (n - 1) / n);
  result.products = surface.products() - before;
  return result;
}

SpectralDensity spectral_density(LossSurface& surface, const DensityOptions& o) {
  require(o.runs >= 1 && o.steps >= 1, "spectral_density: ", o.runs, " runs of ", o.steps,
          " steps, expected at least one of each");
  require(o.points >= 2, "spectral_density: points is ", o.points, ", expected at least 2");
  const at::NoGradGuard no_grad;
  const auto before = surface.products();
  SpectralDensity result;
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (int64_t run = 0; run < o.runs; ++run) {
    Krylov krylov(surface, o.product,
                  surface.random(o.seed, "curvature/density", static_cast<uint64_t>(run),
                                 ops::Distribution::rademacher),
                  std::min(o.steps, surface.active()));
    while (!krylov.full()) krylov.extend(nullptr);
    const auto ritz = krylov.ritz();
    std::vector<double> nodes, weights;
    for (int64_t i = 0; i < krylov.size(); ++i) {
      nodes.push_back(ritz.values[i]);
      weights.push_back(ritz.vectors(0, i) * ritz.vectors(0, i));
      low = std::min(low, nodes.back());
      high = std::max(high, nodes.back());
    }
    result.nodes.push_back(std::move(nodes));
    result.weights.push_back(std::move(weights));
  }
  low -= 0.01;
  high += 0.01;
  const double step = (high - low) / static_cast<double>(o.points - 1);
  result.sigma = std::max(std::sqrt(1e-5 * std::max(1.0, high - low)), step);
  double area = 0;
  for (int64_t g = 0; g < o.points; ++g) {
    const double t = low + step * static_cast<double>(g);
    double value = 0;
    for (std::size_t run = 0; run < result.nodes.size(); ++run)
      for (std::size_t i = 0; i < result.nodes[run].size(); ++i) {
        const double z = (t - result.nodes[run][i]) / result.sigma;
        value += result.weights[run][i] * std::exp(-0.5 * z * z);
      }
    result.grid.push_back(t);
    result.density.push_back(value);
    area += value * step * (g == 0 || g + 1 == o.points ? 0.5 : 1.0);
  }
  for (auto& value : result.density) value /= area;
  result.products = surface.products() - before;
  return result;
}

// ---- scalars

namespace {

/// L(w + rho g/||g||) - L(w) on one batch, or on all.
Measure step_along_gradient(const LossSurface& surface, double rho, int64_t batch) {
  Measure result;
  const auto g = surface.gradient(batch, &result.loss);
  const double length = norm_of(g);
  if (length == 0 || rho == 0) return result;
  Excursion excursion(surface);
  excursion.to(g, rho / length);
  result.value = surface.loss(batch) - result.loss;
  return result;
}

struct Ascent {
  const LossSurface& surface;
  int64_t batch;     ///< -1: all data
  at::Tensor scale;  ///< delta = scale u, and u is in the ball
  double rho;
  bool linf;
  int64_t n_iter;

  at::Tensor project(at::Tensor u) const {
    if (linf) return u.clamp_(-rho, rho);
    const double length = norm_of(u);
    return length > rho ? u.mul_(rho / length) : u;
  }

  /// The largest loss that was met, from the start u.
  double run(at::Tensor u, Excursion& excursion) const {
    const auto evaluate = [&](const at::Tensor& place, at::Tensor* g) {
      excursion.to(scale * place);
      double loss = 0;
      if (g == nullptr) return surface.loss(batch);
      *g = surface.gradient(batch, &loss).mul_(scale);
      return loss;
    };
    at::Tensor g;
    double loss = evaluate(u, &g), best = loss;
    auto best_u = u.clone(), best_g = g.clone(), previous = u;
    double step = 2 * rho;
    double p_before = 0, p = 0.22;
    const auto checkpoint = [&] { return static_cast<int64_t>(std::ceil(p * static_cast<double>(n_iter))); };
    int64_t raised = 0, since = 0;
    for (int64_t k = 1; k <= n_iter; ++k) {
      const double length = linf ? 1 : norm_of(g);
      if (length == 0 || !std::isfinite(loss)) break;
      const auto z = project(u + (linf ? g.sign() : g) * (step / length));
      auto next = k == 1 ? z : project(u + 0.75 * (z - u) + 0.25 * (u - previous));
      previous = u;
      u = next;
      const double before = loss;
      loss = evaluate(u, k < n_iter ? &g : nullptr);
      if (std::isnan(loss)) loss = std::numeric_limits<double>::infinity();
      raised += loss > before;
      ++since;
      if (loss > best) {
        best = loss;
        best_u = u;
        if (k < n_iter) best_g = g;
      }
      if (k == checkpoint()) {
        if (static_cast<double>(raised) < 0.75 * static_cast<double>(since)) {
          step /= 2;
          u = previous = best_u;
          g = best_g;
          loss = best;
        }
        raised = since = 0;
        const double next_p = p + std::max(p - p_before - 0.03, 0.06);
        p_before = p;
        p = next_p;
      }
    }
    return best;
  }
};

/// max L - L over the ball, on one batch or all data.
Measure ascend(const LossSurface& surface, int64_t batch, const at::Tensor& scale,
               const WorstCaseOptions& o) {
  Measure result;
  result.loss = surface.loss(batch);
  double best = result.loss;
  if (o.rho == 0) return result;
  const Ascent ascent{surface, batch, scale, o.rho, o.linf, o.n_iter};
  Excursion excursion(surface);
  for (int64_t r = 0; r < o.restarts; ++r) {
    auto start = surface.zeros();
    if (r > 0) {
      const auto index = static_cast<uint64_t>(r) * (static_cast<uint64_t>(surface.batches()) + 1) +
                         static_cast<uint64_t>(batch + 1);
      if (o.linf) {
        start = surface.random(o.seed, "sharpness/start", index, ops::Distribution::uniform)
                    .mul_(2)
                    .sub_(1)
                    .mul_(o.rho);
        if (surface.mask().defined()) start.masked_fill_(surface.mask().logical_not(), 0);
      } else {
        start = surface.random(o.seed, "sharpness/start", index, ops::Distribution::normal);
        start.mul_(o.rho / norm_of(start));
      }
    }
    best = std::max(best, ascent.run(start, excursion));
  }
  result.value = best - result.loss;
  return result;
}

void check_ascent(const char* what, int64_t n_iter, int64_t restarts) {
  require(n_iter >= 1, what, ": n_iter is ", n_iter, ", expected at least 1");
  require(restarts >= 1, what, ": restarts is ", restarts, ", expected at least 1");
}

Measure over_batches(const LossSurface& surface, const std::function<Measure(int64_t)>& of) {
  Measure result;
  for (int64_t b = 0; b < surface.batches(); ++b) {
    const auto one = of(b);
    result.value += surface.share(b) * one.value;
    result.loss += surface.share(b) * one.loss;
  }
  return result;
}

}  // namespace

Measure one_step(const LossSurface& surface, double rho) {
  check_radius("one_step: rho", rho);
  const at::NoGradGuard no_grad;
  return step_along_gradient(surface, rho, -1);
}

Measure m_sharpness(const LossSurface& surface, double rho) {
  check_radius("m_sharpness: rho", rho);
  const at::NoGradGuard no_grad;
  return over_batches(surface, [&](int64_t b) { return step_along_gradient(surface, rho, b); });
}

Measure average_case(const LossSurface& surface, double sigma, int64_t draws, bool adaptive, uint64_t seed) {
  check_radius("average_case: sigma", sigma);
  require(draws >= 1, "average_case: draws is ", draws, ", expected at least 1");
  const at::NoGradGuard no_grad;
  Measure result;
  result.loss = surface.loss();
  const auto scale = surface.scale_of(adaptive ? 0 : sigma, adaptive ? sigma : 0);
  Excursion excursion(surface);
  std::vector<double> rises;
  for (int64_t k = 0; k < draws; ++k) {
    excursion.to(
        surface.random(seed, "sharpness/average", static_cast<uint64_t>(k), ops::Distribution::normal)
            .mul_(scale));
    rises.push_back(surface.loss() - result.loss);
    result.value += rises.back() / static_cast<double>(draws);
  }
  double squares = 0;
  for (const double x : rises) squares += (x - result.value) * (x - result.value);
  const auto n = static_cast<double>(draws);
  result.standard_error =
      draws > 1 ? std::sqrt(squares / (n - 1) / n) : std::numeric_limits<double>::quiet_NaN();
  return result;
}

Measure worst_case(const LossSurface& surface, const WorstCaseOptions& o) {
  check_radius("worst_case: rho", o.rho);
  check_ascent("worst_case", o.n_iter, o.restarts);
  const at::NoGradGuard no_grad;
  const auto scale = surface.scale_of(o.adaptive ? 0 : 1, o.adaptive ? 1 : 0);
  return over_batches(surface, [&](int64_t b) { return ascend(surface, b, scale, o); });
}

Measure keskar(const LossSurface& surface, double epsilon, int64_t n_iter, uint64_t seed) {
  check_radius("keskar: epsilon", epsilon);
  check_ascent("keskar", n_iter, 1);
  const at::NoGradGuard no_grad;
  auto result = ascend(surface, -1, surface.scale_of(1, 1),
                       {.rho = epsilon, .linf = true, .n_iter = n_iter, .restarts = 1, .seed = seed});
  result.value *= 100 / (1 + result.loss);
  return result;
}

Measure probe(const LossSurface& surface, double rho, int64_t draws, uint64_t seed) {
  check_radius("probe: rho", rho);
  require(draws >= 0, "probe: draws is ", draws, ", expected at least 0");
  const at::NoGradGuard no_grad;
  auto result = step_along_gradient(surface, rho, -1);
  Excursion excursion(surface);
  for (int64_t k = 0; k < draws; ++k) {
    const auto v =
        surface.random(seed, "sharpness/probe", static_cast<uint64_t>(k), ops::Distribution::normal);
    excursion.to(v, rho / norm_of(v));
    result.value = std::max(result.value, surface.loss() - result.loss);
  }
  return result;
}

double gradient_variance(const LossSurface& surface) {
  require(surface.batches() > 1, "gradient_variance: one batch has no variance; give at least two");
  const at::NoGradGuard no_grad;
  auto mean = surface.zeros().to(at::kDouble), squares = mean.clone();
  for (int64_t b = 0; b < surface.batches(); ++b) {  // Welford's update
    const auto g = surface.gradient(b).to(at::kDouble);
    const auto off = g - mean;
    mean.add_(off, 1.0 / static_cast<double>(b + 1));
    squares.addcmul_(off, g - mean);
  }
  return squares.sum().item<double>() / static_cast<double>(surface.batches() - 1) /
         static_cast<double>(surface.active());
}

double normalized_overfitting_gap(double train, double test) {
  require(std::isfinite(train) && std::isfinite(test) && test > 0 && train >= 0,
          "normalized_overfitting_gap: accuracies are ", train, " and ", test,
          ", expected a finite number of at least 0 and one above 0");
  return std::abs(train - test) / test;
}

}  // namespace glyptic::sharpness
