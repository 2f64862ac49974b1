// Threads for the kernels of this folder. Everything here has internal linkage; see isa.h.
#pragma once

#include <cstring>

#include "glyptic/kernels/chunks.h"
#include "glyptic/kernels/parallel.h"

// Before a loop whose iterations do not touch each other's memory.
#ifdef __clang__
#define GLYPTIC_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define GLYPTIC_INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace {

/// body(i) for i in [0, tasks).
template <class Body>
void for_each(int64_t tasks, int threads, const Body& body) {
  glyptic_parallel_run(
      tasks, threads, [](void* context, int64_t index) { (*static_cast<const Body*>(context))(index); },
      const_cast<Body*>(&body));
}

/// body(entry, begin, end, chunk) for every chunk; `size(entry)` gives the number of elements of a tensor.
template <class Size, class Body>
void for_each_chunk(const glyptic::kernels::ChunkMap& map, int threads, const Size& size, const Body& body) {
  for_each(map.first[map.entries], threads, [&](int64_t index) {
    const auto place = glyptic::kernels::locate_chunk(map, index);
    const int64_t left = size(place.entry) - place.begin;
    body(place.entry, place.begin, place.begin + (left < map.chunk ? left : map.chunk), index);
  });
}

/// Elements of one cache line of float32.
constexpr int64_t kLine = 16;

inline bool any_active(const uint8_t* mask) {
  uint64_t halves[2];
  std::memcpy(halves, mask, kLine);
  return (halves[0] | halves[1]) != 0;
}

/// line(i) for every i = begin, begin + 16, ... where one of the 16 masks from i on is true, then
/// rest(first, end) for the last ones, fewer than 16. Memory of the other lines is not asked for, except by
/// the machine's own prefetcher, which walks on as long as most lines are used; where few are, the lines to
/// come are named to it with fetch(i).
template <class Line, class Rest, class Fetch>
inline void for_each_active_line(const uint8_t* mask, int64_t begin, int64_t end, const Line& line,
                                 const Rest& rest, const Fetch& fetch) {
  constexpr int64_t kBlock = 2048, kSample = 64, kAhead = 16;  // lines
  const int64_t whole = begin + (end - begin) / kLine * kLine;
  uint32_t list[kBlock + kAhead];
  for (int64_t first = begin; first < whole; first += kBlock * kLine) {
    const int64_t lines = (whole - first < kBlock * kLine ? whole - first : kBlock * kLine) / kLine;
    int64_t active = 0;
    for (int64_t l = 0; l < kSample && l < lines; ++l) active += any_active(mask + first + l * kLine);
    if (lines < kSample || 2 * active > kSample) {
      for (int64_t l = 0; l < lines; ++l)
        if (any_active(mask + first + l * kLine)) line(first + l * kLine);
      continue;
    }
    active = 0;
    for (int64_t l = 0; l < lines; ++l) {
      list[active] = static_cast<uint32_t>(l);
      active += any_active(mask + first + l * kLine);
    }
    if (active == 0) continue;
    for (int64_t k = 0; k < kAhead; ++k) list[active + k] = list[active - 1];
    for (int64_t k = 0; k < active; ++k) {
      fetch(first + list[k + kAhead] * kLine);
      line(first + list[k] * kLine);
    }
  }
  rest(whole, end);
}

}  // namespace
