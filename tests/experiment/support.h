// What the tests of experiments share.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "../support.h"
#include "glyptic/core/build_info.h"
#include "glyptic/core/error.h"
#include "glyptic/core/log.h"
#include "glyptic/core/safetensors.h"
#include "glyptic/experiment/config.h"
#include "glyptic/experiment/experiment.h"

namespace glyptic::experiment {

class FolderTest : public glyptic::FolderTest {
 protected:
  void SetUp() override {
    glyptic::FolderTest::SetUp();
    log::set_level(log::Level::error);
  }
};

inline std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline std::string tree(const std::string& file) {
  return std::string(source_dir()) + "/" + file;
}

}  // namespace glyptic::experiment
