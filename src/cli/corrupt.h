#pragma once

#include <CLI/CLI.hpp>

namespace glyptic::cli {

/// Adds `glyptic corrupt`, which runs while the arguments are parsed.
void add_corrupt_command(CLI::App& app);

}  // namespace glyptic::cli
