// A network as data. Our own models, a traced Python module and an extracted network are all a `Graph`: nodes
// in topological order, each with an operation, the nodes it reads, and the names of the tensors it uses. One
// graph serves the forward pass, the count of parameters and MACs, channel dependencies, extraction, and a
// JSON file that rebuilds the network beside a safetensors file, without running code.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace glyptic::nn {

/// Operations. Attribute names and defaults are those of torch.nn.functional.
enum class Op {
  input,       ///< attrs: shape (without batch), e.g. {3, 32, 32}
  conv2d,      ///< params: weight, [bias]; attrs: stride, padding, dilation {h, w}, groups, padding_mode
  linear,      ///< params: weight, [bias]
  batch_norm,  ///< params: [weight], [bias]; buffers: running_mean, running_var, [num_batches_tracked]; eps,
               ///< momentum
  layer_norm,  ///< params: [weight], [bias]; attrs: eps; over the last dimension
  group_norm,  ///< params: [weight], [bias]; attrs: num_groups, eps
  relu,
  gelu,
  silu,
  sigmoid,
  tanh,
  dropout,          ///< attrs: p
  max_pool2d,       ///< attrs: kernel, stride, padding
  avg_pool2d,       ///< attrs: kernel, stride, padding
  global_avg_pool,  ///< [N, C, H, W] -> [N, C, 1, 1] (adaptive average pool to 1 x 1)
  flatten,          ///< from dimension 1
  add,              ///< two or more inputs of the same shape
  mul,              ///< two inputs, broadcast over trailing dimensions allowed
  concat,           ///< along dimension 1
  log_softmax,      ///< over dimension 1
  gather,   ///< channels `index` of its input, attrs: index (made by extraction with residual = index_add)
  scatter,  ///< inverse of gather into `channels` zeros, attrs: index, channels
  identity,
  output  ///< exactly one, the last node
};

const char* op_name(Op op);
/// DataError for an unknown name.
Op op_from_name(const std::string& name);

/// An attribute: integers (one or several), numbers, or a word.
struct Attribute {
  std::vector<int64_t> ints;
  std::vector<double> reals;
  std::string word;
};

struct Node {
  std::string name;  ///< unique; module path where there is one ("layer1.0.conv1")
  Op op = Op::identity;
  std::vector<int> inputs;                     ///< indices of earlier nodes
  std::map<std::string, std::string> tensors;  ///< role -> tensor name: {"weight", "layer1.0.conv1.weight"}
  std::map<std::string, Attribute> attributes;

  int64_t integer(const std::string& key, int64_t otherwise) const;
  double real(const std::string& key, double otherwise) const;
  std::vector<int64_t> integers(const std::string& key, std::vector<int64_t> otherwise) const;
  std::string word(const std::string& key, const std::string& otherwise) const;
  /// Name of the tensor in `role`, "" when the node has none.
  std::string tensor(const std::string& role) const;
};

/// What a tensor of the graph is: shape, whether it is trained, and how it is initialised.
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  bool trainable = true;          ///< false: a buffer
  std::string dtype = "float32";  ///< "int64" for num_batches_tracked
  /// zeros | ones | kaiming_normal_fan_in | kaiming_normal_fan_out | kaiming_uniform (torch's Linear/Conv
  /// default, a = sqrt 5) | fan_in_uniform (torch's default bias, bound 1/sqrt(fan_in)) | normal:<std> |
  /// constant:<value>
  std::string init = "zeros";
  int64_t fan_in = 0;  ///< used by fan_in_uniform, whose own shape does not tell
};

struct Graph {
  std::string model;  ///< registry name it was built from, "" otherwise
  std::vector<Node> nodes;
  std::vector<TensorSpec> tensors;  ///< in the order of a torch state_dict

  const TensorSpec* find_tensor(const std::string& name) const;
  TensorSpec* find_tensor(const std::string& name);
  int find_node(const std::string& name) const;  ///< -1 when there is none
  /// Nodes that read node `index`.
  std::vector<int> consumers(int index) const;

  /// One JSON object; `from_json(to_json())` is the identity. Bad JSON: DataError with what and where.
  std::string to_json() const;
  static Graph from_json(const std::string& text);
  /// ArgumentError that names node or tensor unless the graph is well formed: topological order, unique
  /// names, one input and one output, tensors present and of the shapes that the operations need.
  void validate() const;
};

/// Shape of every node's output, without the batch dimension. `input_shape` overrides the graph's own ({C, H,
/// W}).
std::vector<std::vector<int64_t>> node_shapes(const Graph& graph,
                                              const std::vector<int64_t>& input_shape = {});

/// Multiply-accumulates of one sample and parameters, per node that has weights and in total.
struct Cost {
  struct Row {
    std::string node;
    std::string weight;
    int64_t macs = 0;        ///< conv and linear only; normalisation and activations are not counted
    int64_t parameters = 0;  ///< weight + bias
  };
  std::vector<Row> rows;
  int64_t macs = 0;
  int64_t parameters = 0;  ///< all trainable tensors
};
Cost cost(const Graph& graph, const std::vector<int64_t>& input_shape = {});

}  // namespace glyptic::nn
