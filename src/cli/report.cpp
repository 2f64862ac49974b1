#include "report.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>

#include "glyptic/core/build_info.h"
#include "glyptic/core/error.h"

namespace glyptic::cli {

namespace {

// `-m glyptic`, with one line where the interpreter cannot import the package.
constexpr const char* kStart =
    "import runpy, sys\n"
    "try:\n"
    "    import glyptic\n"
    "except ImportError as error:\n"
    "    why = (str(error).splitlines() or [''])[0]\n"
    "    print('glyptic: report: ' + sys.executable + ' cannot import the package glyptic (' + why + '); "
    "install it there, "
    "or name another interpreter in GLYPTIC_PYTHON', file=sys.stderr)\n"
    "    sys.exit(2)\n"
    "runpy.run_module('glyptic', run_name='__main__', alter_sys=True)\n";

// In a build tree the package lies beside the program's folder.
void find_package_of_the_build() {
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  const auto python = program.parent_path().parent_path() / "python";
  if (error || !std::filesystem::exists(python / "glyptic" / "__init__.py", error)) return;
  const char* old = std::getenv("PYTHONPATH");
  ::setenv("PYTHONPATH", old && *old ? (python.string() + ":" + old).c_str() : python.c_str(), 1);
}

}  // namespace

int run_report(const std::vector<std::string>& arguments) {
  find_package_of_the_build();
  std::vector<std::string> candidates{python_executable(), "python3"};
  if (const char* chosen = std::getenv("GLYPTIC_PYTHON"); chosen && *chosen) candidates = {chosen};
  std::string tried;
  for (const auto& python : candidates) {
    if (python.empty()) continue;
    tried += (tried.empty() ? "" : ", ") + python;
    std::vector<std::string> words{python, "-c", kStart, "report"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (auto& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    ::execvp(python.c_str(), argv.data());
  }
  std::cerr << "glyptic: report: there is no Python that can be run (tried " << tried
            << "); name one that has the package glyptic in GLYPTIC_PYTHON" << std::endl;
  return kExitUsage;
}

}  // namespace glyptic::cli
