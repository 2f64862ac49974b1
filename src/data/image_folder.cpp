#include <filesystem>

#include "glyptic/core/error.h"
#include "glyptic/core/rng.h"
#include "glyptic/data/dataset.h"
#include "internal.h"

namespace glyptic::data {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxPixels = 100'000'000;

// Sorted names in a folder, without hidden ones; folders or files.
std::vector<std::string> entries(const std::string& folder, bool folders) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator iterator(folder, error);
  for (; !error && iterator != fs::directory_iterator(); iterator.increment(error)) {
    std::error_code ignored;
    const auto name = iterator->path().filename().string();
    if (name[0] != '.' && iterator->is_directory(ignored) == folders) names.push_back(name);
  }
  require<MissingFileError>(!error, "cannot read the folder '", folder, "': ", error.message(),
                            "; check the path and its permissions");
  std::sort(names.begin(), names.end());
  return names;
}

bool is_image(const std::string& name) {
  auto extension = fs::path(name).extension().string();
  for (auto& c : extension) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return extension == ".jpg" || extension == ".jpeg" || extension == ".png";
}

class ImageFolder final : public Dataset {
 public:
  ImageFolder(const std::string& folder, int64_t size, bool train)
      : folder_(folder), side_(size), train_(train) {
    classes_ = image_folder_classes(folder);
    for (std::size_t c = 0; c < classes_.size(); ++c)
      for (auto& name : image_files(folder + "/" + classes_[c]))
        items_.push_back({static_cast<int32_t>(c), std::move(name)});
  }

  int64_t size() const override { return static_cast<int64_t>(items_.size()); }
  std::vector<int64_t> image_shape() const override { return {3, side_, side_}; }
  int64_t num_classes() const override { return static_cast<int64_t>(classes_.size()); }
  int64_t label(int64_t index) const override { return item(index).label; }
  std::string description() const override {
    return str("image folder (", grouped(size()), train_ ? " train" : " test", " images of ",
               grouped(num_classes()), " classes, ", folder_, ")");
  }

  int64_t read(int64_t index, uint8_t* pixels, uint64_t random) const override {
    const auto& [label, name] = item(index);
    const auto image =
        decode_pixels(folder_ + "/" + classes_[static_cast<std::size_t>(label)] + "/" + name, kMaxPixels);
    const auto [top, left, height, width] = train_ ? random_box(image, random) : centre_box(image);
    resample(image, top, left, height, width, side_, pixels);
    return label;
  }

 private:
  struct Item {
    int32_t label;
    std::string name;
  };
  struct Box {
    double top, left, height, width;
  };

  const Item& item(int64_t index) const {
    require(0 <= index && index < size(), "item ", index, " is not in the set, which has ", size());
    return items_[static_cast<std::size_t>(index)];
  }

  // The centre crop of size out of an image whose shorter side was brought to size * 8 / 7, in one step.
  static Box centre_box(const Pixels& image) {
    const auto height = static_cast<double>(image.height), width = static_cast<double>(image.width);
    const double side = std::min(height, width) * 7.0 / 8.0;
    return {(height - side) / 2, (width - side) / 2, side, side};
  }

  // A box of random area and aspect that fits; after ten that do not, the largest centred one of allowed
  // aspect.
  static Box random_box(const Pixels& image, uint64_t random) {
    const auto height = static_cast<double>(image.height), width = static_cast<double>(image.width);
    const RngStream rng(random, "data/crop");
    constexpr double kWide = 4.0 / 3.0;
    for (uint64_t attempt = 0; attempt < 10; ++attempt) {
      const double area = height * width * (0.08 + 0.92 * rng.uniform(4 * attempt));
      const double aspect = std::exp(std::log(kWide) * (2.0 * rng.uniform(4 * attempt + 1) - 1.0));
      const double w = std::round(std::sqrt(area * aspect)), h = std::round(std::sqrt(area / aspect));
      if (w < 1 || h < 1 || w > width || h > height) continue;
      return {std::floor(rng.uniform(4 * attempt + 2) * (height - h + 1)),
              std::floor(rng.uniform(4 * attempt + 3) * (width - w + 1)), h, w};
    }
    const double w = std::min(width, height * kWide), h = std::min(height, width * kWide);
    return {(height - h) / 2, (width - w) / 2, h, w};
  }

  std::string folder_;
  int64_t side_;
  bool train_;
  std::vector<std::string> classes_;
  std::vector<Item> items_;
};

}  // namespace

std::vector<std::string> image_folder_classes(const std::string& folder) {
  auto classes = entries(folder, true);
  require<DataError>(!classes.empty(), "'", folder,
                     "' holds no class folders; expected <class>/<image>.jpg or .png");
  return classes;
}

std::vector<std::string> image_files(const std::string& folder) {
  auto names = entries(folder, false);
  names.erase(std::remove_if(names.begin(), names.end(), [](const auto& name) { return !is_image(name); }),
              names.end());
  require<DataError>(!names.empty(), "the class folder '", folder,
                     "' holds no .jpg, .jpeg or .png file; fill or remove it");
  return names;
}

std::shared_ptr<Dataset> read_image_folder(const std::string& folder, int64_t size, bool train) {
  require(0 < size && size <= 4096, "read_image_folder: size is ", size, ", expected 1 to 4096");
  return std::make_shared<ImageFolder>(folder, size, train);
}

}  // namespace glyptic::data
