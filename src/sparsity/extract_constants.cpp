#include "extract_constants.h"

#include <torch/torch.h>

#include "glyptic/core/error.h"

namespace glyptic::sparsity {
namespace {

using nn::Node;
using nn::Op;

std::vector<double> doubles(const at::Tensor& tensor) {
  const auto values = tensor.detach().to(at::kCPU, at::kDouble).contiguous();
  return {values.data_ptr<double>(), values.data_ptr<double>() + values.numel()};
}

double activate(Op op, double x) {
  switch (op) {
    case Op::relu:
      return std::max(x, 0.0);
    case Op::gelu:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Op::silu:
      return x / (1 + std::exp(-x));
    case Op::sigmoid:
      return 1 / (1 + std::exp(-x));
    case Op::tanh:
      return std::tanh(x);
    default:
      return x;
  }
}

class Interpreter {
 public:
  Interpreter(const nn::Graph& graph, const NamedTensors& tensors)
      : graph_(graph), shapes_(nn::node_shapes(graph)) {
    for (const auto& entry : tensors) tensors_.emplace(entry.name, &entry.tensor);
  }

  std::vector<ChannelConstants> run() {
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) results_.push_back(visit(i));
    return std::move(results_);
  }

 private:
  const ChannelConstants& in(const Node& node, std::size_t k = 0) const {
    return results_[static_cast<std::size_t>(node.inputs[k])];
  }

  // Values of the tensor in `role`, or `otherwise` n times.
  std::vector<double> values(const Node& node, const char* role, std::size_t n, double otherwise) const {
    const auto name = node.tensor(role);
    return name.empty() ? std::vector<double>(n, otherwise) : doubles(*tensors_.at(name));
  }

  ChannelConstants filter(const Node& node, std::size_t index) const {
    const auto& input = in(node);
    const auto outputs = static_cast<std::size_t>(shapes_[index][0]);
    const auto groups = static_cast<std::size_t>(node.integer("groups", 1));
    if (node.op == Op::linear && shapes_[index].size() > 1) return ChannelConstants(outputs);
    const auto& weight = *tensors_.at(node.tensor("weight"));
    const auto used = nonzero_kernels(weight);
    const auto sums =
        doubles(weight.detach().to(at::kDouble).reshape({weight.size(0), weight.size(1), -1}).sum(2));
    const auto bias = values(node, "bias", outputs, 0);
    const bool evenly = reads_constants_evenly(node);
    const auto fan = static_cast<std::size_t>(weight.size(1));
    ChannelConstants result(outputs);
    for (std::size_t o = 0; o < outputs; ++o) {
      const auto first = o / (outputs / groups) * fan;  // the filter's first input channel
      double value = bias[o];
      bool constant = true;
      for (std::size_t i = 0; i < fan && constant; ++i) {
        if (!used[o * fan + i]) continue;
        const auto& q = input[first + i];
        constant = q && (*q == 0 || evenly);
        if (constant) value += *q * sums[o * fan + i];
      }
      if (constant) result[o] = value;
    }
    return result;
  }

  ChannelConstants batch_norm(const Node& node) const {
    auto result = in(node);
    const auto n = result.size();
    const auto gamma = values(node, "weight", n, 1), beta = values(node, "bias", n, 0);
    const auto mean = values(node, "running_mean", n, 0), variance = values(node, "running_var", n, 1);
    for (std::size_t j = 0; j < n; ++j)
      if (result[j])
        result[j] =
            gamma[j] * (*result[j] - mean[j]) / std::sqrt(variance[j] + node.real("eps", 1e-5)) + beta[j];
    return result;
  }

  // One channel a group: a constant is its own mean, so that only the bias is left.
  ChannelConstants instance_norm(const Node& node) const {
    auto result = in(node);
    if (node.integer("num_groups", 1) != static_cast<int64_t>(result.size()))
      return ChannelConstants(result.size());
    const auto beta = values(node, "bias", result.size(), 0);
    for (std::size_t j = 0; j < result.size(); ++j)
      if (result[j]) result[j] = beta[j];
    return result;
  }

  ChannelConstants average_pool(const Node& node) const {
    auto result = in(node);
    const auto padding = node.integers("padding", {0});
    if (std::all_of(padding.begin(), padding.end(), [](int64_t p) { return p == 0; })) return result;
    for (auto& q : result)
      if (q && *q != 0) q.reset();  // windows at the border average zeros in
    return result;
  }

  ChannelConstants flatten(const Node& node, std::size_t index) const {
    const auto& input = in(node);
    const auto repeat = static_cast<std::size_t>(shapes_[index][0]) / input.size();
    ChannelConstants result;
    for (const auto& q : input) result.insert(result.end(), repeat, q);
    return result;
  }

  ChannelConstants add(const Node& node) const {
    auto result = in(node);
    for (std::size_t k = 1; k < node.inputs.size(); ++k)
      for (std::size_t j = 0; j < result.size(); ++j) {
        const auto& q = in(node, k)[j];
        result[j] = result[j] && q ? std::optional<double>(*result[j] + *q) : std::nullopt;
      }
    return result;
  }

  ChannelConstants mul(const Node& node, std::size_t index) const {
    const auto &a = in(node, 0), &b = in(node, 1);
    ChannelConstants result(static_cast<std::size_t>(shapes_[index][0]));
    for (std::size_t j = 0; j < result.size(); ++j) {
      const auto &x = a[a.size() == 1 ? 0 : j], &y = b[b.size() == 1 ? 0 : j];
      if (x && y) result[j] = *x * *y;
      if ((x && *x == 0) || (y && *y == 0)) result[j] = 0;  // a closed gate
    }
    return result;
  }

  ChannelConstants visit(std::size_t index) const {
    const auto& node = graph_.nodes[index];
    const auto channels = static_cast<std::size_t>(shapes_[index][0]);
    switch (node.op) {
      case Op::conv2d:
      case Op::linear:
        return filter(node, index);
      case Op::batch_norm:
        return batch_norm(node);
      case Op::group_norm:
        return instance_norm(node);
      case Op::relu:
      case Op::gelu:
      case Op::silu:
      case Op::sigmoid:
      case Op::tanh: {
        auto result = in(node);
        for (auto& q : result)
          if (q) q = activate(node.op, *q);
        return result;
      }
      case Op::avg_pool2d:
        return average_pool(node);
      case Op::dropout:
      case Op::max_pool2d:
      case Op::global_avg_pool:
      case Op::identity:
      case Op::output:
        return in(node);
      case Op::flatten:
        return flatten(node, index);
      case Op::add:
        return add(node);
      case Op::mul:
        return mul(node, index);
      case Op::concat: {
        ChannelConstants result;
        for (std::size_t k = 0; k < node.inputs.size(); ++k)
          result.insert(result.end(), in(node, k).begin(), in(node, k).end());
        return result;
      }
      case Op::gather: {
        ChannelConstants result;
        for (const auto j : node.integers("index", {}))
          result.push_back(in(node)[static_cast<std::size_t>(j)]);
        return result;
      }
      case Op::scatter: {
        ChannelConstants result(channels, 0.0);
        if (const auto base = node.attributes.find("base"); base != node.attributes.end())
          std::copy(base->second.reals.begin(), base->second.reals.end(), result.begin());
        const auto positions = node.integers("index", {});
        for (std::size_t k = 0; k < positions.size(); ++k)
          result[static_cast<std::size_t>(positions[k])] = in(node)[k];
        return result;
      }
      case Op::input:
      case Op::layer_norm:
      case Op::log_softmax:
        return ChannelConstants(channels);
    }
    throw ArgumentError(str("node '", node.name, "': unknown operation"));
  }

  const nn::Graph& graph_;
  std::vector<std::vector<int64_t>> shapes_;
  std::unordered_map<std::string, const at::Tensor*> tensors_;
  std::vector<ChannelConstants> results_;
};

}  // namespace

std::vector<ChannelConstants> channel_constants(const nn::Graph& graph, const NamedTensors& tensors) {
  return Interpreter(graph, tensors).run();
}

bool reads_constants_evenly(const nn::Node& node) {
  if (node.op != Op::conv2d || node.word("padding_mode", "zeros") != "zeros") return true;
  const auto padding = node.integers("padding", {0});
  return std::all_of(padding.begin(), padding.end(), [](int64_t p) { return p == 0; });
}

std::vector<unsigned char> nonzero_kernels(const at::Tensor& weight) {
  const auto used = weight.detach().ne(0).reshape({weight.size(0) * weight.size(1), -1}).any(1).to(at::kCPU);
  const auto* data = used.data_ptr<bool>();
  return {data, data + used.numel()};
}

}  // namespace glyptic::sparsity
