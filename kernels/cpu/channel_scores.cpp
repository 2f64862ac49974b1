#include "glyptic/kernels/channel_scores.h"

#include "for_each.h"

namespace glyptic::kernels::GLYPTIC_ISA {
namespace {

double lane_tree(double* lane) {
  for (int64_t step = kRowLanes / 2; step > 0; step /= 2)
    for (int64_t j = 0; j < step; ++j) lane[j] = lane[j] + lane[j + step];
  return lane[0];
}

double sum_magnitude(const float* w, int64_t n) {
  double lane[kRowLanes] = {};
  int64_t i = 0;
  for (; i + kRowLanes <= n; i += kRowLanes)
    for (int64_t j = 0; j < kRowLanes; ++j) lane[j] += static_cast<double>(__builtin_fabsf(w[i + j]));
  for (int64_t j = 0; i + j < n; ++j) lane[j] += static_cast<double>(__builtin_fabsf(w[i + j]));
  return lane_tree(lane);
}

double sum_kept(const float* w, const uint8_t* mask, int64_t n) {
  double lane[kRowLanes] = {};
  int64_t i = 0;
  for (; i + kRowLanes <= n; i += kRowLanes)
    for (int64_t j = 0; j < kRowLanes; ++j)
      lane[j] += static_cast<double>(mask[i + j] ? __builtin_fabsf(w[i + j]) : 0.0f);
  for (int64_t j = 0; i + j < n; ++j)
    lane[j] += static_cast<double>(mask[i + j] ? __builtin_fabsf(w[i + j]) : 0.0f);
  return lane_tree(lane);
}

int64_t count_kept(const uint8_t* mask, int64_t n) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) count += mask[i] != 0;
  return count;
}

int64_t count_nonzero(const float* w, int64_t n) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) count += w[i] != 0.0f;
  return count;
}

int64_t count_kernels(const float* w, int64_t kernels, int64_t kernel_size) {
  if (kernel_size == 1) return count_nonzero(w, kernels);
  int64_t count = 0;
  for (int64_t k = 0; k < kernels; ++k) {
    bool any = false;
    for (int64_t i = 0; i < kernel_size; ++i) any |= w[k * kernel_size + i] != 0.0f;
    count += any;
  }
  return count;
}

double score_row(const RowEntry& e, int64_t row, RowScore score) {
  const float* w = e.weight + row * e.row_size;
  const int64_t n = e.row_size;
  switch (score) {
    case RowScore::mean_magnitude:
      return sum_magnitude(w, n) / static_cast<double>(n);
    case RowScore::masked_mean_magnitude: {
      if (!e.mask) return sum_magnitude(w, n) / static_cast<double>(n);
      const int64_t kept = count_kept(e.mask + row * n, n);
      return kept ? sum_kept(w, e.mask + row * n, n) / static_cast<double>(kept) : 0.0;
    }
    case RowScore::density:
      return static_cast<double>(count_nonzero(w, n)) / static_cast<double>(n);
    case RowScore::kernel_density: {
      const int64_t kernels = n / e.kernel_size;
      return static_cast<double>(count_kernels(w, kernels, e.kernel_size)) / static_cast<double>(kernels);
    }
  }
  return 0;
}

}  // namespace

void channel_scores(const RowEntry* entries, ChunkMap map, RowScore score, int threads) {
  for_each_chunk(
      map, threads, [&](int64_t i) { return entries[i].rows; },
      [&](int64_t i, int64_t begin, int64_t end, int64_t) {
        const RowEntry& e = entries[i];
        for (int64_t row = begin; row < end; ++row)
          e.out[row] = e.row_size ? static_cast<float>(score_row(e, row, score)) : 0.0f;
      });
}

}  // namespace glyptic::kernels::GLYPTIC_ISA
