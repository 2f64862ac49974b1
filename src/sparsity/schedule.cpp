#include "glyptic/sparsity/schedule.h"

#include <algorithm>
#include <cmath>

#include "glyptic/core/error.h"
#include "glyptic/core/named_tensor.h"

namespace glyptic::sparsity {

namespace {

double progress(int64_t step, int64_t end) {
  return std::clamp(static_cast<double>(step) / static_cast<double>(std::max<int64_t>(end, 1)), 0.0, 1.0);
}

}  // namespace

Schedule cosine_decay(double alpha, int64_t end, double floor) {
  return [=](int64_t t) { return floor + (alpha - floor) / 2 * (1 + std::cos(M_PI * progress(t, end))); };
}

Schedule constant(double alpha) {
  return [=](int64_t) { return alpha; };
}

Schedule linear_decay(double alpha, int64_t end) {
  return [=](int64_t t) { return alpha * (1 - progress(t, end)); };
}

Schedule inverse_power(double alpha, int64_t end, double power) {
  return [=](int64_t t) { return alpha * std::pow(1 - progress(t, end), power); };
}

Schedule drop_schedule(const std::string& name, double alpha, int64_t end, double floor, double power) {
  require(alpha >= 0 && alpha <= 1, "drop_fraction is ", alpha, ", expected a number in [0, 1]");
  if (name == "cosine") return cosine_decay(alpha, end, floor);
  if (name == "constant") return constant(alpha);
  if (name == "linear") return linear_decay(alpha, end);
  if (name == "inverse_power") return inverse_power(alpha, end, power);
  throw ArgumentError(str("drop_schedule is '", name,
                          "', expected one of cosine, constant, linear, inverse_power",
                          did_you_mean(name, {"cosine", "constant", "linear", "inverse_power"})));
}

double cubic_sparsity(int64_t step, double initial, double final_value, int64_t begin, int64_t end) {
  if (step >= end) return final_value;
  if (step <= begin) return initial;
  const double left = 1 - static_cast<double>(step - begin) / static_cast<double>(end - begin);
  return final_value + (initial - final_value) * left * left * left;
}

int64_t step_at(double fraction, int64_t total_steps) {
  return std::llround(fraction * static_cast<double>(total_steps));
}

}  // namespace glyptic::sparsity
