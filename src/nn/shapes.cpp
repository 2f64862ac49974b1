#include "shapes.h"

#include <set>

#include "glyptic/core/error.h"

namespace glyptic::nn {
namespace {

// Far above any real network, and small enough that no sum or product of two of them overflows.
constexpr int64_t kLargestDimension = int64_t{1} << 28;
constexpr int64_t kLargestNumel = int64_t{1} << 48;

std::string called(const Node& node) {
  return str("node '", node.name, "' (", op_name(node.op), ")");
}

void require_rank(const Node& node, const Shape& shape, std::size_t rank, const char* layout) {
  require(shape.size() == rank, called(node), ": its input has shape ", shape_text(shape), ", expected ",
          layout);
}

void require_tensor(const Node& node, const TensorLookup& find, const std::string& role,
                    const Shape& expected, bool optional) {
  const auto name = node.tensor(role);
  if (name.empty()) {
    require(optional, called(node), ": it has no tensor in the role '", role, "'");
    return;
  }
  const auto* spec = find(name);
  require(spec != nullptr, called(node), ": tensor '", name, "' (", role, ") is not in the graph");
  require(spec->shape == expected, called(node), ": tensor '", name, "' (", role, ") has shape ",
          shape_text(spec->shape), ", expected ", shape_text(expected));
}

const TensorSpec& weight_of(const Node& node, const TensorLookup& find, std::size_t rank,
                            const char* layout) {
  const auto name = node.tensor("weight");
  require(!name.empty(), called(node), ": it has no tensor in the role 'weight'");
  const auto* spec = find(name);
  require(spec != nullptr, called(node), ": tensor '", name, "' (weight) is not in the graph");
  require(spec->shape.size() == rank, called(node), ": tensor '", name, "' has shape ",
          shape_text(spec->shape), ", expected ", layout);
  return *spec;
}

int64_t slide(const Node& node, int64_t size, const Window& window, int axis) {
  const auto reach = window.dilation[axis] * (window.kernel[axis] - 1) + 1;
  const auto padded = size + 2 * window.padding[axis];
  require(padded >= reach, called(node), ": its window spans ", reach, " but the padded input has only ",
          padded, axis == 0 ? " rows" : " columns", "; use a larger input or a smaller kernel");
  return (padded - reach) / window.stride[axis] + 1;
}

void check_window(const Node& node, const Window& window) {
  for (const int axis : {0, 1}) {
    const auto in_range = [&](int64_t value, int64_t low) {
      return low <= value && value <= kLargestDimension;
    };
    require(in_range(window.kernel[axis], 1), called(node), ": kernel ", window.kernel[axis],
            " is not positive");
    require(in_range(window.stride[axis], 1), called(node), ": stride ", window.stride[axis],
            " is not positive");
    require(in_range(window.padding[axis], 0), called(node), ": padding ", window.padding[axis],
            " is negative");
    require(in_range(window.dilation[axis], 1), called(node), ": dilation ", window.dilation[axis],
            " is not positive");
  }
}

Shape conv_shape(const Node& node, const Shape& in, const TensorLookup& find) {
  require_rank(node, in, 3, "[C, H, W]");
  const auto& weight = weight_of(node, find, 4, "[out, in / groups, kh, kw]");
  const auto window = read_conv_window(node, weight.shape);
  check_window(node, window);
  const auto groups = node.integer("groups", 1);
  const auto out = weight.shape[0];
  require(groups >= 1 && in[0] % groups == 0 && out % groups == 0, called(node), ": groups = ", groups,
          " does not divide ", in[0], " input and ", out, " output channels");
  require(weight.shape[1] == in[0] / groups, called(node), ": tensor '", weight.name, "' has shape ",
          shape_text(weight.shape), ", which reads ", weight.shape[1] * groups,
          " channels, but the input has ", in[0]);
  const auto mode = node.word("padding_mode", "zeros");
  require(mode == "zeros" || mode == "reflect" || mode == "replicate" || mode == "circular", called(node),
          ": padding_mode '", mode, "' is not zeros, reflect, replicate or circular");
  for (const int axis : {0, 1}) {
    const auto size = in[static_cast<std::size_t>(axis) + 1];
    if (mode == "reflect")
      require(window.padding[axis] < size, called(node), ": reflect padding ", window.padding[axis],
              " needs more than ", size, " rows and columns");
    if (mode == "circular")
      require(window.padding[axis] <= size, called(node), ": circular padding ", window.padding[axis],
              " exceeds the input's ", size);
  }
  require_tensor(node, find, "bias", {out}, true);
  return {out, slide(node, in[1], window, 0), slide(node, in[2], window, 1)};
}

Shape linear_shape(const Node& node, const Shape& in, const TensorLookup& find) {
  const auto& weight = weight_of(node, find, 2, "[out, in]");
  require(!in.empty(), called(node), ": its input has no dimension besides the batch");
  require(weight.shape[1] == in.back(), called(node), ": tensor '", weight.name, "' has shape ",
          shape_text(weight.shape), ", which reads ", weight.shape[1], " features, but the input ",
          shape_text(in), " ends in ", in.back());
  require_tensor(node, find, "bias", {weight.shape[0]}, true);
  Shape out = in;
  out.back() = weight.shape[0];
  return out;
}

Shape norm_shape(const Node& node, const Shape& in, const TensorLookup& find) {
  require(!in.empty(), called(node), ": its input has no dimension besides the batch");
  require(node.real("eps", 1e-5) >= 0, called(node), ": eps is negative");
  const auto size = node.op == Op::layer_norm ? in.back() : in.front();
  require_tensor(node, find, "weight", {size}, true);
  require_tensor(node, find, "bias", {size}, true);
  if (node.op == Op::batch_norm) {
    require_tensor(node, find, "running_mean", {size}, false);
    require_tensor(node, find, "running_var", {size}, false);
    require_tensor(node, find, "num_batches_tracked", {}, true);
    const auto momentum = node.real("momentum", 0.1);
    require(momentum >= 0 && momentum <= 1, called(node), ": momentum ", momentum, " is not in [0, 1]");
  }
  if (node.op == Op::group_norm) {
    const auto groups = node.integer("num_groups", 1);
    require(groups >= 1 && size % groups == 0, called(node), ": num_groups = ", groups, " does not divide ",
            size, " channels");
  }
  return in;
}

Shape pool_shape(const Node& node, const Shape& in) {
  require_rank(node, in, 3, "[C, H, W]");
  require(!node.integers("kernel", {}).empty(), called(node), ": it has no attribute 'kernel'");
  const auto window = read_pool_window(node);
  check_window(node, window);
  for (const int axis : {0, 1})
    require(2 * window.padding[axis] <= window.kernel[axis], called(node), ": padding ", window.padding[axis],
            " is more than half the kernel ", window.kernel[axis]);
  return {in[0], slide(node, in[1], window, 0), slide(node, in[2], window, 1)};
}

Shape mul_shape(const Node& node, const std::vector<Shape>& in) {
  require(in[0].size() == in[1].size(), called(node), ": its inputs have shapes ", shape_text(in[0]), " and ",
          shape_text(in[1]), ", expected as many dimensions in both");
  Shape out = in[0];
  for (std::size_t i = 0; i < out.size(); ++i) {
    require(in[0][i] == in[1][i] || in[0][i] == 1 || in[1][i] == 1, called(node), ": its inputs have shapes ",
            shape_text(in[0]), " and ", shape_text(in[1]), ", which do not broadcast");
    out[i] = std::max(in[0][i], in[1][i]);
  }
  return out;
}

Shape concat_shape(const Node& node, const std::vector<Shape>& in) {
  require(!in[0].empty(), called(node), ": its inputs have no channel dimension");
  Shape out = in[0];
  for (std::size_t i = 1; i < in.size(); ++i) {
    require(in[i].size() == out.size() && std::equal(in[i].begin() + 1, in[i].end(), out.begin() + 1),
            called(node), ": its inputs have shapes ", shape_text(in[0]), " and ", shape_text(in[i]),
            ", which differ beside the channels");
    out[0] += in[i][0];
  }
  return out;
}

// Channel lists of gather and scatter: distinct, in range.
void check_index(const Node& node, const std::vector<int64_t>& index, int64_t channels) {
  require(!index.empty(), called(node), ": its attribute 'index' is empty");
  std::set<int64_t> seen;
  for (const auto i : index)
    require(0 <= i && i < channels && seen.insert(i).second, called(node), ": index ", i,
            " is repeated or not one of ", channels, " channels");
}

Shape scatter_shape(const Node& node, const Shape& in) {
  require(!in.empty(), called(node), ": its input has no channel dimension");
  const auto channels = node.integer("channels", 0);
  const auto index = node.integers("index", {});
  require(channels >= 1 && channels <= kLargestDimension, called(node), ": channels = ", channels,
          " is not positive");
  check_index(node, index, channels);
  require(static_cast<int64_t>(index.size()) == in[0], called(node), ": index has ", index.size(),
          " entries but the input ", in[0], " channels");
  const auto base = node.attributes.find("base");
  require(base == node.attributes.end() || static_cast<int64_t>(base->second.reals.size()) == channels,
          called(node), ": 'base' must hold one number for each of ", channels, " channels");
  Shape out = in;
  out[0] = channels;
  return out;
}

}  // namespace

std::string shape_text(const Shape& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

int64_t checked_numel(const Shape& shape, const std::string& what) {
  int64_t numel = 1;
  for (const auto size : shape) {
    require(0 <= size && size <= kLargestDimension, what, ": ", size, " is not a possible dimension");
    require(size == 0 || numel <= kLargestNumel / size, what, ": shape ", shape_text(shape), " is too large");
    numel *= size;
  }
  return numel;
}

void read_pair(const Node& node, const std::string& key, int64_t otherwise, int64_t out[2]) {
  const auto values = node.integers(key, {otherwise});
  require(values.size() == 1 || values.size() == 2, called(node), ": attribute '", key, "' has ",
          values.size(), " numbers, expected one or two (h, w)");
  out[0] = values.front();
  out[1] = values.back();
}

Window read_pool_window(const Node& node) {
  Window window;
  read_pair(node, "kernel", 1, window.kernel);
  read_pair(node, "stride", 0, window.stride);
  if (node.integers("stride", {}).empty()) std::copy(window.kernel, window.kernel + 2, window.stride);
  read_pair(node, "padding", 0, window.padding);
  return window;
}

Window read_conv_window(const Node& node, const Shape& weight) {
  Window window;
  window.kernel[0] = weight[2];
  window.kernel[1] = weight[3];
  read_pair(node, "stride", 1, window.stride);
  read_pair(node, "padding", 0, window.padding);
  read_pair(node, "dilation", 1, window.dilation);
  return window;
}

Shape infer_shape(const Node& node, const std::vector<Shape>& in, const TensorLookup& find) {
  const auto arity = in.size();
  switch (node.op) {
    case Op::input:
      require(arity == 0, called(node), ": the input node reads other nodes");
      break;
    case Op::add:
    case Op::concat:
      require(arity >= 2, called(node), ": it reads ", arity, " nodes, expected two or more");
      break;
    case Op::mul:
      require(arity == 2, called(node), ": it reads ", arity, " nodes, expected two");
      break;
    default:
      require(arity == 1, called(node), ": it reads ", arity, " nodes, expected one");
  }

  switch (node.op) {
    case Op::input: {
      auto shape = node.integers("shape", {});
      require(!shape.empty(), called(node), ": its attribute 'shape' is empty");
      for (const auto size : shape)
        require(size >= 1, called(node), ": shape ", shape_text(shape), " is not positive");
      checked_numel(shape, called(node));
      return shape;
    }
    case Op::conv2d:
      return conv_shape(node, in[0], find);
    case Op::linear:
      return linear_shape(node, in[0], find);
    case Op::batch_norm:
    case Op::layer_norm:
    case Op::group_norm:
      return norm_shape(node, in[0], find);
    case Op::max_pool2d:
    case Op::avg_pool2d:
      return pool_shape(node, in[0]);
    case Op::global_avg_pool:
      require_rank(node, in[0], 3, "[C, H, W]");
      return {in[0][0], 1, 1};
    case Op::flatten:
      return {checked_numel(in[0], called(node))};
    case Op::add:
      for (const auto& shape : in)
        require(shape == in[0], called(node), ": its inputs have shapes ", shape_text(in[0]), " and ",
                shape_text(shape), ", expected the same");
      return in[0];
    case Op::mul:
      return mul_shape(node, in);
    case Op::concat:
      return concat_shape(node, in);
    case Op::gather: {
      require(!in[0].empty(), called(node), ": its input has no channel dimension");
      const auto index = node.integers("index", {});
      check_index(node, index, in[0][0]);
      Shape out = in[0];
      out[0] = static_cast<int64_t>(index.size());
      return out;
    }
    case Op::scatter:
      return scatter_shape(node, in[0]);
    case Op::dropout: {
      const auto p = node.real("p", 0.5);
      require(0 <= p && p < 1, called(node), ": p = ", p, " is not in [0, 1)");
      return in[0];
    }
    case Op::log_softmax:
    case Op::relu:
    case Op::gelu:
    case Op::silu:
    case Op::sigmoid:
    case Op::tanh:
    case Op::identity:
    case Op::output:
      return in[0];
  }
  throw ArgumentError(str(called(node), ": unknown operation"));
}

}  // namespace glyptic::nn
