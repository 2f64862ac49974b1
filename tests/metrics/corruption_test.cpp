#include "glyptic/metrics/corruption.h"

#include <gtest/gtest.h>

#include "../support.h"
#include "glyptic/core/error.h"

namespace glyptic::metrics {
namespace {

TEST(CorruptionError, ByHand) {
  const CorruptionErrors errors = {{"fog", {0.25, 0.75}}, {"snow", {0.5, 0.5}}};
  const CorruptionErrors baseline = {{"fog", {0.5, 0.75}}, {"snow", {1.0}}, {"frost", {0.1}}};
  const auto each = corruption_error(errors, baseline);
  EXPECT_DOUBLE_EQ(each.at("fog"), 0.8);
  EXPECT_DOUBLE_EQ(each.at("snow"), 0.5);
  EXPECT_EQ(each.size(), 2u);
  EXPECT_DOUBLE_EQ(mean_corruption_error(errors, baseline), 0.65);
  EXPECT_DOUBLE_EQ(mean_corruption_error(errors), 0.5);
  // (.5 - .25) / (.625 - .125) and (.5 - .25) / (1 - .125).
  EXPECT_DOUBLE_EQ(relative_mean_corruption_error(errors, 0.25, baseline, 0.125), (0.5 + 0.25 / 0.875) / 2);
  EXPECT_DOUBLE_EQ(relative_mean_corruption_error(errors, 0.25), 0.25);
}

TEST(CorruptionError, AlexNetIsOne) {
  EXPECT_EQ(alexnet_errors().size(), 15u);
  EXPECT_DOUBLE_EQ(mean_corruption_error(alexnet_errors(), alexnet_errors()), 1.0);
  EXPECT_DOUBLE_EQ(alexnet_errors().at("jpeg_compression")[0], .6065);
  EXPECT_DOUBLE_EQ(alexnet_errors().at("gaussian_noise")[0], .886428);
}

TEST(CorruptionError, Summary) {
  const CorruptionErrors errors = {
      {"fog", {0.25, 0.75}}, {"snow", {0.5, 0.25}}, {"shot_noise", {0.75}}, {"own", {1.0}}};
  const auto summary = summarize_corruptions(errors, 0.25);
  EXPECT_DOUBLE_EQ(summary.mean, (0.5 + 0.375 + 0.75 + 1.0) / 4);
  EXPECT_DOUBLE_EQ(summary.families.at("weather"), 0.4375);
  EXPECT_DOUBLE_EQ(summary.families.at("noise"), 0.75);
  EXPECT_EQ(summary.families.size(), 2u);
  EXPECT_DOUBLE_EQ(summary.drops.at("fog"), 0.25);
  EXPECT_EQ(summary.worst, "own");
  EXPECT_DOUBLE_EQ(summary.worst_error, 1.0);
}

TEST(CorruptionError, RefusesWhatCannotBe) {
  const auto fails = [](const CorruptionErrors& errors, const CorruptionErrors& baseline) {
    return message_of<ArgumentError>([&] { mean_corruption_error(errors, baseline); });
  };
  expect_contains(fails({}, {}), "no corruption");
  expect_contains(fails({{"fog", {}}}, {}), "no severity");
  expect_contains(fails({{"fog", {37.5}}}, {}), "not percent");
  expect_contains(fails({{"fog", {std::nan("")}}}, {}), "not percent");
  expect_contains(fails({{"fog", {0.5}}}, {{"snow", {0.5}}}), "no errors of 'fog'");
  expect_contains(fails({{"fog", {0.5, 0.5}}}, {{"fog", {0.5, 0.5, 0.5}}}), "2 severities, its baseline 3");
  expect_contains(fails({{"fog", {0.5}}}, {{"fog", {0.0}}}), "more than 0");
  expect_contains(message_of<ArgumentError>([] {
                    summarize_corruptions({{"fog", {0.5}}}, 20);
                  }),
                  "clean is 20");
}

}  // namespace
}  // namespace glyptic::metrics
