// Spatter: drops of water or mud. The authors' script uses six functions of OpenCV for the water; what they
// compute is written out here, so that no such dependency is needed for one corruption.
#include <algorithm>
#include <cmath>

#include "corruption_effects.h"

namespace glyptic::data {

std::vector<uint8_t> canny(const std::vector<uint8_t>& image, int64_t height, int64_t width, int low,
                           int high) {
  const auto pixel = [&](int64_t y, int64_t x) {
    return static_cast<int>(image[static_cast<std::size_t>(std::clamp<int64_t>(y, 0, height - 1) * width +
                                                           std::clamp<int64_t>(x, 0, width - 1))]);
  };
  // Sobel with the nearest border; magnitudes |dx| + |dy| in a frame of zeros.
  const int64_t stride = width + 2;
  const auto cells = static_cast<std::size_t>((height + 2) * stride);
  std::vector<int> across(cells), down(cells), magnitude(cells);
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      const auto at = static_cast<std::size_t>((y + 1) * stride + x + 1);
      across[at] = pixel(y - 1, x + 1) + 2 * pixel(y, x + 1) + pixel(y + 1, x + 1) - pixel(y - 1, x - 1) -
                   2 * pixel(y, x - 1) - pixel(y + 1, x - 1);
      down[at] = pixel(y + 1, x - 1) + 2 * pixel(y + 1, x) + pixel(y + 1, x + 1) - pixel(y - 1, x - 1) -
                 2 * pixel(y - 1, x) - pixel(y - 1, x + 1);
      magnitude[at] = std::abs(across[at]) + std::abs(down[at]);
    }
  }
  enum : uint8_t { kNone, kWeak, kStrong };
  std::vector<uint8_t> state(cells, kNone);
  std::vector<int64_t> stack;
  for (int64_t y = 1; y <= height; ++y) {
    for (int64_t x = 1; x <= width; ++x) {
      const int64_t at = y * stride + x;
      const auto m = [&](int64_t offset) { return magnitude[static_cast<std::size_t>(at + offset)]; };
      const int here = m(0);
      if (here <= low) continue;
      // The gradient's direction in four sectors; tan(22.5 degrees) with 15 bits.
      const int64_t gx = across[static_cast<std::size_t>(at)], gy = down[static_cast<std::size_t>(at)];
      constexpr int64_t kTangent = 13573;
      const int64_t ax = std::abs(gx), ay = std::abs(gy) << 15;
      bool peak;
      if (ay < ax * kTangent) {
        peak = here > m(-1) && here >= m(1);
      } else if (ay > ax * kTangent + (ax << 16)) {
        peak = here > m(-stride) && here >= m(stride);
      } else {
        const int64_t side = (gx ^ gy) < 0 ? -1 : 1;
        peak = here > m(-stride - side) && here > m(stride + side);
      }
      if (!peak) continue;
      state[static_cast<std::size_t>(at)] = here > high ? kStrong : kWeak;
      if (here > high) stack.push_back(at);
    }
  }
  while (!stack.empty()) {
    const int64_t at = stack.back();
    stack.pop_back();
    for (int64_t dy = -1; dy <= 1; ++dy) {
      for (int64_t dx = -1; dx <= 1; ++dx) {
        auto& neighbour = state[static_cast<std::size_t>(at + dy * stride + dx)];
        if (neighbour != kWeak) continue;
        neighbour = kStrong;
        stack.push_back(at + dy * stride + dx);
      }
    }
  }
  std::vector<uint8_t> edges(static_cast<std::size_t>(height * width));
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      edges[static_cast<std::size_t>(y * width + x)] =
          state[static_cast<std::size_t>((y + 1) * stride + x + 1)] == kStrong ? 255 : 0;
  return edges;
}

std::vector<float> chamfer_distance(const std::vector<uint8_t>& edges, int64_t height, int64_t width) {
  constexpr float kFar = 1e9f, kStraight = 1.0f, kDiagonal = 1.4f, kKnight = 2.1969f;
  struct Step {
    int64_t dy, dx;
    float cost;
  };
  // The half of the mask above and to the left; the other half is its mirror image.
  constexpr Step kHalf[] = {{-2, -1, kKnight},  {-2, 1, kKnight},   {-1, -2, kKnight}, {-1, -1, kDiagonal},
                            {-1, 0, kStraight}, {-1, 1, kDiagonal}, {-1, 2, kKnight},  {0, -1, kStraight}};
  const int64_t stride = width + 4;
  std::vector<float> padded(static_cast<std::size_t>((height + 4) * stride), kFar);
  const auto place = [&](int64_t y, int64_t x) { return (y + 2) * stride + x + 2; };
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      float best = kFar;
      if (edges[static_cast<std::size_t>(y * width + x)]) {
        best = 0;
      } else {
        for (const auto& step : kHalf)
          best =
              std::min(best, padded[static_cast<std::size_t>(place(y + step.dy, x + step.dx))] + step.cost);
      }
      padded[static_cast<std::size_t>(place(y, x))] = best;
    }
  }
  std::vector<float> distance(static_cast<std::size_t>(height * width));
  for (int64_t y = height - 1; y >= 0; --y) {
    for (int64_t x = width - 1; x >= 0; --x) {
      auto& here = padded[static_cast<std::size_t>(place(y, x))];
      for (const auto& step : kHalf)
        here = std::min(here, padded[static_cast<std::size_t>(place(y - step.dy, x - step.dx))] + step.cost);
      distance[static_cast<std::size_t>(y * width + x)] = here;
    }
  }
  return distance;
}

void equalize_histogram(std::vector<uint8_t>& image) {
  int64_t histogram[256] = {};
  for (const uint8_t value : image) ++histogram[value];
  int first = 0;
  while (histogram[first] == 0) ++first;
  const auto total = static_cast<int64_t>(image.size());
  if (histogram[first] == total) return;
  const float scale = 255.0f / static_cast<float>(total - histogram[first]);
  uint8_t map[256] = {};
  int64_t sum = 0;
  for (int value = first + 1; value < 256; ++value) {
    sum += histogram[value];
    map[value] = static_cast<uint8_t>(std::min(255.0f, std::nearbyint(static_cast<float>(sum) * scale)));
  }
  for (uint8_t& value : image) value = map[value];
}

namespace {

std::vector<float> correlated(const std::vector<float>& in, const Frame& plane,
                              const std::vector<Tap>& taps) {
  std::vector<float> out(in.size());
  correlate(in.data(), plane, taps, Border::reflect_101, out.data());
  return out;
}

}  // namespace

Effect make_spatter(const std::vector<double>& param, const Frame& frame) {
  const double mean = param[0], std = param[1], sigma = param[2], strength = param[4];
  const auto threshold = static_cast<float>(param[3]);
  const bool mud = param[5] != 0;
  const Frame plane{1, frame.height, frame.width};
  const auto blur_y = gaussian_axis(frame.height, sigma, 4, Border::nearest);
  const auto blur_x = gaussian_axis(frame.width, sigma, 4, Border::nearest);
  const auto mud_y = gaussian_axis(frame.height, mud ? strength : 0, 4, Border::nearest);
  const auto mud_x = gaussian_axis(frame.width, mud ? strength : 0, 4, Border::nearest);
  const auto box = dense_taps(std::vector<double>(9, 1.0 / 9), 3, 3);
  const auto relief = dense_taps({-2, -1, 0, -1, 1, 1, 0, 1, 2}, 3, 3);

  return [=](const RngStream& rng, const float* in, float* out) {
    const auto noise = normals(rng, plane.area(), mean, std);
    std::vector<float> liquid(noise.size()), cover(noise.size());
    filter_separable(noise.data(), 1, plane.height, plane.width, blur_y, blur_x, liquid.data());
    if (mud) {
      for (std::size_t i = 0; i < liquid.size(); ++i) liquid[i] = liquid[i] > threshold ? 1.0f : 0.0f;
      filter_separable(liquid.data(), 1, plane.height, plane.width, mud_y, mud_x, cover.data());
      constexpr float kColour[] = {63, 42, 20};
      for (int64_t i = 0; i < frame.size(); ++i) {
        const float m = cover[static_cast<std::size_t>(i % plane.area())];
        out[i] = m < 0.8f ? in[i] : in[i] * (1 - m) + kColour[i / plane.area()] * m;
      }
      return;
    }
    std::vector<uint8_t> liquid8(liquid.size());
    for (std::size_t i = 0; i < liquid.size(); ++i)
      liquid8[i] = liquid[i] < threshold
                       ? 0
                       : static_cast<uint8_t>(std::clamp(liquid[i] * 255.0f + 1.0f / 4096, 0.0f, 255.0f));
    auto distance =
        chamfer_distance(canny(liquid8, plane.height, plane.width, 50, 150), plane.height, plane.width);
    for (float& value : distance) value = std::min(value, 20.0f);
    distance = correlated(distance, plane, box);
    std::vector<uint8_t> bytes(distance.size());
    for (std::size_t i = 0; i < bytes.size(); ++i)
      bytes[i] = static_cast<uint8_t>(distance[i] + 1.0f / 4096);  // truncated; see kPixelSlack
    equalize_histogram(bytes);
    std::vector<float> light(bytes.begin(), bytes.end());
    light = correlated(light, plane, relief);
    for (float& value : light) value = std::clamp(value, 0.0f, 255.0f);
    light = correlated(light, plane, box);
    float largest = 0;
    for (std::size_t i = 0; i < cover.size(); ++i) {
      cover[i] = static_cast<float>(liquid8[i]) * light[i];
      largest = std::max(largest, cover[i]);
    }
    const float scale = largest > 0 ? static_cast<float>(strength) / largest : 0.0f;
    constexpr float kColour[] = {175, 238, 238};
    for (int64_t i = 0; i < frame.size(); ++i)
      out[i] =
          in[i] + kColour[i / plane.area()] * (scale * cover[static_cast<std::size_t>(i % plane.area())]);
  };
}

}  // namespace glyptic::data
