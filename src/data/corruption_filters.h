// Building blocks of the corruptions: planes of float32, row by row. Borders have the names of OpenCV and
// SciPy: nearest aaa|abc, reflect cba|abc, reflect_101 dcb|abc. Not installed.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace glyptic::data {

struct Frame {
  int64_t channels, height, width;
  int64_t area() const { return height * width; }
  int64_t size() const { return channels * area(); }
};

enum class Border { nearest, reflect, reflect_101 };
/// The index inside 0..size-1 that `i` stands for.
int64_t border_index(int64_t i, int64_t size, Border border);

/// One axis of a separable linear map: out[i] = sum of weight[offset[i] + k] * in[first[i] + k].
struct AxisFilter {
  std::vector<int32_t> first, offset;  ///< one per output; `offset` has one more
  std::vector<float> weight;
  int64_t outputs() const { return static_cast<int64_t>(first.size()); }
};

/// exp(-k^2 / 2 sigma^2), radius int(truncate * sigma + 1/2), sum 1; what falls outside is folded back.
AxisFilter gaussian_axis(int64_t size, double sigma, double truncate, Border border);
/// Values between samples at the given positions, 0 to size - 1.
AxisFilter linear_axis(int64_t size, const std::vector<double>& positions);
/// out [planes, fy.outputs, fx.outputs] of in [planes, height, width].
void filter_separable(const float* in, int64_t planes, int64_t height, int64_t width, const AxisFilter& fy,
                      const AxisFilter& fx, float* out);

/// One corruption's enlargement about the centre (the authors' clipped_zoom): sample positions of the output.
std::vector<double> zoom_positions(int64_t size, double factor);

/// The same enlargement for linear interpolation with two taps.
struct ZoomAxis {
  std::vector<int32_t> at;  ///< the left neighbour; the right one is there too
  std::vector<float> weight;
};
ZoomAxis zoom_axis(int64_t size, double factor);
/// out += the enlarged planes.
void add_zoomed(const float* in, const Frame& frame, const ZoomAxis& zy, const ZoomAxis& zx, float* scratch,
                float* out);

struct Tap {
  int64_t dy, dx;
  float weight;
};
/// out[y, x] = sum over taps of weight * in[y + dy, x + dx].
void correlate(const float* in, const Frame& frame, const std::vector<Tap>& taps, Border border, float* out);
/// The taps of a dense kernel of odd sides, centre in the middle, zeros left out.
std::vector<Tap> dense_taps(const std::vector<double>& kernel, int64_t rows, int64_t columns);
/// The one-sided Gaussian along a line of ImageMagick's MotionBlur, as taps with the nearest border.
std::vector<Tap> motion_taps(double radius, double sigma, double degrees, int64_t height, int64_t width);

}  // namespace glyptic::data
