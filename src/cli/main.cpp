#include "glyptic/cli/cli.h"
#include "report.h"

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  // Drawn by the Python package, which takes this process's place: only here, where the process is the
  // program's own.
  if (!arguments.empty() && arguments[0] == "report")
    return glyptic::cli::run_report({arguments.begin() + 1, arguments.end()});
  return glyptic::cli::run(arguments);
}
