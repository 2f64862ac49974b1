// Image classification, the experiment behind the sparse-training tables: train a network (and, for
// comparison, the same one dense), extract the small dense network, measure all of them, and write one table.
#pragma once

#include "glyptic/data/loader.h"
#include "glyptic/experiment/experiment.h"
#include "glyptic/experiment/throughput.h"
#include "glyptic/nn/model.h"
#include "glyptic/optim/optimizer.h"
#include "glyptic/sharpness/options.h"
#include "glyptic/sparsity/extract.h"
#include "glyptic/sparsity/options.h"

namespace glyptic::experiment {

struct DataConfig : data::DataOptions {
  void declare(Options& options);
};

struct ModelConfig : nn::ModelOptions {
  std::string name = "vgg_small";
  ModelConfig() { conv_init = "default"; }
  void declare(Options& options);
  /// For images of this form.
  nn::ModelOptions options(const data::ImageForm& form) const;
};

struct AugmentConfig {
  int64_t crop_padding = 0;
  bool flip = false;
  int64_t cutout = 0;
  bool normalize = true;
  bool per_channel = true;
  void declare(Options& options);
};

struct TrainConfig {
  int64_t epochs = 10;
  int64_t max_steps = 0;
  int64_t batch_size = 128;
  int64_t eval_batch_size = 500;
  int64_t accumulate = 1;
  double label_smoothing = 0.0;
  std::string precision = "float32";
  bool channels_last = true;
  bool baseline = false;
  std::string select = "last";
  int64_t log_every = 20;
  int64_t checkpoint_every = 0;
  int64_t eval_every = 1;
  int64_t loader_threads = 1;
  void declare(Options& options);
};

struct ExtractConfig {
  bool enabled = true;
  std::string residual = "exempt";
  int64_t round_to = 1;
  bool absorb = true;
  bool allow_inexact = false;
  bool fold_batchnorm = false;
  double tolerance = 1e-5;
  void declare(Options& options);
  sparsity::ExtractOptions options() const;
};

struct ThroughputConfig : ThroughputOptions {
  bool enabled = true;
  void declare(Options& options);
};

struct DiagnosticsConfig {
  bool curvature = false;
  int64_t images = 1000;
  int64_t max_products = 60;
  double tolerance = 1e-3;
  void declare(Options& options);
};

struct PaperConfig {
  std::string title;
  std::vector<std::string> differs;
  void declare(Options& options);
};

struct ClassificationConfig {
  std::string experiment = "classification";
  std::string name = "run";
  uint64_t seed = 1;
  std::string device = "cpu";
  int64_t threads = 0;
  DataConfig data;
  AugmentConfig augment;
  ModelConfig model;
  optim::OptimizerOptions optimizer;
  optim::LrOptions lr;
  TrainConfig train;
  sparsity::SparsityOptions sparsity;
  sharpness::SharpnessOptions sharpness;
  ExtractConfig extract;
  ThroughputConfig throughput;
  DiagnosticsConfig diagnostics;
  PaperConfig paper;
  void declare(Options& options);
};

class Classification final : public Experiment {
 public:
  void declare(Options& options) override { config_.declare(options); }
  void check() override;
  void dry_run() override;
  void run(RunFolder& folder, const RunControl& control) override;
  ClassificationConfig& config() { return config_; }

 private:
  ClassificationConfig config_;
};

}  // namespace glyptic::experiment
