#include <torch/torch.h>

#include "fuzz.h"
#include "glyptic/data/dataset.h"

namespace glyptic::fuzz {

// Of a compressed file the limit holds for the data that it really unpacks to: at most 1032 times its length.
// The inputs here are at most 64 KiB.
extern const std::size_t extra_bytes = std::size_t{1032} * 65536;

std::function<void()> read(std::string_view input) {
  const auto path = file(input);
  const auto tensor = data::read_idx(path);
  return [tensor] {
    expect(tensor.scalar_type() == at::kByte && tensor.dim() >= 1, "not what IDX holds");
    if (tensor.numel() > 0) tensor.sum().item<int64_t>();  // every byte can be read
  };
}

}  // namespace glyptic::fuzz
