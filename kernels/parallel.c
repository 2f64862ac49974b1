#include "glyptic/kernels/parallel.h"

#include <omp.h>

void glyptic_parallel_run(int64_t tasks, int threads, void (*task)(void* context, int64_t index),
                          void* context) {
  if (tasks <= 1 || threads <= 1 || omp_in_parallel()) {
    for (int64_t i = 0; i < tasks; ++i) task(context, i);
    return;
  }
  if (threads > tasks) threads = (int)tasks;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t i = 0; i < tasks; ++i) task(context, i);
}
