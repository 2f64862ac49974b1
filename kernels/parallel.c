#include "glyptic/kernels/parallel.h"

#include <omp.h>

#ifdef GLYPTIC_TSAN
// ThreadSanitizer does not see libgomp's barriers, which are futexes: it is told of the two that order a
// loop.
void __tsan_acquire(void* at);
void __tsan_release(void* at);
#else
#define __tsan_acquire(at) ((void)(at))
#define __tsan_release(at) ((void)(at))
#endif

void glyptic_parallel_run(int64_t tasks, int threads, void (*task)(void* context, int64_t index),
                          void* context) {
  if (tasks <= 1 || threads <= 1 || omp_in_parallel()) {
    for (int64_t i = 0; i < tasks; ++i) task(context, i);
    return;
  }
  if (threads > tasks) threads = (int)tasks;
  char begin = 0, end = 0;  // their addresses stand for the barriers
  __tsan_release(&begin);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t i = 0; i < tasks; ++i) {
    __tsan_acquire(&begin);
    task(context, i);
    __tsan_release(&end);
  }
  __tsan_acquire(&end);
}
