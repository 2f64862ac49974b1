// One options struct for the whole sparse-training family. A method is a preset of it plus its few lines of
// algorithm: `method: chase` sets what the Chase reference sets, and every value can be overridden.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "glyptic/core/options.h"

namespace glyptic::sparsity {

struct SparsityOptions {
  std::string method = "none";

  // How many, and where.
  double density = 0.1;
  std::string distribution = "erk";
  double erk_power = 1.0;
  std::map<std::string, double> custom_density;
  bool first_layer_dense = false;
  bool last_layer_dense = false;
  std::vector<std::string> exclude;
  bool bernoulli = false;
  int64_t min_per_layer = 1;

  // When masks change. Steps are optimizer steps, 1-based; fractions are of total_steps.
  int64_t total_steps = 0;
  int64_t update_every = 100;
  double begin = 0.0;
  double end = 0.75;
  bool skip_optimizer_on_update = false;

  // What goes and what comes.
  double drop_fraction = 0.3;
  std::string drop_schedule = "cosine";
  double drop_floor = 0.0;
  double drop_power = 3.0;
  std::string drop_rounding = "floor";
  std::string drop_criterion = "magnitude";
  double drop_noise = 0.0;
  double mest_lambda = 0.0;
  std::string grow_criterion = "gradient";
  std::string grow_init = "zeros";
  double grow_scale = 1.0;
  std::string grow_state = "zero";
  std::string scope = "layer";
  int64_t score_steps = 1;

  // Gradual pruning (GMP, GraNet).
  double initial_sparsity = 0.0;
  double prune_begin = 0.0;
  double prune_end = 0.75;

  // Chase: channels and the soft memory bound.
  double channel_sparsity = 0.5;
  double channel_floor = 0.2;
  int64_t channel_every = 0;
  int64_t channel_offset = -1;
  double channel_until = 0.8125;
  std::string channel_schedule = "cubic";
  std::string channel_score = "umm";
  bool channel_conv_to_linear = false;
  double soft_extra = 0.05;
  double soft_floor = 0.0;
  double hard_phase = 0.1875;

  uint64_t seed = 0;
  std::string process_group;

  /// Checks that need more than one field (for instance channel_floor against channel_sparsity).
  void check() const;
  void declare(Options& options);
};

/// The options of a method with its reference's values, as `method: <name>` in a config gives them; change
/// what you like. ConfigError for an unknown name.
SparsityOptions options_of(const std::string& method);

}  // namespace glyptic::sparsity
