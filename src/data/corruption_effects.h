// The corruptions as functions of one image. Not installed.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "corruption_filters.h"
#include "glyptic/core/rng.h"
#include "glyptic/data/corruptions.h"

namespace glyptic::data {

/// From planes of 0..255 to planes that the caller clips to 0..255. Thread-safe; may throw.
using Effect = std::function<void(const RngStream& rng, const float* in, float* out)>;

/// Everything that depends on parameters and size alone is computed here, once for a batch. Parameters were
/// checked. `table` is 32, 64, 224 or 299.
Effect make_effect(const std::string& name, const std::vector<double>& param, const Frame& frame,
                   int64_t table, const CorruptOptions& options);

/// Random numbers of a stream, float32.
std::vector<float> normals(const RngStream& rng, int64_t count, double mean, double std);
std::vector<float> uniforms(const RngStream& rng, int64_t count, double low, double high);

/// The diamond-square map of fog: [side, side] in [0, 1], touching both ends. `side` is a power of two.
std::vector<float> plasma(const RngStream& rng, int64_t side, double decay);

Effect make_spatter(const std::vector<double>& param, const Frame& frame);

/// Pieces of spatter, as OpenCV defines them, on uint8 planes [height, width].
std::vector<uint8_t> canny(const std::vector<uint8_t>& image, int64_t height, int64_t width, int low,
                           int high);
/// Distance to the nearest non-zero pixel of `edges` by the 5 x 5 chamfer mask (1, 1.4, 2.1969).
std::vector<float> chamfer_distance(const std::vector<uint8_t>& edges, int64_t height, int64_t width);
void equalize_histogram(std::vector<uint8_t>& image);

/// Pillow's box filter: pixels whose centre lies in the cell, in fixed point, rounded after each direction
/// (across first). One plane of bytes.
struct BoxAxis {
  std::vector<int32_t> first, offset, weight;
  int64_t outputs() const { return static_cast<int64_t>(first.size()); }
};
BoxAxis box_axis(int64_t size, int64_t outputs);
std::vector<uint8_t> box_resize(const uint8_t* in, int64_t width, const BoxAxis& down, const BoxAxis& across);

/// The folder that holds frost's textures. MissingFileError where there is none.
std::string frost_folder(const CorruptOptions& options);

}  // namespace glyptic::data
