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
  /// Writes C*H*W bytes (planes, row-major) and returns the label. `random` is a word that depends on (seed,
  /// epoch, index); sets that crop at random while reading (the training form of an image folder) derive it
  /// from that.
  virtual int64_t read(int64_t index, uint8_t* pixels, uint64_t random) const = 0;
  /// The label alone. Sets that decode when read give it without decoding; the default reads the image.
  virtual int64_t label(int64_t index) const;
  virtual std::string description() const = 0;  ///< "MNIST (60,000 train images, data/mnist)"
};

/// uint8 [N, C, H, W] and int64 [N] in memory. ArgumentError unless they fit together and labels are below
/// num_classes.
class MemoryDataset : public Dataset {
 public:
  MemoryDataset(at::Tensor images, at::Tensor labels, int64_t num_classes, std::string description);
  int64_t size() const override;
  std::vector<int64_t> image_shape() const override;
  int64_t num_classes() const override;
  int64_t read(int64_t index, uint8_t* pixels, uint64_t random) const override;
  int64_t label(int64_t index) const override;
  std::string description() const override;
  const at::Tensor& images() const { return images_; }
  const at::Tensor& labels() const { return labels_; }

 private:
  at::Tensor images_, labels_;
  int64_t num_classes_;
  std::string description_;
};

/// A subset, in the order of `indices`. ArgumentError for one outside the set.
std::shared_ptr<Dataset> subset(std::shared_ptr<const Dataset> base, std::vector<int64_t> indices);

/// Symmetric label noise: with `probability` an item's label is drawn anew, uniformly over all classes (so
/// its own may come back). A pure function of (seed, index).
std::shared_ptr<Dataset> with_label_noise(std::shared_ptr<const Dataset> base, double probability,
                                          uint64_t seed);

struct Split {
  std::shared_ptr<Dataset> train, validation;
};
/// Splits off `count` items for validation, chosen by (seed) alone and stratified: a class gives its share of
/// `count`, rounded so that the shares add up (largest remainder). Both parts keep the order of the set.
Split split_validation(std::shared_ptr<const Dataset> base, int64_t count, uint64_t seed);

/// Square images averaged down to `side`, an exact divisor of theirs: each pixel is the mean of a block,
/// rounded to the nearest integer (halves up). In memory where the base is.
std::shared_ptr<Dataset> area_average(std::shared_ptr<const Dataset> base, int64_t side);

/// Mean and standard deviation (of the population) per channel, of pixels in [0, 1]: exact integer sums over
/// all images, or over `most` of them, evenly spaced. A channel that is constant gets 1, so that dividing is
/// safe.
struct Statistics {
  std::vector<double> mean, std;
};
Statistics measure(const Dataset& dataset, int64_t most = 0);

// --- readers. MissingFileError names the folders that were tried; DataError names file, offset and what is
// wrong.

/// An IDX file (optionally gzip): uint8 of any rank. Dimensions are checked against the file's length before
/// anything is allocated; for gzip against the most that so many compressed bytes can hold.
at::Tensor read_idx(const std::string& path);
/// MNIST's four files, gzip or not, in `folder`.
std::shared_ptr<MemoryDataset> read_mnist(const std::string& folder, bool train);
/// CIFAR-10 / CIFAR-100 binary batches in `folder` (or in its cifar-10-batches-bin / cifar-100-binary).
std::shared_ptr<MemoryDataset> read_cifar(const std::string& folder, bool train, int classes = 10);
/// folder/<class>/<file>.{jpg,jpeg,png}: classes and files sorted by name, decoded when read. `size` is the
/// side after resizing with an antialiased triangle filter (shorter side to size * 8 / 7, centre crop;
/// training: a crop of random area, 8 to 100 %, and aspect, 3/4 to 4/3, chosen by the word given to `read`;
/// the flip is the loader's).
std::shared_ptr<Dataset> read_image_folder(const std::string& folder, int64_t size, bool train);
/// Decodes one JPEG or PNG to uint8 [3, H, W]. Grey, palette, CMYK and 16-bit images are converted,
/// transparency is dropped. DataError for anything else, damaged or cut short; at most `max_pixels`, checked
/// before allocation.
at::Tensor decode_image(const std::string& path, int64_t max_pixels = 100'000'000);

/// Shapes on textured ground at random places, sizes, colours and contrast signs: the class is the shape.
/// Averages over a class are flat, so a linear model stays near chance while a small convolutional one learns
/// it. Labels are 0, 1, ..., classes - 1 in turn, so every prefix is balanced. `side` at least 8, 1 to 4
/// channels, 2 to 10 classes: disc, square, triangle, plus, ring, frame, star, crescent, two bars, corner.
std::shared_ptr<MemoryDataset> generate_shapes(int64_t count, int64_t side, int64_t channels, int64_t classes,
                                               uint64_t seed);

/// The folders that hold `name` ("mnist"); the first one is read. In order: $GLYPTIC_DATA/<name>,
/// ../shared/data/<name> (from the working directory), then the small default set that ships with Glyptic
/// ("mnist": data/mnist-6k).
std::vector<std::string> data_folders(const std::string& name);

/// One entry point by name for configs: mnist | cifar10 | cifar100 | image_folder | shapes.
struct DataOptions {
  std::string name = "mnist";
  std::string folder;  ///< empty: data_folders(name)
  /// The first n items (0: all; a warning when there are fewer). An image_folder is in order of class, so
  /// there n items evenly spaced. shapes: how many to generate (0: 4,000 and 1,000).
  int64_t train_limit = 0;
  int64_t test_limit = 0;
  int64_t validation = 0;  ///< items split off the training set, after its limit
  /// Symmetric label noise on the training items (the validation ones keep theirs): with this probability a
  /// label is drawn anew from all classes. Item i's draw depends on the seed and i alone.
  double label_noise = 0;
  int64_t size = 0;     ///< image_folder (0: 224), shapes (0: 28): side; others: 0 or an exact divisor
  int64_t classes = 0;  ///< shapes (0: 4)
  uint64_t seed = 0;
};
struct DataSets {
  std::shared_ptr<Dataset> train, validation /* may be null */, test;
  /// The usual constants for the whole MNIST, CIFAR-10 and CIFAR-100 at their own size, else measured on the
  /// training images (an image_folder: on at most 1,000 of them).
  std::vector<double> mean, std;
};
/// image_folder expects train/<class>/ and test/<class>/ (or val/<class>/).
DataSets load(const DataOptions& options);
std::vector<std::string> dataset_names();

/// What `load(options)` will give, without the data: {C, H, W} and the number of classes, by the name and the
/// options. An image_folder that is not there is taken for ImageNet's 1000 classes.
struct ImageForm {
  std::vector<int64_t> shape;
  int64_t classes = 0;
};
ImageForm expected_form(const DataOptions& options);

}  // namespace glyptic::data
