#include "glyptic/kernels/topk.h"

#include <cstdlib>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "for_each.h"

namespace glyptic::kernels::GLYPTIC_ISA {
namespace {

constexpr int64_t kBlock = 256;

/// A malloc'ed array. std::vector would emit functions that the linker may share between instruction sets.
template <class T>
class Array {
 public:
  Array() = default;
  explicit Array(int64_t n, bool zero = false) { allocate(n, zero); }
  ~Array() { std::free(data_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  bool allocate(int64_t n, bool zero = false) {
    const auto count = static_cast<std::size_t>(n > 0 ? n : 1);
    data_ = static_cast<T*>(zero ? std::calloc(count, sizeof(T)) : std::malloc(count * sizeof(T)));
    return data_ != nullptr;
  }
  explicit operator bool() const { return data_ != nullptr; }
  T& operator[](int64_t i) { return data_[i]; }
  T* data() { return data_; }

 private:
  T* data_ = nullptr;
};

// ---- keys of a block of elements
// -----------------------------------------------------------------------------

template <KeyKind kind>
void float_keys(const TopKEntry& e, float lambda, int64_t begin, int64_t n, int32_t* __restrict key) {
  const float* __restrict a = e.a + begin;
  const float* __restrict b = (kind == KeyKind::mest || kind == KeyKind::taylor) ? e.b + begin : a;
  for (int64_t i = 0; i < n; ++i) key[i] = score_key<kind>(a[i], b[i], lambda);
}

/// Words begin .. begin + n of a stream; begin is a multiple of 4, and `word` has room for n rounded up to 4.
void random_keys(uint64_t seed, uint64_t stream, int64_t begin, int64_t n, int32_t* __restrict key) {
  const int64_t blocks = (n + 3) / 4;
  for (int64_t j = 0; j < blocks; ++j) {
    uint32_t word[4];
    random_words(seed, stream, static_cast<uint64_t>(begin / 4 + j), word);
    for (int64_t i = 0; i < 4; ++i) key[4 * j + i] = random_key(word[i]);
  }
}

void keys_of(const TopKTask& task, int64_t entry, int64_t begin, int64_t n, int32_t* key) {
  const TopKEntry& e = task.entries[entry];
  switch (task.kind) {
    case KeyKind::magnitude:
      return float_keys<KeyKind::magnitude>(e, task.lambda, begin, n, key);
    case KeyKind::mest:
      return float_keys<KeyKind::mest>(e, task.lambda, begin, n, key);
    case KeyKind::taylor:
      return float_keys<KeyKind::taylor>(e, task.lambda, begin, n, key);
    case KeyKind::raw:
      return float_keys<KeyKind::raw>(e, task.lambda, begin, n, key);
    case KeyKind::random:
      return random_keys(task.seed, task.stream + static_cast<uint64_t>(entry), begin, n, key);
  }
}

int32_t key_at(const TopKTask& task, int64_t entry, int64_t i) {
  if (task.kind == KeyKind::random)
    return random_key(
        random_word(task.seed, task.stream + static_cast<uint64_t>(entry), static_cast<uint64_t>(i)));
  int32_t key = 0;
  keys_of(task, entry, i, 1, &key);
  return key;
}

bool eligible_at(const TopKEntry& e, int64_t i) {
  return (!e.candidate || e.candidate[i]) && !(e.exclude && e.exclude[i]);
}

/// mask = mask or exclude, where the task asks for it.
void merge_excluded(const TopKTask& task, const TopKEntry& e, int64_t begin, int64_t n) {
  if (!task.merge_excluded || !e.exclude) return;
  const uint8_t* __restrict no = e.exclude + begin;
  uint8_t* __restrict mask = e.mask + begin;
  for (int64_t i = 0; i < n; ++i) mask[i] |= no[i] != 0;
}

/// ok[i] = 1 where a candidate, else 0. Returns whether any is.
bool eligible(const TopKEntry& e, int64_t begin, int64_t n, uint8_t* __restrict ok) {
  if (!e.candidate && !e.exclude) {
    for (int64_t i = 0; i < n; ++i) ok[i] = 1;
    return n > 0;
  }
  uint8_t any = 0;
  if (!e.exclude) {
    const uint8_t* __restrict yes = e.candidate + begin;
    for (int64_t i = 0; i < n; ++i) any |= ok[i] = yes[i] != 0;
  } else if (!e.candidate) {
    const uint8_t* __restrict no = e.exclude + begin;
    for (int64_t i = 0; i < n; ++i) any |= ok[i] = no[i] == 0;
  } else {
    const uint8_t* __restrict yes = e.candidate + begin;
    const uint8_t* __restrict no = e.exclude + begin;
    for (int64_t i = 0; i < n; ++i) any |= ok[i] = (yes[i] != 0) & (no[i] == 0);
  }
  return any != 0;
}

// ---- the key of rank r in an array
// ---------------------------------------------------------------------------

struct Rank {
  int32_t key;
  int64_t equals;  ///< how many with this very key belong to the first r
};

/// 1 <= r <= n, rank 1 is the highest key. Destroys the array.
Rank kth_highest(int32_t* key, int64_t n, int64_t r) {
  uint32_t prefix = 0;
  for (int pass = 0; pass < 3; ++pass) {
    int64_t bins[kRadixBins] = {};
    for (int64_t i = 0; i < n; ++i) ++bins[radix_digit(radix_image(key[i]), pass)];
    uint32_t digit = (1u << radix_bits(pass)) - 1;
    while (bins[digit] < r) r -= bins[digit--];
    prefix |= digit << radix_shift(pass);
    int64_t kept = 0;
    for (int64_t i = 0; i < n; ++i) {
      const int32_t k = key[i];
      key[kept] = k;
      kept += radix_digit(radix_image(k), pass) == digit;
    }
    n = kept;
  }
  return Rank{radix_key(prefix), r};
}

// ---- state
// ---------------------------------------------------------------------------------------------------

struct Group {
  int64_t size;                     ///< elements
  int64_t first_entry, last_entry;  ///< [first, last)
  int64_t first_chunk, last_chunk;  ///< [first, last)
  int64_t k;
  int32_t lo, hi;     ///< the bracket: keys in [lo, hi] are collected, keys > hi are selected
  int32_t threshold;  ///< in the end: keys > threshold are selected ...
  int64_t equals;     ///< ... and this many with key == threshold
  bool failed;        ///< of this group's report: nothing more to do
  bool radix;         ///< take the second way
};

struct Chunk {
  int64_t candidates, non_finite, above;
  int64_t collected;
  int32_t* key;      ///< [collected]
  uint16_t* offset;  ///< [collected], ascending
  bool crowded;      ///< more than was worth collecting
  int64_t equals_before;
};

uint64_t scramble(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

/// Sets lo and hi so that the k-th key lies between them but for an unlikely sample.
void bracket(const TopKTask& task, Group& g) {
  g.lo = kKeyLowest;
  g.hi = g.k == 0 ? kKeyHighest : kKeyHighest - 1;
  if (g.k == 0) return;                  // nothing is above, and nothing needs to be collected
  if (g.size <= kTopKChunk / 2) return;  // collect everything
  // About n^(2/3) / 2 samples balance the cost of sampling and of what falls into the bracket.
  int64_t samples = static_cast<int64_t>(__builtin_cbrt(static_cast<double>(g.size)));
  samples = samples * samples / 2;
  Array<int32_t> keys(2 * samples);
  if (!keys) return;
  int64_t taken = 0, entry = g.first_entry, offset = 0;
  const double stride = static_cast<double>(g.size) / static_cast<double>(samples);
  for (int64_t s = 0; s < samples; ++s) {
    const double jitter = static_cast<double>(scramble(static_cast<uint64_t>(s)) >> 11) * 0x1p-53;
    int64_t at = static_cast<int64_t>((static_cast<double>(s) + jitter) * stride);
    if (at >= g.size) at = g.size - 1;
    while (at - offset >= task.entries[entry].size) offset += task.entries[entry++].size;
    if (eligible_at(task.entries[entry], at - offset)) keys[taken++] = key_at(task, entry, at - offset);
  }
  // k of n elements are selected, so about r of the samples; five standard deviations to either side.
  const double share = static_cast<double>(g.k) / static_cast<double>(g.size);
  const double r = share * static_cast<double>(samples);
  const double margin = 5 * __builtin_sqrt(r * (1 - share)) + 5;
  const int64_t upper = static_cast<int64_t>(r - margin), lower = static_cast<int64_t>(r + margin);
  int32_t* copy = keys.data() + samples;
  if (upper >= 1 && upper <= taken) {
    __builtin_memcpy(copy, keys.data(), static_cast<std::size_t>(taken) * sizeof(int32_t));
    g.hi = kth_highest(copy, taken, upper).key;
  }
  if (lower >= 1 && lower <= taken) g.lo = kth_highest(keys.data(), taken, lower).key;
}

struct Scan {
  int64_t candidates = 0, non_finite = 0, above = 0, inside = 0;
};

/// Sum of up to 256 bytes that are 0 or 1, read as words: no byte of the sum exceeds 32.
int64_t count_ones(const uint8_t* __restrict bytes) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < kBlock; i += 8) {
    uint64_t word;
    __builtin_memcpy(&word, bytes + i, sizeof word);
    sum += word;
  }
  constexpr uint64_t kEven = 0x00ff00ff00ff00ffull;
  return static_cast<int64_t>((((sum & kEven) + ((sum >> 8) & kEven)) * 0x0001000100010001ull) >> 48);
}

/// One full block: above[i] = candidate and key > hi; inside[i] = candidate and lo <= key <= hi.
template <bool floats>
void scan_block(const int32_t* __restrict key, const uint8_t* __restrict ok, int32_t lo, int32_t hi,
                uint8_t* __restrict above, uint8_t* __restrict inside, Scan& sum) {
#ifdef __AVX2__
  // Narrowing eight comparisons to bytes is what compilers do badly here.
  const __m256i low = _mm256_set1_epi32(lo), high = _mm256_set1_epi32(hi), one = _mm256_set1_epi8(1);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  __m256i least = _mm256_set1_epi32(kKeyHighest), most = _mm256_set1_epi32(kKeyLowest);
  for (int64_t i = 0; i < kBlock; i += 32) {
    const auto load = [&](int64_t j) {
      return _mm256_load_si256(reinterpret_cast<const __m256i*>(key + i + 8 * j));
    };
    const __m256i k0 = load(0), k1 = load(1), k2 = load(2), k3 = load(3);
    const auto narrow = [&](__m256i a, __m256i b, __m256i c, __m256i d) {
      const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
      return _mm256_permutevar8x32_epi32(bytes, order);
    };
    const __m256i is_high = narrow(_mm256_cmpgt_epi32(k0, high), _mm256_cmpgt_epi32(k1, high),
                                   _mm256_cmpgt_epi32(k2, high), _mm256_cmpgt_epi32(k3, high));
    const __m256i is_low = narrow(_mm256_cmpgt_epi32(low, k0), _mm256_cmpgt_epi32(low, k1),
                                  _mm256_cmpgt_epi32(low, k2), _mm256_cmpgt_epi32(low, k3));
    const __m256i candidate =
        _mm256_and_si256(one, _mm256_load_si256(reinterpret_cast<const __m256i*>(ok + i)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(above + i), _mm256_and_si256(is_high, candidate));
    _mm256_store_si256(reinterpret_cast<__m256i*>(inside + i),
                       _mm256_andnot_si256(_mm256_or_si256(is_high, is_low), candidate));
    if (floats) {
      least = _mm256_min_epi32(least, _mm256_min_epi32(_mm256_min_epi32(k0, k1), _mm256_min_epi32(k2, k3)));
      most = _mm256_max_epi32(most, _mm256_max_epi32(_mm256_max_epi32(k0, k1), _mm256_max_epi32(k2, k3)));
    }
  }
  const __m256i beyond = _mm256_or_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(kKeyMinusInf + 1), least),
                                         _mm256_cmpgt_epi32(most, _mm256_set1_epi32(kKeyPlusInf - 1)));
  const bool suspicious = floats && !_mm256_testz_si256(beyond, beyond);
#else
  int32_t least = kKeyHighest, most = kKeyLowest;
  for (int64_t i = 0; i < kBlock; ++i) {
    const int32_t k = key[i];
    const uint8_t high = (k > hi) & ok[i];
    above[i] = high;
    inside[i] = (k >= lo) & ok[i] & (high ^ 1);
    least = k < least ? k : least;
    most = k > most ? k : most;
  }
  const bool suspicious = floats && !(key_is_finite(least) && key_is_finite(most));
#endif
  sum.candidates += count_ones(ok);
  sum.above += count_ones(above);
  sum.inside += count_ones(inside);
  if (suspicious)
    for (int64_t i = 0; i < kBlock; ++i) sum.non_finite += key_is_finite(key[i]) ? 0 : ok[i];
}

/// The one pass of the first way.
void scan_chunk(const TopKTask& task, const Group& g, int64_t entry, int64_t begin, int64_t end,
                Chunk& chunk) {
  const TopKEntry& e = task.entries[entry];
  alignas(64) int32_t key[kBlock];
  alignas(64) uint8_t ok[kBlock];
  alignas(64) uint8_t inside[kBlock];
  int32_t collected_key[4096];
  uint16_t collected_offset[4096];
  constexpr int64_t kRoom = 4096;
  int64_t collected = 0, capacity = 0;
  int32_t* keys = nullptr;
  uint16_t* offsets = nullptr;
  alignas(64) uint8_t above[kBlock];
  const bool may_crowd = g.last_chunk - g.first_chunk > 4;
  const bool collecting = g.k > 0;
  Scan sum;
  for (int64_t at = begin; at < end; at += kBlock) {
    const int64_t n = end - at < kBlock ? end - at : kBlock;
    if (!eligible(e, at, n, ok)) {
      __builtin_memset(e.mask + at, 0, static_cast<std::size_t>(n));
      merge_excluded(task, e, at, n);
      continue;
    }
    keys_of(task, entry, at, n, key);
    const int64_t before = sum.inside;
    if (n < kBlock) {  // the end of a tensor: fill the block up with elements that are no candidates
      __builtin_memset(ok + n, 0, static_cast<std::size_t>(kBlock - n));
      for (int64_t i = n; i < kBlock; ++i) key[i] = 0;
    }
    uint8_t* to_mask = n < kBlock ? above : e.mask + at;
    if (task.kind == KeyKind::random)
      scan_block<false>(key, ok, g.lo, g.hi, to_mask, inside, sum);
    else
      scan_block<true>(key, ok, g.lo, g.hi, to_mask, inside, sum);
    if (n < kBlock) __builtin_memcpy(e.mask + at, above, static_cast<std::size_t>(n));
    merge_excluded(task, e, at, n);
    if (sum.inside == before || !collecting || chunk.crowded) continue;
    if (may_crowd && sum.inside > kTopKChunk / 4) {
      chunk.crowded = true;
      continue;
    }
    if (collected + (sum.inside - before) > (keys ? capacity : kRoom)) {
      // The small buffers on the stack are full: the rest of the chunk may need all of its elements.
      int32_t* more_keys = static_cast<int32_t*>(std::malloc(kTopKChunk * sizeof(int32_t)));
      uint16_t* more_offsets = static_cast<uint16_t*>(std::malloc(kTopKChunk * sizeof(uint16_t)));
      if (!more_keys || !more_offsets) {
        std::free(more_keys);
        std::free(more_offsets);
        chunk.crowded = true;
        continue;
      }
      __builtin_memcpy(more_keys, collected_key, static_cast<std::size_t>(collected) * sizeof(int32_t));
      __builtin_memcpy(more_offsets, collected_offset,
                       static_cast<std::size_t>(collected) * sizeof(uint16_t));
      keys = more_keys;
      offsets = more_offsets;
      capacity = kTopKChunk;
    }
    int32_t* to_key = keys ? keys : collected_key;
    uint16_t* to_offset = keys ? offsets : collected_offset;
    for (int64_t w = 0; w < n; w += 8) {
      uint64_t word;
      __builtin_memcpy(&word, inside + w, sizeof word);
      for (; word; word &= word - 1, ++collected) {  // little-endian, one bit per byte
        const int64_t i = w + __builtin_ctzll(word) / 8;
        to_key[collected] = key[i];
        to_offset[collected] = static_cast<uint16_t>(at - begin + i);
      }
    }
  }
  chunk.candidates = sum.candidates;
  chunk.non_finite = sum.non_finite;
  chunk.above = sum.above;
  if (!chunk.crowded && collected > 0 && !keys) {
    keys = static_cast<int32_t*>(std::malloc(static_cast<std::size_t>(collected) * sizeof(int32_t)));
    offsets = static_cast<uint16_t*>(std::malloc(static_cast<std::size_t>(collected) * sizeof(uint16_t)));
    if (keys && offsets) {
      __builtin_memcpy(keys, collected_key, static_cast<std::size_t>(collected) * sizeof(int32_t));
      __builtin_memcpy(offsets, collected_offset, static_cast<std::size_t>(collected) * sizeof(uint16_t));
    } else {
      chunk.crowded = true;
    }
  }
  chunk.collected = chunk.crowded ? 0 : collected;
  chunk.key = keys;
  chunk.offset = offsets;
}

/// Finds the k-th key among what was collected, or sends the group the second way.
void resolve(Group& g, Array<Chunk>& chunks, TopKReport& report) {
  int64_t above = 0, inside = 0;
  bool crowded = false;
  report = TopKReport{0, 0};
  for (int64_t c = g.first_chunk; c < g.last_chunk; ++c) {
    report.candidates += chunks[c].candidates;
    report.non_finite += chunks[c].non_finite;
    above += chunks[c].above;
    inside += chunks[c].collected;
    crowded |= chunks[c].crowded;
  }
  g.failed = report.non_finite > 0 || report.candidates < g.k;
  if (g.failed || g.k == 0) return;
  const int64_t wanted = g.k - above;
  g.radix = crowded || wanted < 0 || wanted > inside;
  if (g.radix) return;
  if (wanted == 0) {  // exactly what lies above the bracket
    g.threshold = g.hi;
    g.equals = 0;
    return;
  }
  Array<int32_t> keys(inside);
  if (!keys) {
    g.radix = true;
    return;
  }
  int64_t n = 0;
  for (int64_t c = g.first_chunk; c < g.last_chunk; ++c) {
    if (chunks[c].collected == 0) continue;
    __builtin_memcpy(keys.data() + n, chunks[c].key,
                     static_cast<std::size_t>(chunks[c].collected) * sizeof(int32_t));
    n += chunks[c].collected;
  }
  const Rank rank = kth_highest(keys.data(), n, wanted);
  g.threshold = rank.key;
  g.equals = rank.equals;
  int64_t seen = 0;
  for (int64_t c = g.first_chunk; c < g.last_chunk; ++c) {
    chunks[c].equals_before = seen;
    const int32_t* key = chunks[c].key;
    int64_t here = 0;
    for (int64_t i = 0; i < chunks[c].collected; ++i) here += key[i] == g.threshold;
    seen += here;
  }
}

void set_collected(const Group& g, const Chunk& chunk, uint8_t* mask) {
  int64_t rank = chunk.equals_before;
  for (int64_t i = 0; i < chunk.collected; ++i) {
    const bool equal = chunk.key[i] == g.threshold;
    mask[chunk.offset[i]] = chunk.key[i] > g.threshold || (equal && rank < g.equals);
    rank += equal;
  }
}

// ---- the second way
// ------------------------------------------------------------------------------------------

struct Radix {
  uint32_t prefix;
  int64_t wanted;
  int64_t bins[kRadixBins];
};

void histogram_chunk(const TopKTask& task, int64_t entry, int64_t begin, int64_t end, int pass,
                     Radix& radix) {
  const TopKEntry& e = task.entries[entry];
  alignas(64) int32_t key[kBlock];
  alignas(64) uint8_t ok[kBlock];
  uint32_t bins[kRadixBins] = {};
  for (int64_t at = begin; at < end; at += kBlock) {
    const int64_t n = end - at < kBlock ? end - at : kBlock;
    if (!eligible(e, at, n, ok)) continue;
    keys_of(task, entry, at, n, key);
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t image = radix_image(key[i]);
      if (ok[i] && radix_in_prefix(image, radix.prefix, pass)) ++bins[radix_digit(image, pass)];
    }
  }
  for (int d = 0; d < kRadixBins; ++d)
    if (bins[d]) __atomic_fetch_add(&radix.bins[d], int64_t{bins[d]}, __ATOMIC_RELAXED);
}

/// Writes the mask of everything above the threshold; returns the number of equals.
int64_t write_above(const TopKTask& task, int64_t entry, int64_t begin, int64_t end, int32_t threshold) {
  const TopKEntry& e = task.entries[entry];
  alignas(64) int32_t key[kBlock];
  alignas(64) uint8_t ok[kBlock];
  int64_t equals = 0;
  for (int64_t at = begin; at < end; at += kBlock) {
    const int64_t n = end - at < kBlock ? end - at : kBlock;
    eligible(e, at, n, ok);
    keys_of(task, entry, at, n, key);
    uint8_t* __restrict mask = e.mask + at;
    int32_t here = 0;
    for (int64_t i = 0; i < n; ++i) {
      mask[i] = (key[i] > threshold) & ok[i];
      here += (key[i] == threshold) & ok[i];
    }
    equals += here;
    merge_excluded(task, e, at, n);
  }
  return equals;
}

/// Sets the first `count` equals of a chunk.
void write_equals(const TopKTask& task, int64_t entry, int64_t begin, int64_t end, int32_t threshold,
                  int64_t count) {
  const TopKEntry& e = task.entries[entry];
  alignas(64) int32_t key[kBlock];
  for (int64_t at = begin; at < end && count > 0; at += kBlock) {
    const int64_t n = end - at < kBlock ? end - at : kBlock;
    keys_of(task, entry, at, n, key);
    for (int64_t i = 0; i < n && count > 0; ++i) {
      if (key[i] != threshold || !eligible_at(e, at + i)) continue;
      e.mask[at + i] = 1;
      --count;
    }
  }
}

template <class Place>
bool select_by_radix(const TopKTask& task, Array<Group>& groups, int64_t group_count, Array<Chunk>& chunks,
                     int64_t chunk_count, const Place& place, int threads) {
  Array<Radix> radix(group_count, true);
  if (!radix) return false;
  for (int64_t i = 0; i < group_count; ++i) radix[i].wanted = groups[i].k;
  const auto group_of = [&](int64_t entry) { return task.global ? int64_t{0} : entry; };
  for (int pass = 0; pass < 3; ++pass) {
    for_each(chunk_count, threads, [&](int64_t c) {
      int64_t entry, begin, end;
      place(c, entry, begin, end);
      if (groups[group_of(entry)].radix)
        histogram_chunk(task, entry, begin, end, pass, radix[group_of(entry)]);
    });
    for (int64_t i = 0; i < group_count; ++i) {
      if (!groups[i].radix) continue;
      Radix& r = radix[i];
      uint32_t digit = (1u << radix_bits(pass)) - 1;
      while (r.bins[digit] < r.wanted) r.wanted -= r.bins[digit--];
      r.prefix |= digit << radix_shift(pass);
      __builtin_memset(r.bins, 0, sizeof r.bins);
    }
  }
  for (int64_t i = 0; i < group_count; ++i) {
    if (!groups[i].radix) continue;
    groups[i].threshold = radix_key(radix[i].prefix);
    groups[i].equals = radix[i].wanted;
  }
  for_each(chunk_count, threads, [&](int64_t c) {
    int64_t entry, begin, end;
    place(c, entry, begin, end);
    const Group& g = groups[group_of(entry)];
    if (g.radix) chunks[c].equals_before = write_above(task, entry, begin, end, g.threshold);
  });
  for (int64_t i = 0; i < group_count; ++i) {
    if (!groups[i].radix) continue;
    int64_t seen = 0;
    for (int64_t c = groups[i].first_chunk; c < groups[i].last_chunk; ++c) {
      const int64_t here = chunks[c].equals_before;
      chunks[c].equals_before = seen;
      seen += here;
    }
  }
  for_each(chunk_count, threads, [&](int64_t c) {
    int64_t entry, begin, end;
    place(c, entry, begin, end);
    const Group& g = groups[group_of(entry)];
    if (g.radix && chunks[c].equals_before < g.equals)
      write_equals(task, entry, begin, end, g.threshold, g.equals - chunks[c].equals_before);
  });
  return true;
}

bool select(const TopKTask& task, TopKReport* report, int threads, bool only_radix) {
  Array<int64_t> first(task.count + 1);
  if (!first) return false;
  number_chunks(
      task.count, kTopKChunk, [&](int64_t i) { return task.entries[i].size; }, first.data());
  const ChunkMap map{first.data(), task.count, kTopKChunk};
  const int64_t chunk_count = first[task.count];
  const int64_t group_count = task.global ? 1 : task.count;
  int64_t total = 0;
  for (int64_t i = 0; i < task.count; ++i) total += task.entries[i].size;
  if (total <= kTopKChunk) threads = 1;  // waking threads would cost more than they save
  Array<Group> groups(group_count, true);
  Array<Chunk> chunks(chunk_count, true);
  if (!groups || !chunks) return false;
  for (int64_t i = 0; i < group_count; ++i) {
    Group& g = groups[i];
    g.first_entry = i;
    g.last_entry = task.global ? task.count : i + 1;
    for (int64_t e = g.first_entry; e < g.last_entry; ++e) g.size += task.entries[e].size;
    g.first_chunk = first[g.first_entry];
    g.last_chunk = first[g.last_entry];
    g.k = task.k[i];
  }
  const auto group_of = [&](int64_t entry) { return task.global ? int64_t{0} : entry; };
  const auto place = [&](int64_t c, int64_t& entry, int64_t& begin, int64_t& end) {
    const ChunkPlace p = locate_chunk(map, c);
    const int64_t left = task.entries[p.entry].size - p.begin;
    entry = p.entry;
    begin = p.begin;
    end = p.begin + (left < kTopKChunk ? left : kTopKChunk);
  };

  for_each(group_count, threads, [&](int64_t i) {
    if (only_radix) {  // a bracket that holds nothing: the scan only counts
      groups[i].lo = kKeyHighest;
      groups[i].hi = kKeyHighest;
    } else {
      bracket(task, groups[i]);
    }
  });
  for_each(chunk_count, threads, [&](int64_t c) {
    int64_t entry, begin, end;
    place(c, entry, begin, end);
    scan_chunk(task, groups[group_of(entry)], entry, begin, end, chunks[c]);
  });
  for_each(group_count, threads, [&](int64_t i) {
    resolve(groups[i], chunks, report[i]);
    if (only_radix) groups[i].radix = !groups[i].failed && groups[i].k > 0;
  });
  bool any_radix = false;
  for (int64_t i = 0; i < group_count; ++i) any_radix |= groups[i].radix;
  for_each(chunk_count, threads, [&](int64_t c) {
    int64_t entry, begin, end;
    place(c, entry, begin, end);
    const Group& g = groups[group_of(entry)];
    if (!g.radix && !g.failed && g.k > 0) set_collected(g, chunks[c], task.entries[entry].mask + begin);
  });
  const bool done =
      !any_radix || select_by_radix(task, groups, group_count, chunks, chunk_count, place, threads);
  for (int64_t c = 0; c < chunk_count; ++c) {
    std::free(chunks[c].key);
    std::free(chunks[c].offset);
  }
  return done;
}

}  // namespace

bool topk(const TopKTask& task, TopKReport* report, int threads) {
  return select(task, report, threads, false);
}

bool topk_radix(const TopKTask& task, TopKReport* report, int threads) {
  return select(task, report, threads, true);
}

}  // namespace glyptic::kernels::GLYPTIC_ISA
