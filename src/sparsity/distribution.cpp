#include "glyptic/sparsity/distribution.h"

#include "glyptic/core/error.h"
#include "glyptic/core/named_tensor.h"

namespace glyptic::sparsity {

Distribution distribution_from_name(const std::string& name) {
  if (name == "uniform") return Distribution::uniform;
  if (name == "er") return Distribution::er;
  if (name == "erk") return Distribution::erk;
  throw ArgumentError(str("distribution is '", name, "', expected one of uniform, er, erk",
                          did_you_mean(name, {"uniform", "er", "erk"})));
}

int64_t LayerShape::numel() const {
  int64_t n = 1;
  for (const auto size : shape) n *= size;
  return n;
}

namespace {

// p_l: sum over product of all dimensions (ERK), or of the two channel dimensions alone (ER).
double raw_probability(const LayerShape& layer, const DistributionOptions& options) {
  if (options.kind == Distribution::uniform) return 1.0;
  const std::size_t dims =
      options.kind == Distribution::er ? std::min<std::size_t>(2, layer.shape.size()) : layer.shape.size();
  double sum = 0, product = 1;
  for (std::size_t i = 0; i < dims; ++i) {
    sum += static_cast<double>(layer.shape[i]);
    product *= static_cast<double>(layer.shape[i]);
  }
  return std::pow(sum / product, options.erk_power);
}

}  // namespace

std::vector<double> layer_densities(const std::vector<LayerShape>& layers, double density,
                                    const DistributionOptions& options) {
  require(density > 0 && density <= 1, "density is ", density, ", expected a number in (0, 1]");
  require(!layers.empty(), "there is no prunable tensor: nothing to make sparse");
  std::vector<std::string> names;
  for (const auto& layer : layers) {
    require(layer.shape.size() >= 2 && layer.numel() > 0, "layer '", layer.name, "' has shape ",
            shape_string(layer.shape), "; a prunable weight has at least two dimensions and one element");
    names.push_back(layer.name);
  }
  for (const auto& [name, value] : options.custom_density) {
    require(std::find(names.begin(), names.end(), name) != names.end(), "custom_density names '", name,
            "', which is not a prunable tensor", did_you_mean(name, names));
    require(value > 0 && value <= 1, "custom_density of '", name, "' is ", value,
            ", expected a number in (0, 1]");
  }

  const std::size_t count = layers.size();
  std::vector<double> densities(count, 0.0);
  std::vector<char> decided(count, 0);  // custom, or dense
  for (std::size_t l = 0; l < count; ++l) {
    const auto custom = options.custom_density.find(layers[l].name);
    if (custom != options.custom_density.end()) {
      densities[l] = custom->second;
      decided[l] = 2;
    }
  }
  if (options.kind == Distribution::uniform) {
    for (std::size_t l = 0; l < count; ++l)
      if (!decided[l]) densities[l] = density;
    return densities;
  }

  std::vector<double> p(count);
  for (std::size_t l = 0; l < count; ++l) p[l] = raw_probability(layers[l], options);
  while (true) {
    // eps solves: sum over free layers of eps p_l n_l = d * sum n_l - sum over dense layers of n_l.
    double wanted = 0, weight = 0, largest = 0;
    for (std::size_t l = 0; l < count; ++l) {
      const auto n = static_cast<double>(layers[l].numel());
      if (decided[l] == 2) continue;
      if (decided[l] == 1) {
        wanted -= (1 - density) * n;
      } else {
        wanted += density * n;
        weight += p[l] * n;
        largest = std::max(largest, p[l]);
      }
    }
    if (weight == 0) break;  // every layer is dense or custom
    const double eps = wanted / weight;
    // The relative slack of a few ulps keeps density 1 (eps p = 1 up to rounding) from making layers dense
    // one by one.
    if (eps * largest > 1 + 1e-12) {
      for (std::size_t l = 0; l < count; ++l) {
        if (!decided[l] && p[l] == largest) {
          decided[l] = 1;
          densities[l] = 1;
        }
      }
      continue;
    }
    for (std::size_t l = 0; l < count; ++l)
      if (!decided[l]) densities[l] = std::min(1.0, eps * p[l]);
    break;
  }
  return densities;
}

std::vector<double> erk_densities(const std::vector<std::vector<int64_t>>& shapes, double density,
                                  double power) {
  std::vector<LayerShape> layers;
  for (std::size_t l = 0; l < shapes.size(); ++l) layers.push_back({str("layer ", l), shapes[l]});
  return layer_densities(layers, density, {.kind = Distribution::erk, .erk_power = power});
}

std::vector<int64_t> layer_counts(const std::vector<double>& densities, const std::vector<int64_t>& sizes,
                                  int64_t total, int64_t minimum) {
  require(densities.size() == sizes.size(), "layer_counts: ", densities.size(), " densities for ",
          sizes.size(), " layers");
  const std::size_t count = sizes.size();
  double sum = 0;
  std::vector<double> exact(count);
  for (std::size_t l = 0; l < count; ++l) {
    require(densities[l] >= 0 && densities[l] <= 1 + 1e-9, "density of layer ", l, " is ", densities[l],
            ", expected [0, 1]");
    exact[l] = densities[l] * static_cast<double>(sizes[l]);
    sum += exact[l];
  }
  if (total < 0) total = static_cast<int64_t>(std::floor(sum + 0.5));
  std::vector<int64_t> counts(count);
  int64_t given = 0, lowest = 0, highest = 0;
  for (std::size_t l = 0; l < count; ++l) {
    const int64_t least = std::min(minimum, sizes[l]);
    // 1e-9: a product such as 0.3 * 10 may lie an ulp below the integer that it means.
    counts[l] = std::clamp(static_cast<int64_t>(std::floor(exact[l] + 1e-9)), least, sizes[l]);
    given += counts[l];
    lowest += least;
    highest += sizes[l];
  }
  require(total <= highest, "layer_counts: ", total, " weights asked of layers that hold ", highest);
  total = std::max(total, lowest);
  // Hand out what is missing to the largest remainders, or take back from the smallest, one at a time; a
  // layer that was raised to its minimum leaves a surplus that others pay.
  while (given != total) {
    const int64_t direction = given < total ? 1 : -1;
    std::size_t best = count;
    double best_gap = -1e300;
    for (std::size_t l = 0; l < count; ++l) {
      const bool possible = direction > 0 ? counts[l] < sizes[l] : counts[l] > std::min(minimum, sizes[l]);
      const double gap = static_cast<double>(direction) * (exact[l] - static_cast<double>(counts[l]));
      if (possible && gap > best_gap) {
        best = l;
        best_gap = gap;
      }
    }
    // Many units at once where the gap allows, so that a far total does not take a loop of millions.
    const int64_t room =
        direction > 0 ? sizes[best] - counts[best] : counts[best] - std::min(minimum, sizes[best]);
    const int64_t step =
        std::clamp(static_cast<int64_t>(best_gap), int64_t{1}, std::min(room, std::abs(total - given)));
    counts[best] += direction * step;
    given += direction * step;
  }
  return counts;
}

}  // namespace glyptic::sparsity
