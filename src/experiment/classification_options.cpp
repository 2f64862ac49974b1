#include "glyptic/experiment/classification.h"

namespace glyptic::experiment {

void DataConfig::declare(Options& o) {
  o.field("name", name, "data set", one_of(data::dataset_names()));
  o.field("folder", folder,
          "where it is; empty: $GLYPTIC_DATA, ../shared/data, then what ships with Glyptic");
  o.field("train_limit", train_limit, "train on this many items only; 0: all", at_least(0));
  o.field("test_limit", test_limit, "test on this many items only; 0: all", at_least(0));
  o.field("validation", validation, "training items held back for validation, by class", at_least(0));
  o.field("label_noise", label_noise,
          "probability that a training label is redrawn uniformly over all classes (its own among them)",
          between(0, 1));
  o.field("size", size, "side of the images; 0: the set's own, else a divisor of it", at_least(0));
  o.field("classes", classes, "shapes: number of classes", at_least(0));
}

void ModelConfig::declare(Options& o) {
  o.field("name", name, "network", one_of(nn::model_names()));
  o.field("widths", widths, "hidden widths, for networks that take them; empty: the network's own",
          at_least(1));
  o.field("width", width, "factor on every hidden width", above(0));
  o.field("dropout", dropout, "dropout probability, for networks that have it", from_below(0, 1));
  o.field("conv_init", conv_init,
          "Kaiming normal by this fan in every convolution; default: the network's own",
          one_of({"default", "fan_in", "fan_out"}));
}

nn::ModelOptions ModelConfig::options(const data::ImageForm& form) const {
  nn::ModelOptions result = *this;
  if (conv_init == "default") result.conv_init.clear();
  result.input_shape = form.shape;
  result.num_classes = form.classes;
  return result;
}

void AugmentConfig::declare(Options& o) {
  o.field("crop_padding", crop_padding, "pad by this many pixels and crop back at random; 0: off",
          at_least(0));
  o.field("flip", flip, "mirror half of the images");
  o.field("cutout", cutout, "side of a square that is blanked at random; 0: off", at_least(0));
  o.field("normalize", normalize, "subtract the mean and divide by the standard deviation of the set");
  o.field("per_channel", per_channel, "mean and deviation per channel; false: one of each for all channels");
}

void TrainConfig::declare(Options& o) {
  o.field("epochs", epochs, "passes over the training set", at_least(1));
  o.field("max_steps", max_steps, "stop after this many optimizer steps; 0: after the epochs", at_least(0));
  o.field("batch_size", batch_size, "images per forward pass", at_least(1));
  o.field("eval_batch_size", eval_batch_size, "images per forward pass when testing", at_least(1));
  o.field("accumulate", accumulate, "forward passes per optimizer step", at_least(1));
  o.field("label_smoothing", label_smoothing, "share of the target given to all classes alike",
          from_below(0, 1));
  o.field("precision", precision, "bfloat16: autocast, on CUDA", one_of({"float32", "bfloat16"}));
  o.field("channels_last", channels_last, "keep images and convolution weights channels-last");
  o.field("baseline", baseline, "also train the same network dense, first, with the same recipe");
  o.field("select", select, "which weights count: the last, or those of the best validation accuracy",
          one_of({"last", "best_val"}));
  o.field("log_every", log_every, "optimizer steps between lines of metrics.jsonl", at_least(1));
  o.field("checkpoint_every", checkpoint_every, "optimizer steps between checkpoints; 0: after each epoch",
          at_least(0));
  o.field("eval_every", eval_every, "epochs between evaluations; 0: only at the end", at_least(0));
  o.field("loader_threads", loader_threads, "threads that prepare batches; changes no bit", between(0, 64));
}

void ExtractConfig::declare(Options& o) {
  o.field("enabled", enabled, "build the small dense network at the end");
  o.field("residual", residual,
          "channels that a sum couples: left alone, removed where dead in every term, or by index",
          one_of({"exempt", "all_dead", "index_add"}));
  o.field("round_to", round_to, "keep dead channels until each width is a multiple of this", at_least(1));
  o.field("absorb", absorb, "move a dead channel's constant into the next bias where that is exact");
  o.field("allow_inexact", allow_inexact, "drop dead channels even where the outputs move");
  o.field("fold_batchnorm", fold_batchnorm, "fold BatchNorm into the convolutions of the extracted network");
  o.field("tolerance", tolerance,
          "largest move of a logit, relative to the largest logit, that extraction may cause", above(0));
}

sparsity::ExtractOptions ExtractConfig::options() const {
  sparsity::ExtractOptions result;
  result.residual = residual == "all_dead"    ? sparsity::Residual::all_dead
                    : residual == "index_add" ? sparsity::Residual::index_add
                                              : sparsity::Residual::exempt;
  result.round_to = round_to;
  result.absorb = absorb;
  result.allow_inexact = allow_inexact;
  return result;
}

void ThroughputConfig::declare(Options& o) {
  o.field("enabled", enabled, "measure the speed of inference at the end");
  o.field("batches", batches, "batch sizes to measure at", at_least(1));
  o.field("warmup", warmup, "calls that are not counted", at_least(0));
  o.field("repeats", repeats, "most calls per network and batch size", at_least(5));
  o.field("seconds", seconds, "most time per network and batch size", above(0));
  o.field("channels_last", channels_last, "measure channels-last");
}

void DiagnosticsConfig::declare(Options& o) {
  o.field(
      "curvature", curvature,
      "measure the largest eigenvalue of the Hessian of the training loss at the end, without augmentation");
  o.field("images", images, "of so many training images, the first ones", at_least(1));
  o.field("max_products", max_products, "most Hessian-vector products; each costs about 3.5 gradients",
          at_least(2));
  o.field("tolerance", tolerance, "relative residual at which the eigenvalue is taken for found", above(0));
}

void PaperConfig::declare(Options& o) {
  o.field("title", title, "the table or figure that this setting stands beside");
  o.field("differs", differs, "what differs from that setting, printed below the table");
}

void ClassificationConfig::declare(Options& o) {
  o.field("experiment", experiment, "which experiment this file configures", one_of({"classification"}));
  o.field("name", name, "name of the run; the default folder is runs/<name>");
  o.field("seed", seed, "everything random follows from it", at_least(0));
  o.field("device", device, "where tensors live; auto: CUDA when there is one",
          one_of({"cpu", "cuda", "auto"}));
  o.field("threads", threads, "CPU threads; 0: torch's default. Bits depend on it", between(0, 1024));
  o.group("data", data, "the images");
  o.group("augment", augment, "what happens to a training image");
  o.group("model", model, "the network");
  o.group("optimizer", optimizer, "the base optimizer");
  o.group("lr", lr, "the learning rate over the run");
  o.group("train", train, "the training loop");
  o.group("sparsity", sparsity, "masks: which weights live, and when that changes");
  o.group("sharpness", sharpness, "the step: gradients at the worst point nearby");
  o.group("extract", extract, "from the masked network to the small dense one");
  o.group("throughput", throughput, "the measurement of inference speed");
  o.group("diagnostics", diagnostics, "how sharp the minimum is");
  o.group("paper", paper, "what the result stands beside");
}

}  // namespace glyptic::experiment
