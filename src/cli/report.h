// `glyptic report`: the Python package draws it. Not installed.
#pragma once

#include <string>
#include <vector>

namespace glyptic::cli {

/// Replaces this process by `python -m glyptic report ARGUMENTS`: the interpreter of the build, or python3 on
/// PATH. Returns only by ArgumentError, where there is none.
[[noreturn]] void exec_report(const std::vector<std::string>& arguments);

}  // namespace glyptic::cli
