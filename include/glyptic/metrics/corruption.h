// Error under corruption (Hendrycks & Dietterich, arXiv 1903.12261, section 3): what ImageNet-C and CIFAR-C
// report. Errors are fractions in [0, 1].
#pragma once

#include <map>
#include <string>
#include <vector>

namespace glyptic::metrics {

/// Corruption -> errors at severities 1, 2, ... A list of one number is a mean over severities.
using CorruptionErrors = std::map<std::string, std::vector<double>>;

/// AlexNet's mean error over the five severities of each of the fifteen corruptions of ImageNet-C, the usual
/// denominators.
const CorruptionErrors& alexnet_errors();

/// CE_c = mean_s E_{s,c} / mean_s B_{s,c} for every corruption of `errors`. With as many severities in both,
/// or one mean in either, this is the quotient of sums. An empty baseline divides by 1 (CIFAR-C's usage).
/// ArgumentError: errors outside [0, 1], no severity, a corruption that the baseline lacks or where its error
/// is 0, different numbers of severities.
std::map<std::string, double> corruption_error(const CorruptionErrors& errors,
                                               const CorruptionErrors& baseline = {});
/// The mean of CE_c over the corruptions of `errors`.
double mean_corruption_error(const CorruptionErrors& errors, const CorruptionErrors& baseline = {});

/// The same with E_{s,c} - clean in the numerator and B_{s,c} - baseline_clean in the denominator, which must
/// be positive; an empty baseline divides by 1.
std::map<std::string, double> relative_corruption_error(const CorruptionErrors& errors, double clean,
                                                        const CorruptionErrors& baseline = {},
                                                        double baseline_clean = 0);
double relative_mean_corruption_error(const CorruptionErrors& errors, double clean,
                                      const CorruptionErrors& baseline = {}, double baseline_clean = 0);

struct CorruptionSummary {
  double mean;                             ///< of the errors over severities, then corruptions
  std::map<std::string, double> families;  ///< the same over noise, blur, weather, digital, validation
  std::map<std::string, double> drops;     ///< E_c - clean, the loss of accuracy
  std::string worst;                       ///< the corruption with the largest mean error
  double worst_error;
};
/// Corruptions with names of one's own count in all but `families`.
CorruptionSummary summarize_corruptions(const CorruptionErrors& errors, double clean);

}  // namespace glyptic::metrics
