#include <cstdio>
// jpeglib.h needs the line above.
#include <jpeglib.h>
#include <png.h>

#include "glyptic/data/dataset.h"
#include "glyptic/data/loader.h"
#include "support.h"

namespace glyptic::data {
namespace {

namespace fs = std::filesystem;

class Images : public FolderTest {
 protected:
  at::Tensor decode(const std::string& bytes, const std::string& name = "image") const {
    return decode_image(write(name, bytes));
  }
};

// `samples` as [H, W, components].
std::string jpeg(const at::Tensor& samples, J_COLOR_SPACE space, bool adobe = true,
                 bool progressive = false) {
  jpeg_compress_struct info{};
  jpeg_error_mgr errors{};
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* buffer = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &buffer, &size);
  info.image_height = static_cast<JDIMENSION>(samples.size(0));
  info.image_width = static_cast<JDIMENSION>(samples.size(1));
  info.input_components = static_cast<int>(samples.size(2));
  info.in_color_space = space;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, 100, TRUE);
  for (int c = 0; c < info.num_components; ++c)
    info.comp_info[c].h_samp_factor = info.comp_info[c].v_samp_factor = 1;
  if (space == JCS_CMYK) info.write_Adobe_marker = adobe ? TRUE : FALSE;
  if (progressive) jpeg_simple_progression(&info);
  jpeg_start_compress(&info, TRUE);
  for (int64_t y = 0; y < samples.size(0); ++y) {
    auto row = samples[y].contiguous();
    JSAMPROW line = row.data_ptr<uint8_t>();
    jpeg_write_scanlines(&info, &line, 1);
  }
  jpeg_finish_compress(&info);
  std::string bytes(reinterpret_cast<char*>(buffer), size);
  jpeg_destroy_compress(&info);
  std::free(buffer);
  return bytes;
}

// `samples` as [H, W, channels] (for 16 bits [H, W, channels * 2], big-endian; for 1 bit packed).
std::string png(const at::Tensor& samples, int64_t width, int depth, int type, bool interlaced = false) {
  std::string bytes;
  png_structp file = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(file);
  png_set_write_fn(
      file, &bytes,
      [](png_structp p, png_bytep data, png_size_t size) {
        static_cast<std::string*>(png_get_io_ptr(p))->append(reinterpret_cast<char*>(data), size);
      },
      [](png_structp) {});
  png_set_IHDR(file, info, static_cast<png_uint_32>(width), static_cast<png_uint_32>(samples.size(0)), depth,
               type, interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
               PNG_FILTER_TYPE_DEFAULT);
  const png_color palette[3] = {{10, 20, 30}, {40, 50, 60}, {255, 0, 128}};
  if (type == PNG_COLOR_TYPE_PALETTE) png_set_PLTE(file, info, palette, 3);
  png_write_info(file, info);
  const auto rows = samples.contiguous();
  std::vector<png_bytep> pointers;
  const int64_t stride = rows.numel() / rows.size(0);
  for (int64_t y = 0; y < rows.size(0); ++y) pointers.push_back(rows.data_ptr<uint8_t>() + y * stride);
  png_write_image(file, pointers.data());
  png_write_end(file, info);
  png_destroy_write_struct(&file, &info);
  return bytes;
}

at::Tensor noise(at::IntArrayRef shape) {
  return torch::randint(0, 256, shape, torch::kByte);
}

TEST_F(Images, PngOfEveryKindIsExact) {
  torch::manual_seed(1);
  const auto rgb = noise({5, 7, 3});
  const auto planes = rgb.permute({2, 0, 1});
  EXPECT_TRUE(at::equal(decode(png(rgb, 7, 8, PNG_COLOR_TYPE_RGB)), planes));
  EXPECT_TRUE(at::equal(decode(png(rgb, 7, 8, PNG_COLOR_TYPE_RGB, true)), planes)) << "interlaced";
  const auto rgba = at::cat({rgb, noise({5, 7, 1})}, 2);
  EXPECT_TRUE(at::equal(decode(png(rgba, 7, 8, PNG_COLOR_TYPE_RGB_ALPHA)), planes)) << "alpha is dropped";

  const auto grey = noise({5, 7, 1});
  const auto grey_planes = grey.permute({2, 0, 1}).expand({3, 5, 7});
  EXPECT_TRUE(at::equal(decode(png(grey, 7, 8, PNG_COLOR_TYPE_GRAY)), grey_planes));
  EXPECT_TRUE(at::equal(decode(png(at::cat({grey, noise({5, 7, 1})}, 2), 7, 8, PNG_COLOR_TYPE_GRAY_ALPHA)),
                        grey_planes));

  const auto index = torch::randint(0, 3, {5, 7, 1}, torch::kByte);
  const auto colours = torch::tensor({10, 20, 30, 40, 50, 60, 255, 0, 128}, torch::kByte).reshape({3, 3});
  EXPECT_TRUE(at::equal(
      decode(png(index, 7, 8, PNG_COLOR_TYPE_PALETTE)),
      colours.index_select(0, index.flatten().to(torch::kLong)).reshape({5, 7, 3}).permute({2, 0, 1})));

  const auto wide = noise({5, 7, 6});  // 16 bits, big-endian
  const auto value = wide.to(torch::kDouble).reshape({5, 7, 3, 2});
  const auto scaled =
      ((value.select(3, 0) * 256 + value.select(3, 1)) * 255 / 65535).round().to(torch::kByte);
  EXPECT_TRUE(at::equal(decode(png(wide, 7, 16, PNG_COLOR_TYPE_RGB)), scaled.permute({2, 0, 1})));

  const auto bits = torch::tensor({0b10110010}, torch::kByte).reshape({1, 1});
  const auto expanded =
      torch::tensor({255, 0, 255, 255, 0, 0, 255}, torch::kByte).reshape({1, 1, 7}).expand({3, 1, 7});
  EXPECT_TRUE(at::equal(decode(png(bits, 7, 1, PNG_COLOR_TYPE_GRAY)), expanded));
}

TEST_F(Images, JpegOfEveryKind) {
  // Smooth pictures at quality 100: what remains is the rounding of the transforms and of the colour
  // conversion.
  const auto ramp = torch::arange(20).reshape({1, 20, 1}) * 10 + torch::arange(16).reshape({16, 1, 1});
  const auto rgb = at::cat({ramp, 220 - ramp / 2, ramp / 3 + 20}, 2).to(torch::kByte);
  const auto expect_near = [](const at::Tensor& a, const at::Tensor& b, int most) {
    ASSERT_EQ(a.sizes(), b.sizes());
    EXPECT_LE((a.to(torch::kInt) - b.to(torch::kInt)).abs().max().item<int>(), most);
  };
  const auto planes = rgb.permute({2, 0, 1});
  expect_near(decode(jpeg(rgb, JCS_RGB)), planes, 3);
  expect_near(decode(jpeg(rgb, JCS_RGB, true, true)), planes, 3);
  const auto grey = rgb.slice(2, 0, 1);
  expect_near(decode(jpeg(grey, JCS_GRAYSCALE)), planes.slice(0, 0, 1).expand_as(planes), 2);

  // Inks and light: r = (255 - C)(255 - K) / 255. Adobe's files hold 255 - ink.
  const auto inks = at::cat({rgb, ramp.to(torch::kByte) / 4}, 2).to(torch::kByte);
  const auto light = 255 - inks.to(torch::kDouble);
  const auto expected =
      (light.slice(2, 0, 3) * light.slice(2, 3, 4) / 255).round().to(torch::kByte).permute({2, 0, 1});
  expect_near(decode(jpeg(inks, JCS_CMYK, false)), expected, 3);
  expect_near(decode(jpeg(255 - inks, JCS_CMYK, true)), expected, 3);
}

TEST_F(Images, DamageIsNamed) {
  const auto fails = [&](const std::string& bytes) {
    const auto file = write("bad.png", bytes);
    const auto message = message_of<DataError>([&] { decode_image(file); });
    expect_contains(message, file);
    return message;
  };
  expect_contains(fails("this is a text\nwith lines"), "neither JPEG nor PNG (it starts with 'this is ')");
  expect_contains(fails(""), "neither JPEG nor PNG (it starts with '')");
  expect_contains(fails("\xFF\xD8\xFF"), "cannot be decoded as JPEG");
  const auto good = png(noise({4, 4, 3}), 4, 8, PNG_COLOR_TYPE_RGB);
  auto broken = good;
  broken[broken.size() - 20] ^= 1;
  expect_contains(fails(broken), "cannot be decoded as PNG");
  expect_contains(message_of<MissingFileError>([&] { decode_image(path("none.png")); }), "No such file");

  // The limit holds before anything is allocated: these claim 65,500 x 65,500 pixels.
  auto huge = good;
  const uint32_t side = 65500;
  huge.replace(16, 8, big_endian(side) + big_endian(side));
  const auto sum = crc32(0, reinterpret_cast<const Bytef*>(huge.data()) + 12, 17);
  huge.replace(29, 4, big_endian(static_cast<uint32_t>(sum)));
  expect_contains(fails(huge), "65500 x 65500 pixels are more than the limit of 100000000");
  auto wide = jpeg(noise({8, 8, 3}), JCS_RGB);
  const auto frame = wide.find("\xFF\xC0");
  ASSERT_NE(frame, std::string::npos);
  wide.replace(frame + 5, 4, big_endian(side << 16 | side));
  expect_contains(fails(wide), "65500 x 65500 pixels are more than the limit");
  EXPECT_THROW(decode_image(write("good.png", good), 15), DataError);
  EXPECT_EQ(decode_image(path("good.png"), 16).numel(), 48);
}

TEST_F(Images, EveryTruncationIsAnErrorAndNoFlippedBitCrashes) {
  torch::manual_seed(4);
  const auto pixels = noise({16, 16, 3});
  for (const auto& whole :
       {jpeg(pixels, JCS_RGB), jpeg(pixels, JCS_RGB, true, true), png(pixels, 16, 8, PNG_COLOR_TYPE_RGB)}) {
    EXPECT_EQ(decode(whole).numel(), 768);
    for (std::size_t length = 0; length < whole.size();
         length += length < 32 || length + 32 > whole.size() ? 1 : 7)
      EXPECT_THROW(decode(whole.substr(0, length)), DataError) << length << " of " << whole.size();
    for (std::size_t byte = 0; byte < whole.size(); ++byte) {
      auto damaged = whole;
      damaged[byte] = static_cast<char>(damaged[byte] ^ (1 << byte % 8));
      try {
        decode_image(write("flip", damaged), 1 << 12);  // a flipped size shall not cost time
      } catch (const DataError&) {
      }
    }
  }
}

class ImageFolderTest : public Images {
 protected:
  // A picture whose red plane tells its row, green its column.
  std::string gradient(int64_t height, int64_t width) const {
    const auto y = torch::arange(height).reshape({height, 1, 1}).expand({height, width, 1});
    const auto x = torch::arange(width).reshape({1, width, 1}).expand({height, width, 1});
    return png(at::cat({y * 2, x * 2, x * 0 + 40}, 2).to(torch::kByte), width, 8, PNG_COLOR_TYPE_RGB);
  }
  // The triangle filter in two dimensions at once, in float64.
  static double oracle(const at::Tensor& plane, double top, double left, double height, double width,
                       int64_t side, int64_t y, int64_t x) {
    const double step_y = height / static_cast<double>(side), step_x = width / static_cast<double>(side);
    const double reach_y = std::max(1.0, step_y), reach_x = std::max(1.0, step_x);
    const double centre_y = top + (static_cast<double>(y) + 0.5) * step_y;
    const double centre_x = left + (static_cast<double>(x) + 0.5) * step_x;
    double sum = 0, total = 0;
    const auto in = plane.accessor<uint8_t, 2>();
    for (int64_t i = 0; i < plane.size(0); ++i) {
      for (int64_t j = 0; j < plane.size(1); ++j) {
        const double weight = std::max(0.0, 1 - std::abs(static_cast<double>(i) + 0.5 - centre_y) / reach_y) *
                              std::max(0.0, 1 - std::abs(static_cast<double>(j) + 0.5 - centre_x) / reach_x);
        sum += weight * in[i][j];
        total += weight;
      }
    }
    return sum / total;
  }
};

TEST_F(ImageFolderTest, ClassesAndFilesAreSortedAndReadLazily) {
  write("train/dog/b.PNG", gradient(20, 20));
  write("train/dog/a.png", gradient(20, 30));
  write("train/cat/z.jpeg", jpeg(noise({20, 20, 3}), JCS_RGB));
  write("train/cat/notes.txt", "not a picture");
  write("train/cat/.hidden.png", "not looked at");
  write("train/dog/c.png", "a text that calls itself a picture");
  const auto set = read_image_folder(path("train"), 16, false);
  EXPECT_EQ(set->size(), 4);
  EXPECT_EQ(set->num_classes(), 2);
  EXPECT_EQ(set->image_shape(), (std::vector<int64_t>{3, 16, 16}));
  EXPECT_EQ(set->label(0), 0);
  EXPECT_EQ(set->label(3), 1);
  expect_contains(set->description(), "4 test images of 2 classes");
  std::vector<uint8_t> pixels(768);
  EXPECT_EQ(set->read(0, pixels.data(), 0), 0);
  EXPECT_EQ(set->read(1, pixels.data(), 0), 1);
  const auto message = message_of<DataError>([&] { set->read(3, pixels.data(), 0); });
  expect_contains(message, path("train/dog/c.png"));

  // The same through the workers of a loader.
  LoaderOptions options;
  options.batch_size = 2;
  options.threads = 2;
  Loader loader(set, options, false);
  loader.start(0);
  Batch batch;
  EXPECT_TRUE(loader.next(batch));
  expect_contains(message_of<DataError>([&] { loader.next(batch); }), "train/dog/c.png");
  expect_contains(message_of<DataError>([&] { loader.next(batch); }), "train/dog/c.png");
}

TEST_F(ImageFolderTest, EvaluationIsTheCentreCropOfTheResizedImage) {
  write("train/a/wide.png", gradient(56, 100));
  const auto set = read_image_folder(path("train"), 16, false);
  const auto source = decode_image(path("train/a/wide.png"));
  auto pixels = torch::empty({3, 16, 16}, torch::kByte);
  set->read(0, pixels.data_ptr<uint8_t>(), 12345);
  // The shorter side, 56, becomes 16 * 8 / 7; its central 16 are 49 of the 56 source pixels.
  for (int64_t c = 0; c < 3; ++c)
    for (int64_t y = 0; y < 16; ++y)
      for (int64_t x = 0; x < 16; ++x)
        // 0.5 from rounding to bytes, and float32 against float64 before it.
        EXPECT_NEAR(pixels[c][y][x].item<int>(), oracle(source[c], 3.5, 25.5, 49, 49, 16, y, x), 0.5 + 1e-3);
}

TEST_F(ImageFolderTest, EnlargingInterpolates) {
  write("train/a/small.png", gradient(7, 9));
  const auto set = read_image_folder(path("train"), 24, false);
  const auto source = decode_image(path("train/a/small.png"));
  auto pixels = torch::empty({3, 24, 24}, torch::kByte);
  set->read(0, pixels.data_ptr<uint8_t>(), 0);
  const double side = 7 * 7.0 / 8;
  for (int64_t y = 0; y < 24; ++y)
    for (int64_t x = 0; x < 24; ++x)
      EXPECT_NEAR(pixels[1][y][x].item<int>(),
                  oracle(source[1], (7 - side) / 2, (9 - side) / 2, side, side, 24, y, x), 0.5 + 1e-3);
}

TEST_F(ImageFolderTest, TrainingCropsDependOnTheWordAndStayInsideTheLimits) {
  write("train/a/p.png", gradient(100, 120));
  const auto set = read_image_folder(path("train"), 16, true);
  auto pixels = torch::empty({3, 16, 16}, torch::kByte), again = torch::empty_like(pixels);
  double smallest = 1, largest = 0, narrowest = 10, widest = 0;
  for (uint64_t word = 0; word < 300; ++word) {
    set->read(0, pixels.data_ptr<uint8_t>(), word);
    set->read(0, again.data_ptr<uint8_t>(), word);
    EXPECT_TRUE(at::equal(pixels, again));
    // The gradients give the box back: 14 steps inside the borders, 2 levels a pixel.
    const double height = (pixels[0][14][8].item<int>() - pixels[0][1][8].item<int>()) / 2.0 / 13 * 16;
    const double width = (pixels[1][8][14].item<int>() - pixels[1][8][1].item<int>()) / 2.0 / 13 * 16;
    const double area = height * width / 12000, aspect = width / height;
    smallest = std::min(smallest, area);
    largest = std::max(largest, area);
    narrowest = std::min(narrowest, aspect);
    widest = std::max(widest, aspect);
  }
  // Limits 0.08, 1, 3/4, 4/3; rounding to levels leaves 1/13 of a pixel step, some per cent for the smallest
  // boxes.
  EXPECT_GT(smallest, 0.07);
  EXPECT_LT(smallest, 0.15);
  EXPECT_LT(largest, 1.03);
  EXPECT_GT(largest, 0.85);
  EXPECT_GT(narrowest, 0.70);
  EXPECT_LT(widest, 1.43);
  EXPECT_LT(narrowest, 0.85);
  EXPECT_GT(widest, 1.2);
  // One so narrow that no box fits is cut in its middle.
  write("train/a/p.png", gradient(2, 120));
  read_image_folder(path("train"), 16, true)->read(0, pixels.data_ptr<uint8_t>(), 1);
  EXPECT_NEAR(pixels[1].to(torch::kFloat).mean().item<double>(), 119, 8);
}

TEST_F(ImageFolderTest, WrongFoldersAreNamed) {
  expect_contains(message_of<MissingFileError>([&] { read_image_folder(path("none"), 16, true); }),
                  path("none"));
  write("flat/picture.png", gradient(4, 4));
  expect_contains(message_of<DataError>([&] { read_image_folder(path("flat"), 16, true); }),
                  "no class folders");
  write("some/cat/a.txt", "");
  expect_contains(message_of<DataError>([&] { read_image_folder(path("some"), 16, true); }),
                  "some/cat' holds no .jpg");
  expect_contains(message_of<ArgumentError>([&] { read_image_folder(path("flat"), 0, true); }), "size is 0");
  DataOptions options;
  options.name = "image_folder";
  options.folder = path("flat");
  expect_contains(message_of<MissingFileError>([&] { load(options); }), "make train/<class>/");
}

TEST_F(ImageFolderTest, UnreadableFoldersSayWhy) {
  write("train/a/p.png", gradient(4, 4));
  fs::permissions(folder_, fs::perms::all);
  fs::permissions(path("train/a"), fs::perms::none);
  const bool root = ::geteuid() == 0;
  if (root) ASSERT_EQ(::seteuid(65534), 0);  // permissions do not bind root
  std::string message;
  try {
    read_image_folder(path("train"), 16, true);
  } catch (const MissingFileError& error) {
    message = error.what();
  }
  if (root) ASSERT_EQ(::seteuid(0), 0);
  fs::permissions(path("train/a"), fs::perms::all);
  expect_contains(message, "cannot read the folder '" + path("train/a") + "': Permission denied");
}

TEST_F(ImageFolderTest, LoadSplitsLimitsAndMeasures) {
  for (const std::string part : {"train", "val"})
    for (const std::string name : {"x", "y"})
      for (int i = 0; i < 6; ++i)
        write(part + "/" + name + "/" + std::to_string(i) + ".png", gradient(20 + i, 24));
  DataOptions options;
  options.name = "image_folder";
  options.folder = folder_;
  options.size = 8;
  options.train_limit = 8;  // four of each class: evenly spaced, for the set is in order of class
  options.validation = 4;
  const auto sets = load(options);
  EXPECT_EQ(sets.train->size(), 4);
  EXPECT_EQ(sets.validation->size(), 4);
  EXPECT_EQ(sets.test->size(), 12);
  for (const auto& set : {sets.train, sets.validation}) {
    EXPECT_EQ(set->label(0) + set->label(1), 0);
    EXPECT_EQ(set->label(2) + set->label(3), 2);
  }
  // Training images are cropped by the word, validation images are not.
  uint8_t a[192], b[192];
  sets.train->read(0, a, 1);
  sets.train->read(0, b, 2);
  EXPECT_NE(std::memcmp(a, b, sizeof a), 0);
  sets.validation->read(0, a, 1);
  sets.validation->read(0, b, 2);
  EXPECT_EQ(std::memcmp(a, b, sizeof a), 0);
  EXPECT_NEAR(sets.mean[2], 40 / 255.0, 1e-12);
  write("val/z/0.png", gradient(20, 20));
  expect_contains(message_of<DataError>([&] { load(options); }), "have different class folders");
}

TEST(RealImages, FrostTexturesDecode) {
  const auto folder = real_data("frost", "frost1.png");
  if (folder.empty()) GTEST_SKIP() << "no frost textures in $GLYPTIC_DATA or ../shared/data";
  for (const auto& entry : fs::directory_iterator(folder)) {
    const auto image = decode_image(entry.path().string());
    EXPECT_EQ(image.size(0), 3);
    EXPECT_GT(image.to(torch::kFloat).std().item<double>(), 5) << entry.path();
  }
}

}  // namespace
}  // namespace glyptic::data
