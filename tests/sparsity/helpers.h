// A small network under a sparsifier, stepped on data that depend on the step number alone.
#pragma once

#include <torch/torch.h>

#include <cstring>
#include <memory>
#include <string>

#include "glyptic/nn/dependency.h"
#include "glyptic/nn/model.h"
#include "glyptic/optim/optimizer.h"
#include "glyptic/sparsity/sparsifier.h"
#include "glyptic/sparsity/step.h"

namespace glyptic::testing_helpers {

inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const auto x = a.detach().contiguous(), y = b.detach().contiguous();
  return x.sizes() == y.sizes() && std::memcmp(x.data_ptr(), y.data_ptr(), x.nbytes()) == 0;
}

/// The method with its presets, on a schedule of `total` steps.
inline sparsity::SparsityOptions options_for(const std::string& method, int64_t total, int64_t every) {
  auto options = sparsity::options_of(method);
  options.update_every = every;
  options.total_steps = total;
  options.seed = 11;
  return options;
}

/// An MLP 12-16-8-4 (or a small convolutional network) with its optimizer and sparsifier.
struct Net {
  std::unique_ptr<nn::Model> model;
  std::unique_ptr<optim::Optimizer> optimizer;
  std::unique_ptr<sparsity::Sparsifier> sparse;
  std::vector<int64_t> input;

  Net(const std::string& kind, uint64_t seed, sparsity::SparsityOptions options,
      const std::string& optimizer_name) {
    nn::ModelOptions model_options;
    if (kind == "mlp") {
      model_options.input_shape = {12};
      model_options.widths = {16, 8};
      model_options.num_classes = 4;
    } else {
      model_options.input_shape = {1, 12, 12};
      model_options.width = 0.125;
      model_options.num_classes = 4;
    }
    input = model_options.input_shape;
    model = std::make_unique<nn::Model>(nn::build_graph(kind, model_options), RngStream(seed, "test net"));
    optim::OptimizerOptions opt;
    opt.name = optimizer_name;
    opt.lr = optimizer_name == "sgd" ? 0.05 : 1e-2;
    optimizer = std::make_unique<optim::Optimizer>(model->parameters(), opt);
    if (options.method != "none")
      sparse =
          std::make_unique<sparsity::Sparsifier>(model->parameters(), nn::prunable_weights(model->graph()),
                                                 options, nn::prunable_groups(model->graph()));
  }

  at::Tensor loss(int64_t t) const {
    const RngStream rng = RngStream(77, "test data").child(static_cast<uint64_t>(t));
    std::vector<int64_t> shape{10};
    shape.insert(shape.end(), input.begin(), input.end());
    const auto x = rng.child(0).normal(shape);
    const auto y = torch::arange(10, torch::kLong).remainder(4);
    return torch::nn::functional::cross_entropy(model->forward(x), y);
  }

  void step(int64_t t) {
    sparsity::step(*optimizer, sparse.get(), [&] { return loss(t); });
  }

  std::vector<sparsity::ParameterState> states_after_backward() {
    optimizer->zero_grad();
    loss(1).backward();
    std::vector<sparsity::ParameterState> states;
    for (std::size_t i = 0; i < optimizer->parameters().size(); ++i)
      states.push_back({optimizer->parameters()[i].tensor.grad(), optimizer->state_of(i)});
    return states;
  }
};

}  // namespace glyptic::testing_helpers
