// NumPy's .npy files (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html),
// versions 1.0, 2.0 and 3.0: one array of numbers, little-endian, in C order. Pickled objects, Fortran order,
// structured and big-endian types are refused by name.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace glyptic::data {

struct NpyHeader {
  at::ScalarType dtype = at::kByte;
  std::vector<int64_t> shape;
  uint64_t offset = 0;  ///< of the first element in the file
};

/// Parses the header and checks it against the file's length. DataError names file, offset and what is wrong.
NpyHeader read_npy_header(const std::string& path);

/// The whole array, or rows [first, first + count) of its first dimension (count -1: to the end). Nothing is
/// allocated before the header is found to fit the file. Types: bool, uint8, int8, int16, int32, int64,
/// float16, float32, float64.
at::Tensor read_npy(const std::string& path, int64_t first = 0, int64_t count = -1);

/// Writes an array piece by piece. The file appears at `path` when `commit` returns, or not at all.
class NpyWriter {
 public:
  NpyWriter(const std::string& path, at::ScalarType dtype, const std::vector<int64_t>& shape);
  ~NpyWriter();
  NpyWriter(const NpyWriter&) = delete;
  NpyWriter& operator=(const NpyWriter&) = delete;

  /// The next elements, in C order. ArgumentError for another dtype or more than the shape holds.
  void append(const at::Tensor& values);
  /// ArgumentError when elements are missing.
  void commit();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

void write_npy(const std::string& path, const at::Tensor& array);

}  // namespace glyptic::data
