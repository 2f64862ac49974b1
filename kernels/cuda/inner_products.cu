#include "sum_lanes.cuh"

namespace glyptic::kernels::cuda {
namespace {

__global__ void __launch_bounds__(kThreads)
    chunk_sums(const ProductsEntry* entries, ChunkMap map, double eta, ProductSums* sums) {
  const ChunkPlace place = locate_chunk(map, blockIdx.x);
  const ProductsEntry e = entries[place.entry];
  const int64_t end = smaller(place.begin + map.chunk, e.size);
  double aa = 0, ab = 0, bb = 0;
  for (int64_t i = place.begin + threadIdx.x; i < end; i += kThreads) add_products(e, i, eta, &aa, &ab, &bb);
  aa = sum_lanes(aa);
  if (e.b) {
    ab = sum_lanes(ab);
    bb = sum_lanes(bb);
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = ProductSums{aa, e.b ? ab : 0.0, e.b ? bb : 0.0};
}

__global__ void __launch_bounds__(kThreads)
    total_sums(const ProductSums* sums, int64_t chunks, ProductSums* total) {
  double aa = 0, ab = 0, bb = 0;
  for (int64_t i = threadIdx.x; i < chunks; i += kThreads) {
    aa = aa + sums[i].aa;
    ab = ab + sums[i].ab;
    bb = bb + sums[i].bb;
  }
  aa = sum_lanes(aa);
  ab = sum_lanes(ab);
  bb = sum_lanes(bb);
  if (threadIdx.x == 0) *total = ProductSums{aa, ab, bb};
}

}  // namespace

void total_products(const ProductSums* sums, int64_t chunks, ProductSums* total, void* stream) {
  total_sums<<<1, kThreads, 0, as_stream(stream)>>>(sums, chunks, total);
}

void inner_products(const ProductsEntry* entries, ChunkMap map, int64_t chunks, double eta, ProductSums* sums,
                    ProductSums* total, void* stream) {
  chunk_sums<<<blocks_for(chunks), kThreads, 0, as_stream(stream)>>>(entries, map, eta, sums);
  total_products(sums, chunks, total, stream);
}

}  // namespace glyptic::kernels::cuda
