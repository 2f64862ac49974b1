// `glyptic report`: the Python package draws it. Not installed.
#pragma once

#include <string>
#include <vector>

namespace glyptic::cli {

/// Replaces this process by `python -m glyptic report ARGUMENTS`: the interpreter of the build, or python3 on
/// PATH. Returns the exit code, after one line, only where there is none.
int run_report(const std::vector<std::string>& arguments);

}  // namespace glyptic::cli
