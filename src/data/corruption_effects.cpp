#include "corruption_effects.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>

#include "glyptic/core/error.h"
#include "glyptic/kernels/philox_fill.h"
#include "glyptic/kernels/pixel_noise.h"
#include "internal.h"

namespace glyptic::data {
namespace {

using kernels::kPixelSlack;

std::vector<float> filled(const RngStream& rng, int64_t count, kernels::FillKind kind) {
  std::vector<float> values(static_cast<std::size_t>(count));
  kernels::FillArgs args{};
  args.out = values.data();
  args.size = count;
  args.type = kernels::FloatType::float32;
  args.kind = kind;
  args.seed = rng.seed();
  args.stream = rng.stream();
  GLYPTIC_SELECT(philox_fill)(args, 1);
  return values;
}

void scale_and_shift(std::vector<float>& values, double scale, double shift) {
  for (float& value : values) value = value * static_cast<float>(scale) + static_cast<float>(shift);
}

double between(const RngStream& rng, uint64_t index, double low, double high) {
  return low + (high - low) * static_cast<double>(rng.uniform(index));
}

uint8_t truncated(float value) {
  return static_cast<uint8_t>(std::clamp(value + kPixelSlack, 0.0f, 255.0f));
}

// Streams of an image, one for each use of random numbers.
constexpr uint64_t kLayer = 0, kNumbers = 1, kSecond = 2;

float luma(float r, float g, float b) {
  return 0.299f * r + 0.587f * g + 0.114f * b;
}

Effect gaussian_blur(double sigma, const Frame& frame) {
  const auto fy = gaussian_axis(frame.height, sigma, 4, Border::nearest);
  const auto fx = gaussian_axis(frame.width, sigma, 4, Border::nearest);
  return [=](const RngStream&, const float* in, float* out) {
    filter_separable(in, frame.channels, frame.height, frame.width, fy, fx, out);
  };
}

// A disc, its edge softened by a small Gaussian (border reflect_101, as OpenCV does).
Effect defocus_blur(double radius, double alias, const Frame& frame) {
  const auto reach = static_cast<int64_t>(radius <= 8 ? 8 : std::ceil(radius));
  const int64_t side = 2 * reach + 1, soft = radius <= 8 ? 1 : 2;
  std::vector<double> disc(static_cast<std::size_t>(side * side)), smooth(disc.size());
  double total = 0;
  for (int64_t y = -reach; y <= reach; ++y)
    for (int64_t x = -reach; x <= reach; ++x)
      if (static_cast<double>(x * x + y * y) <= radius * radius) {
        disc[static_cast<std::size_t>((y + reach) * side + x + reach)] = 1;
        total += 1;
      }
  double weights[5], sum = 0;
  for (int64_t k = -soft; k <= soft; ++k) {
    const auto x = static_cast<double>(k);
    sum += weights[k + soft] = std::exp(-x * x / (2 * alias * alias));
  }
  for (int64_t y = 0; y < side; ++y)
    for (int64_t x = 0; x < side; ++x)
      for (int64_t dy = -soft; dy <= soft; ++dy)
        for (int64_t dx = -soft; dx <= soft; ++dx)
          smooth[static_cast<std::size_t>(y * side + x)] +=
              weights[dy + soft] * weights[dx + soft] / (sum * sum * total) *
              disc[static_cast<std::size_t>(border_index(y + dy, side, Border::reflect_101) * side +
                                            border_index(x + dx, side, Border::reflect_101))];
  const auto taps = dense_taps(smooth, side, side);
  return [=](const RngStream&, const float* in, float* out) {
    correlate(in, frame, taps, Border::reflect_101, out);
  };
}

Effect glass_blur(double sigma, int64_t delta, int64_t iterations, const Frame& frame, bool copy) {
  const auto fy = gaussian_axis(frame.height, sigma, 4, Border::nearest);
  const auto fx = gaussian_axis(frame.width, sigma, 4, Border::nearest);
  return [=](const RngStream& rng, const float* in, float* out) {
    const int64_t channels = frame.channels, height = frame.height, width = frame.width;
    std::vector<float> blurred(static_cast<std::size_t>(frame.size()));
    filter_separable(in, channels, height, width, fy, fx, blurred.data());
    for (float& value : blurred) value = static_cast<float>(truncated(value));
    // Two words for every pixel visited, four from each block.
    const auto stream = rng.child(kNumbers);
    uint64_t step = 0;
    Philox4 block{};
    const auto range = static_cast<uint64_t>(2 * delta);
    const auto offset = [&](uint32_t word) {
      return static_cast<int64_t>((uint64_t{word} * range) >> 32) - delta;
    };
    for (int64_t turn = 0; turn < iterations; ++turn) {
      for (int64_t y = height - delta; y > delta; --y) {
        for (int64_t x = width - delta; x > delta; --x, ++step) {
          if (step % 2 == 0) block = philox_block(stream.seed(), stream.stream(), step / 2);
          const uint32_t* word = block.x + 2 * (step % 2);
          float* here = blurred.data() + y * width + x;
          float* there = here + offset(word[1]) * width + offset(word[0]);
          for (int64_t c = 0; c < channels; ++c, here += frame.area(), there += frame.area()) {
            const float old = *here;
            *here = *there;
            if (!copy) *there = old;
          }
        }
      }
    }
    filter_separable(blurred.data(), channels, height, width, fy, fx, out);
  };
}

Effect motion_blur(double radius, double sigma, const Frame& frame) {
  return [=](const RngStream& rng, const float* in, float* out) {
    const double angle = between(rng.child(kNumbers), 0, -45, 45);
    correlate(in, frame, motion_taps(radius, sigma, angle, frame.height, frame.width), Border::nearest, out);
  };
}

Effect zoom_blur(double stop, double step, const Frame& frame) {
  // numpy.arange(1, stop, step): rounding decides whether the end is among them, as in the authors' script.
  const auto count = static_cast<int64_t>(std::ceil((stop - 1) / step));
  std::vector<std::pair<ZoomAxis, ZoomAxis>> zooms;
  for (int64_t i = 0; i < count; ++i) {
    const double factor = 1 + static_cast<double>(i) * ((1 + step) - 1);  // numpy adds up the rounded step
    zooms.emplace_back(zoom_axis(frame.height, factor), zoom_axis(frame.width, factor));
  }
  return [=](const RngStream&, const float* in, float* out) {
    std::vector<float> line(static_cast<std::size_t>(frame.width));
    std::copy_n(in, frame.size(), out);
    for (const auto& [zy, zx] : zooms) add_zoomed(in, frame, zy, zx, line.data(), out);
    const float share = 1.0f / static_cast<float>(count + 1);
    for (int64_t i = 0; i < frame.size(); ++i) out[i] *= share;
  };
}

Effect snow(const std::vector<double>& p, const Frame& frame) {
  const Frame plane{1, frame.height, frame.width};
  const double mean = p[0], std = p[1], radius = p[4], sigma = p[5];
  const auto threshold = static_cast<float>(p[3]), mix = static_cast<float>(p[6]);
  const auto zy = zoom_axis(frame.height, p[2]), zx = zoom_axis(frame.width, p[2]);
  return [=](const RngStream& rng, const float* in, float* out) {
    const int64_t area = plane.area();
    const auto noise = normals(rng.child(kLayer), area, mean, std);
    std::vector<float> layer(noise.size()), blurred(noise.size()),
        line(static_cast<std::size_t>(plane.width));
    add_zoomed(noise.data(), plane, zy, zx, line.data(), layer.data());
    for (float& value : layer)
      value = value < threshold ? 0.0f : static_cast<float>(truncated(value * 255.0f));
    const double angle = between(rng.child(kNumbers), 0, -135, -45);
    correlate(layer.data(), plane, motion_taps(radius, sigma, angle, plane.height, plane.width),
              Border::nearest, blurred.data());
    for (int64_t i = 0; i < area; ++i) {
      const float grey = frame.channels == 3 ? luma(in[i], in[area + i], in[2 * area + i]) : in[i];
      const float whitened = 1.5f * grey + 127.5f;
      const float flakes =
          blurred[static_cast<std::size_t>(i)] + blurred[static_cast<std::size_t>(area - 1 - i)];
      for (int64_t c = 0; c < frame.channels; ++c) {
        const float x = in[c * area + i];
        out[c * area + i] = mix * x + (1 - mix) * std::max(x, whitened) + flakes;
      }
    }
  };
}

// The five textures that the authors draw from (a sixth is listed and never drawn).
constexpr const char* kTextures[] = {"frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg"};

}  // namespace

std::string frost_folder(const CorruptOptions& options) {
  std::vector<std::string> folders;
  if (!options.frost_folder.empty()) {
    folders = {options.frost_folder};
  } else {
    if (const char* root = std::getenv("GLYPTIC_DATA"); root && *root)
      folders.push_back(std::string(root) + "/frost");
    folders.push_back("../shared/data/frost");
  }
  std::string tried;
  for (const auto& folder : folders) {
    if (present(folder + "/" + kTextures[0])) return folder;
    tried += (tried.empty() ? "'" : ", '") + folder + "'";
  }
  throw MissingFileError(str(
      "frost: its textures frost1.png, frost2.png, frost3.png, frost4.jpg and frost5.jpg are not in ", tried,
      "; get them from ImageNet-C/create_c/frost of github.com/hendrycks/robustness and name their folder "
      "(frost_folder, or $GLYPTIC_DATA/frost)"));
}

namespace {

// Cubic interpolation with OpenCV's constant -0.75, the nearest border.
AxisFilter cubic_axis(int64_t size, int64_t outputs) {
  AxisFilter filter;
  const double scale = static_cast<double>(size) / static_cast<double>(outputs);
  const auto weight_at = [](double x) {
    constexpr double a = -0.75;
    x = std::abs(x);
    return x <= 1  ? ((a + 2) * x - (a + 3)) * x * x + 1
           : x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
                   : 0.0;
  };
  for (int64_t i = 0; i < outputs; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * scale - 0.5;
    const auto left = static_cast<int64_t>(std::floor(centre)) - 1;
    const int64_t low = std::clamp<int64_t>(left, 0, size - 1),
                  high = std::clamp<int64_t>(left + 3, 0, size - 1);
    std::vector<double> weights(static_cast<std::size_t>(high - low + 1));
    for (int64_t j = left; j < left + 4; ++j)
      weights[static_cast<std::size_t>(std::clamp<int64_t>(j, 0, size - 1) - low)] +=
          weight_at(centre - static_cast<double>(j));
    filter.first.push_back(static_cast<int32_t>(low));
    filter.offset.push_back(static_cast<int32_t>(filter.weight.size()));
    for (const double weight : weights) filter.weight.push_back(static_cast<float>(weight));
  }
  filter.offset.push_back(static_cast<int32_t>(filter.weight.size()));
  return filter;
}

struct Texture {
  int64_t height, width;
  std::vector<float> planes;  // RGB, whole numbers
};

Texture frost_texture(const std::string& path, double scale, const Frame& frame) {
  constexpr int64_t kMostPixels = 100'000'000;
  const auto image = decode_pixels(path, kMostPixels);
  const int64_t area = image.height * image.width;
  std::vector<float> planes(static_cast<std::size_t>(3 * area));
  for (int64_t i = 0; i < area; ++i)
    for (int64_t c = 0; c < 3; ++c)
      planes[static_cast<std::size_t>(c * area + i)] = image.rgb[static_cast<std::size_t>(3 * i + c)];
  const auto scaled = [](int64_t size, double factor) {
    return static_cast<int64_t>(std::nearbyint(static_cast<double>(size) * factor));
  };
  AxisFilter fy, fx;
  if (scaled(image.height, scale) >= frame.height && scaled(image.width, scale) >= frame.width) {
    const auto positions = [&](int64_t size) {
      std::vector<double> result;
      for (int64_t i = 0; i < scaled(size, scale); ++i)
        result.push_back((static_cast<double>(i) + 0.5) / scale - 0.5);
      return result;
    };
    fy = linear_axis(image.height, positions(image.height));
    fx = linear_axis(image.width, positions(image.width));
  } else {
    // Too small for the picture: enlarged to cover it with a tenth to spare, as imagecorruptions does.
    const double factor =
        1.1 * std::max(static_cast<double>(frame.height) / static_cast<double>(image.height),
                       static_cast<double>(frame.width) / static_cast<double>(image.width));
    fy =
        cubic_axis(image.height, static_cast<int64_t>(std::ceil(static_cast<double>(image.height) * factor)));
    fx = cubic_axis(image.width, static_cast<int64_t>(std::ceil(static_cast<double>(image.width) * factor)));
  }
  Texture texture{fy.outputs(), fx.outputs(), {}};
  texture.planes.resize(static_cast<std::size_t>(3 * texture.height * texture.width));
  filter_separable(planes.data(), 3, image.height, image.width, fy, fx, texture.planes.data());
  for (float& value : texture.planes) value = std::nearbyint(std::clamp(value, 0.0f, 255.0f));
  return texture;
}

Effect frost(double keep, double add, double scale, const Frame& frame, const CorruptOptions& options) {
  const auto folder = frost_folder(options);
  std::vector<Texture> textures;
  for (const char* name : kTextures) textures.push_back(frost_texture(folder + "/" + name, scale, frame));
  const auto shared = std::make_shared<const std::vector<Texture>>(std::move(textures));
  const auto a = static_cast<float>(keep), b = static_cast<float>(add);
  return [=](const RngStream& rng, const float* in, float* out) {
    const auto numbers = rng.child(kNumbers);
    const auto& texture = (*shared)[static_cast<std::size_t>(numbers.below(0, std::size(kTextures)))];
    const auto start = [&](uint64_t index, int64_t room) {  // the last place is left out, as in the script
      return static_cast<int64_t>(numbers.below(index, static_cast<uint64_t>(std::max<int64_t>(room, 1))));
    };
    const int64_t top = start(1, texture.height - frame.height), left = start(2, texture.width - frame.width);
    for (int64_t c = 0; c < 3; ++c) {
      const float* plane = texture.planes.data() + (c * texture.height + top) * texture.width + left;
      for (int64_t y = 0; y < frame.height; ++y) {
        const int64_t at = c * frame.area() + y * frame.width;
        for (int64_t x = 0; x < frame.width; ++x)
          out[at + x] = a * in[at + x] + b * plane[y * texture.width + x];
      }
    }
  };
}

Effect fog(double strength, double decay, const Frame& frame) {
  int64_t side = 2;
  while (side < std::max(frame.height, frame.width)) side *= 2;
  const auto c = static_cast<float>(255 * strength);
  return [=](const RngStream& rng, const float* in, float* out) {
    const auto map = plasma(rng.child(kLayer), side, decay);
    const float largest = *std::max_element(in, in + frame.size());
    const float scale = largest + c > 0 ? largest / (largest + c) : 1.0f;
    for (int64_t p = 0; p < frame.channels; ++p)
      for (int64_t y = 0; y < frame.height; ++y) {
        const float* row = map.data() + y * side;
        const int64_t at = p * frame.area() + y * frame.width;
        for (int64_t x = 0; x < frame.width; ++x) out[at + x] = (in[at + x] + c * row[x]) * scale;
      }
  };
}

// V <- V + c in HSV. With hue and saturation fixed a colour is proportional to its value.
Effect brightness(double add, const Frame& frame) {
  const auto c = static_cast<float>(255 * add);
  return [=](const RngStream&, const float* in, float* out) {
    const int64_t area = frame.area();
    for (int64_t i = 0; i < area; ++i) {
      float value = in[i];
      for (int64_t p = 1; p < frame.channels; ++p) value = std::max(value, in[p * area + i]);
      const float bright = std::clamp(value + c, 0.0f, 255.0f);
      for (int64_t p = 0; p < frame.channels; ++p) {
        const float x = in[p * area + i];
        // The value itself is set, not scaled, so that whole numbers stay whole.
        out[p * area + i] = x == value ? bright : x * (bright / value);
      }
    }
  };
}

// S <- S * factor + add in HSV. With hue and value fixed V - x is proportional to the saturation; a grey
// pixel has hue 0, that is, red.
Effect saturate(double factor, double add, const Frame& frame) {
  const auto f = static_cast<float>(factor), a = static_cast<float>(add);
  return [=](const RngStream&, const float* in, float* out) {
    const int64_t area = frame.area();
    for (int64_t i = 0; i < area; ++i) {
      const float r = in[i], g = in[area + i], b = in[2 * area + i];
      const float value = std::max({r, g, b}), spread = value - std::min({r, g, b});
      if (spread == 0) {
        const float low = value * (1 - std::clamp(a, 0.0f, 1.0f));
        out[i] = value;
        out[area + i] = out[2 * area + i] = low;
        continue;
      }
      const float old = spread / value, now = std::clamp(old * f + a, 0.0f, 1.0f), scale = now / old;
      for (int64_t p = 0; p < 3; ++p) out[p * area + i] = value - (value - in[p * area + i]) * scale;
    }
  };
}

Effect contrast(double c, const Frame& frame) {
  const auto keep = static_cast<float>(c);
  return [=](const RngStream&, const float* in, float* out) {
    for (int64_t p = 0; p < frame.channels; ++p) {
      const float* plane = in + p * frame.area();
      double sum = 0;
      for (int64_t i = 0; i < frame.area(); ++i) sum += static_cast<double>(plane[i]);
      const auto mean = static_cast<float>(sum / static_cast<double>(frame.area()));
      for (int64_t i = 0; i < frame.area(); ++i) out[p * frame.area() + i] = (plane[i] - mean) * keep + mean;
    }
  };
}

// out[c] = bilinear samples of all planes at (y, x), the border as named.
void sample(const float* in, const Frame& frame, float y, float x, Border border, float* out) {
  auto y0 = static_cast<int64_t>(y), x0 = static_cast<int64_t>(x);
  y0 -= static_cast<float>(y0) > y;
  x0 -= static_cast<float>(x0) > x;
  const float dy = y - static_cast<float>(y0), dx = x - static_cast<float>(x0);
  const int64_t above = border_index(y0, frame.height, border) * frame.width;
  const int64_t below = border_index(y0 + 1, frame.height, border) * frame.width;
  const int64_t west = border_index(x0, frame.width, border),
                east = border_index(x0 + 1, frame.width, border);
  for (int64_t c = 0; c < frame.channels; ++c, in += frame.area(), out += frame.area()) {
    const float upper = in[above + west] + dx * (in[above + east] - in[above + west]);
    const float lower = in[below + west] + dx * (in[below + east] - in[below + west]);
    *out = upper + dy * (lower - upper);
  }
}

// The map from the corners moved by `jitter` (x, y for each of three) back to the corners: [2][3].
void inverse_affine(const Frame& frame, const double jitter[6], double map[2][3]) {
  const auto cx = static_cast<double>(frame.width / 2), cy = static_cast<double>(frame.height / 2);
  const auto q = static_cast<double>(std::min(frame.height, frame.width) / 3);
  const double from[3][2] = {{cx + q, cy + q}, {cx + q, cy - q}, {cx - q, cy - q}};
  double to[3][2];
  for (int k = 0; k < 3; ++k)
    for (int d = 0; d < 2; ++d) to[k][d] = from[k][d] + jitter[2 * k + d];
  const double ax = to[1][0] - to[0][0], ay = to[1][1] - to[0][1];
  const double bx = to[2][0] - to[0][0], by = to[2][1] - to[0][1];
  const double determinant = ax * by - ay * bx;
  for (int d = 0; d < 2; ++d) {
    const double da = from[1][d] - from[0][d], db = from[2][d] - from[0][d];
    map[d][0] = (da * by - db * ay) / determinant;
    map[d][1] = (db * ax - da * bx) / determinant;
    map[d][2] = from[0][d] - map[d][0] * to[0][0] - map[d][1] * to[0][1];
  }
}

Effect elastic_transform(double alpha, double sigma, double affine, const Frame& frame) {
  const bool moves = alpha != 0;
  const auto fy = gaussian_axis(frame.height, moves ? sigma : 0, 3, Border::reflect);
  const auto fx = gaussian_axis(frame.width, moves ? sigma : 0, 3, Border::reflect);
  return [=](const RngStream& rng, const float* in, float* out) {
    const auto numbers = rng.child(kNumbers);
    double jitter[6], map[2][3];
    for (uint64_t k = 0; k < 6; ++k) jitter[k] = between(numbers, k, -affine, affine);
    inverse_affine(frame, jitter, map);
    std::vector<float> warped(static_cast<std::size_t>(frame.size()));
    const int64_t area = frame.area();
    float* first = moves ? warped.data() : out;
    for (int64_t y = 0; y < frame.height; ++y) {
      for (int64_t x = 0; x < frame.width; ++x) {
        const auto u = static_cast<double>(x), v = static_cast<double>(y);
        const auto at_x = static_cast<float>(map[0][0] * u + map[0][1] * v + map[0][2]);
        const auto at_y = static_cast<float>(map[1][0] * u + map[1][1] * v + map[1][2]);
        sample(in, frame, at_y, at_x, Border::reflect_101, first + y * frame.width + x);
      }
    }
    if (!moves) return;
    std::vector<float> shift[2];
    for (uint64_t d = 0; d < 2; ++d) {
      const auto noise = uniforms(rng.child(d == 0 ? kLayer : kSecond), area, -1, 1);
      shift[d].resize(noise.size());
      filter_separable(noise.data(), 1, frame.height, frame.width, fy, fx, shift[d].data());
      scale_and_shift(shift[d], alpha, 0);
    }
    for (int64_t y = 0; y < frame.height; ++y) {
      for (int64_t x = 0; x < frame.width; ++x) {
        const int64_t i = y * frame.width + x;
        const float at_x = static_cast<float>(x) + shift[0][static_cast<std::size_t>(i)];
        const float at_y = static_cast<float>(y) + shift[1][static_cast<std::size_t>(i)];
        sample(warped.data(), frame, at_y, at_x, Border::reflect, out + i);
      }
    }
  };
}

Effect pixelate(double scale, const Frame& frame) {
  const auto small = [&](int64_t size) {
    return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(size) * scale));
  };
  const int64_t rows = small(frame.height), columns = small(frame.width);
  const auto fewer_y = box_axis(frame.height, rows), fewer_x = box_axis(frame.width, columns);
  const auto more_y = box_axis(rows, frame.height), more_x = box_axis(columns, frame.width);
  return [=](const RngStream&, const float* in, float* out) {
    std::vector<uint8_t> bytes(static_cast<std::size_t>(frame.area()));
    for (int64_t p = 0; p < frame.channels; ++p) {
      for (int64_t i = 0; i < frame.area(); ++i)
        bytes[static_cast<std::size_t>(i)] = truncated(in[p * frame.area() + i]);
      const auto reduced = box_resize(bytes.data(), frame.width, fewer_y, fewer_x);
      const auto back = box_resize(reduced.data(), columns, more_y, more_x);
      std::copy(back.begin(), back.end(), out + p * frame.area());
    }
  };
}

Effect jpeg_compression(int64_t quality, const Frame& frame) {
  return [=](const RngStream&, const float* in, float* out) {
    const int64_t channels = frame.channels, area = frame.area();
    std::vector<uint8_t> bytes(static_cast<std::size_t>(frame.size()));
    for (int64_t i = 0; i < area; ++i)
      for (int64_t c = 0; c < channels; ++c)
        bytes[static_cast<std::size_t>(channels * i + c)] = truncated(in[c * area + i]);
    jpeg_round_trip(bytes, frame.height, frame.width, channels, static_cast<int>(quality));
    for (int64_t i = 0; i < area; ++i)
      for (int64_t c = 0; c < channels; ++c)
        out[c * area + i] = bytes[static_cast<std::size_t>(channels * i + c)];
  };
}

// One channel as three equal ones, and the luma of the result.
Effect through_colour(const Frame& frame, const Effect& effect) {
  return [=](const RngStream& rng, const float* in, float* out) {
    const int64_t area = frame.area();
    std::vector<float> colour(static_cast<std::size_t>(3 * area)), result(colour.size());
    for (int64_t c = 0; c < 3; ++c) std::copy_n(in, area, colour.data() + c * area);
    effect(rng, colour.data(), result.data());
    for (float& value : result) value = std::clamp(value, 0.0f, 255.0f);
    for (int64_t i = 0; i < area; ++i) {
      const auto at = static_cast<std::size_t>(i), step = static_cast<std::size_t>(area);
      out[i] = luma(result[at], result[at + step], result[at + 2 * step]);
    }
  };
}

}  // namespace

std::vector<float> normals(const RngStream& rng, int64_t count, double mean, double std) {
  auto values = filled(rng, count, kernels::FillKind::normal);
  scale_and_shift(values, std, mean);
  return values;
}

std::vector<float> uniforms(const RngStream& rng, int64_t count, double low, double high) {
  auto values = filled(rng, count, kernels::FillKind::uniform);
  scale_and_shift(values, high - low, low);
  return values;
}

std::vector<float> plasma(const RngStream& rng, int64_t side, double decay) {
  const auto random = uniforms(rng, side * side, -1, 1);
  std::vector<float> map(static_cast<std::size_t>(side * side));
  const int64_t mask = side - 1;
  const auto at = [&](int64_t y, int64_t x) -> float& {
    return map[static_cast<std::size_t>((y & mask) * side + (x & mask))];
  };
  std::size_t next = 0;
  double wibble = 100;
  for (int64_t step = side; step >= 2; step /= 2, wibble /= decay) {
    const int64_t half = step / 2;
    const auto swing = static_cast<float>(wibble * wibble);  // the script multiplies by it twice
    const auto mean = [&](float a, float b, float c, float d) {
      return (a + b + c + d) * 0.25f + swing * random[next++];
    };
    for (int64_t y = 0; y < side; y += step)
      for (int64_t x = 0; x < side; x += step)
        at(y + half, x + half) = mean(at(y, x), at(y + step, x), at(y, x + step), at(y + step, x + step));
    for (int64_t y = 0; y < side; y += step)
      for (int64_t x = 0; x < side; x += step) {
        at(y, x + half) = mean(at(y, x), at(y, x + step), at(y - half, x + half), at(y + half, x + half));
        at(y + half, x) = mean(at(y, x), at(y + step, x), at(y + half, x - half), at(y + half, x + half));
      }
  }
  const auto [low, high] = std::minmax_element(map.begin(), map.end());
  const float least = *low, span = *high - *low;
  for (float& value : map) value = span > 0 ? (value - least) / span : 0.0f;
  return map;
}

namespace {
constexpr int kBoxBits = 32 - 8 - 2;
}

BoxAxis box_axis(int64_t size, int64_t outputs) {
  const double scale = static_cast<double>(size) / static_cast<double>(outputs), wide = std::max(scale, 1.0);
  BoxAxis axis;
  for (int64_t i = 0; i < outputs; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * scale;
    const auto low = std::max<int64_t>(0, static_cast<int64_t>(centre - wide / 2 + 0.5));
    const auto high = std::min<int64_t>(size, static_cast<int64_t>(centre + wide / 2 + 0.5));
    std::vector<double> weights;
    double total = 0;
    for (int64_t j = low; j < high; ++j) {
      const double x = (static_cast<double>(j) - centre + 0.5) / wide;
      weights.push_back(x > -0.5 && x <= 0.5 ? 1.0 : 0.0);
      total += weights.back();
    }
    axis.first.push_back(static_cast<int32_t>(low));
    axis.offset.push_back(static_cast<int32_t>(axis.weight.size()));
    for (const double weight : weights)
      axis.weight.push_back(static_cast<int32_t>(0.5 + weight / total * (1 << kBoxBits)));
  }
  axis.offset.push_back(static_cast<int32_t>(axis.weight.size()));
  return axis;
}

std::vector<uint8_t> box_resize(const uint8_t* in, int64_t width, const BoxAxis& down,
                                const BoxAxis& across) {
  const auto round = [](int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kBoxBits, 0, 255)); };
  constexpr int32_t kHalf = 1 << (kBoxBits - 1);
  const int64_t columns = across.outputs(), rows = down.outputs();
  const int64_t height = down.first.back() + down.offset[static_cast<std::size_t>(rows)] -
                         down.offset[static_cast<std::size_t>(rows - 1)];
  std::vector<uint8_t> narrow(static_cast<std::size_t>(height * columns));
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < columns; ++x) {
      const auto at = static_cast<std::size_t>(x);
      const uint8_t* source = in + y * width + across.first[at];
      int32_t sum = kHalf;
      for (int32_t k = across.offset[at]; k < across.offset[at + 1]; ++k)
        sum += across.weight[static_cast<std::size_t>(k)] * *source++;
      narrow[static_cast<std::size_t>(y * columns + x)] = round(sum);
    }
  std::vector<uint8_t> out(static_cast<std::size_t>(rows * columns));
  std::vector<int32_t> sums(static_cast<std::size_t>(columns));
  for (int64_t y = 0; y < rows; ++y) {
    const auto at = static_cast<std::size_t>(y);
    std::fill(sums.begin(), sums.end(), kHalf);
    const uint8_t* source = narrow.data() + down.first[at] * columns;
    for (int32_t k = down.offset[at]; k < down.offset[at + 1]; ++k, source += columns)
      for (int64_t x = 0; x < columns; ++x)
        sums[static_cast<std::size_t>(x)] += down.weight[static_cast<std::size_t>(k)] * source[x];
    for (int64_t x = 0; x < columns; ++x)
      out[static_cast<std::size_t>(y * columns + x)] = round(sums[static_cast<std::size_t>(x)]);
  }
  return out;
}

Effect make_effect(const std::string& name, const std::vector<double>& p, const Frame& frame, int64_t table,
                   const CorruptOptions& options) {
  const auto whole = [&](std::size_t i) { return static_cast<int64_t>(p[i]); };
  if (name == "gaussian_blur") return gaussian_blur(p[0], frame);
  if (name == "defocus_blur") return defocus_blur(p[0], p[1], frame);
  if (name == "glass_blur") {
    const bool copy = options.glass_exchange == GlassExchange::automatic
                          ? frame.channels == 3
                          : options.glass_exchange == GlassExchange::copy;
    return glass_blur(p[0], whole(1), whole(2), frame, copy);
  }
  if (name == "motion_blur") return motion_blur(p[0], p[1], frame);
  if (name == "zoom_blur") return zoom_blur(p[0], p[1], frame);
  if (name == "snow") return snow(p, frame);
  if (name == "fog") return fog(p[0], p[1], frame);
  if (name == "brightness") return brightness(p[0], frame);
  if (name == "contrast") return contrast(p[0], frame);
  if (name == "elastic_transform") return elastic_transform(p[0], p[1], p[2], frame);
  if (name == "pixelate") return pixelate(p[0], frame);
  if (name == "jpeg_compression") return jpeg_compression(whole(0), frame);
  const Frame colour{3, frame.height, frame.width};
  Effect effect;
  if (name == "frost")
    effect = frost(p[0], p[1], table == 32 ? 0.2 : table == 64 ? 0.3 : 1.0, colour, options);
  else if (name == "saturate")
    effect = saturate(p[0], p[1], colour);
  else if (name == "spatter")
    effect = make_spatter(p, colour);
  else
    throw Error(str("no effect is called '", name, "'"));
  return frame.channels == 3 ? effect : through_colour(frame, effect);
}

}  // namespace glyptic::data
