#include "glyptic/nn/model.h"

#include <torch/torch.h>

#include <ATen/autocast_mode.h>

#include <unordered_map>

#include "glyptic/core/error.h"
#include "init.h"
#include "shapes.h"

namespace glyptic::nn {

// One node with everything looked up beforehand: tensors by their index in the model, attributes as numbers.
struct Step {
  Op op = Op::identity;
  std::vector<int> inputs;
  std::vector<int> last_read;  // inputs that no later step reads
  int weight = -1, bias = -1, mean = -1, variance = -1, counter = -1;
  Window window;
  int64_t groups = 1;
  std::string pad_mode;  // "" when the operator itself pads with zeros
  double eps = 1e-5, momentum = 0.1, p = 0.5;
  std::vector<int64_t> index;  // gather, scatter
  std::vector<double> base;    // scatter: what stands where nothing is scattered
  int64_t channels = 0;
  uint64_t stream = 0;    // dropout
  bool in_place = false;  // may overwrite its first input
};

struct Program {
  std::vector<Step> steps;
  std::vector<int64_t> input_shape;
  std::string input_name;
};

namespace {

// Operators whose backward does not need their own result, so that a following relu or add may overwrite it.
bool result_is_free(Op op) {
  return op == Op::conv2d || op == Op::linear || op == Op::batch_norm || op == Op::group_norm ||
         op == Op::add;
}

std::shared_ptr<const Program> compile(const Graph& graph) {
  std::unordered_map<std::string, int> index;
  for (std::size_t i = 0; i < graph.tensors.size(); ++i)
    index.emplace(graph.tensors[i].name, static_cast<int>(i));
  std::vector<int> readers(graph.nodes.size(), 0), last(graph.nodes.size(), -1);
  for (std::size_t i = 0; i < graph.nodes.size(); ++i)
    for (const int input : graph.nodes[i].inputs) {
      ++readers[static_cast<std::size_t>(input)];
      last[static_cast<std::size_t>(input)] = static_cast<int>(i);
    }

  auto program = std::make_shared<Program>();
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    const auto& node = graph.nodes[i];
    Step step;
    step.op = node.op;
    step.inputs = node.inputs;
    for (const int input : std::set<int>(node.inputs.begin(), node.inputs.end()))
      if (last[static_cast<std::size_t>(input)] == static_cast<int>(i)) step.last_read.push_back(input);
    const auto tensor = [&](const char* role) {
      const auto name = node.tensor(role);
      return name.empty() ? -1 : index.at(name);
    };
    step.weight = tensor("weight");
    step.bias = tensor("bias");
    step.mean = tensor("running_mean");
    step.variance = tensor("running_var");
    step.counter = tensor("num_batches_tracked");
    step.eps = node.real("eps", 1e-5);
    step.momentum = node.real("momentum", 0.1);
    step.p = node.real("p", 0.5);
    step.index = node.integers("index", {});
    step.channels = node.integer("channels", 0);
    step.stream = stream_id(node.name);
    if (const auto base = node.attributes.find("base"); base != node.attributes.end())
      step.base = base->second.reals;
    switch (node.op) {
      case Op::input:
        program->input_shape = node.integers("shape", {});
        program->input_name = node.name;
        break;
      case Op::conv2d:
        step.window = read_conv_window(node, graph.tensors[static_cast<std::size_t>(step.weight)].shape);
        step.groups = node.integer("groups", 1);
        if (const auto mode = node.word("padding_mode", "zeros"); mode != "zeros") step.pad_mode = mode;
        break;
      case Op::group_norm:
        step.groups = node.integer("num_groups", 1);
        break;
      case Op::max_pool2d:
      case Op::avg_pool2d:
        step.window = read_pool_window(node);
        break;
      case Op::relu:
      case Op::add: {
        const auto first = static_cast<std::size_t>(node.inputs[0]);
        step.in_place = readers[first] == 1 && result_is_free(graph.nodes[first].op);
        break;
      }
      default:
        break;
    }
    program->steps.push_back(std::move(step));
  }
  return program;
}

c10::optional<at::Tensor> maybe(const NamedTensors& tensors, int index) {
  if (index < 0) return c10::nullopt;
  return tensors[static_cast<std::size_t>(index)].tensor;
}

at::Tensor maybe_in(const NamedTensors& tensors, int index, at::ScalarType dtype) {
  return index < 0 ? at::Tensor() : tensors[static_cast<std::size_t>(index)].tensor.to(dtype);
}

at::Tensor run_conv(const Step& step, const NamedTensors& tensors, at::Tensor x, at::ScalarType dtype) {
  const auto weight = maybe_in(tensors, step.weight, dtype);
  const auto bias = maybe_in(tensors, step.bias, dtype);
  const auto& window = step.window;
  at::IntArrayRef padding(window.padding, 2);
  constexpr int64_t kNone[] = {0, 0};
  if (!step.pad_mode.empty()) {
    x = at::pad(x, {padding[1], padding[1], padding[0], padding[0]}, step.pad_mode);
    padding = kNone;
  }
  return at::conv2d(x, weight, bias, window.stride, padding, window.dilation, step.groups);
}

at::Tensor run_batch_norm(const Step& step, const NamedTensors& tensors, const at::Tensor& x, bool training) {
  if (training) {
    require(x.numel() > x.size(1), "BatchNorm '", tensors[static_cast<std::size_t>(step.mean)].name,
            "': one value per channel has no variance; train on batches of two or more");
    if (step.counter >= 0) {
      const at::NoGradGuard no_grad;
      tensors[static_cast<std::size_t>(step.counter)].tensor.add_(1);
    }
  }
  return at::batch_norm(x, maybe(tensors, step.weight), maybe(tensors, step.bias), maybe(tensors, step.mean),
                        maybe(tensors, step.variance), training, step.momentum, step.eps,
                        at::globalContext().userEnabledCuDNN());
}

at::Tensor run_dropout(const Step& step, const at::Tensor& x, const std::optional<RngStream>& rng) {
  if (!rng) return at::dropout(x, step.p, true);
  const auto kept = rng->child(step.stream).uniform_tensor(x.sizes(), 0, 1).ge_(step.p);
  return x * kept.mul_(1.0 / (1.0 - step.p)).to(x.options());
}

at::Tensor index_tensor(const Step& step, const at::Device& device) {
  return at::tensor(step.index, at::kLong).to(device);
}

at::Tensor run_scatter(const Step& step, const at::Tensor& x) {
  auto sizes = x.sizes().vec();
  sizes[1] = step.channels;
  auto out = at::zeros(sizes, x.options());
  if (!step.base.empty()) {
    std::vector<int64_t> per_channel(sizes.size(), 1);
    per_channel[1] = step.channels;
    out += at::tensor(step.base, at::kDouble).to(x.options()).view(per_channel);
  }
  return out.index_copy(1, index_tensor(step, x.device()), x);
}

}  // namespace

Model::Model(Graph graph, const RngStream& rng) : graph_(std::move(graph)) {
  graph_.validate();
  program_ = compile(graph_);
  for (const auto& spec : graph_.tensors)
    tensors_.push_back(
        {spec.name, initial_value(spec, rng.child(stream_id(spec.name))).requires_grad_(spec.trainable)});
}

Model::Model(Graph graph, const NamedTensors& tensors) : graph_(std::move(graph)) {
  graph_.validate();
  program_ = compile(graph_);
  check_names(tensors, "Model");
  std::unordered_map<std::string, const at::Tensor*> given;
  for (const auto& entry : tensors) {
    require(graph_.find_tensor(entry.name) != nullptr, "Model: the graph has no tensor called '", entry.name,
            "'");
    given.emplace(entry.name, &entry.tensor);
  }
  for (const auto& spec : graph_.tensors) {
    const auto found = given.find(spec.name);
    require(found != given.end(), "Model: tensor '", spec.name, "' ", shape_string(spec.shape),
            " is missing");
    auto tensor = *found->second;
    require(tensor.sizes() == at::IntArrayRef(spec.shape), "Model: tensor '", spec.name, "' has shape ",
            shape_string(tensor.sizes()), ", expected ", shape_string(spec.shape));
    const bool counter = spec.dtype == "int64";
    require(counter ? tensor.scalar_type() == at::kLong : tensor.is_floating_point(), "Model: tensor '",
            spec.name, "' has dtype ", at::toString(tensor.scalar_type()), ", expected ",
            counter ? "Long" : "a floating-point one");
    require(!spec.trainable || tensor.is_leaf(), "Model: tensor '", spec.name,
            "' is the result of a computation; detach() it");
    if (spec.trainable) tensor.requires_grad_(true);
    tensors_.push_back({spec.name, tensor});
  }
}

at::Tensor Model::forward(const at::Tensor& x) const {
  return run(x, nullptr);
}

std::vector<at::Tensor> Model::forward_all(const at::Tensor& x) const {
  std::vector<at::Tensor> outputs;
  run(x, &outputs);
  return outputs;
}

at::Tensor Model::run(const at::Tensor& x, std::vector<at::Tensor>* outputs) const {
  const auto& expected = program_->input_shape;
  require(x.defined() && x.is_floating_point(), "Model::forward: the input must be a floating-point tensor");
  require(x.dim() == static_cast<int64_t>(expected.size()) + 1 && x.size(1) == expected[0],
          "Model::forward: the input has shape ", shape_string(x.sizes()), ", expected [N, ",
          shape_string(expected).substr(1));
  const bool autocast = at::autocast::is_autocast_enabled(x.device().type());

  std::vector<at::Tensor> values(program_->steps.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto& step = program_->steps[i];
    const auto in = [&](std::size_t k) -> at::Tensor& {
      return values[static_cast<std::size_t>(step.inputs[k])];
    };
    const bool in_place = step.in_place && outputs == nullptr;
    auto& out = values[i];
    switch (step.op) {
      case Op::input:
        out = x;
        break;
      case Op::conv2d:
      case Op::linear: {
        // Reduced-precision activations on float32 masters compute in the activations' dtype; under autocast,
        // autocast does it, and caches.
        const auto& weight = tensors_[static_cast<std::size_t>(step.weight)];
        const bool reduced = in(0).scalar_type() == at::kBFloat16 || in(0).scalar_type() == at::kHalf;
        const auto dtype = reduced && !autocast ? in(0).scalar_type() : weight.tensor.scalar_type();
        require(autocast || in(0).scalar_type() == dtype, "Model::forward: the activations are ",
                at::toString(in(0).scalar_type()), " but '", weight.name, "' is ", at::toString(dtype),
                "; convert one of them (Model::to)");
        out = step.op == Op::conv2d ? run_conv(step, tensors_, in(0), dtype)
                                    : at::linear(in(0), maybe_in(tensors_, step.weight, dtype),
                                                 maybe_in(tensors_, step.bias, dtype));
        break;
      }
      case Op::batch_norm:
        out = run_batch_norm(step, tensors_, in(0), training_);
        break;
      case Op::layer_norm:
        out = at::layer_norm(in(0), {in(0).size(-1)}, maybe_in(tensors_, step.weight, in(0).scalar_type()),
                             maybe_in(tensors_, step.bias, in(0).scalar_type()), step.eps);
        break;
      case Op::group_norm:
        out = at::group_norm(in(0), step.groups, maybe_in(tensors_, step.weight, in(0).scalar_type()),
                             maybe_in(tensors_, step.bias, in(0).scalar_type()), step.eps);
        break;
      case Op::relu:
        out = in_place ? at::relu_(in(0)) : at::relu(in(0));
        break;
      case Op::gelu:
        out = at::gelu(in(0));
        break;
      case Op::silu:
        out = at::silu(in(0));
        break;
      case Op::sigmoid:
        out = at::sigmoid(in(0));
        break;
      case Op::tanh:
        out = at::tanh(in(0));
        break;
      case Op::dropout:
        out = training_ && step.p > 0 ? run_dropout(step, in(0), dropout_) : in(0);
        break;
      case Op::max_pool2d:
        out = at::max_pool2d(in(0), step.window.kernel, step.window.stride, step.window.padding);
        break;
      case Op::avg_pool2d:
        out = at::avg_pool2d(in(0), step.window.kernel, step.window.stride, step.window.padding);
        break;
      case Op::global_avg_pool:
        out = at::adaptive_avg_pool2d(in(0), {1, 1});
        break;
      case Op::flatten:
        out = at::flatten(in(0), 1);
        break;
      case Op::add:
        out = in_place && in(0).scalar_type() == in(1).scalar_type() ? in(0).add_(in(1))
                                                                     : at::add(in(0), in(1));
        for (std::size_t k = 2; k < step.inputs.size(); ++k) out = at::add(out, in(k));
        break;
      case Op::mul:
        out = at::mul(in(0), in(1));
        break;
      case Op::concat: {
        std::vector<at::Tensor> parts;
        for (const int input : step.inputs) parts.push_back(values[static_cast<std::size_t>(input)]);
        out = at::cat(parts, 1);
        break;
      }
      case Op::log_softmax:
        out = at::log_softmax(in(0), 1);
        break;
      case Op::gather:
        out = at::index_select(in(0), 1, index_tensor(step, x.device()));
        break;
      case Op::scatter:
        out = run_scatter(step, in(0));
        break;
      case Op::identity:
      case Op::output:
        out = in(0);
        break;
    }
    if (outputs == nullptr)
      for (const int input : step.last_read) values[static_cast<std::size_t>(input)].reset();
  }
  auto result = values.back();
  if (outputs != nullptr) *outputs = std::move(values);
  return result;
}

NamedTensors Model::parameters() const {
  NamedTensors list;
  for (std::size_t i = 0; i < tensors_.size(); ++i)
    if (graph_.tensors[i].trainable) list.push_back(tensors_[i]);
  return list;
}

NamedTensors Model::buffers() const {
  NamedTensors list;
  for (std::size_t i = 0; i < tensors_.size(); ++i)
    if (!graph_.tensors[i].trainable) list.push_back(tensors_[i]);
  return list;
}

NamedTensors Model::state() const {
  return tensors_;
}

void Model::load(const NamedTensors& values, bool strict) {
  check_names(values, "Model::load");
  std::vector<std::string> names;
  std::unordered_map<std::string, std::size_t> index;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    names.push_back(tensors_[i].name);
    index.emplace(tensors_[i].name, i);
  }
  std::vector<const at::Tensor*> source(tensors_.size(), nullptr);
  for (const auto& value : values) {
    const auto found = index.find(value.name);
    if (found == index.end()) {
      require(!strict, "Model::load: the model has no tensor called '", value.name, "'",
              did_you_mean(value.name, names));
      continue;
    }
    const auto& target = tensors_[found->second].tensor;
    require(target.sizes() == value.tensor.sizes(), "Model::load: tensor '", value.name, "' has shape ",
            shape_string(value.tensor.sizes()), " but the model's has ", shape_string(target.sizes()));
    require(value.tensor.is_floating_point() == target.is_floating_point(), "Model::load: tensor '",
            value.name, "' has dtype ", at::toString(value.tensor.scalar_type()), " but the model's has ",
            at::toString(target.scalar_type()));
    source[found->second] = &value.tensor;
  }
  if (strict)
    for (std::size_t i = 0; i < tensors_.size(); ++i)
      require(source[i] != nullptr, "Model::load: tensor '", tensors_[i].name, "' ",
              shape_string(tensors_[i].tensor.sizes()), " is missing");
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < tensors_.size(); ++i)
    if (source[i] != nullptr) tensors_[i].tensor.copy_(*source[i]);
}

// `set_data` keeps the tensor object, as torch's own Module::to does.
template <class Convert>
void Model::convert(const Convert& convert) {
  const at::NoGradGuard no_grad;
  for (auto& entry : tensors_) {
    auto grad = entry.tensor.grad();
    entry.tensor.mutable_grad().reset();
    entry.tensor.set_data(convert(entry.tensor));
    if (grad.defined()) entry.tensor.mutable_grad() = convert(grad);
  }
}

void Model::to(const at::Device& device) {
  convert([&](const at::Tensor& tensor) { return tensor.to(device); });
}

void Model::to(at::MemoryFormat format) {
  require(format == at::MemoryFormat::Contiguous || format == at::MemoryFormat::ChannelsLast,
          "Model::to: the memory format must be contiguous or channels-last");
  convert([&](const at::Tensor& tensor) { return tensor.dim() == 4 ? tensor.contiguous(format) : tensor; });
}

void Model::to(at::ScalarType dtype) {
  require(at::isFloatingType(dtype), "Model::to: ", at::toString(dtype), " is not a floating-point dtype");
  convert([&](const at::Tensor& tensor) { return tensor.is_floating_point() ? tensor.to(dtype) : tensor; });
}

void Model::zero_grad() {
  for (auto& entry : tensors_) entry.tensor.mutable_grad().reset();
}

}  // namespace glyptic::nn
