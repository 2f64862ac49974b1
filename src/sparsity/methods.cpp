// The methods that need no file of their own: each is a few lines over distribution, schedule and criteria.
#include "glyptic/core/error.h"
#include "glyptic/core/named_tensor.h"
#include "glyptic/sparsity/chase.h"
#include "glyptic/sparsity/distribution.h"
#include "glyptic/sparsity/granet.h"
#include "glyptic/sparsity/schedule.h"
#include "glyptic/sparsity/sparsifier.h"

namespace glyptic::sparsity {

namespace {

/// A random mask that never changes: the baseline of everything.
class StaticSparse final : public Method {
 public:
  explicit StaticSparse(const SparsityOptions& options) : Method(options) {}
  bool due(int64_t) const override { return false; }
  void update(EventContext&) override {}
};

/// Drop and grow the same number: SET (arXiv 1707.04780) with random growth, RigL (arXiv 1911.11134) by
/// |gradient|.
class DynamicSparse final : public Method {
 public:
  explicit DynamicSparse(const SparsityOptions& o)
      : Method(o),
        drop_fraction_(drop_schedule(o.drop_schedule, o.drop_fraction,
                                     o.drop_floor > 0 ? o.total_steps : step_at(o.end, o.total_steps),
                                     o.drop_floor, o.drop_power)),
        drop_(criterion_from_name(o.drop_criterion, "sparsity.drop_criterion")),
        grow_(criterion_from_name(o.grow_criterion, "sparsity.grow_criterion")) {}

  // A dense network has nothing to exchange, and must train exactly like one.
  bool due(int64_t t) const override {
    return options_.density < 1 && t % options_.update_every == 0 &&
           t >= step_at(options_.begin, options_.total_steps) &&
           t < step_at(options_.end, options_.total_steps);
  }

  void update(EventContext& event) override {
    event.editor.exchange(drop_fraction_(event.step), options_.drop_rounding == "ceil",
                          options_.scope == "global", drop_, grow_);
  }

 private:
  Schedule drop_fraction_;
  Criterion drop_, grow_;
};

/// Gradual magnitude pruning (arXiv 1710.01878): prune to a cubic sparsity, nothing grows back.
class GradualMagnitude final : public Method {
 public:
  explicit GradualMagnitude(const SparsityOptions& o)
      : Method(o),
        begin_(step_at(o.prune_begin, o.total_steps)),
        end_(std::max<int64_t>(1, step_at(o.prune_end, o.total_steps))) {
    require(o.initial_sparsity <= 1 - o.density + 1e-12, "sparsity.initial_sparsity is ", o.initial_sparsity,
            ", above the final sparsity ", 1 - o.density);
  }

  std::vector<int64_t> initial_counts(const std::vector<Layer>& layers) const override {
    return counts_at(1 - options_.initial_sparsity, layers);
  }

  // The last event is at `end_` whatever the interval, so that the final sparsity is exact.
  bool due(int64_t t) const override {
    return (t % options_.update_every == 0 && t > begin_ && t < end_) || t == end_;
  }

  void update(EventContext& event) override {
    auto& edit = event.editor;
    const double density =
        1 - cubic_sparsity(event.step, options_.initial_sparsity, 1 - options_.density, begin_, end_);
    const auto drop = criterion_from_name(options_.drop_criterion, "sparsity.drop_criterion");
    if (options_.scope == "global") {
      const auto target = std::llround(density * static_cast<double>(edit.size()));
      edit.keep_global(std::min<int64_t>(target, edit.active()), drop);
      return;
    }
    auto target = counts_at(density, event.layers);
    const auto active = edit.counts();
    for (std::size_t l = 0; l < target.size(); ++l) target[l] = std::min(target[l], active[l]);
    edit.keep(target, drop);
  }

 private:
  int64_t begin_, end_;
};

template <class M>
auto maker() {
  return [](const SparsityOptions& o, const std::vector<Layer>&, const std::vector<nn::ChannelGroup>&) {
    return std::unique_ptr<Method>(std::make_unique<M>(o));
  };
}

}  // namespace

std::vector<int64_t> Method::initial_counts(const std::vector<Layer>& layers) const {
  return counts_at(options_.density, layers);
}

std::vector<int64_t> Method::counts_at(double density, const std::vector<Layer>& layers) const {
  std::vector<LayerShape> shapes;
  std::vector<int64_t> sizes;
  int64_t custom = 0;
  for (const auto& layer : layers) {
    shapes.push_back({layer.name, layer.weight.sizes().vec()});
    sizes.push_back(layer.size());
    if (options_.custom_density.count(layer.name) != 0) ++custom;
  }
  const auto densities = layer_densities(shapes, density,
                                         {.kind = distribution_from_name(options_.distribution),
                                          .erk_power = options_.erk_power,
                                          .custom_density = options_.custom_density});
  int64_t total = -1;  // K* = round(d N); custom densities move the sum
  if (custom == 0) {
    const auto n = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
    total = std::llround(density * static_cast<double>(n));
  }
  return layer_counts(densities, sizes, total, options_.min_per_layer);
}

const std::vector<MethodInfo>& methods() {
  using S = std::string;
  static const std::vector<MethodInfo> table{
      {"static",
       "a random mask that never changes",
       "baseline; distribution of arXiv 1911.11134, section 3",
       "released code",
       {},
       maker<StaticSparse>()},
      {"gmp",
       "gradual magnitude pruning: cubic sparsity, nothing grows back",
       "arXiv 1710.01878, equation 1",
       "released code",
       {{"scope", S("global")}, {"distribution", S("uniform")}},
       maker<GradualMagnitude>()},
      {"set",
       "sparse evolutionary training: drop the smallest, grow at random",
       "arXiv 1707.04780; as in the RigL code",
       "released code",
       {{"grow_criterion", S("random")}},
       maker<DynamicSparse>()},
      {"rigl",
       "drop the smallest, grow where the dense gradient is largest",
       "arXiv 1911.11134, Algorithm 1",
       "released code",
       {{"grow_criterion", S("gradient")}, {"skip_optimizer_on_update", true}},
       maker<DynamicSparse>()},
      granet_info(),
      chase_info(),
  };
  return table;
}

const MethodInfo& method_info(const std::string& name) {
  std::vector<std::string> names;
  for (const auto& info : methods()) {
    if (info.name == name) return info;
    names.push_back(info.name);
  }
  throw ArgumentError(str("unknown sparsity method '", name, "'", did_you_mean(name, names)));
}

}  // namespace glyptic::sparsity
