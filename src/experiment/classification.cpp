#include "glyptic/experiment/classification.h"

#include <ATen/autocast_mode.h>
#include <torch/torch.h>

#include <charconv>
#include <chrono>
#include <csignal>
#include <nlohmann/json.hpp>

#include "glyptic/core/distributed.h"
#include "glyptic/core/log.h"
#include "glyptic/core/safetensors.h"
#include "glyptic/nn/dependency.h"
#include "glyptic/sharpness/curvature.h"
#include "glyptic/sharpness/step.h"
#include "glyptic/sparsity/sparsifier.h"
#include "glyptic/sparsity/step.h"

namespace glyptic::experiment {

namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// MACs of one sample, each layer's weighted by the share of its weights that is active.
double effective_macs(const nn::Graph& graph, const sparsity::Sparsifier* sparsifier) {
  std::map<std::string, double> density;
  if (sparsifier)
    for (const auto& layer : sparsifier->layers())
      density[layer.name] = static_cast<double>(layer.active) / static_cast<double>(layer.size());
  double macs = 0;
  for (const auto& row : nn::cost(graph).rows) {
    const auto found = density.find(row.weight);
    macs += static_cast<double>(row.macs) * (found == density.end() ? 1.0 : found->second);
  }
  return macs;
}

// The step from which the network has the size it ends with. Weights of an earlier step may be better because
// they are more, so `select: best_val` does not look at them.
int64_t settled_step(const sparsity::SparsityOptions& o, int64_t total) {
  const auto at = [&](double fraction) {
    return static_cast<int64_t>(std::llround(fraction * static_cast<double>(total)));
  };
  if (o.method == "gmp") return std::max<int64_t>(1, at(o.prune_end));
  if (o.method != "chase") return 0;
  const int64_t hard = total - at(o.hard_phase);
  const int64_t exact = std::min(total, (hard + o.update_every - 1) / o.update_every * o.update_every);
  return std::max(exact, o.channel_sparsity > 0 ? at(o.channel_until) : 0);
}

class Autocast {
 public:
  explicit Autocast(bool on) : on_(on) {
    if (!on_) return;
    at::autocast::set_autocast_enabled(at::kCUDA, true);
    at::autocast::set_autocast_dtype(at::kCUDA, at::kBFloat16);
  }
  ~Autocast() {
    if (!on_) return;
    at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(at::kCUDA, false);
  }

 private:
  bool on_;
};

// What a training phase carries from step to step besides weights, optimizer and masks.
struct Progress {
  int64_t step = 0;     // optimizer steps done
  double loss_sum = 0;  // since the start of the epoch
  int64_t loss_count = 0;
  double macs_sum = 0;        // multiply-accumulates per sample of all forward and backward passes so far
  double best_accuracy = -1;  // on validation
  int64_t best_step = 0;
  double seconds = 0;  // of wall time; the only member that may differ after a resume

  at::Tensor pack() const {
    return at::tensor({static_cast<double>(step), loss_sum, static_cast<double>(loss_count), macs_sum,
                       best_accuracy, static_cast<double>(best_step), seconds},
                      at::kDouble);
  }
  void unpack(const at::Tensor& packed) {
    require<DataError>(packed.numel() == 7 && packed.scalar_type() == at::kDouble,
                       "checkpoint: 'progress' has the wrong shape");
    const auto values = packed.contiguous();
    const auto* v = values.data_ptr<double>();
    step = static_cast<int64_t>(v[0]);
    loss_sum = v[1];
    loss_count = static_cast<int64_t>(v[2]);
    macs_sum = v[3];
    best_accuracy = v[4];
    best_step = static_cast<int64_t>(v[5]);
    seconds = v[6];
  }
};

// What forward passes in train mode move besides gradients.
sharpness::TensorList statistics_of(const nn::Model& model) {
  sharpness::TensorList result;
  for (const auto& buffer : model.buffers())
    for (const char* name : {"running_mean", "running_var", "num_batches_tracked"})
      if (buffer.name == name ||
          (buffer.name.size() > std::strlen(name) && buffer.name.ends_with(str(".", name))))
        result.push_back(buffer.tensor);
  return result;
}

constexpr const char* kLast = "checkpoints/last.safetensors";

class Run {
 public:
  Run(ClassificationConfig& config, RunFolder* folder, const RunControl& control)
      : config_(config), folder_(folder), control_(control) {}

  void run() {
    prepare();
    const auto phases = phase_names();
    std::size_t first = 0;
    std::unique_ptr<SafeTensors> saved;
    wait_for_all();  // nobody reads what another is about to write
    if (folder_->has(kLast)) {
      saved = std::make_unique<SafeTensors>(open_checkpoint(kLast));
      first = find_phase(*saved, phases);
      folder_->truncate_metrics(metrics_bytes(*saved));
      // At the end of a phase the file still holds the network of that phase: the next one starts afresh.
      if (first == phases.size() || meta(*saved, "trained") != phases[first]) saved.reset();
    } else {
      folder_->truncate_metrics(0);
    }
    for (std::size_t p = first; p < phases.size(); ++p) {
      const auto next = p + 1 < phases.size() ? phases[p + 1] : "finish";
      train_phase(phases[p], p == first ? saved.get() : nullptr, next);
      saved.reset();
      if (const int stop = agreed_signal()) interrupt(stop, str("after '", phases[p], "'"));
    }
    finish(phases);
  }

  /// One step on random data, without a folder.
  void dry_run() {
    set_device();
    form_ = data::expected_form(config_.data);
    auto phase = make_phase(phase_names().back(), 8, 1);
    const auto x = RngStream(config_.seed, "dry run").normal(batch_shape(2)).to(device_);
    const auto y = at::zeros({2}, at::TensorOptions(at::kLong).device(device_));
    if (!phase.sharpness) {
      sparsity::step(*phase.optimizer, phase.sparsifier.get(), [&] { return loss(*phase.model, x, y); });
      return;
    }
    const RngStream dropout(config_.seed, "dry run/dropout");
    data::Batch batch;
    batch.images = x;
    batch.labels = y;
    StepObjective objective(*this, phase, {batch}, dropout, 0);
    sharpness::step(*phase.sharpness, *phase.optimizer, phase.sparsifier.get(), objective);
  }

 private:
  struct Phase {
    std::string name;
    std::unique_ptr<nn::Model> model;
    std::unique_ptr<optim::Optimizer> optimizer;
    std::unique_ptr<sparsity::Sparsifier> sparsifier;
    std::unique_ptr<sharpness::Sharpness> sharpness;
    int64_t total_steps = 0, steps_per_epoch = 0;
  };

  // The micro-batches of one step, evaluated as often as the step asks.
  class StepObjective final : public sharpness::Objective {
   public:
    StepObjective(const Run& run, Phase& phase, std::vector<data::Batch> batches, const RngStream& dropout,
                  int64_t first_pass)
        : run_(run),
          phase_(phase),
          batches_(std::move(batches)),
          dropout_(dropout),
          first_pass_(first_pass) {}
    int64_t batches() const override { return static_cast<int64_t>(batches_.size()); }
    bool selects_samples() const override { return true; }
    at::Tensor loss(int64_t batch) override { return evaluate(batch, {}); }
    at::Tensor loss_of(int64_t batch, const at::Tensor& rows) override { return evaluate(batch, rows); }
    bool distributed() const override { return ranks().several(); }
    void all_reduce_mean(const sharpness::TensorList& tensors) override {
      if (ranks().several()) glyptic::all_reduce_mean(tensors, ranks().group);
    }
    // Nothing averages by itself here, so the engine does it.
    void synchronize(bool) override {}
    bool averages() const override { return false; }

   private:
    at::Tensor evaluate(int64_t i, const at::Tensor& rows) {
      const auto& batch = batches_[static_cast<std::size_t>(i)];
      phase_.model->seed_dropout(dropout_.child(static_cast<uint64_t>(first_pass_ + i)));
      const auto pick = [&](const at::Tensor& all) {
        return rows.defined() ? all.index_select(0, rows) : all;
      };
      return run_.loss(*phase_.model, pick(batch.images), pick(batch.labels),
                       run_.config_.sharpness.method == "esam" ? at::Reduction::None : at::Reduction::Mean);
    }
    const Run& run_;
    Phase& phase_;
    std::vector<data::Batch> batches_;
    const RngStream& dropout_;
    int64_t first_pass_;
  };

  bool is_sparse() const { return config_.sparsity.method != "none"; }

  std::vector<std::string> phase_names() const {
    if (!is_sparse()) return {"dense"};
    if (config_.train.baseline) return {"dense", config_.sparsity.method};
    return {config_.sparsity.method};
  }

  void set_device() {
    if (config_.threads > 0) at::set_num_threads(static_cast<int>(config_.threads));
    const bool available = torch::cuda::is_available();
    require<ConfigError>(config_.device != "cuda" || available,
                         "device is cuda, but torch sees no CUDA device; set device to cpu or auto");
    device_ = at::Device(config_.device == "cuda" || (config_.device == "auto" && available) ? at::kCUDA
                                                                                             : at::kCPU);
    require<ConfigError>(config_.train.precision == "float32" || device_.is_cuda(),
                         "train.precision is bfloat16, which needs device cuda; this run is on the CPU");
  }

  void prepare() {
    set_device();
    auto& data = config_.data;
    data.seed = config_.seed;
    sets_ = data::load(data);
    form_ = {sets_.train->image_shape(), sets_.train->num_classes()};
    log::info(str("data: ", sets_.train->description()));
    data::LoaderOptions options;
    options.batch_size = config_.train.batch_size;
    options.shuffle = true;
    options.drop_last = true;
    options.seed = config_.seed;
    options.threads = static_cast<int>(config_.train.loader_threads);
    options.augment.crop_padding = config_.augment.crop_padding;
    options.augment.flip = config_.augment.flip;
    options.augment.cutout = config_.augment.cutout;
    if (config_.augment.normalize) {
      options.augment.mean = sets_.mean;
      options.augment.std = sets_.std;
      if (!config_.augment.per_channel) pool_statistics(options.augment);
    }
    plain_ = options.augment;
    plain_.crop_padding = plain_.cutout = 0;
    plain_.flip = false;
    require(sets_.train->size() >= options.batch_size * config_.train.accumulate,
            "train.batch_size x train.accumulate is ", options.batch_size * config_.train.accumulate,
            ", more than the ", sets_.train->size(), " training images");
    require<ConfigError>(options.batch_size % ranks().size == 0, "train.batch_size is ", options.batch_size,
                         ", which ", ranks().size, " processes cannot share evenly; give a multiple");
    train_ = std::make_unique<data::Loader>(sets_.train, options, /*training=*/true);
    options.batch_size = config_.train.eval_batch_size;
    options.shuffle = false;
    options.drop_last = false;
    if (sets_.validation) validation_ = std::make_unique<data::Loader>(sets_.validation, options, false);
    test_ = std::make_unique<data::Loader>(sets_.test, options, false);
    require<ConfigError>(
        config_.train.select == "last" || validation_ != nullptr,
        "train.select is best_val, but data.validation is 0; hold some training images back");
  }

  // One mean and deviation over all channels: E[x] and sqrt(E[x^2] - E[x]^2) from the channels' own.
  static void pool_statistics(data::AugmentOptions& augment) {
    double mean = 0, square = 0;
    const auto channels = static_cast<double>(augment.mean.size());
    for (std::size_t c = 0; c < augment.mean.size(); ++c) {
      mean += augment.mean[c] / channels;
      square += (augment.std[c] * augment.std[c] + augment.mean[c] * augment.mean[c]) / channels;
    }
    const double deviation = std::sqrt(square - mean * mean);
    std::fill(augment.mean.begin(), augment.mean.end(), mean);
    std::fill(augment.std.begin(), augment.std.end(), deviation);
  }

  std::vector<int64_t> batch_shape(int64_t batch) const {
    std::vector<int64_t> shape{batch};
    shape.insert(shape.end(), form_.shape.begin(), form_.shape.end());
    return shape;
  }

  Phase make_phase(const std::string& name, int64_t total_steps, int64_t steps_per_epoch) {
    Phase phase;
    phase.name = name;
    phase.total_steps = total_steps;
    phase.steps_per_epoch = steps_per_epoch;
    graph_ = nn::build_graph(config_.model.name, config_.model.options(form_));
    phase.model = std::make_unique<nn::Model>(graph_, RngStream(config_.seed, "model/init"));
    phase.model->to(device_);
    if (config_.train.channels_last) phase.model->to(at::MemoryFormat::ChannelsLast);
    phase.optimizer = std::make_unique<optim::Optimizer>(phase.model->parameters(), config_.optimizer);
    if (config_.sharpness.method != "none") {
      auto sharp = config_.sharpness;
      sharp.total_steps = total_steps;
      if (sharp.seed == 0) sharp.seed = config_.seed;
      if (sharp.rho_schedule == "lr" && sharp.lr_max == 0) sharp.lr_max = config_.optimizer.lr;
      phase.sharpness = std::make_unique<sharpness::Sharpness>(phase.model->parameters(), sharp,
                                                               statistics_of(*phase.model));
    }
    if (name != "dense") {
      auto sparse = config_.sparsity;
      sparse.total_steps = total_steps;
      if (sparse.seed == 0) sparse.seed = config_.seed;
      std::vector<nn::ChannelGroup> groups;
      if (sparsity::method_info(sparse.method).needs_groups)
        groups = nn::prunable_groups(graph_, sparse.channel_conv_to_linear);
      phase.sparsifier = std::make_unique<sparsity::Sparsifier>(phase.model->parameters(),
                                                                nn::prunable_weights(graph_), sparse, groups);
    }
    return phase;
  }

  at::Tensor loss(nn::Model& model, const at::Tensor& images, const at::Tensor& labels,
                  int64_t reduction = at::Reduction::Mean) const {
    const Autocast autocast(config_.train.precision == "bfloat16");
    const auto logits = model.forward(images);
    return at::cross_entropy_loss(logits.to(at::kFloat), labels, {}, reduction, -100,
                                  config_.train.label_smoothing);
  }

  void move(data::Batch& batch) const {
    if (!device_.is_cpu()) {
      batch.images = batch.images.to(device_);
      batch.labels = batch.labels.to(device_);
    }
    if (config_.train.channels_last && batch.images.dim() == 4)
      batch.images = batch.images.contiguous(at::MemoryFormat::ChannelsLast);
  }

  /// This process's part of a batch; all read the same one, so that what is trained on does not depend on
  /// their number.
  static void take_share(data::Batch& batch) {
    const int64_t size = ranks().size, share = batch.images.size(0) / size;
    if (size == 1) return;
    batch.images = aligned_copy(batch.images.slice(0, ranks().rank * share, (ranks().rank + 1) * share));
    batch.labels = aligned_copy(batch.labels.slice(0, ranks().rank * share, (ranks().rank + 1) * share));
  }

  struct Accuracy {
    double percent = 0;
    double loss = 0;
  };
  Accuracy evaluate(nn::Model& model, data::Loader& loader) const {
    const c10::InferenceMode inference;
    const bool training = model.is_training();
    model.train(false);
    int64_t right = 0, count = 0;
    double loss_sum = 0;
    loader.start(0);
    int64_t index = 0;
    for (data::Batch batch; loader.next(batch);) {
      if (index++ % ranks().size != ranks().rank) continue;
      move(batch);
      at::Tensor logits;
      {
        const Autocast autocast(config_.train.precision == "bfloat16");
        logits = model.forward(batch.images).to(at::kFloat);
      }
      right += logits.argmax(1).eq(batch.labels).sum().item<int64_t>();
      loss_sum += at::cross_entropy_loss(logits, batch.labels, {}, at::Reduction::Sum).item<double>();
      count += batch.labels.numel();
    }
    if (ranks().several()) {
      const auto sums =
          at::tensor({static_cast<double>(right), loss_sum, static_cast<double>(count)}, at::kDouble);
      all_reduce_sum(sums, ranks().group);
      right = sums[0].item<int64_t>();
      loss_sum = sums[1].item<double>();
      count = sums[2].item<int64_t>();
    }
    model.train(training);
    return {100.0 * static_cast<double>(right) / static_cast<double>(count),
            loss_sum / static_cast<double>(count)};
  }

  static std::string meta(const SafeTensors& file, const std::string& key) {
    const auto found = file.metadata().find(key);
    require<DataError>(found != file.metadata().end(), "the checkpoint has no '", key,
                       "'; it is not one of a run");
    return found->second;
  }

  static int64_t metrics_bytes(const SafeTensors& file) {
    const auto text = meta(file, "metrics_bytes");
    int64_t bytes = -1;
    const auto end = text.data() + text.size();
    const auto result = std::from_chars(text.data(), end, bytes);
    require<DataError>(result.ec == std::errc() && result.ptr == end && bytes >= 0,
                       "the checkpoint's metrics_bytes is '", text, "'; it is not one of a run");
    return bytes;
  }

  static std::size_t find_phase(const SafeTensors& file, const std::vector<std::string>& phases) {
    const auto name = meta(file, "phase");
    if (name == "finish") return phases.size();
    for (std::size_t p = 0; p < phases.size(); ++p)
      if (phases[p] == name) return p;
    throw DataError(str("the checkpoint is of phase '", name, "', which this config does not have"));
  }

  NamedTensors collect(const Phase& phase, const Progress& progress) const {
    NamedTensors all;
    for (const auto& entry : phase.model->state()) all.push_back({"model." + entry.name, entry.tensor});
    for (const auto& entry : phase.optimizer->state()) all.push_back(entry);
    if (phase.sparsifier)
      for (const auto& entry : phase.sparsifier->state()) all.push_back(entry);
    if (phase.sharpness)
      for (const auto& entry : phase.sharpness->state()) all.push_back(entry);
    all.push_back({"progress", progress.pack()});
    return all;
  }

  static NamedTensors model_tensors(const SafeTensors& file) {
    NamedTensors result;
    for (const auto& info : file.infos())
      if (info.name.rfind("model.", 0) == 0) result.push_back({info.name.substr(6), file.tensor(info.name)});
    return result;
  }

  void save(const std::string& name, const Phase& phase, const Progress& progress,
            const std::string& next_phase) {
    // The last good checkpoint is worth more than one that nothing can continue from.
    for (const auto& entry : phase.model->state())
      require<DivergenceError>(
          !entry.tensor.is_floating_point() || at::isfinite(entry.tensor.detach()).all().item<bool>(), "'",
          entry.name, "' holds NaN or Inf after step ", progress.step, " of '", phase.name, "'; ",
          divergence_remedy());
    if (ranks().several() && phase.sharpness) collect_from_all(phase);
    if (!folder_->leads()) return wait_for_all();
    save_safetensors(folder_->file(name), collect(phase, progress),
                     {{"format", "glyptic run 1"},
                      {"phase", next_phase},
                      {"trained", phase.name},
                      {"metrics_bytes", std::to_string(folder_->sync_metrics())}});
    wait_for_all();
  }

  /// Buffers that each process keeps for its own part of the batch go on as their mean: a checkpoint holds
  /// one of each.
  static void collect_from_all(const Phase& phase) {
    sharpness::TensorList buffers;
    for (const auto& entry : phase.sharpness->state())
      if (entry.tensor.is_floating_point() && entry.tensor.dim() > 0) buffers.push_back(entry.tensor);
    all_reduce_mean(buffers, ranks().group);
  }

  std::string divergence_remedy() const {
    const bool saved = folder_->has(kLast);
    return str("lower optimizer.lr, set optimizer.max_grad_norm, or look for a NaN in the data",
               saved ? str(" (the last good checkpoint is ", folder_->file(kLast), ")") : "");
  }

  // A run's own files have a checksum, unless damage took just that away.
  SafeTensors open_checkpoint(const std::string& name) const {
    SafeTensors file(folder_->file(name));
    require<DataError>(file.has_checksum(), "the checkpoint '", folder_->file(name),
                       "' has no checksum; it is not one of a run, or it is damaged: put the right one back");
    return file;
  }

  void restore(Phase& phase, Progress& progress, const std::string& name) const {
    restore(phase, progress, open_checkpoint(name), name);
  }
  void restore(Phase& phase, Progress& progress, const SafeTensors& file, const std::string& name) const {
    try {
      const auto tensors = file.tensors();
      phase.model->load(model_tensors(file));
      phase.optimizer->load_state(tensors);
      if (phase.sparsifier) phase.sparsifier->load_state(tensors);
      if (phase.sharpness) phase.sharpness->load_state(tensors);
      progress.unpack(get(tensors, "progress"));
    } catch (const ArgumentError& error) {
      throw DataError(str("the checkpoint '", folder_->file(name), "' does not fit config.yaml: ",
                          error.what(), "; put the matching one back or start a new run"));
    }
  }

  void train_phase(const std::string& name, const SafeTensors* saved, const std::string& next) {
    const auto& train = config_.train;
    const int64_t per_epoch = train_->batches() / train.accumulate;
    int64_t total = per_epoch * train.epochs;
    if (train.max_steps > 0) total = std::min(total, train.max_steps);
    auto phase = make_phase(name, total, per_epoch);
    Progress progress;
    // The masks that the seed draws. A run that continues draws them once more, before it loads its own.
    const auto first_masks = copy_masks(phase);
    if (saved) {
      restore(phase, progress, *saved, kLast);
      log::info(str(name, ": continuing after step ", progress.step, " of ", total));
    } else {
      log::info(str(name, ": ", config_.model.name, ", ", nn::cost(graph_).parameters, " parameters, ", total,
                    " steps"));
    }
    if (config_.lr.warmup_epochs * static_cast<double>(per_epoch) >= static_cast<double>(total))
      log::warn(str("the warm-up of ", config_.lr.warmup_epochs, " epochs lasts the whole run of ", total,
                    " steps: the learning rate never decays"));
    const double dense_macs = effective_macs(graph_, nullptr);
    double sparse_macs = effective_macs(graph_, phase.sparsifier.get());
    const bool dense_gradient = phase.sparsifier && config_.sparsity.grow_criterion == "gradient";
    log::Progress bar(name, total);
    auto clock = Clock::now();
    phase.model->train();
    RngStream dropout(config_.seed, "model/dropout");
    if (ranks().rank > 0) dropout = dropout.child(static_cast<uint64_t>(ranks().rank)).child(0);
    while (progress.step < total) {
      const int64_t epoch = progress.step / per_epoch, within = progress.step % per_epoch;
      train_->start(epoch, within * train.accumulate);
      at::Tensor last_loss;
      for (int64_t i = within; i < per_epoch && progress.step < total; ++i) {
        const int64_t step = progress.step + 1;
        phase.optimizer->set_lr(config_.optimizer.lr * optim::lr_factor(config_.lr, step, total, per_epoch));
        const bool event = phase.sparsifier && phase.sparsifier->begin_step().masks_change;
        const auto masks_before = event ? copy_masks(phase) : NamedTensors();
        const auto channels_before = phase.sparsifier && step == 1 ? live_channels(phase) : Json();
        int64_t forward_passes = (step - 1) * train.accumulate;
        const auto next_batch = [&] {
          data::Batch batch;
          require<Error>(train_->next(batch), "the loader ended before the epoch did");
          take_share(batch);
          move(batch);
          return batch;
        };
        at::Tensor mean_loss;
        double passes = 1;  // in units of a forward and backward pass over the step's images
        if (phase.sharpness) {
          std::vector<data::Batch> batches;
          for (int64_t k = 0; k < train.accumulate; ++k) batches.push_back(next_batch());
          StepObjective objective(*this, phase, std::move(batches), dropout, forward_passes);
          const auto result =
              sharpness::step(*phase.sharpness, *phase.optimizer, phase.sparsifier.get(), objective);
          require<DivergenceError>(!result.skipped, "a gradient or the loss is not finite at step ", step,
                                   " of '", name, "'; ", divergence_remedy());
          mean_loss = result.loss;
          passes = static_cast<double>(result.forwards + 2 * result.backwards) /
                   (3.0 * static_cast<double>(train.accumulate));
        } else {
          mean_loss = take_step(phase, step, [&] {
            const auto batch = next_batch();
            phase.model->seed_dropout(dropout.child(static_cast<uint64_t>(forward_passes++)));
            return loss(*phase.model, batch.images, batch.labels);
          });
        }
        int stop = control_.signal();
        if (ranks().several()) agree(phase, mean_loss, stop);
        progress.step = step;
        // Forward and backward cost 3 f; the growth scores of an event need the dense weight gradient (spec
        // 3).
        progress.macs_sum +=
            3 * passes * sparse_macs + (event && dense_gradient ? dense_macs - sparse_macs : 0.0);
        if (event) sparse_macs = effective_macs(graph_, phase.sparsifier.get());
        if (phase.sparsifier && step == 1) record_first_masks(phase, first_masks, channels_before);
        if (event) record_mask_event(phase, epoch, masks_before, first_masks);
        last_loss = mean_loss;
        const bool log_now = step % train.log_every == 0 || step == total;
        if (mean_loss.is_cpu() || log_now) {
          const double value = mean_loss.item<double>();
          require<DivergenceError>(std::isfinite(value), "the loss is ", value, " at step ", step, " of '",
                                   name, "'; ", divergence_remedy());
          progress.loss_sum += value;
          progress.loss_count += 1;
          if (log_now) {
            Json line{{"phase", name},
                      {"step", step},
                      {"epoch", epoch},
                      {"loss", value},
                      {"lr", phase.optimizer->lr()}};
            if (phase.sparsifier) line["active"] = active(phase);
            folder_->append_metrics(line.dump());
          }
          char status[32];
          std::snprintf(status, sizeof status, "loss %.4f", value);
          bar.update(step, status);
        }
        const bool at_checkpoint = train.checkpoint_every > 0 && step % train.checkpoint_every == 0;
        if ((at_checkpoint || stop) && i + 1 < per_epoch && step < total) {
          progress.seconds += since(clock);
          clock = Clock::now();
          save(kLast, phase, progress, name);
        }
        if (stop && i + 1 < per_epoch && step < total) interrupt(stop, after(step, name));
      }
      end_of_epoch(phase, progress, epoch, total);
      progress.seconds += since(clock);
      clock = Clock::now();
      if (progress.step < total) save(kLast, phase, progress, name);
      if (const int stop = agreed_signal(); stop && progress.step < total)
        interrupt(stop, after(progress.step, name));
    }
    bar.finish();
    if (train.select == "best_val" && progress.best_step != progress.step) {
      Progress of_best;  // only the network is taken back; the run has still done all its steps
      restore(phase, of_best, "checkpoints/best." + name + ".safetensors");
      log::info(str(name, ": took step ", progress.best_step, ", validation accuracy ",
                    progress.best_accuracy, " %"));
    }
    // The finished network under its own name, then the pointer to what comes next: in this order, so that a
    // kill between the two repeats nothing but the second.
    save("checkpoints/" + name + ".safetensors", phase, progress, name);
    save(kLast, phase, progress, next);
  }

  at::Tensor take_step(Phase& phase, int64_t step, const sparsity::Closure& closure) const {
    try {
      return sparsity::step(*phase.optimizer, phase.sparsifier.get(), closure, config_.train.accumulate,
                            ranks().several() ? ranks().group : "");
    } catch (const DivergenceError& error) {
      const std::string what = error.what();
      throw DivergenceError(str(what.substr(0, what.find(';')), " at step ", step, " of '", phase.name, "'; ",
                                divergence_remedy()));
    }
  }

  /// After a step of several processes: the loss is the mean, a signal that one of them got counts for all,
  /// and running statistics, which each took from its own part of the batch, are those of the first.
  static void agree(const Phase& phase, at::Tensor& loss, int& stop) {
    const auto together = at::tensor({0.0, signal_weight(stop)}, at::kDouble);
    together[0].copy_(loss);
    all_reduce_sum(together, ranks().group);
    loss = (together[0] / ranks().size).to(loss.scalar_type());
    stop = signal_of(together[1].item<double>());
    broadcast(statistics_of(*phase.model), ranks().group);
  }

  int agreed_signal() const {
    if (!ranks().several()) return control_.signal();
    const auto sum = at::full({1}, signal_weight(control_.signal()), at::kDouble);
    all_reduce_sum(sum, ranks().group);
    return signal_of(sum.item<double>());
  }

  // Signals travel in a sum over processes: one SIGTERM outweighs any number of SIGINTs.
  static double signal_weight(int signal) { return signal == SIGTERM ? 1e6 : signal ? 1 : 0; }
  static int signal_of(double sum) { return sum >= 1e6 ? SIGTERM : sum > 0 ? SIGINT : 0; }

  static std::string after(int64_t step, const std::string& phase) {
    return str("after step ", step, " of '", phase, "'");
  }

  [[noreturn]] void interrupt(int signal, const std::string& where) const {
    throw Interrupted(str("stopped ", where, "; continue with: glyptic resume ", folder_->path()),
                      signal == SIGTERM ? kExitTerminated : kExitInterrupted);
  }

  void interrupt_if_asked() const {
    if (const int stop = agreed_signal()) interrupt(stop, "after training");
  }

  static int64_t active(const Phase& phase) {
    int64_t sum = 0;
    for (const auto& layer : phase.sparsifier->layers()) sum += layer.active;
    return sum;
  }

  // --- what the masks do, in metrics.jsonl

  static NamedTensors copy_masks(const Phase& phase) {
    NamedTensors copies;
    if (phase.sparsifier)
      for (const auto& entry : phase.sparsifier->masks())
        copies.push_back({entry.name, entry.tensor.clone()});
    return copies;
  }

  static Json live_channels(const Phase& phase) {
    Json widths;
    for (const auto& entry : phase.sparsifier->liveness())
      widths[entry.name] = entry.tensor.sum().item<int64_t>();
    return widths;
  }

  // |a and b| / |a or b| over all layers together.
  static double jaccard(const NamedTensors& a, const NamedTensors& b) {
    int64_t both = 0, either = 0;
    for (std::size_t l = 0; l < a.size(); ++l) {
      both += a[l].tensor.logical_and(b[l].tensor).sum().item<int64_t>();
      either += a[l].tensor.logical_or(b[l].tensor).sum().item<int64_t>();
    }
    return either == 0 ? 1.0 : static_cast<double>(both) / static_cast<double>(either);
  }

  // Written once a step is done, not before it: a folder with metrics is a run that has computed something.
  void record_first_masks(const Phase& phase, const NamedTensors& masks, const Json& channels) {
    Json size, active;
    for (const auto& entry : masks) {
      size[entry.name] = entry.tensor.numel();
      active[entry.name] = entry.tensor.sum().item<int64_t>();
    }
    Json record{{"size", size}, {"active", active}};
    if (!channels.is_null()) record["live_channels"] = channels;
    folder_->append_metrics(Json{{"phase", phase.name}, {"step", 0}, {"epoch", 0}, {"masks", record}}.dump());
  }

  void record_mask_event(const Phase& phase, int64_t epoch, const NamedTensors& before,
                         const NamedTensors& first) {
    const auto& event = phase.sparsifier->events().back();
    const auto now = phase.sparsifier->masks();
    Json active;
    for (const auto& layer : phase.sparsifier->layers()) active[layer.name] = layer.active;
    Json record{{"active", active}, {"dropped", event.dropped}, {"grown", event.grown}};
    if (const auto channels = live_channels(phase); !channels.is_null()) record["live_channels"] = channels;
    record["overlap_previous"] = jaccard(before, now);
    record["overlap_first"] = jaccard(first, now);
    folder_->append_metrics(
        Json{{"phase", phase.name}, {"step", event.step}, {"epoch", epoch}, {"masks", record}}.dump());
  }

  void end_of_epoch(Phase& phase, Progress& progress, int64_t epoch, int64_t total) {
    Json line{{"phase", phase.name}, {"step", progress.step}, {"epoch", epoch}};
    line["train_loss"] =
        progress.loss_count ? progress.loss_sum / static_cast<double>(progress.loss_count) : 0.0;
    progress.loss_sum = 0;
    progress.loss_count = 0;
    const bool evaluated = config_.train.eval_every > 0 && (epoch + 1) % config_.train.eval_every == 0;
    std::string text =
        str(phase.name, " epoch ", epoch + 1, ": train loss ", line["train_loss"].get<double>());
    if (evaluated || progress.step == total || config_.train.select == "best_val") {
      // The test set is looked at only where no validation set is held back; it never decides anything.
      auto& loader = validation_ ? *validation_ : *test_;
      const char* which = validation_ ? "validation" : "test";
      const auto result = evaluate(*phase.model, loader);
      line[str(which, "_accuracy")] = result.percent;
      line[str(which, "_loss")] = result.loss;
      text += str(", ", which, " accuracy ", result.percent, " %");
      const bool settled = !phase.sparsifier || progress.step == total ||
                           progress.step >= settled_step(config_.sparsity, total);
      if (config_.train.select == "best_val" && settled && result.percent > progress.best_accuracy) {
        progress.best_accuracy = result.percent;
        progress.best_step = progress.step;
        save("checkpoints/best." + phase.name + ".safetensors", phase, progress, phase.name);
      }
    }
    if (phase.sparsifier) {
      const auto stats = phase.sparsifier->stats();
      line["density"] = stats.density();
      line["explored"] = stats.explored;
      if (const auto widths = live_channels(phase); !widths.is_null()) line["live_channels"] = widths;
      text += str(", density ", stats.density());
      if (stats.channels > 0) text += str(", channels ", stats.live_channels, "/", stats.channels);
    }
    folder_->append_metrics(line.dump());
    log::info(text);
  }

  // --- after training: extraction, accuracy on the test set, speed, the table

  void finish(const std::vector<std::string>& phases) {
    Json rows = Json::array(), notes = Json::array(), extraction;
    std::vector<std::pair<std::string, std::unique_ptr<nn::Model>>> networks;
    const auto add = [&](const std::string& network, std::unique_ptr<nn::Model> model, Json row) {
      row["network"] = network;
      rows.push_back(row);
      networks.emplace_back(network, std::move(model));
    };
    const double dense_macs =
        effective_macs(nn::build_graph(config_.model.name, config_.model.options(form_)), nullptr);
    for (const auto& name : phases) {
      auto phase = make_phase(name, total_steps(), train_->batches() / config_.train.accumulate);
      interrupt_if_asked();
      Progress progress;
      restore(phase, progress, "checkpoints/" + name + ".safetensors");
      const auto cost = nn::cost(graph_);
      Json row{{"network", ""}, {"method", name}};
      if (phase.sharpness) {
        row["sharpness"] = config_.sharpness.method;
        row["sharpness_source"] = sharpness::method_info(config_.sharpness.method).source;
      }
      row["accuracy"] = evaluate(*phase.model, *test_).percent;
      row["density"] = phase.sparsifier ? phase.sparsifier->stats().density() : 1.0;
      row["parameters"] = phase.sparsifier ? phase.sparsifier->stats().parameters_active : cost.parameters;
      row["flops"] = 2 * effective_macs(graph_, phase.sparsifier.get());
      row["training_flops_ratio"] =
          progress.macs_sum / (3 * dense_macs * static_cast<double>(std::max<int64_t>(progress.step, 1)));
      row["training_seconds"] = progress.seconds;
      if (config_.diagnostics.curvature) measure_curvature(*phase.model, phase.sparsifier.get(), row);
      row["steps"] = progress.step;
      if (!phase.sparsifier) {
        row["live_channels"] = nullptr;
        add("dense", std::move(phase.model), row);
        continue;
      }
      const auto stats = phase.sparsifier->stats();
      if (stats.channels > 0) row["live_channels"] = str(stats.live_channels, "/", stats.channels);
      row["explored"] = stats.explored;
      row["source"] = sparsity::method_info(name).source;
      std::unique_ptr<nn::Model> small;
      if (config_.extract.enabled) small = extract(phase, extraction, notes);
      add("masked", std::move(phase.model), row);
      if (!small) continue;
      auto slim = row;
      const auto small_cost = nn::cost(small->graph());
      slim["accuracy"] = evaluate(*small, *test_).percent;
      slim["parameters"] = small_cost.parameters;
      slim["flops"] = 2 * static_cast<double>(small_cost.macs);
      // Of its own weights: everything active lies in channels that are still there.
      int64_t weights = 0;
      for (const auto& name_of_weight : nn::prunable_weights(small->graph()))
        if (const auto* spec = small->graph().find_tensor(name_of_weight))
          weights += std::accumulate(spec->shape.begin(), spec->shape.end(), int64_t{1}, std::multiplies<>());
      slim["density"] = static_cast<double>(stats.active) / static_cast<double>(weights);
      add("extracted", std::move(small), slim);
    }
    if (ranks().several()) compare_ranks(networks);
    if (folder_->leads()) {
      if (config_.throughput.enabled) measure(networks, rows);
      write_results(rows, notes, extraction);
    }
    wait_for_all();
  }

  /// The largest eigenvalue of the Hessian of the mean training loss (labels as trained on, no augmentation,
  /// evaluation mode), over the active weights.
  void measure_curvature(nn::Model& model, const sparsity::Sparsifier* sparsifier, Json& row) {
    data::LoaderOptions options;
    options.batch_size = std::min(config_.train.eval_batch_size, config_.diagnostics.images);
    options.augment = plain_;
    const auto images = std::min(config_.diagnostics.images, sets_.train->size());
    data::Loader loader(sets_.train, options, /*training=*/false);
    std::vector<data::Batch> batches;
    for (int64_t seen = 0, i = 0; seen < images; ++i) {
      auto batch = loader.batch(0, i);
      const auto take = std::min(batch.images.size(0), images - seen);
      batch.images = batch.images.slice(0, 0, take);
      batch.labels = batch.labels.slice(0, 0, take);
      seen += take;
      move(batch);
      batches.push_back(std::move(batch));
    }
    model.train(false);
    sharpness::LossOverData over;
    over.batches = static_cast<int64_t>(batches.size());
    over.loss = [&](int64_t i) {
      const auto& batch = batches[static_cast<std::size_t>(i)];
      return loss(model, batch.images, batch.labels);
    };
    over.samples = [&](int64_t i) { return batches[static_cast<std::size_t>(i)].images.size(0); };
    sharpness::LossSurface surface(model.parameters(), over,
                                   sparsifier ? sparsifier->parameter_masks() : sharpness::TensorList{});
    sharpness::EigenOptions eigen;
    eigen.max_iter = config_.diagnostics.max_products;
    eigen.tol = config_.diagnostics.tolerance;
    eigen.seed = config_.seed;
    log::info("measuring curvature");
    const auto result = sharpness::top_eigenvalues(surface, eigen);
    row["lambda_max"] = result.values.at(0);
    row["lambda_residual"] = result.residuals.at(0);
    row["lambda_products"] = surface.products();
    if (!result.converged.at(0))
      log::warn(str("the largest eigenvalue is known to ", result.residuals.at(0), " only after ",
                    surface.products(), " products; raise diagnostics.max_products"));
  }

  /// Every process must have come to the same bits.
  static void compare_ranks(const std::vector<std::pair<std::string, std::unique_ptr<nn::Model>>>& networks) {
    for (const auto& [network, model] : networks) {
      for (const auto& entry : model->state()) {
        const auto first = entry.tensor.detach().clone();
        broadcast({first}, ranks().group);
        require<Error>(at::equal(first, entry.tensor.detach()), "'", entry.name, "' of the ", network,
                       " network on rank ", ranks().rank,
                       " differs from rank 0's; the processes did not train alike: run them on machines of "
                       "one kind");
      }
    }
  }

  int64_t total_steps() const {
    const int64_t total = train_->batches() / config_.train.accumulate * config_.train.epochs;
    return config_.train.max_steps > 0 ? std::min(total, config_.train.max_steps) : total;
  }

  std::unique_ptr<nn::Model> extract(Phase& phase, Json& report, Json& notes) {
    const at::NoGradGuard no_grad;
    std::vector<sparsity::Liveness> liveness;
    for (const auto& entry : phase.sparsifier->liveness()) liveness.push_back({entry.name, entry.tensor});
    const auto plan = sparsity::plan_extraction(phase.model->graph(), phase.model->state(), liveness,
                                                config_.extract.options());
    auto tensors = plan.apply_all(phase.model->state());
    auto graph = plan.graph;
    if (config_.extract.fold_batchnorm) {
      auto folded = sparsity::fold_batchnorm(graph, tensors);
      graph = std::move(folded.graph);
      tensors = std::move(folded.tensors);
    }
    auto small = std::make_unique<nn::Model>(graph, tensors);
    small->to(device_);
    small->train(false);
    phase.model->train(false);
    // Same outputs, or it is not the same network: on real test images.
    data::Batch batch = test_->batch(0, 0);
    batch.images = batch.images.to(device_);
    const auto expected = phase.model->forward(batch.images), got = small->forward(batch.images);
    const double difference = (expected - got).abs().max().item<double>();
    const double scale = std::max(1.0, expected.abs().max().item<double>());
    require<Error>(config_.extract.allow_inexact || difference <= config_.extract.tolerance * scale,
                   "the extracted network's logits differ by ", difference, " (largest logit ", scale,
                   "), more than extract.tolerance allows");
    report["max_logit_difference"] = difference;
    report["max_logit"] = scale;
    Json widths;
    for (const auto& dim : plan.dims)
      if (dim.dim == 0 && dim.tensor.find("weight") != std::string::npos)
        widths[dim.tensor] = {static_cast<int64_t>(dim.kept.size()), dim.original};
    report["widths"] = widths;
    for (const auto& note : plan.notes) notes.push_back(note);
    if (!folder_->leads()) return small;
    std::filesystem::create_directories(folder_->file("extracted"));
    write_file_atomically(folder_->file("extracted/graph.json"), graph.to_json());
    write_file_atomically(folder_->file("extracted/plan.json"), plan.to_json());
    save_safetensors(folder_->file("extracted/model.safetensors"), small->state());
    return small;
  }

  void measure(std::vector<std::pair<std::string, std::unique_ptr<nn::Model>>>& networks, Json& rows) {
    std::vector<std::pair<std::string, nn::Model*>> list;
    std::unique_ptr<nn::Model> dense;
    for (auto& [name, model] : networks) list.emplace_back(name, model.get());
    if (is_sparse() && networks.front().first != "dense") {
      // The dense yardstick needs no training: time does not depend on values.
      dense = std::make_unique<nn::Model>(graph_, RngStream(config_.seed, "model/init"));
      dense->to(device_);
      list.insert(list.begin(), {"dense", dense.get()});
      Json row{{"network", "dense"}, {"method", "untrained"}, {"accuracy", nullptr}, {"density", 1.0}};
      const auto cost = nn::cost(graph_);
      row["parameters"] = cost.parameters;
      row["flops"] = 2 * static_cast<double>(cost.macs);
      rows.insert(rows.begin(), row);
    }
    log::info("measuring inference speed");
    // Only the leading process measures, so it looks at its own signal.
    const auto between = [this] {
      if (const int stop = control_.signal()) interrupt(stop, "after training");
    };
    for (const auto& result : measure_throughput(list, form_.shape, config_.throughput, between)) {
      for (auto& row : rows) {
        if (row["network"] != result.network) continue;
        const auto key = str("images_per_second_", result.batch);
        row[key] = result.images_per_second;
        row["timing"][std::to_string(result.batch)] = {{"median_ms", result.median_ms},
                                                       {"p5_ms", result.low_ms},
                                                       {"p95_ms", result.high_ms},
                                                       {"calls", result.calls}};
      }
    }
  }

  void write_results(const Json& rows, const Json& notes, const Json& extraction) {
    Json results;
    results["format"] = "glyptic results 1";
    results["experiment"] = config_.experiment;
    results["name"] = config_.name;
    results["seed"] = config_.seed;
    results["model"] = config_.model.name;
    results["data"] = sets_.train->description();
    results["paper"] = config_.paper.title;
    results["differs"] = config_.paper.differs;
    Json columns = Json::array();
    const auto column = [&](const std::string& key, const std::string& title, const std::string& format) {
      columns.push_back({{"key", key}, {"title", title}, {"format", format}});
    };
    column("network", "network", "text");
    if (config_.sharpness.method != "none") column("sharpness", "step", "text");
    column("accuracy", "accuracy %", "fixed2");
    if (config_.diagnostics.curvature) column("lambda_max", "lambda_max", "fixed3");
    column("density", "density", "fixed3");
    column("live_channels", "live channels", "text");
    column("parameters", "parameters", "grouped");
    column("flops", "FLOPs", "si");
    if (config_.throughput.enabled)
      for (const auto batch : config_.throughput.batches)
        column(str("images_per_second_", batch), str("images/s at batch ", batch), "grouped");
    results["columns"] = columns;
    results["rows"] = rows;
    results["extraction"] = extraction;
    results["notes"] = notes;
    results["environment"] = Json::parse(environment_json());
    write_file_atomically(folder_->file("results.json"), results.dump(2) + "\n");
  }

  ClassificationConfig& config_;
  RunFolder* folder_;  // null in a dry run
  const RunControl& control_;
  at::Device device_{at::kCPU};
  data::DataSets sets_;
  data::ImageForm form_;  // of the images
  nn::Graph graph_;
  data::AugmentOptions plain_;  // of the training images as an evaluation sees them
  std::unique_ptr<data::Loader> train_, validation_, test_;
};

}  // namespace

void Classification::run(RunFolder& folder, const RunControl& control) {
  Run(config_, &folder, control).run();
}

void Classification::dry_run() {
  Run(config_, nullptr, RunControl()).dry_run();
}

void Classification::check() {
  auto sparse = config_.sparsity;
  sparse.total_steps = std::max<int64_t>(1, sparse.total_steps);
  if (sparse.method != "none") sparse.check();
  auto sharp = config_.sharpness;
  sharp.total_steps = std::max<int64_t>(1, sharp.total_steps);
  if (sharp.lr_max == 0) sharp.lr_max = config_.optimizer.lr;
  if (sharp.method != "none") {
    sharp.check();
    require<ConfigError>(
        sharp.method != "momentum_sam" || config_.optimizer.momentum > 0 || config_.optimizer.name != "sgd",
        "sharpness.method is momentum_sam, which needs optimizer.momentum above 0");
  }
  require<ConfigError>(
      config_.sparsity.total_steps == 0, "sparsity.total_steps is ", config_.sparsity.total_steps,
      ", but the run counts its own steps; leave it 0 and set train.epochs or train.max_steps");
  require<ConfigError>(
      !config_.optimizer.nesterov || (config_.optimizer.momentum > 0 && config_.optimizer.dampening == 0),
      "optimizer.nesterov needs optimizer.momentum above 0 and optimizer.dampening 0");
  require<ConfigError>(config_.train.select == "last" || config_.data.validation > 0,
                       "train.select is best_val, but data.validation is 0; hold some training images back");
  // A network that cannot be built is found before the data are read.
  nn::build_graph(config_.model.name, config_.model.options(data::expected_form(config_.data)));
}

}  // namespace glyptic::experiment
