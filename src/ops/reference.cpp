// The operators out of ATen calls: they serve every dtype and device that our kernels do not, and are the
// oracle of the tests. Products and sums are separate calls, so that each rounds by itself as in the kernels
// (ATen's own `add(alpha)` and `addcmul` contract them on some machines).
#include <torch/torch.h>

#include "glyptic/core/philox.h"
#include "glyptic/kernels/masked_adamw.h"
#include "support.h"

namespace glyptic::ops::reference {

namespace {

/// The square root rounded once. ATen's float32 root may be MKL's, which is off by a bit in one of six
/// values; the root of a float32 in float64 has so many digits to spare that rounding it again gives the
/// right float32.
at::Tensor rounded_root(const at::Tensor& x) {
  return x.to(at::kDouble).sqrt().to(x.scalar_type());
}

at::Tensor mask_of(const TensorList& masks, std::size_t i) {
  return masks.empty() ? at::Tensor() : masks[i];
}

}  // namespace

void masked_sgd_(const TensorList& weights, const TensorList& grads, const TensorList& momenta,
                 const TensorList& masks, const SgdArgs& args) {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const auto& w = weights[i];
    const auto mask = mask_of(masks, i);
    const auto type = wide_type(w.scalar_type());
    const auto old = w.to(type);
    auto gradient = (args.maximize ? grads[i].neg() : grads[i]).to(type);
    if (args.weight_decay != 0) gradient = gradient + old * args.weight_decay;
    auto direction = gradient;
    if (args.momentum != 0) {
      const auto& v = momenta[i];
      const auto velocity =
          args.first_step ? gradient : v.to(type) * args.momentum + gradient * (1.0 - args.dampening);
      direction = args.nesterov ? gradient + velocity * args.momentum : velocity;
      v.copy_(kept(mask, velocity));
    }
    w.copy_(kept(mask, old - direction * args.lr));
  }
}

void masked_adamw_(const TensorList& weights, const TensorList& grads, const TensorList& exp_avgs,
                   const TensorList& exp_avg_sqs, const TensorList& masks, const TensorList& weight_steps,
                   const AdamArgs& args) {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const auto& w = weights[i];
    const auto mask = mask_of(masks, i);
    const auto type = wide_type(w.scalar_type());
    const auto options = w.options().dtype(type).requires_grad(false);
    at::Tensor c1, c2;
    if (weight_steps.empty()) {
      const auto t = static_cast<double>(args.step);
      const auto c = kernels::adam_correction(args.beta1, args.beta2, t);
      const bool wide = w.scalar_type() == at::kDouble;
      c1 = at::scalar_tensor(wide ? 1.0 / (1.0 - std::pow(args.beta1, t)) : double{c.c1}, options);
      c2 = at::scalar_tensor(wide ? 1.0 / std::sqrt(1.0 - std::pow(args.beta2, t)) : double{c.c2}, options);
    } else {
      const auto& steps = weight_steps[i];
      const auto next = steps + steps.lt(std::numeric_limits<int32_t>::max());
      // The corrections of the steps that occur, by the same scalar arithmetic as the kernels' table.
      const auto [distinct, inverse, unused] = at::_unique2(next.clamp_min(1).cpu(), true, true, false);
      auto table = at::empty({2, distinct.numel()}, at::kDouble);
      for (int64_t k = 0; k < distinct.numel(); ++k) {
        const auto t = static_cast<double>(distinct[k].item<int64_t>());
        const auto c = kernels::adam_correction(args.beta1, args.beta2, t);
        const bool wide = w.scalar_type() == at::kDouble;
        table[0][k] = wide ? 1.0 / (1.0 - std::pow(args.beta1, t)) : double{c.c1};
        table[1][k] = wide ? 1.0 / std::sqrt(1.0 - std::pow(args.beta2, t)) : double{c.c2};
      }
      table = table.to(options);
      const auto at_step = inverse.to(w.device()).view(-1);
      c1 = table[0].index_select(0, at_step).view(w.sizes());
      c2 = table[1].index_select(0, at_step).view(w.sizes());
      steps.copy_(kept(mask, next));
    }
    auto old = w.to(type);
    auto gradient = (args.maximize ? grads[i].neg() : grads[i]).to(type);
    if (args.weight_decay != 0) {
      if (args.decoupled)
        old = old * (1.0 - args.lr * args.weight_decay);
      else
        gradient = gradient + old * args.weight_decay;
    }
    const auto m = exp_avgs[i].to(type) * args.beta1 + gradient * (1.0 - args.beta1);
    const auto v = exp_avg_sqs[i].to(type) * args.beta2 + (gradient * (1.0 - args.beta2)) * gradient;
    const auto step = ((c1 * args.lr) * m) / (rounded_root(v) * c2 + args.eps);
    w.copy_(kept(mask, old - step));
    exp_avgs[i].copy_(kept(mask, m));
    exp_avg_sqs[i].copy_(kept(mask, v));
  }
}

void mask_apply_(const TensorList& tensors, const TensorList& masks) {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < tensors.size(); ++i) tensors[i].masked_fill_(masks[i].logical_not(), 0);
}

namespace {

/// Scores of one flattened tensor at the flat indices `where`.
at::Tensor scores_at(const at::Tensor& a, const at::Tensor& b, const at::Tensor& where, uint64_t position,
                     const TopKArgs& args) {
  if (args.score == Score::random) {
    const auto index = where.cpu();
    auto words = at::empty(index.sizes(), at::kLong);
    const auto* from = index.const_data_ptr<int64_t>();
    auto* to = words.data_ptr<int64_t>();
    for (int64_t i = 0; i < index.numel(); ++i)
      to[i] = philox_u32(args.seed, args.stream + position, static_cast<uint64_t>(from[i]));
    return words.to(where.device());
  }
  const auto type = wide_type(a.scalar_type());
  const auto x = a.reshape(-1).index_select(0, where).to(type);
  if (args.score == Score::magnitude) return x.abs();
  if (args.score == Score::raw) return x;
  const auto y = b.reshape(-1).index_select(0, where).to(type);
  return args.score == Score::mest ? x.abs() + y.abs() * args.lambda : (x * y).abs();
}

}  // namespace

TensorList topk_masks(const TensorList& a, const TensorList& b, const TensorList& candidates,
                      const TensorList& exclude, const std::vector<int64_t>& k, bool global,
                      const TopKArgs& args) {
  const at::NoGradGuard no_grad;
  struct Part {
    at::Tensor where, score;
  };
  std::vector<Part> parts;
  for (std::size_t i = 0; i < a.size(); ++i) {
    auto eligible = at::ones({a[i].numel()}, a[i].options().dtype(at::kBool));
    if (!candidates.empty()) eligible = eligible.logical_and(candidates[i].reshape(-1));
    if (!exclude.empty()) eligible = eligible.logical_and(exclude[i].reshape(-1).logical_not());
    const auto where = eligible.nonzero().view(-1);
    parts.push_back({where, scores_at(a[i], b.empty() ? at::Tensor() : b[i], where, i, args)});
    if (args.score == Score::random) continue;
    const auto bad = parts.back().score.isfinite().logical_not().sum().item<int64_t>();
    require(bad == 0, "topk_masks: ", bad, " of the candidates' scores in tensor ", i,
            " of the list are NaN or Inf; the weights or gradients have diverged");
  }
  TensorList masks;
  for (const auto& t : a) masks.push_back(at::zeros_like(t, t.options().dtype(at::kBool)));
  const auto put = [&](std::size_t i, const at::Tensor& index) {
    auto flat = at::zeros({a[i].numel()}, a[i].options().dtype(at::kBool));
    flat.index_fill_(0, index, true);
    if (args.merge_excluded && !exclude.empty()) flat.logical_or_(exclude[i].reshape(-1));
    masks[i].copy_(flat.view(a[i].sizes()));
  };
  if (!global) {
    for (std::size_t i = 0; i < a.size(); ++i) {
      require(k[i] <= parts[i].where.numel(), "topk_masks: k[", i, "] is ", k[i], ", but tensor ", i,
              " has only ", parts[i].where.numel(), " candidates");
      const auto order = std::get<1>(parts[i].score.sort(/*stable=*/true, -1, /*descending=*/true));
      put(i, parts[i].where.index_select(0, order.slice(0, 0, k[i])));
    }
    return masks;
  }
  std::vector<at::Tensor> scores;
  bool wide = false;
  for (const auto& part : parts) wide |= part.score.scalar_type() == at::kDouble;
  for (const auto& part : parts) scores.push_back(wide ? part.score.to(at::kDouble) : part.score);
  const auto all = at::cat(scores);
  require(k[0] <= all.numel(), "topk_masks: k is ", k[0], ", but the tensors have only ", all.numel(),
          " candidates together");
  const auto order = std::get<1>(all.sort(/*stable=*/true, -1, /*descending=*/true)).slice(0, 0, k[0]);
  auto chosen = at::zeros_like(all, all.options().dtype(at::kBool)).index_fill_(0, order, true);
  int64_t offset = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const int64_t n = parts[i].where.numel();
    put(i, parts[i].where.masked_select(chosen.slice(0, offset, offset + n)));
    offset += n;
  }
  return masks;
}

at::Tensor mask_update_(const TensorList& weights, const TensorList& masks,
                        const std::vector<TensorList>& states, const TensorList& new_masks) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> rows;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const auto keep = masks[i].logical_and(new_masks[i]);
    const auto lost = keep.logical_not();
    const auto both = keep.sum();
    rows.push_back(at::stack({masks[i].sum() - both, new_masks[i].sum() - both, new_masks[i].sum()})
                       .to(weights[0].device()));
    weights[i].masked_fill_(lost, 0);
    if (!states.empty())
      for (const auto& state : states[i]) state.masked_fill_(lost, 0);
    masks[i].copy_(new_masks[i]);
  }
  if (rows.empty()) return at::zeros({0, 3}, at::kLong);
  return at::stack(rows);
}

TensorList channel_scores(const TensorList& weights, const TensorList& masks, ChannelScore score) {
  const at::NoGradGuard no_grad;
  TensorList result;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const auto& w = weights[i];
    const int64_t rows = w.size(0);
    if (w.numel() == 0) {
      result.push_back(at::zeros({rows}, w.options().dtype(at::kFloat)));
      continue;
    }
    const auto flat = w.reshape({rows, -1});
    at::Tensor value;
    switch (score) {
      case ChannelScore::umm:
        value = flat.abs().to(at::kDouble).mean(1);
        break;
      case ChannelScore::masked_mean: {
        const auto keep = masks.empty() ? at::ones_like(flat, flat.options().dtype(at::kBool))
                                        : masks[i].reshape({rows, -1});
        const auto sum = kept(keep, flat.abs().to(at::kDouble)).sum(1);
        value = sum / keep.sum(1).clamp_min(1);
        break;
      }
      case ChannelScore::density:
        value = flat.ne(0).to(at::kDouble).mean(1);
        break;
      case ChannelScore::kernel_density: {
        const auto cells = w.dim() > 2 ? w.reshape({rows, w.size(1), -1}) : flat.unsqueeze(-1);
        value = cells.ne(0).any(-1).to(at::kDouble).mean(1);
        break;
      }
    }
    result.push_back(value.to(at::kFloat));
  }
  return result;
}

at::Tensor channel_gather(const at::Tensor& weight, const at::Tensor& rows, const at::Tensor& cols) {
  const at::NoGradGuard no_grad;
  auto out = rows.defined() ? weight.index_select(0, rows) : weight.clone();
  if (cols.defined()) out = out.index_select(1, cols);
  return out;
}

}  // namespace glyptic::ops::reference
