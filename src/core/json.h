// JSON of foreign origin. Not installed.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "glyptic/core/error.h"

namespace glyptic::files {

/// A tree takes up to 30 times the memory of its text: the most that is read where a file has a sensible
/// size.
constexpr uint64_t kLargestJson = uint64_t{1} << 19;

/// Parses with a limit on nesting: what walks over a tree does so by recursion. Exceptions of the parser as
/// they are; `where` begins the message of a DataError.
template <class Json>
Json parse_json(const std::string& text, const std::string& where) {
  constexpr int kDeepest = 64;
  return Json::parse(text, [&](int depth, typename Json::parse_event_t, Json&) {
    require<DataError>(depth <= kDeepest, where, ": lists and objects are nested more than ", kDeepest,
                       " deep; it is damaged or of another kind");
    return true;
  });
}

}  // namespace glyptic::files
