// Random lists of tensors for the tests of the operators.
#pragma once

#include <torch/torch.h>

#include <string>

#include "glyptic/core/error.h"
#include "glyptic/ops/ops.h"

namespace glyptic::ops {

inline TensorList clones(const TensorList& list) {
  TensorList result;
  for (const auto& t : list) result.push_back(t.clone());  // keeps the layout
  return result;
}

/// Below the size at which ATen wakes its threads: on a busy machine those cost more than the work.
inline std::vector<std::vector<int64_t>> some_shapes() {
  return {{4, 3}, {1}, {0, 5}, {}, {7, 3, 3, 3}, {2, 5, 1, 1}, {40, 800}, {33}};
}

/// Normal values with exact zeros, a negative zero and a denormal among them.
inline at::Tensor values(at::IntArrayRef shape, at::ScalarType type = at::kFloat) {
  auto t = torch::randn(shape, at::kDouble);
  t = at::where(torch::rand(shape) < 0.1, at::zeros({}, at::kDouble), t);
  t = at::where(torch::rand(shape) < 0.05, at::full({}, -0.0, at::kDouble), t);
  t = at::where(torch::rand(shape) < 0.02, at::full({}, 1e-41, at::kDouble), t);
  return t.to(type);
}

inline TensorList values_like(const TensorList& list) {
  TensorList result;
  for (const auto& t : list) {
    auto fresh = at::empty_like(t);
    fresh.copy_(values(t.sizes(), t.scalar_type()));
    result.push_back(fresh);
  }
  return result;
}

inline TensorList masks_like(const TensorList& list, double density) {
  TensorList result;
  for (const auto& t : list) {
    auto mask = at::empty_like(t, t.options().dtype(at::kBool));
    mask.copy_(torch::rand(t.sizes()) < density);
    result.push_back(mask);
  }
  return result;
}

/// One tensor of each shape; 4-D ones also in channels-last, and some that no dense kernel can take.
inline TensorList some_weights(at::ScalarType type = at::kFloat) {
  TensorList list;
  for (const auto& shape : some_shapes()) {
    list.push_back(values(shape, type));
    if (shape.size() == 4) list.push_back(values(shape, type).contiguous(at::MemoryFormat::ChannelsLast));
  }
  list.push_back(values({6, 8}, type).t());                // dense, transposed
  list.push_back(values({6, 8}, type).slice(1, 0, 8, 2));  // with gaps
  return list;
}

/// Equal bit for bit, so that -0 is not +0.
inline ::testing::AssertionResult same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type())
    return ::testing::AssertionFailure() << "shapes or types differ";
  const auto x = a.contiguous(), y = b.contiguous();
  if (x.numel() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0)
    return ::testing::AssertionSuccess();
  const auto different = x.ne(y).nonzero();
  if (different.numel() == 0) return ::testing::AssertionFailure() << "only signs of zero (or NaN) differ";
  const auto at = different[0];
  return ::testing::AssertionFailure()
         << different.size(0) << " of " << x.numel() << " differ, first at [" << at.view({1, -1}) << "] by "
         << (x.to(at::kDouble) - y.to(at::kDouble)).abs().max().item<double>();
}

inline ::testing::AssertionResult same_bits(const TensorList& a, const TensorList& b) {
  if (a.size() != b.size())
    return ::testing::AssertionFailure() << a.size() << " tensors against " << b.size();
  for (std::size_t i = 0; i < a.size(); ++i)
    if (auto result = same_bits(a[i], b[i]); !result) return result << " (tensor " << i << ")";
  return ::testing::AssertionSuccess();
}

/// The message of the ArgumentError that `call` throws, or "" if it does not.
template <class Call>
std::string refusal(Call&& call) {
  try {
    call();
  } catch (const ArgumentError& error) {
    return error.what();
  }
  return "";
}

/// Sets the number of threads while it lives.
struct Threads {
  explicit Threads(int n) : before(at::get_num_threads()) { at::set_num_threads(n); }
  ~Threads() { at::set_num_threads(before); }
  int before;
};

}  // namespace glyptic::ops
