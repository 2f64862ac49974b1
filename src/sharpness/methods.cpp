// The family. g is the gradient at w, g_s the one at w + eps on the same batch, d what the base optimizer
// gets; all norms and inner products run over all tensors together. Equations are those of the papers and
// codes named in the table at the end.
#include <torch/torch.h>

#include <cmath>

#include "glyptic/core/error.h"
#include "glyptic/core/log.h"
#include "glyptic/core/rng.h"
#include "slice.h"

namespace glyptic::sharpness {
namespace {

using ops::TensorList;

/// eps = rho g / ||g||, d = g_s. With `adaptive`, eps = rho T^2 g / ||T g|| (ASAM).
class Sam : public Method {
 public:
  bool ascend(Slice& s) override {
    return s.ascend(s.gradients, options().adaptive == "none" ? s.norm : s.norm_of(s.gradients, true));
  }
};

/// d = g_s - alpha g_perp with g_perp = g - (<g, g_s> / ||g_s||^2) g_s.
class Gsam final : public Sam {
 public:
  bool keeps_gradient() const override { return true; }
  bool linear() const override { return false; }
  void combine(Slice& s) override {
    const auto p = s.products(s.kept, s.gradients);  // <g,g>, <g,g_s>, <g_s,g_s>
    const auto along = at::where(p[2] > 0, p[1] / p[2], at::zeros_like(p[1]));
    ops::combine_(s.gradients, s.kept,
                  s.scalars({1.0 + options().alpha * along, s.scalar(-options().alpha)}));
  }
};

/// Every k-th step SAM, keeping g_v = g_s - (<g, g_s> / ||g||^2) g; between them d = g + alpha ||g|| /
/// ||g_v|| g_v.
class LookSam final : public Sam {
 public:
  bool ascends(const Slice& s) const override { return s.step() % options().every == 0; }
  bool keeps_gradient() const override { return true; }
  void combine(Slice& s) override {
    const auto v = s.pick(directions_);
    for_each(
        s,
        [&](const TensorList& g, const TensorList& gs, const TensorList& gv, const TensorList& masks) {
          const auto p = ops::inner_products(g, gs, {}, masks);
          for (std::size_t i = 0; i < gv.size(); ++i) gv[i].copy_(gs[i]);
          ops::combine_(gv, g,
                        s.scalars({s.scalar(1.0), -at::where(p[0] > 0, p[1] / p[0], at::zeros_like(p[1]))}));
        },
        s.kept, s.gradients, v);
    // Each process reuses the mean, so that all go on stepping alike.
    if (s.objective) s.objective->all_reduce_mean(v);
  }
  void without_ascent(Slice& s) override {
    const auto v = s.pick(directions_);
    for_each(
        s,
        [&](const TensorList& g, const TensorList&, const TensorList& gv, const TensorList& masks) {
          if (!masks.empty())
            for (std::size_t i = 0; i < gv.size(); ++i)
              if (masks[i].defined()) gv[i].mul_(masks[i]);  // zero where grown since
          const auto p = ops::inner_products(g, gv, {}, masks);
          ops::combine_(g, gv,
                        s.scalars({s.scalar(1.0), options().alpha * p[0].sqrt() / (p[2].sqrt() + 1e-8)}));
        },
        s.gradients, s.gradients, v);
  }
  std::vector<Buffer> buffers() override { return {{"g_v", &directions_}}; }

 private:
  /// All tensors at once, or each by itself.
  template <class Body>
  void for_each(Slice& s, const Body& body, const TensorList& g, const TensorList& gs, const TensorList& gv) {
    if (!options().per_tensor) return body(g, gs, gv, s.masks);
    for (std::size_t i = 0; i < g.size(); ++i)
      body({g[i]}, {gs[i]}, {gv[i]}, s.masks.empty() ? TensorList{} : TensorList{s.masks[i]});
  }
  TensorList directions_;
};

/// A random share beta of the weights is perturbed, 1/beta as far; the second gradient is that of the share
/// gamma of the samples whose loss rose most.
class Esam final : public Sam {
 public:
  bool ascend(Slice& s) override {
    const RngStream rng = RngStream(options().seed, "sharpness/esam").child(static_cast<uint64_t>(s.step()));
    const double scale = 1.0 / options().beta;
    if (options().granularity == "element") {
      TensorList chosen;
      for (std::size_t i = 0; i < s.weights.size(); ++i) {
        auto u =
            at::empty(s.weights[i].sizes(), s.weights[i].options().dtype(at::kFloat).requires_grad(false));
        ops::philox_fill_(u, rng.seed(), rng.child(i).stream(), 0, ops::Distribution::uniform);
        chosen.push_back(u < options().beta);
      }
      return s.ascend_within(std::move(chosen), false, scale);
    }
    std::size_t least = 0;
    std::vector<bool> chosen;
    for (std::size_t i = 0; i < s.weights.size(); ++i) {
      chosen.push_back(rng.uniform(i) < options().beta);
      if (rng.uniform(i) < rng.uniform(least)) least = i;
    }
    chosen[least] = true;  // at least one
    Chosen part(s, chosen);
    return s.ascend(s.gradients, s.norm_of(s.gradients), scale);
  }
  bool second_pass(Slice& s, bool synchronize, bool freeze) override {
    if (options().gamma >= 0.99) return s.evaluate(true, synchronize, freeze);
    require(s.result.losses.defined(),
            "esam chooses among samples: the closure must return one loss per sample ([B], "
            "reduction='none'), one "
            "micro-batch at a time (accumulation='micro')");
    const auto rise = s.probe()[0].detach() - s.result.losses;
    const auto kept =
        std::max<int64_t>(1, static_cast<int64_t>(options().gamma * static_cast<double>(rise.numel())));
    const auto rows = std::get<1>(rise.sort(/*stable=*/true, 0, /*descending=*/true)).slice(0, 0, kept);
    struct Rows final : Objective {
      Objective& inner;
      at::Tensor rows;
      Rows(Objective& inner, at::Tensor rows) : inner(inner), rows(std::move(rows)) {}
      at::Tensor loss(int64_t batch) override { return inner.loss_of(batch, rows); }
      at::Tensor reduce(const at::Tensor& losses, int64_t batch, bool second) override {
        return inner.selects_samples() || losses.numel() == rows.numel()
                   ? losses.mean()
                   : inner.reduce(losses, batch, second);
      }
      void synchronize(bool on) override { inner.synchronize(on); }
      void backward(const at::Tensor& loss) override { inner.backward(loss); }
      bool finish_pass() override { return inner.finish_pass(); }
      bool distributed() const override { return inner.distributed(); }
      void all_reduce_mean(const TensorList& tensors) override { inner.all_reduce_mean(tensors); }
    } objective(*s.objective, rows);
    Objective* const all = std::exchange(s.objective, &objective);
    const struct Back {
      Slice& s;
      Objective* all;
      ~Back() { s.objective = all; }
    } back{s, all};
    return s.evaluate(true, synchronize, freeze);
  }

 private:
  /// The lists of a slice cut to the chosen entries while it lives; gradients are gathered anew afterwards.
  struct Chosen {
    Slice& s;
    std::vector<std::size_t> index;
    TensorList weights, gradients, masks;
    Chosen(Slice& slice, const std::vector<bool>& chosen)
        : s(slice), index(s.index), weights(s.weights), gradients(s.gradients), masks(s.masks) {
      s.index.clear(), s.weights.clear(), s.gradients.clear(), s.masks.clear();
      for (std::size_t i = 0; i < index.size(); ++i) {
        if (!chosen[i]) continue;
        s.index.push_back(index[i]);
        s.weights.push_back(weights[i]);
        s.gradients.push_back(gradients[i]);
        if (!masks.empty()) s.masks.push_back(masks[i]);
      }
    }
    ~Chosen() { s.index = index, s.weights = weights, s.gradients = gradients, s.masks = masks; }
  };
};

/// h = g - sigma m with the average m of before, m = lambda m + (1 - lambda) g; eps = rho h / ||h||.
class FriendlySam final : public Method {
 public:
  bool ascend(Slice& s) override {
    const auto m = s.pick(averages_);
    const auto squares =
        ops::ema_direction_(s.gradients, m, s.masks, options().sigma, options().lmbda, started_ == 0);
    started_ = 1;
    return s.ascend(s.gradients,
                    options().adaptive == "none" ? squares.sqrt() : s.norm_of(s.gradients, true));
  }
  std::vector<Buffer> buffers() override { return {{"ema", &averages_}}; }
  std::vector<std::pair<std::string, double*>> numbers() override { return {{"started", &started_}}; }

 private:
  TensorList averages_;
  double started_ = 0;
};

/// c = gamma / (1 - gamma). Coupled: d = g + c (g_s - g). Decoupled: d = g, then w -= lr c (g_s - g).
class WSam final : public Sam {
 public:
  bool keeps_gradient() const override { return true; }
  bool linear() const override { return false; }
  void combine(Slice& s) override {
    const double c = options().gamma / (1 - options().gamma);
    if (!options().decoupled) {
      ops::combine_(s.gradients, s.kept, s.scalars({s.scalar(c), s.scalar(1 - c)}));
      return;
    }
    sharpness_.clear();
    for (std::size_t i = 0; i < s.gradients.size(); ++i) {
      sharpness_.push_back(s.gradients[i] - s.kept[i]);
      s.gradients[i].copy_(s.kept[i]);
    }
    if (s.objective) s.objective->all_reduce_mean(sharpness_);
  }
  void after_step(Slice& s) override {
    if (sharpness_.empty()) return;
    const double c = options().gamma / (1 - options().gamma);
    for (std::size_t i = 0; i < sharpness_.size(); ++i) {
      auto move = sharpness_[i] * (s.base->lr(s.index[i]) * c);
      if (!s.masks.empty() && s.masks[i].defined())
        move = at::where(s.masks[i], move, at::zeros({}, move.options()));
      s.weights[i].sub_(move);
    }
    sharpness_.clear();
  }

 private:
  TensorList sharpness_;
};

/// eps = rho g'/||g'|| with the perturbed gradient g' of the step before: one pass per step. The first step
/// is plain.
class PreviousSam final : public Method {
 public:
  bool gradient_first() const override { return false; }
  bool ascend(Slice& s) override {
    s.take_all();
    TensorList previous;
    std::vector<std::size_t> index;
    TensorList weights, masks;
    for (std::size_t i = 0; i < s.index.size(); ++i) {
      if (!previous_[s.index[i]].defined()) continue;
      previous.push_back(previous_[s.index[i]]);
      index.push_back(s.index[i]);
      weights.push_back(s.weights[i]);
      if (!s.masks.empty()) masks.push_back(s.masks[i]);
    }
    if (previous.empty()) return false;
    s.index = index, s.weights = weights, s.masks = masks;
    return s.ascend(previous, s.norm_of(previous, true));
  }
  void combine(Slice& s) override { store(s); }
  void without_ascent(Slice& s) override { store(s); }
  std::vector<Buffer> buffers() override { return {{"previous", &previous_}}; }

 private:
  void store(Slice& s) {
    const auto previous = s.pick(previous_);
    for (std::size_t i = 0; i < previous.size(); ++i) {
      previous[i].copy_(s.gradients[i]);
      if (!s.masks.empty() && s.masks[i].defined()) previous[i].masked_fill_(s.masks[i].logical_not(), 0);
    }
  }
  TensorList previous_;
};

/// One pass at w - rho v / ||v||, v the base optimizer's momentum.
class MomentumSam final : public Method {
 public:
  bool gradient_first() const override { return false; }
  bool ascend(Slice& s) override {
    s.take_all();
    TensorList momenta;
    for (const auto i : s.index) {
      const auto v = s.base->momentum(i);
      if (!v.defined()) {
        require(s.step() <= options().start_step,
                "momentum_sam needs a base optimizer with momentum; this one has none");
        return false;
      }
      momenta.push_back(v);
    }
    return s.ascend(momenta, s.norm_of(momenta, true), -1.0);
  }
};

/// d = (||g|| / ||g_s||) g_s.
class StableSam final : public Sam {
 public:
  bool ascend(Slice& s) override {
    first_ = s.norm;
    return Sam::ascend(s);
  }
  bool linear() const override { return false; }
  void combine(Slice& s) override {
    const auto second = s.norm_of(s.gradients);
    const auto ratio = at::where(second > 0, first_ / second, at::zeros_like(second));
    for (const auto& g : s.gradients) g.mul_(ratio.to(g.device(), g.scalar_type()));
  }

 private:
  at::Tensor first_;
};

/// SAM where ||g||^2 >= mu + c_t s, c_t from lambda2 to lambda1 over the run; else d = g.
class AeSam final : public Sam {
 public:
  bool ascend(Slice& s) override {
    auto squares = s.norm.square();
    if (s.objective) s.objective->all_reduce_mean({squares});  // all processes decide alike
    const double square = squares.item<double>();
    const double rest = 1 - options().ema_decay;
    mean_ = options().ema_decay * mean_ + rest * square;
    variance_ = options().ema_decay * variance_ + rest * std::pow(square - mean_, 2);
    const double t =
        std::min(1.0, static_cast<double>(s.step()) / static_cast<double>(options().total_steps));
    const double c = t * options().lambda1 + (1 - t) * options().lambda2;
    return square >= mean_ + c * std::sqrt(variance_) && Sam::ascend(s);
  }
  std::vector<std::pair<std::string, double*>> numbers() override {
    return {{"mean", &mean_}, {"variance", &variance_}};
  }

 private:
  double mean_ = 0, variance_ = 0;
};

/// Only the coordinates of a mask are perturbed: random ones, or those with the largest squared gradients; a
/// new mask every k steps.
class SparseSam final : public Sam {
 public:
  bool ascend(Slice& s) override {
    bool known = s.step() % options().every != 0;
    for (const auto i : s.index) known = known && masks_[i].defined();
    if (!known) draw(s);
    TensorList chosen;
    for (const auto i : s.index) chosen.push_back(masks_[i]);
    return s.ascend_within(std::move(chosen), true);
  }
  std::vector<Buffer> buffers() override { return {{"mask", &masks_}}; }

 private:
  void draw(Slice& s) {
    int64_t total = 0;
    for (const auto& weight : s.weights) total += weight.numel();
    ops::TopKArgs args;
    args.score = options().mask_score == "random" ? ops::Score::random : ops::Score::magnitude;
    args.seed = options().seed;
    args.stream = RngStream(options().seed, "sharpness/ssam").child(static_cast<uint64_t>(s.step())).stream();
    const auto k =
        std::max<int64_t>(1, static_cast<int64_t>(options().mask_density * static_cast<double>(total)));
    const auto masks = ops::topk_masks(s.gradients, {}, {}, {}, {k}, true, args);
    for (std::size_t i = 0; i < s.index.size(); ++i) masks_[s.index[i]] = masks[i];
  }
  TensorList masks_;
};

/// The ascent goes along the gradient without its mean over all dimensions but the first.
class GcSam final : public Sam {
 public:
  bool ascend(Slice& s) override {
    TensorList centred;
    for (std::size_t i = 0; i < s.gradients.size(); ++i) {
      const auto& g = s.gradients[i];
      if (g.dim() < 2) {
        centred.push_back(g);
        continue;
      }
      std::vector<int64_t> dims;
      for (int64_t d = 1; d < g.dim(); ++d) dims.push_back(d);
      centred.push_back(g - g.mean(dims, /*keepdim=*/true));
    }
    return s.ascend(centred, s.norm_of(centred, true));
  }
};

/// rho_t = min(sigma / ||g||, rho).
class LeSam final : public Sam {
 public:
  bool ascend(Slice& s) override {
    // eps = rho_t g / ||g||: the operator divides by what it is given.
    const double rho = options().rho;
    const auto bounded = at::minimum(options().sigma / s.norm, at::full_like(s.norm, rho));
    return s.ascend(s.gradients, s.norm * (rho / bounded));
  }
};

/// Per layer, the entries of g whose |z-score| is among the largest 1 - Q are ascended along; all of g if
/// none is.
class ZSharp final : public Sam {
 public:
  bool ascend(Slice& s) override {
    TensorList kept;
    for (std::size_t i = 0; i < s.gradients.size(); ++i) {
      const auto& g = s.gradients[i];
      if (g.numel() < 2) {
        kept.push_back(g);
        continue;
      }
      const auto z = ((g - g.mean()) / g.std()).abs().flatten();
      const auto rank = std::clamp<int64_t>(
          static_cast<int64_t>(std::ceil(options().percentile * static_cast<double>(z.numel()))), 1,
          z.numel());
      const auto threshold = std::get<0>(z.kthvalue(rank));
      const auto over = (z > threshold).view_as(g);
      kept.push_back(at::where(over.any(), at::where(over, g, at::zeros({}, g.options())), g));
    }
    return s.ascend(kept, s.norm_of(kept, true));
  }
};

// ---- directions that cost no backward pass (ZO-SAM, arXiv 2603.13115)

class ZeroOrder : public Method {
 public:
  bool gradient_first() const override { return false; }
  std::vector<std::pair<std::string, double*>> numbers() override {
    return {{"zero_directions", &zero_directions_}, {"faint_steps", &faint_}};
  }

 protected:
  /// The weights that are perturbed, copied.
  bool begin(Slice& s) {
    s.take_all();
    if (options().perturb != "all") {
      std::vector<std::size_t> index;
      TensorList weights, masks;
      for (std::size_t i = 0; i < s.index.size(); ++i) {
        const bool masked = !s.masks.empty() && s.masks[i].defined();
        if (options().perturb == "no_norm" ? s.weights[i].dim() < 2 : !masked) continue;
        index.push_back(s.index[i]);
        weights.push_back(s.weights[i]);
        if (!s.masks.empty()) masks.push_back(s.masks[i]);
      }
      s.index = index, s.weights = weights, s.masks = masks;
    }
    require(!s.index.empty(), "sharpness.perturb is ", options().perturb,
            ", which leaves no weight to perturb");
    rho_ = s.rho(0);
    for (std::size_t i = 1; i < s.index.size(); ++i)
      require(s.rho(i) == rho_, "'", options().method,
              "' perturbs along one random direction and takes one rho for all "
              "parameter groups");
    if (rho_ == 0) return false;  // probes would cost and change nothing
    s.back_up_all();
    origins_.clear();
    for (std::size_t i = 0; i < s.index.size(); ++i) origins_.push_back(s.backup(i));
    args_.seed = options().seed;
    args_.distribution =
        options().direction == "rademacher" ? ops::Distribution::rademacher : ops::Distribution::normal;
    return true;
  }

  std::vector<uint64_t> streams(const Slice& s) const {
    const RngStream step =
        RngStream(options().seed, "sharpness/direction").child(static_cast<uint64_t>(s.step()));
    std::vector<uint64_t> result;
    for (int64_t j = 0; j < options().directions; ++j)
      result.push_back(step.child(static_cast<uint64_t>(s.first() * options().directions + j)).stream());
    return result;
  }

  /// weights = origins + coefficient u; returns ||coefficient u||^2. `write = false`: only that.
  at::Tensor move(const Slice& s, const std::vector<uint64_t>& streams, const at::Tensor& coefficients,
                  bool write) {
    args_.streams = streams;
    return ops::noise_ascend_(write ? s.weights : TensorList{}, origins_, s.masks, coefficients, args_);
  }

  /// The coefficients c_j of g^ = sum_j c_j u_j / m, float64 [m] on the device of the weights.
  at::Tensor estimate(Slice& s, const std::vector<uint64_t>& streams) {
    at::Tensor at_w;
    if (options().sides == 1) at_w = s.probe_loss();
    std::vector<at::Tensor> c;
    at::Tensor faint;
    for (const auto stream : streams) {
      auto h = s.scalar(options().delta);
      if (options().delta_mode == "relative" || options().direction == "sphere") {
        const auto norm = move(s, {stream}, s.scalar(1.0), false).sqrt();
        // On the sphere of radius sqrt(d), so that E u u^T = 1 as for the others.
        if (options().direction == "sphere") h = h * std::sqrt(count(s)) / norm;
        if (options().delta_mode == "relative") h = options().delta * rho_ / norm;
      }
      move(s, {stream}, h, true);
      const auto above = s.probe_loss();
      at::Tensor below = at_w;
      if (options().sides == 2) {
        move(s, {stream}, -h, true);
        below = s.probe_loss();
      }
      if (!s.result.loss.defined()) s.result.loss = ((above + below) / 2).to(at::kFloat).squeeze(0);
      const auto difference = above - below;
      // A difference below the rounding of the losses says nothing (8 units in the last place of float32).
      const auto tiny = (difference.abs() < 8 * 1.2e-7 * above.abs()).to(at::kDouble);
      faint = faint.defined() ? faint + tiny : tiny;
      const auto slope = difference / (h * static_cast<double>(options().sides));
      c.push_back(at::where(slope.isfinite(), slope, at::zeros_like(slope)));
    }
    const auto coefficients = at::cat(c) / static_cast<double>(streams.size());
    if (options().check_finite) {  // counters are read back only where a read-back is allowed
      zero_directions_ += (coefficients == 0).sum().to(at::kDouble).item<double>();
      faint_ += faint.item<double>() > 0.5 * static_cast<double>(streams.size()) ? 1 : 0;
      if (!warned_ && s.step() >= 20 && faint_ > 0.5 * static_cast<double>(s.step() + 1)) {
        warned_ = true;
        log::warn(str(options().method,
                      ": on most steps the probes' losses differ by less than their rounding; raise "
                      "sharpness.delta or compute the loss in float32"));
      }
    }
    return coefficients;
  }

  static double count(const Slice& s) {
    double n = 0;
    for (const auto& weight : s.weights) n += static_cast<double>(weight.numel());
    return n;
  }

  /// sum_j c_j u_j, or its coordinates one by one.
  TensorList materialize(Slice& s, const std::vector<uint64_t>& streams) {
    TensorList g;
    for (const auto& origin : origins_) g.push_back(at::zeros_like(origin));
    if (options().estimator == "rge") {
      const auto c = estimate(s, streams);
      args_.streams = streams;
      TensorList noise;  // from zero
      for (const auto& tensor : g) noise.push_back(at::empty_like(tensor));
      ops::noise_ascend_(noise, g, s.masks, c, args_);
      return noise;
    }
    require(count(s) <= 10000,
            "sharpness.estimator is cge, which takes two forward passes per weight: ", count(s),
            " weights are too many (10,000 at most); use rge");
    for (std::size_t i = 0; i < g.size(); ++i) {
      const auto flat = g[i].view({-1});
      for (int64_t k = 0; k < flat.numel(); ++k) {
        if (!s.masks.empty() && s.masks[i].defined() && !s.masks[i].reshape({-1})[k].item<bool>()) continue;
        const auto probe = [&](double step) {
          auto moved = origins_[i].clone();
          moved.view({-1})[k] += step;
          s.weights[i].copy_(moved);
          return s.probe_loss();
        };
        const auto above = probe(options().delta), below = probe(-options().delta);
        flat[k] = ((above - below) / (2 * options().delta)).item<double>();
        if (!s.result.loss.defined()) s.result.loss = ((above + below) / 2).to(at::kFloat).squeeze(0);
      }
      s.weights[i].copy_(origins_[i]);
    }
    return g;
  }

  double rho_ = 0;
  TensorList origins_;
  ops::NoiseArgs args_;
  double zero_directions_ = 0, faint_ = 0;
  bool warned_ = false;
};

/// c_i = (L(w + delta u_i) - L(w - delta u_i)) / 2 delta, g^ = mean c_i u_i, eps = rho g^ / ||g^||; d = g at
/// w + eps. One backward pass per step. With m = 1 this is a random direction with the sign that raises the
/// loss.
class ZoSam final : public ZeroOrder {
 public:
  bool ascend(Slice& s) override {
    if (!begin(s)) return false;
    const auto all = streams(s);
    if (options().adaptive != "none" || options().estimator == "cge") {
      const auto g = materialize(s, all);
      s.restore();
      return s.ascend(g, s.norm_of(g, true));
    }
    const auto c = estimate(s, all);
    const auto norm = move(s, all, c, false).sqrt();
    const auto moves = (norm > 0).logical_and(norm.isfinite());
    move(s, all, at::where(moves, c * (rho_ / (norm + options().eps0)), at::zeros_like(c)), true);
    s.result.ascended = true;
    return true;
  }
};

/// The control of ZO-SAM: eps = +-rho u / ||u||.
class RandomSam final : public ZeroOrder {
 public:
  bool ascend(Slice& s) override {
    if (!begin(s)) return false;
    const auto stream = streams(s)[0];
    const bool up = RngStream(options().seed, stream).child(1).u32(0) & 1u;
    const auto norm = move(s, {stream}, s.scalar(1.0), false).sqrt();
    move(s, {stream}, (up ? rho_ : -rho_) / norm, true);
    s.result.ascended = true;
    return true;
  }
};

/// d = g^ itself: no backward pass at all.
class ZoSgd final : public ZeroOrder {
 public:
  bool ascend(Slice& s) override {
    require(begin(s), "zosgd needs a rho above 0 for its probes' scale");
    estimate_ = materialize(s, streams(s));
    s.restore();
    return true;
  }
  bool linear() const override { return false; }
  bool second_pass(Slice& s, bool, bool) override {
    for (std::size_t i = 0; i < s.index.size(); ++i) s.weights[i].mutable_grad() = estimate_[i];
    estimate_.clear();
    s.gather();
    s.synchronized = s.objective == nullptr || !s.objective->distributed();
    return true;
  }

 private:
  TensorList estimate_;
};

template <class T>
std::unique_ptr<Method> make(const SharpnessOptions&) {
  return std::make_unique<T>();
}

}  // namespace

const std::vector<MethodInfo>& methods() {
  static const std::vector<MethodInfo> list = {
      {"sam",
       "gradient at the worst point of a ball around the weights",
       "arXiv 2010.01412",
       "released code",
       {},
       make<Sam>},
      {"asam",
       "SAM in a ball that scales with the weights",
       "arXiv 2102.11600",
       "released code",
       {{"rho", 0.5}, {"adaptive", std::string("weights")}, {"eta", 0.01}},
       make<Sam>},
      {"gsam",
       "SAM that also lowers the gap between the perturbed loss and the loss",
       "arXiv 2203.08065",
       "released code",
       {{"alpha", 0.4}},
       make<Gsam>},
      {"looksam",
       "SAM every k steps, its direction reused between them",
       "arXiv 2203.02714",
       "abstract and secondary",
       {{"rho", 0.1}, {"alpha", 0.7}, {"every", int64_t{10}}},
       make<LookSam>},
      {"esam",
       "SAM on a random part of the weights and the samples whose loss rises most",
       "arXiv 2110.03141",
       "released code",
       {{"beta", 0.6}, {"gamma", 0.5}, {"eps0", 1e-7}},
       make<Esam>},
      {"fsam",
       "SAM along the part of the gradient that is the batch's own",
       "arXiv 2403.12350",
       "released code",
       {{"rho", 0.2}, {"sigma", 1.0}, {"lmbda", 0.9}},
       make<FriendlySam>},
      {"wsam",
       "sharpness as a weighted term of the step",
       "arXiv 2305.15817",
       "abstract and secondary",
       {{"gamma", 0.9}},
       make<WSam>},
      {"s2sam",
       "SAM with the perturbed gradient of the step before: one pass",
       "NeurIPS 2024 (S2-SAM)",
       "released code",
       {},
       make<PreviousSam>},
      {"stable_sam",
       "SAM with the step length of the gradient at the weights",
       "arXiv 2401.07250",
       "abstract and secondary",
       {},
       make<StableSam>},
      {"aesam",
       "SAM only where the gradient is large for its time",
       "arXiv 2304.14647",
       "abstract and secondary",
       {},
       make<AeSam>},
      {"momentum_sam",
       "one pass, shifted against the momentum",
       "arXiv 2401.12033",
       "abstract and secondary",
       {},
       make<MomentumSam>},
      {"ssam",
       "SAM on the coordinates of a mask",
       "arXiv 2210.05177",
       "abstract and secondary",
       {{"every", int64_t{100}}},
       make<SparseSam>},
      {"gcsam",
       "SAM along the centralized gradient",
       "arXiv 2501.11584",
       "abstract and secondary",
       {},
       make<GcSam>},
      {"lesam",
       "SAM with a radius that shrinks where the gradient is large",
       "arXiv 2605.10183",
       "abstract and secondary",
       {},
       make<LeSam>},
      {"zsharp",
       "SAM along the outstanding entries of each layer's gradient",
       "arXiv 2505.02369",
       "abstract and secondary",
       {},
       make<ZSharp>},
      {"zosam",
       "SAM whose ascent costs forward passes only",
       "arXiv 2603.13115",
       "abstract and secondary",
       {},
       make<ZoSam>},
      {"rand",
       "control of zosam: a random direction",
       "arXiv 2603.13115",
       "reconstruction",
       {},
       make<RandomSam>},
      {"zosgd",
       "control of zosam: the estimate itself as the gradient",
       "arXiv 2603.13115",
       "reconstruction",
       {},
       make<ZoSgd>},
  };
  return list;
}

const MethodInfo& method_info(const std::string& name) {
  std::vector<std::string> names;
  for (const auto& info : methods()) {
    if (info.name == name) return info;
    names.push_back(info.name);
  }
  throw ArgumentError(str("there is no sharpness method '", name, "'", did_you_mean(name, names)));
}

}  // namespace glyptic::sharpness
