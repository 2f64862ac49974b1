#include "glyptic/metrics/fairness.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

#include "glyptic/core/error.h"
#include "glyptic/core/rng.h"
#include "glyptic/kernels/parallel.h"

namespace glyptic::metrics {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

enum class Undefined { nan, zero, error };

Undefined undefined_from(const std::string& name) {
  if (name == "nan") return Undefined::nan;
  if (name == "zero") return Undefined::zero;
  require(name == "error", "undefined is '", name, "', expected nan, zero or error");
  return Undefined::error;
}

std::vector<int64_t> ids(const char* what, const at::Tensor& tensor, int64_t n, int64_t limit) {
  require(tensor.defined() && tensor.dim() == 1, what, ": expected a tensor of shape [N]");
  require(!tensor.is_floating_point() && !tensor.is_complex(), what,
          " is of a floating type, expected integer ids");
  require(n < 0 || tensor.numel() == n, what, " has ", tensor.numel(), " entries for ", n, " samples");
  const auto flat = tensor.to(at::kCPU, at::kLong).contiguous();
  std::vector<int64_t> result(flat.data_ptr<int64_t>(), flat.data_ptr<int64_t>() + flat.numel());
  for (std::size_t i = 0; i < result.size(); ++i)
    require(result[i] >= 0 && (limit <= 0 || result[i] < limit), what, " of sample ", i, " is ", result[i],
            limit > 0 ? str(", expected 0 to ", limit - 1) : std::string(", expected 0 or more"));
  return result;
}

std::vector<double> weights_of(const at::Tensor& tensor, int64_t n) {
  if (!tensor.defined()) return {};
  require(tensor.dim() == 1 && tensor.numel() == n, "weights: ", tensor.numel(), " entries for ", n,
          " samples");
  const auto flat = tensor.detach().to(at::kCPU, at::kDouble).contiguous();
  std::vector<double> result(flat.data_ptr<double>(), flat.data_ptr<double>() + n);
  double sum = 0;
  for (std::size_t i = 0; i < result.size(); ++i) {
    require(result[i] >= 0 && std::isfinite(result[i]), "the weight of sample ", i, " is ", result[i],
            ", expected a finite number >= 0");
    sum += result[i];
  }
  require(sum > 0, "the weights sum to 0");
  return result;
}

int64_t count_of(const std::vector<int64_t>& values, int64_t given) {
  return given > 0 ? given : *std::max_element(values.begin(), values.end()) + 1;
}

/// Weights per (group, true, predicted), and samples per group.
struct Confusion {
  int64_t groups, classes;
  std::vector<double> weight;
  std::vector<int64_t> count;

  Confusion(int64_t groups, int64_t classes)
      : groups(groups),
        classes(classes),
        weight(static_cast<std::size_t>(groups * classes * classes)),
        count(static_cast<std::size_t>(groups)) {}
  double at(int64_t g, int64_t y, int64_t p) const {
    return weight[static_cast<std::size_t>((g * classes + y) * classes + p)];
  }
};

/// The samples as cell numbers: what every replicate goes through again.
struct Samples {
  int64_t groups, classes;
  std::vector<int64_t> cell;
  std::vector<double> weight;  // empty: 1 each

  explicit Samples(const GroupedPredictions& data) : classes(data.classes) {
    require(data.classes >= 2, "there are ", data.classes, " classes, expected 2 or more");
    const auto y = ids("y_true", data.y_true, -1, classes);
    const auto n = static_cast<int64_t>(y.size());
    require(n > 0, "there is no sample");
    const auto p = ids("y_pred", data.y_pred, n, classes);
    const auto g = ids("groups", data.groups, n, data.group_count);
    weight = weights_of(data.weights, n);
    groups = count_of(g, data.group_count);
    cell.resize(y.size());
    for (std::size_t i = 0; i < y.size(); ++i) cell[i] = (g[i] * classes + y[i]) * classes + p[i];
  }

  void add(Confusion& table, std::size_t i) const {
    table.weight[static_cast<std::size_t>(cell[i])] += weight.empty() ? 1 : weight[i];
    ++table.count[static_cast<std::size_t>(cell[i] / (classes * classes))];
  }

  Confusion confusion() const {
    Confusion table(groups, classes);
    for (std::size_t i = 0; i < cell.size(); ++i) add(table, i);
    for (int64_t g = 0; g < groups; ++g)
      require(table.count[static_cast<std::size_t>(g)] > 0, "group ", g,
              " has no sample; leave it out of the ids, or give samples of it");
    return table;
  }
};

double rate(double part, double whole, Undefined undefined) {
  if (whole > 0) return part / whole;
  return undefined == Undefined::zero ? 0 : kNan;
}

GroupRates rates_of(const Confusion& table, int64_t first, int64_t last, int64_t positive,
                    Undefined undefined) {
  GroupRates r{};
  double correct = 0;
  for (int64_t g = first; g < last; ++g) {
    r.count += table.count[static_cast<std::size_t>(g)];
    for (int64_t y = 0; y < table.classes; ++y)
      for (int64_t p = 0; p < table.classes; ++p) {
        const double w = table.at(g, y, p);
        r.weight += w;
        if (y == p) correct += w;
        (y == positive ? (p == positive ? r.true_positive : r.false_negative)
                       : (p == positive ? r.false_positive : r.true_negative)) += w;
      }
  }
  const double positives = r.true_positive + r.false_negative, negatives = r.false_positive + r.true_negative;
  const double selected = r.true_positive + r.false_positive;
  r.selection_rate = rate(selected, r.weight, undefined);
  r.true_positive_rate = rate(r.true_positive, positives, undefined);
  r.false_negative_rate = rate(r.false_negative, positives, undefined);
  r.false_positive_rate = rate(r.false_positive, negatives, undefined);
  r.true_negative_rate = rate(r.true_negative, negatives, undefined);
  r.accuracy = rate(correct, r.weight, undefined);
  r.precision = rate(r.true_positive, selected, undefined);
  return r;
}

using Rate = double GroupRates::*;
enum class Kind { difference, ratio, worst_group, worst_cell, signed_, theil, amplification };

struct Metric {
  const char* name;
  Kind kind;
  std::vector<Rate> rates;
};

const std::vector<Metric>& metrics() {
  static const std::vector<Metric> list = {
      {"demographic_parity_difference", Kind::difference, {&GroupRates::selection_rate}},
      {"demographic_parity_ratio", Kind::ratio, {&GroupRates::selection_rate}},
      {"equal_opportunity_difference", Kind::difference, {&GroupRates::true_positive_rate}},
      {"equal_opportunity_ratio", Kind::ratio, {&GroupRates::true_positive_rate}},
      {"equalized_odds_difference",
       Kind::difference,
       {&GroupRates::true_positive_rate, &GroupRates::false_positive_rate}},
      {"equalized_odds_ratio",
       Kind::ratio,
       {&GroupRates::true_positive_rate, &GroupRates::false_positive_rate}},
      {"accuracy_parity_difference", Kind::difference, {&GroupRates::accuracy}},
      {"worst_group_accuracy", Kind::worst_group, {&GroupRates::accuracy}},
      {"worst_cell_accuracy", Kind::worst_cell, {}},
      {"statistical_parity_difference", Kind::signed_, {&GroupRates::selection_rate}},
      {"disparate_impact", Kind::signed_, {&GroupRates::selection_rate}},
      {"signed_equal_opportunity_difference", Kind::signed_, {&GroupRates::true_positive_rate}},
      {"average_odds_difference",
       Kind::signed_,
       {&GroupRates::false_positive_rate, &GroupRates::true_positive_rate}},
      {"average_odds_error",
       Kind::signed_,
       {&GroupRates::false_positive_rate, &GroupRates::true_positive_rate}},
      {"theil_index", Kind::theil, {}},
      {"bias_amplification", Kind::amplification, {}},
  };
  return list;
}

double ratio_of(double a, double b) {
  return a == 0 && b == 0 ? 1 : a / b;
}

/// What a metric needs besides the table, checked once.
struct Request {
  const Metric* metric = nullptr;
  int64_t positive, privileged;
  bool to_overall, mean;
  Undefined undefined;

  Request(const Samples& samples, const std::string& name, const FairnessOptions& options)
      : positive(options.positive),
        privileged(options.privileged),
        undefined(undefined_from(options.undefined)) {
    for (const auto& candidate : metrics())
      if (name == candidate.name) metric = &candidate;
    if (!metric) {
      std::string known;
      for (const auto& candidate : metrics())
        known += (known.empty() ? "" : ", ") + std::string(candidate.name);
      throw ArgumentError(str("there is no fairness metric '", name, "'; there are ", known));
    }
    require(options.method == "between_groups" || options.method == "to_overall", "method is '",
            options.method, "', expected between_groups or to_overall");
    require(options.agg == "worst_case" || options.agg == "mean", "agg is '", options.agg,
            "', expected worst_case or mean");
    to_overall = options.method == "to_overall";
    mean = options.agg == "mean";
    require(0 <= positive && positive < samples.classes, "the positive class is ", positive,
            ", expected 0 to ", samples.classes - 1);
    const bool compares =
        metric->kind == Kind::difference || metric->kind == Kind::ratio || metric->kind == Kind::signed_;
    require(!compares || samples.groups >= 2, name, " compares groups, but there is one group only");
    require(privileged >= -1 && privileged < samples.groups, "the privileged group is ", privileged,
            ", expected 0 to ", samples.groups - 1);
  }
};

/// max - min or min / max of one rate over the groups that have it, or its distance to the whole.
double gap(const std::vector<GroupRates>& groups, const GroupRates& all, Rate member, const Request& request,
           std::vector<int64_t>& excluded) {
  std::vector<double> values;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const double value = groups[g].*member;
    if (!std::isnan(value))
      values.push_back(value);
    else if (std::find(excluded.begin(), excluded.end(), static_cast<int64_t>(g)) == excluded.end())
      excluded.push_back(static_cast<int64_t>(g));
  }
  if (values.size() < 2) return kNan;
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  const bool ratio = request.metric->kind == Kind::ratio;
  if (!request.to_overall) return ratio ? ratio_of(*low, *high) : *high - *low;
  const double whole = all.*member;
  if (!ratio) return std::max(std::abs(*high - whole), std::abs(*low - whole));
  double least = 1;
  for (const double value : values) least = std::min({least, ratio_of(value, whole), ratio_of(whole, value)});
  return least;
}

FairnessValue evaluate(const Confusion& table, const Request& request) {
  FairnessValue result{kNan, {}};
  const auto& metric = *request.metric;
  const auto G = table.groups, C = table.classes;
  std::vector<GroupRates> groups;
  for (int64_t g = 0; g < G; ++g)
    groups.push_back(rates_of(table, g, g + 1, request.positive, request.undefined));
  const auto all = rates_of(table, 0, G, request.positive, request.undefined);

  switch (metric.kind) {
    case Kind::difference:
    case Kind::ratio: {
      std::vector<double> gaps;
      for (const auto member : metric.rates)
        gaps.push_back(gap(groups, all, member, request, result.excluded));
      if (std::any_of(gaps.begin(), gaps.end(), [](double v) { return std::isnan(v); })) break;
      if (request.mean)
        result.value = std::accumulate(gaps.begin(), gaps.end(), 0.0) / static_cast<double>(gaps.size());
      else
        result.value = metric.kind == Kind::ratio ? *std::min_element(gaps.begin(), gaps.end())
                                                  : *std::max_element(gaps.begin(), gaps.end());
      break;
    }
    case Kind::worst_group:
      for (std::size_t g = 0; g < groups.size(); ++g) {
        if (std::isnan(groups[g].accuracy))
          result.excluded.push_back(static_cast<int64_t>(g));
        else if (std::isnan(result.value) || groups[g].accuracy < result.value)
          result.value = groups[g].accuracy;
      }
      break;
    case Kind::worst_cell:
      for (int64_t g = 0; g < G; ++g)
        for (int64_t y = 0; y < C; ++y) {
          double whole = 0;
          for (int64_t p = 0; p < C; ++p) whole += table.at(g, y, p);
          if (whole == 0) continue;  // a cell without a sample is no cell
          const double accuracy = table.at(g, y, y) / whole;
          if (std::isnan(result.value) || accuracy < result.value) result.value = accuracy;
        }
      break;
    case Kind::signed_: {
      // All other groups together are the unprivileged.
      int64_t privileged = request.privileged;
      if (privileged < 0)
        for (int64_t g = 0; g < G; ++g)
          if (privileged < 0 || groups[static_cast<std::size_t>(g)].weight >
                                    groups[static_cast<std::size_t>(privileged)].weight)
            privileged = g;
      Confusion rest(1, C);
      for (int64_t g = 0; g < G; ++g) {
        if (g == privileged) continue;
        rest.count[0] += table.count[static_cast<std::size_t>(g)];
        for (int64_t cell = 0; cell < C * C; ++cell)
          rest.weight[static_cast<std::size_t>(cell)] +=
              table.weight[static_cast<std::size_t>(g * C * C + cell)];
      }
      const auto u = rates_of(rest, 0, 1, request.positive, request.undefined);
      const auto& p = groups[static_cast<std::size_t>(privileged)];
      const std::string name = metric.name;
      if (name == "disparate_impact") {
        result.value = ratio_of(u.selection_rate, p.selection_rate);
        break;
      }
      double sum = 0;
      for (const auto member : metric.rates) {
        const double difference = u.*member - p.*member;
        sum += name == "average_odds_error" ? std::abs(difference) : difference;
      }
      result.value = sum / static_cast<double>(metric.rates.size());
      break;
    }
    case Kind::theil: {
      // b is 0 for a missed positive, 1 where right, 2 for a false positive; 0 ln 0 = 0.
      const double n = all.weight;
      const double mu = (n - all.false_negative + all.false_positive) / n;
      if (!(mu > 0)) break;
      const double right = all.true_positive + all.true_negative;
      result.value = (right / mu * std::log(1 / mu) + all.false_positive * 2 / mu * std::log(2 / mu)) / n;
      break;
    }
    case Kind::amplification: {
      double sum = 0;
      int64_t seen = 0;
      for (int64_t c = 0; c < C; ++c) {
        double most = 0, whole = 0;
        for (int64_t g = 0; g < G; ++g) {
          double n = 0;
          for (int64_t y = 0; y < C; ++y) n += table.at(g, y, c);
          most = std::max(most, n);
          whole += n;
        }
        if (whole == 0) continue;
        sum += most / whole - 1 / static_cast<double>(G);
        ++seen;
      }
      if (seen > 0) result.value = sum / static_cast<double>(seen);
      break;
    }
  }
  return result;
}

/// As numpy's nanquantile: linear between order statistics.
double quantile(const std::vector<double>& sorted, double q) {
  const double at = q * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<std::size_t>(at);
  const auto high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (at - static_cast<double>(low)) * (sorted[high] - sorted[low]);
}

}  // namespace

GroupTable group_table(const GroupedPredictions& data, int64_t positive, const std::string& undefined) {
  const Samples samples(data);
  const auto rule = undefined_from(undefined);
  require(0 <= positive && positive < samples.classes, "the positive class is ", positive, ", expected 0 to ",
          samples.classes - 1);
  const auto table = samples.confusion();
  GroupTable result;
  for (int64_t g = 0; g < table.groups; ++g) {
    result.groups.push_back(rates_of(table, g, g + 1, positive, rule));
    const auto& r = result.groups.back();
    require(rule != Undefined::error || !(std::isnan(r.true_positive_rate) ||
                                          std::isnan(r.false_positive_rate) || std::isnan(r.selection_rate)),
            "group ", g,
            " has no sample of weight that is positive or none that is negative, so a rate of it is "
            "undefined; undefined='nan' leaves it out");
  }
  result.overall = rates_of(table, 0, table.groups, positive, rule);
  return result;
}

const std::vector<std::string>& fairness_metrics() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> result;
    for (const auto& metric : metrics()) result.emplace_back(metric.name);
    return result;
  }();
  return names;
}

FairnessValue fairness_metric(const GroupedPredictions& data, const std::string& metric,
                              const FairnessOptions& options) {
  const Samples samples(data);
  const Request request(samples, metric, options);
  auto result = evaluate(samples.confusion(), request);
  if (request.undefined == Undefined::error)
    require(result.excluded.empty() && !std::isnan(result.value), metric, ": group ",
            result.excluded.empty() ? int64_t{0} : result.excluded[0],
            " has no sample to take a rate over; undefined='nan' leaves it out");
  return result;
}

OneVsRest one_vs_rest(const GroupedPredictions& data, const std::string& metric,
                      const FairnessOptions& options) {
  const Samples samples(data);
  const auto table = samples.confusion();
  OneVsRest result{{}, kNan, kNan, 0};
  double sum = 0;
  for (int64_t c = 0; c < samples.classes; ++c) {
    auto one = options;
    one.positive = c;
    const Request request(samples, metric, one);
    const double value = evaluate(table, request).value;
    require(request.undefined != Undefined::error || !std::isnan(value), metric, " of class ", c,
            " is undefined; undefined='nan' leaves it out");
    result.per_class.push_back(value);
    if (std::isnan(value)) {
      ++result.undefined;
      continue;
    }
    sum += value;
    const bool least = request.metric->kind == Kind::ratio;
    if (std::isnan(result.worst) || (least ? value < result.worst : std::abs(value) > std::abs(result.worst)))
      result.worst = value;
  }
  const auto defined = samples.classes - result.undefined;
  if (defined > 0) result.mean = sum / static_cast<double>(defined);
  return result;
}

BootstrapInterval bootstrap_interval(const GroupedPredictions& data, const std::string& metric,
                                     const FairnessOptions& options, int64_t replicates, double level,
                                     uint64_t seed) {
  require(replicates >= 2, "bootstrap: ", replicates, " replicates, expected 2 or more");
  require(0 < level && level < 1, "bootstrap: level is ", level, ", expected a number between 0 and 1");
  const Samples samples(data);
  const Request request(samples, metric, options);
  BootstrapInterval result{evaluate(samples.confusion(), request).value, kNan, kNan, kNan, replicates, 0};

  struct Work {
    const Samples& samples;
    const Request& request;
    RngStream stream;
    std::vector<double> values;
  } work{samples, request, RngStream(seed, "metrics/bootstrap"),
         std::vector<double>(static_cast<std::size_t>(replicates))};
  glyptic_parallel_run(
      replicates, at::get_num_threads(),
      [](void* context, int64_t b) {
        auto& w = *static_cast<Work*>(context);
        const auto draw = w.stream.child(static_cast<uint64_t>(b));
        const auto n = w.samples.cell.size();
        Confusion table(w.samples.groups, w.samples.classes);
        for (std::size_t i = 0; i < n; ++i) w.samples.add(table, draw.below(i, n));
        // A group that was not drawn has no rates, whatever `undefined` is: the replicate says nothing.
        const bool whole =
            std::all_of(table.count.begin(), table.count.end(), [](int64_t c) { return c > 0; });
        w.values[static_cast<std::size_t>(b)] = whole ? evaluate(table, w.request).value : kNan;
      },
      &work);

  std::vector<double> values;
  for (const double value : work.values)
    if (!std::isnan(value)) values.push_back(value);
  result.skipped = replicates - static_cast<int64_t>(values.size());
  if (values.empty()) return result;
  std::sort(values.begin(), values.end());
  result.low = quantile(values, (1 - level) / 2);
  result.high = quantile(values, (1 + level) / 2);
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  if (values.size() > 1) result.standard_error = std::sqrt(squares / static_cast<double>(values.size() - 1));
  return result;
}

std::vector<double> group_auc(const at::Tensor& positives, const at::Tensor& scores, const at::Tensor& groups,
                              const at::Tensor& weights, int64_t group_count) {
  const auto y = ids("positives", positives, -1, 2);
  const auto n = static_cast<int64_t>(y.size());
  require(n > 0, "there is no sample");
  const auto g = ids("groups", groups, n, group_count);
  const auto w = weights_of(weights, n);
  require(scores.defined() && scores.dim() == 1 && scores.numel() == n && scores.is_floating_point(),
          "scores: expected a floating tensor of ", n, " entries");
  const auto flat = scores.detach().to(at::kCPU, at::kDouble).contiguous();
  const double* s = flat.data_ptr<double>();
  for (int64_t i = 0; i < n; ++i) require(!std::isnan(s[i]), "the score of sample ", i, " is NaN");
  std::vector<std::size_t> order(y.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return s[a] < s[b]; });

  const auto area = [&](int64_t group) {
    // Going up the scores: what each positive adds is the weight of negatives below and half of those beside.
    double below = 0, sum = 0, total = 0;
    for (std::size_t i = 0; i < order.size();) {
      double plus = 0, minus = 0;
      const double score = s[order[i]];
      for (; i < order.size() && s[order[i]] == score; ++i)
        if (group < 0 || g[order[i]] == group) (y[order[i]] ? plus : minus) += w.empty() ? 1 : w[order[i]];
      sum += plus * (below + minus / 2);
      below += minus;
      total += plus;
    }
    return total > 0 && below > 0 ? sum / (total * below) : kNan;
  };
  std::vector<double> result;
  for (int64_t group = 0; group < count_of(g, group_count); ++group) result.push_back(area(group));
  result.push_back(area(-1));
  return result;
}

double corrupted_degradation_disparity(const std::vector<double>& clean, const std::vector<double>& corrupted,
                                       const DegradationOptions& options) {
  const auto G = clean.size();
  require(G >= 2, "corrupted degradation disparity compares groups, but there ",
          G == 1 ? "is one" : "is none");
  require(corrupted.size() == G, "there are ", G, " clean and ", corrupted.size(), " corrupted rates");
  require(options.counts.empty() || options.counts.size() == G, "there are ", options.counts.size(),
          " counts for ", G, " groups");
  double total = 0;
  for (std::size_t g = 0; g < options.counts.size(); ++g) {
    require(options.counts[g] > 0 && std::isfinite(options.counts[g]), "group ", g, " has ",
            options.counts[g], " samples");
    total += options.counts[g];
  }
  std::vector<double> loss(G);
  for (std::size_t g = 0; g < G; ++g) {
    for (const double value : {clean[g], corrupted[g]})
      require(std::isnan(value) || (0 <= value && value <= 1), "a rate of group ", g, " is ", value,
              ", expected a fraction from 0 to 1");
    loss[g] = clean[g] - corrupted[g];
    if (options.relative) loss[g] = clean[g] > 0 ? loss[g] / clean[g] : kNan;
    if (std::isnan(loss[g])) return kNan;
  }
  if (options.is_signed) {
    require(G == 2, "a signed disparity is of two groups, not ", G);
    auto reference = options.reference;
    require(reference >= -1 && reference < 2, "the reference group is ", reference, ", expected 0 or 1");
    if (reference < 0) reference = !options.counts.empty() && options.counts[1] > options.counts[0] ? 1 : 0;
    return reference == 0 ? loss[0] - loss[1] : loss[1] - loss[0];
  }
  if (options.reduce == "range") {
    const auto [low, high] = std::minmax_element(loss.begin(), loss.end());
    return *high - *low;
  }
  const double n = static_cast<double>(G);
  if (options.reduce == "mean_pairs") {
    double sum = 0;
    for (std::size_t g = 0; g < G; ++g)
      for (std::size_t h = 0; h < g; ++h) sum += std::abs(loss[g] - loss[h]);
    return sum / (n * (n - 1) / 2);
  }
  if (options.reduce == "std") {
    const double mean = std::accumulate(loss.begin(), loss.end(), 0.0) / n;
    double squares = 0;
    for (const double value : loss) squares += (value - mean) * (value - mean);
    return std::sqrt(squares / n);
  }
  require(options.reduce == "max_to_overall", "reduce is '", options.reduce,
          "', expected range, mean_pairs, std or max_to_overall");
  require(total > 0, "max_to_overall needs the number of samples of each group");
  // A relative loss of all is that of the pooled rates, not the mean of relative losses.
  double before = 0, after = 0;
  for (std::size_t g = 0; g < G; ++g) {
    before += options.counts[g] / total * clean[g];
    after += options.counts[g] / total * corrupted[g];
  }
  const double whole = options.relative ? (before - after) / before : before - after;
  double most = 0;
  for (const double value : loss) most = std::max(most, std::abs(value - whole));
  return most;
}

FairWeights fair_sample_weights(const at::Tensor& groups, const at::Tensor& labels, const std::string& kind,
                                const at::Tensor& given, int64_t group_count, int64_t classes) {
  require(kind == "group" || kind == "reweighing" || kind == "group_label", "weights are '", kind,
          "', expected group, reweighing or group_label");
  const auto s = ids("groups", groups, -1, group_count);
  const auto n = static_cast<int64_t>(s.size());
  require(n > 0, "there is no sample");
  const auto y = ids("labels", labels, n, classes);
  const auto w = weights_of(given, n);
  const int64_t G = count_of(s, group_count), C = count_of(y, classes);
  std::vector<double> joint(static_cast<std::size_t>(G * C)), of_group(static_cast<std::size_t>(G)),
      of_class(static_cast<std::size_t>(C));
  double total = 0;
  for (std::size_t i = 0; i < s.size(); ++i) {
    const double weight = w.empty() ? 1 : w[i];
    joint[static_cast<std::size_t>(s[i] * C + y[i])] += weight;
    of_group[static_cast<std::size_t>(s[i])] += weight;
    of_class[static_cast<std::size_t>(y[i])] += weight;
    total += weight;
  }
  FairWeights result;
  double present_groups = 0, present_cells = 0;
  for (int64_t g = 0; g < G; ++g) {
    if (of_group[static_cast<std::size_t>(g)] == 0) {
      result.empty.emplace_back(g, -1);
      continue;
    }
    ++present_groups;
    for (int64_t c = 0; c < C; ++c) {
      if (joint[static_cast<std::size_t>(g * C + c)] > 0)
        ++present_cells;
      else if (kind != "group")
        result.empty.emplace_back(g, c);
    }
  }
  result.cells = at::zeros({G, C}, at::kDouble);
  auto cells = result.cells.accessor<double, 2>();
  double sum = 0;
  for (int64_t g = 0; g < G; ++g)
    for (int64_t c = 0; c < C; ++c) {
      const double here = joint[static_cast<std::size_t>(g * C + c)];
      const double in_group = of_group[static_cast<std::size_t>(g)];
      if (kind == "group") {
        if (in_group > 0) cells[g][c] = total / (present_groups * in_group);
      } else if (here > 0) {
        cells[g][c] = kind == "reweighing" ? in_group * of_class[static_cast<std::size_t>(c)] / (total * here)
                                           : total / (present_cells * here);
      }
      sum += cells[g][c] * here;
    }
  // Only where reweighing met an empty cell is the mean not 1 already.
  if (kind == "reweighing" && !result.empty.empty()) result.cells.mul_(total / sum);
  result.weights = at::empty({n}, at::kDouble);
  double* out = result.weights.data_ptr<double>();
  for (std::size_t i = 0; i < s.size(); ++i) out[i] = cells[s[i]][y[i]] * (w.empty() ? 1 : w[i]);
  return result;
}

}  // namespace glyptic::metrics
