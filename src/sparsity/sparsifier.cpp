#include "glyptic/sparsity/sparsifier.h"

#include <fnmatch.h>
#include <torch/torch.h>

#include <sstream>

#include "glyptic/core/distributed.h"
#include "glyptic/core/error.h"
#include "glyptic/core/log.h"

namespace glyptic::sparsity {

namespace {

// Weights under control, so that two engines cannot fight over one. A tensor's identity is its
// implementation.
struct Controlled {
  std::mutex mutex;
  std::set<const void*> tensors;
};
Controlled& controlled() {
  static Controlled instance;
  return instance;
}

at::Tensor pack_bits(const at::Tensor& mask) {
  const auto flat = mask.to(at::kCPU).contiguous().view(-1).to(at::kByte);
  auto packed = at::zeros({(flat.numel() + 7) / 8}, at::kByte);
  const auto* in = flat.data_ptr<uint8_t>();
  auto* out = packed.data_ptr<uint8_t>();
  for (int64_t i = 0; i < flat.numel(); ++i)
    out[i / 8] = static_cast<uint8_t>(out[i / 8] | (in[i] << (i % 8)));
  return packed;
}

at::Tensor unpack_bits(const at::Tensor& packed, const at::Tensor& like) {
  auto mask = at::empty(like.sizes(), at::kBool);
  const auto bytes = packed.contiguous();
  const auto* in = bytes.data_ptr<uint8_t>();
  auto* out = mask.data_ptr<bool>();
  for (int64_t i = 0; i < mask.numel(); ++i) out[i] = ((in[i / 8] >> (i % 8)) & 1) != 0;
  return mask;
}

const std::string kPrefix = "sparsity.";

// What a run was made with, by name. The process group is where it runs, not what it is.
std::map<std::string, std::string> texts_of(SparsityOptions options) {
  Options declared;
  options.declare(declared);
  std::map<std::string, std::string> result;
  for (const auto& option : declared.list())
    if (option.name != "process_group") result[option.name] = to_text(option.get());
  return result;
}

// How many weights there are and where: the masks of one answer do not fit another.
const std::set<std::string> kIdentity{"method",           "density",           "distribution", "erk_power",
                                      "custom_density",   "first_layer_dense", "exclude",      "bernoulli",
                                      "last_layer_dense", "min_per_layer"};

at::Tensor text_tensor(const std::string& text) {
  auto result = at::empty({static_cast<int64_t>(text.size())}, at::kByte);
  std::copy(text.begin(), text.end(), result.data_ptr<uint8_t>());
  return result;
}

}  // namespace

std::vector<std::string> select_layers(const std::vector<std::string>& prunable,
                                       const SparsityOptions& options) {
  std::vector<std::string> selected;
  std::set<std::string> unused(options.exclude.begin(), options.exclude.end());
  for (std::size_t i = 0; i < prunable.size(); ++i) {
    bool out =
        (options.first_layer_dense && i == 0) || (options.last_layer_dense && i + 1 == prunable.size());
    for (const auto& pattern : options.exclude) {
      if (fnmatch(pattern.c_str(), prunable[i].c_str(), 0) == 0) {
        out = true;
        unused.erase(pattern);
      }
    }
    if (!out) selected.push_back(prunable[i]);
  }
  for (const auto& pattern : unused)
    throw ArgumentError(str("sparsity.exclude names '", pattern, "', which matches no prunable tensor",
                            did_you_mean(pattern, prunable)));
  return selected;
}

Sparsifier::Sparsifier(NamedTensors parameters, const std::vector<std::string>& prunable,
                       SparsityOptions options, std::vector<nn::ChannelGroup> groups,
                       const NamedTensors& state)
    : options_(std::move(options)), parameters_(std::move(parameters)) {
  const at::NoGradGuard no_grad;
  options_.check();
  check_names(parameters_, "parameters");
  const auto& info = method_info(options_.method);
  layer_of_parameter_.assign(parameters_.size(), std::string::npos);
  for (const auto& name : select_layers(prunable, options_)) {
    const auto& weight = get(parameters_, name);
    require(weight.dim() >= 2 && weight.numel() > 0, "'", name, "' has shape ", shape_string(weight.sizes()),
            "; only weights with two or more dimensions are prunable");
    require(at::isFloatingType(weight.scalar_type()), "'", name, "' is not of a floating type");
    layers_.push_back({name, weight, at::Tensor(), 0});
  }
  require(!layers_.empty(), "there is no prunable tensor: nothing to make sparse");
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    for (std::size_t p = 0; p < parameters_.size(); ++p) {
      if (parameters_[p].name != layers_[l].name) continue;
      layer_of_parameter_[p] = l;
      parameter_of_layer_.push_back(p);
    }
  }
  method_ = info.make(options_, layers_, groups);
  if (state.empty()) {
    draw_masks();
  } else {
    for (auto& layer : layers_) {
      layer.mask = at::ones_like(layer.weight, layer.weight.options().dtype(at::kBool).requires_grad(false));
      explored_.push_back(layer.mask.clone());
    }
    check_state(state, /*strict=*/true);
  }
  if (!options_.process_group.empty()) {
    reduce_scores = [group = options_.process_group](ops::TensorList& scores) {
      all_reduce_mean(scores, group);
    };
  }
  {
    auto& registry = controlled();
    const std::lock_guard<std::mutex> lock(registry.mutex);
    for (const auto& layer : layers_)
      require(registry.tensors.count(layer.weight.unsafeGetTensorImpl()) == 0, "'", layer.name,
              "' is already controlled by another sparsifier; call remove() on that one first");
    for (const auto& layer : layers_) registry.tensors.insert(layer.weight.unsafeGetTensorImpl());
  }
  try {
    if (state.empty())
      apply_masks();
    else
      load_state(state);
  } catch (...) {
    remove();  // the destructor, which gives the tensors back, does not run
    throw;
  }
}

// Random masks of exact counts: the k positions with the largest random words.
void Sparsifier::draw_masks() {
  const RngStream rng(options_.seed, "sparsity/init");
  const auto counts = method_->initial_counts(layers_);
  ops::TensorList weights;
  for (const auto& layer : layers_) weights.push_back(layer.weight);
  ops::TensorList masks;
  if (options_.bernoulli) {
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      const double p = static_cast<double>(counts[l]) / static_cast<double>(layers_[l].size());
      masks.push_back(rng.child(l).uniform_tensor(weights[l].sizes(), 0, 1).lt(p).to(weights[l].device()));
    }
  } else {
    ops::TopKArgs args;
    args.score = ops::Score::random;
    args.seed = rng.seed();
    args.stream = rng.stream();
    masks = ops::topk_masks(weights, {}, {}, {}, counts, false, args);
  }
  if (!options_.process_group.empty()) broadcast(masks, options_.process_group);
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    layers_[l].mask = masks[l];
    layers_[l].active = masks[l].sum().item<int64_t>();
    explored_.push_back(masks[l].clone());
  }
}

Sparsifier::~Sparsifier() {
  remove();
}

void Sparsifier::remove() {
  if (removed_) return;
  removed_ = true;
  auto& registry = controlled();
  const std::lock_guard<std::mutex> lock(registry.mutex);
  for (const auto& layer : layers_) registry.tensors.erase(layer.weight.unsafeGetTensorImpl());
}

void Sparsifier::apply_masks() {
  const at::NoGradGuard no_grad;
  ops::TensorList weights, masks;
  for (const auto& layer : layers_) {
    weights.push_back(layer.weight);
    masks.push_back(layer.mask);
  }
  ops::mask_apply_(weights, masks);
}

Sparsifier::StepPlan Sparsifier::begin_step() const {
  require(!removed_, "the sparsifier was removed from its network; make a new one");
  StepPlan plan;
  plan.step = step_ + 1;
  plan.masks_change = method_->due(plan.step);
  plan.run_optimizer = !(plan.masks_change && options_.skip_optimizer_on_update);
  return plan;
}

std::vector<ParameterState> Sparsifier::layer_states(const std::vector<ParameterState>& states) const {
  std::vector<ParameterState> result;
  for (const auto p : parameter_of_layer_) result.push_back(states[p]);
  return result;
}

void Sparsifier::end_step(const std::vector<ParameterState>& states, bool masked, bool skipped) {
  require(states.size() == parameters_.size(), "end_step was given ", states.size(), " states for ",
          parameters_.size(), " parameters");
  const auto plan = begin_step();
  if (skipped) return;
  const at::NoGradGuard no_grad;
  if (options_.score_steps > 1) accumulate(states);
  if (plan.masks_change) {
    step_ = plan.step;
    update_masks(states);
    return;
  }
  step_ = plan.step;
  if (masked) return;
  ops::TensorList tensors, masks;
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    tensors.push_back(layers_[l].weight);
    masks.push_back(layers_[l].mask);
    for (const auto& state : states[parameter_of_layer_[l]].state) {
      tensors.push_back(state);
      masks.push_back(layers_[l].mask);
    }
  }
  ops::mask_apply_(tensors, masks);
}

// Sums gradients over the last `score_steps` steps before an event. The next event is found by asking the
// method.
void Sparsifier::accumulate(const std::vector<ParameterState>& states) {
  const int64_t now = step_ + 1;
  bool near = false;
  for (int64_t t = now; t < now + options_.score_steps && !near; ++t) near = method_->due(t);
  if (!near) return;
  if (score_sums_.empty())
    for (const auto& layer : layers_) score_sums_.push_back(at::zeros_like(layer.weight));
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const auto& grad = states[parameter_of_layer_[l]].grad;
    if (grad.defined()) score_sums_[l].add_(grad);
  }
}

void Sparsifier::update_masks(const std::vector<ParameterState>& states) {
  auto by_layer = layer_states(states);
  if (!score_sums_.empty()) {
    for (std::size_t l = 0; l < layers_.size(); ++l) by_layer[l].grad = score_sums_[l];
  }
  if (reduce_scores) {
    ops::TensorList grads;
    for (auto& state : by_layer) {
      if (state.grad.defined()) state.grad = state.grad.clone();  // the optimizer's own stay as they are
      grads.push_back(state.grad);
    }
    reduce_scores(grads);
  }
  MaskEditor editor(layers_, by_layer,
                    RngStream(options_.seed, "sparsity/event").child(static_cast<uint64_t>(step_)),
                    options_.mest_lambda, options_.drop_noise);
  EventContext event{step_, editor, layers_, by_layer, parameters_, states};
  method_->update(event);
  const bool initialize = options_.grow_init != "zeros" || options_.grow_state != "zero";
  const auto report = editor.commit(initialize);
  if (initialize) initialize_grown(editor, by_layer);
  score_sums_.clear();
  for (const auto& layer : layers_)
    if (layer.active == 0 && collapsed_.insert(layer.name).second)
      log::warn(str("layer collapse: '", layer.name, "' has no weight left after step ", step_,
                    "; a higher density or scope = layer keeps some"));
  ++event_count_;
  int64_t live = 0;
  for (const auto& entry : method_->liveness()) live += entry.tensor.sum().item<int64_t>();
  events_.push_back({step_, report.dropped, report.grown, report.active, live});
  for (std::size_t l = 0; l < layers_.size(); ++l) explored_[l].logical_or_(layers_[l].mask);
}

void Sparsifier::initialize_grown(const MaskEditor& editor, const std::vector<ParameterState>& states) {
  const bool values = options_.grow_init != "zeros", state = options_.grow_state != "zero";
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const auto& grown = editor.grown()[l];
    if (!grown.defined()) continue;
    auto& layer = layers_[l];
    const auto old = layer.mask.logical_and(grown.logical_not());
    if (values) {
      const RngStream rng =
          RngStream(options_.seed, "sparsity/grow").child(static_cast<uint64_t>(step_)).child(l);
      const auto kept = layer.weight.masked_select(old);
      at::Tensor value;
      if (options_.grow_init == "random_normal") {
        value = rng.normal(layer.weight.sizes()).to(layer.weight.device()) *
                (kept.numel() > 1 ? kept.std() : at::zeros({}, kept.options()));
      } else if (options_.grow_init == "random_uniform") {
        value = rng.uniform_tensor(layer.weight.sizes(), -1, 1).to(layer.weight.device()) *
                (kept.numel() > 0 ? kept.abs().mean() : at::zeros({}, kept.options()));
      } else {
        require(states[l].grad.defined(), "grow_init is 'gradient', but '", layer.name, "' has no gradient");
        value = -states[l].grad;
      }
      layer.weight.copy_(at::where(grown, options_.grow_scale * value, layer.weight));
    }
    if (state) {
      for (auto tensor : states[l].state) {
        const auto kept = tensor.masked_select(old);
        if (kept.numel() > 0) tensor.masked_fill_(grown, kept.mean());
      }
    }
  }
}

std::vector<at::Tensor> Sparsifier::parameter_masks() const {
  std::vector<at::Tensor> result;
  for (const auto l : layer_of_parameter_)
    result.push_back(l == std::string::npos ? at::Tensor() : layers_[l].mask);
  return result;
}

NamedTensors Sparsifier::masks() const {
  NamedTensors result;
  for (const auto& layer : layers_) result.push_back({layer.name, layer.mask});
  return result;
}

Sparsifier::Stats Sparsifier::stats() const {
  Stats stats;
  stats.step = step_;
  stats.events = event_count_;
  for (const auto& parameter : parameters_) stats.parameters += parameter.tensor.numel();
  int64_t explored = 0;
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const auto& layer = layers_[l];
    stats.layers.push_back({layer.name, layer.weight.sizes().vec(), layer.active, layer.size()});
    stats.active += layer.active;
    stats.size += layer.size();
    explored += explored_[l].sum().item<int64_t>();
  }
  stats.parameters_active = stats.parameters - stats.size + stats.active;
  stats.explored = static_cast<double>(explored) / static_cast<double>(stats.size);
  for (const auto& entry : method_->liveness()) {
    stats.live_channels += entry.tensor.sum().item<int64_t>();
    stats.channels += entry.tensor.numel();
  }
  return stats;
}

NamedTensors Sparsifier::state() const {
  NamedTensors result;
  std::string options;
  for (const auto& [name, value] : texts_of(options_)) options += str(name, " = ", value, "\n");
  result.push_back({kPrefix + "options", text_tensor(options)});
  result.push_back({kPrefix + "step", at::tensor({step_, event_count_}, at::kLong)});
  auto events = at::empty({static_cast<int64_t>(events_.size()), 5}, at::kLong);
  for (std::size_t i = 0; i < events_.size(); ++i) {
    const auto& e = events_[i];
    const int64_t row[] = {e.step, e.dropped, e.grown, e.active, e.live_channels};
    std::copy(std::begin(row), std::end(row), events.data_ptr<int64_t>() + 5 * i);
  }
  result.push_back({kPrefix + "events", events});
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    result.push_back({kPrefix + "mask." + layers_[l].name, pack_bits(layers_[l].mask)});
    result.push_back({kPrefix + "explored." + layers_[l].name, pack_bits(explored_[l])});
    if (!score_sums_.empty()) result.push_back({kPrefix + "scores." + layers_[l].name, score_sums_[l]});
  }
  for (const auto& entry : method_->state())
    result.push_back({kPrefix + "method." + entry.name, entry.tensor});
  return result;
}

void Sparsifier::check_state(const NamedTensors& state, bool strict) const {
  if (const auto* packed = find(state, kPrefix + "options")) {
    require(packed->scalar_type() == at::kByte, "the saved options are not text; the state is damaged");
    const auto bytes = packed->cpu().contiguous();
    const auto* begin = bytes.data_ptr<uint8_t>();
    std::istringstream lines(std::string(begin, begin + bytes.numel()));
    auto here = texts_of(options_);
    std::vector<std::string> different;
    bool fixed = false, of_method = false;
    for (std::string line; std::getline(lines, line);) {
      const auto split = line.find(" = ");
      const auto name = line.substr(0, split);
      if (split == std::string::npos || here.count(name) == 0) continue;
      const auto saved = line.substr(split + 3);
      if (saved == here[name] || (!strict && kIdentity.count(name) == 0)) continue;
      fixed = fixed || kIdentity.count(name) != 0;
      const auto text = str(name, " = ", saved, " (here ", here[name], ")");
      if (name == "method") {
        of_method = true;  // which brings its own presets: they need no listing
        different = {text};
      } else if (!of_method) {
        different.push_back(text);
      }
    }
    if (!different.empty()) {
      std::string all;
      for (std::size_t i = 0; i < std::min<std::size_t>(different.size(), 4); ++i)
        all += (i ? ", " : "") + different[i];
      if (different.size() > 4) all += str(" and ", different.size() - 4, " more");
      throw ArgumentError(
          str("the saved state is of a run with ", all, "; make the sparsifier with the same",
              fixed ? "" : ", or load it with strict=False to go on by the options given here"));
    }
  }
  for (const auto& layer : layers_) {
    for (const char* kind : {"mask.", "explored."}) {
      const auto* packed = find(state, kPrefix + kind + layer.name);
      require(packed != nullptr, "the saved state has no mask for '", layer.name,
              "'; it belongs to another network");
      require(packed->scalar_type() == at::kByte && packed->numel() == (layer.size() + 7) / 8,
              "the saved mask of '", layer.name, "' holds ", packed->numel(), " bytes, but shape ",
              shape_string(layer.weight.sizes()), " needs ", (layer.size() + 7) / 8);
    }
    const auto* sums = find(state, kPrefix + "scores." + layer.name);
    require(sums == nullptr || sums->sizes() == layer.weight.sizes(), "the saved score of '", layer.name,
            "' has shape ", sums ? shape_string(sums->sizes()) : "", ", expected ",
            shape_string(layer.weight.sizes()));
  }
  for (const auto& entry : state) {
    const std::string start = kPrefix + "mask.";
    if (entry.name.rfind(start, 0) != 0) continue;
    const auto name = entry.name.substr(start.size());
    require(
        std::any_of(layers_.begin(), layers_.end(), [&](const Layer& layer) { return layer.name == name; }),
        "the saved state has a mask for '", name, "', which is not prunable here");
  }
  const auto& counters = get(state, kPrefix + "step");
  const auto& events = get(state, kPrefix + "events");
  require(counters.numel() == 2 && counters.scalar_type() == at::kLong && events.dim() == 2 &&
              events.size(1) == 5 && events.scalar_type() == at::kLong,
          "the saved state's step or events have the wrong shape");
}

void Sparsifier::load_state(const NamedTensors& state, bool strict) {
  const at::NoGradGuard no_grad;
  check_state(state, strict);  // all of it, before anything is changed
  const auto& counters = get(state, kPrefix + "step");
  const auto& events = get(state, kPrefix + "events");
  NamedTensors of_method;
  for (const auto& entry : state) {
    const std::string start = kPrefix + "method.";
    if (entry.name.rfind(start, 0) == 0) of_method.push_back({entry.name.substr(start.size()), entry.tensor});
  }
  method_->load_state(of_method);
  step_ = counters.data_ptr<int64_t>()[0];
  event_count_ = counters.data_ptr<int64_t>()[1];
  events_.clear();
  const auto table = events.contiguous();
  for (int64_t i = 0; i < table.size(0); ++i) {
    const auto* row = table.data_ptr<int64_t>() + 5 * i;
    events_.push_back({row[0], row[1], row[2], row[3], row[4]});
  }
  score_sums_.clear();
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    auto& layer = layers_[l];
    layer.mask.copy_(unpack_bits(get(state, kPrefix + "mask." + layer.name), layer.weight));
    explored_[l].copy_(unpack_bits(get(state, kPrefix + "explored." + layer.name), layer.weight));
    layer.active = layer.mask.sum().item<int64_t>();
    if (const auto* sums = find(state, kPrefix + "scores." + layer.name))
      score_sums_.push_back(aligned_copy(*sums).to(layer.weight.device()));
  }
  apply_masks();
}

}  // namespace glyptic::sparsity
