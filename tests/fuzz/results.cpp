// results.json, as `glyptic table` reads it.
#include "fuzz.h"
#include "glyptic/experiment/experiment.h"

namespace glyptic::fuzz {

std::function<void()> read(std::string_view input) {
  const auto path = file(input);
  experiment::results_table({path});
  return [path] {
    // What makes one table makes the others too, or says why not.
    try {
      experiment::results_table({path}, "csv");
      experiment::results_table({path, path});
    } catch (const std::exception& error) {
      fail(error.what());
    }
  };
}

}  // namespace glyptic::fuzz
