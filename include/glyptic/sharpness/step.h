// One training step of the C++ API and the command line: sharpness, base optimizer and masks together.
#pragma once

#include "glyptic/optim/optimizer.h"
#include "glyptic/sharpness/sharpness.h"
#include "glyptic/sparsity/sparsifier.h"

namespace glyptic::sharpness {

/// A step of `sharpness` over `optimizer`, then of the masks. Nothing is perturbed off-mask; growth ranks by
/// the gradient at w (by the perturbed one where a method takes no other); where a mask update takes the
/// place of the weight update, one gradient at w is all that is computed. `sparsifier` may be null. A skipped
/// step changes no mask.
StepResult step(Sharpness& sharpness, optim::Optimizer& optimizer, sparsity::Sparsifier* sparsifier,
                Objective& objective);

}  // namespace glyptic::sharpness
