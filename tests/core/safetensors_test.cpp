#include "glyptic/core/safetensors.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <torch/torch.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "../support.h"
#include "glyptic/core/error.h"

namespace glyptic {
namespace {

namespace fs = std::filesystem;

class SafeTensorsTest : public FolderTest {
 protected:
  std::string path(const std::string& name = "x.safetensors") const { return FolderTest::path(name); }
  std::string write(const std::string& bytes, const std::string& name = "x.safetensors") const {
    return FolderTest::write(name, bytes);
  }
  std::size_t files_in_folder() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }
};

// A file out of a header and data.
std::string compose(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

at::Tensor raw(const at::Tensor& tensor) {
  return tensor.contiguous().view({-1}).view(at::kByte);
}

NamedTensors every_dtype() {
  const auto base = torch::arange(-3, 3, torch::kFloat).reshape({2, 3});
  NamedTensors tensors;
  for (const auto type :
       {at::kBool, at::kByte, at::kChar, at::kShort, at::kUInt16, at::kInt, at::kUInt32, at::kLong,
        at::kUInt64, at::kHalf, at::kBFloat16, at::kFloat, at::kDouble, at::kFloat8_e4m3fn, at::kFloat8_e5m2})
    tensors.push_back({std::string("t.") + c10::toString(type), base.abs().to(type)});
  tensors.push_back({"scalar", torch::tensor(2.5)});
  tensors.push_back({"empty", torch::zeros({3, 0, 2})});
  tensors.push_back({"view", torch::arange(12, torch::kFloat).reshape({3, 4}).t()});
  tensors.push_back({"gradient", torch::ones({2}, torch::requires_grad())});
  tensors.push_back({"name with \"quotes\", \\ and \xC3\xA9", torch::ones({1})});
  return tensors;
}

TEST_F(SafeTensorsTest, EveryDtypeReturnsBitForBitInTheGivenOrder) {
  const auto saved = every_dtype();
  const std::map<std::string, std::string> metadata = {{"format", "pt"},
                                                       {"note", "line\nbreak \"quoted\" \xE2\x82\xAC"}};
  save_safetensors(path(), saved, metadata);
  const SafeTensors file(path());
  EXPECT_EQ(file.metadata(), metadata);
  const auto loaded = file.tensors();
  ASSERT_EQ(loaded.size(), saved.size());
  for (std::size_t i = 0; i < saved.size(); ++i) {
    EXPECT_EQ(loaded[i].name, saved[i].name);
    const auto &a = loaded[i].tensor, &b = saved[i].tensor;
    ASSERT_EQ(a.scalar_type(), b.scalar_type()) << saved[i].name;
    ASSERT_EQ(a.sizes(), b.sizes()) << saved[i].name;
    EXPECT_TRUE(at::equal(raw(a), raw(b.detach()))) << saved[i].name;
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.data_ptr()) % 16, 0u);
    EXPECT_FALSE(a.requires_grad());
  }
  // Other readers view the bytes in place, so each tensor must lie at a multiple of its item size.
  uint64_t at = 0;
  for (const auto& info : file.infos()) {
    EXPECT_EQ(info.begin, at);
    at = info.end;
    EXPECT_EQ(info.begin % static_cast<uint64_t>(file.tensor(info.name).element_size()), 0u) << info.name;
  }
  uint64_t length;
  std::memcpy(&length, read_file(path()).data(), 8);
  EXPECT_EQ(length % 8, 0u);
}

TEST_F(SafeTensorsTest, RandomFilesReturnEqual) {
  torch::manual_seed(1);
  for (int trial = 0; trial < 50; ++trial) {
    NamedTensors saved;
    const int count = static_cast<int>(torch::randint(0, 6, {1}).item<int64_t>());
    for (int i = 0; i < count; ++i) {
      const auto rank = torch::randint(0, 5, {1}).item<int64_t>();
      std::vector<int64_t> shape;
      for (int64_t d = 0; d < rank; ++d) shape.push_back(torch::randint(0, 5, {1}).item<int64_t>());
      auto tensor = torch::randn(shape);
      saved.push_back({"t" + std::to_string(i), i % 2 ? tensor.to(at::kHalf) : tensor});
    }
    save_safetensors(path(), saved);
    const SafeTensors file(path());
    EXPECT_EQ(file.infos().size(), saved.size());
    for (const auto& [name, tensor] : saved) EXPECT_TRUE(at::equal(file.tensor(name), tensor));
  }
  EXPECT_EQ(files_in_folder(), 1u);
}

TEST_F(SafeTensorsTest, UnknownNameSuggests) {
  save_safetensors(path(), {{"layer.weight", torch::ones({1})}});
  const SafeTensors file(path());
  EXPECT_TRUE(file.contains("layer.weight"));
  EXPECT_FALSE(file.contains("layer.weigth"));
  expect_contains(message_of<ArgumentError>([&] { file.tensor("layer.weigth"); }),
                  "did you mean 'layer.weight'?");
}

TEST_F(SafeTensorsTest, WrongTensorsAreRefusedByName) {
  const auto save = [&](const std::string& name, const at::Tensor& tensor) {
    return message_of<ArgumentError>([&] { save_safetensors(path(), {{name, tensor}}); });
  };
  expect_contains(save("c", torch::ones({1}, torch::kComplexFloat)), "'c' has dtype ComplexFloat");
  expect_contains(save("s", torch::eye(2).to_sparse()), "to_dense()");
  expect_contains(save("m", torch::empty({2}, torch::kMeta)), "meta device");
  expect_contains(save("__metadata__", torch::ones({1})), "rename the tensor");
  expect_contains(save("bad\xFF", torch::ones({1})), "'bad\\xff' is not UTF-8");
  expect_contains(save("u", at::Tensor()), "undefined");
  expect_contains(message_of<ArgumentError>([&] {
                    save_safetensors(path(), {{"twice", torch::ones({1})}, {"twice", torch::ones({1})}});
                  }),
                  "'twice'");
  EXPECT_EQ(files_in_folder(), 0u);
}

// Written by the Python package safetensors 0.8.0 with torch: save_file({"w": [[1, -2], [0.5, 3]] float32,
// "b": [1.5] bfloat16, "mask": [true, false, true], "n": int64 scalar 7}, metadata={"format": "pt"}).
const std::string kFromPython =
    std::string("\000\001\000\000\000\000\000\000", 8) +
    R"({"__metadata__":{"format":"pt"},"n":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"w":{"dtype")"
    R"(:"F32","shape":[2,2],"data_offsets":[8,24]},"b":{"dtype":"BF16","shape":[1],"data_offsets":[24,2)"
    R"(6]},"mask":{"dtype":"BOOL","shape":[3],"data_offsets":[26,29]}} )" +
    std::string(
        "\007\000\000\000\000\000\000\000\000\000\200\077\000\000\000\300\000\000\000\077\000\000\100\100\300"
        "\077\001\000\001",
        29);

TEST_F(SafeTensorsTest, ReadsAFileOfThePythonPackage) {
  const SafeTensors file(write(kFromPython));
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}}));
  EXPECT_EQ(file.infos().size(), 4u);
  EXPECT_TRUE(at::equal(file.tensor("w"), torch::tensor({{1.0f, -2.0f}, {0.5f, 3.0f}})));
  EXPECT_TRUE(at::equal(file.tensor("b"), torch::tensor({1.5f}).to(at::kBFloat16)));
  EXPECT_TRUE(at::equal(file.tensor("mask"), torch::tensor({true, false, true})));
  EXPECT_TRUE(at::equal(file.tensor("n"), torch::tensor(int64_t{7})));
}

// The bytes that we write are the format's, letter by letter. The checksums were computed by Python's zlib:
// of the two tensors, then of the length and the header with zeros for their own eight digits.
TEST_F(SafeTensorsTest, WritesTheseBytes) {
  save_safetensors(path(), {{"m", torch::tensor({true, false})}, {"w", torch::tensor({1.0f, -2.0f})}},
                   {{"k", "v"}});
  const std::string header = R"({"__metadata__":{"glyptic.crc32":"fe037de658c223bec3872656","k":"v"},)"
                             R"("m":{"dtype":"BOOL","shape":[2],"data_offsets":[8,10]},)"
                             R"("w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  const std::string padded = header + std::string((8 - header.size() % 8) % 8, ' ');
  EXPECT_EQ(read_file(path()), compose(padded, std::string("\0\0\x80\x3F\0\0\0\xC0\x01\0", 10)));
}

TEST_F(SafeTensorsTest, DamageIsNamed) {
  const std::string four(4, '\0');
  const auto entry = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return "{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
  };
  const auto one = [&](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return compose("{\"a\":" + entry(dtype, shape, offsets) + "}", four);
  };
  const std::string good = entry("F32", "[1]", "[0,4]");
  const std::pair<std::string, std::string> cases[] = {
      {"", "byte 0: the file has 0 bytes"},
      {std::string("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}", 10), "more than the limit"},
      {std::string("\x40\0\0\0\0\0\0\0{}", 10), "only 2 follow"},
      {compose("", ""), "does not start with '{'"},
      {compose(" {}", ""), "does not start with '{'"},
      {compose("[]", ""), "does not start with '{'"},
      {compose(std::string("{}\0\0", 4), ""), "byte 10: a zero byte"},
      {compose("{} x", ""), "not valid JSON"},
      {compose("{\"a\":", ""), "not valid JSON"},
      {compose("{\"a\xFF\":" + good + "}", four), "not valid JSON in UTF-8"},
      {compose("{\"a\":" + good + ",\"a\":" + good + "}", four), "two tensors are called 'a'"},
      {compose("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", four), "two fields 'dtype'"},
      {compose("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", four), "tensor 'a' has no data_offsets"},
      {compose("{\"a\":{\"type\":\"F32\"}}", four), "unknown field 'type'"},
      {compose("{\"a\":7}", four), "a number where none is expected"},
      {compose("{\"a\":[1]}", four), "a list where none is expected"},
      {compose("{\"a\":null}", four), "null in"},
      {compose("{\"__metadata__\":{\"k\":1}}", ""), "a number where none is expected, in __metadata__"},
      {compose("{\"__metadata__\":{\"k\":{}}}", ""), "an object inside __metadata__"},
      {compose("{\"__metadata__\":{},\"__metadata__\":{}}", ""), "two entries are called '__metadata__'"},
      {compose("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", ""), "two metadata entries are called 'k'"},
      {one("Q4", "[1]", "[0,4]"), "unknown dtype 'Q4' (known: BOOL U8"},
      {one("F32", "[-1]", "[0,4]"), "negative number -1"},
      {one("F32", "[1.0]", "[0,4]"), "is not a whole one"},
      {one("F32", "[18446744073709551616]", "[0,4]"), "is not a whole one"},
      {one("F32", "[18446744073709551615]", "[0,4]"), "impossible size"},
      {one("F32", "[4611686018427387904,4]", "[0,4]"), "too large to exist"},
      {one("F32", "[0,4611686018427387904,4]", "[0,0]"), "too large to exist"},
      {one("F32", "[[1]]", "[0,4]"), "a list where none is expected"},
      {one("F32", "[2]", "[0,4]"), "needs 8 bytes, its data_offsets span 4"},
      {one("F32", "[1]", "[0,8]"), "claims bytes 0 to 8 of 4"},
      {one("F32", "[1]", "[4,0]"), "claims bytes 4 to 0 of 4"},
      {one("F32", "[1]", "[0]"), "1 data_offsets, expected 2"},
      {one("F32", "[1]", "[0,4,4]"), "more than two data_offsets"},
      {one("U8", "[2]", "[0,2]"), "2 bytes follow that belong to no tensor"},
      {one("U8", "[2]", "[2,4]"), "(a gap)"},
      {compose("{\"a\":" + entry("U8", "[3]", "[0,3]") + ",\"b\":" + entry("U8", "[2]", "[2,4]") + "}", four),
       "(it overlaps another)"},
  };
  for (const auto& [bytes, expected] : cases) {
    const auto file = write(bytes);
    const auto message = message_of<DataError>([&] { SafeTensors{file}; });
    expect_contains(message, expected);
    expect_contains(message, file);
    expect_contains(message, "byte ");
    expect_contains(message, "fetch or save it again");
  }
}

TEST_F(SafeTensorsTest, HostileNestingAndLongNamesEndAtOnce) {
  const auto deep = write(compose("{\"a\":" + std::string(1 << 20, '[') + "}", ""));
  expect_contains(message_of<DataError>([&] { SafeTensors{deep}; }),
                  "byte 14: a list where none is expected");
  const auto objects = write(compose(std::string(1 << 20, '{'), ""));
  expect_contains(message_of<DataError>([&] { SafeTensors{objects}; }), "not valid JSON");
  const auto longest = write(compose("{\"" + std::string(1 << 20, 'n') + "\":1}", ""));
  EXPECT_LT(message_of<DataError>([&] { SafeTensors{longest}; }).size(), 400u);
  std::string ranks = "1";
  for (int i = 0; i < 64; ++i) ranks += ",1";
  const auto rank =
      write(compose("{\"a\":{\"dtype\":\"U8\",\"shape\":[" + ranks + "],\"data_offsets\":[0,1]}}", "x"));
  expect_contains(message_of<DataError>([&] { SafeTensors{rank}; }), "more than 64 dimensions");
}

TEST_F(SafeTensorsTest, OrderOfTheHeaderNeedNotBeThatOfTheData) {
  const auto file = write(compose(R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},)"
                                  R"("e":{"dtype":"F32","shape":[0],"data_offsets":[1,1]},)"
                                  R"("a":{"data_offsets":[0,1],"shape":[1],"dtype":"U8"}}  )",
                                  "\x05\x06"));
  const SafeTensors loaded(file);
  std::string by_offset, by_header;
  for (const auto& info : loaded.infos()) by_offset += info.name;
  for (const auto& entry : loaded.tensors()) by_header += entry.name;
  EXPECT_EQ(by_offset, "aeb");
  EXPECT_EQ(by_header, "bea");
  EXPECT_EQ(loaded.tensor("a").item<int>(), 5);
  EXPECT_EQ(loaded.tensor("b").item<int>(), 6);
}

TEST_F(SafeTensorsTest, ABoolThatIsNeitherIsRefused) {
  const auto file = write(compose(R"({"m":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}})", "\x01\x02"));
  const SafeTensors loaded(file);
  expect_contains(message_of<DataError>([&] { loaded.tensor("m"); }), "'m' is BOOL but holds the value 2");
}

// Every truncation is an error, and so is every flipped bit, except in the checksum's own name: without it
// the file is one of those that have none, and its tensors are what they were.
TEST_F(SafeTensorsTest, TruncationsAndFlippedBitsAreNoticed) {
  const NamedTensors saved = {{"w", torch::tensor({1.0f, -2.0f, 3.0f})}, {"m", torch::tensor({true, false})}};
  save_safetensors(path(), saved, {{"k", "v"}});
  const auto whole = read_file(path());
  EXPECT_TRUE(SafeTensors(path()).has_checksum());
  for (std::size_t length = 0; length < whole.size(); ++length) {
    const auto file = write(whole.substr(0, length));
    expect_contains(message_of<DataError>([&] { SafeTensors{file}; }), file);
  }
  EXPECT_FALSE(message_of<DataError>([&] { SafeTensors{write(whole + "x")}; }).empty());

  const auto name = whole.find("glyptic.crc32");
  int accepted = 0;
  for (std::size_t byte = 0; byte < whole.size(); ++byte) {
    for (int mask : {1, 2, 4, 8, 16, 32, 64, 128, 255}) {
      auto damaged = whole;
      damaged[byte] = static_cast<char>(damaged[byte] ^ mask);
      write(damaged);
      try {
        const SafeTensors file(path());
        const auto tensors = file.tensors();
        EXPECT_FALSE(file.has_checksum()) << "byte " << byte << ", mask " << mask;
        EXPECT_TRUE(name <= byte && byte < name + 13) << "byte " << byte << ", mask " << mask;
        ASSERT_EQ(tensors.size(), saved.size());
        for (std::size_t i = 0; i < saved.size(); ++i) {
          EXPECT_EQ(tensors[i].name, saved[i].name);
          EXPECT_TRUE(at::equal(tensors[i].tensor, saved[i].tensor));
        }
        ++accepted;
      } catch (const DataError& error) {
        expect_contains(error.what(), path());
      }
    }
  }
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, 13 * 9);
}

TEST_F(SafeTensorsTest, ChecksumsAreOurOwnBusiness) {
  // The metadata of a file may go into the next one; a file of another writer has no checksum and loads.
  save_safetensors(path("a"), {{"w", torch::ones({2})}}, {{"k", "v"}});
  const SafeTensors first(path("a"));
  EXPECT_EQ(first.metadata(), (std::map<std::string, std::string>{{"k", "v"}}));
  auto stale = first.metadata();
  stale["glyptic.crc32"] = "0000";
  save_safetensors(path("b"), {{"w", torch::zeros({2})}}, stale);
  EXPECT_TRUE(at::equal(SafeTensors(path("b")).tensor("w"), torch::zeros({2})));
  EXPECT_FALSE(SafeTensors(write(kFromPython)).has_checksum());
  // Another program that keeps the entry but changes the file.
  const auto kept = compose(R"({"__metadata__": {"glyptic.crc32": "0000000000000000"}, "w":)"
                            R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                            "x");
  expect_contains(message_of<DataError>([&] { SafeTensors{write(kept)}; }),
                  "the header does not match its checksum, 'glyptic.crc32'");
  // Damage to one tensor leaves the others readable.
  save_safetensors(path("a"), {{"w", torch::ones({2})}, {"b", torch::ones({2}, at::kByte)}});
  auto bytes = read_file(path("a"));
  bytes.back() = 7;
  const SafeTensors damaged(write(bytes));
  EXPECT_TRUE(at::equal(damaged.tensor("w"), torch::ones({2})));
  expect_contains(message_of<DataError>([&] { damaged.tensor("b"); }),
                  "the 2 bytes of tensor 'b' do not match their checksum");
}

TEST_F(SafeTensorsTest, MissingFilesAndFoldersAreNamed) {
  expect_contains(message_of<MissingFileError>([&] { SafeTensors{path("none")}; }),
                  "No such file or directory");
  expect_contains(message_of<DataError>([&] { SafeTensors{folder_}; }), "is a folder");
  expect_contains(message_of<MissingFileError>([&] { save_safetensors(path("no/folder/x"), {}); }),
                  "create its folder");
  expect_contains(message_of<MissingFileError>([&] { write_file_atomically(folder_, "x"); }), "name a file");
  write("file", "f");
  expect_contains(message_of<MissingFileError>([&] { write_file_atomically(path("f/x"), "x"); }),
                  "Not a directory");
  expect_contains(message_of<MissingFileError>([&] { write_file_atomically("/dev/null", "x"); }),
                  "device or pipe");
  expect_contains(message_of<ArgumentError>([&] { write_file_atomically("", "x"); }), "give a path");
}

TEST_F(SafeTensorsTest, AFailedWriteLeavesTheOldFileAndNoTemporary) {
  write_file_atomically(path("kept"), "old");
  // A limit on file sizes stands in for a full disk: the write fails in the middle.
  struct rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = ::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = before;
  small.rlim_cur = 4096;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  std::string message, tensor_message;
  try {
    write_file_atomically(path("kept"), std::string(100000, 'n'));
  } catch (const DataError& error) {
    message = error.what();
  }
  try {
    save_safetensors(path("kept"), {{"w", torch::ones({100000})}});
  } catch (const DataError& error) {
    tensor_message = error.what();
  }
  ::setrlimit(RLIMIT_FSIZE, &before);
  ::signal(SIGXFSZ, old_handler);
  for (const auto& text : {message, tensor_message}) {
    expect_contains(text, path("kept"));
    expect_contains(text, "File too large");
  }
  EXPECT_EQ(read_file(path("kept")), "old");
  EXPECT_EQ(files_in_folder(), 1u);
}

TEST_F(SafeTensorsTest, AFolderThatCannotBeWrittenIsNamed) {
  write_file_atomically(path("kept"), "old");
  fs::permissions(folder_, fs::perms::owner_read | fs::perms::owner_exec | fs::perms::others_read |
                               fs::perms::others_exec);
  const bool root = ::geteuid() == 0;
  if (root) ASSERT_EQ(::seteuid(65534), 0);  // permissions do not bind root
  std::string message;
  try {
    write_file_atomically(path("kept"), "new");
  } catch (const MissingFileError& error) {
    message = error.what();
  }
  if (root) ASSERT_EQ(::seteuid(0), 0);
  fs::permissions(folder_, fs::perms::owner_all);
  expect_contains(message, "Permission denied; check the permissions");
  EXPECT_EQ(read_file(path("kept")), "old");
}

TEST_F(SafeTensorsTest, ReplacingKeepsOpenReadersPermissionsAndLinks) {
  save_safetensors(path("a"), {{"w", torch::tensor({1.0f})}});
  fs::permissions(path("a"), fs::perms::owner_read | fs::perms::owner_write);
  fs::create_symlink("a", path("link"));
  const SafeTensors old(path("a"));
  save_safetensors(path("link"), {{"w", torch::tensor({2.0f})}});
  EXPECT_EQ(old.tensor("w").item<float>(), 1.0f);
  EXPECT_EQ(SafeTensors(path("a")).tensor("w").item<float>(), 2.0f);
  EXPECT_TRUE(fs::is_symlink(path("link")));
  EXPECT_EQ(fs::status(path("a")).permissions(), fs::perms::owner_read | fs::perms::owner_write);
  EXPECT_EQ(files_in_folder(), 2u);
}

TEST_F(SafeTensorsTest, AFileCutShortWhileOpenIsAnErrorAndNotASignal) {
  save_safetensors(path(), {{"w", torch::ones({100000})}});
  const SafeTensors file(path());
  fs::resize_file(path(), 4096);
  expect_contains(message_of<DataError>([&] { file.tensor("w"); }), "to 4096 bytes while it was open");
}

TEST_F(SafeTensorsTest, ReadFileKeepsToItsLimit) {
  const std::string bytes("a\0b\nc", 5);
  EXPECT_EQ(read_file(write(bytes, "r"), 5), bytes);
  EXPECT_EQ(read_file(write("", "empty")), "");
  expect_contains(message_of<DataError>([&] { read_file(path("r"), 4); }), "has 5 bytes, more than the 4");
  expect_contains(message_of<DataError>([&] { read_file("/dev/zero", 1 << 20); }), "more than the 1048576");
  expect_contains(message_of<MissingFileError>([&] { read_file(path("none")); }), "check the path");
  EXPECT_FALSE(read_file("/proc/self/status").empty());  // files that do not know their size
}

}  // namespace
}  // namespace glyptic
