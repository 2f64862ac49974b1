// Schedules of the sparse-training family, as plain functions of the 1-based optimizer step.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace glyptic::sparsity {

using Schedule = std::function<double(int64_t step)>;

/// Drop fraction f(t) of RigL (arXiv 1911.11134, section 3): alpha/2 (1 + cos(pi min(t, end) / end)).
/// `floor` > 0 gives the form of ITOP and GraNet: floor + (alpha - floor)/2 (1 + cos(pi t / end)).
Schedule cosine_decay(double alpha, int64_t end, double floor = 0);
Schedule constant(double alpha);
Schedule linear_decay(double alpha, int64_t end);
/// alpha (1 - t / end)^power.
Schedule inverse_power(double alpha, int64_t end, double power);
/// By name: cosine, constant, linear, inverse_power. ArgumentError with did-you-mean otherwise.
Schedule drop_schedule(const std::string& name, double alpha, int64_t end, double floor, double power);

/// Gradual sparsity (Zhu and Gupta, arXiv 1710.01878, eq. 1): initial at t <= begin, final at t >= end, cubic
/// between.
double cubic_sparsity(int64_t step, double initial, double final_value, int64_t begin, int64_t end);

/// The step at a fraction of the run, to the nearest.
int64_t step_at(double fraction, int64_t total_steps);

}  // namespace glyptic::sparsity
