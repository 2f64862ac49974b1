// One options struct for the whole sharpness-aware family. A method is a preset of it plus its few lines of
// algorithm (src/sharpness/methods.cpp): `method: asam` sets what ASAM's reference sets, and every value can
// be overridden.
#pragma once

#include <cstdint>
#include <string>

#include "glyptic/core/options.h"

namespace glyptic::sharpness {

struct SharpnessOptions {
  std::string method = "none";

  // The ball and the ascent.
  double rho = 0.05;
  std::string norm = "l2";
  std::string adaptive = "none";
  double eta = 0.0;
  double eps0 = 1e-12;
  std::string rho_schedule = "constant";
  double rho_min = 0.0;
  double lr_min = 0.0;
  double lr_max = 0.0;
  int64_t total_steps = 0;
  int64_t interval = 1;
  int64_t start_step = 0;

  // The two passes.
  bool match_rng = true;
  bool freeze_statistics = true;
  double loss_weight_decay = 0.0;
  std::string accumulation = "full";
  bool sync_perturbation = false;
  double max_grad_norm = 0.0;
  bool check_finite = true;

  // Of single methods.
  double alpha = 0.4;
  int64_t every = 10;
  bool per_tensor = false;
  double beta = 0.6;
  double gamma = 0.5;
  std::string granularity = "tensor";
  double sigma = 1.0;
  double lmbda = 0.9;
  bool decoupled = true;
  double ema_decay = 0.9;
  double lambda1 = -1.0;
  double lambda2 = 1.0;
  double percentile = 0.9;
  double mask_density = 0.5;
  std::string mask_score = "random";

  // ZO-SAM.
  int64_t directions = 1;
  double delta = 1e-3;
  std::string delta_mode = "absolute";
  std::string estimator = "rge";
  int64_t sides = 2;
  std::string direction = "gaussian";
  std::string perturb = "all";

  uint64_t seed = 0;
  std::string process_group;

  /// Checks that need more than one field.
  void check() const;
  void declare(Options& options);
};

/// The options of a method with its reference's values, as `method: <name>` in a config gives them.
/// ConfigError for an unknown name.
SharpnessOptions options_of(const std::string& method);

}  // namespace glyptic::sharpness
