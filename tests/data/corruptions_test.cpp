#include "glyptic/data/corruptions.h"

#include <cmath>
#include <set>
#include <thread>

#include "../../src/data/corruption_effects.h"
#include "glyptic/core/safetensors.h"
#include "glyptic/data/npy.h"
#include "glyptic/kernels/pixel_noise.h"
#include "support.h"

namespace glyptic::data {
namespace {

std::shared_ptr<MemoryDataset> shapes(int64_t count) {
  return generate_shapes(count, 32, 3, 4, 7);
}

// What needs no file: frost's textures are not everywhere.
std::vector<std::string> names_without_frost() {
  auto names = corruption_names();
  names.erase(std::find(names.begin(), names.end(), "frost"));
  return names;
}

TEST(Corruptions, ADatasetReadsWhatCorruptGives) {
  const auto base = shapes(6);
  for (const auto& name : names_without_frost()) {
    CorruptOptions options;
    options.seed = 5;
    const auto whole = corrupt(base->images(), name, 4, options);
    const auto set = corrupted(base, name, 4, options);
    ASSERT_EQ(set->size(), 6);
    EXPECT_EQ(set->image_shape(), base->image_shape());
    expect_contains(set->description(), name + ", severity 4");
    auto pixels = at::empty({3, 32, 32}, at::kByte);
    for (const int64_t i : {5, 0, 3}) {
      EXPECT_EQ(set->read(i, pixels.data_ptr<uint8_t>(), 0), base->label(i));
      EXPECT_TRUE(at::equal(pixels, whole[i])) << name << " " << i;
    }
  }
}

TEST(Corruptions, ThreadsShareWhatIsPrepared) {
  const auto images = shapes(4)->images();
  const auto names = names_without_frost();
  std::vector<at::Tensor> expected;
  for (const auto& name : names) expected.push_back(corrupt(images, name, 2));
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      CorruptOptions options;
      options.threads = 1;
      for (std::size_t k = 0; k < names.size(); ++k) {
        const auto i = (k * 7 + static_cast<std::size_t>(t) * 3) % names.size();
        wrong += !at::equal(corrupt(images, names[i], 2, options), expected[i]);
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Corruptions, VariantsOfTheNoiseKernelAgree) {
  if (!kernels::isa_supported(kernels::Isa::baseline)) GTEST_SKIP() << "no baseline";
#if GLYPTIC_HAS_AVX2_KERNELS
  if (!kernels::isa_supported(kernels::Isa::avx2)) GTEST_SKIP() << "no AVX2 here";
  const auto in = shapes(2)->images().reshape({2, -1}).slice(1, 0, 3001).contiguous();  // no multiple of four
  const uint64_t streams[] = {3, 4}, seconds[] = {5, 6};
  for (const auto kind :
       {kernels::PixelNoise::gaussian, kernels::PixelNoise::speckle, kernels::PixelNoise::impulse}) {
    kernels::PixelNoiseArgs args{};
    auto a = at::empty({2, 3001}, at::kFloat), b = at::empty_like(a);
    args.in = in.const_data_ptr();
    args.out_float = true;
    args.kind = kind;
    args.rounding = kernels::PixelRounding::none;
    args.images = 2;
    args.size = 3001;
    args.seed = 9;
    args.streams = streams;
    args.seconds = seconds;
    args.strength = 0.3f;
    args.threshold = uint64_t{1} << 30;
    args.out = a.data_ptr();
    kernels::baseline::pixel_noise(args, 2);
    args.out = b.data_ptr();
    kernels::avx2::pixel_noise(args, 1);
    EXPECT_TRUE(at::equal(a, b)) << static_cast<int>(kind);
  }
#endif
}

TEST(Corruptions, BordersHaveTheirNames) {
  const auto row = [](Border border) {
    std::string text;
    for (int64_t i = -4; i < 8; ++i) text += static_cast<char>('a' + border_index(i, 4, border));
    return text;
  };
  EXPECT_EQ(row(Border::nearest), "aaaaabcddddd");
  EXPECT_EQ(row(Border::reflect), "dcbaabcddcba");
  EXPECT_EQ(row(Border::reflect_101), "cdcbabcdcbab");
  EXPECT_EQ(border_index(-5, 1, Border::reflect_101), 0);
}

TEST(Corruptions, ExponentialOfThePoissonKernel) {
  for (int i = 0; i <= 6400; ++i) {
    const double x = 0.01 * i, exact = std::exp(-x);
    // The series stops below one unit, 1 / 19!; squaring six times multiplies its few roundings by 64.
    EXPECT_NEAR(kernels::pixel_exp_minus(x), exact, 64 * 1e-15 * exact);
  }
}

// A bright square on dark ground: Canny's edge is one pixel wide, on its border, and closed.
TEST(Spatter, CannyFindsTheBorderOfASquare) {
  const int64_t side = 20;
  std::vector<uint8_t> image(side * side, 10);
  for (int64_t y = 6; y < 14; ++y)
    for (int64_t x = 5; x < 15; ++x) image[static_cast<std::size_t>(y * side + x)] = 200;
  const auto edges = canny(image, side, side, 50, 150);
  int64_t count = 0;
  for (int64_t y = 0; y < side; ++y)
    for (int64_t x = 0; x < side; ++x) {
      if (!edges[static_cast<std::size_t>(y * side + x)]) continue;
      ++count;
      const int64_t out = std::max({6 - y, y - 13, 5 - x, x - 14});  // 0 on the square's own border
      EXPECT_TRUE(out == 0 || out == 1) << y << " " << x;
    }
  EXPECT_GE(count, 30);
  EXPECT_LE(count, 40);
  EXPECT_EQ(canny(std::vector<uint8_t>(side * side, 77), side, side, 50, 150),
            std::vector<uint8_t>(side * side, 0));
  // Weak alone is nothing: a step of 25 has a gradient of 100, between the thresholds.
  std::vector<uint8_t> faint(side * side, 10);
  for (int64_t i = side * side / 2; i < side * side; ++i) faint[static_cast<std::size_t>(i)] = 35;
  EXPECT_EQ(canny(faint, side, side, 50, 150), std::vector<uint8_t>(side * side, 0));
  faint[static_cast<std::size_t>(side * side / 2 + 3)] = 120;  // one strong place: the whole line follows
  const auto line = canny(faint, side, side, 50, 150);
  EXPECT_GT(std::count(line.begin(), line.end(), 255), 15);
}

TEST(Spatter, ChamferDistancesOfOnePoint) {
  const int64_t side = 15;
  std::vector<uint8_t> edges(side * side, 0);
  edges[7 * side + 7] = 255;
  const auto distance = chamfer_distance(edges, side, side);
  for (int64_t y = 0; y < side; ++y)
    for (int64_t x = 0; x < side; ++x) {
      // The shortest way of steps 1, 1.4 and 2.1969 in one octant.
      const auto a = static_cast<double>(std::max(std::abs(y - 7), std::abs(x - 7)));
      const auto b = static_cast<double>(std::min(std::abs(y - 7), std::abs(x - 7)));
      const double way = 2 * b <= a ? (a - 2 * b) + 2.1969 * b : 1.4 * (2 * b - a) + 2.1969 * (a - b);
      EXPECT_NEAR(distance[static_cast<std::size_t>(y * side + x)], way, 1e-5) << y << " " << x;
    }
  EXPECT_GT(chamfer_distance(std::vector<uint8_t>(side * side, 0), side, side)[0], 20);
}

TEST(Spatter, EqualizingSpreadsTheHistogram) {
  std::vector<uint8_t> image = {10, 10, 20, 20, 20, 30, 40, 40};
  equalize_histogram(image);
  // Counts 2, 3, 1, 2: (cumulated - 2) * 255 / 6, halves to even.
  EXPECT_EQ(image, (std::vector<uint8_t>{0, 0, 128, 128, 128, 170, 255, 255}));
  std::vector<uint8_t> flat(9, 20);
  equalize_histogram(flat);
  EXPECT_EQ(flat, std::vector<uint8_t>(9, 20));
}

class Npy : public FolderTest {
 protected:
  static std::string file(const std::string& dict, const std::string& elements, int version = 1) {
    const auto size = dict.size();
    std::string bytes = "\x93NUMPY";
    bytes += static_cast<char>(version);
    bytes += '\0';
    for (int i = 0; i < (version == 1 ? 2 : 4); ++i) bytes += static_cast<char>(size >> (8 * i) & 255);
    return bytes + dict + elements;
  }
};

TEST_F(Npy, WhatIsWrittenIsRead) {
  for (const auto type : {at::kByte, at::kBool, at::kChar, at::kShort, at::kInt, at::kLong, at::kHalf,
                          at::kFloat, at::kDouble}) {
    for (const auto& shape : {std::vector<int64_t>{}, {5}, {2, 3, 4}, {0, 3}, {1, 1, 1, 1, 7}, {70000}}) {
      const auto array = at::randint(0, type == at::kBool ? 2 : 100, shape).to(type);
      write_npy(path("a.npy"), array);
      const auto header = read_npy_header(path("a.npy"));
      EXPECT_EQ(header.offset % 64, 0u);
      const auto back = read_npy(path("a.npy"));
      EXPECT_EQ(back.scalar_type(), type);
      EXPECT_TRUE(at::equal(back, array)) << type << array.sizes();
    }
  }
  const auto array = at::arange(12).reshape({4, 3});
  write_npy(path("a.npy"), array.t());  // not contiguous
  EXPECT_TRUE(at::equal(read_npy(path("a.npy"), 1, 1), array.t().slice(0, 1, 2)));
  EXPECT_TRUE(at::equal(read_npy(path("a.npy"), 2), array.t().slice(0, 2)));
  expect_contains(message_of<ArgumentError>([&] { read_npy(path("a.npy"), 2, 2); }), "which has 3");
  expect_contains(message_of<ArgumentError>([&] { write_npy(path("b.npy"), array.to(at::kComplexDouble)); }),
                  "no type in .npy files");
  EXPECT_FALSE(std::filesystem::exists(path("b.npy")));
}

TEST_F(Npy, HeadersOfNumPy) {
  const std::string four = "abcd";
  for (const int version : {1, 2, 3})
    EXPECT_TRUE(at::equal(
        read_npy(write(
            "a", file("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2), }     \n", four, version))),
        torch::tensor({97, 98, 99, 100}, torch::kByte).reshape({2, 2})));
  // Keys in any order, no last comma, no spaces.
  EXPECT_EQ(read_npy(write("a", file("{'shape':(4,),'fortran_order':False,'descr':'<i1'}", four))).dim(), 1);
}

TEST_F(Npy, DamageIsNamed) {
  const auto fails = [&](const std::string& bytes) {
    const auto message = message_of<DataError>([&] { read_npy(write("bad.npy", bytes)); });
    expect_contains(message, "bad.npy");
    expect_contains(message, "numpy.save");
    return message;
  };
  const auto dict = [&](const std::string& text) { return fails(file(text, "abcd")); };
  const std::string good = "{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }\n";
  expect_contains(fails("hello"), "no .npy file");
  expect_contains(fails(std::string("\x93NUMPY\x04\x00\x00\x00\x00\x00", 12)), "format version 4.0");
  expect_contains(fails(file(good, "abc")), "need 4 bytes, the file has 3");
  expect_contains(fails(file(good, "abcde")), "need 4 bytes, the file has 5");
  expect_contains(dict("{'descr': '|O', 'fortran_order': False, 'shape': (4,)}"), "type '|O' is not read");
  expect_contains(dict("{'descr': '>f4', 'fortran_order': False, 'shape': (1,)}"), "big-endian");
  expect_contains(dict("{'descr': '<f4', 'fortran_order': True, 'shape': (1,)}"), "Fortran");
  expect_contains(dict("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}"), "structured");
  expect_contains(dict("{'descr': '<f4', 'shape': (1,)}"), "missing");
  expect_contains(dict("{'descr': '<f4', 'descr': '<f4', 'shape': (1,)}"), "comes twice");
  expect_contains(dict("{'descr': '<f4', 'evil': 1}"), "unknown");
  expect_contains(dict("{'descr': '|u1', 'fortran_order': False, 'shape': (4,)} import os"),
                  "after the dictionary");
  expect_contains(dict("{'descr': '|u1', 'fortran_order': False, 'shape': (-4,)}"), "expected a size");
  // Sizes that would ask for the whole memory never reach an allocation.
  expect_contains(dict("{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 4)}"),
                  "too large");
  expect_contains(dict("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999,)}"),
                  "too large");
  expect_contains(dict("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 9223372036854775800, 4)}"),
                  "too large");
  expect_contains(dict("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}"),
                  "the file has 4");
  const auto whole = file(good, "abcd");
  for (std::size_t length = 0; length < whole.size(); ++length) fails(whole.substr(0, length));
  for (std::size_t i = 0; i < whole.size(); ++i)
    for (int bit = 0; bit < 8; ++bit) {
      auto damaged = whole;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
      try {
        EXPECT_EQ(read_npy(write("flip.npy", damaged)).nbytes(),
                  4u);  // the elements, spaces, or the sign of bytes
      } catch (const DataError&) {
      }
    }
}

TEST_F(Npy, AWriterThatStopsLeavesNothing) {
  {
    NpyWriter writer(path("a.npy"), at::kByte, {4});
    writer.append(at::zeros({3}, at::kByte));
    expect_contains(message_of<ArgumentError>([&] { writer.commit(); }), "1 values are missing");
    expect_contains(message_of<ArgumentError>([&] { writer.append(at::zeros({2}, at::kByte)); }),
                    "only 1 are left");
    expect_contains(message_of<ArgumentError>([&] { writer.append(at::zeros({1})); }), "expected Byte");
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

class CifarC : public FolderTest {};

TEST_F(CifarC, IsWrittenBySeverity) {
  const auto base = shapes(1030);  // more than one batch of the writer
  CorruptOptions options;
  options.seed = 3;
  write_cifar_c(folder_, *base, "impulse_noise", options);
  write_cifar_c_labels(folder_, *base);
  for (const int severity : {1, 5}) {
    const auto set = read_cifar_c(folder_, "impulse_noise", severity, 4);
    EXPECT_TRUE(at::equal(set->images(), corrupt(base->images(), "impulse_noise", severity, options)));
    EXPECT_TRUE(at::equal(set->labels(), base->labels()));
  }
  expect_contains(message_of<MissingFileError>([&] { read_cifar_c(folder_, "fog", 1); }), "zenodo.org");
  expect_contains(message_of<MissingFileError>([&] { read_cifar_c(folder_, "fogg", 1); }), "fog");
}

}  // namespace
}  // namespace glyptic::data
