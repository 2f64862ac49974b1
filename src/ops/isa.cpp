#include "glyptic/kernels/isa.h"

#include <cstdlib>
#include <string>

#include "glyptic/core/error.h"

namespace glyptic::kernels {

bool isa_supported(Isa isa) {
  if (isa == Isa::baseline) return true;
#if GLYPTIC_HAS_AVX2_KERNELS
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
         __builtin_cpu_supports("popcnt");
#else
  return false;
#endif
}

Isa isa_from(const char* name) {
  if (!name || !*name) return isa_supported(Isa::avx2) ? Isa::avx2 : Isa::baseline;
  const std::string wanted = name;
  require(wanted == "baseline" || wanted == "avx2", "GLYPTIC_ISA is '", wanted,
          "', expected baseline or avx2");
  const Isa isa = wanted == "avx2" ? Isa::avx2 : Isa::baseline;
  require(isa_supported(isa), "GLYPTIC_ISA is 'avx2', which this machine or build does not have; unset it");
  return isa;
}

Isa isa() {
  static const Isa chosen = isa_from(std::getenv("GLYPTIC_ISA"));
  return chosen;
}

}  // namespace glyptic::kernels
