// Image corruptions: the nineteen of ImageNet-C and CIFAR-C (Hendrycks & Dietterich, "Benchmarking Neural
// Network Robustness to Common Corruptions and Perturbations", arXiv 1903.12261), for testing a model, not
// for training it. Parameters are those of the authors' scripts for 32, 64, 224 and 299 pixels; algorithms
// work at any height and width from 8 pixels on (glass_blur: more than twice its distance).
//
// A corrupted image depends on (seed, corruption, severity, index of the image) and its own pixels alone: not
// on the batch, its order or the number of threads. The noise family (gaussian, shot, impulse, speckle) runs
// on the CPU and on CUDA devices and writes the same bits there; the others are computed by CPU threads, and
// tensors on other devices are moved there and back.
//
// The published sets were made with an unseeded generator, so only the corruptions without randomness can be
// compared with them, within one level.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "glyptic/data/dataset.h"

namespace glyptic::data {

/// How the result, in 0..255, becomes 8 bits. The published sets were truncated.
enum class Quantize : int32_t { floor, round, none };
Quantize quantize_from_name(const std::string& name);

/// What glass_blur does with two pixels. The authors' exchange writes the second pixel into both when the
/// image has three channels (an assignment of views), and is an exchange on arrays of one channel.
enum class GlassExchange : int32_t { automatic, copy, swap };
GlassExchange glass_exchange_from_name(const std::string& name);

struct CorruptOptions {
  uint64_t seed = 0;
  /// Image i of the batch has index first_index + i, or indices[i] where they are given.
  int64_t first_index = 0;
  std::vector<int64_t> indices;
  /// 32, 64, 224 or 299: whose parameters. 0: the nearest of them to min(H, W) in ratio.
  int64_t table = 0;
  Quantize quantize = Quantize::floor;
  /// Explicit parameters in the order of `corruption_parameters`, in place of a table's. Severity is then 0
  /// to 5 and only names the random stream.
  std::vector<double> param;
  GlassExchange glass_exchange = GlassExchange::automatic;
  /// The folder with frost1.png, ... frost5.jpg. Empty: $GLYPTIC_DATA/frost, then ../shared/data/frost.
  std::string frost_folder;
  int threads = 0;  ///< 0: torch's number
};

/// In the order of the benchmark. Subsets: all, common (the first fifteen), validation (the last four),
/// noise, blur, weather, digital. ArgumentError for another.
std::vector<std::string> corruption_names(const std::string& subset = "all");
std::vector<std::string> corruption_subsets();

struct CorruptionParameter {
  std::string name;
  double value;
};
/// The parameters of one severity, 1 to 5, for a table of 32, 64, 224 or 299 pixels. Lengths are in pixels:
/// elastic_transform's are already multiplied by the table's size (which is 244, not 224, in the authors'
/// script, and 360 for 299).
std::vector<CorruptionParameter> corruption_parameters(const std::string& name, int severity, int64_t table);
/// Which table an image of this size takes.
int64_t corruption_table(int64_t height, int64_t width);

/// images: uint8 [N, C, H, W], or float32 / float64 / bfloat16 / float16 in [0, 1] (computed in float32); C
/// is 1 or 3 (RGB). Returns the same shape, dtype and device; with Quantize::none a uint8 image becomes
/// float32 in [0, 1]. Floating images quantized by floor or round hold multiples of 1/255. Corruptions that
/// work on 8-bit images (glass_blur, pixelate, jpeg_compression) truncate a floating image first. Severity 0
/// without `param` is the identity.
///
/// One channel: the corruptions that know colour (frost, saturate, spatter) treat it as three equal ones and
/// return the luma, .299 R + .587 G + .114 B.
///
/// Cost on one core at 3 x 32 x 32: 5 to 60 microseconds per image (docs/corruptions.md has a table).
///
/// ArgumentError: unknown name, severity, table, dtype, shape, value outside [0, 1], param of the wrong
/// number or range. MissingFileError: no frost textures.
at::Tensor corrupt(const at::Tensor& images, const std::string& name, int severity,
                   const CorruptOptions& options = {});

/// A data set whose image i is `corrupt` of image i of `base`, made when it is read. Quantize::none is
/// refused.
std::shared_ptr<Dataset> corrupted(std::shared_ptr<const Dataset> base, const std::string& name, int severity,
                                   const CorruptOptions& options = {});

// --- sets on disk

/// Writes one corruption of `base` in the layout of CIFAR-10-C: folder/<name>.npy, uint8 [5 N, H, W, C], the
/// severities one after another. The file appears whole or not at all.
void write_cifar_c(const std::string& folder, const Dataset& base, const std::string& name,
                   const CorruptOptions& options = {});
/// folder/labels.npy: the labels five times, uint8 (int64 above 256 classes).
void write_cifar_c_labels(const std::string& folder, const Dataset& base);

/// One severity of one corruption: CIFAR-10-C, CIFAR-100-C (`classes` 100) and files that write_cifar_c
/// wrote. DataError unless images are uint8 [5 N, H, W, C] and labels integers [5 N] below `classes`.
std::shared_ptr<MemoryDataset> read_cifar_c(const std::string& folder, const std::string& name, int severity,
                                            int64_t classes = 10);

/// ImageNet-C and Tiny-ImageNet-C: folder/<name>/<severity>/<class>/<image>. The centre of `size` pixels
/// is cut out without resizing; DataError for a smaller image.
std::shared_ptr<Dataset> read_imagenet_c(const std::string& folder, const std::string& name, int severity,
                                         int64_t size = 224);

}  // namespace glyptic::data
