// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011). A number is a pure function of (seed, stream, index), so any thread, device or order of use draws
// the same bits, and nothing but the index has to be saved to resume. Header-only, no torch, usable in CUDA
// kernels.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define GLYPTIC_HOST_DEVICE __host__ __device__
#else
#define GLYPTIC_HOST_DEVICE
#endif

namespace glyptic {

struct Philox4 {
  uint32_t x[4];
};

/// Ten rounds of Philox4x32 on counter (c0..c3) with key (k0, k1).
GLYPTIC_HOST_DEVICE inline Philox4 philox4x32(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0,
                                              uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return Philox4{{c0, c1, c2, c3}};
}

/// The 128 bits number `block` of a stream. Key = seed, counter = (block, stream): streams never overlap.
GLYPTIC_HOST_DEVICE inline Philox4 philox_block(uint64_t seed, uint64_t stream, uint64_t block) {
  return philox4x32(static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                    static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32),
                    static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

/// The 32 bits number `index` of a stream.
GLYPTIC_HOST_DEVICE inline uint32_t philox_u32(uint64_t seed, uint64_t stream, uint64_t index) {
  return philox_block(seed, stream, index / 4).x[index % 4];
}

/// A float in [0, 1) with 24 random bits.
GLYPTIC_HOST_DEVICE inline float philox_to_uniform(uint32_t bits) {
  return static_cast<float>(bits >> 8) * (1.0f / 16777216.0f);
}

}  // namespace glyptic
