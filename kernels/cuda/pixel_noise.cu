#include "glyptic/kernels/pixel_noise.h"

#include "grid.cuh"

namespace glyptic::kernels::cuda {
namespace {

/// One Philox block, that is four elements of one image, per thread and turn.
template <PixelNoise kind>
__global__ void __launch_bounds__(kThreads) noise(PixelNoiseArgs a) {
  const int64_t per_image = (a.size + 3) / 4, blocks = a.images * per_image;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t j = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; j < blocks; j += stride) {
    const int64_t image = j / per_image, block = j % per_image;
    const int64_t at = image * a.size + 4 * block;
    const int64_t n = smaller(4, a.size - 4 * block);
    float v[4] = {};
#pragma unroll
    for (int k = 0; k < 4; ++k)
      if (k < n)
        v[k] = a.in_float ? static_cast<const float*>(a.in)[at + k] * 255.0f
                          : static_cast<float>(static_cast<const uint8_t*>(a.in)[at + k]);
    pixel_noise_block<kind>(a, image, a.streams[image], block, v);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (k >= n) continue;
      const float rounded = pixel_rounded(v[k], a.rounding);
      if (a.out_float)
        static_cast<float*>(a.out)[at + k] = rounded / 255.0f;
      else
        static_cast<uint8_t*>(a.out)[at + k] = static_cast<uint8_t>(static_cast<int32_t>(rounded));
    }
  }
}

}  // namespace

void pixel_noise(const PixelNoiseArgs& a, void* stream) {
  const int64_t wanted = (a.images * ((a.size + 3) / 4) + kThreads - 1) / kThreads;
  if (wanted == 0) return;
  const unsigned blocks = blocks_for(wanted < 65536 ? wanted : 65536);
  switch (a.kind) {
    case PixelNoise::gaussian:
      noise<PixelNoise::gaussian><<<blocks, kThreads, 0, as_stream(stream)>>>(a);
      return;
    case PixelNoise::speckle:
      noise<PixelNoise::speckle><<<blocks, kThreads, 0, as_stream(stream)>>>(a);
      return;
    case PixelNoise::impulse:
      noise<PixelNoise::impulse><<<blocks, kThreads, 0, as_stream(stream)>>>(a);
      return;
    case PixelNoise::shot:
      noise<PixelNoise::shot><<<blocks, kThreads, 0, as_stream(stream)>>>(a);
      return;
  }
}

}  // namespace glyptic::kernels::cuda
