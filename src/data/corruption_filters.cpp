#include "corruption_filters.h"

#include <algorithm>
#include <cmath>

namespace glyptic::data {

int64_t border_index(int64_t i, int64_t size, Border border) {
  if (0 <= i && i < size) return i;
  if (border == Border::nearest || size == 1) return std::clamp<int64_t>(i, 0, size - 1);
  const int64_t period = border == Border::reflect ? 2 * size : 2 * size - 2;
  i %= period;
  if (i < 0) i += period;
  if (i < size) return i;
  return border == Border::reflect ? period - 1 - i : period - i;
}

AxisFilter gaussian_axis(int64_t size, double sigma, double truncate, Border border) {
  const auto radius = static_cast<int64_t>(truncate * sigma + 0.5);
  std::vector<double> kernel(static_cast<std::size_t>(2 * radius + 1), 1.0);
  double total = 0;
  for (int64_t k = -radius; k <= radius; ++k) {
    const auto x = static_cast<double>(k);
    auto& weight = kernel[static_cast<std::size_t>(k + radius)];
    if (radius > 0) weight = std::exp(-x * x / (2 * sigma * sigma));
    total += weight;
  }
  AxisFilter filter;
  std::vector<double> row(static_cast<std::size_t>(size));
  for (int64_t i = 0; i < size; ++i) {
    std::fill(row.begin(), row.end(), 0.0);
    int64_t low = size, high = -1;
    for (int64_t k = -radius; k <= radius; ++k) {
      const int64_t j = border_index(i + k, size, border);
      row[static_cast<std::size_t>(j)] += kernel[static_cast<std::size_t>(k + radius)] / total;
      low = std::min(low, j);
      high = std::max(high, j);
    }
    filter.first.push_back(static_cast<int32_t>(low));
    filter.offset.push_back(static_cast<int32_t>(filter.weight.size()));
    for (int64_t j = low; j <= high; ++j)
      filter.weight.push_back(static_cast<float>(row[static_cast<std::size_t>(j)]));
  }
  filter.offset.push_back(static_cast<int32_t>(filter.weight.size()));
  return filter;
}

AxisFilter linear_axis(int64_t size, const std::vector<double>& positions) {
  AxisFilter filter;
  for (const double position : positions) {
    const double clamped = std::clamp(position, 0.0, static_cast<double>(size - 1));
    const auto left = std::min(static_cast<int64_t>(clamped), std::max<int64_t>(size - 2, 0));
    const double weight = clamped - static_cast<double>(left);
    filter.first.push_back(static_cast<int32_t>(left));
    filter.offset.push_back(static_cast<int32_t>(filter.weight.size()));
    filter.weight.push_back(static_cast<float>(1 - weight));
    if (size > 1) filter.weight.push_back(static_cast<float>(weight));
  }
  filter.offset.push_back(static_cast<int32_t>(filter.weight.size()));
  return filter;
}

void filter_separable(const float* in, int64_t planes, int64_t height, int64_t width, const AxisFilter& fy,
                      const AxisFilter& fx, float* out) {
  const int64_t rows = fy.outputs(), columns = fx.outputs();
  std::vector<float> line(static_cast<std::size_t>(width));
  for (int64_t p = 0; p < planes; ++p) {
    const float* plane = in + p * height * width;
    for (int64_t y = 0; y < rows; ++y) {
      const auto at = static_cast<std::size_t>(y);
      float* __restrict sum = line.data();
      for (int64_t x = 0; x < width; ++x) sum[x] = 0.0f;
      for (int32_t k = fy.offset[at]; k < fy.offset[at + 1]; ++k) {
        const float weight = fy.weight[static_cast<std::size_t>(k)];
        const float* __restrict row = plane + (fy.first[at] + k - fy.offset[at]) * width;
        for (int64_t x = 0; x < width; ++x) sum[x] += weight * row[x];
      }
      float* target = out + (p * rows + y) * columns;
      for (int64_t x = 0; x < columns; ++x) {
        const auto from = static_cast<std::size_t>(x);
        const float* weight = fx.weight.data() + fx.offset[from];
        const float* source = sum + fx.first[from];
        const int32_t taps = fx.offset[from + 1] - fx.offset[from];
        float value = 0.0f;
        for (int32_t k = 0; k < taps; ++k) value += weight[k] * source[k];
        target[x] = value;
      }
    }
  }
}

std::vector<double> zoom_positions(int64_t size, double factor) {
  const auto length = static_cast<double>(size);
  const auto crop = static_cast<int64_t>(std::ceil(length / factor));
  const int64_t top = (size - crop) / 2;
  // Python's round: halves to even.
  const auto enlarged = static_cast<int64_t>(std::nearbyint(static_cast<double>(crop) * factor));
  const int64_t trim = (enlarged - size) / 2;
  std::vector<double> positions(static_cast<std::size_t>(size));
  for (int64_t i = 0; i < size; ++i)
    positions[static_cast<std::size_t>(i)] =
        static_cast<double>(top) + static_cast<double>((i + trim) * (crop - 1)) /
                                       static_cast<double>(std::max<int64_t>(enlarged - 1, 1));
  return positions;
}

ZoomAxis zoom_axis(int64_t size, double factor) {
  ZoomAxis axis;
  for (const double position : zoom_positions(size, factor)) {
    const auto left = std::clamp<int64_t>(static_cast<int64_t>(position), 0, size - 2);
    axis.at.push_back(static_cast<int32_t>(left));
    axis.weight.push_back(static_cast<float>(position - static_cast<double>(left)));
  }
  return axis;
}

void add_zoomed(const float* in, const Frame& frame, const ZoomAxis& zy, const ZoomAxis& zx, float* scratch,
                float* out) {
  const int64_t width = frame.width;
  const int32_t* at = zx.at.data();
  const float* weight = zx.weight.data();
  for (int64_t p = 0; p < frame.channels; ++p) {
    for (int64_t y = 0; y < frame.height; ++y) {
      const auto row = static_cast<std::size_t>(y);
      const float* __restrict above = in + p * frame.area() + zy.at[row] * width;
      const float* __restrict below = above + width;
      const float down = zy.weight[row];
      float* __restrict line = scratch;
      for (int64_t x = 0; x < width; ++x) line[x] = above[x] + down * (below[x] - above[x]);
      float* __restrict target = out + p * frame.area() + y * width;
      for (int64_t x = 0; x < width; ++x) {
        const float left = line[at[x]];
        target[x] += left + weight[x] * (line[at[x] + 1] - left);
      }
    }
  }
}

void correlate(const float* in, const Frame& frame, const std::vector<Tap>& taps, Border border, float* out) {
  int64_t up = 0, down = 0, left = 0, right = 0;
  for (const auto& tap : taps) {
    up = std::max(up, -tap.dy);
    down = std::max(down, tap.dy);
    left = std::max(left, -tap.dx);
    right = std::max(right, tap.dx);
  }
  const int64_t width = frame.width, stride = width + left + right, rows = frame.height + up + down;
  std::vector<float> padded(static_cast<std::size_t>(rows * stride));
  for (int64_t p = 0; p < frame.channels; ++p) {
    for (int64_t y = 0; y < rows; ++y) {
      const float* row = in + p * frame.area() + border_index(y - up, frame.height, border) * width;
      float* target = padded.data() + y * stride;
      for (int64_t x = 0; x < left; ++x) target[x] = row[border_index(x - left, width, border)];
      std::copy_n(row, width, target + left);
      for (int64_t x = 0; x < right; ++x)
        target[left + width + x] = row[border_index(width + x, width, border)];
    }
    for (int64_t y = 0; y < frame.height; ++y) {
      float* __restrict target = out + p * frame.area() + y * width;
      for (int64_t x = 0; x < width; ++x) target[x] = 0.0f;
      for (const auto& tap : taps) {
        const float* __restrict source = padded.data() + (y + up + tap.dy) * stride + left + tap.dx;
        for (int64_t x = 0; x < width; ++x) target[x] += tap.weight * source[x];
      }
    }
  }
}

std::vector<Tap> dense_taps(const std::vector<double>& kernel, int64_t rows, int64_t columns) {
  std::vector<Tap> taps;
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = 0; x < columns; ++x)
      if (const double weight = kernel[static_cast<std::size_t>(y * columns + x)]; weight != 0)
        taps.push_back({y - rows / 2, x - columns / 2, static_cast<float>(weight)});
  return taps;
}

std::vector<Tap> motion_taps(double radius, double sigma, double degrees, int64_t height, int64_t width) {
  const auto count = 2 * static_cast<int64_t>(radius) + 1;
  double total = 0;
  for (int64_t i = 0; i < count; ++i) {
    const auto x = static_cast<double>(i);
    total += std::exp(-x * x / (2 * sigma * sigma));
  }
  const double angle = degrees * M_PI / 180.0, sine = std::sin(angle), cosine = std::cos(angle);
  std::vector<Tap> taps;
  for (int64_t i = 0; i < count; ++i) {
    const auto x = static_cast<double>(i);
    // The picture moves by (dx, dy): it is read at minus that.
    const auto dy = static_cast<int64_t>(std::ceil(x * sine - 0.5));
    const auto dx = static_cast<int64_t>(std::ceil(x * cosine - 0.5));
    if (std::abs(dy) >= height || std::abs(dx) >= width) break;
    taps.push_back({dy, dx, static_cast<float>(std::exp(-x * x / (2 * sigma * sigma)) / total)});
  }
  return taps;
}

}  // namespace glyptic::data
