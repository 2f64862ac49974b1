#include "glyptic/core/rng.h"

#include <torch/torch.h>

#include "glyptic/core/error.h"

namespace glyptic {

namespace {

uint64_t mix64(uint64_t x) {  // the finalizer of SplitMix64
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// Draws that need more than one word a sample live in their own half of the counter space.
constexpr uint64_t kWideSpace = uint64_t{1} << 63;

}  // namespace

uint64_t stream_id(std::string_view name) {
  uint64_t hash = 0xCBF29CE484222325ull;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  return mix64(hash);
}

RngStream RngStream::child(uint64_t index) const {
  return RngStream(seed_, mix64(stream_ + 0x9E3779B97F4A7C15ull * (index + 1)));
}

uint64_t RngStream::below(uint64_t index, uint64_t n) const {
  require(n > 0 && n <= (uint64_t{1} << 32), "RngStream::below: n is ", n, ", expected 1 to 2^32");
  const auto block = philox_block(seed_, stream_, kWideSpace | index);
  // Lemire's multiply-shift on 64 bits: the bias is below n / 2^64 < 2^-32 and cannot be observed.
  const uint64_t word = (uint64_t{block.x[0]} << 32) | block.x[1];
  return static_cast<uint64_t>((static_cast<unsigned __int128>(word) * n) >> 64);
}

std::vector<int64_t> RngStream::permutation(int64_t n) const {
  std::vector<int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  for (int64_t i = n - 1; i > 0; --i)
    std::swap(order[static_cast<std::size_t>(i)],
              order[below(static_cast<uint64_t>(i), static_cast<uint64_t>(i) + 1)]);
  return order;
}

std::vector<int64_t> RngStream::sample(int64_t n, int64_t k) const {
  require(0 <= k && k <= n, "RngStream::sample: ", k, " of ", n, " cannot be drawn without replacement");
  auto order = permutation(n);
  order.resize(static_cast<std::size_t>(k));
  std::sort(order.begin(), order.end());
  return order;
}

at::Tensor RngStream::normal(at::IntArrayRef sizes) const {
  auto tensor = at::empty(sizes, at::kFloat);
  float* out = tensor.data_ptr<float>();
  const int64_t n = tensor.numel();
  for (int64_t i = 0; i < n; i += 2) {
    const auto block = philox_block(seed_, stream_, static_cast<uint64_t>(i / 2));
    const double u1 = (block.x[0] + 1.0) * 0x1p-32;  // in (0, 1]
    const double u2 = block.x[1] * 0x1p-32;
    const double radius = std::sqrt(-2.0 * std::log(u1));
    out[i] = static_cast<float>(radius * std::cos(2.0 * M_PI * u2));
    if (i + 1 < n) out[i + 1] = static_cast<float>(radius * std::sin(2.0 * M_PI * u2));
  }
  return tensor;
}

at::Tensor RngStream::uniform_tensor(at::IntArrayRef sizes, double low, double high) const {
  auto tensor = at::empty(sizes, at::kFloat);
  float* out = tensor.data_ptr<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i)
    out[i] = static_cast<float>(low + (high - low) * (u32(static_cast<uint64_t>(i)) * 0x1p-32));
  return tensor;
}

}  // namespace glyptic
