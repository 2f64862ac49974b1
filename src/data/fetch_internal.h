// What the sources behind fetch.h share. Not installed.
#pragma once

#include <string>

#include "glyptic/core/error.h"
#include "glyptic/data/fetch.h"

namespace glyptic::data {

/// Throws Interrupted when a signal has come. `what` ends the sentence "stopped while ...".
inline void check_stop(const std::atomic<int>* stop, const std::string& what) {
  const int signal = stop != nullptr ? stop->load() : 0;
  if (signal != 0)
    throw Interrupted(str("stopped while ", what, "; the same command continues"), 128 + signal);
}

/// The ArgumentError of a build without the libraries.
[[noreturn]] void refuse_without_libraries();

/// One file from the first of its addresses that gives it, whole and checked, to `path`. Returns that
/// address.
std::string download(const RemoteFile& file, const std::vector<std::string>& urls, const std::string& path,
                     const FetchOptions& options);

/// "" when `path` has the size and checksum that the catalogue gives (as far as it does), else what differs.
std::string difference(const RemoteFile& file, const std::string& path, const std::atomic<int>* stop);

/// 170052171 -> "170.1 MB".
std::string megabytes(uint64_t bytes);

/// True for a name that stays inside its folder on every system: no empty or dot component, no backslash,
/// no control character, valid UTF-8, not absurdly long.
bool safe_relative_path(const std::string& path);

}  // namespace glyptic::data
