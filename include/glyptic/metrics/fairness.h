// Group fairness of predictions, and how unequally groups suffer under corruption. Definitions follow
// fairlearn and AIF360; where a rate has nothing to be taken over it is NaN, never silently 0.
//
// Everything is a function of one table of weights per (group, true class, predicted class), so a metric
// costs one pass over the samples and a bootstrap replicate another.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace glyptic::metrics {

/// Predictions of N samples, on any device.
struct GroupedPredictions {
  at::Tensor y_true;   ///< int64 [N], classes 0 .. classes - 1
  at::Tensor y_pred;   ///< int64 [N], the same
  at::Tensor groups;   ///< int64 [N], 0 .. group_count - 1
  at::Tensor weights;  ///< floating [N], finite, >= 0; undefined: 1 each
  int64_t classes = 2;
  int64_t group_count = 0;  ///< 0: the largest id + 1
};

struct GroupRates {
  int64_t count = 0;  ///< samples
  double weight = 0;  ///< sum of their weights
  double true_positive = 0, false_positive = 0, false_negative = 0, true_negative = 0;  ///< weights
  /// P(p), P(p|y), P(p|not y), P(not p|not y), P(not p|y), P(p = y), P(y|p), where p and y are "the positive
  /// class is predicted" and "is true". Accuracy is over all classes.
  double selection_rate, true_positive_rate, false_positive_rate, true_negative_rate, false_negative_rate,
      accuracy, precision;
};

struct GroupTable {
  std::vector<GroupRates> groups;
  GroupRates overall;
};

/// Rates per group with `positive` against all other classes. `undefined`: what a rate over nothing is,
/// `nan`, `zero` (fairlearn's behaviour) or `error`. A group without a sample is an ArgumentError, as are ids
/// out of range, lengths that differ, weights that are negative, not finite or all 0.
GroupTable group_table(const GroupedPredictions& data, int64_t positive = 1,
                       const std::string& undefined = "nan");

struct FairnessOptions {
  int64_t positive = 1;  ///< the class that is selected for
  std::string method =
      "between_groups";            ///< max - min (min / max); or to_overall: the largest distance to all
  std::string agg = "worst_case";  ///< of equalized odds: or mean
  std::string undefined = "nan";   ///< or zero, error; see group_table
  int64_t privileged = -1;         ///< group of the signed metrics; -1: the one with most weight
};

struct FairnessValue {
  double value;
  /// Groups that were left out because their rate is undefined. With fewer than two groups left there is
  /// nothing to compare, and the value is NaN.
  std::vector<int64_t> excluded;
};

/// Names that `fairness_metric` takes:
///   demographic_parity_difference, _ratio     of P(p)
///   equal_opportunity_difference, _ratio      of P(p|y)
///   equalized_odds_difference, _ratio         of P(p|y) and P(p|not y): the worse, or their mean
///   accuracy_parity_difference                of the accuracy
///   worst_group_accuracy, worst_cell_accuracy the least over groups, over (group, true class) cells
///   statistical_parity_difference, disparate_impact, signed_equal_opportunity_difference,
///   average_odds_difference, average_odds_error   AIF360's, unprivileged (all other groups) against
///   privileged theil_index           entropy of the benefit b = p - y + 1: mean (b / mu) ln(b / mu)
///   bias_amplification    mean over classes of max_g n_gc / n_c - 1 / groups, n of predictions
/// Differences and the first three kinds of ratio need two groups (ArgumentError). 0 / 0 of a ratio is 1.
const std::vector<std::string>& fairness_metrics();
FairnessValue fairness_metric(const GroupedPredictions& data, const std::string& metric,
                              const FairnessOptions& options = {});

/// The metric of each class against the others, and their mean and worst (the largest difference, the least
/// ratio). Classes where it is NaN are counted and left out of both.
struct OneVsRest {
  std::vector<double> per_class;
  double mean, worst;
  int64_t undefined;
};
OneVsRest one_vs_rest(const GroupedPredictions& data, const std::string& metric,
                      const FairnessOptions& options = {});

struct BootstrapInterval {
  double value, low, high, standard_error;
  int64_t replicates;  ///< that were drawn
  int64_t skipped;     ///< of these, where the metric was NaN
};
/// Percentile interval of level `level` from `replicates` samples of N out of N with replacement. Replicate b
/// draws from child b of the stream "metrics/bootstrap" of `seed`: the same bits for any number of threads.
/// Cost: N draws a replicate, about 40 ns each on one core.
BootstrapInterval bootstrap_interval(const GroupedPredictions& data, const std::string& metric,
                                     const FairnessOptions& options = {}, int64_t replicates = 1000,
                                     double level = .95, uint64_t seed = 0);

/// Area under the ROC curve of each group, then of all: P(score of a positive > of a negative) + half of
/// ties, weighted. NaN where a group lacks one of the two. `positives`: bool or 0/1 [N]; `scores` floating
/// [N].
std::vector<double> group_auc(const at::Tensor& positives, const at::Tensor& scores, const at::Tensor& groups,
                              const at::Tensor& weights = {}, int64_t group_count = 0);

struct DegradationOptions {
  /// range: max - min (for two groups the absolute difference); mean_pairs: mean |R_g - R_h| over pairs; std:
  /// population standard deviation; max_to_overall: max |R_g - R_all|, which needs `counts`.
  std::string reduce = "range";
  bool relative = false;       ///< R_g / clean_g
  bool is_signed = false;      ///< two groups: R_reference - R_other
  int64_t reference = -1;      ///< group of the sign; -1: the larger of `counts`, without them group 0
  std::vector<double> counts;  ///< samples per group
};
/// Corrupted Degradation Disparity, how unequally groups lose by a corruption: R_g = clean_g - corrupted_g of
/// a rate in [0, 1] (accuracy, or another) per group. Equals the change of the gap between groups: a model
/// whose gap is large and stays has 0, as has one that is equally bad for all, so show accuracies beside it.
/// Reconstruction: FairSAM (arXiv 2503.22934) names the measure, its formula was not readable; this is the
/// degradation disparity of the same authors' arXiv 2312.10181 with a corruption in place of compression.
/// ArgumentError: one group, unequal lengths, values outside [0, 1].
double corrupted_degradation_disparity(const std::vector<double>& clean, const std::vector<double>& corrupted,
                                       const DegradationOptions& options = {});

/// Weights of training samples that take group sizes out of the loss, mean 1.
///   group:        1 / (groups P(s))                 every group has the same total
///   reweighing:   P(s) P(y) / P(s, y)               s and y independent (Kamiran & Calders 2012)
///   group_label:  1 / (non-empty cells P(s, y))     every cell has the same total
/// `given` are weights that samples have already: probabilities are then of these and the result is
/// multiplied by them, as AIF360 does.
struct FairWeights {
  at::Tensor weights;  ///< float64 [N]
  at::Tensor
      cells;  ///< float64 [groups, classes], what a sample of (s, y) gets before `given`; 0 where empty
  std::vector<std::pair<int64_t, int64_t>> empty;  ///< (s, y) without a sample; (s, -1): a group without one
};
FairWeights fair_sample_weights(const at::Tensor& groups, const at::Tensor& labels,
                                const std::string& kind = "group", const at::Tensor& given = {},
                                int64_t group_count = 0, int64_t classes = 0);

}  // namespace glyptic::metrics
