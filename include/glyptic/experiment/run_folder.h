// The folder of a run. Everything that is written later is either appended to `metrics.jsonl` and `log.txt`
// or appears whole (temporary file, fsync, rename), so that a run killed at any moment leaves a folder that
// resumes.
//
//   config.yaml       the resolved config
//   environment.json  versions, threads, machine
//   metrics.jsonl     one JSON object a line, without times of the clock
//   log.txt           log lines with their times
//   checkpoints/      *.safetensors
//   extracted/        the small dense network: graph, plan, weights
//   results.json      the table's rows, once the run is done
#pragma once

#include <memory>
#include <string>

namespace glyptic::experiment {

class RunFolder {
 public:
  /// Makes the folder. ArgumentError when it already holds a run that has computed anything (`resume`
  /// continues it) or checkpoints without a config, MissingFileError when it cannot be made.
  static RunFolder create(const std::string& path);
  /// Opens the folder of a run. MissingFileError when it holds none.
  static RunFolder open(const std::string& path);
  /// The same folder as seen by a process that does not lead its run: it reads, and whatever it is told to
  /// write is left to the one that leads.
  static RunFolder follow(const std::string& path);
  bool leads() const { return leads_; }
  /// Before anything is written: ArgumentError when another process is writing it now.
  void lock();
  /// Takes away what `create` and the start of a run wrote, unless the run has computed something (metrics, a
  /// checkpoint); a folder that was there before stays. For a run that cannot begin.
  void discard_unbegun();

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const;
  bool has(const std::string& name) const;

  /// Appends one line to metrics.jsonl.
  void append_metrics(const std::string& line);
  /// Length of metrics.jsonl once everything appended is on disk. A checkpoint records it.
  int64_t sync_metrics();
  /// Cuts metrics.jsonl back to what a checkpoint knew; lines after it will be written again.
  void truncate_metrics(int64_t bytes);

  RunFolder(RunFolder&&) noexcept;
  RunFolder& operator=(RunFolder&&) noexcept;
  ~RunFolder();

 private:
  explicit RunFolder(std::string path);
  std::string path_;
  bool made_ = false;     ///< this object made the folder
  bool created_ = false;  ///< it comes from `create`
  bool leads_ = true;
  int lock_ = -1;
  int metrics_ = -1;
};

/// JSON of versions, device, threads and processor: what a resume compares.
std::string environment_json();

}  // namespace glyptic::experiment
