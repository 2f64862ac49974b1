// What the command line runs. An experiment declares its options, checks them, and runs inside a run folder,
// from the start or from the folder's last checkpoint.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "glyptic/core/options.h"
#include "glyptic/experiment/run_folder.h"

namespace glyptic::experiment {

/// How a run is asked to end early: a signal handler stores the signal's number.
struct RunControl {
  const std::atomic<int>* stop = nullptr;
  int signal() const { return stop ? stop->load() : 0; }
};

class Experiment {
 public:
  virtual ~Experiment() = default;
  virtual void declare(Options& options) = 0;
  /// Checks across fields, without touching data. ConfigError or ArgumentError.
  virtual void check() = 0;
  /// Builds everything and takes one step on random data of the right shape.
  virtual void dry_run() = 0;
  /// Runs to the end, continuing from the last checkpoint where there is one.
  virtual void run(RunFolder& folder, const RunControl& control) = 0;
};

struct ExperimentInfo {
  std::string name;
  std::string summary;
  std::function<std::unique_ptr<Experiment>()> make;
};
const std::vector<ExperimentInfo>& experiments();
/// ArgumentError with did-you-mean for an unknown name.
std::unique_ptr<Experiment> make_experiment(const std::string& name);

/// Reads a config (the `experiment:` key picks the class, default "classification"), applies `sets`, checks.
struct Loaded {
  std::unique_ptr<Experiment> experiment;
  std::unique_ptr<Options> options;
};
Loaded load_experiment(const std::string& config_path, const std::vector<std::string>& sets);

/// Runs whose configs differ in nothing but the seed and the name, and whose seeds differ.
struct SeedGroup {
  std::string
      label;  ///< the folder without what all runs have in front, `*` where those of the group differ by
  ///< more than "seed=..."
  std::vector<std::size_t> runs;  ///< positions in what was given
  std::vector<uint64_t> seeds;    ///< one each; none where there is no config.yaml
};
/// `runs`: run folders or their results.json.
std::vector<SeedGroup> seed_groups(const std::vector<std::string>& runs);

/// Cells as text, and the lines that belong below them.
struct ResultsTable {
  std::vector<std::string> titles;
  std::vector<std::vector<std::string>> rows;  ///< each as long as `titles`
  std::vector<std::string> notes;              ///< data, sources of the methods, what differs from the paper
};
/// The rows of results.json files. The rows of several runs begin with the run's folder, without what all of
/// them have in front; each group of `seed_groups` is one row per network, with n, the seeds, and mean ±
/// sample standard deviation (over n - 1). `raw`: `raw`: numbers as they were stored and nothing for what is
/// not known, deviations and sources in columns of their own.
ResultsTable tabulate_results(const std::vector<std::string>& results_json_paths, bool raw = false);
/// The same as an aligned table (`markdown`) with its notes below, as `latex` for booktabs, or, raw, as
/// `csv`.
std::string results_table(const std::vector<std::string>& results_json_paths,
                          const std::string& format = "markdown");
/// A run folder itself; of a folder that is none, the run folders in it (three levels deep), by name. `path`
/// where there are none.
std::vector<std::string> runs_in(const std::string& path);

/// Markdown reference of every experiment, option and method.
std::string reference_markdown();
/// What `glyptic describe NAME` prints: an experiment, a method, a network, a data set, or an option.
std::string describe(const std::string& name);
std::string list_everything();

}  // namespace glyptic::experiment
