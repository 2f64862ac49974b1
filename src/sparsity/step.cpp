#include "glyptic/sparsity/step.h"

#include <torch/torch.h>

#include "glyptic/core/distributed.h"
#include "glyptic/core/error.h"

namespace glyptic::sparsity {

at::Tensor step(optim::Optimizer& optimizer, Sparsifier* sparsifier, const Closure& closure,
                int64_t micro_batches, const std::string& process_group) {
  require(micro_batches >= 1, "step: micro_batches is ", micro_batches, ", expected at least 1");
  optimizer.zero_grad();
  at::Tensor mean;
  for (int64_t i = 0; i < micro_batches; ++i) {
    auto loss = closure();
    require(loss.defined() && loss.requires_grad(),
            "step: the closure must return a loss that depends on the weights");
    if (loss.dim() > 0) loss = loss.mean();
    if (loss.is_cpu())
      require<DivergenceError>(std::isfinite(loss.item<double>()), "the loss is ", loss.item<double>(),
                               "; lower the learning rate or look for a NaN in the data");
    if (micro_batches > 1) loss = loss / static_cast<double>(micro_batches);
    loss.backward();
    mean = mean.defined() ? mean + loss.detach() : loss.detach();
  }
  if (!process_group.empty()) {
    std::vector<at::Tensor> gradients;
    for (const auto& parameter : optimizer.parameters()) gradients.push_back(parameter.tensor.grad());
    all_reduce_mean(gradients, process_group);
  }
  if (!sparsifier) {
    optimizer.step();
    return mean;
  }
  if (sparsifier->begin_step().run_optimizer) optimizer.step(sparsifier->parameter_masks());
  std::vector<ParameterState> states;
  for (std::size_t i = 0; i < optimizer.parameters().size(); ++i)
    states.push_back({optimizer.parameters()[i].tensor.grad(), optimizer.state_of(i)});
  sparsifier->end_step(states, /*masked=*/true);
  return mean;
}

}  // namespace glyptic::sparsity
