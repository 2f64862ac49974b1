// A grid of runs, one folder for each point: OUT/seed=1,density=0.05/. Points that are done are left alone,
// broken ones are resumed, so that the same command ends what it began.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "glyptic/experiment/experiment.h"

namespace glyptic::experiment {

/// One option and the values that it takes.
struct SweepAxis {
  std::string option;
  std::vector<std::string> values;
};

/// "seed=1,2,3". Commas inside brackets or quotes do not part: "throughput.batches=[1,64],[128]". ConfigError
/// for an empty value or one given twice.
SweepAxis parse_axis(const std::string& text);

struct SweepPoint {
  std::string name;               ///< its folder below OUT
  std::vector<std::string> sets;  ///< as for --set
};

/// Every combination, the last axis fastest. A folder's name is made of the options' last words where these
/// tell the axes apart, else of their full names; what is not a letter, digit or one of ._+- in a value is
/// written %XX, so that two points never share a name. ConfigError for an option given twice, too many points
/// (10,000) or a name that is too long for a file system.
std::vector<SweepPoint> sweep_points(const std::vector<SweepAxis>& axes);

struct SweepOptions {
  std::string config;
  std::vector<std::string> sets;  ///< for every point; before the point's own
  std::vector<SweepAxis> axes;
  std::string out;                   ///< default runs/<name>
  std::optional<std::size_t> index;  ///< only this point
};

struct SweepResult {
  std::vector<std::string> finished;  ///< folders with results.json, in the grid's order
  std::size_t failed = 0, left_alone = 0;
  int exit_code = 0;  ///< of the first point that failed
};

/// Runs one point inside its folder, which is made and locked: from the start or from its last checkpoint.
using RunPoint = std::function<void(Experiment&, RunFolder&, bool resumed)>;

/// Checks every point, and every folder that is there, before the first one runs: ConfigError when a point
/// does not fit, ArgumentError naming the first option that differs when a folder holds another config. A
/// point that fails is reported and the others go on; Interrupted ends the sweep.
SweepResult run_sweep(const SweepOptions& options, const RunPoint& run_point);

}  // namespace glyptic::experiment
