// Threads for the kernels of this folder. Everything here has internal linkage; see isa.h.
#pragma once

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

}  // namespace
