#include "glyptic/metrics/corruption.h"

#include <torch/torch.h>

#include <numeric>

#include "glyptic/core/error.h"
#include "glyptic/data/corruptions.h"

namespace glyptic::metrics {
namespace {

double mean_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

void check(const char* what, const CorruptionErrors& errors) {
  require(!errors.empty(), what, ": no corruption is given");
  for (const auto& [name, values] : errors) {
    require(!values.empty(), what, " of '", name, "': no severity is given");
    for (const double value : values)
      require(0 <= value && value <= 1, what, " of '", name, "' is ", value,
              ", expected a fraction from 0 to 1 (not percent)");
  }
}

void check_clean(const char* what, double clean) {
  require(0 <= clean && clean <= 1, what, " is ", clean, ", expected a fraction from 0 to 1 (not percent)");
}

std::map<std::string, double> quotients(const CorruptionErrors& errors, double clean,
                                        const CorruptionErrors& baseline, double baseline_clean) {
  check("errors", errors);
  check_clean("clean", clean);
  check_clean("baseline_clean", baseline_clean);
  if (!baseline.empty()) check("baseline", baseline);
  std::map<std::string, double> result;
  for (const auto& [name, values] : errors) {
    double below = 1;
    if (!baseline.empty()) {
      const auto found = baseline.find(name);
      require(found != baseline.end(), "the baseline has no errors of '", name, "'");
      const auto theirs = found->second.size();
      require(theirs == values.size() || theirs == 1 || values.size() == 1, "'", name, "' has ",
              values.size(), " severities, its baseline ", theirs);
      below = mean_of(found->second) - baseline_clean;
      require(below > 0, "the baseline of '", name, "' is ", below,
              " above its clean error; expected more than 0");
    }
    result[name] = (mean_of(values) - clean) / below;
  }
  return result;
}

double mean_of(const std::map<std::string, double>& values) {
  double sum = 0;
  for (const auto& [name, value] : values) sum += value;
  return sum / static_cast<double>(values.size());
}

}  // namespace

const CorruptionErrors& alexnet_errors() {
  static const CorruptionErrors errors = [] {
    constexpr double kErrors[] = {.886428, .894468, .922640, .819880, .826268, .785948, .798360, .866816,
                                  .826572, .819324, .564592, .853204, .646056, .717840, .606500};
    const auto names = data::corruption_names("common");
    CorruptionErrors result;
    for (std::size_t i = 0; i < names.size(); ++i) result[names[i]] = {kErrors[i]};
    return result;
  }();
  return errors;
}

std::map<std::string, double> corruption_error(const CorruptionErrors& errors,
                                               const CorruptionErrors& baseline) {
  return quotients(errors, 0, baseline, 0);
}

double mean_corruption_error(const CorruptionErrors& errors, const CorruptionErrors& baseline) {
  return mean_of(corruption_error(errors, baseline));
}

std::map<std::string, double> relative_corruption_error(const CorruptionErrors& errors, double clean,
                                                        const CorruptionErrors& baseline,
                                                        double baseline_clean) {
  return quotients(errors, clean, baseline, baseline_clean);
}

double relative_mean_corruption_error(const CorruptionErrors& errors, double clean,
                                      const CorruptionErrors& baseline, double baseline_clean) {
  return mean_of(relative_corruption_error(errors, clean, baseline, baseline_clean));
}

CorruptionSummary summarize_corruptions(const CorruptionErrors& errors, double clean) {
  check("errors", errors);
  check_clean("clean", clean);
  CorruptionSummary summary{mean_corruption_error(errors), {}, {}, "", -1};
  for (const auto& [name, values] : errors) {
    const double error = mean_of(values);
    summary.drops[name] = error - clean;
    if (error > summary.worst_error) {
      summary.worst = name;
      summary.worst_error = error;
    }
  }
  for (const char* family : {"noise", "blur", "weather", "digital", "validation"}) {
    std::vector<double> members;
    for (const auto& name : data::corruption_names(family))
      if (const auto found = errors.find(name); found != errors.end())
        members.push_back(mean_of(found->second));
    if (!members.empty()) summary.families[family] = mean_of(members);
  }
  return summary;
}

}  // namespace glyptic::metrics
