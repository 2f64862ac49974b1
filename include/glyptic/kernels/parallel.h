/* Threads for our own kernels. One C file, compiled with OpenMP, shares the thread pool of the OpenMP runtime
 * that torch itself loaded; nothing else in the library uses OpenMP directly (see docs/development.md). */
#ifndef GLYPTIC_KERNELS_PARALLEL_H
#define GLYPTIC_KERNELS_PARALLEL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Calls task(context, i) for i in [0, tasks), on at most `threads` threads, and returns when all are done.
 * Runs serially, in order, when threads <= 1, tasks <= 1, or when called inside a parallel region.
 * `task` must not throw: it crosses a C boundary. Which thread runs which i is unspecified. */
void glyptic_parallel_run(int64_t tasks, int threads, void (*task)(void* context, int64_t index),
                          void* context);

#ifdef __cplusplus
}
#endif

#endif /* GLYPTIC_KERNELS_PARALLEL_H */
