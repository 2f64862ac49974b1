// Commands that have a file of their own, and what they share with cli.cpp. Not installed.
#pragma once

#include <signal.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <string>
#include <vector>

namespace glyptic::cli {

/// The signal that asked the process to end, 0 while none did.
const std::atomic<int>& stop_signal();

/// While it lives, the first SIGINT or SIGTERM is stored in `stop_signal` and the second ends the process.
class SignalScope {
 public:
  SignalScope();
  ~SignalScope();
  SignalScope(const SignalScope&) = delete;
  SignalScope& operator=(const SignalScope&) = delete;

 private:
  struct sigaction old_int_ {
  }, old_term_{};
};

/// `glyptic data list|get|verify`.
class DataCommand {
 public:
  explicit DataCommand(CLI::App& app);
  bool parsed() const { return data_->parsed(); }
  void run();

 private:
  CLI::App *data_, *list_, *get_, *verify_;
  std::vector<std::string> names_;
  std::string to_, mirror_, catalogue_;
  bool keep_archives_ = false, force_ = false;
  int timeout_ = 30, retries_ = 5;
  double wait_ = 1;
};

}  // namespace glyptic::cli
