// Slices of the loss along directions in weight space, with the filter normalisation of arXiv 1712.09913:
// random directions scaled to the weights they perturb, so that slices of different networks can be compared.
// Two slices are comparable only with the same seed and the same normalisation; both are in the output.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "glyptic/sharpness/curvature.h"

namespace glyptic::sharpness {

enum class DirectionNorm {
  filter,   ///< each d[i] along dimension 0 gets the norm of w[i]
  layer,    ///< each tensor gets the norm of its weight
  weight,   ///< d times w, elementwise
  dfilter,  ///< each d[i] gets norm 1
  dlayer,   ///< each tensor gets norm 1
  none      ///< N(0, 1) as drawn
};
DirectionNorm direction_norm_from_name(const std::string& name);
const char* name_of(DirectionNorm norm);

struct DirectionOptions {
  uint64_t seed = 0;
  DirectionNorm norm = DirectionNorm::filter;
  /// Tensors of at most one dimension (biases, normalisation) stay fixed; otherwise their direction is w
  /// itself.
  bool ignore_biasbn = true;
  /// Buffers are perturbed too, by the same rules ("states"); by default only weights are.
  bool states = false;
};

struct Direction {
  TensorList parameters;  ///< one per parameter of the surface
  TensorList buffers;     ///< empty, or one per buffer of the surface, undefined where it does not move
};

/// Direction `index` of a seed; zero off-mask, and zero where the weight's norm is.
Direction random_direction(const LossSurface& surface, const DirectionOptions& options, uint64_t index = 0);
/// other - w: along it a = 0 is w and a = 1 is `other`. ArgumentError for a missing name or another shape.
Direction direction_to(const LossSurface& surface, const NamedTensors& other, bool states = false);
/// By names, e.g. an eigenvector; what is not named stays fixed.
Direction given_direction(const LossSurface& surface, const NamedTensors& tensors);
double cosine(const LossSurface& surface, const Direction& a, const Direction& b);

struct Axis {
  double low = -1, high = 1;
  int64_t points = 51;
};

struct Landscape {
  std::vector<double> a, b;                     ///< b is empty for a line
  std::vector<double> loss;                     ///< [a] or [a][b], row by row; inf where it was not finite
  double center = 0;                            ///< the loss at w
  double cosine = 0;                            ///< of the two directions, which are not made orthogonal
  int64_t not_finite = 0;                       ///< points whose loss was inf or NaN
  std::map<std::string, std::string> settings;  ///< what made the directions
};

/// L(w + a d). One pass over the data per point; the weights are put back bit for bit.
Landscape landscape(const LossSurface& surface, const Direction& d, const Axis& a = {});
/// L(w + a d1 + b d2).
Landscape landscape(const LossSurface& surface, const Direction& d1, const Direction& d2, const Axis& a = {},
                    const Axis& b = {});

std::map<std::string, std::string> settings_of(const DirectionOptions& options);

/// By the ending of `path`: .csv (settings in lines that begin with '#', then a, [b,] loss) or .safetensors
/// (float64 tensors a, b, loss; settings as metadata).
void save_landscape(const std::string& path, const Landscape& landscape);
/// What save_landscape wrote as .safetensors.
Landscape load_landscape(const std::string& path);

}  // namespace glyptic::sharpness
