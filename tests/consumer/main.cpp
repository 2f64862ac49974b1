// Trains a small convolutional network with Chase on random images, extracts the dense network that is left,
// and checks that both compute the same.
#include <ATen/ATen.h>

#include <cstdio>

#include "glyptic/core/build_info.h"
#include "glyptic/data/dataset.h"
#include "glyptic/nn/dependency.h"
#include "glyptic/nn/model.h"
#include "glyptic/optim/optimizer.h"
#include "glyptic/sparsity/extract.h"
#include "glyptic/sparsity/sparsifier.h"
#include "glyptic/sparsity/step.h"

int main() {
  using namespace glyptic;
  constexpr int64_t kSteps = 20;
  nn::ModelOptions form;
  form.input_shape = {1, 12, 12};
  form.width = 0.125;
  const auto graph = nn::build_graph("vgg_small", form);
  nn::Model model(graph, RngStream(1, "init"));

  sparsity::SparsityOptions options;
  options.method = "chase";
  options.scope = "global";
  options.density = 0.1;
  options.total_steps = kSteps;
  options.update_every = 4;
  std::vector<std::string> prunable;
  for (const auto& node : graph.nodes)
    if (node.op == nn::Op::conv2d || node.op == nn::Op::linear) prunable.push_back(node.tensor("weight"));
  sparsity::Sparsifier sparsifier(model.parameters(), prunable, options, nn::prunable_groups(graph, false));
  optim::Optimizer optimizer(model.parameters(), {});

  const auto x = RngStream(2, "x").normal({16, 1, 12, 12});
  const auto y = at::arange(16).remainder(10);
  double loss = 0;
  for (int64_t t = 0; t < kSteps; ++t)
    loss = sparsity::step(optimizer, &sparsifier, [&] {
             return at::cross_entropy_loss(model.forward(x), y);
           }).item<double>();

  std::vector<sparsity::Liveness> liveness;
  for (const auto& entry : sparsifier.liveness()) liveness.push_back({entry.name, entry.tensor});
  const auto plan = sparsity::plan_extraction(graph, model.state(), liveness);
  nn::Model small(plan.graph, plan.apply_all(model.state()));
  model.train(false);
  small.train(false);
  const double difference = (model.forward(x) - small.forward(x)).abs().max().item<double>();
  const auto stats = sparsifier.stats();
  std::printf(
      "glyptic %s: loss %.3f, density %.3f, channels %lld of %lld, parameters %lld of %lld, same %s, data "
      "%s\n",
      version(), loss, stats.density(), static_cast<long long>(stats.live_channels),
      static_cast<long long>(stats.channels), static_cast<long long>(nn::cost(plan.graph).parameters),
      static_cast<long long>(stats.parameters), difference < 1e-4 ? "yes" : "no",
      data::data_folders("mnist").empty() ? "none" : data::data_folders("mnist").front().c_str());
  return difference < 1e-4 ? 0 : 1;
}
