#include <torch/torch.h>

#include "glyptic/core/error.h"
#include "glyptic/core/rng.h"
#include "glyptic/data/dataset.h"
#include "internal.h"

namespace glyptic::data {
namespace {

constexpr int64_t kShapes = 10;

// Whether (u, v), in units of the shape's radius, lies in the shape. All have areas between 1 and 2.2, so
// that neither size nor mean brightness tells the class.
bool inside(int64_t shape, double u, double v) {
  const double r2 = u * u + v * v, largest = std::max(std::abs(u), std::abs(v));
  switch (shape) {
    case 0:
      return r2 < 0.64;  // disc
    case 1:
      return largest < 0.7;  // square
    case 2:
      return v > -0.5 && 0.866 * u + 0.5 * v < 0.5 && -0.866 * u + 0.5 * v < 0.5;  // triangle
    case 3:
      return largest < 0.9 && std::min(std::abs(u), std::abs(v)) < 0.25;  // plus
    case 4:
      return r2 < 0.81 && r2 > 0.25;  // ring
    case 5:
      return largest < 0.8 && largest > 0.5;  // frame
    case 6: {                                 // star of five points
      const double turn = std::atan2(u, -v) / (2 * M_PI / 5);
      return r2 < std::pow(1.0 - 1.2 * std::abs(turn - std::round(turn)), 2);
    }
    case 7:
      return r2 < 0.81 && (u - 0.4) * (u - 0.4) + v * v > 0.36;  // crescent
    case 8:
      return std::abs(u) < 0.85 && std::abs(v) > 0.25 && std::abs(v) < 0.7;  // two bars
    default:
      return largest < 0.8 && (u < -0.25 || v > 0.25);  // corner
  }
}

void draw(int64_t shape, int64_t side, int64_t channels, const RngStream& rng, uint8_t* pixels) {
  uint64_t next = 0;
  const auto uniform = [&](double low, double high) { return low + (high - low) * rng.uniform(next++); };
  const auto length = static_cast<double>(side);
  const double radius = length * uniform(0.22, 0.36);
  const double centre_x = uniform(radius, length - radius), centre_y = uniform(radius, length - radius);
  const double angle = uniform(-0.3, 0.3);
  const double cosine = std::cos(angle) / radius, sine = std::sin(angle) / radius;
  const double contrast = (rng.u32(next++) >> 31 ? 1.0 : -1.0) * uniform(50, 95);
  struct Wave {
    double x, y, phase, height;
  } waves[3];
  for (auto& wave : waves) {
    const double direction = uniform(0, 2 * M_PI), frequency = 2 * M_PI / (length * uniform(0.2, 0.8));
    wave = {frequency * std::cos(direction), frequency * std::sin(direction), uniform(0, 2 * M_PI),
            uniform(4, 12)};
  }
  double level[4], tint[4], texture[4];
  for (int64_t c = 0; c < channels; ++c) {
    level[c] = uniform(108, 148);
    tint[c] = contrast * uniform(0.5, 1);
    texture[c] = uniform(-1, 1);
  }
  const auto noise = rng.child(0);
  for (int64_t y = 0; y < side; ++y) {
    for (int64_t x = 0; x < side; ++x) {
      double ground = 0;
      for (const auto& wave : waves)
        ground += wave.height *
                  std::sin(wave.x * static_cast<double>(x) + wave.y * static_cast<double>(y) + wave.phase);
      int covered = 0;  // of 3 x 3 samples
      for (int k = 0; k < 9; ++k) {
        const double dx = static_cast<double>(x) + (k % 3 + 0.5) / 3 - centre_x;
        const double dy = static_cast<double>(y) + (k / 3 + 0.5) / 3 - centre_y;
        if (dx * dx + dy * dy < 1.5 * radius * radius)
          covered += inside(shape, cosine * dx + sine * dy, cosine * dy - sine * dx);
      }
      const uint32_t word = noise.u32(static_cast<uint64_t>(y * side + x));  // a byte for each channel
      for (int64_t c = 0; c < channels; ++c) {
        const double grain = (static_cast<double>(word >> (8 * c) & 255) - 127.5) * (12.0 / 127.5);
        const double value = level[c] + texture[c] * ground + tint[c] * covered / 9 + grain;
        pixels[(c * side + y) * side + x] = static_cast<uint8_t>(std::lround(std::clamp(value, 0.0, 255.0)));
      }
    }
  }
}

}  // namespace

std::shared_ptr<MemoryDataset> generate_shapes(int64_t count, int64_t side, int64_t channels, int64_t classes,
                                               uint64_t seed) {
  require(count > 0, "generate_shapes: count is ", count, ", expected at least 1");
  require(8 <= side && side <= 1024, "generate_shapes: side is ", side, ", expected 8 to 1024");
  require(1 <= channels && channels <= 4, "generate_shapes: channels is ", channels, ", expected 1 to 4");
  require(2 <= classes && classes <= kShapes, "generate_shapes: classes is ", classes, ", expected 2 to ",
          kShapes);
  auto images = at::empty({count, channels, side, side}, at::kByte);
  auto labels = at::empty({count}, at::kLong);
  const RngStream rng(seed, "data/shapes");
  const int64_t bytes = channels * side * side;
  for (int64_t i = 0; i < count; ++i) {
    labels.data_ptr<int64_t>()[i] = i % classes;
    draw(i % classes, side, channels, rng.child(static_cast<uint64_t>(i)),
         images.data_ptr<uint8_t>() + i * bytes);
  }
  return std::make_shared<MemoryDataset>(
      images, labels, classes,
      str("shapes (", grouped(count), " generated images of ", classes, " classes, seed ", seed, ")"));
}

}  // namespace glyptic::data
