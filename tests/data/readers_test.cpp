#include <set>

#include "glyptic/core/safetensors.h"
#include "glyptic/data/dataset.h"
#include "support.h"

namespace glyptic::data {
namespace {

namespace fs = std::filesystem;

class Idx : public FolderTest {};

TEST_F(Idx, ReadsPlainAndGzip) {
  const auto bytes = idx({2, 1, 3}, "\x01\x02\x03\xFF\x05\x06");
  const auto expected = torch::tensor({1, 2, 3, 255, 5, 6}, torch::kByte).reshape({2, 1, 3});
  EXPECT_TRUE(at::equal(read_idx(write("a", bytes)), expected));
  EXPECT_TRUE(at::equal(read_idx(write("a.gz", gzipped(bytes))), expected));
  EXPECT_TRUE(at::equal(read_idx(write("one", idx({3}, "abc"))), torch::tensor({97, 98, 99}, torch::kByte)));
  EXPECT_EQ(read_idx(write("none", idx({0, 5}, ""))).sizes(), (std::vector<int64_t>{0, 5}));
}

TEST_F(Idx, EveryTruncationIsAnError) {
  const auto bytes = idx({2, 3}, "\x01\x02\x03\x04\x05\x06");
  for (const auto& whole : {bytes, gzipped(bytes)}) {
    for (std::size_t length = 0; length < whole.size(); ++length) {
      const auto file = write("cut", whole.substr(0, length));
      const auto message = message_of<DataError>([&] { read_idx(file); });
      expect_contains(message, file);
      expect_contains(message, "byte ");
      expect_contains(message, "fetch it again");
    }
    expect_contains(message_of<DataError>([&] { read_idx(write("more", whole + "x")); }), "more");
  }
}

TEST_F(Idx, FlippedBitsNeverCrash) {
  const std::string letters = "abcdefghijklmnopqrst";
  const auto whole = gzipped(idx({4, 5}, letters));
  for (std::size_t byte = 0; byte < whole.size(); ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      auto damaged = whole;
      damaged[byte] = static_cast<char>(damaged[byte] ^ (1 << bit));
      try {
        // gzip's time stamp and the bits that fill its last byte may change, the elements may not.
        const auto tensor = read_idx(write("flip", damaged));
        EXPECT_EQ(std::string(reinterpret_cast<const char*>(tensor.data_ptr()), 20), letters);
      } catch (const DataError&) {
      }
    }
  }
}

TEST_F(Idx, DamageIsNamed) {
  const auto fails = [&](const std::string& bytes) {
    return message_of<DataError>([&] { read_idx(write("bad", bytes)); });
  };
  expect_contains(fails("hello, I am a text"), "magic number starts with 104 101");
  expect_contains(fails(idx({1}, "abcd", 0x0D)), "IDX type 13, only 8");
  expect_contains(fails(idx({}, "")), "0 dimensions");
  expect_contains(fails(idx({2, 2}, "abc")), "need 4 bytes, the file has 3");
  expect_contains(fails(idx({2, 2}, "abcde")), "need 4 bytes, the file has 5");
  // Sizes that would ask for the whole memory are compared with the file before anything is allocated.
  expect_contains(fails(idx({0xFFFFFFFF, 0x7FFFFFFF}, "abc")), "the file has 3");
  expect_contains(fails(idx({0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF}, "abc")), "too large to exist");
  expect_contains(fails(idx({0, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF}, "")), "too large to exist");
  expect_contains(fails(gzipped(idx({0xFFFFFFFF, 0xFFFF}, "abc"))), "so many compressed bytes hold at most");
  expect_contains(fails(gzipped(idx({4}, "abc"))), "ends after 3 of the 4 bytes");
  expect_contains(fails(gzipped(idx({2}, "abc"))), "more bytes follow");
  // A claim that the length of the file allows, but that its content does not keep, costs no memory either.
  std::string noise;
  for (uint32_t i = 0, x = 1; i < 40000; ++i)
    noise += static_cast<char>((x = x * 1664525u + 1013904223u) >> 24);
  expect_contains(fails(gzipped(idx({4000, 5000}, noise))),
                  "need 20000000 bytes, but the file unpacks to fewer");
  const auto large = write("large", gzipped(idx({4000, 5000}, std::string(20000000, 'z'))));
  EXPECT_EQ(read_idx(large).sum().item<int64_t>(), int64_t{20000000} * 'z');
  auto wrong_sum = gzipped(idx({4}, "abcd"));
  wrong_sum[wrong_sum.size() - 6] ^= 1;
  expect_contains(fails(wrong_sum), "incorrect data check");
  expect_contains(message_of<MissingFileError>([&] { read_idx(path("none")); }), "No such file");
}

class Mnist : public FolderTest {
 protected:
  void save(const std::string& images, const std::string& labels, const std::string& part = "train") {
    write(part + "-images-idx3-ubyte", images);
    write(part + "-labels-idx1-ubyte.gz", gzipped(labels));
  }
};

TEST_F(Mnist, ReadsAMixOfPlainAndGzip) {
  save(idx({2, 1, 2}, "\x0A\x14\x1E\x28"), idx({2}, std::string("\x09\x00", 2)));
  const auto set = read_mnist(folder_, true);
  EXPECT_EQ(set->size(), 2);
  EXPECT_EQ(set->image_shape(), (std::vector<int64_t>{1, 1, 2}));
  EXPECT_EQ(set->num_classes(), 10);
  uint8_t pixels[2];
  EXPECT_EQ(set->read(0, pixels, 0), 9);
  EXPECT_EQ(pixels[0], 10);
  EXPECT_EQ(pixels[1], 20);
  EXPECT_EQ(set->read(1, pixels, 0), 0);
  EXPECT_EQ(pixels[1], 40);
  EXPECT_EQ(set->description(), "MNIST subset (2 of 60,000 train images, " + folder_ + ")");
  expect_contains(message_of<ArgumentError>([&] { set->read(2, pixels, 0); }), "item 2");
}

TEST_F(Mnist, DamageIsNamed) {
  const auto fails = [&] { return message_of<DataError>([&] { read_mnist(folder_, true); }); };
  save(idx({2, 1, 1}, "ab"), idx({3}, std::string("\0\1\2", 3)));
  expect_contains(fails(), "holds 2 images");
  expect_contains(fails(), "3 labels");
  save(idx({2, 1, 1}, "ab"), idx({2}, "\x01\x0A"));
  expect_contains(fails(), "byte 9 (unpacked): label 10 is not in 0 to 9");
  save(idx({2}, "ab"), idx({2}, "\x01\x02"));
  expect_contains(fails(), "expected [N, H, W]");
  save(idx({0, 1, 1}, ""), idx({0}, ""));
  expect_contains(fails(), "expected [N, H, W]");
  save(idx({2, 1, 1}, "ab"), idx({1, 2}, "\x01\x02"));
  expect_contains(fails(), "expected [N]");
  const auto missing = message_of<MissingFileError>([&] { read_mnist(folder_, false); });
  expect_contains(missing, "t10k-images-idx3-ubyte");
  expect_contains(missing, folder_);
}

TEST_F(Mnist, FilesThatMayNotBeReadSayWhy) {
  save(idx({1, 1, 1}, "a"), idx({1}, "\x01"));
  fs::permissions(folder_, fs::perms::all);
  fs::permissions(path("train-images-idx3-ubyte"), fs::perms::none);
  const bool root = ::geteuid() == 0;
  if (root) ASSERT_EQ(::seteuid(65534), 0);  // permissions do not bind root
  std::string message;
  try {
    read_mnist(folder_, true);
  } catch (const MissingFileError& error) {
    message = error.what();
  }
  if (root) ASSERT_EQ(::seteuid(0), 0);
  expect_contains(message, "Permission denied");
  expect_contains(message, "train-images-idx3-ubyte");
}

TEST(ShippedMnist, IsTheBalancedSubsetThatItsPageDescribes) {
  const std::string folder = std::string(source_dir()) + "/data/mnist-6k";
  for (const bool train : {true, false}) {
    const auto set = read_mnist(folder, train);
    const int64_t per_class = train ? 600 : 100;
    EXPECT_EQ(set->size(), 10 * per_class);
    EXPECT_EQ(set->image_shape(), (std::vector<int64_t>{1, 28, 28}));
    EXPECT_TRUE(at::equal(at::bincount(set->labels()), torch::full({10}, per_class, torch::kLong)));
    // An inverted or shifted reading would be far off; the first writers of the test set wrote thinner
    // (0.1245).
    const double mean = set->images().to(torch::kDouble).mean().item<double>() / 255;
    EXPECT_NEAR(mean, 0.1307, 0.01);
  }
  uintmax_t bytes = 0;
  for (const auto& file : fs::directory_iterator(folder)) bytes += file.file_size();
  EXPECT_LT(bytes, 1500000u);
}

TEST(RealMnist, HasItsPublishedConstantsAndContainsTheShippedSubset) {
  const auto folder = real_data("mnist", "train-images-idx3-ubyte.gz");
  if (folder.empty()) GTEST_SKIP() << "no full MNIST in $GLYPTIC_DATA or ../shared/data";
  const auto whole = read_mnist(folder, true);
  EXPECT_EQ(whole->size(), 60000);
  EXPECT_EQ(whole->description(), "MNIST (60,000 train images, " + folder + ")");
  const auto statistics = measure(*whole);
  EXPECT_NEAR(statistics.mean[0], 0.1307, 5e-5);  // the constants have four digits
  EXPECT_NEAR(statistics.std[0], 0.3081, 5e-5);

  for (const bool train : {true, false}) {
    const auto full = read_mnist(folder, train),
               small = read_mnist(std::string(source_dir()) + "/data/mnist-6k", train);
    std::vector<int64_t> chosen;
    std::vector<int64_t> taken(10);
    for (int64_t i = 0; i < full->size(); ++i)
      if (taken[static_cast<std::size_t>(full->label(i))]++ < (train ? 600 : 100)) chosen.push_back(i);
    const auto index = torch::tensor(chosen);
    EXPECT_TRUE(at::equal(small->images(), full->images().index_select(0, index)));
    EXPECT_TRUE(at::equal(small->labels(), full->labels().index_select(0, index)));
  }
}

class Cifar : public FolderTest {
 protected:
  // A record whose planes are filled with a, b, c.
  static std::string record(const std::string& labels, char a, char b, char c) {
    return labels + std::string(1024, a) + std::string(1024, b) + std::string(1024, c);
  }
};

TEST_F(Cifar, ReadsTenAndHundred) {
  for (int k = 1; k <= 5; ++k)
    write("cifar-10-batches-bin/data_batch_" + std::to_string(k) + ".bin",
          record({static_cast<char>(k)}, static_cast<char>(k), 20, 30) + record({9}, 1, 2, 3));
  write("cifar-10-batches-bin/test_batch.bin", record({3}, 7, 8, 9));
  const auto train = read_cifar(folder_, true);
  EXPECT_EQ(train->size(), 10);
  EXPECT_EQ(train->image_shape(), (std::vector<int64_t>{3, 32, 32}));
  EXPECT_TRUE(at::equal(train->labels(), torch::tensor({1, 9, 2, 9, 3, 9, 4, 9, 5, 9}, torch::kLong)));
  EXPECT_EQ(train->images()[4][0].eq(3).all().item<bool>(), true);
  EXPECT_EQ(train->images()[4][2].eq(30).all().item<bool>(), true);
  expect_contains(train->description(), "CIFAR-10 (10 train images, " + folder_ + "/cifar-10-batches-bin)");
  EXPECT_EQ(read_cifar(folder_ + "/cifar-10-batches-bin", false)->labels().item<int64_t>(), 3);

  write("train.bin", record({19, 99}, 1, 2, 3));
  const auto hundred = read_cifar(folder_, true, 100);
  EXPECT_EQ(hundred->num_classes(), 100);
  EXPECT_EQ(hundred->labels().item<int64_t>(), 99);  // the fine label
  EXPECT_EQ(hundred->images()[0][0][0][0].item<int>(), 1);
}

TEST_F(Cifar, DamageIsNamed) {
  const auto fails = [&](const std::string& bytes) {
    write("test_batch.bin", bytes);
    return message_of<DataError>([&] { read_cifar(folder_, false); });
  };
  expect_contains(fails(record({1}, 1, 2, 3) + "x"),
                  "byte 3073: 3074 bytes are not a whole number of records of 3073");
  expect_contains(fails(""), "0 bytes are not a whole number");
  expect_contains(fails(record({1}, 1, 2, 3) + record({10}, 1, 2, 3)),
                  "byte 3073: label 10 is not in 0 to 9");
  write("test.bin", record({0, 100}, 1, 2, 3));
  expect_contains(message_of<DataError>([&] { read_cifar(folder_, false, 100); }), "byte 1: label 100");
  write("data_batch_1.bin", record({1}, 1, 2, 3));
  expect_contains(message_of<MissingFileError>([&] { read_cifar(folder_, true); }), "no 'data_batch_2.bin'");
  expect_contains(message_of<ArgumentError>([&] { read_cifar(folder_, true, 20); }), "expected 10 or 100");
}

TEST(RealCifar, HasItsPublishedConstants) {
  auto folder = real_data("cifar10", "cifar-10-batches-bin/data_batch_1.bin");
  if (folder.empty()) folder = real_data("cifar10", "data_batch_1.bin");
  if (folder.empty()) GTEST_SKIP() << "no binary CIFAR-10 in $GLYPTIC_DATA or ../shared/data";
  const auto set = read_cifar(folder, true);
  EXPECT_EQ(set->size(), 50000);
  const auto statistics = measure(*set);
  const double mean[] = {0.4914, 0.4822, 0.4465};
  // Copies that went through JPEG keep the mean to about 1e-3.
  for (std::size_t c = 0; c < 3; ++c) EXPECT_NEAR(statistics.mean[c], mean[c], 2e-3);
}

at::Tensor numbered(int64_t count, int64_t channels, int64_t side) {
  return torch::arange(count * channels * side * side)
      .remainder(251)
      .to(torch::kByte)
      .reshape({count, channels, side, side});
}

std::shared_ptr<MemoryDataset> labelled(const std::vector<int64_t>& labels, int64_t classes) {
  const auto count = static_cast<int64_t>(labels.size());
  return std::make_shared<MemoryDataset>(numbered(count, 1, 2), torch::tensor(labels), classes, "numbers");
}

TEST(MemoryDatasetTest, RefusesWhatDoesNotFit) {
  const auto images = numbered(2, 1, 2);
  const auto labels = torch::tensor({int64_t{0}, int64_t{1}});
  const auto fails = [](const at::Tensor& x, const at::Tensor& y, int64_t classes) {
    return message_of<ArgumentError>([&] { MemoryDataset(x, y, classes, "d"); });
  };
  expect_contains(fails(images.to(torch::kFloat), labels, 2), "images are Float [2, 1, 2, 2]");
  expect_contains(fails(images[0], labels, 2), "expected uint8 [N, C, H, W]");
  expect_contains(fails(images, labels.to(torch::kInt), 2), "labels are Int");
  expect_contains(fails(images, labels.slice(0, 1), 2), "expected int64 [2]");
  expect_contains(fails(images, labels, 1), "label 1 is 1, expected 0 to 0");
  expect_contains(fails(images, labels, 0), "num_classes is 0");
  expect_contains(fails(images.slice(0, 0, 0), labels.slice(0, 0, 0), 2), "hold no pixel");
  expect_contains(fails(at::Tensor(), labels, 2), "undefined");
}

TEST(SubsetTest, MapsAndChecks) {
  const auto base = labelled({0, 1, 2, 3}, 4);
  const auto part = subset(base, {3, 0});
  uint8_t pixels[4];
  EXPECT_EQ(part->size(), 2);
  EXPECT_EQ(part->read(0, pixels, 0), 3);
  EXPECT_EQ(pixels[0], 12);
  EXPECT_EQ(part->label(1), 0);
  EXPECT_EQ(part->description(), "2 of numbers");
  expect_contains(message_of<ArgumentError>([&] { subset(base, {4}); }), "index 4 is not in the set");
  expect_contains(message_of<ArgumentError>([&] { part->label(2); }), "item 2");
}

TEST(SplitTest, IsStratifiedAndDependsOnTheSeedAlone) {
  std::vector<int64_t> labels;
  for (int i = 0; i < 200; ++i) labels.push_back(i % 10 < 5 ? 0 : i % 10 < 8 ? 1 : 2);  // 100, 60, 40
  const auto base = labelled(labels, 3);
  const auto split = split_validation(base, 33, 5);
  EXPECT_EQ(split.train->size(), 167);
  ASSERT_EQ(split.validation->size(), 33);
  // Shares of 33: 16.5, 9.9, 6.6 -> floors 16, 9, 6 and the two largest remainders, 0.9 and 0.6.
  int64_t counts[3] = {};
  std::set<int> seen;
  uint8_t pixels[4];
  const auto first_pixels = [&](const Dataset& set) {
    std::vector<int> values;
    for (int64_t i = 0; i < set.size(); ++i) {
      set.read(i, pixels, 0);
      values.push_back(pixels[0] + 256 * pixels[1] + 65536 * pixels[2]);
    }
    return values;
  };
  for (int64_t i = 0; i < 33; ++i) ++counts[split.validation->label(i)];
  EXPECT_EQ(counts[0], 16);
  EXPECT_EQ(counts[1], 10);
  EXPECT_EQ(counts[2], 7);
  const auto again = split_validation(base, 33, 5), other = split_validation(base, 33, 6);
  EXPECT_EQ(first_pixels(*split.validation), first_pixels(*again.validation));
  EXPECT_NE(first_pixels(*split.validation), first_pixels(*other.validation));
  // Together they are the whole set, each item once.
  auto all = first_pixels(*split.train);
  const auto validation = first_pixels(*split.validation);
  all.insert(all.end(), validation.begin(), validation.end());
  auto expected = first_pixels(*base);
  std::sort(all.begin(), all.end());
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(all, expected);
  expect_contains(message_of<ArgumentError>([&] { split_validation(base, 200, 0); }), "expected 1 to 199");
  expect_contains(message_of<ArgumentError>([&] { split_validation(base, 0, 0); }), "validation is 0");
}

// Reads like its base, but is not in memory.
class Lazy final : public Dataset {
 public:
  explicit Lazy(std::shared_ptr<const Dataset> base) : base_(std::move(base)) {}
  int64_t size() const override { return base_->size(); }
  std::vector<int64_t> image_shape() const override { return base_->image_shape(); }
  int64_t num_classes() const override { return base_->num_classes(); }
  int64_t read(int64_t i, uint8_t* pixels, uint64_t random) const override {
    return base_->read(i, pixels, random);
  }
  std::string description() const override { return "lazy"; }

 private:
  std::shared_ptr<const Dataset> base_;
};

TEST(AreaAverage, RoundsTheMeanOfEachBlock) {
  torch::manual_seed(2);
  const auto images = torch::randint(0, 256, {3, 2, 12, 12}, torch::kByte);
  const auto base =
      std::make_shared<MemoryDataset>(images, torch::tensor({0, 1, 0}, torch::kLong), 2, "noise");
  for (const int64_t side : {1, 2, 3, 4, 6, 12}) {
    const auto factor = 12 / side;
    // Exact in float64; + 0.5 and floor rounds halves up.
    const auto expected = at::avg_pool2d(images.to(torch::kDouble), factor).add(0.5).floor().to(torch::kByte);
    for (const auto& set : {area_average(base, side), area_average(std::make_shared<Lazy>(base), side)}) {
      EXPECT_EQ(set->image_shape(), (std::vector<int64_t>{2, side, side}));
      for (int64_t i = 0; i < 3; ++i) {
        auto pixels = torch::empty({2, side, side}, torch::kByte);
        EXPECT_EQ(set->read(i, pixels.data_ptr<uint8_t>(), 0), i % 2);
        EXPECT_EQ(set->label(i), i % 2);
        EXPECT_TRUE(at::equal(pixels, expected[i])) << "side " << side;
      }
    }
  }
  expect_contains(message_of<ArgumentError>([&] { area_average(base, 5); }),
                  "exact divisor of 12: 1, 2, 3, 4, 6, 12");
}

TEST(Measure, AgreesWithFloat64AndSurvivesConstants) {
  torch::manual_seed(3);
  auto images = torch::randint(0, 256, {50, 3, 4, 5}, torch::kByte);
  images.select(1, 2).fill_(77);
  const MemoryDataset set(images, torch::zeros({50}, torch::kLong), 1, "noise");
  const auto statistics = measure(set);
  const auto x = images.to(torch::kDouble) / 255;
  for (int64_t c = 0; c < 2; ++c) {
    const auto k = static_cast<std::size_t>(c);
    EXPECT_NEAR(statistics.mean[k], x.select(1, c).mean().item<double>(),
                1e-12);  // float64 sums of 1,000 values
    EXPECT_NEAR(statistics.std[k], x.select(1, c).std(false).item<double>(), 1e-12);
  }
  EXPECT_DOUBLE_EQ(statistics.mean[2], 77.0 / 255);
  EXPECT_EQ(statistics.std[2], 1.0);
  const auto some = measure(set, 5);  // items 0, 10, 20, 30, 40
  EXPECT_NEAR(some.mean[0], x.slice(0, 0, 50, 10).select(1, 0).mean().item<double>(), 1e-12);
}

class Load : public FolderTest {};

TEST_F(Load, FindsTheShippedMnist) {
  const Variable nowhere("GLYPTIC_DATA", path("nowhere"));
  const auto folders = data_folders("mnist");
  ASSERT_FALSE(folders.empty());
  expect_contains(folders.back(), "mnist-6k");
  for (const auto& folder : folders) EXPECT_TRUE(fs::is_directory(folder));
  DataOptions options;
  options.folder = folders.back();
  options.train_limit = 100;
  options.test_limit = 50;
  options.validation = 20;
  options.size = 14;
  const auto sets = load(options);
  EXPECT_EQ(sets.train->size(), 80);
  EXPECT_EQ(sets.validation->size(), 20);
  EXPECT_EQ(sets.test->size(), 50);
  EXPECT_EQ(sets.train->image_shape(), (std::vector<int64_t>{1, 14, 14}));
  expect_contains(sets.train->description(),
                  "MNIST subset (6,000 of 60,000 train images, " + folders.back() + ")");
  const auto statistics = measure(*sets.train);
  EXPECT_EQ(sets.mean, statistics.mean);
  EXPECT_EQ(sets.std, statistics.std);
  // The first items of the set, in its order.
  const auto all = area_average(read_mnist(folders.back(), false), 14);
  uint8_t a[196], b[196];
  for (int64_t i = 0; i < 50; ++i) {
    EXPECT_EQ(sets.test->read(i, a, 0), all->read(i, b, 0));
    EXPECT_EQ(std::memcmp(a, b, sizeof a), 0);
  }
}

TEST_F(Load, TheEnvironmentComesFirst) {
  write("mnist/train-images-idx3-ubyte", idx({2, 1, 1}, "ab"));
  write("mnist/train-labels-idx1-ubyte", idx({2}, "\x01\x02"));
  write("mnist/t10k-images-idx3-ubyte", idx({1, 1, 1}, "c"));
  write("mnist/t10k-labels-idx1-ubyte", idx({1}, "\x03"));
  const Variable here("GLYPTIC_DATA", folder_);
  EXPECT_EQ(data_folders("mnist").front(), path("mnist"));
  const auto sets = load({});
  EXPECT_EQ(sets.train->size(), 2);
  EXPECT_EQ(sets.test->label(0), 3);
  EXPECT_EQ(sets.validation, nullptr);
  DataOptions more;
  more.train_limit = 500;  // a warning, and all there are
  EXPECT_EQ(load(more).train->size(), 2);
  // Test images of another size are another set.
  write("mnist/t10k-images-idx3-ubyte", idx({1, 1, 2}, "cd"));
  expect_contains(message_of<DataError>([] { load({}); }), "take both from the same set");
}

TEST_F(Load, MissingDataNameWhatWasTriedAndHowToGetThem) {
  const Variable here("GLYPTIC_DATA", folder_);
  DataOptions options;
  options.name = "cifar100";
  auto message = message_of<MissingFileError>([&] { load(options); });
  expect_contains(message, "'" + folder_ + "/cifar100'");
  expect_contains(message, "'../shared/data/cifar100'");
  expect_contains(message,
                  "https://www.cs.toronto.edu/~kriz/cifar.html and put them into $GLYPTIC_DATA/cifar100");
  fs::create_directory(path("cifar100"));
  expect_contains(message_of<MissingFileError>([&] { load(options); }), "there, but without the files");
  options.folder = path("elsewhere");
  message = message_of<MissingFileError>([&] { load(options); });
  expect_contains(message, path("elsewhere"));
  EXPECT_EQ(message.find("shared/data"), std::string::npos);  // only the named folder is looked at
}

TEST_F(Load, WrongOptionsAreNamed) {
  const auto fails = [](const std::function<void(DataOptions&)>& change) {
    DataOptions options;
    change(options);
    return message_of<ArgumentError>([&] { load(options); });
  };
  expect_contains(fails([](auto& o) { o.name = "mnst"; }), "did you mean 'mnist'?");
  expect_contains(fails([](auto& o) { o.train_limit = -1; }), "train_limit is -1");
  expect_contains(fails([](auto& o) { o.size = 5; }), "exact divisor of 28");
  expect_contains(fails([](auto& o) { o.classes = 5; }), "classes is 5");
  expect_contains(fails([](auto& o) { o.validation = 1000000; }), "validation is 1000000");
  expect_contains(fails([](auto& o) {
                    o.name = "shapes";
                    o.classes = 11;
                  }),
                  "expected 2 to 10");
  expect_contains(fails([](auto& o) {
                    o.name = "shapes";
                    o.folder = "x";
                  }),
                  "leave it empty");
  EXPECT_EQ(dataset_names().size(), 5u);
}

TEST_F(Load, CifarKeepsItsConstantsOnlyWhole) {
  for (int k = 1; k <= 5; ++k)
    write("data_batch_" + std::to_string(k) + ".bin",
          std::string(1, static_cast<char>(k)) + std::string(3072, 'x'));
  write("test_batch.bin", std::string(1, '\0') + std::string(3072, 'x'));
  DataOptions options;
  options.name = "cifar10";
  options.folder = folder_;
  options.size = 16;
  const auto sets = load(options);
  EXPECT_EQ(sets.train->image_shape(), (std::vector<int64_t>{3, 16, 16}));
  EXPECT_EQ(sets.mean, std::vector<double>(3, 'x' / 255.0));
  EXPECT_EQ(sets.std, std::vector<double>(3, 1.0));
}

TEST(RealLoad, WholeMnistHasTheUsualConstants) {
  const auto folder = real_data("mnist", "train-images-idx3-ubyte.gz");
  if (folder.empty()) GTEST_SKIP() << "no full MNIST in $GLYPTIC_DATA or ../shared/data";
  DataOptions options;
  options.folder = folder;
  options.train_limit = 1000;
  const auto sets = load(options);
  EXPECT_EQ(sets.mean, std::vector<double>{0.1307});
  EXPECT_EQ(sets.std, std::vector<double>{0.3081});
  EXPECT_EQ(sets.train->size(), 1000);
  EXPECT_EQ(sets.test->size(), 10000);
}

// --- shapes

TEST(Shapes, DependOnTheSeedAloneAndAreBalanced) {
  const auto a = generate_shapes(40, 16, 3, 10, 1), b = generate_shapes(40, 16, 3, 10, 1);
  EXPECT_TRUE(at::equal(a->images(), b->images()));
  EXPECT_FALSE(at::equal(a->images(), generate_shapes(40, 16, 3, 10, 2)->images()));
  // A longer set starts with the shorter one.
  EXPECT_TRUE(at::equal(a->images().slice(0, 0, 7), generate_shapes(7, 16, 3, 10, 1)->images()));
  EXPECT_TRUE(at::equal(a->labels(), torch::arange(40).remainder(10)));
  EXPECT_EQ(a->image_shape(), (std::vector<int64_t>{3, 16, 16}));
  expect_contains(message_of<ArgumentError>([] { generate_shapes(0, 16, 3, 4, 1); }), "count is 0");
  expect_contains(message_of<ArgumentError>([] { generate_shapes(1, 7, 3, 4, 1); }), "side is 7");
  expect_contains(message_of<ArgumentError>([] { generate_shapes(1, 16, 5, 4, 1); }), "channels is 5");
  expect_contains(message_of<ArgumentError>([] { generate_shapes(1, 16, 3, 1, 1); }), "classes is 1");
}

at::Tensor centred(const MemoryDataset& set) {
  return set.images().to(torch::kFloat).sub(128).div(64);
}

double accuracy(const at::Tensor& scores, const MemoryDataset& set) {
  return scores.argmax(1).eq(set.labels()).to(torch::kDouble).mean().item<double>();
}

// The point of the set: pixels alone do not tell the class, local structure does.
TEST(Shapes, DefeatALinearModelAndNotASmallConvolutionalOne) {
  const auto train = generate_shapes(3000, 24, 1, 4, 11), test = generate_shapes(1000, 24, 1, 4, 12);
  const auto x = centred(*train).flatten(1), held_out = centred(*test).flatten(1);
  const auto targets = at::one_hot(train->labels(), 4).to(torch::kFloat) - 0.25;
  const auto gram = x.t().mm(x);
  double best = 0;
  for (const double ridge : {1.0, 100.0, 10000.0}) {
    const auto weights = at::linalg_solve(gram + ridge * torch::eye(x.size(1)), x.t().mm(targets));
    best = std::max(best, accuracy(held_out.mm(weights), *test));
  }
  // Chance is 0.25; its standard error on 1,000 images is 0.014, and the best of three ridges gets five of
  // them.
  EXPECT_LT(best, 0.25 + 5 * 0.014);

  // One thread: so small a network gains nothing from more, and loses much where other programs run.
  struct OneThread {
    int before = at::get_num_threads();
    OneThread() { at::set_num_threads(1); }
    ~OneThread() { at::set_num_threads(before); }
  } one_thread;
  torch::manual_seed(1);
  torch::nn::Sequential net(
      torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 12, 5).stride(2).padding(2)), torch::nn::ReLU(),
      torch::nn::Conv2d(torch::nn::Conv2dOptions(12, 24, 3).stride(2).padding(1)), torch::nn::ReLU(),
      torch::nn::Conv2d(torch::nn::Conv2dOptions(24, 32, 3).padding(1)), torch::nn::ReLU(),
      torch::nn::AdaptiveMaxPool2d(1), torch::nn::Flatten(), torch::nn::Linear(32, 4));
  torch::optim::Adam optimizer(net->parameters(), 3e-3);
  const auto images = centred(*train);
  for (int epoch = 0; epoch < 12; ++epoch) {
    const auto order = torch::randperm(3000);
    for (int64_t i = 0; i < 3000; i += 60) {
      const auto index = order.slice(0, i, i + 60);
      optimizer.zero_grad();
      at::cross_entropy_loss(net->forward(images.index_select(0, index)),
                             train->labels().index_select(0, index))
          .backward();
      optimizer.step();
    }
  }
  const torch::NoGradGuard no_grad;
  const double convolutional = accuracy(net->forward(centred(*test)), *test);
  EXPECT_GT(convolutional, 0.75) << "linear: " << best;
  RecordProperty("linear", std::to_string(best));
  RecordProperty("convolutional", std::to_string(convolutional));
}

TEST(Shapes, LoadGivesDifferentTrainAndTestImages) {
  DataOptions options;
  options.name = "shapes";
  options.train_limit = 30;
  options.test_limit = 30;
  options.size = 12;
  const auto sets = load(options);
  EXPECT_EQ(sets.train->num_classes(), 4);
  uint8_t a[432], b[432];
  sets.train->read(0, a, 0);
  sets.test->read(0, b, 0);
  EXPECT_NE(std::memcmp(a, b, sizeof a), 0);
  EXPECT_EQ(sets.mean.size(), 3u);
}

}  // namespace
}  // namespace glyptic::data
