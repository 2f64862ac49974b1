// The instruction sets that this machine can test, and random arrays with the values that break things.
#pragma once

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "glyptic/kernels/isa.h"

// Calls body(pointer to a kernel, name of its instruction set) for each variant that can run here.
#if GLYPTIC_HAS_AVX2_KERNELS
#define GLYPTIC_EACH_VARIANT(name, body)                                  \
  do {                                                                    \
    body(&::glyptic::kernels::baseline::name, "baseline");                \
    if (::glyptic::kernels::isa_supported(::glyptic::kernels::Isa::avx2)) \
      body(&::glyptic::kernels::avx2::name, "avx2");                      \
  } while (false)
#else
#define GLYPTIC_EACH_VARIANT(name, body) body(&::glyptic::kernels::baseline::name, "baseline")
#endif

namespace glyptic::testing_support {

using Engine = std::mt19937_64;

/// Kinds of data: 0 normal; 1 few distinct values (ties); 2 all equal; 3 signs, zeros of both signs and
/// denormals; 4 magnitudes over the whole range of exponents.
constexpr int kDataKinds = 5;

inline std::vector<float> random_floats(Engine& engine, std::size_t n, int kind) {
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> few(-3, 3), sign(0, 1), exponent(-120, 60);
  const float tiny[] = {0.0f,
                        -0.0f,
                        std::numeric_limits<float>::denorm_min(),
                        -std::numeric_limits<float>::denorm_min(),
                        1e-40f,
                        -1e-40f,
                        1.0f};
  std::uniform_int_distribution<int> pick(0, 6);
  std::vector<float> x(n);
  for (auto& v : x) {
    if (kind == 0) v = normal(engine);
    if (kind == 1) v = static_cast<float>(few(engine));
    if (kind == 2) v = -1.5f;
    if (kind == 3) v = tiny[pick(engine)];
    if (kind == 4) v = std::ldexp(normal(engine), exponent(engine));
  }
  return x;
}

inline std::vector<uint8_t> random_mask(Engine& engine, std::size_t n, double density) {
  std::bernoulli_distribution coin(density);
  std::vector<uint8_t> mask(n);
  for (auto& m : mask) m = coin(engine);
  return mask;
}

}  // namespace glyptic::testing_support
