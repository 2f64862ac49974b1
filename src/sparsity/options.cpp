#include "glyptic/sparsity/options.h"

#include "glyptic/sparsity/sparsifier.h"

namespace glyptic::sparsity {

void SparsityOptions::declare(Options& o) {
  std::map<std::string, Preset> presets;
  std::vector<std::string> names{"none"};
  for (const auto& info : methods()) {
    names.push_back(info.name);
    presets[info.name] = info.presets;
  }
  o.field("method", method, "what decides the masks; choosing one sets its reference values below",
          one_of(names))
      .with_presets(std::move(presets));
  o.field("density", density, "fraction of prunable weights that is kept (1 - sparsity)", above_to(0, 1));
  o.field("distribution", distribution, "how the kept weights are shared out over layers",
          one_of({"erk", "er", "uniform"}));
  o.field("erk_power", erk_power, "exponent on the ERK probability of a layer", at_least(0));
  o.field("custom_density", custom_density,
          "density of single layers by weight name; left out of the solver's sums", above_to(0, 1));
  o.field("first_layer_dense", first_layer_dense, "give the first prunable layer no mask");
  o.field("last_layer_dense", last_layer_dense, "give the last prunable layer no mask");
  o.field("exclude", exclude, "weights that get no mask: names, or patterns with * and ?");
  o.field("bernoulli", bernoulli,
          "draw each mask entry by itself, as the PyTorch references do, so that counts are random");
  o.field("min_per_layer", min_per_layer, "least number of weights of a layer", at_least(0));
  o.field("total_steps", total_steps, "optimizer steps of the whole run; a runner sets it", at_least(0));
  o.field("update_every", update_every, "optimizer steps between mask updates (dT)", at_least(1));
  o.field("begin", begin, "fraction of the run before which masks stay", between(0, 1));
  o.field("end", end, "fraction of the run from which masks stay (T_end)", between(0, 1));
  o.field("skip_optimizer_on_update", skip_optimizer_on_update,
          "the update changes masks instead of weights (RigL, Algorithm 1)");
  o.field("drop_fraction", drop_fraction, "share of a layer's weights that is dropped at the start (alpha)",
          between(0, 1));
  o.field("drop_schedule", drop_schedule, "how the drop fraction decays",
          one_of({"cosine", "constant", "linear", "inverse_power"}));
  o.field("drop_floor", drop_floor, "least drop fraction of the cosine schedule (0.005 in ITOP and GraNet)",
          between(0, 1));
  o.field("drop_power", drop_power, "exponent of the inverse_power schedule", at_least(0));
  o.field("drop_rounding", drop_rounding, "floor as in RigL, ceil as in ITOP, GraNet and SNFS",
          one_of({"floor", "ceil"}));
  o.field("drop_criterion", drop_criterion,
          "weights with the smallest of this go: |w|, |w| + lambda |g|, or (w g)^2",
          one_of({"magnitude", "mest", "taylor"}));
  o.field("drop_noise", drop_noise,
          "standard deviation of noise added to |w| before ranking (RigL's code: 1e-5)", at_least(0));
  o.field("mest_lambda", mest_lambda, "lambda of the mest criterion", at_least(0));
  o.field(
      "grow_criterion", grow_criterion,
      "positions with the largest of this come: |g|, |momentum| (zero off-mask here, so ties), or at random",
      one_of({"gradient", "momentum", "random"}));
  o.field("grow_init", grow_init,
          "value of a grown weight: 0, N(0, std w), uniform +-mean |w|, or -g; each times grow_scale",
          one_of({"zeros", "random_normal", "random_uniform", "gradient"}));
  o.field("grow_scale", grow_scale, "factor on grow_init", at_least(0));
  o.field("grow_state", grow_state,
          "optimizer state of a grown weight: 0, or the mean over the layer's active weights",
          one_of({"zero", "mean_active"}));
  o.field("scope", scope,
          "select within layers, over all layers at once, or within layers to ERK counts of the live shapes",
          one_of({"layer", "global", "layer_erk"}));
  o.field("score_steps", score_steps, "growth ranks the mean gradient of this many steps up to the event",
          at_least(1));
  o.field("initial_sparsity", initial_sparsity, "gmp, granet: sparsity at the start", from_below(0, 1));
  o.field("prune_begin", prune_begin, "gmp, granet: fraction of the run at which the cubic starts",
          between(0, 1));
  o.field("prune_end", prune_end, "gmp, granet: fraction of the run at which the final sparsity is reached",
          between(0, 1));
  o.field("channel_sparsity", channel_sparsity, "chase: share of the grouped channels that is removed (S_c)",
          from_below(0, 1));
  o.field("channel_floor", channel_floor,
          "chase: a group keeps at least this times (1 - S_c) of its channels (beta)", at_least(0));
  o.field("channel_every", channel_every, "chase: steps between removals; 0: update_every", at_least(0));
  o.field("channel_offset", channel_offset,
          "chase: a removal happens where (step + offset) is a multiple of channel_every; -1: half of "
          "update_every",
          at_least(-1));
  o.field("channel_until", channel_until,
          "chase: fraction of the run at which channel_sparsity is reached (T_c)", between(0, 1));
  o.field("channel_schedule", channel_schedule, "chase: how the removed share grows",
          one_of({"cubic", "cosine"}));
  o.field("channel_score", channel_score, "chase: channels with the least of this go first",
          one_of({"umm", "masked_mean", "density", "kernel_density"}));
  o.field("channel_conv_to_linear", channel_conv_to_linear,
          "chase: also convolutions that a linear layer reads");
  o.field("soft_extra", soft_extra, "chase: density above the target at the start of the soft phase (p0)",
          between(0, 1));
  o.field("soft_floor", soft_floor, "chase: density above the target at its end (0.005 in the ImageNet code)",
          between(0, 1));
  o.field("hard_phase", hard_phase, "chase: last fraction of the run, with exactly the target count (T_dst)",
          between(0, 1));
  o.field("process_group", process_group,
          "name of the c10d group whose ranks train this network: masks come from rank 0, growth scores are "
          "averaged");
  o.field("seed", seed, "seed of the masks' random streams; in a run 0 takes the run's", at_least(0));
}

void SparsityOptions::check() const {
  require(density > 0 && density <= 1, "sparsity.density is ", density, ", expected a number in (0, 1]");
  require(channel_sparsity >= 0 && channel_sparsity < 1, "sparsity.channel_sparsity is ", channel_sparsity,
          ", expected a number in [0, 1)");
  require(drop_fraction >= 0 && drop_fraction <= 1, "sparsity.drop_fraction is ", drop_fraction,
          ", expected [0, 1]");
  require(update_every > 0, "sparsity.update_every is ", update_every, ", expected at least 1");
  require(begin <= end || end == 0, "sparsity.begin is ", begin, ", after sparsity.end ", end);
  require(prune_begin <= prune_end, "sparsity.prune_begin is ", prune_begin, ", after sparsity.prune_end ",
          prune_end);
  require(method == "none" || method == "static" || total_steps > 0, "sparsity.total_steps is ", total_steps,
          "; the schedule of '", method, "' needs the number of optimizer steps");
}

SparsityOptions options_of(const std::string& method) {
  SparsityOptions options;
  Options declared;
  options.declare(declared);
  declared.set("method", method, "options_of");
  return options;
}

}  // namespace glyptic::sparsity
