#include "glyptic/metrics/fairness.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "../support.h"
#include "glyptic/core/error.h"

namespace glyptic::metrics {
namespace {

GroupedPredictions example() {
  return {torch::tensor({1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0}),
          torch::tensor({1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1}),
          torch::tensor({0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1}),
          {},
          2,
          0};
}

TEST(Fairness, ByHand) {
  const auto table = group_table(example());
  EXPECT_DOUBLE_EQ(table.groups[0].selection_rate, .5);
  EXPECT_DOUBLE_EQ(table.groups[1].true_positive_rate, .5);
  EXPECT_DOUBLE_EQ(table.groups[1].false_positive_rate, .25);
  EXPECT_DOUBLE_EQ(table.overall.accuracy, 2.0 / 3);
  EXPECT_EQ(table.overall.count, 12);
  EXPECT_DOUBLE_EQ(fairness_metric(example(), "equalized_odds_difference").value, 1 - 5.0 / 6);
  FairnessOptions mean;
  mean.agg = "mean";
  EXPECT_DOUBLE_EQ(fairness_metric(example(), "equalized_odds_difference", mean).value, .125);
  FairnessOptions overall;
  overall.method = "to_overall";
  EXPECT_NEAR(fairness_metric(example(), "demographic_parity_difference", overall).value, 1.0 / 12, 1e-15);
}

TEST(Fairness, AnUndefinedRateIsNamed) {
  auto data = example();
  data.y_true = torch::tensor({1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  const auto value = fairness_metric(data, "equal_opportunity_difference");
  EXPECT_TRUE(std::isnan(value.value));
  EXPECT_EQ(value.excluded, std::vector<int64_t>{1});
  FairnessOptions zero;
  zero.undefined = "zero";
  EXPECT_DOUBLE_EQ(fairness_metric(data, "equal_opportunity_difference", zero).value, 2.0 / 3);
}

TEST(Fairness, Refused) {
  auto data = example();
  data.group_count = 3;
  EXPECT_NE(message_of<ArgumentError>([&] { group_table(data); }).find("group 2 has no sample"),
            std::string::npos);
  data = example();
  data.group_count = 1;
  EXPECT_NE(message_of<ArgumentError>([&] { group_table(data); }).find("groups of sample 6 is 1"),
            std::string::npos);
  data = example();
  data.groups = data.groups.to(at::kDouble);
  EXPECT_NE(message_of<ArgumentError>([&] { group_table(data); }).find("floating type"), std::string::npos);
}

TEST(Fairness, BootstrapIsSeeded) {
  const auto a = bootstrap_interval(example(), "demographic_parity_difference", {}, 50, .9, 7);
  const auto b = bootstrap_interval(example(), "demographic_parity_difference", {}, 50, .9, 7);
  const auto c = bootstrap_interval(example(), "demographic_parity_difference", {}, 50, .9, 8);
  EXPECT_EQ(a.standard_error, b.standard_error);
  EXPECT_NE(a.standard_error, c.standard_error);
}

TEST(Fairness, SampleWeights) {
  const auto data = example();
  const auto w = fair_sample_weights(data.groups, data.y_true, "reweighing");
  EXPECT_NEAR(w.cells[0][0].item<double>(), 7.0 / 6, 1e-15);
  EXPECT_NEAR(w.cells[0][1].item<double>(), 5.0 / 6, 1e-15);
  EXPECT_NEAR(w.cells[1][0].item<double>(), .875, 1e-15);
  EXPECT_NEAR(w.cells[1][1].item<double>(), 1.25, 1e-15);
  EXPECT_NEAR(w.weights.sum().item<double>(), 12, 1e-12);
}

}  // namespace
}  // namespace glyptic::metrics
