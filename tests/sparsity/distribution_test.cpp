#include "glyptic/sparsity/distribution.h"

#include <gtest/gtest.h>

#include "glyptic/core/error.h"
#include "glyptic/core/rng.h"
#include "glyptic/sparsity/schedule.h"

namespace glyptic::sparsity {
namespace {

const std::vector<std::vector<int64_t>> kShapes{{16, 3, 3, 3}, {32, 16, 3, 3}, {64, 32, 3, 3}, {10, 64}};
const std::vector<int64_t> kSizes{432, 4608, 18432, 640};

struct Row {
  double density;
  std::vector<double> densities;
  std::vector<int64_t> counts;
};

// The worked example of the specification, section 1.3; its densities are printed with six decimals.
TEST(Erk, WorkedExample) {
  const std::vector<Row> rows{
      {0.5, {1, 0.825120, 0.389640, 1}, {432, 3802, 7182, 640}},
      {0.2, {1, 0.281731, 0.133040, 1}, {432, 1298, 2452, 640}},
      {0.1, {0.566298, 0.114675, 0.054152, 1}, {245, 528, 998, 640}},
      {0.05, {0.273602, 0.055404, 0.026163, 0.546657}, {118, 256, 482, 350}},
  };
  for (const auto& row : rows) {
    const auto densities = erk_densities(kShapes, row.density);
    double sum = 0;
    for (std::size_t l = 0; l < densities.size(); ++l) {
      EXPECT_NEAR(densities[l], row.densities[l], 6e-7) << "density " << row.density << ", layer " << l;
      sum += densities[l] * static_cast<double>(kSizes[l]);
    }
    EXPECT_NEAR(sum, row.density * 24112, 1e-8);
    EXPECT_EQ(layer_counts(densities, kSizes, std::llround(row.density * 24112)), row.counts);
  }
}

TEST(Erk, DensityOneIsDense) {
  for (const auto d : erk_densities(kShapes, 1.0)) EXPECT_EQ(d, 1.0);
}

// Over random networks: the budget is met in real and in whole numbers, no layer above 1, none below one
// weight, and free layers have densities in the proportion of their p.
TEST(Erk, PropertiesOverRandomNetworks) {
  for (uint64_t trial = 0; trial < 200; ++trial) {
    const RngStream rng(trial, "erk test");
    std::vector<std::vector<int64_t>> shapes;
    std::vector<int64_t> sizes;
    const auto layers = 1 + rng.below(0, 8);
    int64_t n = 0;
    for (uint64_t l = 0; l < layers; ++l) {
      const auto side = static_cast<int64_t>(1 + 2 * rng.below(10 + l, 3));
      std::vector<int64_t> shape{static_cast<int64_t>(1 + rng.below(30 + l, 64)),
                                 static_cast<int64_t>(1 + rng.below(50 + l, 64))};
      if (rng.below(70 + l, 2)) shape.insert(shape.end(), {side, side});
      int64_t size = 1;
      for (const auto s : shape) size *= s;
      shapes.push_back(shape);
      sizes.push_back(size);
      n += size;
    }
    const double density = 0.01 + 0.99 * rng.uniform(1);
    const auto densities = erk_densities(shapes, density);
    double sum = 0;
    for (std::size_t l = 0; l < shapes.size(); ++l) {
      EXPECT_GT(densities[l], 0);
      EXPECT_LE(densities[l], 1);
      sum += densities[l] * static_cast<double>(sizes[l]);
    }
    EXPECT_NEAR(sum, density * static_cast<double>(n), 1e-9 * static_cast<double>(n));
    const auto target = std::max<int64_t>(std::llround(density * static_cast<double>(n)),
                                          static_cast<int64_t>(shapes.size()));
    const auto counts = layer_counts(densities, sizes, target);
    EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), int64_t{0}), target);
    for (std::size_t l = 0; l < counts.size(); ++l) {
      EXPECT_GE(counts[l], 1);
      EXPECT_LE(counts[l], sizes[l]);
    }
  }
}

TEST(LayerDensities, UniformErAndCustom) {
  const std::vector<LayerShape> layers{{"a", {16, 3, 3, 3}}, {"b", {32, 16, 3, 3}}, {"c", {10, 64}}};
  for (const auto d : layer_densities(layers, 0.3, {.kind = Distribution::uniform})) EXPECT_EQ(d, 0.3);
  // ER looks at the two channel dimensions only: p = (n_in + n_out) / (n_in n_out).
  const auto er = layer_densities(layers, 0.1, {.kind = Distribution::er});
  EXPECT_NEAR(er[1] / er[2], (48.0 / 512) / (74.0 / 640), 1e-12);
  const auto custom =
      layer_densities(layers, 0.1, {.kind = Distribution::erk, .custom_density = {{"b", 0.7}}});
  EXPECT_EQ(custom[1], 0.7);
  EXPECT_NEAR(custom[0] * 432 + custom[2] * 640, 0.1 * (432 + 640), 1e-9);  // b is out of both sums
}

TEST(LayerDensities, RefusesByName) {
  const std::vector<LayerShape> layers{{"conv1.weight", {4, 3, 3, 3}}};
  EXPECT_THROW(layer_densities(layers, 0), ArgumentError);
  EXPECT_THROW(layer_densities(layers, 1.5), ArgumentError);
  EXPECT_THROW(layer_densities({}, 0.5), ArgumentError);
  try {
    layer_densities(layers, 0.5, {.custom_density = {{"conv2.weight", 0.5}}});
    FAIL();
  } catch (const ArgumentError& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean 'conv1.weight'"), std::string::npos)
        << error.what();
  }
}

TEST(Schedules, Values) {
  const auto f = cosine_decay(0.3, 1000);
  EXPECT_NEAR(f(0), 0.3, 1e-15);
  EXPECT_NEAR(f(500), 0.15, 1e-15);
  EXPECT_NEAR(f(1000), 0, 1e-15);
  EXPECT_NEAR(f(5000), 0, 1e-15);
  // ITOP's form at 82 % of training, quoted as about 0.04 in the specification, section 4.4.
  EXPECT_NEAR(cosine_decay(0.5, 100, 0.005)(82), 0.04, 0.005);
  EXPECT_EQ(cubic_sparsity(10, 0.1, 0.9, 10, 20), 0.1);
  EXPECT_EQ(cubic_sparsity(20, 0.1, 0.9, 10, 20), 0.9);
  EXPECT_NEAR(cubic_sparsity(15, 0.1, 0.9, 10, 20), 0.9 - 0.8 / 8, 1e-15);
  EXPECT_THROW(drop_schedule("cosin", 0.3, 10, 0, 3), ArgumentError);
}

}  // namespace
}  // namespace glyptic::sparsity
