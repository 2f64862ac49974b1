// GraNet: gradual pruning with regeneration (arXiv 2106.10404). Every event first prunes all layers together,
// by magnitude, to a cubic sparsity, then exchanges a share of each layer's weights, so that what was pruned
// too early can come back.
#pragma once

#include "glyptic/sparsity/sparsifier.h"

namespace glyptic::sparsity {

MethodInfo granet_info();

}  // namespace glyptic::sparsity
