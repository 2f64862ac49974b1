#include "fuzz.h"
#include "glyptic/experiment/classification.h"
#include "glyptic/experiment/config.h"

namespace glyptic::fuzz {

std::function<void()> read(std::string_view input) {
  experiment::Classification experiment;
  Options options;
  experiment.declare(options);
  experiment::apply_set(options, std::string(input));
  const auto text = experiment::to_yaml(options);
  return [text] {
    experiment::Classification other;
    Options options;
    other.declare(options);
    experiment::ConfigFile::parse(text, "resolved.yaml").apply(options);
    expect(experiment::to_yaml(options) == text, "the resolved config reads back to another:\n" + text);
  };
}

}  // namespace glyptic::fuzz
