#include "glyptic/nn/graph.h"

#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>

#include "../core/json.h"
#include "glyptic/core/error.h"
#include "glyptic/core/named_tensor.h"
#include "init.h"
#include "shapes.h"

namespace glyptic::nn {
namespace {

constexpr std::pair<Op, const char*> kOps[] = {
    {Op::input, "input"},
    {Op::conv2d, "conv2d"},
    {Op::linear, "linear"},
    {Op::batch_norm, "batch_norm"},
    {Op::layer_norm, "layer_norm"},
    {Op::group_norm, "group_norm"},
    {Op::relu, "relu"},
    {Op::gelu, "gelu"},
    {Op::silu, "silu"},
    {Op::sigmoid, "sigmoid"},
    {Op::tanh, "tanh"},
    {Op::dropout, "dropout"},
    {Op::max_pool2d, "max_pool2d"},
    {Op::avg_pool2d, "avg_pool2d"},
    {Op::global_avg_pool, "global_avg_pool"},
    {Op::flatten, "flatten"},
    {Op::add, "add"},
    {Op::mul, "mul"},
    {Op::concat, "concat"},
    {Op::log_softmax, "log_softmax"},
    {Op::gather, "gather"},
    {Op::scatter, "scatter"},
    {Op::identity, "identity"},
    {Op::output, "output"},
};

using TensorIndex = std::unordered_map<std::string, const TensorSpec*>;

TensorIndex index_tensors(const Graph& graph) {
  TensorIndex index;
  for (const auto& spec : graph.tensors) index.emplace(spec.name, &spec);
  return index;
}

std::vector<Shape> infer_shapes(const Graph& graph, const TensorIndex& index, const Shape& input_shape) {
  const TensorLookup find = [&](const std::string& name) -> const TensorSpec* {
    const auto found = index.find(name);
    return found == index.end() ? nullptr : found->second;
  };
  std::vector<Shape> shapes;
  shapes.reserve(graph.nodes.size());
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    const auto& node = graph.nodes[i];
    std::vector<Shape> inputs;
    for (const int input : node.inputs) {
      require(0 <= input && static_cast<std::size_t>(input) < i, "node '", node.name, "' reads node number ",
              input, ", which does not come before it (it is number ", i, ")");
      inputs.push_back(shapes[static_cast<std::size_t>(input)]);
    }
    if (node.op == Op::input && !input_shape.empty()) {
      Node other = node;
      other.attributes["shape"].ints = input_shape;
      shapes.push_back(infer_shape(other, inputs, find));
    } else {
      shapes.push_back(infer_shape(node, inputs, find));
    }
  }
  return shapes;
}

}  // namespace

const char* op_name(Op op) {
  for (const auto& [candidate, name] : kOps)
    if (candidate == op) return name;
  return "unknown";
}

Op op_from_name(const std::string& name) {
  std::vector<std::string> names;
  for (const auto& [op, candidate] : kOps) {
    if (name == candidate) return op;
    names.emplace_back(candidate);
  }
  throw DataError(str("unknown operation '", name, "'", did_you_mean(name, names)));
}

int64_t Node::integer(const std::string& key, int64_t otherwise) const {
  const auto found = attributes.find(key);
  return found == attributes.end() || found->second.ints.empty() ? otherwise : found->second.ints.front();
}

double Node::real(const std::string& key, double otherwise) const {
  const auto found = attributes.find(key);
  if (found == attributes.end()) return otherwise;
  if (!found->second.reals.empty()) return found->second.reals.front();
  // A number written without a point ("momentum": 1) is still a number.
  return found->second.ints.empty() ? otherwise : static_cast<double>(found->second.ints.front());
}

std::vector<int64_t> Node::integers(const std::string& key, std::vector<int64_t> otherwise) const {
  const auto found = attributes.find(key);
  return found == attributes.end() || found->second.ints.empty() ? std::move(otherwise) : found->second.ints;
}

std::string Node::word(const std::string& key, const std::string& otherwise) const {
  const auto found = attributes.find(key);
  return found == attributes.end() || found->second.word.empty() ? otherwise : found->second.word;
}

std::string Node::tensor(const std::string& role) const {
  const auto found = tensors.find(role);
  return found == tensors.end() ? "" : found->second;
}

const TensorSpec* Graph::find_tensor(const std::string& name) const {
  for (const auto& spec : tensors)
    if (spec.name == name) return &spec;
  return nullptr;
}

TensorSpec* Graph::find_tensor(const std::string& name) {
  for (auto& spec : tensors)
    if (spec.name == name) return &spec;
  return nullptr;
}

int Graph::find_node(const std::string& name) const {
  for (std::size_t i = 0; i < nodes.size(); ++i)
    if (nodes[i].name == name) return static_cast<int>(i);
  return -1;
}

std::vector<int> Graph::consumers(int index) const {
  std::vector<int> readers;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const auto& inputs = nodes[i].inputs;
    if (std::find(inputs.begin(), inputs.end(), index) != inputs.end())
      readers.push_back(static_cast<int>(i));
  }
  return readers;
}

void Graph::validate() const {
  std::set<std::string> names;
  for (const auto& spec : tensors) {
    require(!spec.name.empty(), "a tensor of the graph has no name");
    require(names.insert(spec.name).second, "two tensors are called '", spec.name, "'");
    const auto what = str("tensor '", spec.name, "'");
    for (const auto size : spec.shape)
      require(size >= 1, what, ": shape ", shape_text(spec.shape), " is not positive");
    checked_numel(spec.shape, what);
    require(spec.dtype == "float32" || spec.dtype == "int64", what, ": dtype '", spec.dtype,
            "' is not float32 or int64");
    require(spec.dtype == "float32" || !spec.trainable, what, ": an int64 tensor cannot be trained");
    require(spec.fan_in >= 0, what, ": fan_in ", spec.fan_in, " is negative");
    check_init(spec);
  }

  names.clear();
  require(!nodes.empty(), "the graph has no nodes");
  const auto count = [&](Op op) {
    return std::count_if(nodes.begin(), nodes.end(), [op](const Node& node) { return node.op == op; });
  };
  require(count(Op::input) == 1, "the graph has ", count(Op::input), " input nodes, expected one");
  require(count(Op::output) == 1 && nodes.back().op == Op::output,
          "the graph's last node, and no other, must be its output; it is '", nodes.back().name, "' (",
          op_name(nodes.back().op), ") and there are ", count(Op::output));
  for (const auto& node : nodes) {
    require(!node.name.empty(), "a node (", op_name(node.op), ") has no name");
    require(names.insert(node.name).second, "two nodes are called '", node.name, "'");
    for (const auto& [key, value] : node.attributes) {
      const int kinds = !value.ints.empty() + !value.reals.empty() + !value.word.empty();
      require(kinds <= 1, "node '", node.name, "': attribute '", key, "' is of more than one kind");
      for (const auto real : value.reals)
        require(std::isfinite(real), "node '", node.name, "': attribute '", key, "' is not finite");
    }
  }
  const auto index = index_tensors(*this);
  for (const auto& node : nodes)
    for (const auto& [role, name] : node.tensors) {
      const auto found = index.find(name);
      require(found != index.end(), "node '", node.name, "': tensor '", name, "' (", role,
              ") is not in the graph");
      const bool counter = role == "num_batches_tracked";
      require((found->second->dtype == "int64") == counter, "node '", node.name, "': tensor '", name, "' (",
              role, ") has dtype ", found->second->dtype);
    }
  infer_shapes(*this, index, {});
}

std::vector<std::vector<int64_t>> node_shapes(const Graph& graph, const std::vector<int64_t>& input_shape) {
  return infer_shapes(graph, index_tensors(graph), input_shape);
}

Cost cost(const Graph& graph, const std::vector<int64_t>& input_shape) {
  const auto index = index_tensors(graph);
  const auto shapes = infer_shapes(graph, index, input_shape);
  Cost total;
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    const auto& node = graph.nodes[i];
    const auto weight = node.tensor("weight");
    if (weight.empty()) continue;
    Cost::Row row{node.name, weight, 0, 0};
    for (const auto* role : {"weight", "bias"})
      if (const auto name = node.tensor(role); !name.empty())
        row.parameters += checked_numel(index.at(name)->shape, name);
    if (node.op == Op::conv2d || node.op == Op::linear) {
      // Every output number is one dot product over the trailing dimensions of a filter.
      const auto& filter = index.at(weight)->shape;
      row.macs = checked_numel(shapes[i], node.name) * (checked_numel(filter, weight) / filter[0]);
    }
    total.macs += row.macs;
    total.rows.push_back(std::move(row));
  }
  for (const auto& spec : graph.tensors)
    if (spec.trainable) total.parameters += checked_numel(spec.shape, spec.name);
  return total;
}

// JSON
// ------------------------------------------------------------------------------------------------------------

namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr const char* kFormat = "glyptic graph";

ordered_json attribute_to_json(const Attribute& attribute) {
  if (!attribute.word.empty()) return attribute.word;
  // One number stands for itself; integers and reals stay apart because a real is always written with a point
  // or an exponent.
  if (!attribute.reals.empty())
    return attribute.reals.size() == 1 ? ordered_json(attribute.reals[0]) : ordered_json(attribute.reals);
  return attribute.ints.size() == 1 ? ordered_json(attribute.ints[0]) : ordered_json(attribute.ints);
}

// Reads fields of one JSON object and says where in the document an error is.
class Reader {
 public:
  Reader(const json& value, std::string where) : value_(value), where_(std::move(where)) {
    require<DataError>(value.is_object(), where_, " is ", value.type_name(), ", expected an object");
  }
  void only(const std::vector<std::string>& known) const {
    for (const auto& item : value_.items())
      require<DataError>(std::find(known.begin(), known.end(), item.key()) != known.end(), where_,
                         ": unknown key '", item.key(), "'", did_you_mean(item.key(), known));
  }
  bool has(const char* key) const { return value_.contains(key); }
  const json& at(const char* key) const {
    require<DataError>(value_.contains(key), where_, " has no '", key, "'");
    return value_.at(key);
  }
  std::string path(const char* key) const { return where_ + "." + key; }
  std::string text(const char* key) const {
    require<DataError>(at(key).is_string(), path(key), " is ", at(key).type_name(), ", expected a string");
    return at(key).get<std::string>();
  }
  int64_t integer(const char* key) const { return to_integer(at(key), path(key)); }
  bool boolean(const char* key) const {
    require<DataError>(at(key).is_boolean(), path(key), " is ", at(key).type_name(),
                       ", expected true or false");
    return at(key).get<bool>();
  }
  const json& array(const char* key) const {
    require<DataError>(at(key).is_array(), path(key), " is ", at(key).type_name(), ", expected a list");
    return at(key);
  }
  /// An empty object when the key is absent.
  const json& object(const char* key) const {
    static const json kEmpty = json::object();
    if (!has(key)) return kEmpty;
    require<DataError>(at(key).is_object(), path(key), " is ", at(key).type_name(), ", expected an object");
    return at(key);
  }
  std::vector<int64_t> integers(const char* key) const {
    std::vector<int64_t> values;
    for (const auto& item : array(key)) values.push_back(to_integer(item, path(key)));
    return values;
  }
  static int64_t to_integer(const json& value, const std::string& where) {
    require<DataError>(value.is_number_integer(), where, " is ", value.dump(), ", expected an integer");
    if (value.is_number_unsigned())
      require<DataError>(value.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX), where, " is ",
                         value.dump(), ", which does not fit in 64 bits");
    return value.get<int64_t>();
  }

 private:
  const json& value_;
  std::string where_;
};

Attribute attribute_from_json(const json& value, const std::string& where) {
  Attribute attribute;
  if (value.is_string()) {
    attribute.word = value.get<std::string>();
    return attribute;
  }
  const auto read = [&](const json& item) {
    if (item.is_number_float())
      attribute.reals.push_back(item.get<double>());
    else
      attribute.ints.push_back(Reader::to_integer(item, where));
  };
  if (!value.is_array()) {
    read(value);
    return attribute;
  }
  for (const auto& item : value) read(item);
  // A list that mixes 1 and 0.5 is a list of reals.
  if (!attribute.reals.empty() && !attribute.ints.empty()) {
    attribute.ints.clear();
    attribute.reals.clear();
    for (const auto& item : value) attribute.reals.push_back(item.get<double>());
  }
  return attribute;
}

Node node_from_json(const json& value, const std::string& where) {
  const Reader reader(value, where);
  reader.only({"name", "op", "inputs", "tensors", "attributes"});
  Node node;
  node.name = reader.text("name");
  try {
    node.op = op_from_name(reader.text("op"));
  } catch (const DataError& error) {
    throw DataError(str(where, " ('", node.name, "'): ", error.what()));
  }
  for (const auto input : reader.integers("inputs")) {
    require<DataError>(0 <= input && input < INT32_MAX, where, ".inputs: ", input,
                       " is not the number of a node");
    node.inputs.push_back(static_cast<int>(input));
  }
  for (const auto& item : reader.object("tensors").items()) {
    require<DataError>(item.value().is_string(), where, ".tensors.", item.key(), " is not a string");
    node.tensors[item.key()] = item.value().get<std::string>();
  }
  for (const auto& item : reader.object("attributes").items())
    node.attributes[item.key()] = attribute_from_json(item.value(), str(where, ".attributes.", item.key()));
  return node;
}

TensorSpec tensor_from_json(const json& value, const std::string& where) {
  const Reader reader(value, where);
  reader.only({"name", "shape", "trainable", "dtype", "init", "fan_in"});
  TensorSpec spec;
  spec.name = reader.text("name");
  spec.shape = reader.integers("shape");
  if (reader.has("trainable")) spec.trainable = reader.boolean("trainable");
  if (reader.has("dtype")) spec.dtype = reader.text("dtype");
  if (reader.has("init")) spec.init = reader.text("init");
  if (reader.has("fan_in")) spec.fan_in = reader.integer("fan_in");
  return spec;
}

json parse(const std::string& text) {
  try {
    return files::parse_json<json>(text, "graph JSON");
  } catch (const json::parse_error& error) {
    const auto end = text.begin() + static_cast<std::ptrdiff_t>(std::min(error.byte, text.size()));
    const auto line = 1 + std::count(text.begin(), end, '\n');
    throw DataError(str("graph JSON, line ", line, " (byte ", error.byte, "): it does not parse; ",
                        std::string(error.what())));
  }
}

}  // namespace

std::string Graph::to_json() const {
  ordered_json document;
  document["format"] = kFormat;
  document["version"] = 1;
  document["model"] = model;
  auto& node_list = document["nodes"] = ordered_json::array();
  for (const auto& node : nodes) {
    ordered_json entry;
    entry["name"] = node.name;
    entry["op"] = op_name(node.op);
    entry["inputs"] = node.inputs;
    if (!node.tensors.empty()) entry["tensors"] = node.tensors;
    for (const auto& [key, value] : node.attributes) entry["attributes"][key] = attribute_to_json(value);
    node_list.push_back(std::move(entry));
  }
  auto& tensor_list = document["tensors"] = ordered_json::array();
  for (const auto& spec : tensors) {
    ordered_json entry;
    entry["name"] = spec.name;
    entry["shape"] = spec.shape;
    entry["trainable"] = spec.trainable;
    if (spec.dtype != "float32") entry["dtype"] = spec.dtype;
    entry["init"] = spec.init;
    if (spec.fan_in != 0) entry["fan_in"] = spec.fan_in;
    tensor_list.push_back(std::move(entry));
  }
  // One node or tensor a line: the file is read by people and compared by diff.
  std::ostringstream out;
  out << "{\"format\": " << document["format"].dump()
      << ", \"version\": 1, \"model\": " << document["model"].dump();
  for (const auto* key : {"nodes", "tensors"}) {
    out << ",\n \"" << key << "\": [";
    const char* separator = "\n  ";
    for (const auto& entry : document[key]) {
      out << separator << entry.dump();
      separator = ",\n  ";
    }
    out << "]";
  }
  out << "}\n";
  return out.str();
}

Graph Graph::from_json(const std::string& text) {
  const auto document = parse(text);
  const Reader reader(document, "graph JSON");
  reader.only({"format", "version", "model", "nodes", "tensors"});
  require<DataError>(reader.text("format") == kFormat, "graph JSON: format is '", reader.text("format"),
                     "', expected '", kFormat, "'");
  require<DataError>(reader.integer("version") == 1, "graph JSON: version ", reader.integer("version"),
                     " is newer than this library, which reads version 1");
  Graph graph;
  graph.model = reader.text("model");
  for (const auto& entry : reader.array("nodes"))
    graph.nodes.push_back(node_from_json(entry, str("graph JSON: nodes[", graph.nodes.size(), "]")));
  for (const auto& entry : reader.array("tensors"))
    graph.tensors.push_back(tensor_from_json(entry, str("graph JSON: tensors[", graph.tensors.size(), "]")));
  try {
    graph.validate();
  } catch (const ArgumentError& error) {
    throw DataError(str("graph JSON: ", error.what()));
  }
  return graph;
}

}  // namespace glyptic::nn
