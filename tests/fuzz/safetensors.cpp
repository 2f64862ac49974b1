#include "glyptic/core/safetensors.h"

#include <torch/torch.h>

#include "fuzz.h"
#include "glyptic/core/error.h"

namespace glyptic::fuzz {

std::function<void()> read(std::string_view input) {
  const SafeTensors file(fuzz::file(input));
  const auto tensors = file.tensors();
  return [file, tensors] {
    // What was read is what is saved, and what is saved is what is read.
    const auto path = folder() + "/again";
    try {
      save_safetensors(path, tensors, file.metadata());
    } catch (const Error&) {
      return;  // a tensor without a name is read, but not written
    }
    const SafeTensors again(path);
    expect(again.has_checksum(), "no checksum");
    expect(again.metadata() == file.metadata(), "other metadata");
    for (const auto& [name, tensor] : tensors) {
      const auto copy = again.tensor(name);
      expect(
          copy.scalar_type() == tensor.scalar_type() && copy.sizes() == tensor.sizes() &&
              (tensor.nbytes() == 0 || std::memcmp(copy.data_ptr(), tensor.data_ptr(), tensor.nbytes()) == 0),
          "another tensor");
    }
  };
}

}  // namespace glyptic::fuzz
