#include "glyptic/kernels/channel_gather.h"

#include <cstddef>

#include "for_each.h"

namespace glyptic::kernels::GLYPTIC_ISA {
namespace {

template <class Word>
void gather_words(const char* in, char* out, const int64_t* cols, int64_t n) {
  const Word* from = reinterpret_cast<const Word*>(in);
  Word* to = reinterpret_cast<Word*>(out);
  for (int64_t c = 0; c < n; ++c) to[c] = from[cols[c]];
}

void gather_row(const GatherArgs& a, const char* in, char* out) {
  const int64_t cell = a.cell_bytes;
  if (!a.cols) {
    __builtin_memcpy(out, in, static_cast<std::size_t>(a.out_cols * cell));
    return;
  }
  const int32_t unit = gather_unit(a);
  if (cell == 4 && unit == 4) return gather_words<uint32_t>(in, out, a.cols, a.out_cols);
  if (cell == 8 && unit == 8) return gather_words<uint64_t>(in, out, a.cols, a.out_cols);
  if (cell == 2 && unit == 2) return gather_words<uint16_t>(in, out, a.cols, a.out_cols);
  for (int64_t c = 0; c < a.out_cols; ++c)
    __builtin_memcpy(out + c * cell, in + a.cols[c] * cell, static_cast<std::size_t>(cell));
}

}  // namespace

void channel_gather(const GatherArgs& a, int threads) {
  constexpr int64_t kBytes = 1 << 18;
  const int64_t row_bytes = a.out_cols * a.cell_bytes;
  const int64_t batch = row_bytes >= kBytes || row_bytes == 0 ? 1 : kBytes / row_bytes;
  for_each((a.out_rows + batch - 1) / batch, threads, [&](int64_t task) {
    const int64_t end = (task + 1) * batch < a.out_rows ? (task + 1) * batch : a.out_rows;
    for (int64_t r = task * batch; r < end; ++r) {
      const int64_t from = a.rows ? a.rows[r] : r;
      gather_row(a, a.in + from * a.in_cols * a.cell_bytes, a.out + r * row_bytes);
    }
  });
}

}  // namespace glyptic::kernels::GLYPTIC_ISA
