// Image classification data: where it is found, how it is read, and how it is checked.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace glyptic::data {

/// Random access to labelled 8-bit images of one shape. Implementations are immutable and thread-safe.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual int64_t size() const = 0;
  virtual std::vector<int64_t> image_shape() const = 0;  ///< {C, H, W}
  virtual int64_t num_classes() const = 0;
  /// Writes C*H*W bytes (planes, row-major) and returns the label. `random` is a word that depends on (seed, epoch,
  /// index); sets that crop at random while reading (the training form of an image folder) derive it from that.
  virtual int64_t read(int64_t index, uint8_t* pixels, uint64_t random) const = 0;
  virtual std::string description() const = 0;           ///< "MNIST (60,000 train images, data/mnist)"
};

/// uint8 [N, C, H, W] and int64 [N] in memory.
class MemoryDataset : public Dataset {
 public:
  MemoryDataset(at::Tensor images, at::Tensor labels, int64_t num_classes, std::string description);
  int64_t size() const override;
  std::vector<int64_t> image_shape() const override;
  int64_t num_classes() const override;
  int64_t read(int64_t index, uint8_t* pixels, uint64_t random) const override;
  std::string description() const override;
  const at::Tensor& images() const { return images_; }
  const at::Tensor& labels() const { return labels_; }

 private:
  at::Tensor images_, labels_;
  int64_t num_classes_;
  std::string description_;
};

/// A subset, in the order of `indices`.
std::shared_ptr<Dataset> subset(std::shared_ptr<const Dataset> base, std::vector<int64_t> indices);

/// Splits off `count` items for validation, stratified by class, chosen by (seed) alone.
struct Split {
  std::shared_ptr<Dataset> train, validation;
};
Split split_validation(std::shared_ptr<const Dataset> base, int64_t count, uint64_t seed);

// --- readers. MissingFileError names the folders that were tried; DataError names file, offset and what is wrong.

/// An IDX file (optionally gzip): uint8 of any rank. Dimensions are checked against the file's length before
/// anything is allocated.
at::Tensor read_idx(const std::string& path);
/// MNIST's four files, gzip or not, in `folder`.
std::shared_ptr<MemoryDataset> read_mnist(const std::string& folder, bool train);
/// CIFAR-10 / CIFAR-100 binary batches in `folder` (or in its cifar-10-batches-bin / cifar-100-binary).
std::shared_ptr<MemoryDataset> read_cifar(const std::string& folder, bool train, int classes = 10);
/// folder/<class>/<file>.{jpg,jpeg,png}: classes and files sorted by name, decoded when read. `size` is the side
/// after resizing (shorter side to size * 8 / 7, centre crop; training: random area and aspect crop and, later, flip).
std::shared_ptr<Dataset> read_image_folder(const std::string& folder, int64_t size, bool train);
/// Decodes one JPEG or PNG to uint8 [3, H, W]. DataError for anything else or damaged; at most `max_pixels`.
at::Tensor decode_image(const std::string& path, int64_t max_pixels = 100'000'000);

/// Shapes on textured ground at random places, sizes, colours and contrast signs: the class is the shape. Averages
/// over a class are flat, so a linear model stays near chance while a small convolutional one learns it.
std::shared_ptr<MemoryDataset> generate_shapes(int64_t count, int64_t side, int64_t channels, int64_t classes,
                                               uint64_t seed);

/// The folders that may hold `name` ("mnist"), in order: $GLYPTIC_DATA/<name>, ../shared/data/<name> (from the
/// working directory), then the small default set that ships with Glyptic. Only folders that exist.
std::vector<std::string> data_folders(const std::string& name);

/// One entry point by name for configs: mnist | cifar10 | cifar100 | image_folder | shapes.
struct DataOptions {
  std::string name = "mnist";
  std::string folder;         ///< empty: data_folders(name)
  int64_t train_limit = 0;    ///< the first n items (0: all)
  int64_t test_limit = 0;
  int64_t validation = 0;     ///< items split off the training set
  int64_t size = 0;           ///< image_folder, shapes: side; others: 0 or an exact divisor (area average)
  int64_t classes = 0;        ///< shapes
  uint64_t seed = 0;
};
struct DataSets {
  std::shared_ptr<Dataset> train, validation /* may be null */, test;
  std::vector<double> mean, std;  ///< the usual constants of the set, or measured on the training images
};
DataSets load(const DataOptions& options);
std::vector<std::string> dataset_names();

}  // namespace glyptic::data
