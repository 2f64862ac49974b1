// One training step: the contract that everything that trains follows. The closure runs the forward pass on
// the current weights and returns the loss; the library calls backward, as often as the method needs.
#pragma once

#include <functional>
#include <string>

#include "glyptic/optim/optimizer.h"
#include "glyptic/sparsity/sparsifier.h"

namespace glyptic::sparsity {

/// Returns a scalar loss, or one loss per sample ([B]), whose mean is taken.
using Closure = std::function<at::Tensor()>;

/// Zeroes gradients, runs `closure` `micro_batches` times (gradients average), then optimizer and masks.
/// `sparsifier` may be null: then it is a dense step. Returns the mean loss, detached, on its device.
/// DivergenceError before anything is updated when a loss on the CPU is NaN or Inf (on a GPU the check would
/// cost a synchronization: the caller looks at the returned loss when it likes). With a `process_group`
/// gradients are averaged over its ranks first.
at::Tensor step(optim::Optimizer& optimizer, Sparsifier* sparsifier, const Closure& closure,
                int64_t micro_batches = 1, const std::string& process_group = "");

}  // namespace glyptic::sparsity
