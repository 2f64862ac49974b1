// Named random streams. All randomness of a run comes from one seed and the name of what it is for:
//
//   RngStream rng(seed, "loader/shuffle");
//   auto order = rng.child(epoch).permutation(n);
//
// Two streams with different names are independent; a stream has no hidden state, so the order in which
// streams are used, and by how many threads, cannot change what any of them returns.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "glyptic/core/philox.h"

namespace glyptic {

/// 64-bit FNV-1a with a final avalanche: names a stream.
uint64_t stream_id(std::string_view name);

class RngStream {
 public:
  RngStream(uint64_t seed, std::string_view name) : seed_(seed), stream_(stream_id(name)) {}
  RngStream(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}

  uint64_t seed() const { return seed_; }
  uint64_t stream() const { return stream_; }

  /// The stream of item `index` of this one, e.g. of an epoch or of a layer.
  RngStream child(uint64_t index) const;

  /// 32 random bits at `index`.
  uint32_t u32(uint64_t index) const { return philox_u32(seed_, stream_, index); }
  /// Uniform in [0, 1), 24 bits.
  float uniform(uint64_t index) const { return philox_to_uniform(u32(index)); }
  /// Uniform integer in [0, n), without bias for n < 2^32. Indices of `below` and `u32` are separate spaces.
  uint64_t below(uint64_t index, uint64_t n) const;
  /// A uniformly random permutation of 0..n-1 (Fisher-Yates).
  std::vector<int64_t> permutation(int64_t n) const;
  /// k distinct values out of 0..n-1, ascending.
  std::vector<int64_t> sample(int64_t n, int64_t k) const;
  /// float32 CPU tensor of standard normals (Box-Muller in float64 on pairs of 32-bit words).
  at::Tensor normal(at::IntArrayRef sizes) const;
  /// float32 CPU tensor uniform in [low, high).
  at::Tensor uniform_tensor(at::IntArrayRef sizes, double low, double high) const;

 private:
  uint64_t seed_;
  uint64_t stream_;
};

}  // namespace glyptic
