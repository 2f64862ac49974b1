#include "glyptic/experiment/config.h"

#include "fuzz.h"
#include "glyptic/experiment/classification.h"

namespace glyptic::fuzz {

std::function<void()> read(std::string_view input) {
  const auto config = experiment::ConfigFile::parse(std::string(input), "config.yaml");
  auto experiment = std::make_shared<experiment::Classification>();
  Options options;
  experiment->declare(options);
  config.apply(options);
  const auto text = experiment::to_yaml(options);
  return [text] {
    // The resolved config of a run says the same again.
    experiment::Classification other;
    Options options;
    other.declare(options);
    experiment::ConfigFile::parse(text, "resolved.yaml").apply(options);
    expect(experiment::to_yaml(options) == text, "the resolved config reads back to another:\n" + text);
  };
}

}  // namespace glyptic::fuzz
