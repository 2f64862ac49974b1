#include "glyptic/sparsity/granet.h"

#include "glyptic/core/error.h"
#include "glyptic/sparsity/schedule.h"

namespace glyptic::sparsity {

namespace {

class GraNet final : public Method {
 public:
  explicit GraNet(const SparsityOptions& o)
      : Method(o),
        prune_begin_(step_at(o.prune_begin, o.total_steps)),
        prune_end_(std::max<int64_t>(1, step_at(o.prune_end, o.total_steps))),
        end_(step_at(o.end, o.total_steps)),
        share_(drop_schedule(o.drop_schedule, o.drop_fraction, o.drop_floor > 0 ? o.total_steps : end_,
                             o.drop_floor, o.drop_power)),
        drop_(criterion_from_name(o.drop_criterion, "sparsity.drop_criterion")),
        grow_(criterion_from_name(o.grow_criterion, "sparsity.grow_criterion")) {
    require(o.initial_sparsity <= 1 - o.density + 1e-12, "sparsity.initial_sparsity is ", o.initial_sparsity,
            ", above the final sparsity ", 1 - o.density, "; lower it, or lower sparsity.density");
  }

  std::vector<int64_t> initial_counts(const std::vector<Layer>& layers) const override {
    return counts_at(1 - options_.initial_sparsity, layers);
  }

  // Pruning has an event of its own at its last step, so that the final sparsity is exact whatever the
  // interval.
  bool due(int64_t t) const override {
    if (options_.density == 1) return false;
    return t == prune_end_ ||
           (t % options_.update_every == 0 && t > prune_begin_ && t < std::max(prune_end_, end_));
  }

  void update(EventContext& event) override {
    auto& edit = event.editor;
    const double sparsity =
        cubic_sparsity(event.step, options_.initial_sparsity, 1 - options_.density, prune_begin_, prune_end_);
    const auto target = static_cast<int64_t>(std::llround((1 - sparsity) * static_cast<double>(edit.size())));
    edit.keep_global(std::min(target, edit.active()), drop_);
    if (event.step < end_)
      edit.exchange(share_(event.step), options_.drop_rounding == "ceil", options_.scope == "global", drop_,
                    grow_);
  }

 private:
  int64_t prune_begin_, prune_end_, end_;
  Schedule share_;
  Criterion drop_, grow_;
};

}  // namespace

MethodInfo granet_info() {
  using S = std::string;
  MethodInfo info;
  info.name = "granet";
  info.summary = "gradual pruning with regeneration: cubic global pruning, then drop and grow in each layer";
  info.reference = "arXiv 2106.10404, released code";
  info.source = "released code";
  info.presets = {{"initial_sparsity", 0.5}, {"prune_end", 0.6875},          {"end", 1.0},
                  {"drop_fraction", 0.5},    {"drop_floor", 0.005},          {"drop_rounding", S("ceil")},
                  {"scope", S("layer")},     {"update_every", int64_t{1000}}};
  info.make = [](const SparsityOptions& o, const std::vector<Layer>&, const std::vector<nn::ChannelGroup>&) {
    return std::unique_ptr<Method>(std::make_unique<GraNet>(o));
  };
  return info;
}

}  // namespace glyptic::sparsity
