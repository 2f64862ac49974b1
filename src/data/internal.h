// What the sources of this module share. Not installed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "glyptic/data/dataset.h"

namespace glyptic::data {

/// 60000 -> "60,000".
std::string grouped(int64_t number);

/// True when something is there, even something that we may not open: opening it then says why.
bool present(const std::string& path);

/// The positions that split_validation would give to validation, ascending.
std::vector<int64_t> validation_indices(const Dataset& base, int64_t count, uint64_t seed);
/// Those of 0..size-1 that are not in `indices` (ascending).
std::vector<int64_t> complement(const std::vector<int64_t>& indices, int64_t size);

/// An image as decoders give it: rows of RGB triples.
struct Pixels {
  int64_t height = 0, width = 0;
  std::vector<uint8_t> rgb;
};
Pixels decode_pixels(const std::string& path, int64_t max_pixels);

/// Rows of pixels of 1 (grey) or 3 (RGB) bytes through baseline JPEG (chroma 4:2:0) and back, in memory.
void jpeg_round_trip(std::vector<uint8_t>& pixels, int64_t height, int64_t width, int64_t channels,
                     int quality);

/// The box (top, left, height, width; fractions allowed) of an image, resampled to planes [3, side, side]
/// with a triangle filter that widens with the reduction, so that fine detail does not alias.
void resample(const Pixels& image, double top, double left, double height, double width, int64_t side,
              uint8_t* planes);

/// Sorted names of the class folders of an image folder.
std::vector<std::string> image_folder_classes(const std::string& folder);
/// Sorted names of the .jpg, .jpeg and .png files of a class folder. DataError when there are none.
std::vector<std::string> image_files(const std::string& folder);

}  // namespace glyptic::data
