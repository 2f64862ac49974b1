// The Philox words of core/philox.h for kernels: the same numbers (a test says so), in a form that inlines
// always and that compilers turn into vector code when called in a loop over blocks.
#pragma once

#include <cstdint>

#include "glyptic/kernels/isa.h"

namespace glyptic::kernels {

/// Words 4 * block ... 4 * block + 3 of a stream.
GLYPTIC_INLINE void random_words(uint64_t seed, uint64_t stream, uint64_t block, uint32_t word[4]) {
  uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32);
  uint32_t c2 = static_cast<uint32_t>(stream), c3 = static_cast<uint32_t>(stream >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  word[0] = c0;
  word[1] = c1;
  word[2] = c2;
  word[3] = c3;
}

/// Word `index` of a stream.
GLYPTIC_INLINE uint32_t random_word(uint64_t seed, uint64_t stream, uint64_t index) {
  uint32_t word[4];
  random_words(seed, stream, index / 4, word);
  const uint32_t low = (index & 1) ? word[1] : word[0], high = (index & 1) ? word[3] : word[2];
  return (index & 2) ? high : low;
}

}  // namespace glyptic::kernels
