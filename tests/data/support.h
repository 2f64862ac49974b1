// What the tests of data share: files in the formats of the field.
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>
#include <zlib.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "../support.h"
#include "glyptic/core/build_info.h"
#include "glyptic/core/error.h"

namespace glyptic::data {

inline std::string big_endian(uint32_t value) {
  return {static_cast<char>(value >> 24), static_cast<char>(value >> 16), static_cast<char>(value >> 8),
          static_cast<char>(value)};
}

inline std::string idx(const std::vector<uint32_t>& dimensions, const std::string& elements, char type = 8) {
  std::string bytes = {0, 0, type, static_cast<char>(dimensions.size())};
  for (const uint32_t size : dimensions) bytes += big_endian(size);
  return bytes + elements;
}

inline std::string gzipped(const std::string& bytes) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string packed(deflateBound(&stream, bytes.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

// An environment variable for the time of a test.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    ::setenv(name, value.c_str(), 1);
  }
  ~Variable() { old_ ? ::setenv(name_, old_->c_str(), 1) : ::unsetenv(name_); }

 private:
  const char* name_;
  std::optional<std::string> old_;
};

// The folder of a real data set, or "" where this machine has none.
inline std::string real_data(const std::string& name, const std::string& file) {
  std::vector<std::string> roots;
  if (const char* root = std::getenv("GLYPTIC_DATA")) roots.push_back(root);
  roots.insert(roots.end(), {"../shared/data", std::string(source_dir()) + "/../shared/data"});
  for (const auto& root : roots)
    if (std::filesystem::exists(root + "/" + name + "/" + file)) return root + "/" + name;
  return "";
}

}  // namespace glyptic::data
