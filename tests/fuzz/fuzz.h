// What a fuzz target sees. A target is one file, tests/fuzz/<name>.cpp, that defines `read`, and a folder of
// inputs, tests/fuzz/corpus/<name>. CMake builds fuzz_<name> from it: with libFuzzer under GLYPTIC_FUZZ, and
// otherwise with a plain main that replays the corpus as the test `fuzz.<name>`. Nothing else is to be
// written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace glyptic::fuzz {

/// Reads one input, as a user's file would be read. A glyptic::Error is a refusal and good; any other
/// exception, a crash, a message of more than one line, and more memory than twice the input plus 16 MiB
/// (`extra_bytes` on top) are findings. The result, when not empty, runs afterwards and may check what was
/// read by `expect`; its memory is not counted.
std::function<void()> read(std::string_view input);

/// What a target may allocate beyond the general limit, for formats whose data are compressed. 0 unless the
/// target defines it.
extern const std::size_t extra_bytes;

/// A path that holds `input`, for readers that open files: in memory, the same one for the same `slot`, and
/// gone with the process.
std::string file(std::string_view input, int slot = 0);

/// An empty folder of this process, on a memory file system where there is one.
std::string folder();

/// A finding.
[[noreturn]] void fail(const std::string& what);
void expect(bool condition, const std::string& what);

}  // namespace glyptic::fuzz
