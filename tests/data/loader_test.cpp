#include "glyptic/data/loader.h"

#include <atomic>
#include <set>
#include <thread>

#include "glyptic/core/rng.h"
#include "support.h"

namespace glyptic::data {
namespace {

std::shared_ptr<MemoryDataset> noise_set(int64_t count, int64_t channels = 3, int64_t height = 9,
                                         int64_t width = 11) {
  torch::manual_seed(count);
  return std::make_shared<MemoryDataset>(
      torch::randint(0, 256, {count, channels, height, width}, torch::kByte),
      torch::arange(count).remainder(7), 7, "noise");
}

LoaderOptions everything(int threads = 1) {
  LoaderOptions options;
  options.batch_size = 16;
  options.shuffle = true;
  options.seed = 5;
  options.threads = threads;
  options.augment.crop_padding = 3;
  options.augment.flip = true;
  options.augment.cutout = 4;
  options.augment.mean = {0.5, 0.4, 0.3};
  options.augment.std = {0.2, 0.25, 0.3};
  return options;
}

bool same(const Batch& a, const Batch& b) {
  return at::equal(a.images, b.images) && at::equal(a.labels, b.labels) && at::equal(a.indices, b.indices);
}

// One output pixel, from the words of the definition: pad with black and crop, normalise, mirror, cut.
float naive_pixel(const at::Tensor& image, const AugmentOptions& o, const RngStream& rng, int64_t c,
                  int64_t y, int64_t x) {
  const int64_t height = image.size(1), width = image.size(2);
  if (o.cutout > 0) {
    const auto cy = static_cast<int64_t>(rng.below(2, static_cast<uint64_t>(height)));
    const auto cx = static_cast<int64_t>(rng.below(3, static_cast<uint64_t>(width)));
    const int64_t top = cy - o.cutout / 2, left = cx - o.cutout / 2;
    if (y >= top && y < top + o.cutout && x >= left && x < left + o.cutout) return 0;
  }
  if (o.flip && rng.uniform(0) >= 0.5f) x = width - 1 - x;
  if (o.crop_padding > 0) {
    const auto places = static_cast<uint64_t>(2 * o.crop_padding + 1);
    y += static_cast<int64_t>(rng.below(0, places)) - o.crop_padding;
    x += static_cast<int64_t>(rng.below(1, places)) - o.crop_padding;
  }
  const bool inside = y >= 0 && y < height && x >= 0 && x < width;
  const float pixel = inside ? image[c][y][x].item<float>() : 0.0f;
  if (o.mean.empty()) return pixel;
  const auto k = static_cast<std::size_t>(c);
  return static_cast<float>((static_cast<double>(pixel) - o.mean[k]) / o.std[k]);
}

TEST(Augment, EqualsTheNaivePixelByPixel) {
  torch::manual_seed(1);
  for (const int which : {0, 1, 2, 3, 4}) {
    auto options = everything().augment;
    if (which == 1) options = {};
    if (which == 2) options.crop_padding = 0, options.cutout = 0;
    if (which == 3) options.flip = false, options.mean = {}, options.std = {};
    if (which == 4) options.cutout = 25;  // larger than the image: all of it is cut
    const auto images = torch::rand({8, 3, 9, 11});
    const std::vector<int64_t> samples = {0, 7, 3, 100, 4, 5, 99999, 2};
    for (const bool training : {true, false}) {
      auto given = images.clone();
      const auto result = augment(given, options, 5, 3, samples, training);
      EXPECT_EQ(result.data_ptr(), given.data_ptr());
      auto expected_options = options;
      if (!training)
        expected_options.crop_padding = expected_options.cutout = 0, expected_options.flip = false;
      int wrong = 0;
      for (int64_t b = 0; b < 8; ++b) {
        const auto rng = RngStream(5, "loader/augment")
                             .child(3)
                             .child(static_cast<uint64_t>(samples[static_cast<std::size_t>(b)]));
        for (int64_t c = 0; c < 3; ++c)
          for (int64_t y = 0; y < 9; ++y)
            for (int64_t x = 0; x < 11; ++x)
              wrong +=
                  result[b][c][y][x].item<float>() != naive_pixel(images[b], expected_options, rng, c, y, x);
      }
      EXPECT_EQ(wrong, 0) << "options " << which << ", training " << training;
    }
  }
}

// Both signs of the flip and every shift occur about equally often.
TEST(Augment, ChoicesAreUniform) {
  AugmentOptions options;
  options.crop_padding = 1;
  options.flip = true;
  constexpr int64_t kCount = 6000;
  auto images = torch::zeros({kCount, 1, 3, 3});
  images.select(2, 1).select(2, 0).fill_(1.0f);  // one bright pixel, left of the centre
  std::vector<int64_t> samples(kCount);
  std::iota(samples.begin(), samples.end(), 0);
  augment(images, options, 1, 0, samples, true);
  const auto sums = images.sum(0).squeeze(0);
  // By shift (-1, 0, 1) the pixel lands in column 1, 0 or outside; mirrored in 1, 2 or outside; rows alike:
  // each of the three rows 1/3 x (column 0: 1/6, column 1: 1/3, column 2: 1/6). Five standard deviations of
  // binomials.
  for (int64_t y = 0; y < 3; ++y) {
    EXPECT_NEAR(sums[y][0].item<double>(), kCount / 18.0, 5 * std::sqrt(kCount / 18.0));
    EXPECT_NEAR(sums[y][1].item<double>(), kCount / 9.0, 5 * std::sqrt(kCount / 9.0));
    EXPECT_NEAR(sums[y][2].item<double>(), kCount / 18.0, 5 * std::sqrt(kCount / 18.0));
  }
}

TEST(Augment, RefusesWhatDoesNotFit) {
  const auto fails = [](const at::Tensor& images, const std::function<void(AugmentOptions&)>& change) {
    AugmentOptions options;
    change(options);
    return message_of<ArgumentError>([&] { augment(images, options, 0, 0, {0}, true); });
  };
  const auto good = torch::rand({1, 3, 4, 5});
  const auto nothing = [](AugmentOptions&) {};
  expect_contains(fails(good.to(torch::kDouble), nothing), "they are Double [1, 3, 4, 5]");
  expect_contains(fails(good.transpose(2, 3), nothing), "contiguous");
  expect_contains(fails(at::Tensor(), nothing), "undefined");
  expect_contains(fails(torch::rand({2, 3, 4, 5}), nothing), "samples has 1 entries for 2 images");
  expect_contains(fails(good, [](auto& o) { o.crop_padding = 4; }), "crop_padding is 4, expected 0 to 3");
  expect_contains(fails(good, [](auto& o) { o.cutout = -1; }), "cutout is -1");
  expect_contains(fails(good, [](auto& o) { o.mean = {0.5}; }), "give both");
  expect_contains(fails(good,
                        [](auto& o) {
                          o.mean = {0.5};
                          o.std = {0.5};
                        }),
                  "have 1 values, but the images have 3");
  expect_contains(fails(good,
                        [](auto& o) {
                          o.mean = {0, 0, 0};
                          o.std = {1, 0, 1};
                        }),
                  "std 0, expected finite");
}

TEST(LoaderTest, BatchIsTheDatasetAugmented) {
  const auto set = noise_set(50);
  const Loader loader(set, everything(), true);
  EXPECT_EQ(loader.batches(), 4);
  EXPECT_EQ(loader.size(), 50);
  for (int64_t k = 0; k < 4; ++k) {
    const auto batch = loader.batch(2, k);
    EXPECT_EQ(batch.images.size(0), k < 3 ? 16 : 2);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(batch.images.data_ptr()) % 64, 0u);
    EXPECT_TRUE(batch.images.is_contiguous());
    EXPECT_TRUE(at::equal(batch.labels, set->labels().index_select(0, batch.indices)));
    auto expected = set->images().index_select(0, batch.indices).to(torch::kFloat) / 255.0f;
    const std::vector<int64_t> samples(batch.indices.data_ptr<int64_t>(),
                                       batch.indices.data_ptr<int64_t>() + batch.indices.numel());
    EXPECT_TRUE(at::equal(batch.images, augment(expected, everything().augment, 5, 2, samples, true)));
  }
}

TEST(LoaderTest, NormalisationIsExact) {
  auto pixels = torch::arange(256).to(torch::kByte).reshape({1, 1, 16, 16});
  LoaderOptions options;
  options.augment.mean = {0.1307};
  options.augment.std = {0.3081};
  options.augment.flip = true;
  options.augment.crop_padding = 2;  // neither happens outside of training
  const Loader loader(std::make_shared<MemoryDataset>(pixels, torch::zeros({1}, torch::kLong), 1, "ramp"),
                      options, false);
  const auto images = loader.batch(0, 0).images.flatten();
  for (int p = 0; p < 256; ++p) {
    const double pixel = static_cast<double>(static_cast<float>(p) / 255.0f);
    EXPECT_EQ(images[p].item<float>(), static_cast<float>((pixel - 0.1307) / 0.3081));
  }
}

TEST(LoaderTest, AnyNumberOfThreadsGivesTheSameBatches) {
  const auto set = noise_set(213);
  const Loader definition(set, everything(0), true);
  for (const int threads : {0, 1, 2, 5}) {
    for (const int prefetch : {1, 3, 8}) {
      auto options = everything(threads);
      options.prefetch = prefetch;
      Loader loader(set, options, true);
      for (const int64_t epoch : {0, 1, 7}) {
        loader.start(epoch);
        Batch batch;
        int64_t count = 0;
        std::multiset<int64_t> seen;
        while (loader.next(batch)) {
          EXPECT_TRUE(same(batch, definition.batch(epoch, count)))
              << threads << " threads, prefetch " << prefetch << ", epoch " << epoch << ", batch " << count;
          for (int64_t i = 0; i < batch.indices.numel(); ++i) seen.insert(batch.indices[i].item<int64_t>());
          ++count;
        }
        EXPECT_FALSE(loader.next(batch));
        EXPECT_EQ(count, 14);
        // Each item once.
        EXPECT_EQ(seen.size(), 213u);
        EXPECT_EQ(std::set<int64_t>(seen.begin(), seen.end()).size(), 213u);
      }
    }
  }
}

TEST(LoaderTest, EpochsAndSeedsDifferAndAugmentationMovesWithThem) {
  const auto set = noise_set(64);
  const Loader loader(set, everything(), true);
  EXPECT_FALSE(at::equal(loader.batch(0, 0).indices, loader.batch(1, 0).indices));
  auto other = everything();
  other.seed = 6;
  EXPECT_FALSE(at::equal(loader.batch(0, 0).indices, Loader(set, other, true).batch(0, 0).indices));
  auto fixed = everything();
  fixed.shuffle = false;
  const Loader in_order(set, fixed, true);
  EXPECT_TRUE(at::equal(in_order.batch(3, 1).indices, torch::arange(16, 32)));
  EXPECT_FALSE(at::equal(in_order.batch(0, 0).images, in_order.batch(1, 0).images));
  EXPECT_TRUE(at::equal(in_order.batch(0, 0).images, in_order.batch(0, 0).images));
}

TEST(LoaderTest, DropLastDropsTheRest) {
  auto options = everything();
  options.drop_last = true;
  EXPECT_EQ(Loader(noise_set(50), options, true).batches(), 3);
  EXPECT_EQ(Loader(noise_set(48), options, true).batches(), 3);
  options.drop_last = false;
  EXPECT_EQ(Loader(noise_set(48), options, true).batches(), 3);
}

TEST(LoaderTest, ResumesInTheMiddleAndStartsAnewAtAnyMoment) {
  const auto set = noise_set(300);
  const Loader definition(set, everything(0), true);
  for (const int threads : {0, 1, 3}) {
    Loader loader(set, everything(threads), true);
    Batch batch;
    for (int64_t first = 0; first <= 19; first += 3) {
      loader.start(4, first);
      // Abandoned after two batches each time, with others in flight.
      for (int64_t k = first; k < std::min<int64_t>(first + 2, 19); ++k) {
        ASSERT_TRUE(loader.next(batch));
        EXPECT_TRUE(same(batch, definition.batch(4, k)));
      }
    }
    loader.start(4, 19);
    EXPECT_FALSE(loader.next(batch));
    loader.start(5, 18);
    ASSERT_TRUE(loader.next(batch));
    EXPECT_TRUE(same(batch, definition.batch(5, 18)));
    EXPECT_FALSE(loader.next(batch));
  }
}

// Slow to read, with an item that cannot be.
class Stubborn final : public Dataset {
 public:
  explicit Stubborn(int64_t bad) : bad_(bad) {}
  int64_t size() const override { return 64; }
  std::vector<int64_t> image_shape() const override { return {1, 2, 2}; }
  int64_t num_classes() const override { return 1; }
  int64_t read(int64_t index, uint8_t* pixels, uint64_t) const override {
    ++reads;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
    if (index == bad_) throw DataError("item " + std::to_string(index) + " is rotten");
    std::fill(pixels, pixels + 4, static_cast<uint8_t>(index));
    return 0;
  }
  std::string description() const override { return "stubborn"; }
  mutable std::atomic<int> reads{0};

 private:
  int64_t bad_;
};

TEST(LoaderTest, AnErrorSurfacesAtItsBatchAndAgain) {
  for (const int threads : {0, 1, 4}) {
    LoaderOptions options;
    options.batch_size = 4;
    options.threads = threads;
    Loader loader(std::make_shared<Stubborn>(10), options, true);
    loader.start(0);
    Batch batch;
    EXPECT_TRUE(loader.next(batch));
    EXPECT_TRUE(loader.next(batch));
    for (int again = 0; again < 2; ++again)
      expect_contains(message_of<DataError>([&] { loader.next(batch); }), "item 10 is rotten");
    loader.start(0, 3);  // past it all is well
    EXPECT_TRUE(loader.next(batch));
    EXPECT_EQ(batch.indices[0].item<int64_t>(), 12);
  }
}

TEST(LoaderTest, PrefetchIsBounded) {
  const auto set = std::make_shared<Stubborn>(-1);
  LoaderOptions options;
  options.batch_size = 2;
  options.threads = 3;
  options.prefetch = 4;
  Loader loader(set, options, false);
  loader.start(0);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_LE(set->reads, 8);  // four batches of two, though nobody asked yet
  Batch batch;
  EXPECT_TRUE(loader.next(batch));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_LE(set->reads, 10);
}

TEST(LoaderTest, GoesAwayWhileWorkersRun) {
  for (int trial = 0; trial < 20; ++trial) {
    LoaderOptions options;
    options.batch_size = 3;
    options.threads = 1 + trial % 4;
    options.prefetch = 6;
    Loader loader(std::make_shared<Stubborn>(trial), options, false);
    if (trial % 3 != 0) loader.start(trial);
    Batch batch;
    if (trial % 3 == 2) {
      try {
        loader.next(batch);
      } catch (const DataError&) {
      }
    }
  }
}

TEST(LoaderTest, BatchMayBeCalledFromAnyThread) {
  const auto set = noise_set(100);
  const Loader loader(set, everything(), true);
  std::vector<Batch> expected;
  for (int64_t k = 0; k < 14; ++k) expected.push_back(loader.batch(k % 3, k % 7));
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int64_t k = 0; k < 14; ++k)
        wrong += !same(loader.batch(k % 3, k % 7), expected[static_cast<std::size_t>(k)]);
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(LoaderTest, RefusesWhatDoesNotFit) {
  const auto set = noise_set(10);
  const auto fails = [&](const std::function<void(LoaderOptions&)>& change) {
    auto options = everything();
    options.batch_size = 4;
    change(options);
    return message_of<ArgumentError>([&] { Loader(set, options, true); });
  };
  expect_contains(fails([](auto& o) { o.batch_size = 0; }), "batch_size is 0");
  expect_contains(fails([](auto& o) { o.threads = -1; }), "threads is -1");
  expect_contains(fails([](auto& o) { o.prefetch = 0; }), "prefetch is 0");
  expect_contains(fails([](auto& o) {
                    o.batch_size = 11;
                    o.drop_last = true;
                  }),
                  "only 10 items and drop_last");
  expect_contains(fails([](auto& o) { o.augment.crop_padding = 9; }), "crop_padding is 9, expected 0 to 8");
  expect_contains(message_of<ArgumentError>([] { Loader(nullptr, {}, true); }), "null");
  Loader loader(set, everything(), true);
  Batch batch;
  expect_contains(message_of<ArgumentError>([&] { loader.next(batch); }), "call start(epoch) first");
  expect_contains(message_of<ArgumentError>([&] { loader.start(0, 2); }), "the epoch has 1 batches");
  expect_contains(message_of<ArgumentError>([&] { loader.start(-1); }), "epoch is -1");
  expect_contains(message_of<ArgumentError>([&] { loader.batch(0, 1); }), "index is 1");
}

}  // namespace
}  // namespace glyptic::data
