// Radix select over memory. Per group: three histogram passes narrow the k-th key down, one pass writes the
// mask of everything above it and counts equals per chunk, a prefix sum over chunks ranks the equals in index
// order, and the chunks that hold the first of them set their bits. Histograms and counts are integers, so
// the order in which blocks run cannot change the result. Nothing goes to the host in between.
#include "glyptic/kernels/topk.h"

#include "grid.cuh"

namespace glyptic::kernels::cuda {
namespace {

using Count = unsigned long long;

struct Group {
  Count wanted;       ///< how many of those inside the prefix are still to be selected
  uint32_t prefix;    ///< the digits found so far
  int32_t searching;  ///< 0 when k is 0 or there are fewer than k candidates: nothing will be selected
};

struct Scratch {
  Count* bins;    // [groups][kRadixBins]
  Group* groups;  // [groups]
  Count* equals;  // [chunks]: equals in the chunk, then equals of the group before it
};

int64_t round_up(int64_t bytes) {
  return (bytes + 255) / 256 * 256;
}

Scratch lay_out(void* memory, int64_t groups, int64_t chunks) {
  auto* at = static_cast<char*>(memory);
  Scratch s;
  s.bins = reinterpret_cast<Count*>(at);
  at += round_up(groups * kRadixBins * static_cast<int64_t>(sizeof(Count)));
  s.groups = reinterpret_cast<Group*>(at);
  at += round_up(groups * static_cast<int64_t>(sizeof(Group)));
  s.equals = reinterpret_cast<Count*>(at);
  (void)chunks;
  return s;
}

template <KeyKind kind>
__device__ int32_t key_at(const TopKTask& task, const TopKEntry& e, int64_t entry, int64_t i) {
  if (kind == KeyKind::random)
    return random_key(
        random_word(task.seed, task.stream + static_cast<uint64_t>(entry), static_cast<uint64_t>(i)));
  const float a = e.a[i];
  const float b = kind == KeyKind::mest || kind == KeyKind::taylor ? e.b[i] : 0.0f;
  return score_key < kind == KeyKind::random ? KeyKind::raw : kind > (a, b, task.lambda);
}

__device__ bool eligible_at(const TopKEntry& e, int64_t i) {
  return (!e.candidate || e.candidate[i]) && !(e.exclude && e.exclude[i]);
}

__device__ int64_t group_of(const TopKTask& task, int64_t entry) {
  return task.global ? 0 : entry;
}

__global__ void start(TopKTask task, Scratch s, TopKReport* report) {
  const int64_t g = blockIdx.x;
  for (int bin = threadIdx.x; bin < kRadixBins; bin += kThreads) s.bins[g * kRadixBins + bin] = 0;
  if (threadIdx.x == 0) {
    s.groups[g] = Group{static_cast<Count>(task.k[g]), 0u, task.k[g] > 0};
    report[g] = TopKReport{0, 0};
  }
}

template <KeyKind kind>
__global__ void __launch_bounds__(kThreads) histogram(TopKTask task, ChunkMap map, Scratch s, int pass) {
  __shared__ uint32_t bins[kRadixBins];
  const ChunkPlace place = locate_chunk(map, blockIdx.x);
  const int64_t g = group_of(task, place.entry);
  const Group group = s.groups[g];
  if (pass > 0 && !group.searching) return;  // the first pass also counts candidates, for the report
  for (int bin = threadIdx.x; bin < kRadixBins; bin += kThreads) bins[bin] = 0;
  __syncthreads();
  const TopKEntry e = task.entries[place.entry];
  const int64_t end = smaller(place.begin + map.chunk, e.size);
  for (int64_t i = place.begin + threadIdx.x; i < end; i += kThreads) {
    if (!eligible_at(e, i)) continue;
    const uint32_t image = radix_image(key_at<kind>(task, e, place.entry, i));
    if (radix_in_prefix(image, group.prefix, pass)) atomicAdd(&bins[radix_digit(image, pass)], 1u);
  }
  __syncthreads();
  for (int bin = threadIdx.x; bin < kRadixBins; bin += kThreads)
    if (bins[bin]) atomicAdd(&s.bins[g * kRadixBins + bin], static_cast<Count>(bins[bin]));
}

/// One block per group: finds the digit in which the wanted rank falls, and clears the histogram.
__global__ void __launch_bounds__(kThreads) narrow(TopKTask task, Scratch s, TopKReport* report, int pass) {
  constexpr int kEach = kRadixBins / kThreads;
  __shared__ Count sums[kThreads];
  const int64_t g = blockIdx.x;
  const int t = static_cast<int>(threadIdx.x);
  Count* bins = s.bins + g * kRadixBins;
  // Thread t owns the bins high - 0, high - 1, ...: ranks count from the highest key.
  const int high = kRadixBins - 1 - t * kEach;
  Count mine = 0;
  for (int j = 0; j < kEach; ++j) mine += bins[high - j];
  sums[t] = mine;
  __syncthreads();
  for (int step = 1; step < kThreads; step *= 2) {  // inclusive prefix sums
    const Count add = t >= step ? sums[t - step] : 0;
    __syncthreads();
    sums[t] += add;
    __syncthreads();
  }
  const Count total = sums[kThreads - 1];
  const Group group = s.groups[g];
  __syncthreads();
  if (pass == 0 && t == 0) {
    // All exponent bits set: the four highest bins for +Inf and NaN, the four lowest for -Inf and NaN.
    Count bad = 0;
    if (task.kind != KeyKind::random)
      for (int j = 0; j < 4; ++j) bad += bins[j] + bins[kRadixBins - 1 - j];
    report[g] = TopKReport{static_cast<int64_t>(total), static_cast<int64_t>(bad)};
    if (total < group.wanted) s.groups[g].searching = 0;
  }
  const Count before = sums[t] - mine;
  if (group.searching && total >= group.wanted && before < group.wanted && group.wanted <= sums[t]) {
    Count rank = group.wanted - before;
    int digit = high;
    while (bins[digit] < rank) rank -= bins[digit--];
    s.groups[g].wanted = rank;
    s.groups[g].prefix = group.prefix | (static_cast<uint32_t>(digit) << radix_shift(pass));
  }
  __syncthreads();
  for (int j = 0; j < kEach; ++j) bins[high - j] = 0;
}

template <KeyKind kind>
__global__ void __launch_bounds__(kThreads) write_above(TopKTask task, ChunkMap map, Scratch s) {
  const ChunkPlace place = locate_chunk(map, blockIdx.x);
  const TopKEntry e = task.entries[place.entry];
  const Group group = s.groups[group_of(task, place.entry)];
  const int32_t threshold = radix_key(group.prefix);
  const int64_t end = smaller(place.begin + map.chunk, e.size);
  int equals = 0;
  for (int64_t i = place.begin + threadIdx.x; i < end; i += kThreads) {
    bool above = false;
    if (group.searching && eligible_at(e, i)) {
      const int32_t key = key_at<kind>(task, e, place.entry, i);
      above = key > threshold;
      equals += key == threshold;
    }
    e.mask[i] = above || (task.merge_excluded && e.exclude && e.exclude[i]);
  }
  equals = block_sum(equals);
  if (threadIdx.x == 0) s.equals[blockIdx.x] = static_cast<Count>(equals);
}

/// One block per group: exclusive prefix sums of the equals over its chunks.
__global__ void __launch_bounds__(kThreads) rank_chunks(TopKTask task, ChunkMap map, Scratch s) {
  __shared__ Count sums[kThreads];
  const int64_t g = blockIdx.x;
  const int64_t first = task.global ? 0 : map.first[g];
  const int64_t last = task.global ? map.first[map.entries] : map.first[g + 1];
  const int t = static_cast<int>(threadIdx.x);
  Count carry = 0;
  for (int64_t at = first; at < last; at += kThreads) {
    const Count mine = at + t < last ? s.equals[at + t] : 0;
    sums[t] = mine;
    __syncthreads();
    for (int step = 1; step < kThreads; step *= 2) {
      const Count add = t >= step ? sums[t - step] : 0;
      __syncthreads();
      sums[t] += add;
      __syncthreads();
    }
    if (at + t < last) s.equals[at + t] = carry + sums[t] - mine;
    carry += sums[kThreads - 1];
    __syncthreads();
  }
}

template <KeyKind kind>
__global__ void __launch_bounds__(kThreads) write_equals(TopKTask task, ChunkMap map, Scratch s) {
  __shared__ int warp_count[kThreads / 32];
  const ChunkPlace place = locate_chunk(map, blockIdx.x);
  const Group group = s.groups[group_of(task, place.entry)];
  Count before = s.equals[blockIdx.x];
  if (!group.searching || before >= group.wanted) return;
  const TopKEntry e = task.entries[place.entry];
  const int32_t threshold = radix_key(group.prefix);
  const int64_t end = smaller(place.begin + map.chunk, e.size);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t at = place.begin; at < end && before < group.wanted;
       at += kThreads) {  // uniform over the block
    const int64_t i = at + threadIdx.x;
    const bool equal = i < end && eligible_at(e, i) && key_at<kind>(task, e, place.entry, i) == threshold;
    const unsigned votes = __ballot_sync(0xffffffffu, equal);
    if (lane == 0) warp_count[warp] = __popc(votes);
    __syncthreads();
    int ahead = __popc(votes & ((1u << lane) - 1u)), tile = 0;
    for (int w = 0; w < kThreads / 32; ++w) {
      if (w < warp) ahead += warp_count[w];
      tile += warp_count[w];
    }
    if (equal && before + static_cast<Count>(ahead) < group.wanted) e.mask[i] = 1;
    before += static_cast<Count>(tile);
    __syncthreads();
  }
}

template <KeyKind kind>
void select(const TopKTask& task, const ChunkMap& map, int64_t groups, int64_t chunks, const Scratch& s,
            TopKReport* report, cudaStream_t stream) {
  const unsigned group_blocks = blocks_for(groups), chunk_blocks = blocks_for(chunks);
  start<<<group_blocks, kThreads, 0, stream>>>(task, s, report);
  for (int pass = 0; pass < 3; ++pass) {
    if (chunks) histogram<kind><<<chunk_blocks, kThreads, 0, stream>>>(task, map, s, pass);
    narrow<<<group_blocks, kThreads, 0, stream>>>(task, s, report, pass);
  }
  if (!chunks) return;
  write_above<kind><<<chunk_blocks, kThreads, 0, stream>>>(task, map, s);
  rank_chunks<<<group_blocks, kThreads, 0, stream>>>(task, map, s);
  write_equals<kind><<<chunk_blocks, kThreads, 0, stream>>>(task, map, s);
}

}  // namespace

int64_t topk_scratch_bytes(int64_t groups, int64_t chunks) {
  return round_up(groups * kRadixBins * static_cast<int64_t>(sizeof(Count))) +
         round_up(groups * static_cast<int64_t>(sizeof(Group))) +
         round_up(chunks * static_cast<int64_t>(sizeof(Count))) + 256;
}

void topk(const TopKTask& task, ChunkMap map, int64_t chunks, TopKReport* report, void* scratch,
          void* stream) {
  const int64_t groups = task.global ? 1 : task.count;
  const Scratch s = lay_out(scratch, groups, chunks);
  switch (task.kind) {
    case KeyKind::magnitude:
      return select<KeyKind::magnitude>(task, map, groups, chunks, s, report, as_stream(stream));
    case KeyKind::mest:
      return select<KeyKind::mest>(task, map, groups, chunks, s, report, as_stream(stream));
    case KeyKind::taylor:
      return select<KeyKind::taylor>(task, map, groups, chunks, s, report, as_stream(stream));
    case KeyKind::random:
      return select<KeyKind::random>(task, map, groups, chunks, s, report, as_stream(stream));
    case KeyKind::raw:
      return select<KeyKind::raw>(task, map, groups, chunks, s, report, as_stream(stream));
  }
}

}  // namespace glyptic::kernels::cuda
