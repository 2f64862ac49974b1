// The first byte says which CIFAR the rest is the test file of.
#include <torch/torch.h>

#include <filesystem>

#include "fuzz.h"
#include "glyptic/data/dataset.h"

namespace glyptic::fuzz {

std::function<void()> read(std::string_view input) {
  if (input.empty()) return {};
  const int classes = input[0] & 1 ? 100 : 10;
  const auto link = folder() + (classes == 10 ? "/test_batch.bin" : "/test.bin");
  const auto path = file(input.substr(1));
  std::error_code there;
  std::filesystem::create_symlink(path, link, there);
  const auto set = data::read_cifar(folder(), false, classes);
  return [set, size = input.size() - 1, classes] {
    expect(static_cast<std::size_t>(set->size()) == size / (3072 + (classes == 10 ? 1 : 2)), "lost images");
    std::vector<uint8_t> pixels(3072);
    for (int64_t i = 0; i < set->size(); ++i) {
      const auto label = set->read(i, pixels.data(), 0);
      expect(0 <= label && label < classes, "a label outside the classes");
    }
  };
}

}  // namespace glyptic::fuzz
