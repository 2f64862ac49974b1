// Which instruction set the CPU kernels use. Every source of kernels/cpu is compiled once per set, into its
// own namespace, and one is picked when the program runs:
//
//   GLYPTIC_KERNEL(void, mask_apply, (const MaskApplyEntry* entries, ChunkMap map, int threads))   in a
//   header, GLYPTIC_SELECT(mask_apply)(entries, map, threads);                                             at
//   the caller.
//
// All variants round alike (no contraction of products and sums), so which one runs cannot change a bit.
#pragma once

#if defined(__x86_64__) || defined(_M_X64)
#define GLYPTIC_HAS_AVX2_KERNELS 1
#define GLYPTIC_KERNEL(result, name, arguments) \
  namespace baseline {                          \
  result name arguments;                        \
  }                                             \
  namespace avx2 {                              \
  result name arguments;                        \
  }
#define GLYPTIC_SELECT(name)                                                                    \
  (::glyptic::kernels::isa() == ::glyptic::kernels::Isa::avx2 ? &::glyptic::kernels::avx2::name \
                                                              : &::glyptic::kernels::baseline::name)
#else
#define GLYPTIC_HAS_AVX2_KERNELS 0
#define GLYPTIC_KERNEL(result, name, arguments) \
  namespace baseline {                          \
  result name arguments;                        \
  }
#define GLYPTIC_SELECT(name) (&::glyptic::kernels::baseline::name)
#endif

// For the arithmetic that CPU and CUDA kernels share. Internal linkage, because the variants of one inline
// function must not be merged by the linker: the one that is kept could use instructions that the machine
// lacks.
#ifdef __CUDACC__
#define GLYPTIC_INLINE static __host__ __device__ __forceinline__
#else
#define GLYPTIC_INLINE static inline __attribute__((always_inline))
#endif

namespace glyptic::kernels {

enum class Isa { baseline, avx2 };

/// True where this build has the variant and this machine can run it.
bool isa_supported(Isa isa);

/// The best supported one, unless `name` (of an environment variable's value; may be null) asks for less:
/// "baseline" or "avx2". A name that is unknown or cannot run here is an ArgumentError.
Isa isa_from(const char* name);

/// What the library uses: `isa_from(getenv("GLYPTIC_ISA"))`, decided once.
Isa isa();

}  // namespace glyptic::kernels
