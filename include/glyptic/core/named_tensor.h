// A name and a tensor: the one thing that a C++ module, a Python module and a checkpoint can all give, and
// the only thing that methods are written over.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace glyptic {

struct NamedTensor {
  std::string name;
  at::Tensor tensor;
};

using NamedTensors = std::vector<NamedTensor>;

/// The tensor called `name`, or nullptr. O(n): lists are short, and callers that look up often keep an index.
const at::Tensor* find(const NamedTensors& tensors, const std::string& name);

/// The tensor called `name`; ArgumentError that names the nearest names when there is none.
const at::Tensor& get(const NamedTensors& tensors, const std::string& name);

/// "[64, 3, 3, 3]".
std::string shape_string(at::IntArrayRef sizes);

/// ArgumentError unless names are unique and every tensor is defined.
void check_names(const NamedTensors& tensors, const char* what);

/// A contiguous copy in storage that torch's own allocator aligned. Matrix products change bits when an
/// operand is not 16-byte aligned, so whatever came from a mapped file or a slice passes through here before
/// it is trained on.
at::Tensor aligned_copy(const at::Tensor& tensor);

/// The candidates closest to `word` by edit distance, best first, none when nothing is near ("did you mean").
std::vector<std::string> nearest(const std::string& word, const std::vector<std::string>& candidates,
                                 std::size_t most = 3);

/// "; did you mean 'density'?", or "" when there is no name, or none that is near.
std::string did_you_mean(const std::vector<std::string>& names);
std::string did_you_mean(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace glyptic
