// How many weights each layer keeps: uniform, Erdos-Renyi (SET, arXiv 1707.04780) and its kernel form ERK
// (RigL, arXiv 1911.11134, section 3).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace glyptic::sparsity {

enum class Distribution { uniform, er, erk };
Distribution distribution_from_name(const std::string& name);

struct LayerShape {
  std::string name;
  std::vector<int64_t> shape;  ///< conv [C_out, C_in / groups, kh, kw], linear [out, in]
  int64_t numel() const;
};

struct DistributionOptions {
  Distribution kind = Distribution::erk;
  double erk_power = 1.0;                        ///< exponent on the raw probability p_l
  std::map<std::string, double> custom_density;  ///< by name; such layers are left out of both sums
};

/// Densities d_l with sum d_l n_l = d N in real arithmetic. Where a layer would need more than 1 it is made
/// dense, all layers of that same largest p_l with it, and the rest is solved again; nothing is clipped.
/// ArgumentError: density outside (0, 1], no layers, a custom density for a name that does not exist.
std::vector<double> layer_densities(const std::vector<LayerShape>& layers, double density,
                                    const DistributionOptions& options = {});

/// ERK densities of plain shapes.
std::vector<double> erk_densities(const std::vector<std::vector<int64_t>>& shapes, double density,
                                  double power = 1.0);

/// Whole numbers near densities[l] * sizes[l] by largest remainder, so that their sum is `total` (default:
/// the rounded sum of the products) and each is in [minimum, size]. Ties go to the earlier layer.
std::vector<int64_t> layer_counts(const std::vector<double>& densities, const std::vector<int64_t>& sizes,
                                  int64_t total = -1, int64_t minimum = 1);

}  // namespace glyptic::sparsity
