#include "fuzz.h"
#include "glyptic/pruning/plan.h"

namespace glyptic::fuzz {

std::function<void()> read(std::string_view input) {
  const auto text = pruning::PrunePlan::from_json(std::string(input)).to_json();
  return [text] {
    expect(pruning::PrunePlan::from_json(text).to_json() == text, "it reads back to another:\n" + text);
  };
}

}  // namespace glyptic::fuzz
