#include "glyptic/sparsity/masks.h"

#include <torch/torch.h>

#include "glyptic/core/error.h"
#include "glyptic/core/log.h"

namespace glyptic::sparsity {

Criterion criterion_from_name(const std::string& name, const char* option) {
  static const std::vector<std::pair<std::string, Criterion>> table{
      {"magnitude", Criterion::magnitude}, {"mest", Criterion::mest},         {"taylor", Criterion::taylor},
      {"gradient", Criterion::gradient},   {"momentum", Criterion::momentum}, {"random", Criterion::random}};
  std::vector<std::string> names;
  for (const auto& [known, criterion] : table) {
    if (known == name) return criterion;
    names.push_back(known);
  }
  throw ArgumentError(str(option, " is '", name, "'", did_you_mean(name, names)));
}

MaskEditor::MaskEditor(std::vector<Layer>& layers, const std::vector<ParameterState>& states, RngStream rng,
                       double lambda, double drop_noise)
    : layers_(layers), states_(states), rng_(rng), lambda_(lambda), drop_noise_(drop_noise) {
  for (const auto& layer : layers_) kept_.push_back(layer.mask);
}

std::vector<int64_t> MaskEditor::counts() {
  if (counts_.empty()) {
    for (std::size_t l = 0; l < layers_.size(); ++l)
      counts_.push_back(kept_[l].is_same(layers_[l].mask) ? layers_[l].active
                                                          : kept_[l].sum().item<int64_t>());
  }
  return counts_;
}

int64_t MaskEditor::active() {
  const auto all = counts();
  return std::accumulate(all.begin(), all.end(), int64_t{0});
}

int64_t MaskEditor::size() const {
  int64_t n = 0;
  for (const auto& layer : layers_) n += layer.size();
  return n;
}

MaskEditor::Scores MaskEditor::scores(Criterion criterion, const char* purpose) const {
  Scores result;
  result.args.lambda = lambda_;
  result.args.seed = rng_.seed();
  result.args.stream = rng_.stream();
  const auto gradient = [&](std::size_t l) {
    require(states_[l].grad.defined(), purpose, " ranks by gradient, but '", layers_[l].name,
            "' has none: call backward() first, and exclude frozen layers");
    return states_[l].grad;
  };
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const auto& weight = layers_[l].weight;
    switch (criterion) {
      case Criterion::magnitude:
        result.a.push_back(drop_noise_ > 0 && std::string(purpose) == "dropping"
                               ? weight.abs() +
                                     (drop_noise_ * rng_.child(l).normal(weight.sizes())).to(weight.device())
                               : weight);
        break;
      case Criterion::mest:
      case Criterion::taylor:
        result.a.push_back(weight);
        result.b.push_back(gradient(l));
        break;
      case Criterion::gradient:
        result.a.push_back(gradient(l));
        break;
      case Criterion::momentum:
        require(!states_[l].state.empty(), purpose, " ranks by momentum, but the optimizer holds none for '",
                layers_[l].name, "'");
        result.a.push_back(states_[l].state.front());
        break;
      case Criterion::random:
        result.a.push_back(weight);
        break;
    }
  }
  result.args.score = criterion == Criterion::mest     ? ops::Score::mest
                      : criterion == Criterion::taylor ? ops::Score::taylor
                      : criterion == Criterion::random ? ops::Score::random
                                                       : ops::Score::magnitude;
  return result;
}

ops::TensorList MaskEditor::excluded() const {
  if (dead_.empty()) return kept_;
  ops::TensorList result;
  for (std::size_t l = 0; l < kept_.size(); ++l) result.push_back(kept_[l].logical_or(dead_[l]));
  return result;
}

void MaskEditor::select(const std::vector<int64_t>& k, bool global, Criterion criterion, bool growing) {
  auto by = scores(criterion, growing ? "growing" : "dropping");
  const bool merge = growing && dead_.empty();  // what is excluded is then exactly what is kept
  by.args.merge_excluded = merge;
  ops::TensorList chosen;
  try {
    chosen = growing ? ops::topk_masks(by.a, by.b, {}, excluded(), k, global, by.args)
                     : ops::topk_masks(by.a, by.b, kept_, {}, k, global, by.args);
  } catch (const ArgumentError&) {
    // The operator knows positions in a list; the user knows names.
    for (std::size_t l = 0; l < layers_.size(); ++l)
      for (const auto* scores : {&by.a, &by.b})
        if (!scores->empty() && !(*scores)[l].isfinite().all().item<bool>())
          throw DivergenceError(
              str(growing ? "growing" : "dropping", ": the ", growing ? "gradient" : "weight", " of '",
                  layers_[l].name, "' is not finite; lower the learning rate or look for a NaN in the data"));
    throw;
  }
  if (growing && !merge)
    for (std::size_t l = 0; l < kept_.size(); ++l) chosen[l].logical_or_(kept_[l]);
  kept_ = std::move(chosen);
  if (global) {
    counts_.clear();
  } else {
    counts();
    for (std::size_t l = 0; l < k.size(); ++l) counts_[l] = growing ? counts_[l] + k[l] : k[l];
  }
}

void MaskEditor::keep(const std::vector<int64_t>& keep, Criterion criterion) {
  const auto now = counts();
  for (std::size_t l = 0; l < now.size(); ++l)
    require(0 <= keep[l] && keep[l] <= now[l], "cannot keep ", keep[l], " of the ", now[l],
            " active weights of '", layers_[l].name, "'");
  select(keep, false, criterion, false);
}

void MaskEditor::keep_global(int64_t keep, Criterion criterion) {
  const auto now = active();
  require(0 <= keep && keep <= now, "cannot keep ", keep, " of ", now, " active weights");
  if (keep < now) select({keep}, true, criterion, false);
}

int64_t MaskEditor::grow(const std::vector<int64_t>& grow, Criterion criterion) {
  const auto now = counts();
  auto wanted = grow;
  int64_t total = 0, short_of = 0;
  for (std::size_t l = 0; l < now.size(); ++l) {
    int64_t room = layers_[l].size() - now[l];
    if (!dead_.empty()) room -= dead_[l].sum().item<int64_t>();
    if (wanted[l] > room) {
      short_of += wanted[l] - room;
      wanted[l] = room;
    }
    total += wanted[l];
  }
  if (short_of > 0)
    log::warn(str("growth wanted ", short_of,
                  " more positions than the live part of their layers has; all of it is active now"));
  if (total > 0) select(wanted, false, criterion, true);
  return total;
}

int64_t MaskEditor::grow_global(int64_t grow, Criterion criterion) {
  int64_t room = size() - active();
  for (const auto& dead : dead_) room -= dead.sum().item<int64_t>();
  if (grow > room) {
    log::warn(str("growth wanted ", grow, " positions and only ", room,
                  " live ones are inactive; all of them are active now"));
    grow = room;
  }
  if (grow > 0) select({grow}, true, criterion, true);
  return std::max<int64_t>(grow, 0);
}

void MaskEditor::exchange(double share, bool round_up, bool global, Criterion drop, Criterion grow_by) {
  const auto part = [&](int64_t count) {
    const double exact = share * static_cast<double>(count);
    // 1e-9: 0.4 * 5 must be 2 whichever way the product was rounded.
    const auto whole = static_cast<int64_t>(round_up ? std::ceil(exact - 1e-9) : std::floor(exact + 1e-9));
    return std::min(count, whole);
  };
  if (global) {
    const int64_t now = active(), dropped = part(now);
    keep_global(now - dropped, drop);
    grow_global(dropped, grow_by);
    return;
  }
  auto kept = counts();
  std::vector<int64_t> dropped;
  for (auto& count : kept) {
    dropped.push_back(part(count));
    count -= dropped.back();
  }
  keep(kept, drop);
  grow(dropped, grow_by);
}

MaskEditor::Report MaskEditor::commit(bool remember_grown) {
  const at::NoGradGuard no_grad;
  ops::TensorList weights, masks;
  std::vector<ops::TensorList> states;
  grown_.clear();
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    weights.push_back(layers_[l].weight);
    masks.push_back(layers_[l].mask);
    states.push_back(states_[l].state);
    const bool changed = !kept_[l].is_same(layers_[l].mask);
    grown_.push_back(remember_grown && changed ? kept_[l].logical_and(layers_[l].mask.logical_not())
                                               : at::Tensor());
  }
  // An untouched mask may be handed in as its own successor; a copy keeps the operator free of aliases.
  for (std::size_t l = 0; l < kept_.size(); ++l)
    if (kept_[l].is_same(masks[l])) kept_[l] = masks[l].clone();
  const auto table = ops::mask_update_(weights, masks, states, kept_).cpu();
  const auto* row = table.data_ptr<int64_t>();
  Report report;
  for (std::size_t l = 0; l < layers_.size(); ++l, row += 3) {
    report.dropped += row[0];
    report.grown += row[1];
    report.active += row[2];
    layers_[l].active = row[2];
    kept_[l] = layers_[l].mask;
  }
  return report;
}

}  // namespace glyptic::sparsity
