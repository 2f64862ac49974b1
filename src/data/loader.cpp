#include "glyptic/data/loader.h"

#include <torch/torch.h>

#include <condition_variable>
#include <exception>
#include <thread>

#include "glyptic/core/error.h"
#include "glyptic/core/named_tensor.h"
#include "glyptic/core/rng.h"

// Workers run plain loops on raw pointers: an ATen operation here would ask for the thread pool that trains.

namespace glyptic::data {
namespace {

void check(const AugmentOptions& options, int64_t channels, int64_t height, int64_t width) {
  require(0 <= options.crop_padding && options.crop_padding < std::min(height, width), "crop_padding is ",
          options.crop_padding, ", expected 0 to ", std::min(height, width) - 1, " for images of ", height,
          " x ", width);
  require(options.cutout >= 0, "cutout is ", options.cutout, ", expected 0 (off) or the side of the square");
  require(options.mean.size() == options.std.size(), "mean has ", options.mean.size(), " values and std ",
          options.std.size(), "; give both, one for each channel, or neither");
  require(options.mean.empty() || static_cast<int64_t>(options.mean.size()) == channels, "mean and std have ",
          options.mean.size(), " values, but the images have ", channels, " channels");
  for (std::size_t c = 0; c < options.mean.size(); ++c)
    require(std::isfinite(options.mean[c]) && std::isfinite(options.std[c]) && options.std[c] > 0,
            "normalisation of channel ", c, ": mean is ", options.mean[c], " and std ", options.std[c],
            ", expected finite numbers and std above 0");
}

float normalised(float pixel, const AugmentOptions& options, int64_t channel) {
  if (options.mean.empty()) return pixel;
  const auto c = static_cast<std::size_t>(channel);
  return static_cast<float>((static_cast<double>(pixel) - options.mean[c]) / options.std[c]);
}

// What chance decides for one sample. Every draw has its own index, so that turning one augmentation on or
// off leaves the others as they were.
struct Geometry {
  int64_t shift_y = 0,
          shift_x = 0;    // output (y, x) shows input (y + shift_y, x + shift_x); outside is black
  bool mirrored = false;  // after the crop
  int64_t cut_top = 0, cut_bottom = 0, cut_left = 0, cut_right = 0;  // after both

  Geometry() = default;
  Geometry(const AugmentOptions& options, const RngStream& rng, int64_t height, int64_t width) {
    if (options.crop_padding > 0) {
      const auto places = static_cast<uint64_t>(2 * options.crop_padding + 1);
      shift_y = static_cast<int64_t>(rng.below(0, places)) - options.crop_padding;
      shift_x = static_cast<int64_t>(rng.below(1, places)) - options.crop_padding;
    }
    mirrored = options.flip && rng.u32(0) >> 31 != 0;
    if (options.cutout > 0) {
      const auto top = static_cast<int64_t>(rng.below(2, static_cast<uint64_t>(height))) - options.cutout / 2;
      const auto left = static_cast<int64_t>(rng.below(3, static_cast<uint64_t>(width))) - options.cutout / 2;
      cut_top = std::max<int64_t>(0, top);
      cut_bottom = std::min(height, top + options.cutout);
      cut_left = std::max<int64_t>(0, left);
      cut_right = std::min(width, left + options.cutout);
    }
  }
};

// One plane, from `in` to `out` (which do not overlap), by `value` pixel by pixel.
template <class T, class Value>
void transform_plane(const T* in, int64_t height, int64_t width, const Geometry& g, float* out,
                     const Value& value) {
  const int64_t first = std::max<int64_t>(0, -g.shift_x), last = std::min(width, width - g.shift_x);
  const float black = value(T{0});
  for (int64_t y = 0; y < height; ++y, out += width) {
    const int64_t from = y + g.shift_y;
    if (from < 0 || from >= height) {
      std::fill(out, out + width, black);
    } else {
      const T* row = in + from * width + g.shift_x;
      if (g.mirrored) {
        float* end = out + width - 1;
        for (int64_t x = 0; x < first; ++x) end[-x] = black;
        for (int64_t x = first; x < last; ++x) end[-x] = value(row[x]);
        for (int64_t x = last; x < width; ++x) end[-x] = black;
      } else {
        std::fill(out, out + first, black);
        for (int64_t x = first; x < last; ++x) out[x] = value(row[x]);
        std::fill(out + last, out + width, black);
      }
    }
    if (g.cut_top <= y && y < g.cut_bottom) std::fill(out + g.cut_left, out + g.cut_right, 0.0f);
  }
}

RngStream augment_stream(uint64_t seed, int64_t epoch) {
  return RngStream(seed, "loader/augment").child(static_cast<uint64_t>(epoch));
}

}  // namespace

at::Tensor augment(const at::Tensor& images, const AugmentOptions& options, uint64_t seed, int64_t epoch,
                   const std::vector<int64_t>& samples, bool training) {
  require(images.defined() && images.dim() == 4 && images.scalar_type() == at::kFloat &&
              images.device().is_cpu() && images.is_contiguous() && !images.requires_grad(),
          "augment: images must be a contiguous float32 CPU tensor [B, C, H, W] that needs no gradient",
          images.defined()
              ? str("; they are ", c10::toString(images.scalar_type()), " ", shape_string(images.sizes()))
              : std::string("; they are undefined"));
  const int64_t channels = images.size(1), height = images.size(2), width = images.size(3);
  require(static_cast<int64_t>(samples.size()) == images.size(0), "augment: samples has ", samples.size(),
          " entries for ", images.size(0), " images");
  check(options, channels, height, width);
  const auto rng = augment_stream(seed, epoch);
  const auto area = static_cast<std::size_t>(height * width);
  std::vector<float> plane(area);
  float* out = images.data_ptr<float>();
  for (const int64_t sample : samples) {
    const auto geometry =
        training ? Geometry(options, rng.child(static_cast<uint64_t>(sample)), height, width) : Geometry();
    for (int64_t c = 0; c < channels; ++c, out += area) {
      std::copy(out, out + area, plane.data());
      transform_plane(plane.data(), height, width, geometry, out,
                      [&](float pixel) { return normalised(pixel, options, c); });
    }
  }
  return images;
}

struct Loader::Impl {
  Impl(std::shared_ptr<const Dataset> set, LoaderOptions given, bool train)
      : dataset(std::move(set)), options(std::move(given)), training(train) {
    require(dataset != nullptr, "Loader: the dataset is null");
    shape = dataset->image_shape();
    size = dataset->size();
    require(size > 0, "Loader: ", dataset->description(), " is empty");
    require(options.batch_size > 0, "batch_size is ", options.batch_size, ", expected at least 1");
    require(0 <= options.threads && options.threads <= 256, "threads is ", options.threads,
            ", expected 0 to 256");
    require(1 <= options.prefetch && options.prefetch <= 4096, "prefetch is ", options.prefetch,
            ", expected 1 to 4096 batches");
    require(!options.drop_last || size >= options.batch_size, "batch_size is ", options.batch_size,
            ", but there are only ", size, " items and drop_last is set; nothing would be left");
    check(options.augment, shape[0], shape[1], shape[2]);
    batches = options.drop_last ? size / options.batch_size : (size - 1) / options.batch_size + 1;
    for (int64_t c = 0; c < shape[0]; ++c) {
      auto& table = tables.emplace_back();
      for (int pixel = 0; pixel < 256; ++pixel)
        table[static_cast<std::size_t>(pixel)] =
            normalised(static_cast<float>(pixel) / 255.0f, options.augment, c);
    }
  }

  ~Impl() {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      stop = true;
    }
    work.notify_all();
    for (auto& worker : workers) worker.join();
  }

  using Order = std::shared_ptr<const std::vector<int64_t>>;  // null: as they lie

  // The permutation of an epoch. The last one is kept: nearly every call asks for the same.
  Order order_of(int64_t epoch) const {
    if (!options.shuffle) return nullptr;
    const std::lock_guard<std::mutex> lock(order_mutex);
    if (order_epoch != epoch) {
      const auto rng = RngStream(options.seed, "loader/shuffle").child(static_cast<uint64_t>(epoch));
      order = std::make_shared<const std::vector<int64_t>>(rng.permutation(size));
      order_epoch = epoch;
    }
    return order;
  }

  Batch make(int64_t epoch, int64_t index) const {
    const auto permutation = order_of(epoch);
    const int64_t begin = index * options.batch_size, count = std::min(options.batch_size, size - begin);
    const int64_t height = shape[1], width = shape[2], area = height * width;
    Batch batch;
    batch.images = at::empty({count, shape[0], height, width}, at::kFloat);
    batch.labels = at::empty({count}, at::kLong);
    batch.indices = at::empty({count}, at::kLong);
    auto* out = batch.images.data_ptr<float>();
    auto* labels = batch.labels.data_ptr<int64_t>();
    auto* indices = batch.indices.data_ptr<int64_t>();
    std::vector<uint8_t> pixels(static_cast<std::size_t>(shape[0] * area));
    const auto epoch_rng = augment_stream(options.seed, epoch);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t item = permutation ? (*permutation)[static_cast<std::size_t>(begin + i)] : begin + i;
      const auto rng = epoch_rng.child(static_cast<uint64_t>(item));
      // Words that neither the crop nor the flip uses.
      const uint64_t random = uint64_t{rng.u32(4)} << 32 | rng.u32(5);
      indices[i] = item;
      labels[i] = dataset->read(item, pixels.data(), random);
      const auto geometry = training ? Geometry(options.augment, rng, height, width) : Geometry();
      for (int64_t c = 0; c < shape[0]; ++c, out += area) {
        const float* table = tables[static_cast<std::size_t>(c)].data();
        transform_plane(pixels.data() + c * area, height, width, geometry, out,
                        [table](uint8_t pixel) { return table[pixel]; });
      }
    }
    return batch;
  }

  // A slot holds the batch or the error of one index; index i lives in slot i % prefetch.
  struct Slot {
    bool ready = false;
    Batch batch;
    std::exception_ptr error;
  };

  void run() {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      work.wait(lock, [&] { return stop || (claimed < batches && claimed < delivered + options.prefetch); });
      if (stop) return;
      const int64_t index = claimed++, of_epoch = epoch;
      const uint64_t of_generation = generation;
      lock.unlock();
      Slot slot;
      slot.ready = true;
      try {
        slot.batch = make(of_epoch, index);
      } catch (...) {
        slot.error = std::current_exception();
      }
      lock.lock();
      if (of_generation != generation) continue;  // started anew meanwhile: nobody waits for this
      slots[static_cast<std::size_t>(index % options.prefetch)] = std::move(slot);
      done.notify_all();
    }
  }

  void start(int64_t new_epoch, int64_t first) {
    std::vector<Slot> dropped(static_cast<std::size_t>(options.prefetch));
    {
      const std::lock_guard<std::mutex> lock(mutex);
      ++generation;
      epoch = new_epoch;
      claimed = delivered = first;
      started = true;
      slots.swap(dropped);  // freed outside the lock
    }
    while (static_cast<int>(workers.size()) < options.threads) workers.emplace_back([this] { run(); });
    work.notify_all();
  }

  bool next(Batch& batch) {
    std::unique_lock<std::mutex> lock(mutex);
    require(started, "Loader::next: no epoch was started; call start(epoch) first");
    if (delivered >= batches) return false;
    if (options.threads == 0) {
      batch = make(epoch, delivered);
      ++delivered;
      return true;
    }
    auto& slot = slots[static_cast<std::size_t>(delivered % options.prefetch)];
    done.wait(lock, [&] { return slot.ready; });
    // An error stays in its slot: asking again throws again, and never skips a batch.
    if (slot.error) std::rethrow_exception(slot.error);
    batch = std::move(slot.batch);
    slot = Slot{};
    ++delivered;
    lock.unlock();
    work.notify_one();
    return true;
  }

  std::shared_ptr<const Dataset> dataset;
  LoaderOptions options;
  bool training;
  std::vector<int64_t> shape;
  int64_t size = 0, batches = 0;
  std::vector<std::array<float, 256>> tables;  // of each channel: pixel to normalised value

  mutable std::mutex order_mutex;
  mutable int64_t order_epoch = -1;
  mutable Order order;

  std::mutex mutex;  // guards what follows
  std::condition_variable work, done;
  bool stop = false, started = false;
  uint64_t generation = 0;
  int64_t epoch = 0, claimed = 0, delivered = 0;
  std::vector<Slot> slots;
  std::vector<std::thread> workers;
};

Loader::Loader(std::shared_ptr<const Dataset> dataset, LoaderOptions options, bool training)
    : impl_(std::make_unique<Impl>(std::move(dataset), std::move(options), training)) {}
Loader::~Loader() = default;

int64_t Loader::batches() const {
  return impl_->batches;
}
int64_t Loader::size() const {
  return impl_->size;
}
const LoaderOptions& Loader::options() const {
  return impl_->options;
}

Batch Loader::batch(int64_t epoch, int64_t index) const {
  require(epoch >= 0, "Loader::batch: epoch is ", epoch, ", expected 0 or more");
  require(0 <= index && index < batches(), "Loader::batch: index is ", index, ", the epoch has ", batches(),
          " batches");
  return impl_->make(epoch, index);
}

void Loader::start(int64_t epoch, int64_t first) {
  require(epoch >= 0, "Loader::start: epoch is ", epoch, ", expected 0 or more");
  require(0 <= first && first <= batches(), "Loader::start: first is ", first, ", the epoch has ", batches(),
          " batches");
  impl_->start(epoch, first);
}

bool Loader::next(Batch& batch) {
  return impl_->next(batch);
}

}  // namespace glyptic::data
