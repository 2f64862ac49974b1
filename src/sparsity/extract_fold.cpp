#include <torch/torch.h>

#include <map>
#include <set>

#include "glyptic/core/error.h"
#include "glyptic/nn/model.h"
#include "glyptic/sparsity/extract.h"

namespace glyptic::sparsity {

Folded fold_batchnorm(const nn::Graph& graph, const NamedTensors& tensors) {
  using nn::Op;
  const at::NoGradGuard no_grad;
  graph.validate();
  std::map<std::string, int> users;
  for (const auto& node : graph.nodes)
    for (const auto& [role, tensor] : node.tensors) ++users[tensor];
  const auto owns_its_tensors = [&](const nn::Node& node) {
    return std::all_of(node.tensors.begin(), node.tensors.end(),
                       [&](const auto& entry) { return users.at(entry.second) == 1; });
  };
  const auto shapes = nn::node_shapes(graph);

  Folded result;
  result.graph.model = graph.model;
  std::map<std::string, at::Tensor> values;
  for (const auto& spec : graph.tensors) values[spec.name] = get(tensors, spec.name).detach().clone();
  std::map<std::string, nn::TensorSpec> new_biases;  // by the weight they follow
  std::set<std::string> gone;
  std::vector<int> moved(graph.nodes.size());  // where each node's output is now
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    auto node = graph.nodes[i];
    const auto source = node.inputs.empty() ? std::size_t{0} : static_cast<std::size_t>(node.inputs[0]);
    const auto& before = graph.nodes[source];
    const bool filters = before.op == Op::conv2d || (before.op == Op::linear && shapes[source].size() == 1);
    if (node.op != Op::batch_norm || !filters || graph.consumers(static_cast<int>(source)).size() != 1 ||
        !owns_its_tensors(node) || !owns_its_tensors(before)) {
      for (auto& input : node.inputs) input = moved[static_cast<std::size_t>(input)];
      result.graph.nodes.push_back(std::move(node));
      moved[i] = static_cast<int>(result.graph.nodes.size()) - 1;
      continue;
    }
    moved[i] = moved[source];
    auto& filter = result.graph.nodes[static_cast<std::size_t>(moved[source])];
    auto& weight = values.at(filter.tensor("weight"));
    // In float64, so that each folded number is rounded once.
    const auto wide = weight.options().dtype(at::kDouble);
    const auto value = [&](const nn::Node& owner, const char* role, double otherwise) {
      const auto name = owner.tensor(role);
      return name.empty() ? at::full({shapes[i][0]}, otherwise, wide) : values.at(name).to(at::kDouble);
    };
    const auto scale =
        value(node, "weight", 1) / (value(node, "running_var", 1) + node.real("eps", 1e-5)).sqrt();
    const auto shift =
        value(node, "bias", 0) + (value(filter, "bias", 0) - value(node, "running_mean", 0)) * scale;

    auto bias = filter.tensor("bias");
    if (bias.empty()) {
      bias = filter.name + ".bias";
      while (values.count(bias) == 1) bias += "_";
      filter.tensors["bias"] = bias;
      new_biases[filter.tensor("weight")] = {bias, {shapes[i][0]}, true, "float32", "zeros", 0};
    }
    auto per_row = std::vector<int64_t>(static_cast<std::size_t>(weight.dim()), 1);
    per_row[0] = -1;
    weight = (weight.to(at::kDouble) * scale.view(per_row)).to(weight.scalar_type());
    values[bias] = shift.to(weight.scalar_type());
    for (const auto& [role, tensor] : node.tensors) gone.insert(tensor);
  }
  for (const auto& spec : graph.tensors) {
    if (gone.count(spec.name) == 1) continue;
    result.graph.tensors.push_back(spec);
    if (const auto found = new_biases.find(spec.name); found != new_biases.end())
      result.graph.tensors.push_back(found->second);
  }
  result.graph.validate();
  for (const auto& spec : result.graph.tensors) result.tensors.push_back({spec.name, values.at(spec.name)});
  return result;
}

}  // namespace glyptic::sparsity
