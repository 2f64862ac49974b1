#include "init.h"

#include <torch/torch.h>

#include <charconv>
#include <set>

#include "glyptic/core/error.h"
#include "shapes.h"

namespace glyptic::nn {
namespace {

struct Init {
  std::string kind;
  double value = 0;  // of "normal:<std>" and "constant:<value>"
};

Init parse_init(const TensorSpec& spec) {
  static const std::set<std::string> kPlain = {
      "zeros",           "ones",          "kaiming_normal_fan_in", "kaiming_normal_fan_out",
      "kaiming_uniform", "fan_in_uniform"};
  const auto colon = spec.init.find(':');
  Init init{spec.init.substr(0, colon), 0};
  const auto bad = [&](const char* why) {
    return str("tensor '", spec.name, "': init '", spec.init, "' ", why);
  };
  if (colon == std::string::npos) {
    require(kPlain.count(init.kind) == 1, bad("is not known; see TensorSpec::init"));
  } else {
    require(init.kind == "normal" || init.kind == "constant", bad("is not known; see TensorSpec::init"));
    const char* const end = spec.init.data() + spec.init.size();
    const auto read = std::from_chars(spec.init.data() + colon + 1, end, init.value);
    require(read.ec == std::errc() && read.ptr == end && std::isfinite(init.value),
            bad("does not end in a number"));
    require(init.kind != "normal" || init.value >= 0, bad("has a negative standard deviation"));
  }
  const bool draws = init.kind.rfind("kaiming", 0) == 0;
  require(!draws || spec.shape.size() >= 2, bad("needs a tensor of two or more dimensions"));
  require(init.kind != "fan_in_uniform" || spec.fan_in > 0, bad("needs a positive fan_in"));
  require(spec.dtype == "float32" || init.kind == "zeros", bad("cannot fill an int64 tensor; use zeros"));
  return init;
}

}  // namespace

void check_init(const TensorSpec& spec) {
  parse_init(spec);
}

at::Tensor initial_value(const TensorSpec& spec, const RngStream& rng) {
  const auto init = parse_init(spec);
  if (spec.dtype == "int64") return at::zeros(spec.shape, at::kLong);
  if (init.kind == "zeros") return at::zeros(spec.shape, at::kFloat);
  if (init.kind == "ones") return at::ones(spec.shape, at::kFloat);
  if (init.kind == "constant") return at::full(spec.shape, init.value, at::kFloat);
  if (init.kind == "normal") return rng.normal(spec.shape).mul_(init.value);
  if (init.kind == "fan_in_uniform") {
    const double bound = 1.0 / std::sqrt(static_cast<double>(spec.fan_in));
    return rng.uniform_tensor(spec.shape, -bound, bound);
  }
  const auto numel = static_cast<double>(checked_numel(spec.shape, spec.name));
  const auto fan_in = numel / static_cast<double>(spec.shape[0]);
  const auto fan_out = numel / static_cast<double>(spec.shape[1]);
  if (init.kind == "kaiming_normal_fan_in") return rng.normal(spec.shape).mul_(std::sqrt(2.0 / fan_in));
  if (init.kind == "kaiming_normal_fan_out") return rng.normal(spec.shape).mul_(std::sqrt(2.0 / fan_out));
  // kaiming_uniform with a = sqrt 5: gain^2 = 2 / (1 + 5), bound = gain sqrt(3 / fan_in).
  const double bound = std::sqrt(1.0 / fan_in);
  return rng.uniform_tensor(spec.shape, -bound, bound);
}

}  // namespace glyptic::nn
