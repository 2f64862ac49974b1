#include "glyptic/data/dataset.h"

#include <torch/torch.h>

#include "glyptic/core/error.h"
#include "glyptic/core/named_tensor.h"
#include "glyptic/core/rng.h"
#include "internal.h"

namespace glyptic::data {

std::string grouped(int64_t number) {
  auto text = std::to_string(number);
  for (auto at = static_cast<int64_t>(text.size()) - 3; at > (number < 0 ? 1 : 0); at -= 3)
    text.insert(static_cast<std::size_t>(at), ",");
  return text;
}

namespace {

int64_t pixels_of(const Dataset& dataset) {
  int64_t product = 1;
  for (const int64_t size : dataset.image_shape()) product *= size;
  return product;
}

void check_index(int64_t index, int64_t size) {
  require(0 <= index && index < size, "item ", index, " is not in the set, which has ", size);
}

// out[y, x] = the mean of a block of `factor` x `factor`, halves rounded up.
void average_plane(const uint8_t* in, int64_t side, int64_t factor, uint8_t* out) {
  const int64_t small = side / factor;
  const uint64_t area = static_cast<uint64_t>(factor * factor);
  for (int64_t y = 0; y < small; ++y) {
    for (int64_t x = 0; x < small; ++x) {
      uint64_t sum = 0;
      for (int64_t dy = 0; dy < factor; ++dy)
        for (int64_t dx = 0; dx < factor; ++dx) sum += in[(y * factor + dy) * side + x * factor + dx];
      out[y * small + x] = static_cast<uint8_t>((2 * sum + area) / (2 * area));
    }
  }
}

class SubsetDataset final : public Dataset {
 public:
  SubsetDataset(std::shared_ptr<const Dataset> base, std::vector<int64_t> indices)
      : base_(std::move(base)), indices_(std::move(indices)) {}

  int64_t size() const override { return static_cast<int64_t>(indices_.size()); }
  std::vector<int64_t> image_shape() const override { return base_->image_shape(); }
  int64_t num_classes() const override { return base_->num_classes(); }
  int64_t read(int64_t index, uint8_t* pixels, uint64_t random) const override {
    check_index(index, size());
    return base_->read(indices_[static_cast<std::size_t>(index)], pixels, random);
  }
  int64_t label(int64_t index) const override {
    check_index(index, size());
    return base_->label(indices_[static_cast<std::size_t>(index)]);
  }
  std::string description() const override { return str(grouped(size()), " of ", base_->description()); }

 private:
  std::shared_ptr<const Dataset> base_;
  std::vector<int64_t> indices_;
};

class AveragedDataset final : public Dataset {
 public:
  AveragedDataset(std::shared_ptr<const Dataset> base, int64_t side)
      : base_(std::move(base)), shape_(base_->image_shape()), side_(side) {}

  int64_t size() const override { return base_->size(); }
  std::vector<int64_t> image_shape() const override { return {shape_[0], side_, side_}; }
  int64_t num_classes() const override { return base_->num_classes(); }
  int64_t read(int64_t index, uint8_t* pixels, uint64_t random) const override {
    const int64_t full = shape_[1] * shape_[2];
    std::vector<uint8_t> image(static_cast<std::size_t>(shape_[0] * full));
    const int64_t label = base_->read(index, image.data(), random);
    for (int64_t c = 0; c < shape_[0]; ++c)
      average_plane(image.data() + c * full, shape_[1], shape_[1] / side_, pixels + c * side_ * side_);
    return label;
  }
  int64_t label(int64_t index) const override { return base_->label(index); }
  std::string description() const override { return str(base_->description(), " at ", side_, " x ", side_); }

 private:
  std::shared_ptr<const Dataset> base_;
  std::vector<int64_t> shape_;
  int64_t side_;
};

}  // namespace

int64_t Dataset::label(int64_t index) const {
  std::vector<uint8_t> pixels(static_cast<std::size_t>(pixels_of(*this)));
  return read(index, pixels.data(), 0);
}

MemoryDataset::MemoryDataset(at::Tensor images, at::Tensor labels, int64_t num_classes,
                             std::string description)
    : num_classes_(num_classes), description_(std::move(description)) {
  require(images.defined() && labels.defined(), "MemoryDataset: images or labels are undefined");
  require(images.scalar_type() == at::kByte && images.dim() == 4, "MemoryDataset: images are ",
          c10::toString(images.scalar_type()), " ", shape_string(images.sizes()),
          ", expected uint8 [N, C, H, W]");
  require(labels.scalar_type() == at::kLong && labels.dim() == 1 && labels.size(0) == images.size(0),
          "MemoryDataset: labels are ", c10::toString(labels.scalar_type()), " ",
          shape_string(labels.sizes()), ", expected int64 [", images.size(0), "], one for each image");
  require(images.numel() > 0, "MemoryDataset: images of shape ", shape_string(images.sizes()),
          " hold no pixel");
  require(num_classes > 0, "MemoryDataset: num_classes is ", num_classes, ", expected at least 1");
  images_ = images.to(at::kCPU).contiguous();
  labels_ = labels.to(at::kCPU).contiguous();
  const auto* values = labels_.data_ptr<int64_t>();
  for (int64_t i = 0; i < size(); ++i)
    require(0 <= values[i] && values[i] < num_classes, "MemoryDataset: label ", i, " is ", values[i],
            ", expected 0 to ", num_classes - 1);
}

int64_t MemoryDataset::size() const {
  return labels_.size(0);
}
std::vector<int64_t> MemoryDataset::image_shape() const {
  return images_.sizes().slice(1).vec();
}
int64_t MemoryDataset::num_classes() const {
  return num_classes_;
}
std::string MemoryDataset::description() const {
  return description_;
}

int64_t MemoryDataset::read(int64_t index, uint8_t* pixels, uint64_t /*random*/) const {
  check_index(index, size());
  const int64_t bytes = images_.stride(0);
  std::memcpy(pixels, images_.const_data_ptr<uint8_t>() + index * bytes, static_cast<std::size_t>(bytes));
  return labels_.const_data_ptr<int64_t>()[index];
}

int64_t MemoryDataset::label(int64_t index) const {
  check_index(index, size());
  return labels_.const_data_ptr<int64_t>()[index];
}

namespace {

/// Some labels are others than the base's, the same ones each time.
class Relabelled final : public Dataset {
 public:
  Relabelled(std::shared_ptr<const Dataset> base, double probability, uint64_t seed)
      : base_(std::move(base)), probability_(probability) {
    const RngStream whether(seed, "data/label_noise"), which = whether.child(1);
    for (int64_t i = 0; i < base_->size(); ++i) {
      const auto index = static_cast<uint64_t>(i);
      labels_.push_back(
          whether.uniform(index) < probability
              ? static_cast<int64_t>(which.below(index, static_cast<uint64_t>(base_->num_classes())))
              : base_->label(i));
    }
  }
  int64_t size() const override { return base_->size(); }
  std::vector<int64_t> image_shape() const override { return base_->image_shape(); }
  int64_t num_classes() const override { return base_->num_classes(); }
  int64_t read(int64_t index, uint8_t* pixels, uint64_t random) const override {
    base_->read(index, pixels, random);
    return label(index);
  }
  int64_t label(int64_t index) const override { return labels_[static_cast<std::size_t>(index)]; }
  std::string description() const override {
    return str(base_->description(), ", label noise ", probability_);
  }

 private:
  std::shared_ptr<const Dataset> base_;
  double probability_;
  std::vector<int64_t> labels_;
};

}  // namespace

std::shared_ptr<Dataset> with_label_noise(std::shared_ptr<const Dataset> base, double probability,
                                          uint64_t seed) {
  require(probability >= 0 && probability <= 1, "label_noise is ", probability, ", expected [0, 1]");
  return std::make_shared<Relabelled>(std::move(base), probability, seed);
}

std::shared_ptr<Dataset> subset(std::shared_ptr<const Dataset> base, std::vector<int64_t> indices) {
  require(base != nullptr, "subset: the base is null");
  for (const int64_t index : indices)
    require(0 <= index && index < base->size(), "subset: index ", index, " is not in the set, which has ",
            base->size(), " items");
  return std::make_shared<SubsetDataset>(std::move(base), std::move(indices));
}

std::vector<int64_t> validation_indices(const Dataset& base, int64_t count, uint64_t seed) {
  const int64_t size = base.size();
  require(0 < count && count < size, "validation is ", count, " of ", size, " items, expected 1 to ",
          size - 1, " so that both parts hold something");
  std::vector<std::vector<int64_t>> members(static_cast<std::size_t>(base.num_classes()));
  for (int64_t i = 0; i < size; ++i) members[static_cast<std::size_t>(base.label(i))].push_back(i);

  // Largest remainder: floors first, then one more for the classes that lost most, ties by class number.
  std::vector<int64_t> quota(members.size());
  std::vector<std::pair<int64_t, std::size_t>> lost;
  int64_t given = 0;
  for (std::size_t c = 0; c < members.size(); ++c) {
    const auto share = static_cast<__int128>(members[c].size()) * count;
    quota[c] = static_cast<int64_t>(share / size);
    given += quota[c];
    lost.emplace_back(-static_cast<int64_t>(share % size), c);
  }
  std::sort(lost.begin(), lost.end());
  for (std::size_t k = 0; given < count; ++k, ++given) ++quota[lost[k].second];

  std::vector<int64_t> chosen;
  const RngStream rng(seed, "data/validation");
  for (std::size_t c = 0; c < members.size(); ++c)
    for (const int64_t k : rng.child(c).sample(static_cast<int64_t>(members[c].size()), quota[c]))
      chosen.push_back(members[c][static_cast<std::size_t>(k)]);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

std::vector<int64_t> complement(const std::vector<int64_t>& indices, int64_t size) {
  std::vector<int64_t> rest;
  auto next = indices.begin();
  for (int64_t i = 0; i < size; ++i) {
    if (next != indices.end() && *next == i) {
      ++next;
    } else {
      rest.push_back(i);
    }
  }
  return rest;
}

Split split_validation(std::shared_ptr<const Dataset> base, int64_t count, uint64_t seed) {
  require(base != nullptr, "split_validation: the base is null");
  auto chosen = validation_indices(*base, count, seed);
  auto rest = complement(chosen, base->size());
  return {subset(base, std::move(rest)), subset(base, std::move(chosen))};
}

std::shared_ptr<Dataset> area_average(std::shared_ptr<const Dataset> base, int64_t side) {
  require(base != nullptr, "area_average: the base is null");
  const auto shape = base->image_shape();
  const int64_t channels = shape[0], full = shape[1];
  require(full == shape[2], "size: images of ", base->description(), " are ", full, " x ", shape[2],
          ", only square ones can be averaged down");
  if (side <= 0 || full % side != 0) {
    std::string divisors;
    for (int64_t d = 1; d <= full; ++d)
      if (full % d == 0) divisors += str(divisors.empty() ? "" : ", ", d);
    throw ArgumentError(str("size is ", side, ", expected an exact divisor of ", full, ": ", divisors));
  }
  const auto* memory = dynamic_cast<const MemoryDataset*>(base.get());
  if (!memory) return std::make_shared<AveragedDataset>(std::move(base), side);
  auto small = at::empty({base->size(), channels, side, side}, at::kByte);
  const auto* in = memory->images().const_data_ptr<uint8_t>();
  auto* out = small.data_ptr<uint8_t>();
  for (int64_t plane = 0; plane < base->size() * channels; ++plane)
    average_plane(in + plane * full * full, full, full / side, out + plane * side * side);
  return std::make_shared<MemoryDataset>(small, memory->labels(), base->num_classes(),
                                         str(base->description(), " at ", side, " x ", side));
}

Statistics measure(const Dataset& dataset, int64_t most) {
  const auto shape = dataset.image_shape();
  const int64_t channels = shape[0], area = shape[1] * shape[2], size = dataset.size();
  require(size > 0, "measure: ", dataset.description(), " is empty");
  const int64_t count = most > 0 ? std::min(most, size) : size;
  std::vector<uint8_t> pixels(static_cast<std::size_t>(channels * area));
  // 2^64 / 255^2 pixels fit: integers, so neither order nor rounding matters.
  std::vector<uint64_t> sum(static_cast<std::size_t>(channels)), squares(sum.size());
  for (int64_t k = 0; k < count; ++k) {
    dataset.read(static_cast<int64_t>(static_cast<__int128>(k) * size / count), pixels.data(), 0);
    for (int64_t c = 0; c < channels; ++c) {
      uint64_t s = 0, q = 0;
      for (const uint8_t* p = pixels.data() + c * area; p < pixels.data() + (c + 1) * area; ++p) {
        s += *p;
        q += uint64_t{*p} * *p;
      }
      sum[static_cast<std::size_t>(c)] += s;
      squares[static_cast<std::size_t>(c)] += q;
    }
  }
  Statistics result;
  const double n = static_cast<double>(count) * static_cast<double>(area);
  for (std::size_t c = 0; c < sum.size(); ++c) {
    const double mean = static_cast<double>(sum[c]) / n;
    const double variance = static_cast<double>(squares[c]) / n - mean * mean;
    result.mean.push_back(mean / 255.0);
    // Below a hundredth of a grey level it is rounding of the line above, and the channel is constant.
    result.std.push_back(variance > 1e-4 ? std::sqrt(variance) / 255.0 : 1.0);
  }
  return result;
}

}  // namespace glyptic::data
