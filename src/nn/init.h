// Initialisation of a tensor by the words of its TensorSpec.
#pragma once

#include <ATen/core/Tensor.h>

#include "glyptic/core/rng.h"
#include "glyptic/nn/graph.h"

namespace glyptic::nn {

/// ArgumentError that names the tensor when its `init` cannot be read.
void check_init(const TensorSpec& spec);

/// A fresh CPU tensor of the spec's shape and dtype.
at::Tensor initial_value(const TensorSpec& spec, const RngStream& rng);

}  // namespace glyptic::nn
