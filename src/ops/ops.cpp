#include "glyptic/ops/ops.h"

#include <ATen/Parallel.h>
#include <torch/torch.h>

#include "glyptic/kernels/channel_gather.h"
#include "glyptic/kernels/channel_scores.h"
#include "glyptic/kernels/mask_apply.h"
#include "glyptic/kernels/mask_update.h"
#include "glyptic/kernels/masked_adamw.h"
#include "glyptic/kernels/masked_sgd.h"
#include "glyptic/kernels/philox_fill.h"
#include "glyptic/kernels/topk.h"
#include "support.h"
#ifdef GLYPTIC_WITH_CUDA
#include "cuda/launch.h"
#endif

namespace glyptic::ops {

namespace {

/// The composite steps in place, so it starts from where the step starts.
void restore_composite(const TensorList& weights, const TensorList& origins,
                       const std::vector<std::size_t>& indices) {
  const at::NoGradGuard no_grad;
  if (!origins.empty())
    for (const auto i : indices) weights[i].copy_(origins[i]);
}

}  // namespace

// ---- masked SGD
// ------------------------------------------------------------------------------------------------

void masked_sgd_(const TensorList& weights, const TensorList& grads, const TensorList& momenta,
                 const TensorList& masks, const SgdArgs& args, const TensorList& origins) {
  const auto* op = origins.empty() ? "masked_sgd_" : "restore_sgd_";
  check_first(op, "weights", weights);
  check_floating(op, "weights", weights);
  check_like(op, "grads", grads, "weights", weights, {.same_dtype = true});
  check_like(op, "momenta", momenta, "weights", weights,
             {.may_be_empty = args.momentum == 0, .same_dtype = true});
  check_like(op, "masks", masks, "weights", weights, {.may_be_empty = true, .dtype = at::kBool});
  check_like(op, "origins", origins, "weights", weights, {.may_be_empty = true, .same_dtype = true});
  check_finite(op, "lr", args.lr);
  check_finite(op, "momentum", args.momentum);
  check_finite(op, "dampening", args.dampening);
  check_finite(op, "weight_decay", args.weight_decay);
  require(!args.nesterov || args.momentum != 0, op, ": nesterov needs a momentum other than 0");
  if (is_meta(weights)) return;

  Plan<kernels::SgdEntry> plan;
  const bool with_momentum = args.momentum != 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const auto& w = weights[i];
    const bool dense = w.scalar_type() == at::kFloat && same_layout(w, grads[i]) &&
                       (!with_momentum || same_layout(w, momenta[i])) &&
                       (masks.empty() || same_layout(w, masks[i])) &&
                       (origins.empty() || same_layout(w, origins[i]));
    auto* table = plan.table(w, dense);
    if (!table) {
      plan.composite.push_back(i);
      continue;
    }
    table->entries.push_back({data_of<float>(w), grads[i].const_data_ptr<float>(),
                              with_momentum ? data_of<float>(momenta[i]) : nullptr,
                              masks.empty() ? nullptr : mask_data(masks[i]), w.numel(),
                              origins.empty() ? nullptr : origins[i].const_data_ptr<float>()});
    mark_changed(w);
    if (with_momentum) mark_changed(momenta[i]);
  }
  const kernels::SgdScalars scalars{static_cast<float>(args.lr),
                                    static_cast<float>(args.momentum),
                                    static_cast<float>(1.0 - args.dampening),
                                    static_cast<float>(args.weight_decay),
                                    args.maximize ? -1.0f : 1.0f,
                                    args.nesterov,
                                    args.first_step,
                                    args.off_mask_is_zero};
  if (!plan.cpu.empty()) {
    plan.cpu.cut(kCpuChunk, size_of<kernels::SgdEntry>);
    GLYPTIC_SELECT(masked_sgd)(plan.cpu.entries.data(), plan.cpu.map(), scalars, plan.cpu.threads());
  }
#ifdef GLYPTIC_WITH_CUDA
  for (auto& [index, table] : plan.cuda) {
    table.cut(kCudaChunk, size_of<kernels::SgdEntry>);
    cuda::masked_sgd({at::kCUDA, index}, table, scalars);
  }
#endif
  if (!plan.composite.empty()) {
    restore_composite(weights, origins, plan.composite);
    reference::masked_sgd_(pick(weights, plan.composite), pick(grads, plan.composite),
                           pick(momenta, plan.composite), pick(masks, plan.composite), args);
  }
}

// ---- masked Adam
// -----------------------------------------------------------------------------------------------

namespace {

// A table larger than this (8 MB) means a beta so close to 1 that the composite has to do.
constexpr double kLargestAdamTable = 1 << 20;

/// The corrections of steps 1, 2, ... until they no longer change. Kept for the betas that were used last.
std::shared_ptr<const std::vector<kernels::AdamCorrection>> adam_table(double beta1, double beta2) {
  static std::mutex mutex;
  static std::pair<double, double> betas;
  static std::shared_ptr<const std::vector<kernels::AdamCorrection>> last;
  const std::lock_guard<std::mutex> lock(mutex);
  if (last && betas == std::make_pair(beta1, beta2)) return last;
  auto table = std::make_shared<std::vector<kernels::AdamCorrection>>(
      static_cast<std::size_t>(kernels::adam_table_size(beta1, beta2)));
  for (std::size_t t = 1; t < table->size(); ++t)
    (*table)[t] = kernels::adam_correction(beta1, beta2, static_cast<double>(t));
  betas = {beta1, beta2};
  last = table;
  return last;
}

}  // namespace

void masked_adamw_(const TensorList& weights, const TensorList& grads, const TensorList& exp_avgs,
                   const TensorList& exp_avg_sqs, const TensorList& masks, const TensorList& weight_steps,
                   const AdamArgs& args, const TensorList& origins) {
  const auto* op = origins.empty() ? "masked_adamw_" : "restore_adamw_";
  check_first(op, "weights", weights);
  check_floating(op, "weights", weights);
  check_like(op, "grads", grads, "weights", weights, {.same_dtype = true});
  check_like(op, "exp_avgs", exp_avgs, "weights", weights, {.same_dtype = true});
  check_like(op, "exp_avg_sqs", exp_avg_sqs, "weights", weights, {.same_dtype = true});
  check_like(op, "masks", masks, "weights", weights, {.may_be_empty = true, .dtype = at::kBool});
  check_like(op, "weight_steps", weight_steps, "weights", weights, {.may_be_empty = true, .dtype = at::kInt});
  check_like(op, "origins", origins, "weights", weights, {.may_be_empty = true, .same_dtype = true});
  check_finite(op, "lr", args.lr);
  check_finite(op, "eps", args.eps);
  check_finite(op, "weight_decay", args.weight_decay);
  require(args.beta1 >= 0 && args.beta1 < 1, op, ": beta1 is ", args.beta1, ", expected 0 <= beta1 < 1");
  require(args.beta2 >= 0 && args.beta2 < 1, op, ": beta2 is ", args.beta2, ", expected 0 <= beta2 < 1");
  require(!weight_steps.empty() || args.step >= 1, op, ": step is ", args.step,
          ", expected 1 for the first step, then 2, 3, ...");
  if (is_meta(weights)) return;

  Plan<kernels::AdamEntry> plan;
  const bool table_fits = kernels::adam_table_size(args.beta1, args.beta2) <= kLargestAdamTable;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const auto& w = weights[i];
    const bool dense = w.scalar_type() == at::kFloat && same_layout(w, grads[i]) &&
                       same_layout(w, exp_avgs[i]) && same_layout(w, exp_avg_sqs[i]) &&
                       (masks.empty() || same_layout(w, masks[i])) &&
                       (origins.empty() || same_layout(w, origins[i])) &&
                       (weight_steps.empty() || (table_fits && same_layout(w, weight_steps[i])));
    auto* table = plan.table(w, dense);
    if (!table) {
      plan.composite.push_back(i);
      continue;
    }
    table->entries.push_back({data_of<float>(w), grads[i].const_data_ptr<float>(),
                              data_of<float>(exp_avgs[i]), data_of<float>(exp_avg_sqs[i]),
                              masks.empty() ? nullptr : mask_data(masks[i]),
                              weight_steps.empty() ? nullptr : data_of<int32_t>(weight_steps[i]), w.numel(),
                              origins.empty() ? nullptr : origins[i].const_data_ptr<float>()});
    mark_changed(w);
    mark_changed(exp_avgs[i]);
    mark_changed(exp_avg_sqs[i]);
    if (!weight_steps.empty()) mark_changed(weight_steps[i]);
  }
  kernels::AdamScalars scalars{};
  scalars.lr = static_cast<float>(args.lr);
  scalars.beta1 = static_cast<float>(args.beta1);
  scalars.beta2 = static_cast<float>(args.beta2);
  scalars.rest1 = static_cast<float>(1.0 - args.beta1);
  scalars.rest2 = static_cast<float>(1.0 - args.beta2);
  scalars.eps = static_cast<float>(args.eps);
  scalars.weight_decay = static_cast<float>(args.weight_decay);
  scalars.shrink = static_cast<float>(1.0 - args.lr * args.weight_decay);
  scalars.sign = args.maximize ? -1.0f : 1.0f;
  scalars.decoupled = args.decoupled;
  scalars.off_mask_is_zero = args.off_mask_is_zero;
  std::shared_ptr<const std::vector<kernels::AdamCorrection>> corrections;
  if (weight_steps.empty()) {
    scalars.correction = kernels::adam_correction(args.beta1, args.beta2, static_cast<double>(args.step));
  } else if (table_fits) {
    corrections = adam_table(args.beta1, args.beta2);
    scalars.table = corrections->data();
    scalars.table_size = static_cast<int32_t>(corrections->size());
  }
  if (!plan.cpu.empty()) {
    plan.cpu.cut(kCpuChunk, size_of<kernels::AdamEntry>);
    GLYPTIC_SELECT(masked_adamw)(plan.cpu.entries.data(), plan.cpu.map(), scalars, plan.cpu.threads());
  }
#ifdef GLYPTIC_WITH_CUDA
  for (auto& [index, table] : plan.cuda) {
    table.cut(kCudaChunk, size_of<kernels::AdamEntry>);
    cuda::masked_adamw({at::kCUDA, index}, table, scalars);
  }
#endif
  if (!plan.composite.empty()) {
    restore_composite(weights, origins, plan.composite);
    reference::masked_adamw_(pick(weights, plan.composite), pick(grads, plan.composite),
                             pick(exp_avgs, plan.composite), pick(exp_avg_sqs, plan.composite),
                             pick(masks, plan.composite), pick(weight_steps, plan.composite), args);
  }
}

// ---- masks
// -----------------------------------------------------------------------------------------------------

namespace {

bool has_word_size(const at::Tensor& tensor) {
  const auto bytes = tensor.element_size();
  return bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8;
}

}  // namespace

void mask_apply_(const TensorList& tensors, const TensorList& masks) {
  constexpr auto op = "mask_apply_";
  check_first(op, "tensors", tensors);
  check_like(op, "masks", masks, "tensors", tensors, {.dtype = at::kBool});
  if (is_meta(tensors)) return;

  Plan<kernels::MaskApplyEntry> plan;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    auto* table = plan.table(tensors[i], has_word_size(tensors[i]) && same_layout(tensors[i], masks[i]));
    if (!table) {
      plan.composite.push_back(i);
      continue;
    }
    table->entries.push_back({tensors[i].data_ptr(), mask_data(masks[i]), tensors[i].numel(),
                              static_cast<int32_t>(tensors[i].element_size())});
    mark_changed(tensors[i]);
  }
  if (!plan.cpu.empty()) {
    plan.cpu.cut(kCpuChunk, size_of<kernels::MaskApplyEntry>);
    GLYPTIC_SELECT(mask_apply)(plan.cpu.entries.data(), plan.cpu.map(), plan.cpu.threads());
  }
#ifdef GLYPTIC_WITH_CUDA
  for (auto& [index, table] : plan.cuda) {
    table.cut(kCudaChunk, size_of<kernels::MaskApplyEntry>);
    cuda::mask_apply({at::kCUDA, index}, table);
  }
#endif
  if (!plan.composite.empty())
    reference::mask_apply_(pick(tensors, plan.composite), pick(masks, plan.composite));
}

at::Tensor mask_update_(const TensorList& weights, const TensorList& masks,
                        const std::vector<TensorList>& states, const TensorList& new_masks) {
  constexpr auto op = "mask_update_";
  check_first(op, "weights", weights);
  check_first(op, "masks", masks);
  check_like(op, "masks", masks, "weights", weights, {.dtype = at::kBool});
  check_like(op, "new_masks", new_masks, "weights", weights, {.dtype = at::kBool});
  require(states.empty() || states.size() == weights.size(), op, ": states has ", states.size(),
          " lists, but weights has ", weights.size(), " tensors; expected one list each, or none at all");
  for (std::size_t i = 0; i < states.size(); ++i) {
    const auto name = str("states[", i, "]");
    for (std::size_t j = 0; j < states[i].size(); ++j) {
      check_strided(op, name.c_str(), j, states[i][j]);
      check_matches(op, name.c_str(), j, states[i][j], "weights", i, weights[i]);
    }
  }
  const auto count = static_cast<int64_t>(weights.size());
  if (weights.empty()) return at::zeros({0, 3}, at::kLong);
  auto counts = at::zeros({count, 3}, weights[0].options().dtype(at::kLong).requires_grad(false));
  if (is_meta(weights)) return counts;

  struct Batch {
    std::vector<kernels::MaskUpdateArray> arrays;
    std::vector<int64_t> position;  // in the list, of each entry
  };
  Plan<kernels::MaskUpdateEntry> plan;
  Batch on_cpu;
  std::map<c10::DeviceIndex, Batch> on_cuda;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const auto& w = weights[i];
    bool dense = has_word_size(w) && same_layout(w, masks[i]) && same_layout(w, new_masks[i]);
    if (!states.empty())
      for (const auto& state : states[i]) dense = dense && has_word_size(state) && same_layout(w, state);
    auto* table = plan.table(w, dense);
    if (!table) {
      plan.composite.push_back(i);
      continue;
    }
    Batch& batch = w.is_cpu() ? on_cpu : on_cuda[w.get_device()];
    const auto first = static_cast<int32_t>(batch.arrays.size());
    const auto push = [&](const at::Tensor& tensor) {
      batch.arrays.push_back({tensor.data_ptr(), static_cast<int32_t>(tensor.element_size())});
      mark_changed(tensor);
    };
    push(w);
    if (!states.empty())
      for (const auto& state : states[i]) push(state);
    table->entries.push_back({reinterpret_cast<uint8_t*>(data_of<bool>(masks[i])), mask_data(new_masks[i]),
                              w.numel(), first, static_cast<int32_t>(batch.arrays.size()) - first});
    batch.position.push_back(static_cast<int64_t>(i));
    mark_changed(masks[i]);
  }
  const auto scatter = [&](const Batch& batch, const at::Tensor& part) {
    if (static_cast<int64_t>(batch.position.size()) == count)
      counts = part;
    else
      counts.index_copy_(0, at::tensor(batch.position, at::kLong).to(counts.device()),
                         part.to(counts.device()));
  };
  const auto blank = [&](const Batch& batch, at::Device device) {
    return at::zeros({static_cast<int64_t>(batch.position.size()), 3},
                     at::TensorOptions(device).dtype(at::kLong));
  };
  if (!plan.cpu.empty()) {
    const auto part = blank(on_cpu, at::kCPU);
    plan.cpu.cut(kCpuChunk, size_of<kernels::MaskUpdateEntry>);
    GLYPTIC_SELECT(mask_update)
    (plan.cpu.entries.data(), on_cpu.arrays.data(), plan.cpu.map(), part.data_ptr<int64_t>(),
     plan.cpu.threads());
    scatter(on_cpu, part);
  }
#ifdef GLYPTIC_WITH_CUDA
  for (auto& [index, table] : plan.cuda) {
    const at::Device device(at::kCUDA, index);
    const auto part = blank(on_cuda[index], device);
    table.cut(kCudaChunk, size_of<kernels::MaskUpdateEntry>);
    cuda::mask_update(device, table, on_cuda[index].arrays, part);
    scatter(on_cuda[index], part);
  }
#endif
  if (!plan.composite.empty()) {
    std::vector<TensorList> rest;
    if (!states.empty())
      for (const auto i : plan.composite) rest.push_back(states[i]);
    Batch batch;
    for (const auto i : plan.composite) batch.position.push_back(static_cast<int64_t>(i));
    scatter(batch, reference::mask_update_(pick(weights, plan.composite), pick(masks, plan.composite), rest,
                                           pick(new_masks, plan.composite)));
  }
  return counts;
}

// ---- top-k
// -----------------------------------------------------------------------------------------------------

namespace {

bool kernels_take(at::ScalarType type) {
  return type == at::kFloat || type == at::kBFloat16 || type == at::kHalf;
}

}  // namespace

TensorList topk_masks(const TensorList& a, const TensorList& b, const TensorList& candidates,
                      const TensorList& exclude, const std::vector<int64_t>& k, bool global,
                      const TopKArgs& args) {
  constexpr auto op = "topk_masks";
  const bool random = args.score == Score::random;
  const bool reads_b = score_reads_b(args.score);
  for (std::size_t i = 0; i < a.size(); ++i) {
    check_strided(op, "a", i, a[i]);
    if (a[i].device() != a[0].device())
      throw ArgumentError(
          str(op, ": a[", i, "] is on ", a[i].device().str(), ", but a[0] is on ", a[0].device().str()));
  }
  if (!random) check_floating(op, "a", a);
  check_like(op, "b", b, "a", a, {.may_be_empty = !reads_b});
  if (reads_b) check_floating(op, "b", b);
  check_like(op, "candidates", candidates, "a", a, {.may_be_empty = true, .dtype = at::kBool});
  check_like(op, "exclude", exclude, "a", a, {.may_be_empty = true, .dtype = at::kBool});
  check_finite(op, "lambda", args.lambda);
  const std::size_t groups = global ? 1 : a.size();
  require(k.size() == groups, op, ": k has ", k.size(), " entries, expected ", groups,
          global ? " for a global selection" : ", one per tensor of a");
  for (std::size_t i = 0; i < k.size(); ++i)
    require(k[i] >= 0, op, ": k[", i, "] is ", k[i], ", expected 0 or more");
  if (a.empty()) {
    if (global) require(k[0] == 0, op, ": k is ", k[0], ", but there are no tensors to choose from");
    return {};
  }

  TensorList masks;
  const auto bool_like = [](const at::Tensor& t) {
    return at::empty_like(t, t.options().dtype(at::kBool).requires_grad(false));
  };
  if (is_meta(a)) {
    for (const auto& t : a) masks.push_back(bool_like(t));
    return masks;
  }
  const Path path = path_of(a[0]);
  bool fast = path != Path::composite;
  for (std::size_t i = 0; i < a.size(); ++i)
    fast = fast &&
           (random || (kernels_take(a[i].scalar_type()) && (!reads_b || kernels_take(b[i].scalar_type()))));
  if (!fast) return reference::topk_masks(a, b, candidates, exclude, k, global, args);

  // Ties and random scores go by the index in the shape, so the kernels need row-major memory. Another layout
  // is copied for the selection, and the masks get the layout of `a`, which the other operators like best.
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> alive;
  const auto plain = [&](const at::Tensor& t, at::ScalarType type) {
    alive.push_back(t.to(type).contiguous());
    return alive.back();
  };
  Table<kernels::TopKEntry> table;
  for (std::size_t i = 0; i < a.size(); ++i) {
    masks.push_back(at::empty(a[i].sizes(), a[i].options().dtype(at::kBool).requires_grad(false)));
    table.entries.push_back({random ? nullptr : plain(a[i], at::kFloat).const_data_ptr<float>(),
                             reads_b ? plain(b[i], at::kFloat).const_data_ptr<float>() : nullptr,
                             candidates.empty() ? nullptr : mask_data(plain(candidates[i], at::kBool)),
                             exclude.empty() ? nullptr : mask_data(plain(exclude[i], at::kBool)),
                             reinterpret_cast<uint8_t*>(data_of<bool>(masks[i])), a[i].numel()});
  }
  const kernels::KeyKind kinds[] = {kernels::KeyKind::magnitude, kernels::KeyKind::mest,
                                    kernels::KeyKind::taylor, kernels::KeyKind::random,
                                    kernels::KeyKind::raw};
  const kernels::TopKTask task{table.entries.data(),
                               static_cast<int64_t>(a.size()),
                               k.data(),
                               global,
                               kinds[static_cast<int64_t>(args.score)],
                               static_cast<float>(args.lambda),
                               args.seed,
                               args.stream,
                               args.merge_excluded};
  std::vector<kernels::TopKReport> report(groups);
  if (path == Path::cpu) {
    require<Error>(GLYPTIC_SELECT(topk)(task, report.data(), at::get_num_threads()), op, ": out of memory");
  }
#ifdef GLYPTIC_WITH_CUDA
  if (path == Path::cuda) {
    table.cut(kernels::cuda::kTopKChunk, size_of<kernels::TopKEntry>);
    report = cuda::topk(a[0].device(), table, task);
  }
#endif
  for (std::size_t i = 0; i < groups; ++i) {
    // The composite says which tensor of a global selection it was, and throws the error itself.
    if (report[i].non_finite > 0 && global) reference::topk_masks(a, b, candidates, exclude, k, global, args);
    require(report[i].non_finite == 0, op, ": ", report[i].non_finite,
            " of the candidates' scores in tensor ", i,
            " of the list are NaN or Inf; the weights or gradients have diverged");
    if (global)
      require(k[i] <= report[i].candidates, op, ": k is ", k[i], ", but the tensors have only ",
              report[i].candidates, " candidates together");
    require(k[i] <= report[i].candidates, op, ": k[", i, "] is ", k[i], ", but tensor ", i, " has only ",
            report[i].candidates, " candidates");
  }
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i].is_contiguous() || !a[i].is_non_overlapping_and_dense()) continue;
    auto laid_out = bool_like(a[i]);
    laid_out.copy_(masks[i]);
    masks[i] = laid_out;
  }
  return masks;
}

// ---- channels
// --------------------------------------------------------------------------------------------------

TensorList channel_scores(const TensorList& weights, const TensorList& masks, ChannelScore score) {
  constexpr auto op = "channel_scores";
  for (std::size_t i = 0; i < weights.size(); ++i) {
    check_strided(op, "weights", i, weights[i]);
    require(weights[i].dim() >= 1, op, ": weights[", i, "] is a scalar, expected one output row or more");
  }
  check_floating(op, "weights", weights);
  check_like(op, "masks", masks, "weights", weights, {.may_be_empty = true, .dtype = at::kBool});
  TensorList scores;
  for (const auto& w : weights)
    scores.push_back(at::empty_symint({w.sym_size(0)}, w.options().dtype(at::kFloat).requires_grad(false)));
  if (is_meta(weights)) return scores;

  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> alive;
  Plan<kernels::RowEntry> plan;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const auto& w = weights[i];
    auto* table = plan.table(w, kernels_take(w.scalar_type()));
    if (!table) {
      scores[i] =
          reference::channel_scores({w}, masks.empty() ? TensorList{} : TensorList{masks[i]}, score)[0];
      continue;
    }
    alive.push_back(w.to(at::kFloat).contiguous());
    const float* data = alive.back().const_data_ptr<float>();
    const uint8_t* mask = nullptr;
    if (!masks.empty() && score == ChannelScore::masked_mean) {
      alive.push_back(masks[i].contiguous());
      mask = mask_data(alive.back());
    }
    const int64_t rows = w.size(0), row_size = rows ? w.numel() / rows : 0;
    const int64_t kernel = w.dim() > 2 && row_size ? row_size / w.size(1) : 1;
    table->entries.push_back({data, mask, scores[i].data_ptr<float>(), rows, row_size, kernel});
  }
  const kernels::RowScore kinds[] = {kernels::RowScore::mean_magnitude,
                                     kernels::RowScore::masked_mean_magnitude, kernels::RowScore::density,
                                     kernels::RowScore::kernel_density};
  const auto kind = kinds[static_cast<int64_t>(score)];
  const auto rows_of = [](const kernels::RowEntry& entry) { return entry.rows; };
  if (!plan.cpu.empty()) {
    plan.cpu.cut(8, rows_of);
    GLYPTIC_SELECT(channel_scores)
    (plan.cpu.entries.data(), plan.cpu.map(), kind, at::get_num_threads());
  }
#ifdef GLYPTIC_WITH_CUDA
  for (auto& [index, table] : plan.cuda) {
    table.cut(8, rows_of);
    cuda::channel_scores({at::kCUDA, index}, table, kind);
  }
#endif
  return scores;
}

namespace {

void check_index(const char* op, const char* name, const at::Tensor& index, const at::Tensor& weight,
                 int64_t dimension) {
  if (!index.defined()) return;
  if (index.scalar_type() != at::kLong)
    throw ArgumentError(str(op, ": ", name, " is ", dtype_name(index.scalar_type()), ", expected int64"));
  if (index.dim() != 1)
    throw ArgumentError(
        str(op, ": ", name, " has shape ", shape_string(index.sizes()), ", expected one dimension"));
  if (weight.dim() <= dimension)
    throw ArgumentError(str(op, ": weight has shape ", shape_string(weight.sizes()), ", so there is no ",
                            name, " to choose; leave ", name, " undefined"));
  if (index.device() != weight.device())
    throw ArgumentError(
        str(op, ": ", name, " is on ", index.device().str(), ", but weight is on ", weight.device().str()));
  if (index.is_meta() || index.numel() == 0) return;
  const auto [low, high] = at::aminmax(index);
  const auto least = low.item<int64_t>(), most = high.item<int64_t>();
  require(least >= 0 && most < weight.size(dimension), op, ": ", name, " holds the index ",
          least < 0 ? least : most, ", but weight has shape ", shape_string(weight.sizes()),
          ", so indices run from 0 to ", weight.size(dimension) - 1);
}

}  // namespace

at::Tensor channel_gather(const at::Tensor& weight, const at::Tensor& rows, const at::Tensor& cols) {
  constexpr auto op = "channel_gather";
  require(weight.defined(), op, ": weight is undefined");
  require(weight.layout() == at::kStrided, op, ": weight is sparse, expected a strided tensor");
  require(weight.dim() >= 1, op, ": weight is a scalar, expected [rows, ...]");
  check_index(op, "rows", rows, weight, 0);
  check_index(op, "cols", cols, weight, 1);
  const at::NoGradGuard no_grad;
  auto symbolic = weight.sym_sizes().vec();
  if (rows.defined()) symbolic[0] = rows.sym_numel();
  if (cols.defined()) symbolic[1] = cols.sym_numel();
  const auto format = weight.suggest_memory_format();
  if (weight.is_meta())
    return at::empty_symint(symbolic, weight.options().requires_grad(false)).contiguous(format);
  const auto sizes = C10_AS_INTARRAYREF_SLOW(symbolic);
  const auto out = at::empty(sizes, weight.options().requires_grad(false));
  const Path path = path_of(weight);
  if (path == Path::composite) return reference::channel_gather(weight, rows, cols).contiguous(format);
  if (out.numel() == 0) return out.contiguous(format);

  const auto from = weight.contiguous();
  const auto row_index = rows.defined() ? rows.contiguous() : rows;
  const auto col_index = cols.defined() ? cols.contiguous() : cols;
  kernels::GatherArgs args{};
  args.in = static_cast<const char*>(from.const_data_ptr());
  args.out = static_cast<char*>(out.data_ptr());
  args.rows = rows.defined() ? row_index.const_data_ptr<int64_t>() : nullptr;
  args.cols = cols.defined() ? col_index.const_data_ptr<int64_t>() : nullptr;
  args.out_rows = sizes[0];
  args.out_cols = sizes.size() > 1 ? sizes[1] : 1;
  args.in_cols = weight.dim() > 1 ? weight.size(1) : 1;
  args.cell_bytes =
      static_cast<int64_t>(weight.element_size()) * (out.numel() / (args.out_rows * args.out_cols));
  if (path == Path::cpu) GLYPTIC_SELECT(channel_gather)(args, thread_count(out.numel()));
#ifdef GLYPTIC_WITH_CUDA
  if (path == Path::cuda) cuda::channel_gather(weight.device(), args);
#endif
  return out.contiguous(format);
}

// ---- random numbers
// --------------------------------------------------------------------------------------------

void philox_fill_(const at::Tensor& out, uint64_t seed, uint64_t stream, int64_t offset,
                  Distribution distribution) {
  constexpr auto op = "philox_fill_";
  require(out.defined(), op, ": out is undefined");
  require(out.layout() == at::kStrided, op, ": out is sparse, expected a strided tensor");
  require(offset >= 0, op, ": offset is ", offset, ", expected 0 or more");
  kernels::FillArgs args{};
  switch (out.scalar_type()) {
    case at::kFloat:
      args.type = kernels::FloatType::float32;
      break;
    case at::kDouble:
      args.type = kernels::FloatType::float64;
      break;
    case at::kBFloat16:
      args.type = kernels::FloatType::bfloat16;
      break;
    case at::kHalf:
      args.type = kernels::FloatType::float16;
      break;
    default:
      throw ArgumentError(str(op, ": out is ", dtype_name(out.scalar_type()),
                              ", expected float32, float64, bfloat16 or float16"));
  }
  if (out.is_meta() || out.numel() == 0) return;
  const at::NoGradGuard no_grad;
  const Path path = path_of(out);
  if (path == Path::composite || !out.is_contiguous()) {
    const auto plain =
        at::empty(out.sizes(), out.options().requires_grad(false).device(
                                   path == Path::composite ? at::Device(at::kCPU) : out.device()));
    philox_fill_(plain, seed, stream, offset, distribution);
    out.copy_(plain);
    return;
  }
  const kernels::FillKind kinds[] = {kernels::FillKind::uniform, kernels::FillKind::normal,
                                     kernels::FillKind::rademacher};
  args.out = out.data_ptr();
  args.size = out.numel();
  args.kind = kinds[static_cast<int64_t>(distribution)];
  args.seed = seed;
  args.stream = stream;
  args.offset = static_cast<uint64_t>(offset);
  if (path == Path::cpu) GLYPTIC_SELECT(philox_fill)(args, thread_count(args.size));
#ifdef GLYPTIC_WITH_CUDA
  if (path == Path::cuda) cuda::philox_fill(out.device(), args);
#endif
  mark_changed(out);
}

}  // namespace glyptic::ops
