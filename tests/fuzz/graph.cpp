#include "glyptic/nn/graph.h"
#include "fuzz.h"

namespace glyptic::fuzz {

std::function<void()> read(std::string_view input) {
  const auto text = nn::Graph::from_json(std::string(input)).to_json();
  return
      [text] { expect(nn::Graph::from_json(text).to_json() == text, "it reads back to another:\n" + text); };
}

}  // namespace glyptic::fuzz
