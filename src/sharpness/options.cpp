#include "glyptic/sharpness/options.h"

#include "glyptic/sharpness/sharpness.h"

namespace glyptic::sharpness {

void SharpnessOptions::declare(Options& o) {
  std::map<std::string, Preset> presets;
  std::vector<std::string> names{"none"};
  for (const auto& info : methods()) {
    names.push_back(info.name);
    presets[info.name] = info.presets;
  }
  o.field("method", method,
          "how the step looks for flat regions; choosing one sets its reference values below", one_of(names))
      .with_presets(std::move(presets));
  o.field("rho", rho, "radius of the ball that the loss is made worst in", at_least(0));
  o.field("norm", norm, "norm of the ball", one_of({"l2", "linf"}));
  o.field("adaptive", adaptive,
          "tensors whose ascent is scaled by T = |w| + eta (ASAM): none, all (as davda54/sam), or weights "
          "(those with two "
          "or more dimensions, as the official code does by name; biases keep T = 1)",
          one_of({"none", "all", "weights"}));
  o.field("eta", eta, "eta of T = |w| + eta", at_least(0));
  o.field("eps0", eps0, "added to the norm that the gradient is divided by", at_least(0));
  o.field("rho_schedule", rho_schedule,
          "constant; lr: from rho_min at lr_min to rho at lr_max (GSAM); cosine or linear to rho_min over "
          "total_steps",
          one_of({"constant", "lr", "cosine", "linear"}));
  o.field("rho_min", rho_min, "least radius of the schedule", at_least(0));
  o.field("lr_min", lr_min, "rho_schedule lr: learning rate at which the radius is rho_min", at_least(0));
  o.field("lr_max", lr_max, "rho_schedule lr: learning rate at which the radius is rho; 0: the largest one",
          at_least(0));
  o.field("total_steps", total_steps, "steps of the whole run, for schedules; a runner sets it", at_least(0));
  o.field("interval", interval, "ascend on every k-th step only", at_least(1));
  o.field("start_step", start_step, "plain steps before the first ascent", at_least(0));
  o.field("match_rng", match_rng, "all passes of a step see the same dropout masks");
  o.field("freeze_statistics", freeze_statistics,
          "pass 2 leaves running statistics of normalisation layers as pass 1 left them");
  o.field("loss_weight_decay", loss_weight_decay,
          "adds lambda w to the gradient of both passes, as if the loss held lambda ||w||^2 / 2 "
          "(google-research/sam)",
          at_least(0));
  o.field(
      "accumulation", accumulation,
      "with micro-batches: one ascent for all of them (full), or one each (micro: m-sharpness, m their size)",
      one_of({"full", "micro"}));
  o.field("sync_perturbation", sync_perturbation,
          "several processes: average the gradient before the ascent too; otherwise each ascends on its own "
          "part");
  o.field("max_grad_norm", max_grad_norm,
          "clip the norm of the gradient that the base optimizer gets; 0: off", at_least(0));
  o.field("check_finite", check_finite,
          "skip a step whose gradient is not finite; on CUDA this reads one number back per pass");
  o.field("alpha", alpha, "gsam: share of the orthogonal part; looksam: weight of the reused direction",
          between(0, 1));
  o.field("every", every, "looksam: steps between refreshes; ssam: between masks (k)", at_least(1));
  o.field("per_tensor", per_tensor,
          "looksam: projection and norms tensor by tensor, as its popular code has it");
  o.field("beta", beta, "esam: share of the weights that is perturbed", above_to(0, 1));
  o.field("gamma", gamma, "esam: share of the samples in the second pass; wsam: weight of sharpness",
          between(0, 1));
  o.field("granularity", granularity,
          "esam: perturbed weights are drawn by tensor (saves time) or by element",
          one_of({"tensor", "element"}));
  o.field("sigma", sigma,
          "fsam: share of the averaged gradient that is taken out; lesam: target of ||eps|| ||g||",
          at_least(0));
  o.field("lmbda", lmbda, "fsam: decay of the averaged gradient (lambda)", between(0, 1));
  o.field("decoupled", decoupled, "wsam: the base steps with g, sharpness is subtracted after it");
  o.field("ema_decay", ema_decay, "aesam: decay of mean and variance of ||g||^2 (delta)", between(0, 1));
  o.field("lambda1", lambda1, "aesam: threshold at the end, in standard deviations");
  o.field("lambda2", lambda2, "aesam: threshold at the start, in standard deviations");
  o.field("percentile", percentile, "zsharp: share of each layer's entries that is left out (Q)",
          from_below(0, 1));
  o.field("mask_density", mask_density, "ssam: share of the weights that is perturbed", above_to(0, 1));
  o.field("mask_score", mask_score, "ssam: which: at random, or with the largest squared gradient",
          one_of({"random", "fisher"}));
  o.field("directions", directions, "zosam: random directions per step (m); 2 forward passes each",
          at_least(1));
  o.field("delta", delta, "zosam: distance of a probe, in units of a direction, or relative to rho",
          above(0));
  o.field("delta_mode", delta_mode, "zosam: absolute, or relative: a probe is delta times rho away",
          one_of({"absolute", "relative"}));
  o.field("estimator", estimator,
          "zosam: random directions, or coordinate by coordinate (for tests, d <= 10,000)",
          one_of({"rge", "cge"}));
  o.field("sides", sides, "zosam: probes on both sides, or one that shares L(w) (m + 1 forward passes)",
          between(1, 2));
  o.field("direction", direction, "zosam, rand: distribution of a direction",
          one_of({"gaussian", "rademacher", "sphere"}));
  o.field("perturb", perturb,
          "zosam, rand: all weights, those with two or more dimensions, or those with a mask",
          one_of({"all", "no_norm", "prunable_only"}));
  o.field("seed", seed, "seed of the random directions and masks; in a run 0 takes the run's", at_least(0));
  o.field("process_group", process_group,
          "name of the c10d group whose ranks train together, for C++ programs");
}

void SharpnessOptions::check() const {
  require(std::isfinite(rho) && rho >= 0, "sharpness.rho is ", rho, ", expected a number >= 0");
  require(std::isfinite(eta) && eta >= 0, "sharpness.eta is ", eta, ", expected a number >= 0");
  require(rho_schedule != "lr" || lr_max != lr_min || rho_min == rho,
          "sharpness.rho_schedule is lr with lr_max = lr_min = ", lr_max,
          ", which leaves the radius between ", rho_min, " and ", rho,
          " open; give a range, or rho_min = rho");
  require(rho_schedule != "lr" || lr_max >= lr_min, "sharpness.lr_max is ", lr_max, ", below lr_min ",
          lr_min);
  require((rho_schedule != "cosine" && rho_schedule != "linear" && method != "aesam") || total_steps > 0,
          "sharpness.total_steps is ", total_steps, "; the schedule needs the number of optimizer steps");
  require(norm == "l2" || adaptive == "none", "sharpness.norm is linf with adaptive ", adaptive,
          "; adaptive radii are defined for l2");
  require(method != "wsam" || gamma < 1, "sharpness.gamma is ", gamma, ", expected [0, 1) for wsam");
  require(method != "esam" || gamma > 0, "sharpness.gamma is ", gamma, ", expected (0, 1] for esam");
  require(method != "looksam" || (alpha > 0 && alpha < 1), "sharpness.alpha is ", alpha,
          ", expected (0, 1) for looksam");
}

SharpnessOptions options_of(const std::string& method) {
  SharpnessOptions options;
  Options declared;
  options.declare(declared);
  declared.set("method", method, "options_of");
  return options;
}

}  // namespace glyptic::sharpness
