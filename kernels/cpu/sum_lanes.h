// The sum of the lanes of a chunk (inner_products.h). Internal linkage; see isa.h.
#pragma once

#include "for_each.h"
#include "glyptic/kernels/inner_products.h"

namespace {

/// Uses up its argument.
inline double sum_lanes(double* lane) {
  for (int64_t step = glyptic::kernels::kSumLanes / 2; step > 0; step /= 2)
    for (int64_t j = 0; j < step; ++j) lane[j] = lane[j] + lane[j + step];
  return lane[0];
}

}  // namespace
