#include "glyptic/data/corruptions.h"

#include <torch/torch.h>

#include <cmath>
#include <exception>
#include <mutex>

#include "corruption_effects.h"
#include "glyptic/core/error.h"
#include "glyptic/core/named_tensor.h"
#include "glyptic/kernels/parallel.h"
#include "glyptic/kernels/pixel_noise.h"
#include "internal.h"
#ifdef GLYPTIC_WITH_CUDA
#include "../ops/cuda/launch.h"
#endif

namespace glyptic::data {
namespace {

constexpr int64_t kTables[] = {32, 64, 224, 299};
constexpr int kSeverities = 5;
constexpr int64_t kSmallestSide = 8, kLargestSide = 8192;

struct Rule {
  const char* name;
  double low, high;
  bool whole;
};

struct Corruption {
  const char* name;
  const char* family;
  std::vector<Rule> rules;
  std::vector<double> tables[4];  // of kTables; severities one after another
};

// The authors' scripts make_cifar_c.py, make_tinyimagenet_c.py, make_imagenet_c.py,
// make_imagenet_c_inception.py. elastic_transform is in units of the size of `elastic_unit`.
const std::vector<Corruption>& corruptions() {
  static const std::vector<Corruption> list = {
      {"gaussian_noise",
       "noise",
       {{"std", 0, 10, false}},
       {{0.04, 0.06, 0.08, 0.09, 0.1},
        {0.04, 0.08, 0.12, 0.15, 0.18},
        {0.08, 0.12, 0.18, 0.26, 0.38},
        {0.09, 0.13, 0.19, 0.27, 0.4}}},
      {"shot_noise",
       "noise",
       {{"photons", 0.01, 10000, false}},
       {{500, 250, 100, 75, 50}, {250, 100, 50, 30, 15}, {60, 25, 12, 5, 3}, {50, 20, 10, 5, 3}}},
      {"impulse_noise",
       "noise",
       {{"amount", 0, 1, false}},
       {{0.01, 0.02, 0.03, 0.05, 0.07},
        {0.01, 0.02, 0.05, 0.08, 0.14},
        {0.03, 0.06, 0.09, 0.17, 0.27},
        {0.04, 0.07, 0.1, 0.18, 0.28}}},
      {"defocus_blur",
       "blur",
       {{"radius", 0, 100, false}, {"alias", 0.001, 100, false}},
       {{0.3, 0.4, 0.4, 0.5, 0.5, 0.6, 1, 0.2, 1.5, 0.1},
        {0.5, 0.6, 1, 0.1, 1.5, 0.1, 2.5, 0.01, 3, 0.1},
        {3, 0.1, 4, 0.5, 6, 0.5, 8, 0.5, 10, 0.5},
        {4, 0.1, 5, 0.5, 7, 0.5, 10, 0.5, 12, 0.5}}},
      {"glass_blur",
       "blur",
       {{"sigma", 0, 100, false}, {"distance", 1, 100, true}, {"iterations", 1, 100, true}},
       {{0.05, 1, 1, 0.25, 1, 1, 0.4, 1, 1, 0.25, 1, 2, 0.4, 1, 2},
        {0.1, 1, 1, 0.5, 1, 1, 0.6, 1, 2, 0.7, 2, 1, 0.9, 2, 2},
        {0.7, 1, 2, 0.9, 2, 1, 1, 2, 3, 1.1, 3, 2, 1.5, 4, 2},
        {0.8, 1, 3, 1, 3, 1, 1.1, 2, 4, 1.2, 4, 2, 1.6, 5, 2}}},
      {"motion_blur",
       "blur",
       {{"radius", 0, 1000, true}, {"sigma", 0.01, 1000, false}},
       {{6, 1, 6, 1.5, 6, 2, 8, 2, 9, 2.5},
        {10, 1, 10, 1.5, 10, 2, 10, 2.5, 12, 3},
        {10, 3, 15, 5, 15, 8, 15, 12, 20, 15},
        {12, 4, 17, 6, 17, 9, 17, 13, 22, 16}}},
      {"zoom_blur",
       "blur",
       {{"stop", 1.001, 4, false}, {"step", 0.001, 1, false}},
       {{1.06, 0.01, 1.11, 0.01, 1.16, 0.01, 1.21, 0.01, 1.26, 0.01},
        {1.06, 0.01, 1.11, 0.01, 1.16, 0.01, 1.21, 0.01, 1.26, 0.01},
        {1.11, 0.01, 1.16, 0.01, 1.21, 0.02, 1.26, 0.02, 1.31, 0.03},
        {1.11, 0.01, 1.16, 0.01, 1.21, 0.02, 1.26, 0.02, 1.31, 0.03}}},
      {"snow",
       "weather",
       {{"mean", -10, 10, false},
        {"std", 0, 10, false},
        {"zoom", 1, 8, false},
        {"threshold", 0, 1, false},
        {"radius", 0, 1000, true},
        {"sigma", 0.01, 1000, false},
        {"mix", 0, 1, false}},
       {{0.1, 0.2, 1,   0.6,  8,   3,    0.95, 0.1, 0.2, 1,    0.5, 10,  4,    0.9,  0.15, 0.3, 1.75, 0.55,
         10,  4,   0.9, 0.25, 0.3, 2.25, 0.6,  12,  6,   0.85, 0.3, 0.3, 1.25, 0.65, 14,   12,  0.8},
        {0.1, 0.2, 1,   0.6,  8,   3,    0.8, 0.1, 0.2, 1,    0.5, 10,  4,    0.8,  0.15, 0.3, 1.75, 0.55,
         10,  4,   0.7, 0.25, 0.3, 2.25, 0.6, 12,  6,   0.65, 0.3, 0.3, 1.25, 0.65, 14,   12,  0.6},
        {0.1, 0.3, 3,   0.5,  10,  4,   0.8,  0.2, 0.3, 2,    0.5,  12,  4,   0.7,  0.55, 0.3, 4,   0.9,
         12,  8,   0.7, 0.55, 0.3, 4.5, 0.85, 12,  8,   0.65, 0.55, 0.3, 2.5, 0.85, 12,   12,  0.55},
        {0.1, 0.3, 3,   0.5,  10,  4,   0.8,  0.2, 0.3, 2,    0.5,  12,  4,   0.7,  0.55, 0.3, 4,   0.9,
         12,  8,   0.7, 0.55, 0.3, 4.5, 0.85, 12,  8,   0.65, 0.55, 0.3, 2.5, 0.85, 12,   12,  0.55}}},
      {"frost",
       "weather",
       {{"image", 0, 10, false}, {"texture", 0, 10, false}},
       {{1, 0.2, 1, 0.3, 0.9, 0.4, 0.85, 0.4, 0.75, 0.45},
        {1, 0.3, 0.9, 0.4, 0.8, 0.45, 0.75, 0.5, 0.7, 0.55},
        {1, 0.4, 0.8, 0.6, 0.7, 0.7, 0.65, 0.7, 0.6, 0.75},
        {1, 0.4, 0.8, 0.6, 0.7, 0.7, 0.65, 0.7, 0.6, 0.75}}},
      {"fog",
       "weather",
       {{"amount", 0, 100, false}, {"decay", 1, 100, false}},
       {{0.2, 3, 0.5, 3, 0.75, 2.5, 1, 2, 1.5, 1.75},
        {0.4, 3, 0.7, 3, 1, 2.5, 1.5, 2, 2, 1.75},
        {1.5, 2, 2, 2, 2.5, 1.7, 2.5, 1.5, 3, 1.4},
        {1.5, 2, 2, 2, 2.5, 1.8, 2.5, 1.6, 3, 1.5}}},
      {"brightness",
       "weather",
       {{"add", -1, 1, false}},
       {{0.05, 0.1, 0.15, 0.2, 0.3},
        {0.1, 0.2, 0.3, 0.4, 0.5},
        {0.1, 0.2, 0.3, 0.4, 0.5},
        {0.1, 0.2, 0.3, 0.4, 0.5}}},
      {"contrast",
       "digital",
       {{"factor", 0, 100, false}},
       {{0.75, 0.5, 0.4, 0.3, 0.15},
        {0.4, 0.3, 0.2, 0.1, 0.05},
        {0.4, 0.3, 0.2, 0.1, 0.05},
        {0.4, 0.3, 0.2, 0.1, 0.05}}},
      {"elastic_transform",
       "digital",
       {{"alpha", 0, 10000, false}, {"sigma", 0, 10000, false}, {"affine", 0, 10000, false}},
       {{0, 0, 0.08, 0.05, 0.2, 0.07, 0.08, 0.06, 0.06, 0.1, 0.04, 0.05, 0.1, 0.03, 0.03},
        {0, 0, 0.08, 0.05, 0.3, 0.06, 0.1, 0.08, 0.06, 0.1, 0.03, 0.03, 0.16, 0.03, 0.02},
        {2, 0.7, 0.1, 2, 0.08, 0.2, 0.05, 0.01, 0.02, 0.07, 0.01, 0.02, 0.12, 0.01, 0.02},
        {2, 0.7, 0.1, 2, 0.08, 0.2, 0.05, 0.01, 0.02, 0.07, 0.01, 0.02, 0.12, 0.01, 0.02}}},
      {"pixelate",
       "digital",
       {{"scale", 0.001, 1, false}},
       {{0.95, 0.9, 0.85, 0.75, 0.65},
        {0.9, 0.8, 0.7, 0.6, 0.5},
        {0.6, 0.5, 0.4, 0.3, 0.25},
        {0.5, 0.4, 0.3, 0.25, 0.2}}},
      {"jpeg_compression",
       "digital",
       {{"quality", 1, 100, true}},
       {{80, 65, 58, 50, 40}, {65, 58, 50, 40, 25}, {25, 18, 15, 10, 7}, {23, 16, 13, 8, 5}}},
      {"speckle_noise",
       "validation",
       {{"std", 0, 10, false}},
       {{0.06, 0.1, 0.12, 0.16, 0.2},
        {0.15, 0.2, 0.25, 0.3, 0.35},
        {0.15, 0.2, 0.35, 0.45, 0.6},
        {0.16, 0.21, 0.36, 0.46, 0.61}}},
      {"gaussian_blur",
       "validation",
       {{"sigma", 0, 100, false}},
       {{0.4, 0.6, 0.7, 0.8, 1}, {0.5, 0.75, 1, 1.25, 1.5}, {1, 2, 3, 4, 6}, {1.5, 2.5, 3.5, 4.5, 6.5}}},
      {"spatter",
       "validation",
       {{"mean", -10, 10, false},
        {"std", 0, 10, false},
        {"sigma", 0, 100, false},
        {"threshold", 0, 1, false},
        {"strength", 0, 100, false},
        {"mud", 0, 1, true}},
       {{0.62, 0.1, 0.7, 0.7,  0.5, 0,   0.65, 0.1, 0.8, 0.7,  0.5, 0,   0.65, 0.3, 1,
         0.69, 0.5, 0,   0.65, 0.1, 0.7, 0.69, 0.6, 1,   0.65, 0.1, 0.5, 0.68, 0.6, 1},
        {0.62, 0.1, 0.7, 0.7,  0.6, 0,   0.65, 0.1, 0.8, 0.7,  0.6, 0,   0.65, 0.3, 1,
         0.69, 0.6, 0,   0.65, 0.1, 0.7, 0.68, 0.6, 1,   0.65, 0.1, 0.5, 0.67, 0.6, 1},
        {0.65, 0.3, 4, 0.69, 0.6, 0, 0.65, 0.3, 3, 0.68, 0.6, 0, 0.65, 0.3, 2,
         0.68, 0.5, 0, 0.65, 0.3, 1, 0.65, 1.5, 1, 0.67, 0.4, 1, 0.65, 1.5, 1},
        {0.65, 0.3, 4, 0.69, 0.9, 0,   0.65, 0.3, 3.5, 0.68, 0.9, 0,   0.65, 0.3, 3,
         0.68, 0.8, 0, 0.65, 0.3, 1.2, 0.65, 1.8, 1,   0.67, 0.4, 1.2, 0.65, 1.8, 1}}},
      {"saturate",
       "validation",
       {{"factor", 0, 1000, false}, {"add", -1, 1, false}},
       {{0.3, 0, 0.1, 0, 1.5, 0, 2, 0.1, 2.5, 0.2},
        {0.3, 0, 0.1, 0, 2, 0, 5, 0.1, 30, 0.2},
        {0.3, 0, 0.1, 0, 2, 0, 5, 0.1, 20, 0.2},
        {0.3, 0, 0.1, 0, 2, 0, 5, 0.1, 20, 0.2}}},
  };
  return list;
}

double elastic_unit(std::size_t table) {
  constexpr double kUnits[] = {32, 64, 244, 360};
  return kUnits[table];
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

const Corruption& find(const std::string& name) {
  for (const auto& corruption : corruptions())
    if (name == corruption.name) return corruption;
  const auto names = corruption_names();
  throw ArgumentError(str("no corruption is called '", name, "'", did_you_mean(name, names),
                          " (known: ", joined(names), ")"));
}

std::size_t table_position(int64_t table) {
  for (std::size_t i = 0; i < std::size(kTables); ++i)
    if (table == kTables[i]) return i;
  throw ArgumentError(str("table is ", table, ", expected 32, 64, 224 or 299"));
}

std::vector<double> table_values(const Corruption& corruption, int severity, std::size_t table) {
  const auto count = corruption.rules.size();
  const auto begin = corruption.tables[table].begin() + static_cast<int64_t>(count) * (severity - 1);
  std::vector<double> values(begin, begin + static_cast<int64_t>(count));
  if (std::string(corruption.name) == "elastic_transform")
    for (double& value : values) value *= elastic_unit(table);
  return values;
}

void check_param(const Corruption& corruption, const std::vector<double>& param) {
  std::vector<std::string> names;
  for (const auto& rule : corruption.rules) names.push_back(rule.name);
  require(param.size() == names.size(), corruption.name, ": param has ", param.size(), " numbers, expected ",
          names.size(), " (", joined(names), ")");
  for (std::size_t i = 0; i < param.size(); ++i) {
    const auto& rule = corruption.rules[i];
    require(
        rule.low <= param[i] && param[i] <= rule.high && (!rule.whole || param[i] == std::floor(param[i])),
        corruption.name, ": ", rule.name, " is ", param[i], ", expected ",
        rule.whole ? "a whole number from " : "", rule.low, " to ", rule.high);
  }
}

// Thresholds of the Poisson distributions of the 256 values: a 32-bit word stands for the number of
// thresholds that are not above it.
struct PoissonTable {
  std::vector<uint32_t> thresholds;
  std::vector<int32_t> first, lowest, guide;
};

PoissonTable poisson_table(double photons) {
  PoissonTable table;
  for (int v = 0; v < 256; ++v) {
    table.first.push_back(static_cast<int32_t>(table.thresholds.size()));
    table.lowest.push_back(0);
    if (v == 0) continue;
    const double mean = photons * v / 255.0, spread = std::sqrt(mean);
    // Below and above is less than a word can tell: 2^-33 is 6.4 standard deviations, and 40 more for small
    // means.
    const auto low = static_cast<int64_t>(std::max(0.0, std::floor(mean - 8 * spread - 10)));
    const auto high = static_cast<int64_t>(std::ceil(mean + 8 * spread + 40));
    const auto start = static_cast<double>(low);
    double probability = std::exp(start * std::log(mean) - mean - std::lgamma(start + 1)), sum = 0;
    bool begun = false;
    for (int64_t k = low; k <= high; ++k) {
      sum += probability;
      probability *= mean / static_cast<double>(k + 1);
      const double word = std::floor(sum * 4294967296.0 + 0.5);
      if (word < 1 && !begun) continue;  // no word is below it: count k never comes
      if (!begun) {
        table.lowest.back() = static_cast<int32_t>(k);
        begun = true;
      }
      // A count of `photons` and more is white whatever it is.
      if (word > 4294967295.0 || static_cast<double>(k) >= photons) break;
      table.thresholds.push_back(static_cast<uint32_t>(word));
    }
  }
  table.first.push_back(static_cast<int32_t>(table.thresholds.size()));
  for (std::size_t v = 0; v < 256; ++v) {
    int32_t at = table.first[v];
    for (uint32_t byte = 0; byte < 256; ++byte) {
      while (at < table.first[v + 1] && table.thresholds[static_cast<std::size_t>(at)] <= byte << 24) ++at;
      table.guide.push_back(at - table.first[v]);
    }
  }
  return table;
}

bool is_noise(const std::string& name) {
  return name == "gaussian_noise" || name == "shot_noise" || name == "impulse_noise" ||
         name == "speckle_noise";
}

// One corruption of one severity for images of one size, ready for any number of them.
class Corruptor {
 public:
  Corruptor(const Corruption& corruption, int severity, const Frame& frame, const CorruptOptions& options)
      : frame_(frame),
        options_(options),
        stream_(RngStream(options.seed, str("corruption/", corruption.name))
                    .child(static_cast<uint64_t>(severity))) {
    const std::string name = corruption.name;
    const int64_t table = options.table ? options.table : corruption_table(frame.height, frame.width);
    identity_ = severity == 0 && options.param.empty();
    if (identity_) return;
    const auto param =
        options.param.empty() ? table_values(corruption, severity, table_position(table)) : options.param;
    const auto least = static_cast<double>(std::min(frame.height, frame.width));
    if (name == "glass_blur")
      require(2 * param[1] < least, "glass_blur: images of ", frame.height, " x ", frame.width,
              " are too small for a distance of ", param[1], "; give a smaller one by param");
    noise_ = is_noise(name);
    if (noise_)
      prepare_noise(name, param[0]);
    else
      effect_ = make_effect(name, param, frame, table, options);
  }

  bool noise() const { return noise_; }
  bool identity() const { return identity_; }
  RngStream stream(int64_t index) const { return stream_.child(static_cast<uint64_t>(index)); }

  // `in` and `out` contiguous on one device, uint8 or float32.
  void run(const at::Tensor& in, const at::Tensor& out, const std::vector<int64_t>& indices,
           int threads) const {
    if (noise_)
      run_noise(in, out, indices, threads);
    else
      run_effect(in, out, indices, threads);
  }

 private:
  void prepare_noise(const std::string& name, double strength) {
    args_.size = frame_.size();
    args_.seed = options_.seed;
    args_.rounding = static_cast<kernels::PixelRounding>(options_.quantize);
    if (name == "gaussian_noise") {
      args_.kind = kernels::PixelNoise::gaussian;
      args_.strength = static_cast<float>(255 * strength);
    } else if (name == "speckle_noise") {
      args_.kind = kernels::PixelNoise::speckle;
      args_.strength = static_cast<float>(strength);
    } else if (name == "impulse_noise") {
      args_.kind = kernels::PixelNoise::impulse;
      args_.threshold = static_cast<uint64_t>(std::floor(strength * 4294967296.0 + 0.5));
    } else {
      args_.kind = kernels::PixelNoise::shot;
      args_.level = static_cast<float>(255.0 / strength);
      args_.mean = strength / 255.0;
      poisson_ = poisson_table(strength);
    }
  }

  void run_noise(const at::Tensor& in, const at::Tensor& out, const std::vector<int64_t>& indices,
                 int threads) const {
    std::vector<int64_t> streams, seconds;
    for (const int64_t index : indices) {
      const auto own = stream(index);
      streams.push_back(static_cast<int64_t>(own.stream()));
      seconds.push_back(static_cast<int64_t>(own.child(0).stream()));
    }
    auto args = args_;
    args.in = in.const_data_ptr();
    args.out = out.data_ptr();
    args.in_float = in.scalar_type() == at::kFloat;
    args.out_float = out.scalar_type() == at::kFloat;
    args.images = static_cast<int64_t>(indices.size());
    args.streams = reinterpret_cast<const uint64_t*>(streams.data());
    args.seconds = reinterpret_cast<const uint64_t*>(seconds.data());
    args.table = poisson_.thresholds.data();
    args.first = poisson_.first.data();
    args.lowest = poisson_.lowest.data();
    args.guide = poisson_.guide.data();
    if (in.is_cpu()) {
      GLYPTIC_SELECT(pixel_noise)(args, threads);
      return;
    }
#ifdef GLYPTIC_WITH_CUDA
    const auto upload = [&](const void* data, std::size_t count, at::ScalarType type) {
      return at::from_blob(const_cast<void*>(data), {static_cast<int64_t>(count)},
                           at::TensorOptions().dtype(type))
          .to(in.device());
    };
    const auto device_streams = upload(streams.data(), streams.size(), at::kLong);
    const auto device_seconds = upload(seconds.data(), seconds.size(), at::kLong);
    const auto thresholds = upload(poisson_.thresholds.data(), poisson_.thresholds.size(), at::kInt);
    const auto first = upload(poisson_.first.data(), poisson_.first.size(), at::kInt);
    const auto lowest = upload(poisson_.lowest.data(), poisson_.lowest.size(), at::kInt);
    const auto guide = upload(poisson_.guide.data(), poisson_.guide.size(), at::kInt);
    args.guide = static_cast<const int32_t*>(guide.const_data_ptr());
    args.streams = static_cast<const uint64_t*>(device_streams.const_data_ptr());
    args.seconds = static_cast<const uint64_t*>(device_seconds.const_data_ptr());
    args.table = static_cast<const uint32_t*>(thresholds.const_data_ptr());
    args.first = static_cast<const int32_t*>(first.const_data_ptr());
    args.lowest = static_cast<const int32_t*>(lowest.const_data_ptr());
    ops::cuda::pixel_noise(in.device(), args);
#endif
  }

  void run_effect(const at::Tensor& in, const at::Tensor& out, const std::vector<int64_t>& indices,
                  int threads) const {
    struct Context {
      const Corruptor* self;
      const at::Tensor *in, *out;
      const std::vector<int64_t>* indices;
      std::mutex lock;
      std::exception_ptr error;
    } context{this, &in, &out, &indices, {}, nullptr};
    // Nothing may be thrown across the C boundary: the first error is kept and thrown after.
    glyptic_parallel_run(
        static_cast<int64_t>(indices.size()), threads,
        [](void* pointer, int64_t image) {
          auto& c = *static_cast<Context*>(pointer);
          try {
            c.self->one(*c.in, *c.out, image, (*c.indices)[static_cast<std::size_t>(image)]);
          } catch (...) {
            const std::lock_guard<std::mutex> guard(c.lock);
            if (!c.error) c.error = std::current_exception();
          }
        },
        &context);
    if (context.error) std::rethrow_exception(context.error);
  }

  void one(const at::Tensor& in, const at::Tensor& out, int64_t image, int64_t index) const {
    const int64_t size = frame_.size(), at = image * size;
    std::vector<float> source(static_cast<std::size_t>(size)), target(source.size());
    if (in.scalar_type() == at::kByte) {
      const auto* bytes = in.const_data_ptr<uint8_t>() + at;
      for (int64_t i = 0; i < size; ++i) source[static_cast<std::size_t>(i)] = static_cast<float>(bytes[i]);
    } else {
      const auto* values = in.const_data_ptr<float>() + at;
      for (int64_t i = 0; i < size; ++i) source[static_cast<std::size_t>(i)] = values[i] * 255.0f;
    }
    effect_(stream(index), source.data(), target.data());
    const auto rounding = static_cast<kernels::PixelRounding>(options_.quantize);
    for (float& value : target) value = kernels::pixel_rounded(value, rounding);
    if (out.scalar_type() == at::kByte) {
      auto* bytes = out.data_ptr<uint8_t>() + at;
      for (int64_t i = 0; i < size; ++i)
        bytes[i] = static_cast<uint8_t>(static_cast<int32_t>(target[static_cast<std::size_t>(i)]));
    } else {
      auto* values = out.data_ptr<float>() + at;
      for (int64_t i = 0; i < size; ++i) values[i] = target[static_cast<std::size_t>(i)] / 255.0f;
    }
  }

  Frame frame_;
  CorruptOptions options_;
  RngStream stream_;
  bool noise_ = false, identity_ = false;
  kernels::PixelNoiseArgs args_{};
  PoissonTable poisson_;
  Effect effect_;
};

// The corruption, after everything that does not depend on pixels was checked. The last few are kept:
// filters, Poisson tables and textures cost more than an image, and sets ask for one image at a time.
std::shared_ptr<const Corruptor> prepared(const char* what, const std::string& name, int severity,
                                          at::IntArrayRef shape, const CorruptOptions& options) {
  const auto& corruption = find(name);
  require(0 <= severity && severity <= kSeverities, "severity is ", severity,
          ", expected 1 to 5 (0 leaves images as they are)");
  if (options.table != 0) table_position(options.table);
  require(options.first_index >= 0, "first_index is ", options.first_index, ", expected 0 or more");
  if (!options.param.empty()) check_param(corruption, options.param);
  require(shape.size() == 3 && (shape[0] == 1 || shape[0] == 3), what, " have shape ", shape_string(shape),
          ", expected [C, H, W] each with 1 or 3 channels");
  for (const int64_t side : shape.slice(1))
    require(kSmallestSide <= side && side <= kLargestSide, what, " of ", shape[1], " x ", shape[2],
            " pixels, expected sides of ", kSmallestSide, " to ", kLargestSide);

  auto own = options;
  own.indices.clear();
  own.first_index = 0;
  if (name == "frost" && (severity > 0 || !options.param.empty())) own.frost_folder = frost_folder(options);
  std::ostringstream key;
  key << std::hexfloat << name << ' ' << severity << ' ' << shape_string(shape) << ' ' << own.seed << ' '
      << own.table << ' ' << static_cast<int>(own.quantize) << ' ' << static_cast<int>(own.glass_exchange)
      << ' ';
  for (const double value : own.param) key << value << ' ';
  key << own.frost_folder;

  constexpr std::size_t kKept = 8;
  static std::mutex lock;
  static std::vector<std::pair<std::string, std::shared_ptr<const Corruptor>>> kept;  // the latest first
  {
    const std::lock_guard<std::mutex> guard(lock);
    for (auto entry = kept.begin(); entry != kept.end(); ++entry)
      if (entry->first == key.str()) {
        std::rotate(kept.begin(), entry, entry + 1);
        return kept.front().second;
      }
  }
  auto made =
      std::make_shared<const Corruptor>(corruption, severity, Frame{shape[0], shape[1], shape[2]}, own);
  const std::lock_guard<std::mutex> guard(lock);
  kept.insert(kept.begin(), {key.str(), made});
  if (kept.size() > kKept) kept.pop_back();
  return made;
}

class CorruptedDataset final : public Dataset {
 public:
  CorruptedDataset(std::shared_ptr<const Dataset> base, const std::string& name, int severity,
                   const CorruptOptions& options)
      : base_(std::move(base)),
        first_(options.first_index),
        corruptor_(prepared("images of the set", name, severity, base_->image_shape(), options)),
        description_(str(base_->description(), " under ", name, ", severity ", severity)) {}

  int64_t size() const override { return base_->size(); }
  std::vector<int64_t> image_shape() const override { return base_->image_shape(); }
  int64_t num_classes() const override { return base_->num_classes(); }
  int64_t label(int64_t index) const override { return base_->label(index); }
  std::string description() const override { return description_; }
  int64_t read(int64_t index, uint8_t* pixels, uint64_t random) const override {
    const int64_t label = base_->read(index, pixels, random);
    if (corruptor_->identity()) return label;
    std::vector<int64_t> shape = base_->image_shape();
    shape.insert(shape.begin(), 1);
    const auto out = at::from_blob(pixels, shape, at::kByte);
    corruptor_->run(out.clone(), out, {first_ + index}, 1);
    return label;
  }

 private:
  std::shared_ptr<const Dataset> base_;
  int64_t first_;
  std::shared_ptr<const Corruptor> corruptor_;
  std::string description_;
};

}  // namespace

Quantize quantize_from_name(const std::string& name) {
  if (name == "floor") return Quantize::floor;
  if (name == "round") return Quantize::round;
  if (name == "none") return Quantize::none;
  throw ArgumentError(str("quantize is '", name, "', expected floor, round or none"));
}

GlassExchange glass_exchange_from_name(const std::string& name) {
  if (name == "automatic") return GlassExchange::automatic;
  if (name == "copy") return GlassExchange::copy;
  if (name == "swap") return GlassExchange::swap;
  throw ArgumentError(str("glass_exchange is '", name, "', expected automatic, copy or swap"));
}

std::vector<std::string> corruption_subsets() {
  return {"all", "common", "validation", "noise", "blur", "weather", "digital"};
}

std::vector<std::string> corruption_names(const std::string& subset) {
  const auto known = corruption_subsets();
  require(std::find(known.begin(), known.end(), subset) != known.end(),
          "no subset of the corruptions is called '", subset, "'", did_you_mean(subset, known),
          " (known: ", joined(known), ")");
  std::vector<std::string> names;
  for (const auto& corruption : corruptions()) {
    const std::string family = corruption.family;
    if (subset == "all" || subset == family || (subset == "common" && family != "validation"))
      names.push_back(corruption.name);
  }
  return names;
}

std::vector<CorruptionParameter> corruption_parameters(const std::string& name, int severity, int64_t table) {
  const auto& corruption = find(name);
  require(1 <= severity && severity <= kSeverities, "severity is ", severity, ", expected 1 to 5");
  const auto values = table_values(corruption, severity, table_position(table));
  std::vector<CorruptionParameter> result;
  for (std::size_t i = 0; i < values.size(); ++i) result.push_back({corruption.rules[i].name, values[i]});
  return result;
}

int64_t corruption_table(int64_t height, int64_t width) {
  const auto side = static_cast<double>(std::min(height, width));
  int64_t best = kTables[0];
  for (const int64_t table : kTables)
    if (std::abs(std::log(side / static_cast<double>(table))) <
        std::abs(std::log(side / static_cast<double>(best))))
      best = table;
  return best;
}

at::Tensor corrupt(const at::Tensor& images, const std::string& name, int severity,
                   const CorruptOptions& options) {
  require(images.defined() && images.layout() == at::kStrided && images.dim() == 4, "corrupt: images are ",
          images.defined() ? shape_string(images.sizes()) : "undefined", ", expected a dense [N, C, H, W]");
  const auto type = images.scalar_type();
  const bool bytes = type == at::kByte;
  require(bytes || type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16,
          "corrupt: images are ", c10::toString(type),
          ", expected uint8, or a floating type with values in [0, 1]");
  const auto corruptor = prepared("images", name, severity, images.sizes().slice(1), options);
  const int64_t count = images.size(0);
  require(options.threads >= 0, "threads is ", options.threads, ", expected 0 or more");
  auto indices = options.indices;
  if (indices.empty()) {
    for (int64_t i = 0; i < count; ++i) indices.push_back(options.first_index + i);
  }
  require(static_cast<int64_t>(indices.size()) == count, "indices has ", indices.size(), " numbers for ",
          count, " images");
  for (const int64_t index : indices) require(index >= 0, "an index is ", index, ", expected 0 or more");

  const at::NoGradGuard no_grad;
  const auto result_type = bytes && options.quantize == Quantize::none ? at::kFloat : type;
  if (!bytes && count > 0) {
    const auto [low, high] = at::aminmax(images);
    const double least = low.item<double>(), most = high.item<double>();
    require(least >= 0 && most <= 1, "corrupt: floating images have values from ", least, " to ", most,
            ", expected 0 to 1");
  }
  if (count == 0 || corruptor->identity()) {
    if (!bytes || result_type == type) return images.detach().clone();
    return images.to(at::kFloat).div(255);
  }
#ifdef GLYPTIC_WITH_CUDA
  const bool stays = images.is_cpu() || (images.is_cuda() && corruptor->noise());
#else
  const bool stays = images.is_cpu();
#endif
  const auto in = images.detach()
                      .to(stays ? images.device() : at::Device(at::kCPU), bytes ? at::kByte : at::kFloat)
                      .contiguous();
  const auto out =
      at::empty(in.sizes(), in.options().dtype(bytes && result_type == type ? at::kByte : at::kFloat));
  corruptor->run(in, out, indices, options.threads ? options.threads : at::get_num_threads());
  return out.to(images.device(), result_type);
}

std::shared_ptr<Dataset> corrupted(std::shared_ptr<const Dataset> base, const std::string& name, int severity,
                                   const CorruptOptions& options) {
  require(options.quantize != Quantize::none,
          "corrupted: a data set holds 8-bit images; quantize by floor or round");
  require(options.indices.empty(), "corrupted: indices are those of the set; leave them empty");
  return std::make_shared<CorruptedDataset>(std::move(base), name, severity, options);
}

}  // namespace glyptic::data
