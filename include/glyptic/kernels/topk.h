// Exact top-k masks. Per group (each tensor, or all of them together) the k candidates with the highest keys
// (score_key.h) get mask 1, everything else 0; among equal keys the earlier tensor, then the lower index,
// wins. Candidates are skipped by predicate and never given a sentinel score: a genuine score of 0 stays
// selectable.
//
// CPU. A jittered sample brackets the k-th key between lo and hi. One pass over memory then writes the mask
// of everything above hi and collects the few candidates inside the bracket, among which a radix select on
// the keys finds the k-th exactly; their mask bits are set last. A group whose sample misled (the counts
// prove it), or with too many equals for that, is done again by radix select over memory: three histogram
// passes of 11, 11 and 10 bits, one pass that writes, and one over the chunks that hold equals. The result is
// exact on either way, so it depends neither on the sample nor on the number of threads. Bytes per weight: 4
// (a) + 4 (b) + 1 per predicate + 1 (mask).
//
// GPU. The radix select over memory, all state on the device, no synchronisation until the report is read.
#pragma once

#include <cstdint>

#include "glyptic/kernels/chunks.h"
#include "glyptic/kernels/score_key.h"

namespace glyptic::kernels {

struct TopKEntry {
  const float* a;            ///< null for random scores
  const float* b;            ///< null unless the score reads it
  const uint8_t* candidate;  ///< null: everywhere
  const uint8_t* exclude;    ///< null: nowhere
  uint8_t* mask;             ///< written in full; must not overlap the others
  int64_t size;
};

struct TopKTask {
  const TopKEntry* entries;
  int64_t count;     ///< number of entries
  const int64_t* k;  ///< one per entry, or one if global
  bool global;
  KeyKind kind;
  float lambda;
  uint64_t seed, stream;
  bool merge_excluded;  ///< the mask is also 1 where `exclude` is: the union in the same pass
};

/// What to check before the masks are used. Per group (host memory on the CPU, device memory on the GPU).
struct TopKReport {
  int64_t candidates;
  int64_t non_finite;  ///< number of candidates whose score is NaN or Inf
};

/// Elements per chunk; offsets inside a chunk fit 16 bits.
constexpr int64_t kTopKChunk = 65536;

/// Masks of groups whose report shows a non-finite score or fewer than k candidates are unspecified. Returns
/// false if memory for the working tables could not be had.
GLYPTIC_KERNEL(bool, topk, (const TopKTask& task, TopKReport* report, int threads))

/// For tests: the second way (radix select over memory) for all groups.
GLYPTIC_KERNEL(bool, topk_radix, (const TopKTask& task, TopKReport* report, int threads))

namespace cuda {
constexpr int64_t kTopKChunk = 16384;
/// Bytes of device scratch for `groups` groups and `chunks` chunks of cuda::kTopKChunk elements.
int64_t topk_scratch_bytes(int64_t groups, int64_t chunks);
/// task.entries, task.k, map.first and `report` in device memory; asynchronous on `stream`.
void topk(const TopKTask& task, ChunkMap map, int64_t chunks, TopKReport* report, void* scratch,
          void* stream);
}  // namespace cuda

}  // namespace glyptic::kernels
