#include "glyptic/kernels/philox_fill.h"

#include "for_each.h"

namespace glyptic::kernels::GLYPTIC_ISA {
namespace {

constexpr int64_t kBlocks = 64;  // of four numbers
constexpr int64_t kNumbers = 4 * kBlocks;
constexpr int64_t kTask = 1 << 16;  // numbers per task

template <FillKind kind>
void numbers(const FillArgs& args, uint64_t first_block, float* __restrict out) {
  FillArgs a = args;
  a.kind = kind;
  for (int64_t j = 0; j < kBlocks; ++j) fill_block(a, first_block + static_cast<uint64_t>(j), out + 4 * j);
}

void store(const FillArgs& a, int64_t at, const float* __restrict x, int64_t n) {
  switch (a.type) {
    case FloatType::float32: {
      float* __restrict to = static_cast<float*>(a.out) + at;
      for (int64_t i = 0; i < n; ++i) to[i] = x[i];
      return;
    }
    case FloatType::float64: {
      double* __restrict to = static_cast<double*>(a.out) + at;
      for (int64_t i = 0; i < n; ++i) to[i] = static_cast<double>(x[i]);
      return;
    }
    case FloatType::bfloat16: {
      uint16_t* __restrict to = static_cast<uint16_t*>(a.out) + at;
      for (int64_t i = 0; i < n; ++i) to[i] = to_bfloat16(x[i]);
      return;
    }
    case FloatType::float16: {
      uint16_t* __restrict to = static_cast<uint16_t*>(a.out) + at;
      for (int64_t i = 0; i < n; ++i) to[i] = to_float16(x[i]);
      return;
    }
  }
}

}  // namespace

void philox_fill(const FillArgs& a, int threads) {
  // Tasks are cut at multiples of four numbers of the stream, so that only the ends of the array hold part
  // blocks.
  const int64_t lead = static_cast<int64_t>(a.offset % 4);
  const uint64_t first_block = a.offset / 4;
  const int64_t total = a.size + lead;
  for_each((total + kTask - 1) / kTask, threads, [&](int64_t task) {
    alignas(64) float x[kNumbers];
    const int64_t end = (task + 1) * kTask < total ? (task + 1) * kTask : total;
    for (int64_t at = task * kTask; at < end; at += kNumbers) {
      const uint64_t block = first_block + static_cast<uint64_t>(at / 4);
      switch (a.kind) {
        case FillKind::uniform:
          numbers<FillKind::uniform>(a, block, x);
          break;
        case FillKind::normal:
          numbers<FillKind::normal>(a, block, x);
          break;
        case FillKind::rademacher:
          numbers<FillKind::rademacher>(a, block, x);
          break;
      }
      const int64_t skip = at < lead ? lead - at : 0;
      const int64_t n = (end - at < kNumbers ? end - at : kNumbers) - skip;
      if (n > 0) store(a, at + skip - lead, x + skip, n);
    }
  });
}

}  // namespace glyptic::kernels::GLYPTIC_ISA
