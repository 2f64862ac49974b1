// A torch::nn::Module as named tensors, so that every method works on a user's own C++ network.
#pragma once

#include "glyptic/core/named_tensor.h"

namespace torch::nn {
class Module;
}

namespace glyptic::nn {

/// Parameters in registration order, under the names that `module.named_parameters()` gives them. A parameter
/// that is registered in two places (tied weights) appears once, under its first name.
NamedTensors named_parameters(const torch::nn::Module& module);

/// The same for buffers.
NamedTensors named_buffers(const torch::nn::Module& module);

}  // namespace glyptic::nn
