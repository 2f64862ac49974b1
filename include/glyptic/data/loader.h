// Batches. What a batch holds depends on (seed, epoch, index of the batch) alone: never on the number of
// worker threads, on timing, or on which batches were asked for before. So a run that resumes at batch 137 of
// epoch 4 sees what the unbroken run saw.
#pragma once

#include <functional>
#include <memory>

#include "glyptic/data/dataset.h"

namespace glyptic::data {

struct Batch {
  at::Tensor images;   ///< float32 [B, C, H, W], normalised and augmented, in aligned storage
  at::Tensor labels;   ///< int64 [B]
  at::Tensor indices;  ///< int64 [B], positions in the dataset
};

struct AugmentOptions {
  int64_t crop_padding =
      0;               ///< pad by this with black, as torchvision's RandomCrop does, and crop back at random
  bool flip = false;   ///< horizontal, probability 1/2
  int64_t cutout = 0;  ///< side of a square set to the mean, centred at random, clipped at the border
  std::vector<double> mean, std;  ///< per channel, of pixels in [0, 1]; empty: no normalisation
};

struct LoaderOptions {
  int64_t batch_size = 128;
  bool shuffle = false;
  bool drop_last = false;
  uint64_t seed = 0;
  int threads = 1;   ///< workers; 0 reads in the caller's thread
  int prefetch = 4;  ///< batches in flight
  AugmentOptions augment;
};

/// Augments a batch in place and returns it: images float32 in [0, 1], contiguous, on the CPU; sample i of
/// the batch draws from its own stream, RngStream(seed, "loader/augment").child(epoch).child(samples[i]),
/// where samples[i] is its index in the dataset. Without mean and std the padding and the cutout are 0
/// (black).
at::Tensor augment(const at::Tensor& images, const AugmentOptions& options, uint64_t seed, int64_t epoch,
                   const std::vector<int64_t>& samples, bool training);

class Loader {
 public:
  /// `training` turns crop, flip and cutout on; normalisation always happens.
  Loader(std::shared_ptr<const Dataset> dataset, LoaderOptions options, bool training);
  ~Loader();
  Loader(const Loader&) = delete;

  int64_t batches() const;  ///< per epoch
  int64_t size() const;     ///< items
  const LoaderOptions& options() const;

  /// Batch `index` of `epoch`, computed in the caller's thread. The definition of what the iterator gives.
  Batch batch(int64_t epoch, int64_t index) const;

  /// Batches `first`.. of `epoch`, in order, prefetched by the workers. Starting again, at any moment, drops
  /// what was in flight.
  void start(int64_t epoch, int64_t first = 0);
  /// False at the end of the epoch. An error of a worker is thrown here, at its batch, and again if asked
  /// again.
  bool next(Batch& batch);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace glyptic::data
