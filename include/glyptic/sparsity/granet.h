// GraNet: gradual pruning with regeneration (arXiv 2106.10404). Every event first prunes all layers together,
// by magnitude, to a cubic sparsity, then exchanges a share of each layer's weights, so that what was pruned
// too early can come back. Both halves are one event: unlike in the released code, a weight that pruning
// removes and the exchange brings back keeps its value.
#pragma once

#include "glyptic/sparsity/sparsifier.h"

namespace glyptic::sparsity {

MethodInfo granet_info();

}  // namespace glyptic::sparsity
