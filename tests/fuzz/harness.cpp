// Runs a target on one input and holds it to its promises: libFuzzer's entry point, also called by
// replay.cpp.
#include "fuzz.h"

#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <vector>

#include "glyptic/core/error.h"

namespace glyptic::fuzz {

__attribute__((weak)) extern const std::size_t extra_bytes = 0;

namespace {

constexpr std::size_t kAllowance = std::size_t{16} << 20;
constexpr std::size_t kLongestMessage = 4096;

// Bytes of the heap in use, and the most since the last reset.
std::atomic<int64_t> used{0}, most{0};

void add(std::size_t bytes) {
  const auto now =
      used.fetch_add(static_cast<int64_t>(bytes), std::memory_order_relaxed) + static_cast<int64_t>(bytes);
  auto seen = most.load(std::memory_order_relaxed);
  while (now > seen && !most.compare_exchange_weak(seen, now, std::memory_order_relaxed)) {
  }
}

void subtract(std::size_t bytes) {
  used.fetch_sub(static_cast<int64_t>(bytes), std::memory_order_relaxed);
}

std::string& scratch() {
  static std::string path;
  return path;
}

}  // namespace
}  // namespace glyptic::fuzz

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define GLYPTIC_SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define GLYPTIC_SANITIZED
#endif
#endif

#ifdef GLYPTIC_SANITIZED

extern "C" {
int __sanitizer_install_malloc_and_free_hooks(void (*malloc_hook)(const volatile void*, size_t),
                                              void (*free_hook)(const volatile void*));
size_t __sanitizer_get_allocated_size(const volatile void* p);
}

static void count_allocations() {
  __sanitizer_install_malloc_and_free_hooks(
      [](const volatile void*, size_t size) { glyptic::fuzz::add(size); },
      [](const volatile void* p) {
        if (p) glyptic::fuzz::subtract(__sanitizer_get_allocated_size(p));
      });
}

#else

// glibc's own functions behind counting ones, for every library of the process.
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void __libc_free(void*);

static void* counted(void* p) {
  if (p) glyptic::fuzz::add(malloc_usable_size(p));
  return p;
}
void* malloc(size_t size) noexcept {
  return counted(__libc_malloc(size));
}
void* calloc(size_t count, size_t size) noexcept {
  return counted(__libc_calloc(count, size));
}
void* realloc(void* p, size_t size) noexcept {
  const size_t before = p ? malloc_usable_size(p) : 0;
  void* moved = __libc_realloc(p, size);
  if (moved || size == 0) glyptic::fuzz::subtract(before);
  return counted(moved);
}
void* memalign(size_t alignment, size_t size) noexcept {
  return counted(__libc_memalign(alignment, size));
}
void* aligned_alloc(size_t alignment, size_t size) noexcept {
  return counted(__libc_memalign(alignment, size));
}
int posix_memalign(void** out, size_t alignment, size_t size) noexcept {
  void* p = counted(__libc_memalign(alignment, size));
  if (!p) return ENOMEM;
  *out = p;
  return 0;
}
void free(void* p) noexcept {
  if (p) glyptic::fuzz::subtract(malloc_usable_size(p));
  __libc_free(p);
}
}

static void count_allocations() {}

#endif

namespace glyptic::fuzz {

void fail(const std::string& what) {
  std::fprintf(stderr, "finding: %s\n", what.c_str());
  std::abort();
}

void expect(bool condition, const std::string& what) {
  if (!condition) fail(what);
}

std::string file(std::string_view input, int slot) {
  static std::vector<int> descriptors;
  while (descriptors.size() <= static_cast<std::size_t>(slot)) {
    const int made = ::memfd_create("fuzz", 0);
    if (made < 0) fail("memfd_create");
    descriptors.push_back(made);
  }
  const int descriptor = descriptors[static_cast<std::size_t>(slot)];
  if (::ftruncate(descriptor, 0) != 0) fail("ftruncate");
  for (std::size_t done = 0; done < input.size();) {
    const auto count =
        ::pwrite(descriptor, input.data() + done, input.size() - done, static_cast<off_t>(done));
    if (count <= 0) fail("pwrite");
    done += static_cast<std::size_t>(count);
  }
  return "/proc/self/fd/" + std::to_string(descriptor);
}

std::string folder() {
  if (scratch().empty()) {
    std::string pattern =
        (::access("/dev/shm", W_OK) == 0 ? std::string("/dev/shm") : std::string("/tmp")) + "/fuzz-XXXXXX";
    if (!::mkdtemp(pattern.data())) fail("mkdtemp");
    scratch() = pattern;
    std::atexit([] {
      std::error_code ignored;
      std::filesystem::remove_all(scratch(), ignored);
    });
  }
  return scratch();
}

}  // namespace glyptic::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace fuzz = glyptic::fuzz;
  static const bool counting = (count_allocations(), true);
  static_cast<void>(counting);
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const int64_t before = fuzz::used.load();
  fuzz::most = before;
  std::function<void()> check;
  try {
    check = fuzz::read(input);
  } catch (const glyptic::Error& error) {
    const std::string message = error.what();
    if (message.find('\n') != std::string::npos) fuzz::fail("a message of several lines: " + message);
    if (message.empty() || message.size() > fuzz::kLongestMessage)
      fuzz::fail("a message of " + std::to_string(message.size()) + " bytes: " + message.substr(0, 400));
  }
  const auto peak = static_cast<std::size_t>(fuzz::most.load() - before);
  if (peak > 2 * size + fuzz::kAllowance + fuzz::extra_bytes)
    fuzz::fail("an input of " + std::to_string(size) + " bytes took " + std::to_string(peak));
  if (check) check();
  return 0;
}
