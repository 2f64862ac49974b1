#include "glyptic/ops/perturb.h"

#include <torch/torch.h>

#include <cmath>

#include "glyptic/kernels/ascend.h"
#include "glyptic/kernels/inner_products.h"
#include "glyptic/kernels/noise_ascend.h"
#include "support.h"
#ifdef GLYPTIC_WITH_CUDA
#include "cuda/launch.h"
#endif

namespace glyptic::kernels {

ProductSums total_products(const ProductSums* sums, int64_t chunks) {
  std::vector<ProductSums> lane(static_cast<std::size_t>(kSumLanes), ProductSums{0, 0, 0});
  const auto add = [](ProductSums& to, const ProductSums& from) {
    to.aa = to.aa + from.aa;
    to.ab = to.ab + from.ab;
    to.bb = to.bb + from.bb;
  };
  for (int64_t i = 0; i < chunks; ++i) add(lane[static_cast<std::size_t>(i % kSumLanes)], sums[i]);
  for (std::size_t step = kSumLanes / 2; step > 0; step /= 2)
    for (std::size_t j = 0; j < step; ++j) add(lane[j], lane[j + step]);
  return lane[0];
}

}  // namespace glyptic::kernels

namespace glyptic::ops {

namespace {

using Sums = std::vector<kernels::ProductSums>;

const at::Tensor& at_or_none(const TensorList& list, std::size_t i) {
  static const at::Tensor none;
  return list.empty() ? none : list[i];
}

/// A list with one entry per tensor of `model`, undefined where there is nothing, or an empty list.
void check_sparse(const char* op, const char* name, const TensorList& list, const TensorList& model,
                  std::optional<at::ScalarType> dtype) {
  if (list.empty()) return;
  require(list.size() == model.size(), op, ": ", name, " has ", list.size(), " tensors for ", model.size(),
          "; expected one each, or none at all");
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (!list[i].defined()) continue;
    check_strided(op, name, i, list[i]);
    check_matches(op, name, i, list[i], "list 0", i, model[i]);
    const auto wanted = dtype.value_or(model[i].scalar_type());
    if (list[i].scalar_type() != wanted) [[unlikely]]
      throw ArgumentError(str(op, ": ", name, "[", i, "] is ", dtype_name(list[i].scalar_type()),
                              ", expected ", dtype_name(wanted)));
  }
}

void check_scalars(const char* op, const char* name, const at::Tensor& tensor, int64_t size,
                   const TensorList& model) {
  // On the meta device sizes may be symbols.
  const bool fits = tensor.defined() && tensor.scalar_type() == at::kDouble &&
                    (tensor.is_meta() || (tensor.numel() == size && tensor.is_contiguous()));
  require(fits, op, ": ", name, " must be a contiguous float64 tensor of ", size, " elements");
  if (!model.empty() && tensor.device() != model[0].device()) [[unlikely]]
    throw ArgumentError(str(op, ": ", name, " is on ", tensor.device().str(), ", but the tensors are on ",
                            model[0].device().str()));
}

at::Tensor zeros_like_sums(const TensorList& model) {
  return at::zeros({3}, model.empty() ? at::TensorOptions(at::kDouble)
                                      : model[0].options().dtype(at::kDouble).requires_grad(false));
}

at::Tensor pack(const kernels::ProductSums& sums) {
  return at::tensor({sums.aa, sums.ab, sums.bb}, at::kDouble);
}

const uint8_t* mask_or_null(const at::Tensor& mask) {
  return mask.defined() ? mask_data(mask) : nullptr;
}

template <class Entry>
at::Tensor on_cpu(Plan<Entry>& plan, const std::function<void(Table<Entry>&, kernels::ProductSums*)>& run) {
  plan.cpu.cut(kernels::kSumChunk, size_of<Entry>);
  Sums sums(static_cast<std::size_t>(plan.cpu.chunks()));
  run(plan.cpu, sums.data());
  return pack(kernels::total_products(sums.data(), plan.cpu.chunks()));
}

}  // namespace

at::Tensor inner_products(const TensorList& a, const TensorList& b, const TensorList& weights,
                          const TensorList& masks, double eta) {
  constexpr auto op = "inner_products";
  for (std::size_t i = 0; i < a.size(); ++i) check_strided(op, "a", i, a[i]);
  check_floating(op, "a", a);
  check_like(op, "b", b, "a", a, {.may_be_empty = true, .same_dtype = true});
  check_sparse(op, "weights", weights, a, std::nullopt);
  check_sparse(op, "masks", masks, a, at::kBool);
  check_finite(op, "eta", eta);
  const at::NoGradGuard no_grad;
  auto total = zeros_like_sums(a);
  if (is_meta(a)) return total;

  Plan<kernels::ProductsEntry> plan;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const auto &weight = at_or_none(weights, i), &mask = at_or_none(masks, i);
    const bool dense = a[i].scalar_type() == at::kFloat && (b.empty() || same_layout(a[i], b[i])) &&
                       (!weight.defined() || same_layout(a[i], weight)) &&
                       (!mask.defined() || same_layout(a[i], mask)) && a[i].is_non_overlapping_and_dense();
    auto* table = plan.table(a[i], dense);
    if (!table) {
      plan.composite.push_back(i);
      continue;
    }
    table->entries.push_back(
        {a[i].const_data_ptr<float>(), b.empty() ? nullptr : b[i].const_data_ptr<float>(),
         weight.defined() ? weight.const_data_ptr<float>() : nullptr, mask_or_null(mask), a[i].numel()});
  }
  if (!plan.cpu.empty())
    total += on_cpu<kernels::ProductsEntry>(plan, [&](auto& table, auto* sums) {
               GLYPTIC_SELECT(inner_products)(table.entries.data(), table.map(), eta, sums, table.threads());
             }).to(total.device());
#ifdef GLYPTIC_WITH_CUDA
  for (auto& [index, table] : plan.cuda) {
    table.cut(kernels::kSumChunk, size_of<kernels::ProductsEntry>);
    total += cuda::inner_products({at::kCUDA, index}, table, eta).to(total.device());
  }
#endif
  if (!plan.composite.empty())
    total += reference::inner_products(pick(a, plan.composite), pick(b, plan.composite),
                                       pick(weights, plan.composite), pick(masks, plan.composite), eta)
                 .to(total.device());
  return total;
}

void ascend_(const TensorList& weights, const TensorList& backups, const TensorList& directions,
             const at::Tensor& norm, const TensorList& masks, const AscendArgs& args) {
  constexpr auto op = "ascend_";
  check_first(op, "weights", weights);
  check_floating(op, "weights", weights);
  check_like(op, "backups", backups, "weights", weights, {.same_dtype = true});
  check_like(op, "directions", directions, "weights", weights, {.same_dtype = true});
  check_sparse(op, "masks", masks, weights, at::kBool);
  check_scalars(op, "norm", norm, 1, weights);
  check_finite(op, "eta", args.eta);
  require(args.rho.size() == 1 || args.rho.size() == weights.size(), op, ": rho has ", args.rho.size(),
          " entries for ", weights.size(), " weights; expected one, or one each");
  require(args.adaptive.empty() || args.adaptive.size() == weights.size(), op, ": adaptive has ",
          args.adaptive.size(), " entries for ", weights.size(), " weights; expected one each, or none");
  for (const double rho : args.rho) check_finite(op, "rho", rho);
  if (is_meta(weights)) return;

  Plan<kernels::AscendEntry> plan;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const auto& w = weights[i];
    const auto& mask = at_or_none(masks, i);
    const bool dense = w.scalar_type() == at::kFloat && same_layout(w, backups[i]) &&
                       same_layout(w, directions[i]) && (!mask.defined() || same_layout(w, mask)) &&
                       w.device() == weights[0].device();  // where the norm is
    auto* table = plan.table(w, dense);
    if (!table) {
      plan.composite.push_back(i);
      continue;
    }
    table->entries.push_back({data_of<float>(w), data_of<float>(backups[i]),
                              directions[i].const_data_ptr<float>(), mask_or_null(mask), w.numel(),
                              args.rho.size() == 1 ? args.rho[0] : args.rho[i],
                              !args.adaptive.empty() && args.adaptive[i]});
    mark_changed(w);
    mark_changed(backups[i]);
  }
  const kernels::AscendScalars scalars{args.eta, args.eps0, args.max_norm};
  if (!plan.cpu.empty()) {
    plan.cpu.cut(kCpuChunk, size_of<kernels::AscendEntry>);
    GLYPTIC_SELECT(ascend)
    (plan.cpu.entries.data(), plan.cpu.map(), scalars, norm.item<double>(), plan.cpu.threads());
  }
#ifdef GLYPTIC_WITH_CUDA
  for (auto& [index, table] : plan.cuda) {
    table.cut(kCudaChunk, size_of<kernels::AscendEntry>);
    cuda::ascend({at::kCUDA, index}, table, scalars, norm);
  }
#endif
  if (plan.composite.empty()) return;
  auto part = args;
  part.rho.clear();
  part.adaptive.clear();
  for (const auto i : plan.composite) {
    part.rho.push_back(args.rho.size() == 1 ? args.rho[0] : args.rho[i]);
    part.adaptive.push_back(!args.adaptive.empty() && args.adaptive[i]);
  }
  reference::ascend_(pick(weights, plan.composite), pick(backups, plan.composite),
                     pick(directions, plan.composite), norm, pick(masks, plan.composite), part);
}

at::Tensor ema_direction_(const TensorList& gradients, const TensorList& averages, const TensorList& masks,
                          double sigma, double lambda, bool first) {
  constexpr auto op = "ema_direction_";
  check_first(op, "gradients", gradients);
  check_floating(op, "gradients", gradients);
  check_like(op, "averages", averages, "gradients", gradients, {.same_dtype = true});
  check_sparse(op, "masks", masks, gradients, at::kBool);
  check_finite(op, "sigma", sigma);
  check_finite(op, "lambda", lambda);
  auto total = zeros_like_sums(gradients);
  if (is_meta(gradients)) return total.slice(0, 0, 1).clone();

  Plan<kernels::EmaEntry> plan;
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const auto& g = gradients[i];
    const auto& mask = at_or_none(masks, i);
    const bool dense = g.scalar_type() == at::kFloat && same_layout(g, averages[i]) &&
                       (!mask.defined() || same_layout(g, mask));
    auto* table = plan.table(g, dense);
    if (!table) {
      plan.composite.push_back(i);
      continue;
    }
    table->entries.push_back({data_of<float>(g), data_of<float>(averages[i]), mask_or_null(mask), g.numel()});
    mark_changed(g);
    mark_changed(averages[i]);
  }
  const kernels::EmaScalars scalars{static_cast<float>(sigma), static_cast<float>(lambda),
                                    static_cast<float>(1.0 - lambda), first};
  if (!plan.cpu.empty())
    total +=
        on_cpu<kernels::EmaEntry>(plan, [&](auto& table, auto* sums) {
          GLYPTIC_SELECT(ema_direction)(table.entries.data(), table.map(), scalars, sums, table.threads());
        }).to(total.device());
#ifdef GLYPTIC_WITH_CUDA
  for (auto& [index, table] : plan.cuda) {
    table.cut(kernels::kSumChunk, size_of<kernels::EmaEntry>);
    total += cuda::ema_direction({at::kCUDA, index}, table, scalars).to(total.device());
  }
#endif
  auto squares = total.slice(0, 0, 1).clone();
  if (!plan.composite.empty())
    squares += reference::ema_direction_(pick(gradients, plan.composite), pick(averages, plan.composite),
                                         pick(masks, plan.composite), sigma, lambda, first)
                   .to(squares.device());
  return squares;
}

void combine_(const TensorList& a, const TensorList& b, const at::Tensor& coefficients) {
  constexpr auto op = "combine_";
  check_first(op, "a", a);
  check_floating(op, "a", a);
  check_like(op, "b", b, "a", a, {.same_dtype = true});
  check_scalars(op, "coefficients", coefficients, 2, a);
  if (is_meta(a)) return;

  Plan<kernels::CombineEntry> plan;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const bool dense =
        a[i].scalar_type() == at::kFloat && same_layout(a[i], b[i]) && a[i].device() == coefficients.device();
    auto* table = plan.table(a[i], dense);
    if (!table) {
      plan.composite.push_back(i);
      continue;
    }
    table->entries.push_back({data_of<float>(a[i]), b[i].const_data_ptr<float>(), a[i].numel()});
    mark_changed(a[i]);
  }
  if (!plan.cpu.empty()) {
    plan.cpu.cut(kCpuChunk, size_of<kernels::CombineEntry>);
    const double* c = coefficients.const_data_ptr<double>();
    GLYPTIC_SELECT(combine)
    (plan.cpu.entries.data(), plan.cpu.map(), static_cast<float>(c[0]), static_cast<float>(c[1]),
     plan.cpu.threads());
  }
#ifdef GLYPTIC_WITH_CUDA
  for (auto& [index, table] : plan.cuda) {
    table.cut(kCudaChunk, size_of<kernels::CombineEntry>);
    cuda::combine({at::kCUDA, index}, table, coefficients);
  }
#endif
  if (!plan.composite.empty())
    reference::combine_(pick(a, plan.composite), pick(b, plan.composite), coefficients);
}

namespace {

/// Where the numbers of each tensor begin: multiples of four, one after the other.
std::vector<uint64_t> noise_offsets(const TensorList& list) {
  std::vector<uint64_t> offsets;
  uint64_t next = 0;
  for (const auto& tensor : list) {
    offsets.push_back(next);
    next += (static_cast<uint64_t>(tensor.numel()) + 3) / 4 * 4;
  }
  return offsets;
}

}  // namespace

at::Tensor noise_ascend_(const TensorList& weights, const TensorList& origins, const TensorList& masks,
                         const at::Tensor& coefficients, const NoiseArgs& args) {
  constexpr auto op = "noise_ascend_";
  for (std::size_t i = 0; i < origins.size(); ++i) check_strided(op, "origins", i, origins[i]);
  check_floating(op, "origins", origins);
  if (!weights.empty()) {
    check_first(op, "weights", weights);
    check_like(op, "weights", weights, "origins", origins, {.same_dtype = true});
  }
  check_sparse(op, "masks", masks, origins, at::kBool);
  check_scalars(op, "coefficients", coefficients, static_cast<int64_t>(args.streams.size()), origins);
  require(!args.streams.empty(), op, ": streams is empty, expected one per draw");
  require(args.distribution != Distribution::uniform, op,
          ": distribution is uniform, expected normal or rademacher");
  auto total = zeros_like_sums(origins);
  if (is_meta(origins)) return total.slice(0, 0, 1).clone();

  // Number i belongs to element i of the shape, whatever the layout.
  bool fast = true;
  for (std::size_t i = 0; i < origins.size(); ++i)
    fast = fast && origins[i].scalar_type() == at::kFloat && origins[i].is_contiguous() &&
           (weights.empty() || weights[i].is_contiguous()) &&
           (!at_or_none(masks, i).defined() || masks[i].is_contiguous()) &&
           path_of(origins[i]) != Path::composite && origins[i].device() == origins[0].device();
  if (!fast) return reference::noise_ascend_(weights, origins, masks, coefficients, args);

  const auto offsets = noise_offsets(origins);
  Plan<kernels::NoiseEntry> plan;
  for (std::size_t i = 0; i < origins.size(); ++i) {
    plan.table(origins[i], true)
        ->entries.push_back({weights.empty() ? nullptr : data_of<float>(weights[i]),
                             origins[i].const_data_ptr<float>(), mask_or_null(at_or_none(masks, i)),
                             origins[i].numel(), offsets[i]});
    if (!weights.empty()) mark_changed(weights[i]);
  }
  kernels::NoiseScalars scalars{};
  scalars.seed = args.seed;
  scalars.kind =
      args.distribution == Distribution::normal ? kernels::FillKind::normal : kernels::FillKind::rademacher;
  scalars.draws = static_cast<int64_t>(args.streams.size());
  scalars.streams = args.streams.data();
  if (!plan.cpu.empty()) {
    scalars.coefficients = coefficients.const_data_ptr<double>();
    total += on_cpu<kernels::NoiseEntry>(plan, [&](auto& table, auto* sums) {
      GLYPTIC_SELECT(noise_ascend)(table.entries.data(), table.map(), scalars, sums, table.threads());
    });
  }
#ifdef GLYPTIC_WITH_CUDA
  for (auto& [index, table] : plan.cuda) {
    table.cut(kernels::kSumChunk, size_of<kernels::NoiseEntry>);
    total += cuda::noise_ascend({at::kCUDA, index}, table, scalars, coefficients);
  }
#endif
  return total.slice(0, 0, 1).clone();
}

// ---- out of ATen calls
// -------------------------------------------------------------------------------------

namespace reference {

at::Tensor inner_products(const TensorList& a, const TensorList& b, const TensorList& weights,
                          const TensorList& masks, double eta) {
  const at::NoGradGuard no_grad;
  auto total = zeros_like_sums(a);
  for (std::size_t i = 0; i < a.size(); ++i) {
    const auto& mask = at_or_none(masks, i);
    const auto x = kept(mask, a[i].to(at::kDouble));
    const auto& weight = at_or_none(weights, i);
    const auto scaled = weight.defined() ? x * (weight.to(at::kDouble).abs() + eta) : x;
    total[0] += scaled.square().sum().to(total.device());
    if (b.empty()) continue;
    const auto y = kept(mask, b[i].to(at::kDouble));
    total[1] += (x * y).sum().to(total.device());
    total[2] += y.square().sum().to(total.device());
  }
  return total;
}

void ascend_(const TensorList& weights, const TensorList& backups, const TensorList& directions,
             const at::Tensor& norm, const TensorList& masks, const AscendArgs& args) {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const auto& w = weights[i];
    backups[i].copy_(w);
    const auto type = wide_type(w.scalar_type());
    const auto old = w.to(type);
    auto h = directions[i].to(type);
    if (args.max_norm) h = h.sign();
    if (!args.adaptive.empty() && args.adaptive[i]) h = (old.abs() + args.eta).square() * h;
    const double rho = args.rho.size() == 1 ? args.rho[0] : args.rho[i];
    const auto n = norm.to(w.device()).squeeze(0);
    const auto factor = args.max_norm ? at::full_like(n, rho) : rho / (n + args.eps0);
    auto moves = (n > 0).logical_and(n.isfinite());
    if (const auto& mask = at_or_none(masks, i); mask.defined()) moves = moves.logical_and(mask);
    w.copy_(at::where(moves, old + factor.to(type) * h, old));
  }
}

at::Tensor ema_direction_(const TensorList& gradients, const TensorList& averages, const TensorList& masks,
                          double sigma, double lambda, bool first) {
  const at::NoGradGuard no_grad;
  auto total = zeros_like_sums(gradients).slice(0, 0, 1).clone();
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const auto type = wide_type(gradients[i].scalar_type());
    const auto& mask = at_or_none(masks, i);
    const auto g = kept(mask, gradients[i].to(type)), m = kept(mask, averages[i].to(type));
    const auto h = first ? g : g - m * sigma;
    averages[i].copy_(first ? g : m * lambda + g * (1.0 - lambda));
    gradients[i].copy_(h);
    total += gradients[i].to(at::kDouble).square().sum().to(total.device());
  }
  return total;
}

void combine_(const TensorList& a, const TensorList& b, const at::Tensor& coefficients) {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const auto type = wide_type(a[i].scalar_type());
    const auto c = coefficients.to(a[i].device(), type);
    a[i].copy_(a[i].to(type) * c[0] + b[i].to(type) * c[1]);
  }
}

at::Tensor noise_ascend_(const TensorList& weights, const TensorList& origins, const TensorList& masks,
                         const at::Tensor& coefficients, const NoiseArgs& args) {
  const at::NoGradGuard no_grad;
  const auto offsets = noise_offsets(origins);
  auto total = zeros_like_sums(origins).slice(0, 0, 1).clone();
  for (std::size_t i = 0; i < origins.size(); ++i) {
    const auto& origin = origins[i];
    const auto type = wide_type(origin.scalar_type());
    auto noise = at::zeros(origin.sizes(), origin.options().dtype(type));
    for (std::size_t j = 0; j < args.streams.size(); ++j) {
      const auto u = at::empty(origin.sizes(), origin.options().dtype(at::kFloat));
      philox_fill_(u, args.seed, args.streams[j], static_cast<int64_t>(offsets[i]), args.distribution);
      noise = noise + coefficients[static_cast<int64_t>(j)].to(origin.device(), type) * u.to(type);
    }
    const auto& mask = at_or_none(masks, i);
    noise = kept(mask, noise);
    total += noise.to(at::kDouble).square().sum().to(total.device());
    if (weights.empty()) continue;
    const auto moved = origin.to(type) + noise;
    weights[i].copy_(mask.defined() ? at::where(mask, moved, origin.to(type)) : moved);
  }
  return total;
}

}  // namespace reference

// ---- torch.ops.glyptic.*
// -----------------------------------------------------------------------------------

namespace {

at::Tensor call_inner_products(at::TensorList a, at::TensorList b, at::TensorList weights,
                               at::TensorList masks, double eta) {
  return inner_products(list(a), list(b), list(weights), list(masks), eta);
}

void call_ascend(at::TensorList weights, at::TensorList backups, at::TensorList directions,
                 const at::Tensor& norm, at::TensorList masks, at::ArrayRef<double> rho, bool adaptive,
                 double eta, double eps0, bool max_norm) {
  AscendArgs args;
  args.eta = eta;
  args.eps0 = eps0;
  args.max_norm = max_norm;
  args.rho = rho.vec();
  args.adaptive.assign(weights.size(), adaptive);
  ascend_(list(weights), list(backups), list(directions), norm, list(masks), args);
}

at::Tensor call_ema_direction(at::TensorList gradients, at::TensorList averages, at::TensorList masks,
                              double sigma, double ema, bool first) {
  return ema_direction_(list(gradients), list(averages), list(masks), sigma, ema, first);
}

void call_combine(at::TensorList a, at::TensorList b, const at::Tensor& coefficients) {
  combine_(list(a), list(b), coefficients);
}

at::Tensor call_noise_ascend(at::TensorList weights, at::TensorList origins, at::TensorList masks,
                             const at::Tensor& coefficients, int64_t seed, at::IntArrayRef streams,
                             c10::string_view distribution) {
  NoiseArgs args;
  args.seed = static_cast<uint64_t>(seed);
  for (const auto stream : streams) args.streams.push_back(static_cast<uint64_t>(stream));
  args.distribution = named<Distribution>("noise_ascend_", "distribution", distribution, kDistributions);
  return noise_ascend_(list(weights), list(origins), list(masks), coefficients, args);
}

void implement(torch::Library& m) {
  m.impl("inner_products", TORCH_FN(call_inner_products));
  m.impl("ascend_", TORCH_FN(call_ascend));
  m.impl("ema_direction_", TORCH_FN(call_ema_direction));
  m.impl("combine_", TORCH_FN(call_combine));
  m.impl("noise_ascend_", TORCH_FN(call_noise_ascend));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(glyptic, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def(
      "inner_products(Tensor[] a, Tensor[] b, Tensor[] weights, Tensor[] masks, *, float eta=0.0) -> Tensor",
      tags);
  m.def(
      "ascend_(Tensor(a!)[] weights, Tensor(b!)[] backups, Tensor[] directions, Tensor norm, Tensor[] masks, "
      "*, "
      "float[] rho, bool adaptive=False, float eta=0.0, float eps0=1e-12, bool max_norm=False) -> ()",
      tags);
  m.def(
      "ema_direction_(Tensor(a!)[] gradients, Tensor(b!)[] averages, Tensor[] masks, *, float sigma, float "
      "ema, "
      "bool first=False) -> Tensor",
      tags);
  m.def("combine_(Tensor(a!)[] a, Tensor[] b, Tensor coefficients) -> ()", tags);
  m.def(
      "noise_ascend_(Tensor(a!)[] weights, Tensor[] origins, Tensor[] masks, Tensor coefficients, *, int "
      "seed, "
      "int[] streams, str distribution='normal') -> Tensor",
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
TORCH_LIBRARY_IMPL(glyptic, CompositeExplicitAutograd, m) {
  implement(m);
}
TORCH_LIBRARY_IMPL(glyptic, Autograd, m) {
  for (const char* name : {"inner_products", "ascend_", "ema_direction_", "combine_", "noise_ascend_"})
    m.impl(name, torch::CppFunction::makeFallthrough());
}

}  // namespace glyptic::ops
