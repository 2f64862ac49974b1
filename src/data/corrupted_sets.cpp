// Sets of corrupted images on disk.
#include <torch/torch.h>

#include <algorithm>

#include "glyptic/core/error.h"
#include "glyptic/core/named_tensor.h"
#include "glyptic/data/corruptions.h"
#include "glyptic/data/npy.h"
#include "internal.h"

namespace glyptic::data {
namespace {

constexpr int kSeverities = 5;
constexpr int64_t kBatch = 1024;  // images in memory while a set is written

void check_severity(int severity) {
  require(1 <= severity && severity <= kSeverities, "severity is ", severity, ", expected 1 to 5");
}

at::Tensor read_images(const Dataset& base, int64_t first, int64_t count) {
  auto shape = base.image_shape();
  shape.insert(shape.begin(), count);
  auto images = at::empty(shape, at::kByte);
  const int64_t size = images.numel() / std::max<int64_t>(count, 1);
  for (int64_t i = 0; i < count; ++i) base.read(first + i, images.data_ptr<uint8_t>() + i * size, 0);
  return images;
}

class ImageNetC final : public Dataset {
 public:
  ImageNetC(const std::string& folder, int64_t size)
      : folder_(folder), side_(size), classes_(image_folder_classes(folder)) {
    for (std::size_t c = 0; c < classes_.size(); ++c) {
      const auto names = image_files(folder + "/" + classes_[c]);
      for (const auto& name : names) items_.emplace_back(static_cast<int64_t>(c), name);
    }
  }

  int64_t size() const override { return static_cast<int64_t>(items_.size()); }
  std::vector<int64_t> image_shape() const override { return {3, side_, side_}; }
  int64_t num_classes() const override { return static_cast<int64_t>(classes_.size()); }
  int64_t label(int64_t index) const override { return item(index).first; }
  std::string description() const override {
    return str("corrupted images (", grouped(size()), " of ", grouped(num_classes()), " classes, ", folder_,
               ")");
  }
  int64_t read(int64_t index, uint8_t* pixels, uint64_t) const override {
    constexpr int64_t kMostPixels = 100'000'000;
    const auto& [label, name] = item(index);
    const auto path = folder_ + "/" + classes_[static_cast<std::size_t>(label)] + "/" + name;
    const auto image = decode_pixels(path, kMostPixels);
    require<DataError>(image.height >= side_ && image.width >= side_, "'", path, "' has ", image.height,
                       " x ", image.width, " pixels, too few for a centre of ", side_,
                       "; ask for a smaller size");
    const int64_t top = (image.height - side_) / 2, left = (image.width - side_) / 2;
    for (int64_t y = 0; y < side_; ++y)
      for (int64_t x = 0; x < side_; ++x)
        for (int64_t c = 0; c < 3; ++c)
          pixels[(c * side_ + y) * side_ + x] =
              image.rgb[static_cast<std::size_t>(3 * ((top + y) * image.width + left + x) + c)];
    return label;
  }

 private:
  const std::pair<int64_t, std::string>& item(int64_t index) const {
    require(0 <= index && index < size(), "item ", index, " is not in the set, which has ", size());
    return items_[static_cast<std::size_t>(index)];
  }

  std::string folder_;
  int64_t side_;
  std::vector<std::string> classes_;
  std::vector<std::pair<int64_t, std::string>> items_;
};

}  // namespace

void write_cifar_c(const std::string& folder, const Dataset& base, const std::string& name,
                   const CorruptOptions& options) {
  require(options.quantize != Quantize::none,
          "write_cifar_c: the layout holds 8-bit images; quantize by floor or "
          "round");
  require(options.indices.empty() && options.param.empty(),
          "write_cifar_c: indices and param belong to corrupt; leave them empty");
  const auto shape = base.image_shape();
  // Before the file is begun: a wrong name or missing textures show on one image.
  corrupt(read_images(base, 0, 1), name, 1, options);
  NpyWriter writer(folder + "/" + name + ".npy", at::kByte,
                   {kSeverities * base.size(), shape[1], shape[2], shape[0]});
  for (int severity = 1; severity <= kSeverities; ++severity) {
    for (int64_t first = 0; first < base.size(); first += kBatch) {
      auto part = options;
      part.first_index = options.first_index + first;
      const auto images = read_images(base, first, std::min(kBatch, base.size() - first));
      writer.append(corrupt(images, name, severity, part).permute({0, 2, 3, 1}));
    }
  }
  writer.commit();
}

void write_cifar_c_labels(const std::string& folder, const Dataset& base) {
  auto labels = at::empty({base.size()}, at::kLong);
  for (int64_t i = 0; i < base.size(); ++i) labels.data_ptr<int64_t>()[i] = base.label(i);
  if (base.num_classes() <= 256) labels = labels.to(at::kByte);
  write_npy(folder + "/labels.npy", labels.repeat({kSeverities}));
}

std::shared_ptr<MemoryDataset> read_cifar_c(const std::string& folder, const std::string& name, int severity,
                                            int64_t classes) {
  check_severity(severity);
  const auto path = folder + "/" + name + ".npy", label_path = folder + "/labels.npy";
  if (!present(path)) {
    const auto names = corruption_names();
    const bool known = std::find(names.begin(), names.end(), name) != names.end();
    throw MissingFileError(str("'", path, "' is not there",
                               known
                                   ? "; get CIFAR-10-C from https://zenodo.org/records/2535967 (CIFAR-100-C: "
                                     "3555552), or make it with: glyptic corrupt"
                                   : did_you_mean(name, names)));
  }
  const auto images = read_npy_header(path), labels = read_npy_header(label_path);
  const auto& shape = images.shape;
  require<DataError>(images.dtype == at::kByte && shape.size() == 4 && shape[0] > 0 &&
                         shape[0] % kSeverities == 0 && shape[1] > 0 && shape[2] > 0 &&
                         (shape[3] == 1 || shape[3] == 3),
                     "'", path, "' holds ", c10::toString(images.dtype), " ", shape_string(shape),
                     ", expected uint8 [5 N, H, W, C]; is it a file of CIFAR-10-C?");
  require<DataError>(
      c10::isIntegralType(labels.dtype, false) && labels.shape == std::vector<int64_t>{shape[0]}, "'",
      label_path, "' holds ", c10::toString(labels.dtype), " ", shape_string(labels.shape),
      ", expected integers [", shape[0], "], one for each image of '", path, "'");
  const int64_t count = shape[0] / kSeverities, first = (severity - 1) * count;
  const auto values = read_npy(label_path, first, count).to(at::kLong);
  const auto *begin = values.const_data_ptr<int64_t>(), *end = begin + count;
  const auto *least = std::min_element(begin, end), *most = std::max_element(begin, end);
  require<DataError>(*least >= 0 && *most < classes, "'", label_path, "' has labels from ", *least, " to ",
                     *most, ", expected 0 to ", classes - 1, "; give the number of classes");
  return std::make_shared<MemoryDataset>(
      read_npy(path, first, count).permute({0, 3, 1, 2}).contiguous(), values, classes,
      str(name, ", severity ", severity, " (", grouped(count), " images, ", folder, ")"));
}

std::shared_ptr<Dataset> read_imagenet_c(const std::string& folder, const std::string& name, int severity,
                                         int64_t size) {
  check_severity(severity);
  require(0 < size && size <= 4096, "read_imagenet_c: size is ", size, ", expected 1 to 4096");
  return std::make_shared<ImageNetC>(str(folder, "/", name, "/", severity), size);
}

}  // namespace glyptic::data
