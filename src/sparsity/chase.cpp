#include "glyptic/sparsity/chase.h"

#include <torch/torch.h>

#include "glyptic/core/error.h"
#include "glyptic/core/log.h"
#include "glyptic/sparsity/distribution.h"
#include "glyptic/sparsity/schedule.h"

namespace glyptic::sparsity {

namespace {

ops::ChannelScore channel_score_from_name(const std::string& name) {
  if (name == "umm") return ops::ChannelScore::umm;
  if (name == "masked_mean") return ops::ChannelScore::masked_mean;
  if (name == "density") return ops::ChannelScore::density;
  if (name == "kernel_density") return ops::ChannelScore::kernel_density;
  throw ArgumentError(str("channel_score is '", name, "'",
                          did_you_mean(name, {"umm", "masked_mean", "density", "kernel_density"})));
}

int64_t find_layer(const std::vector<Layer>& layers, const std::string& name) {
  for (std::size_t l = 0; l < layers.size(); ++l)
    if (layers[l].name == name) return static_cast<int64_t>(l);
  return -1;
}

// Where channels `js` of a space lie in dimension `slice.dim` of the tensor that reads them.
std::vector<int64_t> positions(const nn::Slice& slice, const std::vector<int64_t>& js) {
  std::vector<int64_t> at;
  for (const auto j : js)
    for (int64_t r = 0; r < slice.repeat; ++r) at.push_back(slice.offset + j * slice.repeat + r);
  return at;
}

std::vector<int64_t> dead_channels(const ChannelState& channel) {
  std::vector<int64_t> dead;
  const auto* alive = channel.alive.data_ptr<bool>();
  for (int64_t j = 0; j < channel.group.channels; ++j)
    if (!alive[j]) dead.push_back(j);
  return dead;
}

at::Tensor index_tensor(const std::vector<int64_t>& values, const at::Device& device) {
  return at::tensor(values, at::kLong).to(device);
}

}  // namespace

std::vector<std::vector<int64_t>> rank_channels(const std::vector<ChannelState>& channels,
                                                const std::vector<at::Tensor>& scores, int64_t target) {
  struct Entry {
    float score;
    std::size_t group;
    int64_t channel;
  };
  std::vector<Entry> entries;
  int64_t live = 0;
  std::vector<int64_t> left;
  for (std::size_t g = 0; g < channels.size(); ++g) {
    const auto score = scores[g].to(at::kCPU, at::kFloat).contiguous();
    const auto* value = score.data_ptr<float>();
    const auto* alive = channels[g].alive.data_ptr<bool>();
    for (int64_t j = 0; j < channels[g].group.channels; ++j) {
      if (!alive[j]) continue;
      require(std::isfinite(value[j]), "the score of channel ", j, " of '", channels[g].group.active,
              "' is not finite");
      entries.push_back({value[j], g, j});
    }
    live += channels[g].live;
    left.push_back(channels[g].live);
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.score < b.score; });
  std::vector<std::vector<int64_t>> removed(channels.size());
  for (const auto& entry : entries) {
    if (live <= target) break;
    if (left[entry.group] <= channels[entry.group].floor) continue;
    removed[entry.group].push_back(entry.channel);
    --left[entry.group];
    --live;
  }
  for (auto& list : removed) std::sort(list.begin(), list.end());
  return removed;
}

Chase::Chase(const SparsityOptions& options, const std::vector<Layer>& layers,
             const std::vector<nn::ChannelGroup>& groups)
    : Method(options) {
  const auto& o = options_;
  if (options_.channel_every == 0) options_.channel_every = o.update_every;
  if (options_.channel_offset < 0) options_.channel_offset = o.update_every / 2;
  channel_end_ = std::llround(o.channel_until * static_cast<double>(o.total_steps));
  hard_begin_ = o.total_steps - std::llround(o.hard_phase * static_cast<double>(o.total_steps));
  for (const auto& layer : layers) total_weights_ += layer.size();
  target_ = std::llround(o.density * static_cast<double>(total_weights_));

  int64_t smallest = 0;
  for (const auto& group : groups) {
    const auto masked = [&](const std::string& name) { return find_layer(layers, name) >= 0; };
    bool usable = masked(group.active);
    for (const auto& slice : group.passive) usable = usable && masked(slice.tensor);
    if (!usable) continue;  // a layer exempt from masks cannot give up channels
    ChannelState state{group, at::ones({group.channels}, at::kBool), group.channels, 1};
    state.floor = std::max<int64_t>(
        1, static_cast<int64_t>(std::floor(
               static_cast<double>(group.channels) * (1 - o.channel_sparsity) * o.channel_floor + 1e-9)));
    smallest += state.floor;
    total_channels_ += group.channels;
    channels_.push_back(std::move(state));
  }
  if (o.channel_sparsity == 0) {
    channels_.clear();
    total_channels_ = 0;
    return;
  }
  require(!channels_.empty(), "channel_sparsity is ", o.channel_sparsity,
          ", but the network has no group of channels "
          "that could be removed (a masked layer whose channels only masked layers read); set "
          "channel_sparsity to 0");
  const auto last = static_cast<int64_t>(
      std::floor(static_cast<double>(total_channels_) * (1 - o.channel_sparsity) + 1e-9));
  require(smallest <= std::max(last, static_cast<int64_t>(channels_.size())), "channel_floor is ",
          o.channel_floor, ": the floors keep ", smallest, " of ", total_channels_,
          " channels, so channel_sparsity ", o.channel_sparsity, " (", last,
          " channels) is out of reach; at most ",
          1 - static_cast<double>(smallest) / static_cast<double>(total_channels_), " is");
  if (options_.channel_every % o.update_every == 0 && options_.channel_offset % o.update_every == 0)
    log::warn(
        "channel removals coincide with explorations: channels are judged before their new weights were "
        "trained");
  // What a removal takes only an exploration gives back. Where the interval leaves none between the last
  // removal and the end, one joins that removal, so that the run ends with K* weights.
  const auto next = (channel_end_ + o.update_every - 1) / o.update_every * o.update_every;
  explore_at_channel_end_ = next >= o.total_steps && channel_end_ < o.total_steps;
  if (channel_end_ >= o.total_steps && o.density < 1)
    log::warn(
        "channel_until is 1: the last channels go at the last step, where nothing can grow any more, so that "
        "the run ends below its density; 0.8 leaves time");
}

double Chase::channel_rate(int64_t step) const {
  if (options_.channel_schedule == "cosine") {
    const double x =
        std::min(1.0, static_cast<double>(step) / static_cast<double>(std::max<int64_t>(channel_end_, 1)));
    return options_.channel_sparsity * (1 - std::cos(M_PI * x)) / 2;
  }
  return cubic_sparsity(step, 0, options_.channel_sparsity, 0, channel_end_);
}

double Chase::soft_bound(int64_t step) const {
  const double x =
      std::min(1.0, static_cast<double>(step) / static_cast<double>(std::max<int64_t>(hard_begin_, 1)));
  return options_.density + options_.soft_floor +
         (options_.soft_extra - options_.soft_floor) * (1 + std::cos(M_PI * x)) / 2;
}

// One more removal at T_c itself, where the rate is exactly S_c: the reference stops up to one interval short
// of it.
bool Chase::removal_due(int64_t t) const {
  if (channels_.empty()) return false;
  return ((t + options_.channel_offset) % options_.channel_every == 0 && t < channel_end_) ||
         t == channel_end_;
}

bool Chase::exploration_due(int64_t t) const {
  if (options_.density == 1) return false;
  return t % options_.update_every == 0 || t == options_.total_steps ||
         (explore_at_channel_end_ && t == channel_end_);
}

bool Chase::due(int64_t t) const {
  return removal_due(t) || exploration_due(t);
}

void Chase::update(EventContext& event) {
  const int64_t t = event.step;
  if (removal_due(t)) remove_channels(event);
  if (!exploration_due(t)) return;
  if (t == options_.total_steps) {
    // Nothing that grew now could be trained any more: only what is above the target goes.
    event.editor.keep_global(std::min(target_, event.editor.active()), Criterion::magnitude);
  } else if (t < hard_begin_) {
    explore_soft(event);
  } else {
    explore_hard(event);
  }
}

void Chase::remove_channels(EventContext& event) {
  const auto target = static_cast<int64_t>(
      std::floor(static_cast<double>(total_channels_) * (1 - channel_rate(event.step)) + 1e-9));
  int64_t live = 0;
  for (const auto& channel : channels_) live += channel.live;
  if (live <= target) return;

  ops::TensorList weights, masks;
  for (const auto& channel : channels_) {
    const auto l = static_cast<std::size_t>(find_layer(event.layers, channel.group.active));
    weights.push_back(event.layers[l].weight);
    masks.push_back(event.layers[l].mask);
  }
  const auto scores = ops::channel_scores(weights, masks, channel_score_from_name(options_.channel_score));
  const auto removed = rank_channels(channels_, scores, target);

  // Row j of the active weight, its bias, input slice j of every reader: mask, weight and optimizer state go
  // to zero.
  const auto zero = [&](const std::string& name, int64_t dim, const std::vector<int64_t>& at) {
    if (const auto l = find_layer(event.layers, name); l >= 0)
      event.layers[static_cast<std::size_t>(l)].mask.index_fill_(
          dim, index_tensor(at, event.layers[static_cast<std::size_t>(l)].mask.device()), 0);
    for (std::size_t p = 0; p < event.parameters.size(); ++p) {
      if (event.parameters[p].name != name) continue;
      auto weight = event.parameters[p].tensor;
      const auto index = index_tensor(at, weight.device());
      weight.index_fill_(dim, index, 0);
      for (auto state : event.parameter_states[p].state) state.index_fill_(dim, index, 0);
    }
  };
  for (std::size_t g = 0; g < channels_.size(); ++g) {
    if (removed[g].empty()) continue;
    auto& channel = channels_[g];
    auto* alive = channel.alive.data_ptr<bool>();
    for (const auto j : removed[g]) alive[j] = false;
    channel.live -= static_cast<int64_t>(removed[g].size());
    live -= static_cast<int64_t>(removed[g].size());
    zero(channel.group.active, 0, removed[g]);
    for (const auto& slice : channel.group.passive)
      zero(slice.tensor, slice.dim, positions(slice, removed[g]));
    const auto& name = channel.group.active;
    const auto dot = name.rfind("weight");
    if (dot == std::string::npos) continue;
    const std::string bias = name.substr(0, dot) + "bias";
    for (const auto& companion : channel.group.companions)
      if (companion.tensor == bias) zero(bias, 0, removed[g]);
  }
  for (auto& layer : event.layers) layer.active = layer.mask.sum().item<int64_t>();
  if (live > target)
    log::warn(str("channel removal stopped at ", live, " live channels of ", target,
                  ": every group is at its floor"));
}

void Chase::explore_soft(EventContext& event) {
  auto& edit = event.editor;
  edit.set_dead(dead_positions(event.layers));
  const int64_t active = edit.active();
  const int64_t bound = std::min(
      total_weights_,
      static_cast<int64_t>(std::floor(static_cast<double>(total_weights_) * soft_bound(event.step) + 1e-9)));
  if (options_.scope == "layer_erk") {
    const auto counts = edit.counts();
    const double share =
        active > 0 ? static_cast<double>(std::min(target_, active)) / static_cast<double>(active) : 1;
    edit.keep(layer_counts(std::vector<double>(counts.size(), share), counts, std::min(target_, active), 0),
              Criterion::magnitude);
  } else {
    edit.keep_global(std::min(target_, active), Criterion::magnitude);
  }
  grow_to(event, bound);
}

void Chase::explore_hard(EventContext& event) {
  auto& edit = event.editor;
  edit.set_dead(dead_positions(event.layers));
  const auto fraction = drop_schedule(options_.drop_schedule, options_.drop_fraction, options_.total_steps,
                                      options_.drop_floor, options_.drop_power)(event.step);
  const int64_t active = edit.active();
  const auto dropped = static_cast<int64_t>(std::ceil(fraction * static_cast<double>(active) - 1e-9));
  const int64_t kept = std::min(target_, active - std::min(dropped, active));
  if (options_.scope == "layer_erk") {
    const auto counts = edit.counts();
    const double share = active > 0 ? static_cast<double>(kept) / static_cast<double>(active) : 1;
    edit.keep(layer_counts(std::vector<double>(counts.size(), share), counts, kept, 0), Criterion::magnitude);
  } else {
    edit.keep_global(kept, Criterion::magnitude);
  }
  grow_to(event, target_);
}

void Chase::grow_to(EventContext& event, int64_t count) {
  auto& edit = event.editor;
  const auto grow_by = criterion_from_name(options_.grow_criterion, "sparsity.grow_criterion");
  const auto counts = edit.counts();
  const int64_t missing = count - std::accumulate(counts.begin(), counts.end(), int64_t{0});
  if (missing <= 0) return;
  if (options_.scope != "layer_erk") {
    edit.grow_global(missing, grow_by);
    return;
  }
  // ERK over the shapes that are left: rows and input slices of removed channels no longer count.
  std::vector<LayerShape> shapes;
  std::vector<int64_t> sizes;
  for (const auto& layer : event.layers) {
    auto shape = layer.weight.sizes().vec();
    for (const auto& channel : channels_) {
      const int64_t gone = channel.group.channels - channel.live;
      if (channel.group.active == layer.name) shape[0] -= gone;
      for (const auto& slice : channel.group.passive)
        if (slice.tensor == layer.name) shape[static_cast<std::size_t>(slice.dim)] -= gone * slice.repeat;
    }
    shapes.push_back({layer.name, shape});
    sizes.push_back(shapes.back().numel());
  }
  const int64_t live = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  const double density = std::min(1.0, static_cast<double>(count) / static_cast<double>(live));
  const auto wanted = layer_counts(layer_densities(shapes, density,
                                                   {.kind = distribution_from_name(options_.distribution),
                                                    .erk_power = options_.erk_power}),
                                   sizes, std::min(count, live), options_.min_per_layer);
  std::vector<int64_t> grow;
  int64_t total = 0;
  for (std::size_t l = 0; l < sizes.size(); ++l) {
    grow.push_back(std::max<int64_t>(0, wanted[l] - counts[l]));
    total += grow.back();
  }
  if (total > missing)  // some layer already holds more than its share, so the others get less than theirs
    grow = layer_counts(
        std::vector<double>(sizes.size(), static_cast<double>(missing) / static_cast<double>(total)), grow,
        missing, 0);
  edit.grow(grow, grow_by);
}

ops::TensorList Chase::dead_positions(const std::vector<Layer>& layers) const {
  const bool any = std::any_of(channels_.begin(), channels_.end(),
                               [](const ChannelState& c) { return c.live < c.group.channels; });
  if (!any) return {};
  ops::TensorList dead;
  for (const auto& layer : layers) dead.push_back(at::zeros_like(layer.mask));
  for (const auto& channel : channels_) {
    const auto gone = dead_channels(channel);
    if (gone.empty()) continue;
    const auto fill = [&](const std::string& name, int64_t dim, const std::vector<int64_t>& at) {
      auto& target = dead[static_cast<std::size_t>(find_layer(layers, name))];
      target.index_fill_(dim, index_tensor(at, target.device()), 1);
    };
    fill(channel.group.active, 0, gone);
    for (const auto& slice : channel.group.passive) fill(slice.tensor, slice.dim, positions(slice, gone));
  }
  return dead;
}

NamedTensors Chase::liveness() const {
  NamedTensors result;
  for (const auto& channel : channels_) result.push_back({channel.group.active, channel.alive.clone()});
  return result;
}

NamedTensors Chase::state() const {
  NamedTensors result;
  for (const auto& channel : channels_)
    result.push_back({"alive." + channel.group.active, channel.alive.clone()});
  return result;
}

void Chase::load_state(const NamedTensors& state) {
  for (const auto& channel : channels_) {
    const auto& alive = get(state, "alive." + channel.group.active);
    require(alive.scalar_type() == at::kBool && alive.numel() == channel.group.channels, "liveness of '",
            channel.group.active, "' has shape ", shape_string(alive.sizes()), ", expected [",
            channel.group.channels, "]");
  }
  for (auto& channel : channels_) {
    channel.alive.copy_(get(state, "alive." + channel.group.active));
    channel.live = channel.alive.sum().item<int64_t>();
  }
}

MethodInfo chase_info() {
  using S = std::string;
  MethodInfo info;
  info.name = "chase";
  info.summary =
      "channel-aware dynamic sparse training: global exploration, soft memory bound, channel removal";
  info.reference = "arXiv 2305.19454 (NeurIPS 2023), released code";
  info.source = "released code";
  info.presets = {{"scope", S("global")},
                  {"drop_fraction", 0.5},
                  {"drop_floor", 0.005},
                  {"drop_rounding", S("ceil")},
                  {"update_every", int64_t{1000}}};
  info.needs_groups = true;
  info.make = [](const SparsityOptions& o, const std::vector<Layer>& layers,
                 const std::vector<nn::ChannelGroup>& groups) {
    return std::unique_ptr<Method>(std::make_unique<Chase>(o, layers, groups));
  };
  return info;
}

}  // namespace glyptic::sparsity
