#include "glyptic/kernels/channel_gather.h"

#include "grid.cuh"

namespace glyptic::kernels::cuda {
namespace {

/// One word per thread and turn; consecutive threads write consecutive words.
template <class Word>
__global__ void __launch_bounds__(kThreads) gather(GatherArgs a, int64_t words_per_cell, int64_t total) {
  const Word* in = reinterpret_cast<const Word*>(a.in);
  Word* out = reinterpret_cast<Word*>(a.out);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < total; i += stride) {
    const int64_t word = i % words_per_cell, cell = i / words_per_cell;
    const int64_t c = cell % a.out_cols, r = cell / a.out_cols;
    const int64_t from_r = a.rows ? a.rows[r] : r, from_c = a.cols ? a.cols[c] : c;
    out[i] = in[(from_r * a.in_cols + from_c) * words_per_cell + word];
  }
}

template <class Word>
void launch(const GatherArgs& a, void* stream) {
  const int64_t words = a.cell_bytes / static_cast<int64_t>(sizeof(Word));
  const int64_t total = a.out_rows * a.out_cols * words;
  const int64_t wanted = (total + kThreads - 1) / kThreads;
  if (total == 0) return;
  gather<Word>
      <<<blocks_for(wanted < 65536 ? wanted : 65536), kThreads, 0, as_stream(stream)>>>(a, words, total);
}

}  // namespace

void channel_gather(const GatherArgs& a, void* stream) {
  switch (gather_unit(a)) {
    case 16:
      return launch<uint4>(a, stream);
    case 8:
      return launch<uint2>(a, stream);
    case 4:
      return launch<uint32_t>(a, stream);
    case 2:
      return launch<uint16_t>(a, stream);
    default:
      return launch<uint8_t>(a, stream);
  }
}

}  // namespace glyptic::kernels::cuda
