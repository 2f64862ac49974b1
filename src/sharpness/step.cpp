#include "glyptic/sharpness/step.h"

namespace glyptic::sharpness {

StepResult step(Sharpness& sharpness, optim::Optimizer& optimizer, sparsity::Sparsifier* sparsifier,
                Objective& objective) {
  if (!sparsifier) return sharpness.step(objective, *base_of(optimizer));
  const auto plan = sparsifier->begin_step();
  StepOptions options;
  options.masks = sparsifier->parameter_masks();
  options.gradient_only = !plan.run_optimizer;
  options.keep_growth = plan.masks_change || sparsifier->options().score_steps > 1;
  const auto base = base_of(optimizer, options.masks);
  auto result = sharpness.step(objective, *base, options);
  if (result.skipped) return result;
  std::vector<sparsity::ParameterState> states;
  for (std::size_t i = 0; i < optimizer.parameters().size(); ++i)
    states.push_back({result.growth.empty() ? optimizer.parameters()[i].tensor.grad() : result.growth[i],
                      optimizer.state_of(i)});
  sparsifier->end_step(states, /*masked=*/true);
  return result;
}

}  // namespace glyptic::sharpness
