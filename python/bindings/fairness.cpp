// Group fairness for Python: tables and metrics over integer ids.
#include "fairness.h"

#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/torch.h>

#include "glyptic/metrics/fairness.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace glyptic {
namespace {

using metrics::FairnessOptions;
using metrics::GroupedPredictions;

/// (y_true, y_pred, groups, weights or None, classes, groups).
using Data = std::tuple<at::Tensor, at::Tensor, at::Tensor, std::optional<at::Tensor>, int64_t, int64_t>;
/// (positive, method, agg, undefined, privileged).
using Options = std::tuple<int64_t, std::string, std::string, std::string, int64_t>;

GroupedPredictions predictions(const Data& data) {
  const auto& [y_true, y_pred, groups, weights, classes, group_count] = data;
  return {y_true, y_pred, groups, weights.value_or(at::Tensor()), classes, group_count};
}

FairnessOptions to_options(const Options& options) {
  const auto& [positive, method, agg, undefined, privileged] = options;
  return {positive, method, agg, undefined, privileged};
}

py::dict rates_dict(const metrics::GroupRates& r) {
  return py::dict(
      "count"_a = r.count, "weight"_a = r.weight, "true_positive"_a = r.true_positive,
      "false_positive"_a = r.false_positive, "false_negative"_a = r.false_negative,
      "true_negative"_a = r.true_negative, "selection_rate"_a = r.selection_rate,
      "true_positive_rate"_a = r.true_positive_rate, "false_positive_rate"_a = r.false_positive_rate,
      "true_negative_rate"_a = r.true_negative_rate, "false_negative_rate"_a = r.false_negative_rate,
      "accuracy"_a = r.accuracy, "precision"_a = r.precision);
}

}  // namespace

void bind_fairness(py::module_& m) {
  m.def("fairness_metrics", &metrics::fairness_metrics);
  m.def(
      "group_table",
      [](const Data& data, int64_t positive, const std::string& undefined) {
        const auto table = metrics::group_table(predictions(data), positive, undefined);
        py::list rows;
        for (const auto& row : table.groups) rows.append(rates_dict(row));
        return py::make_tuple(rows, rates_dict(table.overall));
      },
      "data"_a, "positive"_a, "undefined"_a);
  m.def(
      "fairness_metric",
      [](const Data& data, const std::string& metric, const Options& options) {
        const py::gil_scoped_release release;
        const auto result = metrics::fairness_metric(predictions(data), metric, to_options(options));
        return std::make_pair(result.value, result.excluded);
      },
      "data"_a, "metric"_a, "options"_a);
  m.def(
      "fairness_one_vs_rest",
      [](const Data& data, const std::string& metric, const Options& options) {
        const auto result = metrics::one_vs_rest(predictions(data), metric, to_options(options));
        return py::dict("per_class"_a = result.per_class, "mean"_a = result.mean, "worst"_a = result.worst,
                        "undefined"_a = result.undefined);
      },
      "data"_a, "metric"_a, "options"_a);
  m.def(
      "bootstrap_interval",
      [](const Data& data, const std::string& metric, const Options& options, int64_t replicates,
         double level, uint64_t seed) {
        metrics::BootstrapInterval r;
        {
          const py::gil_scoped_release release;
          r = metrics::bootstrap_interval(predictions(data), metric, to_options(options), replicates, level,
                                          seed);
        }
        return py::dict("value"_a = r.value, "low"_a = r.low, "high"_a = r.high,
                        "standard_error"_a = r.standard_error, "replicates"_a = r.replicates,
                        "skipped"_a = r.skipped);
      },
      "data"_a, "metric"_a, "options"_a, "replicates"_a, "level"_a, "seed"_a);
  m.def(
      "group_auc",
      [](const at::Tensor& positives, const at::Tensor& scores, const at::Tensor& groups,
         const std::optional<at::Tensor>& weights, int64_t group_count) {
        return metrics::group_auc(positives, scores, groups, weights.value_or(at::Tensor()), group_count);
      },
      "positives"_a, "scores"_a, "groups"_a, "weights"_a, "group_count"_a);
  m.def(
      "degradation_disparity",
      [](const std::vector<double>& clean, const std::vector<double>& corrupted, const std::string& reduce,
         bool relative, bool is_signed, int64_t reference, const std::vector<double>& counts) {
        return metrics::corrupted_degradation_disparity(clean, corrupted,
                                                        {reduce, relative, is_signed, reference, counts});
      },
      "clean"_a, "corrupted"_a, "reduce"_a, "relative"_a, "is_signed"_a, "reference"_a, "counts"_a);
  m.def(
      "fair_sample_weights",
      [](const at::Tensor& groups, const at::Tensor& labels, const std::string& kind,
         const std::optional<at::Tensor>& given, int64_t group_count, int64_t classes) {
        const auto result = metrics::fair_sample_weights(groups, labels, kind, given.value_or(at::Tensor()),
                                                         group_count, classes);
        return py::make_tuple(result.weights, result.cells, result.empty);
      },
      "groups"_a, "labels"_a, "kind"_a, "given"_a, "group_count"_a, "classes"_a);
}

}  // namespace glyptic
