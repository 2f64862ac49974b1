#include <torch/torch.h>

#include "fuzz.h"
#include "glyptic/data/dataset.h"

namespace glyptic::fuzz {

namespace {
constexpr int64_t kMaxPixels = 1 << 20;
}

// Pixels are not in proportion to a compressed file. What bounds them is the limit that the reader is given:
// three bytes a pixel decoded, three in the tensor, six as coefficients of a progressive JPEG (twice that
// where planes are padded to whole blocks), and the decoders' own buffers.
extern const std::size_t extra_bytes = 24 * kMaxPixels;

std::function<void()> read(std::string_view input) {
  const auto image = data::decode_image(file(input), kMaxPixels);
  return [image] {
    expect(image.dim() == 3 && image.size(0) == 3 && image.numel() <= 3 * kMaxPixels && image.numel() > 0,
           "not an image");
    image.sum().item<int64_t>();
  };
}

}  // namespace glyptic::fuzz
