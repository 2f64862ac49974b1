// The command line, as a function: the native `glyptic` and the Python entry point call it.
#pragma once

#include <string>
#include <vector>

namespace glyptic::cli {

/// `arguments` without the program's name. Never throws; returns the exit code (see ExitCode). Errors are one
/// line on standard error. Handles SIGINT and SIGTERM while an experiment runs: it finishes its step, saves,
/// and ends with 130 or 143; a second signal ends it at once.
int run(const std::vector<std::string>& arguments);

}  // namespace glyptic::cli
