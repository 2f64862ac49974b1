// The built-in catalogue, hashes against published vectors, archives' names. What meets a network is in
// tests/python/test_data.py.
#include "glyptic/data/fetch.h"

#include <set>

#include "../support.h"
#include "glyptic/core/error.h"

namespace glyptic::data {
namespace {

TEST(Catalogue, IsComplete) {
  std::set<std::string> names;
  for (const auto& set : catalogue()) {
    EXPECT_TRUE(names.insert(set.name).second) << set.name;
    EXPECT_FALSE(set.licence.empty());
    EXPECT_FALSE(set.files.empty());
    for (const auto& file : set.files) {
      for (const auto& url : file.urls) EXPECT_EQ(url.rfind("https://", 0), 0u) << url;
      EXPECT_EQ(file.checksum.hex.size(), file.checksum.kind == "sha256" ? 64u
                                          : file.checksum.kind == "md5"  ? 32u
                                                                         : 0u);
    }
  }
  for (const char* name : {"mnist", "fashion_mnist", "cifar10", "cifar100", "planetoid_pubmed"})
    EXPECT_TRUE(names.contains(name)) << name;
  EXPECT_EQ(find_set(catalogue(), "mnist").bytes(), 9912422u + 28881 + 1648877 + 4542);
  expect_contains(message_of<ArgumentError>([] { find_set(catalogue(), "cifar_10"); }),
                  "did you mean 'cifar10'");
}

class Fetch : public FolderTest {
 protected:
  void SetUp() override {
    if (!can_fetch()) GTEST_SKIP() << "built without libcurl, libarchive and OpenSSL";
    FolderTest::SetUp();
  }
};

// FIPS 180-4's examples; RFC 1321, A.5. A million bytes cross the buffer's end.
TEST_F(Fetch, HashesOfPublishedVectors) {
  const auto abc = write("abc", "abc"), empty = write("empty", ""),
             million = write("million", std::string(1000000, 'a'));
  EXPECT_EQ(file_hash(abc, "sha256"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(file_hash(empty, "sha256"), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(file_hash(million, "sha256"), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  EXPECT_EQ(file_hash(abc, "md5"), "900150983cd24fb0d6963f7d28e17f72");
  expect_contains(message_of<MissingFileError>([&] { file_hash(path("none"), "md5"); }), path("none"));
  expect_contains(message_of<ArgumentError>([&] { file_hash(abc, "crc"); }), "'crc'");
}

TEST_F(Fetch, UnpacksOnlyIntoAnEmptyFolder) {
  const auto archive = write("a.tar", "x");
  expect_contains(message_of<ArgumentError>([&] { unpack_archive(archive, "tar", 1, 1, folder_); }),
                  "empty folder");
}

TEST_F(Fetch, OptionsOutOfRange) {
  const auto& set = find_set(catalogue(), "mnist");
  const auto refused = [&](FetchOptions options) {
    options.root = options.root.empty() ? path("data") : "";
    return message_of<ArgumentError>([&] { fetch(set, options); });
  };
  expect_contains(refused({.root = "x"}), "--to");
  expect_contains(refused({.mirror = "ftp://x"}), "https://");
  expect_contains(refused({.timeout_seconds = 0}), "timeout is 0");
  expect_contains(refused({.retries = -1}), "retries is -1");
  expect_contains(refused({.wait_seconds = -1}), "retry-wait is -1");
  EXPECT_FALSE(std::filesystem::exists(path("data")));
}

}  // namespace
}  // namespace glyptic::data
