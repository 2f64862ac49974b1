// out[r, c, :] = in[rows[r], cols[c], :] for a contiguous array [R, C, cell], of any dtype: a cell is a run
// of bytes. A null index list keeps that dimension. Reads and writes the small array once. Indices must be in
// range; `out` must not overlap the input.
#pragma once

#include <cstdint>

#include "glyptic/kernels/isa.h"

namespace glyptic::kernels {

struct GatherArgs {
  const char* in;
  char* out;
  const int64_t* rows;  ///< [out_rows], or null
  const int64_t* cols;  ///< [out_cols], or null
  int64_t out_rows, out_cols;
  int64_t in_cols;
  int64_t cell_bytes;
};

/// The widest of 16, 8, 4, 2, 1 bytes that divides the cell and the addresses.
GLYPTIC_INLINE int32_t gather_unit(const GatherArgs& args) {
  const uint64_t bits = static_cast<uint64_t>(args.cell_bytes) | reinterpret_cast<uintptr_t>(args.in) |
                        reinterpret_cast<uintptr_t>(args.out) | 16u;
  return static_cast<int32_t>(bits & (~bits + 1));
}

GLYPTIC_KERNEL(void, channel_gather, (const GatherArgs& args, int threads))

namespace cuda {
/// `rows` and `cols` in device memory.
void channel_gather(const GatherArgs& args, void* stream);
}  // namespace cuda

}  // namespace glyptic::kernels
