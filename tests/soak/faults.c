// A shim for LD_PRELOAD that makes the disk and the clock of one process misbehave, so that tests need
// neither root nor a full disk. It acts on files below $FAULTS_FOLDER only:
//
//   FAULTS_LOG=file        append a line "kind path" for every call seen below
//   FAULTS_KILL=kind:n     SIGKILL at the n-th call of a kind:
//                            write    to a temporary file, after half of its bytes
//                            patch    into one (pwrite), before
//                            sync     of one (fsync), before
//                            rename   of one, before
//                            folder   fsync of a folder: after the rename, before it is on the disk
//                            metrics  to metrics.jsonl, after half of the line
//                            truncate of metrics.jsonl, before
//   FAULTS_QUOTA=bytes     ENOSPC once so many bytes were written
//   FAULTS_SYNC=errno:end  fsync of files whose name ends so fails
//   FAULTS_READONLY=1      EROFS for whatever would create or open to write
//   FAULTS_CLOCK=1         the wall clock leaps by up to a month, back and forth, at every look; the steady
//                          clock leaps forward by minutes
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static const char* folder;
static const char* log_path;
static char kill_kind[16];
static long kill_at;
static char sync_end[32];
static int sync_error, readonly, leaps;
static _Atomic long seen, quota = LONG_MAX;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void start(void) {
  folder = getenv("FAULTS_FOLDER");
  log_path = getenv("FAULTS_LOG");
  const char* text = getenv("FAULTS_KILL");
  if (text) sscanf(text, "%15[a-z]:%ld", kill_kind, &kill_at);
  if ((text = getenv("FAULTS_QUOTA"))) quota = atol(text);
  if ((text = getenv("FAULTS_SYNC"))) sscanf(text, "%d:%31s", &sync_error, sync_end);
  readonly = getenv("FAULTS_READONLY") != NULL;
  leaps = getenv("FAULTS_CLOCK") != NULL;
}

static int below(const char* path) {
  return folder && path && strncmp(path, folder, strlen(folder)) == 0;
}

// The path of an open file, "" when it is none of ours.
static void path_of(int fd, char* path, size_t size) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = folder ? readlink(link, path, size - 1) : -1;
  path[length > 0 ? length : 0] = 0;
  if (!below(path)) path[0] = 0;
}

static int ends(const char* path, const char* end) {
  const size_t a = strlen(path), b = strlen(end);
  return a >= b && strcmp(path + a - b, end) == 0;
}

// Notes a call; 1 when the process is to die in it.
static int met(const char* kind, const char* path) {
  if (log_path) {
    const int saved = errno;
    char line[PATH_MAX + 64];
    const int length = snprintf(line, sizeof line, "%s %s\n", kind, path);
    const int fd = (int)syscall(SYS_openat, AT_FDCWD, log_path, O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (fd >= 0) {
      if (syscall(SYS_write, fd, line, length) < 0) abort();
      syscall(SYS_close, fd);
    }
    errno = saved;
  }
  return strcmp(kind, kill_kind) == 0 && atomic_fetch_add(&seen, 1) + 1 == kill_at;
}

static void die(void) {
  raise(SIGKILL);
}

// How many of `count` bytes still fit; -1 with ENOSPC when none does.
static ssize_t fits(size_t count) {
  const long left = atomic_load(&quota);
  if (left == LONG_MAX) return (ssize_t)count;
  if (left <= 0 && count > 0) {
    errno = ENOSPC;
    return -1;
  }
  const size_t now = (size_t)left < count ? (size_t)left : count;
  atomic_fetch_sub(&quota, (long)now);
  return (ssize_t)now;
}

ssize_t write(int fd, const void* bytes, size_t count) {
  char path[PATH_MAX];
  path_of(fd, path, sizeof path);
  if (!path[0]) return syscall(SYS_write, fd, bytes, count);
  if (met(ends(path, ".tmp") ? "write" : ends(path, "metrics.jsonl") ? "metrics" : "other", path)) {
    if (syscall(SYS_write, fd, bytes, count / 2) < 0) abort();
    die();
  }
  const ssize_t now = fits(count);
  return now < 0 ? now : syscall(SYS_write, fd, bytes, now);
}

static ssize_t patch(int fd, const void* bytes, size_t count, off_t at) {
  char path[PATH_MAX];
  path_of(fd, path, sizeof path);
  if (path[0] && met("patch", path)) die();
  return syscall(SYS_pwrite64, fd, bytes, count, at);
}
ssize_t pwrite(int fd, const void* bytes, size_t count, off_t at) {
  return patch(fd, bytes, count, at);
}
ssize_t pwrite64(int fd, const void* bytes, size_t count, off_t at) {
  return patch(fd, bytes, count, at);
}

size_t fwrite(const void* bytes, size_t size, size_t count, FILE* file) {
  char path[PATH_MAX];
  path_of(fileno(file), path, sizeof path);
  if (path[0] && fits(size * count) < (ssize_t)(size * count)) {
    errno = ENOSPC;
    return 0;
  }
  return REAL(fwrite)(bytes, size, count, file);
}

int fflush(FILE* file) {
  char path[PATH_MAX];
  path[0] = 0;
  if (file) path_of(fileno(file), path, sizeof path);
  if (path[0] && atomic_load(&quota) <= 0) {
    errno = ENOSPC;
    return EOF;
  }
  return REAL(fflush)(file);
}

int fsync(int fd) {
  char path[PATH_MAX];
  struct stat status;
  path_of(fd, path, sizeof path);
  if (path[0]) {
    const int directory = fstat(fd, &status) == 0 && S_ISDIR(status.st_mode);
    if (met(directory ? "folder" : ends(path, ".tmp") ? "sync" : "other", path)) die();
    if (sync_error && ends(path, sync_end)) {
      errno = sync_error;
      return -1;
    }
  }
  return (int)syscall(SYS_fsync, fd);
}

int rename(const char* from, const char* to) {
  if (below(from) && met("rename", to)) die();
  return (int)syscall(SYS_rename, from, to);
}

int truncate(const char* path, off_t length) {
  if (below(path) && met("truncate", path)) die();
  return (int)syscall(SYS_truncate, path, length);
}
int truncate64(const char* path, off_t length) {
  return truncate(path, length);
}

static int forbidden(const char* path, int flags) {
  return readonly && below(path) && (flags & (O_WRONLY | O_RDWR | O_CREAT)) != 0;
}
#define OPEN(name)                                                \
  int name(const char* path, int flags, ...) {                    \
    va_list rest;                                                 \
    va_start(rest, flags);                                        \
    const int mode = va_arg(rest, int);                           \
    va_end(rest);                                                 \
    if (forbidden(path, flags)) {                                 \
      errno = EROFS;                                              \
      return -1;                                                  \
    }                                                             \
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

int mkdir(const char* path, mode_t mode) {
  struct stat status;
  if (readonly && below(path) && stat(path, &status) != 0) {
    errno = EROFS;
    return -1;
  }
  return (int)syscall(SYS_mkdir, path, mode);
}

int clock_gettime(clockid_t clock, struct timespec* time) {
  static _Atomic unsigned long state = 88172645463325252ul;
  static _Atomic long lost;
  const int result = (int)syscall(SYS_clock_gettime, clock, time);
  if (!leaps || result != 0) return result;
  unsigned long x = atomic_load(&state);
  x ^= x << 13, x ^= x >> 7, x ^= x << 17;
  atomic_store(&state, x);
  if (clock == CLOCK_REALTIME)
    time->tv_sec += (long)(x % 5184000) - 2592000;
  else if (clock == CLOCK_MONOTONIC)
    time->tv_sec += atomic_fetch_add(&lost, (long)(x % 300));
  return result;
}
