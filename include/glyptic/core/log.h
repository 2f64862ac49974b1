// Logging and progress on one terminal. spdlog does the work; this header keeps it (and its fmt, which
// clashes with the one that torch ships) out of every other file. A progress bar and log lines share one
// lock, so neither tears the other: the bar is erased, the line printed, the bar drawn again. Where standard
// error is not a terminal there is no bar, and progress is an occasional plain line.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace glyptic::log {

enum class Level { debug, info, warn, error, off };

void debug(const std::string& message);
void info(const std::string& message);
void warn(const std::string& message);
void error(const std::string& message);

/// What reaches the terminal (default info). A log file always gets everything from debug up.
void set_level(Level level);
Level level();

/// Also writes to `path` (appending) until closed; a previous file is closed first. MissingFileError if it
/// cannot.
void open_file(const std::string& path);
void close_file();
void flush();

/// One bar. `update` may be called from any thread, as often as one likes: it redraws at most ten times a
/// second on a terminal, and prints a line at most every `plain_seconds` elsewhere.
class Progress {
 public:
  Progress(std::string label, int64_t total, double plain_seconds = 15.0);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// `done` of `total`, with a short status such as "loss 0.123".
  void update(int64_t done, const std::string& status = "");
  /// Erases the bar. Called by the destructor.
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace glyptic::log
